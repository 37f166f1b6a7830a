//! Reads and writes the files that hold a circuit's key.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use circuit_proto::Key;
use circuit_proto::key::{KeyError, MAX_KEY, NEW_KEY};

/// Why a key file was not read or written. Each names the file.
#[derive(thiserror::Error)]
pub enum KeyFileError {
    /// The file cannot be read.
    #[error("cannot read the key file {}", .path.display())]
    Read {
        /// The file in question.
        path: PathBuf,
        /// The operating system's error.
        #[source]
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("cannot write the key file {}", .path.display())]
    Write {
        /// The file in question.
        path: PathBuf,
        /// The operating system's error.
        #[source]
        source: io::Error,
    },
    /// The file holds something else.
    #[error("{}: {source}", .path.display())]
    Key {
        /// The file in question.
        path: PathBuf,
        /// The fault of its text.
        source: KeyError,
    },
    /// No randomness for a new key.
    #[error("the system gives no random bytes: {0}")]
    Random(String),
}

impl KeyFileError {
    pub(crate) fn random(error: getrandom::Error) -> KeyFileError {
        KeyFileError::Random(error.to_string())
    }
}

/// How much of a key's file is read, in bytes: more than the text of any key has, which is four
/// thirds of [`MAX_KEY`].
const LONGEST: u64 = 2 * MAX_KEY as u64;

/// A key from a file, and whether others than its owner can read the file, which is worth a
/// warning.
///
/// ```no_run
/// let (key, exposed) = circuit_client::key_file::read(".hmac".as_ref())?;
/// # Ok::<(), circuit_client::key_file::KeyFileError>(())
/// ```
pub fn read(path: &Path) -> Result<(Key, bool), KeyFileError> {
    let failed = |source| KeyFileError::Read {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    let exposed = file.metadata().map_err(failed)?.permissions().mode() & 0o077 != 0;
    let mut text = Vec::new();
    file.take(LONGEST).read_to_end(&mut text).map_err(failed)?;
    let text = String::from_utf8_lossy(&text);
    let key = Key::parse(&text).map_err(|source| KeyFileError::Key {
        path: path.to_owned(),
        source,
    })?;
    Ok((key, exposed))
}

/// A new random key.
pub fn generate() -> Result<Key, KeyFileError> {
    let mut bytes = [0; NEW_KEY];
    getrandom::fill(&mut bytes).map_err(KeyFileError::random)?;
    Ok(Key::from_random(bytes))
}

/// Writes a key to a new file with mode 0600. A file that exists already is left as it is.
pub fn write_new(path: &Path, key: &Key) -> Result<(), KeyFileError> {
    let failed = |source| KeyFileError::Write {
        path: path.to_owned(),
        source,
    };
    let mut file = create_private(path).map_err(failed)?;
    writeln!(file, "{}", key.to_text())
        .and_then(|()| file.sync_all())
        .map_err(|error| {
            // It would be in the way of the next attempt.
            let _ = std::fs::remove_file(path);
            failed(error)
        })
}

/// Makes a new file that only its owner can read. Fails if there is one.
pub fn create_private(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_key_file_is_private_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let key = generate().unwrap();
        write_new(&path, &key).unwrap();
        assert_eq!(read(&path).unwrap(), (key.clone(), false));
        assert!(
            write_new(&path, &key).is_err(),
            "an existing file is never overwritten"
        );
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(read(&path).unwrap(), (key, true));
    }

    #[test]
    fn the_longest_key_is_read_whole_and_a_longer_file_is_no_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let text = "A".repeat(4096 / 3 * 4) + "AA==";
        std::fs::write(&path, &text).unwrap();
        assert_eq!(read(&path).unwrap().0, Key::parse(&text).unwrap());
        for more in [4, 100_000] {
            std::fs::write(&path, "A".repeat(text.len() + more)).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains("longer than 4096 bytes"), "{error}");
        }
    }

    #[test]
    fn errors_name_the_file() {
        let error = read("/no/such".as_ref()).unwrap_err().to_string();
        assert_eq!(error, "cannot read the key file /no/such");
    }
}
