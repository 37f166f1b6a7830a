//! Damage: an error that names the file, or what was written. Never another value.

use super::*;
use std::fs;
use std::path::PathBuf;

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Fills a store. The log is left behind if it is not to be closed in order.
fn fill(dir: &Path, in_order: bool) -> Contents {
    let live = Live::open(dir);
    let mut random = Random(3);
    let mut model = Model::default();
    for _ in 0..40 {
        let change = random.change();
        if model.write(std::slice::from_ref(&change)).is_ok() {
            live.write(vec![change]).unwrap();
        }
        let note = random.note();
        model.note(note.clone());
        live.note(note);
    }
    if in_order {
        live.end();
    } else {
        let aside = in_memory();
        copy(dir, aside.path());
        live.end();
        copy(aside.path(), dir);
    }
    model.contents()
}

/// The databases and their logs.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let is_one = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.contains(".db")
    };
    let mut files: Vec<PathBuf> = paths.filter(is_one).collect();
    files.sort();
    files
}

#[test]
fn an_error_names_the_file_and_the_remedy() {
    let temp = in_memory();
    fill(temp.path(), true);
    let dir = temp.path().display();
    let path = temp.path().join("store.db");
    let whole = fs::read(&path).unwrap();
    let mut others = whole.clone();
    others[68..72].fill(7);
    let mut newer = whole.clone();
    newer[60..64].copy_from_slice(&7_u32.to_be_bytes());
    let remedy = "restore it from a copy, or end the processes that this server had started, remove \
                  all files beside it that begin with store. or running-, and begin with nothing kept";
    let damage: &[(&[u8], String)] = &[
        (
            b"",
            format!("{dir}/store.db is damaged (it is shorter than its header): {remedy}"),
        ),
        (
            &[7; 9000],
            format!("{dir}/store.db is damaged (it is no database): {remedy}"),
        ),
        (
            &others,
            format!("{dir}/store.db is damaged (it is not ours): {remedy}"),
        ),
        (
            &newer,
            format!(
                "{dir}/store.db was written by a later version of circuit (format 7, this one reads \
                 up to 1): start that version, or give this one a directory of its own"
            ),
        ),
    ];
    for (bytes, expected) in damage {
        fs::write(&path, bytes).unwrap();
        assert_eq!(contents(temp.path()).unwrap_err().to_string(), *expected);
        assert_eq!(fs::read(&path).unwrap(), *bytes, "nothing is replaced");
    }
    fs::remove_file(&path).unwrap();
    let expected = format!(
        "{dir}/store.db is damaged ({dir}/store.ballast is there and it is missing): {remedy}"
    );
    assert_eq!(contents(temp.path()).unwrap_err().to_string(), expected);
    // The remedy is applied.
    for name in ["store.ballast", "store.lock"] {
        fs::remove_file(temp.path().join(name)).unwrap();
    }
    assert_eq!(contents(temp.path()).unwrap().services, []);
}

#[test]
fn a_first_start_that_was_interrupted_is_no_damage() {
    let temp = in_memory();
    for name in ["store.draft", "store.draft-wal", "store.lock"] {
        fs::write(temp.path().join(name), "half").unwrap();
    }
    contents(temp.path()).unwrap();
    assert!(!temp.path().join("store.draft").exists());
}

/// Damages a file somewhere. Says what was done.
fn damage(path: &Path, random: &mut Random) -> String {
    let mut bytes = fs::read(path).unwrap();
    let length = bytes.len() as u64;
    let at = random.below(length) as usize;
    // Structure is denser at the beginning of a page.
    let at = match random.below(2) {
        0 => at,
        _ => at / 4096 * 4096 + at % 120,
    };
    let at = at.min(bytes.len() - 1);
    let what = match random.below(5) {
        0 => {
            let bit = random.below(8);
            bytes[at] ^= 1 << bit;
            format!("bit {bit} of byte {at} flipped")
        }
        1 => {
            let count = random.below(64) as usize;
            for byte in bytes.iter_mut().skip(at).take(count) {
                *byte = random.below(256) as u8;
            }
            format!("{count} random bytes at {at}")
        }
        2 => {
            bytes.truncate(at);
            format!("cut at {at}")
        }
        3 => {
            // A sector that was not written.
            let sector = at / 512 * 512;
            let end = bytes.len().min(sector + 512);
            bytes[sector..end].fill(0);
            format!("sector at {sector} empty")
        }
        _ => {
            // A page in another one's place.
            let (page, other) = (
                at / 4096 * 4096,
                random.below(length) as usize / 4096 * 4096,
            );
            let end = bytes.len().min(other + 4096);
            let to = page.min(bytes.len() - (end - other));
            bytes.copy_within(other..end, to);
            format!("page at {other} copied to {page}")
        }
    };
    fs::write(path, bytes).unwrap();
    what
}

fn damage_of(in_order: bool, seeds: u64) {
    let whole = in_memory();
    let expected = fill(whole.path(), in_order);
    let mut found = 0;
    for seed in 0..seeds {
        let mut random = Random(seed);
        let temp = in_memory();
        copy(whole.path(), temp.path());
        let files = files(temp.path());
        let file = &files[random.below(files.len() as u64) as usize];
        let what = format!(
            "seed {seed}: {}: {}",
            file.display(),
            damage(file, &mut random)
        );
        match contents(temp.path()) {
            Ok(contents) => assert_eq!(contents, expected, "{what}"),
            Err(error) => {
                found += 1;
                let error = error.to_string();
                let dir = format!("{}/", temp.path().display());
                // A version may have become a later one.
                assert!(error.contains(&dir), "{what}: {error}");
            }
        }
    }
    // The rest hit what nobody reads: free bytes, and pages of which the log has a later version.
    assert!(found > seeds / 5, "{found} of {seeds} were found");
}

#[test]
fn damage_of_a_database_is_found_or_does_no_harm() {
    damage_of(true, 600);
}

/// The log has the last transactions, and one that is cut off looks like one that was never longer.
#[test]
fn damage_of_a_log_is_found_or_does_no_harm() {
    damage_of(false, 600);
}

#[test]
fn a_log_that_is_gone_is_damage() {
    let temp = in_memory();
    fill(temp.path(), false);
    let log = temp.path().join("store.db-wal");
    fs::remove_file(&log).unwrap();
    let error = contents(temp.path()).unwrap_err().to_string();
    let expected = format!("{} is damaged (it is missing): ", log.display());
    assert!(error.starts_with(&expected), "{error}");
}

/// After a loss of power the extent may be older than the log, and the last transaction half written.
#[test]
fn a_torn_transaction_at_the_end_of_a_log_is_none() {
    let temp = in_memory();
    let live = Live::open(temp.path());
    let service = Random(1).service();
    live.write(vec![Change::Service(service.clone())]).unwrap();
    let extent = fs::read(temp.path().join("store.db-extent")).unwrap();
    let log = temp.path().join("store.db-wal");
    let before = fs::metadata(&log).unwrap().len() as usize;
    let path = "/other".to_owned();
    let text = "x".repeat(20_000);
    let definition = Definition {
        generation: 1,
        text,
        looked_up: String::new(),
    };
    live.write(vec![Change::Service(Service {
        path,
        definition,
        others: Vec::new(),
        ..service.clone()
    })])
    .unwrap();
    let left = in_memory();
    copy(temp.path(), left.path());
    live.end();
    let log = left.path().join("store.db-wal");
    fs::write(left.path().join("store.db-extent"), extent).unwrap();
    let mut bytes = fs::read(&log).unwrap();
    assert!(bytes.len() > before + 3 * 4120);
    // One frame in the middle of it was not written.
    bytes[before + 4120..before + 2 * 4120].fill(0);
    fs::write(&log, bytes).unwrap();
    assert_eq!(contents(left.path()).unwrap().services, [service]);
}
