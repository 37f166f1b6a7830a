//! The directory in which a server keeps its identity, so that it comes back as itself (`-var`).
//!
//! [`start`](super::start) opens it. It holds the key pair, the secret of stateless resets, the
//! count of starts, and the addresses of the last members ([`members`](super::members)).
//!
//! **Invariants:** one server at a time uses a directory. Its files belong to their owner alone. A
//! file is written whole or not at all, and is on the disk when the function that writes it
//! returns. The identity is written last: where it is, the other files were.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use circuit_client::transport::tls::{Certificate, CertificateReadError};
use tokio::time::Instant;
use tracing::warn;

use crate::peer::Peer;

/// How long the lock is waited for. A server that was told to leave holds it for a second at most,
/// and a killed one until the kernel has taken it apart.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// How often the lock is tried meanwhile. Chosen, not measured.
const LOCK_EVERY: Duration = Duration::from_millis(20);

/// The count of starts.
const COUNTER: &str = "incarnation";

/// The private key and the certificate.
const IDENTITY: &str = "identity.pem";

/// The state that a server keeps from one life to the next.
#[derive(Debug)]
pub struct Kept {
    /// Its key pair, and so its id.
    pub certificate: Certificate,
    /// The secret from which stateless resets and connection ids are made, so that peers of the
    /// previous life notice at once that it is over (RFC 9000, section 10.3).
    pub reset_secret: [u8; 32],
    /// How many lives it had before: 0 in the first.
    pub life: u64,
    /// The random number of this life.
    pub instance: u64,
    /// The directory. `None` for a server that keeps nothing.
    pub dir: Option<Arc<VarDir>>,
}

/// A directory that this server has locked.
#[derive(Debug)]
pub struct VarDir {
    path: PathBuf,
    lock: File,
}

/// Why a server has no identity.
#[derive(Debug, thiserror::Error)]
pub enum VarDirError {
    /// The directory or a file in it cannot be used.
    #[error("cannot use {}", .path.display())]
    Io {
        /// The directory or file.
        path: PathBuf,
        /// The operating system's error.
        #[source]
        source: io::Error,
    },
    /// Another server runs on it.
    #[error("{} is in use by {holder}", .dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// The holder of the lock, its phase, and the remedy.
        holder: String,
    },
    /// The kept identity is damaged.
    #[error("{} is damaged: restore it, or remove it and become a new server", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The fault.
        #[source]
        source: CertificateReadError,
    },
    /// The secret of stateless resets is damaged.
    #[error("{} is damaged: restore it, or remove it", .0.display())]
    Rubbish(PathBuf),
    /// The count of starts is missing beside an identity, or damaged. Counted from 0, the server's
    /// statements would lose against those of its lives before.
    #[error(
        "{} is {state}: restore it, or write into it a number that is greater than its last one, \
         or remove {} and become a new server", .path.display(), .identity.display()
    )]
    Counter {
        /// The file.
        path: PathBuf,
        /// `missing` or `damaged`.
        state: &'static str,
        /// The identity beside it.
        identity: PathBuf,
    },
    /// No key pair, or no random bytes, could be made.
    #[error("cannot make an identity: {0}")]
    Make(String),
}

/// Makes a new identity that is not kept.
pub fn forgetful() -> Result<Kept, VarDirError> {
    let (certificate, _) = generate()?;
    Ok(Kept {
        certificate,
        reset_secret: random()?,
        life: 0,
        instance: instance()?,
        dir: None,
    })
}

/// Reads the identity that is kept in this directory. Makes both if they are not there. Waits for a
/// moment while another process has the directory locked.
pub async fn open(path: &Path) -> Result<Kept, VarDirError> {
    open_within(path, LOCK_WAIT).await
}

async fn open_within(path: &Path, wait: Duration) -> Result<Kept, VarDirError> {
    make(path)?;
    let dir = lock(path, wait).await?;
    let identity = path.join(IDENTITY);
    let certificate = match read(&identity)? {
        Some(text) => {
            let certificate = Certificate::from_pem(&String::from_utf8_lossy(&text));
            Some(certificate.map_err(|source| VarDirError::Damaged {
                path: identity.clone(),
                source,
            })?)
        }
        None => None,
    };
    let life = count(path, certificate.is_some())?;
    let reset_secret = reset_secret(path)?;
    let certificate = match certificate {
        Some(certificate) => certificate,
        None => {
            let (certificate, text) = generate()?;
            replace(&identity, text.as_bytes())?;
            certificate
        }
    };
    for (path, right) in [(path, "0700"), (&identity, "0600")] {
        if fs::metadata(path).is_ok_and(|found| found.mode() & 0o077 != 0) {
            let path = path.display();
            warn!("others can enter or read {path}: chmod {right} {path}");
        }
    }
    Ok(Kept {
        certificate,
        reset_secret,
        life,
        instance: instance()?,
        dir: Some(Arc::new(dir)),
    })
}

/// Makes a directory, and those above it, if it is not there.
fn make(path: &Path) -> Result<(), VarDirError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => io::ErrorKind::NotADirectory.into(),
        _ => error,
    })
    .map_err(failed(path))
}

/// Locks a directory, and writes down who has done so.
async fn lock(path: &Path, wait: Duration) -> Result<VarDir, VarDirError> {
    let file = path.join("lock");
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let lock = options.mode(0o600).open(&file).map_err(failed(&file))?;
    let begin = Instant::now();
    loop {
        match lock.try_lock() {
            Ok(()) => break,
            Err(fs::TryLockError::Error(source)) => return Err(failed(&file)(source)),
            Err(fs::TryLockError::WouldBlock) if begin.elapsed() < wait => {
                tokio::time::sleep(LOCK_EVERY).await;
            }
            Err(fs::TryLockError::WouldBlock) => {
                let (dir, holder) = (path.to_owned(), holder(&lock));
                return Err(VarDirError::InUse { dir, holder });
            }
        }
    }
    let dir = VarDir {
        path: path.to_owned(),
        lock,
    };
    dir.says("serves").map_err(failed(&file))?;
    Ok(dir)
}

/// Says which process holds a lock, what it is doing, and what to do about it.
fn holder(lock: &File) -> String {
    let mut text = String::new();
    let _ = (&*lock).read_to_string(&mut text);
    let own = "give each server a directory of its own";
    let holders = holders(lock);
    let text = text
        .trim()
        .split_once(' ')
        .filter(|(pid, _)| match holders.as_slice() {
            // The file system counts its inodes otherwise, or the holder is in another container.
            [] => Path::new("/proc").join(pid).exists(),
            all => all.iter().any(|holder| holder == pid),
        });
    let Some((pid, doing)) = text else {
        return match holders.first() {
            Some(pid) => format!("process {pid}: {own}"),
            None => format!("a process that cannot be named: {own}"),
        };
    };
    // proc(5): the state follows the name, which is in parentheses.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().unwrap_or_default().trim_start();
    match (state.chars().next(), doing) {
        (Some('T' | 't'), _) => {
            format!("process {pid}, which is stopped: continue it (SIGCONT) or kill it")
        }
        (_, "leaves") => format!("process {pid}, which is leaving its circuit: try again later"),
        _ => format!("process {pid}, which serves: {own}"),
    }
}

/// The ids of the processes that hold a lock on this file, as far as the kernel tells.
fn holders(file: &File) -> Vec<String> {
    let Ok(inode) = file.metadata().map(|found| found.ino().to_string()) else {
        return Vec::new();
    };
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    // proc_locks(5): number, kind, mode, access, process, device and inode. Some file systems show
    // another device here than the file's metadata do.
    let holder = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [_, "FLOCK", _, _, pid, place, ..] = fields.as_slice() else {
            return None;
        };
        let is_named = !matches!(*pid, "0" | "-1");
        (is_named && place.rsplit(':').next() == Some(&inode)).then(|| (*pid).to_owned())
    };
    locks.lines().filter_map(holder).collect()
}

/// Reads the count of starts, and raises it. It is 0 at the first start, when there is no identity.
fn count(dir: &Path, has_identity: bool) -> Result<u64, VarDirError> {
    let path = dir.join(COUNTER);
    let wrong = |state| VarDirError::Counter {
        path: path.clone(),
        state,
        identity: dir.join(IDENTITY),
    };
    let number = |text: Vec<u8>| String::from_utf8(text).ok()?.trim().parse::<u64>().ok();
    let count = match read(&path)?.map(number) {
        Some(Some(before)) => before.saturating_add(1),
        Some(None) => return Err(wrong("damaged")),
        None if has_identity => return Err(wrong("missing")),
        None => 0,
    };
    replace(&path, format!("{count}\n").as_bytes())?;
    Ok(count)
}

/// Keeps the count of this life whenever the server has raised it above that of another life: the
/// next start is to begin above both.
pub async fn keep_count(dir: Arc<VarDir>, peer: Arc<Peer>) {
    let mut changes = peer.changes();
    let mut kept = peer.me().count;
    while changes.changed().await.is_ok() {
        let count = peer.me().count;
        if count == kept {
            continue;
        }
        let dir = dir.clone();
        let text = format!("{count}\n");
        let replaced =
            tokio::task::spawn_blocking(move || dir.replace(COUNTER, text.as_bytes())).await;
        if let Ok(Err(error)) = replaced {
            warn!("cannot keep the count of this life: {error}");
        }
        kept = count;
    }
}

fn reset_secret(dir: &Path) -> Result<[u8; 32], VarDirError> {
    let path = dir.join("reset.key");
    match read(&path)?.map(<[u8; 32]>::try_from) {
        Some(Ok(secret)) => Ok(secret),
        Some(Err(_)) => Err(VarDirError::Rubbish(path)),
        None => {
            let secret = random()?;
            replace(&path, &secret)?;
            Ok(secret)
        }
    }
}

impl VarDir {
    /// Writes into the lock what this process is doing, for whoever waits for the lock.
    fn says(&self, doing: &str) -> io::Result<()> {
        let mut lock = &self.lock;
        lock.set_len(0)?;
        lock.rewind()?;
        lock.write_all(format!("{} {doing}\n", std::process::id()).as_bytes())
    }

    /// Tells whoever waits for the lock that this server is about to end.
    pub fn leaves(&self) {
        // Only the text of an error depends on it.
        let _ = self.says("leaves");
    }

    /// Reads a file that need not be there.
    pub(super) fn read(&self, name: &str) -> Result<Option<Vec<u8>>, VarDirError> {
        read(&self.path.join(name))
    }

    /// Writes a file.
    pub(super) fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), VarDirError> {
        replace(&self.path.join(name), bytes)
    }

    /// Removes a file, if it is there.
    pub(super) fn remove(&self, name: &str) -> Result<(), VarDirError> {
        let path = self.path.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(failed(&path)(error)),
            Ok(()) => sync_directory(&path).map_err(failed(&path)),
        }
    }
}

fn failed(path: &Path) -> impl Fn(io::Error) -> VarDirError {
    let path = path.to_owned();
    move |source| VarDirError::Io {
        path: path.clone(),
        source,
    }
}

fn generate() -> Result<(Certificate, String), VarDirError> {
    Certificate::generate().map_err(|error| VarDirError::Make(error.to_string()))
}

/// A number that no other process draws.
fn instance() -> Result<u64, VarDirError> {
    let [a, b, c, d, e, f, g, h, ..] = random()?;
    Ok(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
}

fn random() -> Result<[u8; 32], VarDirError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| VarDirError::Make(error.to_string()))?;
    Ok(bytes)
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, VarDirError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(failed(path)(source)),
    }
}

/// Writes a file whole or not at all, readable by its owner alone. The file outlasts a loss of power
/// from then on.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), VarDirError> {
    let write = || {
        let draft = path.with_extension("draft");
        // The mode of a leftover draft is unknown.
        let _ = fs::remove_file(&draft);
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&draft)?;
        file.write_all(bytes)?;
        sync(&file)?;
        fs::rename(&draft, path)?;
        sync_directory(path)
    };
    write().map_err(failed(path))
}

/// Syncs the directory that a file is in: only then the file's name is on the disk.
fn sync_directory(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(dir) => sync(&File::open(dir)?),
        None => Ok(()),
    }
}

fn sync(file: &File) -> io::Result<()> {
    #[cfg(test)]
    tests::SYNCED.with_borrow_mut(|all| all.push(file.metadata().map_or(0, |found| found.ino())));
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    thread_local! {
        /// The inodes of the files and directories that were synced, in order.
        pub(super) static SYNCED: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
    }

    #[tokio::test]
    async fn a_server_comes_back_as_itself() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("var");
        let first = open(&dir).await.unwrap();
        let (id, secret) = (first.certificate.fingerprint(), first.reset_secret);
        assert_eq!(first.life, 0);
        drop(first);
        let second = open(&dir).await.unwrap();
        assert_eq!(
            (second.certificate.fingerprint(), second.reset_secret),
            (id, secret)
        );
        assert_eq!(second.life, 1);
        for entry in fs::read_dir(&dir).unwrap() {
            let mode = entry.unwrap().metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[tokio::test]
    async fn a_directory_in_use_is_waited_for_and_then_its_holder_is_named() {
        let temp = tempfile::tempdir().unwrap();
        let first = open(temp.path()).await.unwrap();
        let me = std::process::id();
        let said = |error: VarDirError| error.to_string();
        let wait = 3 * LOCK_EVERY;
        let begin = Instant::now();
        let error = said(open_within(temp.path(), wait).await.unwrap_err());
        assert!(begin.elapsed() >= wait);
        let expected = format!("is in use by process {me}, which serves: give each");
        assert!(error.contains(&expected), "{error}");
        first.dir.as_ref().unwrap().leaves();
        let error = said(open_within(temp.path(), wait).await.unwrap_err());
        let expected = format!("is in use by process {me}, which is leaving its circuit: try");
        assert!(error.contains(&expected), "{error}");
        let (second, ()) = tokio::join!(open(temp.path()), async {
            tokio::time::sleep(wait).await;
            drop(first);
        });
        assert_eq!(second.unwrap().life, 1);
    }

    #[tokio::test]
    async fn a_holder_that_is_no_server_is_not_taken_for_the_last_one() {
        let temp = tempfile::tempdir().unwrap();
        drop(open(temp.path()).await.unwrap());
        // The last server has written its process id into the lock, and is gone.
        let mut gone = std::process::Command::new("true").spawn().unwrap();
        gone.wait().unwrap();
        fs::write(temp.path().join("lock"), format!("{} serves\n", gone.id())).unwrap();
        let foreign = File::open(temp.path().join("lock")).unwrap();
        foreign.lock().unwrap();
        let error = open_within(temp.path(), LOCK_EVERY).await.unwrap_err();
        let error = error.to_string();
        let me = std::process::id();
        let named = format!("is in use by process {me}: give each server");
        let unnamed = "is in use by a process that cannot be named: give each server";
        assert!(error.contains(&named) || error.contains(unnamed), "{error}");
    }

    #[tokio::test]
    async fn every_name_is_on_the_disk_before_the_server_starts() {
        let temp = tempfile::tempdir().unwrap();
        let dir = fs::metadata(temp.path()).unwrap().ino();
        SYNCED.take();
        drop(open(temp.path()).await.unwrap());
        let inode = |name: &str| fs::metadata(temp.path().join(name)).unwrap().ino();
        let files = [COUNTER, "reset.key", IDENTITY].map(inode);
        let expected: Vec<u64> = files.into_iter().flat_map(|file| [file, dir]).collect();
        assert_eq!(SYNCED.take(), expected, "each file, then the directory");
    }

    #[tokio::test]
    async fn a_leftover_lends_nothing_of_its_mode() {
        let temp = tempfile::tempdir().unwrap();
        let draft = temp.path().join("identity.draft");
        fs::write(&draft, "left over").unwrap();
        fs::set_permissions(&draft, fs::Permissions::from_mode(0o644)).unwrap();
        open(temp.path()).await.unwrap();
        let identity = fs::metadata(temp.path().join(IDENTITY)).unwrap();
        assert_eq!(identity.permissions().mode() & 0o777, 0o600);
    }

    #[tokio::test]
    async fn a_damaged_file_is_named_and_kept() {
        for name in [COUNTER, "reset.key", IDENTITY] {
            let temp = tempfile::tempdir().unwrap();
            drop(open(temp.path()).await.unwrap());
            let path = temp.path().join(name);
            fs::write(&path, "rubbish").unwrap();
            let error = open(temp.path()).await.unwrap_err().to_string();
            assert!(error.contains(&format!("{name} is damaged: ")), "{error}");
            assert_eq!(fs::read(&path).unwrap(), b"rubbish");
        }
    }

    #[tokio::test]
    async fn a_counter_that_is_missing_beside_an_identity_is_damage() {
        let temp = tempfile::tempdir().unwrap();
        let first = open(temp.path()).await.unwrap();
        let id = first.certificate.fingerprint();
        drop(first);
        let counter = temp.path().join(COUNTER);
        fs::remove_file(&counter).unwrap();
        let error = open(temp.path()).await.unwrap_err().to_string();
        let (counter_path, identity) = (counter.display(), temp.path().join(IDENTITY));
        assert_eq!(
            error,
            format!(
                "{counter_path} is missing: restore it, or write into it a number that is greater \
                 than its last one, or remove {} and become a new server",
                identity.display()
            )
        );
        assert!(!counter.exists());
        // The first remedy is applied.
        fs::write(&counter, "7").unwrap();
        let again = open(temp.path()).await.unwrap();
        assert_eq!((again.certificate.fingerprint(), again.life), (id, 8));
        drop(again);
        // The second remedy is applied.
        fs::remove_file(&counter).unwrap();
        fs::remove_file(&identity).unwrap();
        let new = open(temp.path()).await.unwrap();
        assert_ne!(new.certificate.fingerprint(), id);
    }

    #[tokio::test]
    async fn a_first_start_that_was_interrupted_is_no_damage() {
        let files = ["lock", COUNTER, "reset.key"];
        for present in 0..=files.len() {
            let temp = tempfile::tempdir().unwrap();
            drop(open(temp.path()).await.unwrap());
            for name in files[present..].iter().chain([&IDENTITY]) {
                fs::remove_file(temp.path().join(name)).unwrap();
            }
            open(temp.path()).await.unwrap();
        }
    }
}
