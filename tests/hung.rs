//! A file system that hangs keeps the threads that start processes on it, and nothing else.
//!
//! The file system is FUSE without a daemon, in a mount namespace of the server's own: nobody answers
//! its requests until the device is closed, and then all of them fail.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::Command;

use circuit_client::{Client, Cmd, Code, Sink};
use rustix::fs::OFlags;
use tokio::task::block_in_place;

use crate::dns;
use crate::support::{Home, Server, eventually, skipped};

/// Mounts it at `hung`, and keeps its device open as descriptor 5.
const MOUNT: &str = "mkdir -p hung && exec 5<>/dev/fuse && \
    mount -i -t fuse hung hung -o fd=5,rootmode=40000,user_id=0,group_id=0";

/// How many processes a server starts at the same time: `SPAWNING` of `circuit/src/runtime.rs`.
const STARTS: usize = 128;

fn in_namespaces(script: &str) -> String {
    format!("exec unshare -rm sh -c '{script}' \"$0\" \"$@\"")
}

/// Whether this machine lets us mount such a file system.
fn mounts(home: &Home) -> bool {
    let mut shell = home.clean(Command::new("sh"));
    let output = shell.args(["-c", &in_namespaces(MOUNT)]).output();
    output.is_ok_and(|output| output.status.success())
}

/// The server `one`, which sees the file system; the device is held until somebody opens `release`.
fn start(home: &Home) -> Server {
    let inside = in_namespaces(&format!(
        "{MOUNT} || exit 1; \
         sh -c \"read line <release\" >/dev/null 2>&1 & \
         exec \"$0\" \"$@\" 5>&-"
    ));
    // Commands that dial the server run under the same script, outside of the namespaces.
    let script = format!("mkfifo release 2>/dev/null || exec \"$0\" \"$@\"; {inside}");
    home.circuit_under(&script, "start -name one").serve()
}

/// Closes the device, when it is dropped at the latest. A child that hangs holds the server's
/// descriptors, so a test that fails must not wait for its server before.
struct Release(PathBuf);

impl Release {
    fn release(&self) {
        let _ = File::options()
            .write(true)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open(&self.0);
    }
}

impl Drop for Release {
    fn drop(&mut self) {
        self.release();
    }
}

/// A command that has to wait for the file system: for its directory, its program or an output.
fn hanging(number: usize) -> Cmd {
    match number % 3 {
        0 => Cmd {
            dir: Some("hung".into()),
            ..Cmd::new("true")
        },
        1 => Cmd::new("hung/true"),
        _ => Cmd {
            stdout: Sink::File("hung/output".into()),
            ..Cmd::new("true")
        },
    }
}

/// Starts a process that has nothing to do with the file system, and waits for its end.
async fn start_another(client: &Client, number: usize) -> Result<(), circuit_client::Error> {
    let anchor = client.walk(&format!("/one/other/{number}"))?;
    let process = anchor.make_proc(Cmd::new("true")).await?;
    assert_eq!(process.wait().await?.code, Some(0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_system_that_hangs_keeps_the_starts_that_need_it_and_nothing_else() {
    let home = Home::new();
    if !mounts(&home) {
        return skipped("unshare, and FUSE in a user namespace");
    }
    let one = block_in_place(|| start(&home));
    let release = Release(home.file("release"));
    let answering = block_in_place(|| dns::make(&one, "/one/dns", ""));
    let client = one.client(&home).await;
    let mut hung = tokio::task::JoinSet::new();
    let mut hang = |count: usize| {
        while hung.len() < count {
            let number = hung.len();
            let anchor = client.walk(&format!("/one/hung/{number}")).unwrap();
            hung.spawn(async move { anchor.make_proc(hanging(number)).await });
        }
        let begun = || {
            one.executed()
                .iter()
                .filter(|name| *name == "mkproc")
                .count()
                == count
        };
        block_in_place(|| eventually("they hang", || begun().then_some(())));
    };

    // One thread is left: all others are started on it.
    hang(STARTS - 1);
    for number in 0..3 {
        start_another(&client, number).await.unwrap();
    }

    // None is left.
    hang(STARTS);
    let refused = start_another(&client, 3).await.unwrap_err();
    assert_eq!(refused.code(), Some(Code::Busy), "{refused}");
    let reason = "there are 128 processes being started, and none has come to its end in time";
    assert!(refused.to_string().contains(reason), "{refused}");
    block_in_place(|| {
        assert!(dns::answers(answering));
        let two = home
            .circuit(format!("start -name two -j {}", one.url()))
            .serve();
        Server::see_each_other(&[&one, &two]);
        two.circuit("wait /one/other/0").any_stdout().run();
    });

    // The device is closed, and each start fails with the file system's error.
    release.release();
    for made in hung.join_all().await {
        let error = made.unwrap_err();
        assert_eq!(error.code(), Some(Code::Exec), "{error}");
    }
    start_another(&client, 3).await.unwrap();
    assert!(block_in_place(|| one.ls("/one/hung/...")).is_empty());
}
