//! Replays this folder's corpus, for the tests of `proto` and `circuit`, each of which includes this
//! file as a module.

use std::path::Path;

/// Runs each body over the corpus of its target. Panics with the input that a body panics at.
pub(super) fn replay(targets: &[super::Target]) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    for (name, body) in targets {
        let files = std::fs::read_dir(corpus.join(name)).unwrap();
        let files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        assert!(files.len() >= 5, "{name} has {} inputs", files.len());
        for file in files {
            let input = std::fs::read(&file).unwrap();
            let survived = std::panic::catch_unwind(|| body(&input)).is_ok();
            assert!(survived, "{}", file.display());
        }
    }
}
