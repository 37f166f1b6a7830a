//! The README and the documents do what they say: their `sh` blocks are executed, in order.

use super::support::{Home, Server};
use std::path::Path;
use std::process::{Command, Stdio};

const README: &str = include_str!("../README.md");
const COMMANDS: &str = include_str!("../docs/commands.md");
const DNS: &str = include_str!("../docs/dns.md");
const OPERATING: &str = include_str!("../docs/operating.md");

/// The code blocks of a language, without their fences.
fn blocks(document: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}");
    let mut found = Vec::new();
    let mut block: Option<String> = None;
    for line in document.lines() {
        match &mut block {
            Some(text) if line == "```" => {
                found.push(std::mem::take(text));
                block = None;
            }
            Some(text) => {
                text.push_str(line);
                text.push('\n');
            }
            None if line == fence => block = Some(String::new()),
            None => (),
        }
    }
    found
}

/// Runs lines of a shell in a home, as the user of it would; gives what was printed.
fn shell(home: &Home, script: &str) -> String {
    let circuit = Path::new(env!("CARGO_BIN_EXE_circuit"));
    let path = std::env::var("PATH").unwrap_or_default();
    let own = circuit.parent().unwrap().display();
    // To files: servers that the script leaves in the background would hold pipes open.
    let (out, log) = (home.file("stdout"), home.file("stderr"));
    let file = |path| Stdio::from(std::fs::File::create(path).unwrap());
    let status = Command::new("timeout")
        .args(["60", "bash", "-euo", "pipefail", "-c", script])
        .env_clear()
        .env("PATH", format!("{own}:{path}"))
        .env("HOME", home.path())
        .env("XDG_RUNTIME_DIR", home.file("run"))
        .current_dir(home.path())
        .stdin(Stdio::null())
        .stdout(file(&out))
        .stderr(file(&log))
        .status()
        .unwrap();
    let read = |path| std::fs::read_to_string(path).unwrap();
    assert!(
        status.success(),
        "{status}: {script}\n--- stdout\n{}\n--- stderr\n{}",
        read(&out),
        read(&log)
    );
    read(&out)
}

/// The text with the same word for each id, port and process number, which differ from run to run.
fn settled(text: &str) -> Vec<String> {
    let word = |word: &str| match word {
        _ if word.starts_with("/X") && word.len() == 18 => "ID".to_owned(),
        _ if word.starts_with("127.0.0.1:") => "ADDRESS".to_owned(),
        _ if word.bytes().all(|b| b.is_ascii_digit()) => "NUMBER".to_owned(),
        _ => word.to_owned(),
    };
    let mut lines: Vec<String> = text
        .lines()
        .map(|line| {
            line.split_whitespace()
                .map(word)
                .collect::<Vec<_>>()
                .join(" ")
        })
        .collect();
    // Servers are listed by their ids.
    lines.sort();
    lines
}

#[test]
fn its_commands_work_in_the_order_in_which_they_stand() {
    let blocks = blocks(README, "sh");
    assert!(blocks.len() > 5, "{blocks:?}");
    let home = Home::new();
    let printed = shell(&home, &blocks.concat());
    assert!(printed.contains("apple\npear\n"), "{printed}");
    assert!(
        printed.contains("/one/idle\tsignal: terminated\n"),
        "{printed}"
    );
    assert!(printed.contains("Linux\n"), "{printed}");
}

#[test]
fn its_session_is_what_a_terminal_shows() {
    let home = Home::new();
    let servers = home.start_all(["web", "db", "build"]);
    let session = blocks(README, "console").concat();
    let mut steps: Vec<(&str, String)> = Vec::new();
    for line in session.lines() {
        match (line.strip_prefix("$ "), steps.last_mut()) {
            (Some(command), _) => steps.push((command, String::new())),
            (None, Some((_, shown))) => *shown += &format!("{line}\n"),
            (None, None) => panic!("output before a command: {line}"),
        }
    }
    assert!(steps.len() > 5, "{steps:?}");
    for (command, shown) in steps {
        let printed = shell(&home, command);
        assert_eq!(settled(&printed), settled(&shown), "{command}");
    }
    Server::see_each_other(&servers.iter().collect::<Vec<_>>());
}

/// The README's program.
#[allow(clippy::print_stdout)]
async fn program(url: circuit_client::Address) -> Result<(), Box<dyn std::error::Error>> {
    let client = circuit_client::Client::dial(&url, None).await?;
    for server in client.servers().await? {
        let hostname = circuit_client::Cmd::new("hostname");
        let output = client.server(server.id).output(hostname).await?;
        let text = String::from_utf8_lossy(&output.stdout);
        println!("{}: {}", server.name, text.trim());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn its_program_works() {
    // The document shows exactly the program that is compiled here.
    let bare = |text: &str| text.split_whitespace().collect::<String>();
    let shown = blocks(README, "rust").concat();
    assert!(!shown.is_empty() && bare(include_str!("readme.rs")).contains(&bare(&shown)));
    let home = Home::new();
    // A circuit without a key: one that is not of this user alone.
    let one = home
        .circuit("start -name one -a 0.0.0.0 -advertise 127.0.0.1")
        .serve();
    program(one.url().clone().into()).await.unwrap();
}

#[test]
fn the_examples_of_the_commands_work() {
    let home = Home::new();
    let _servers = home.start_all(["web", "db", "build"]);
    let blocks = blocks(COMMANDS, "sh");
    assert!(blocks.len() > 10, "{blocks:?}");
    let printed = shell(&home, &blocks.concat());
    assert!(printed.contains("counting\n13\ndone\n"), "{printed}");
    assert!(printed.contains("/db/bad\texit status 1\n"), "{printed}");
}

#[test]
fn the_commands_for_operators_work() {
    let blocks = blocks(OPERATING, "sh");
    assert!(!blocks.is_empty());
    shell(&Home::new(), &blocks.concat());
}

#[test]
fn the_examples_of_dns_servers_work() {
    let home = Home::new();
    let _server = home.start("db");
    let printed = shell(&home, &blocks(DNS, "sh").concat());
    assert!(printed.contains("MX\\t10 mail.example."), "{printed}");
}
