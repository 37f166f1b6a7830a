//! The directory in which a server keeps who it is, so that it comes back as itself (`-var`).
//!
//! **Invariant:** one server at a time uses a directory; its files are its owner's alone.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use circuit_client::transport::tls::{Certificate, CertificateReadError};
use tracing::warn;

/// What a server keeps from one life to the next.
#[derive(Debug)]
pub struct Kept {
    /// Its key pair, and so its id.
    pub certificate: Certificate,
    /// The secret from which stateless resets and connection ids are made, so that peers of the
    /// previous life notice at once that it is over (RFC 9000, section 10.3).
    pub reset_secret: [u8; 32],
    /// How many lives it had before: 0 in the first.
    pub life: u64,
    /// Keeps the directory locked. `None` for a server that keeps nothing.
    pub lock: Option<File>,
}

/// Why a server has no identity.
#[derive(Debug, thiserror::Error)]
pub enum VarDirError {
    /// The directory or a file in it cannot be used.
    #[error("cannot use {}", .path.display())]
    Io {
        /// The directory or file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// Another server runs on it.
    #[error("{} is in use by another server: give each server a directory of its own", .0.display())]
    InUse(PathBuf),
    /// The kept identity is damaged.
    #[error("{} is damaged: restore it, or remove it and become a new server", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: CertificateReadError,
    },
    /// Another file of the directory is damaged.
    #[error("{} is damaged: restore it, or remove it", .0.display())]
    Rubbish(PathBuf),
    /// No key pair, or no random bytes, could be made.
    #[error("cannot make an identity: {0}")]
    Make(String),
}

/// A new identity that is not kept.
pub fn forgetful() -> Result<Kept, VarDirError> {
    let (certificate, _) = generate()?;
    Ok(Kept {
        certificate,
        reset_secret: random()?,
        life: 0,
        lock: None,
    })
}

/// The identity that is kept in this directory, which is made if it is not there.
pub fn open(dir: &Path) -> Result<Kept, VarDirError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| VarDirError::Io { path, source }
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => io::ErrorKind::NotADirectory.into(),
            _ => error,
        })
        .map_err(failed(dir))?;
    let lock_path = dir.join("lock");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    let lock = options.open(&lock_path).map_err(failed(&lock_path))?;
    match lock.try_lock() {
        Ok(()) => (),
        Err(fs::TryLockError::WouldBlock) => return Err(VarDirError::InUse(dir.to_owned())),
        Err(fs::TryLockError::Error(source)) => return Err(failed(&lock_path)(source)),
    }
    let identity = dir.join("identity.pem");
    let certificate = match read(&identity)? {
        Some(text) => Certificate::from_pem(&String::from_utf8_lossy(&text)).map_err(|source| {
            VarDirError::Damaged {
                path: identity,
                source,
            }
        })?,
        None => {
            let (certificate, text) = generate()?;
            replace(&identity, text.as_bytes())?;
            certificate
        }
    };
    let reset = dir.join("reset.key");
    let reset_secret = match read(&reset)?.map(<[u8; 32]>::try_from) {
        Some(Ok(secret)) => secret,
        Some(Err(_)) => return Err(VarDirError::Rubbish(reset)),
        None => {
            let secret = random()?;
            replace(&reset, &secret)?;
            secret
        }
    };
    let counter = dir.join("incarnation");
    let number = |text: Vec<u8>| String::from_utf8(text).ok()?.trim().parse::<u64>().ok();
    let life = match read(&counter)?.map(number) {
        Some(Some(before)) => before.saturating_add(1),
        Some(None) => return Err(VarDirError::Rubbish(counter)),
        None => 0,
    };
    replace(&counter, format!("{life}\n").as_bytes())?;
    for (path, right) in [(dir, "0700"), (&dir.join("identity.pem"), "0600")] {
        if fs::metadata(path).is_ok_and(|found| found.mode() & 0o077 != 0) {
            let path = path.display();
            warn!("others can enter or read {path}: chmod {right} {path}");
        }
    }
    Ok(Kept {
        certificate,
        reset_secret,
        life,
        lock: Some(lock),
    })
}

fn generate() -> Result<(Certificate, String), VarDirError> {
    Certificate::generate().map_err(|error| VarDirError::Make(error.to_string()))
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
        Err(source) => Err(VarDirError::Io {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Writes a file whole or not at all, readable by its owner alone.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), VarDirError> {
    let write = || {
        let draft = path.with_extension("draft");
        // A leftover has whatever mode it has.
        let _ = fs::remove_file(&draft);
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&draft)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&draft, path)
    };
    write().map_err(|source| VarDirError::Io {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_server_comes_back_as_itself() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("var");
        let first = open(&dir).unwrap();
        assert!(
            matches!(open(&dir), Err(VarDirError::InUse(_))),
            "while it runs"
        );
        let (id, secret) = (first.certificate.fingerprint(), first.reset_secret);
        drop(first);
        let second = open(&dir).unwrap();
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

    #[test]
    fn a_leftover_lends_nothing_of_its_mode() {
        let temp = tempfile::tempdir().unwrap();
        let draft = temp.path().join("identity.draft");
        fs::write(&draft, "left over").unwrap();
        fs::set_permissions(&draft, fs::Permissions::from_mode(0o644)).unwrap();
        open(temp.path()).unwrap();
        let identity = fs::metadata(temp.path().join("identity.pem")).unwrap();
        assert_eq!(identity.permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_counter_or_secret_is_named_and_kept() {
        for name in ["incarnation", "reset.key"] {
            let temp = tempfile::tempdir().unwrap();
            let path = temp.path().join(name);
            fs::write(&path, "rubbish").unwrap();
            let error = open(temp.path()).unwrap_err().to_string();
            assert!(error.contains(&format!("{name} is damaged")), "{error}");
            assert_eq!(fs::read(&path).unwrap(), b"rubbish");
        }
    }

    #[test]
    fn a_damaged_identity_is_named_and_kept() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("identity.pem"), "rubbish").unwrap();
        let error = open(temp.path()).unwrap_err().to_string();
        assert!(error.contains("identity.pem is damaged"), "{error}");
        assert_eq!(
            fs::read(temp.path().join("identity.pem")).unwrap(),
            b"rubbish"
        );
    }
}
