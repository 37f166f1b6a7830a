//! Files to which the outputs of processes go.
//!
//! One that was made for a child goes again if there is no child, unless another's output goes there
//! by then. What else is done with the file, this does not know.

use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::PathBuf;

/// A file that is being opened for a child.
#[derive(Debug)]
pub(super) struct OutputFile(PathBuf);

/// Of each file that is being opened: for how many children, and what became of it.
static OPENING: Mutex<BTreeMap<PathBuf, Opening>> = Mutex::new(BTreeMap::new());

#[derive(Default)]
struct Opening {
    children: usize,
    made: bool,
    kept: bool,
}

impl OutputFile {
    pub(super) fn new(path: PathBuf) -> OutputFile {
        opening().entry(path.clone()).or_default().children += 1;
        OutputFile(path)
    }

    /// Opens the file, or makes it.
    pub(super) fn open(&self, options: &OpenOptions) -> io::Result<File> {
        let existing = || options.open(&self.0);
        match existing() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => (),
            other => return other,
        }
        match options.clone().create_new(true).open(&self.0) {
            // Somebody else has made it meanwhile, or it is a link to nowhere.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => existing(),
            Err(error) => Err(error),
            Ok(file) => {
                self.now(|opening| opening.made = true);
                Ok(file)
            }
        }
    }

    /// There is a child that has it.
    pub(super) fn keep(&self) {
        self.now(|opening| opening.kept = true);
    }

    fn now(&self, change: impl FnOnce(&mut Opening)) {
        if let Some(opening) = opening().get_mut(&self.0) {
            change(opening);
        }
    }
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        let mut all = opening();
        let Some(opening) = all.get_mut(&self.0) else {
            return;
        };
        opening.children -= 1;
        if opening.children > 0 {
            return;
        }
        let unwanted = opening.made && !opening.kept;
        all.remove(&self.0);
        if unwanted {
            // Under the lock: whoever comes next does not find what is just going.
            let _ = std::fs::remove_file(&self.0);
        }
    }
}

fn opening() -> MutexGuard<'static, BTreeMap<PathBuf, Opening>> {
    OPENING.lock()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(dir: &tempfile::TempDir) -> OutputFile {
        let file = OutputFile::new(dir.path().join("log"));
        file.open(OpenOptions::new().append(true)).unwrap();
        file
    }

    #[test]
    fn what_was_made_for_nobody_goes_with_the_last_who_wanted_it() {
        let dir = tempfile::tempdir().unwrap();
        let exists = || dir.path().join("log").exists();
        let (maker, other) = (opened(&dir), opened(&dir));
        drop(maker);
        assert!(exists());
        drop(other);
        assert!(!exists());
        assert!(opening().keys().all(|path| !path.starts_with(dir.path())));
    }

    #[test]
    fn what_somebody_has_stays() {
        let dir = tempfile::tempdir().unwrap();
        let exists = || dir.path().join("log").exists();
        let (maker, other) = (opened(&dir), opened(&dir));
        other.keep();
        drop(other);
        drop(maker);
        assert!(exists());
        // It was there before.
        drop(opened(&dir));
        assert!(exists());
    }

    #[test]
    fn a_link_to_nowhere_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/nowhere/at/all", dir.path().join("log")).unwrap();
        let file = OutputFile::new(dir.path().join("log"));
        let error = file.open(OpenOptions::new().append(true)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
