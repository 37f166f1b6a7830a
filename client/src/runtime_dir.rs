//! The user's own directory on this machine lists the servers of the user, and holds the local key
//! that keeps other users out of them.
//!
//! `$XDG_RUNTIME_DIR/circuit`, or `circuit-UID` under the temporary directory. It is used only if
//! it is a directory of the user's own with mode 0700, and no link.
//!
//! **Invariant:** a server's file is locked for as long as the server lives, so a file that is not
//! locked is a leftover.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use circuit_proto::{Key, ServerId, Url};

use crate::address::Address;
use crate::key_file::{self, KeyFileError};

/// The ending of the files that servers hold.
const SERVER_FILE: &str = "url";

/// The ending of their Unix sockets, beside which `socket.lock` is the ending of the locks.
const SOCKET: &str = "socket";

/// The runtime directory, checked.
#[derive(Debug, Clone)]
pub struct RuntimeDir {
    path: PathBuf,
}

/// Why there is no runtime directory to use.
#[derive(thiserror::Error)]
pub enum RuntimeDirError {
    /// It cannot be made or read.
    #[error("cannot use the runtime directory {} (XDG_RUNTIME_DIR names another)", .path.display())]
    Io {
        /// The directory or file in question.
        path: PathBuf,
        /// The operating system's error.
        #[source]
        source: io::Error,
    },
    /// Somebody else could change it.
    #[error("{} is not a directory of this user's own with mode 0700: remove it, or set XDG_RUNTIME_DIR", .0.display())]
    NotOwn(PathBuf),
    /// It is this user's own, and others can read or enter it.
    #[error("others can look into {dir}: chmod 700 {dir}", dir = .0.display())]
    Exposed(PathBuf),
    /// The local key in it is damaged.
    #[error(transparent)]
    Key(#[from] KeyFileError),
}

/// How long a draft may take to become what it is to be. Chosen, not measured: it takes a moment.
const LONGEST_DRAFT: Duration = Duration::from_secs(60);

/// A server of this user on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalServer {
    /// Where it is.
    pub url: Url,
    /// Its Unix socket, if it has made one.
    pub socket: Option<PathBuf>,
    /// When it was started.
    pub since: SystemTime,
}

impl LocalServer {
    /// The address at which commands on this machine dial it: its socket, if it has one.
    pub fn address(&self) -> Address {
        match &self.socket {
            Some(path) => Address::Socket(path.clone()),
            None => Address::Url(self.url.clone()),
        }
    }
}

/// A server's file, which says that it lives for as long as this is held.
#[derive(Debug)]
pub struct Registration {
    path: PathBuf,
    _locked: File,
}

impl RuntimeDir {
    /// The directory, made if it is not there.
    pub fn open() -> Result<RuntimeDir, RuntimeDirError> {
        RuntimeDir::open_at(Self::place())
    }

    /// The directory, if it is there; an error if it is not in order.
    pub fn existing() -> Result<Option<RuntimeDir>, RuntimeDirError> {
        Self::existing_at(Self::place())
    }

    fn existing_at(path: PathBuf) -> Result<Option<RuntimeDir>, RuntimeDirError> {
        match Self::checked(path) {
            Err(RuntimeDirError::Io { source, .. })
                if matches!(
                    source.kind(),
                    ErrorKind::NotFound | ErrorKind::NotADirectory
                ) =>
            {
                Ok(None)
            }
            other => other.map(Some),
        }
    }

    fn place() -> PathBuf {
        match std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| Path::new(dir).is_absolute()) {
            Some(dir) => Path::new(&dir).join("circuit"),
            None => {
                let uid = rustix::process::geteuid().as_raw();
                std::env::temp_dir().join(format!("circuit-{uid}"))
            }
        }
    }

    fn open_at(path: PathBuf) -> Result<RuntimeDir, RuntimeDirError> {
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(source) if source.kind() != ErrorKind::AlreadyExists => {
                Err(RuntimeDirError::Io { path, source })
            }
            _ => Self::checked(path),
        }
    }

    /// The directory, which must be one, no link, of this user's own, that nobody else may enter.
    fn checked(path: PathBuf) -> Result<RuntimeDir, RuntimeDirError> {
        let found = match fs::symlink_metadata(&path) {
            Ok(found) => found,
            Err(source) => return Err(RuntimeDirError::Io { path, source }),
        };
        let own = found.is_dir() && found.uid() == rustix::process::geteuid().as_raw();
        match found.mode() {
            // Files that others may have put there are not trusted later either.
            mode if !own || mode & 0o022 != 0 => Err(RuntimeDirError::NotOwn(path)),
            mode if mode & 0o077 != 0 => Err(RuntimeDirError::Exposed(path)),
            _ => Ok(RuntimeDir { path }),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The user's local key, made on first use.
    pub fn key(&self) -> Result<Key, RuntimeDirError> {
        let path = self.key_path();
        if let Some(key) = self.existing_key() {
            return Ok(key);
        }
        // Written beside and linked into place: of several servers that start at the same time one
        // wins, and nobody reads half a key.
        let key = key_file::generate()?;
        let draft = self.draft()?;
        let _ = fs::remove_file(&draft);
        key_file::write_new(&draft, &key)?;
        let linked = fs::hard_link(&draft, &path);
        let _ = fs::remove_file(&draft);
        match linked {
            Ok(()) => Ok(key),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(key_file::read(&path)?.0),
            Err(source) => Err(RuntimeDirError::Io { path, source }),
        }
    }

    /// A name for a file that nobody else uses: process ids are not enough, as namespaces have their
    /// own.
    fn draft(&self) -> Result<PathBuf, RuntimeDirError> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(KeyFileError::random)?;
        Ok(self
            .path
            .join(format!("draft.{:016x}", u64::from_ne_bytes(random))))
    }

    /// The user's local key, if one was made and is in order.
    pub fn existing_key(&self) -> Option<Key> {
        key_file::read(&self.key_path()).ok().map(|(key, _)| key)
    }

    fn key_path(&self) -> PathBuf {
        self.path.join("key")
    }

    /// Makes a server known here until the registration is dropped, or the process ends in
    /// whatever way. Leftovers of others are cleared away.
    pub fn register(&self, url: &Url) -> Result<Registration, RuntimeDirError> {
        self.clear_leftovers();
        let draft = self.draft()?;
        let id = url
            .server
            .map(|server| server.id.to_string())
            .unwrap_or_default();
        let path = self.path.join(format!("{id}.{SERVER_FILE}"));
        let register = || {
            let _ = fs::remove_file(&draft);
            let mut file = key_file::create_private(&draft)?;
            file.lock()?;
            writeln!(file, "{url}")?;
            // Locked and whole before it has the name that others look for.
            fs::rename(&draft, &path)?;
            Ok(file)
        };
        let locked = register().map_err(|source| RuntimeDirError::Io {
            path: path.clone(),
            source,
        })?;
        Ok(Registration {
            path,
            _locked: locked,
        })
    }

    /// The path of a server's Unix socket.
    pub fn socket_of(&self, id: ServerId) -> PathBuf {
        self.path.join(format!("{id}.{SOCKET}"))
    }

    /// The servers of this user that live, the newest first.
    pub fn servers(&self) -> Vec<LocalServer> {
        let mut servers: Vec<LocalServer> = self
            .server_files()
            .filter_map(|path| read_live(&path))
            .collect();
        servers.sort_by(|a, b| b.since.cmp(&a.since).then_with(|| a.url.cmp(&b.url)));
        servers
    }

    fn server_files(&self) -> impl Iterator<Item = PathBuf> {
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        entries
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|ending| ending == SERVER_FILE))
    }

    fn clear_leftovers(&self) {
        for path in self.server_files() {
            if let Ok(file) = File::open(&path)
                && file.try_lock().is_ok()
                // The name may lead to another file by now: that of a server that has just come.
                && same_file(&file, &path)
            {
                for left in [SERVER_FILE, SOCKET, "socket.lock"] {
                    let _ = fs::remove_file(path.with_extension(left));
                }
            }
        }
        for draft in self.drafts() {
            let age = fs::metadata(&draft).and_then(|found| found.modified());
            let age = age.ok().and_then(|modified| modified.elapsed().ok());
            // Of one that is younger somebody may still make something.
            if age.is_some_and(|age| age > LONGEST_DRAFT) {
                let _ = fs::remove_file(&draft);
            }
        }
    }

    fn drafts(&self) -> impl Iterator<Item = PathBuf> {
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        entries
            .filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"draft."))
            .map(|entry| entry.path())
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if same_file(&self._locked, &self.path) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn read_live(path: &Path) -> Option<LocalServer> {
    let file = File::open(path).ok()?;
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => (),
        _ => return None,
    }
    let url = fs::read_to_string(path).ok()?.parse().ok()?;
    let since = file.metadata().ok()?.modified().ok()?;
    let socket = Some(path.with_extension(SOCKET)).filter(|socket| socket.exists());
    Some(LocalServer { url, socket, since })
}

fn same_file(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn url(port: u16) -> Url {
        format!("circuit://127.0.0.1:{port}/1/Q{port:016x}")
            .parse()
            .unwrap()
    }

    #[test]
    fn only_an_own_private_directory_is_used() {
        let temp = tempfile::tempdir().unwrap();
        let place = temp.path().join("circuit");
        assert!(matches!(RuntimeDir::existing_at(place.clone()), Ok(None)));
        assert!(RuntimeDir::open_at(place.clone()).is_ok());
        assert!(RuntimeDir::open_at(place.clone()).is_ok(), "again");
        assert!(matches!(
            RuntimeDir::existing_at(place.clone()),
            Ok(Some(_))
        ));
        let with_mode = |mode| {
            fs::set_permissions(&place, fs::Permissions::from_mode(mode)).unwrap();
            let opened = RuntimeDir::open_at(place.clone()).map(Some);
            [opened, RuntimeDir::existing_at(place.clone())]
        };
        for mode in [0o750, 0o711, 0o744] {
            for refused in with_mode(mode) {
                assert!(
                    matches!(refused, Err(RuntimeDirError::Exposed(_))),
                    "{mode:o}"
                );
            }
        }
        for mode in [0o770, 0o702, 0o1777] {
            for refused in with_mode(mode) {
                assert!(
                    matches!(refused, Err(RuntimeDirError::NotOwn(_))),
                    "{mode:o}"
                );
            }
        }
        for opened in with_mode(0o700) {
            assert!(matches!(opened, Ok(Some(_))));
        }
        let link = temp.path().join("link");
        symlink(&place, &link).unwrap();
        assert!(matches!(
            RuntimeDir::open_at(link),
            Err(RuntimeDirError::NotOwn(_))
        ));
    }

    #[test]
    fn the_key_is_made_once() {
        let temp = tempfile::tempdir().unwrap();
        let dir = RuntimeDir::open_at(temp.path().join("circuit")).unwrap();
        assert!(dir.existing_key().is_none());
        let key = dir.key().unwrap();
        assert_eq!(dir.key().unwrap(), key);
        assert_eq!(dir.existing_key(), Some(key));
    }

    #[test]
    fn servers_are_known_while_they_live_and_leftovers_are_cleared() {
        let temp = tempfile::tempdir().unwrap();
        let dir = RuntimeDir::open_at(temp.path().join("circuit")).unwrap();
        let first = dir.register(&url(1)).unwrap();
        let _second = dir.register(&url(2)).unwrap();
        assert_eq!(dir.servers().len(), 2);
        drop(first);
        let urls: Vec<Url> = dir.servers().into_iter().map(|server| server.url).collect();
        assert_eq!(urls, [url(2)]);
        let leftover = dir.path().join("X3.url");
        fs::write(&leftover, url(3).to_string()).unwrap();
        assert_eq!(
            dir.servers().len(),
            1,
            "a file that nobody locks is no server"
        );
        let drafts = ["draft.old", "draft.new"].map(|name| dir.path().join(name));
        for draft in &drafts {
            fs::write(draft, "half a key").unwrap();
        }
        let old = File::options().write(true).open(&drafts[0]).unwrap();
        old.set_modified(SystemTime::now() - 2 * LONGEST_DRAFT)
            .unwrap();
        let _fourth = dir.register(&url(4)).unwrap();
        assert!(!leftover.exists());
        assert_eq!(drafts.map(|draft| draft.exists()), [false, true]);
    }
}
