//! `kill -9` of the server, at random points of random histories, while it opens the store among
//! them: what was acknowledged is there, what was not is there in order or not at all, and notes that
//! the kernel has had survive.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::time::Duration;

use super::*;

/// How many changes a child has under way at most.
const UNDER_WAY: usize = 8;

/// The changes and the note of one step.
fn step(random: &mut Random) -> (Vec<Change>, Note) {
    let count = 1 + random.below(3);
    let changes = (0..count).map(|_| random.change()).collect();
    (changes, random.note())
}

/// The child: writes for as long as it lives. It says what it has been told is written.
#[test]
#[ignore = "a process of the test below"]
fn writer() {
    let Some(told) = told() else {
        return;
    };
    let (seed, dir) = told.split_once(' ').unwrap();
    let live = Live::open(Path::new(dir));
    let seed = seed.parse().unwrap();
    let (mut history, mut random) = (Random(seed), Random(!seed));
    let mut said = std::io::stdout();
    let mut say = |line: String| said.write_all(line.as_bytes()).unwrap();
    say("open\n".to_owned());
    let mut under_way = VecDeque::new();
    let mut acknowledged = 0;
    for step_number in 1.. {
        let (changes, note) = step(&mut history);
        under_way.push_back(live.store.write(changes));
        live.store.note(note);
        if random.below(4) == 0 {
            live.store.0.notes.settle();
            say(format!("noted {step_number}\n"));
        }
        while under_way.len() > random.below(UNDER_WAY as u64) as usize {
            let answer = wait(under_way.pop_front().unwrap());
            assert!(
                matches!(answer, Ok(()) | Err(WriteError::Missing(_))),
                "{answer:?}"
            );
            acknowledged += 1;
            say(format!("written {acknowledged}\n"));
        }
    }
}

/// Kills one child after the other on the same store, and checks after each what is there.
fn rounds(seed: u64, rounds: u64) {
    let temp = in_memory();
    let mut before = Model::default();
    let mut random = Random(seed);
    for round in 0..rounds {
        let history = random.below(u64::MAX);
        let told = format!("{history} {}", temp.path().display());
        let mut child = child("store::tests::kill::writer", &told)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut said: Vec<String> = Vec::new();
        match random.below(3) {
            // While it opens the store, or soon after.
            0 => std::thread::sleep(Duration::from_micros(random.below(30_000))),
            _ => {
                let enough = 4 + random.below(200) as usize;
                said.extend(lines.by_ref().take(enough).map(Result::unwrap));
            }
        }
        child.kill().unwrap();
        said.extend(lines.map_while(Result::ok));
        let killed = child.wait().unwrap().code().is_none();
        let context = format!("seed {seed}, round {round}: {said:?}");
        assert!(killed, "{context}");
        let last = |word: &str| {
            let of = |line: &String| line.strip_prefix(word)?.parse().ok();
            said.iter().filter_map(of).max().unwrap_or(0_usize)
        };
        let (written, noted) = (last("written "), last("noted "));
        // One acknowledgement may be unsaid.
        let most = written + UNDER_WAY + 2;
        let found = Model::of(&contents(temp.path()).unwrap_or_else(|error| {
            panic!("{error}: {context}");
        }));
        let mut next = before;
        let mut steps = Random(history);
        let mut seen = [false; 2];
        for number in 0..=most {
            // So many steps are done.
            let changes = (&next.services, &next.slots) == (&found.services, &found.slots);
            seen[0] |= changes && number >= written;
            let notes = (&next.instances, &next.processes) == (&found.instances, &found.processes);
            seen[1] |= notes && number >= noted;
            let (changes, note) = step(&mut steps);
            let _ = next.write(&changes);
            next.note(note);
        }
        assert!(
            seen[0],
            "changes are not those of {written} steps or more: {context}"
        );
        assert!(
            seen[1],
            "notes are not those of {noted} steps or more: {context}"
        );
        before = found;
    }
}

#[test]
fn nothing_acknowledged_is_lost() {
    rounds(1, 40);
}
