//! Documents and comments refer only to files and headings that are in the repository.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

/// The repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

/// All files of the project that are text, relative to its root, but for what is built.
fn files() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let hidden = name.starts_with('.') && name != ".ci";
            if hidden || name == "target" || name == "corpus" || name == "artifacts" {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if fs::read_to_string(&path).is_ok() {
                found.push(path.strip_prefix(root()).unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

fn text(file: &Path) -> String {
    fs::read_to_string(root().join(file)).unwrap()
}

/// A path without `.` and `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => assert!(plain.pop(), "{path:?} leads out of the repository"),
            Component::CurDir => {}
            other => plain.push(other),
        }
    }
    plain
}

/// The anchors that a document's headings have, as GitHub makes them.
fn headings(document: &str) -> BTreeSet<String> {
    let titles = document.lines().filter(|line| line.starts_with('#'));
    titles
        .map(|title| {
            let title = title.trim_start_matches('#').trim().to_lowercase();
            let kept = title
                .chars()
                .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}

/// The targets of the links in a document: what stands between `](` and `)`.
fn links(document: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut code = false;
    for line in document.lines() {
        code ^= line.starts_with("```");
        if !code {
            let ends = line.split("](").skip(1);
            found.extend(ends.filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())));
        }
    }
    found
}

/// A text as one line, without the marks of comments.
fn as_one_line(text: &str) -> String {
    let lines = text
        .lines()
        .map(|line| line.trim().trim_start_matches(['/', '!', '#']).trim());
    lines.collect::<Vec<_>>().join(" ")
}

/// The documents that a text names, words that end in `.md`, each with the heading that follows
/// it: `docs/dns.md, "Records"`.
fn documents_in(text: &str) -> Vec<(&str, Option<&str>)> {
    let mut found = Vec::new();
    for (at, end) in text.match_indices(".md") {
        let after = &text[at + end.len()..];
        let in_word = |c: char| c.is_alphanumeric() || matches!(c, '/' | '.' | '-' | '_');
        let begin = text[..at].rfind(|c| !in_word(c)).map_or(0, |at| {
            at + text[at..].chars().next().map_or(0, char::len_utf8)
        });
        let name = &text[begin..at + end.len()];
        if name.len() == end.len() || after.starts_with(|c: char| c.is_alphanumeric()) {
            continue;
        }
        let heading = after
            .strip_prefix(", \"")
            .and_then(|rest| rest.split_once('"'));
        found.push((name, heading.map(|(heading, _)| heading)));
    }
    found
}

#[test]
fn links_lead_to_files_and_headings() {
    let mut broken = Vec::new();
    let mut checked = 0;
    for file in files() {
        if file.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        for link in links(&text(&file)) {
            if link.contains("://") {
                continue;
            }
            checked += 1;
            let (path, heading) = match link.split_once('#') {
                Some((path, heading)) => (path, Some(heading)),
                None => (&link[..], None),
            };
            let target = match path {
                "" => file.clone(),
                path => plain(&file.parent().unwrap().join(path)),
            };
            let there = root().join(&target).exists()
                && heading.is_none_or(|heading| headings(&text(&target)).contains(heading));
            if !there {
                broken.push(format!("{}: {link}", file.display()));
            }
        }
    }
    assert!(checked > 10 && broken.is_empty(), "{checked}: {broken:#?}");
}

#[test]
fn documents_that_are_named_are_there() {
    let files = files();
    let mut missing = Vec::new();
    let mut checked = 0;
    for file in &files {
        let text = as_one_line(&text(file));
        for (name, heading) in documents_in(&text) {
            checked += 1;
            // Wherever it stands, it is meant from the root, or by its name alone; that relative
            // links lead somewhere is the other test's.
            let bare = name.trim_start_matches(['/', '.']);
            let found = files.iter().find(|file| file.ends_with(bare));
            let is_there = |heading: &str| {
                found.is_some_and(|file| {
                    let document = self::text(file);
                    let mut titles = document.lines().filter(|line| line.starts_with('#'));
                    titles.any(|title| title.trim_start_matches('#').trim() == heading)
                })
            };
            if found.is_none() || heading.is_some_and(|heading| !is_there(heading)) {
                missing.push(format!("{}: {name} {heading:?}", file.display()));
            }
        }
    }
    assert!(
        checked > 10 && missing.is_empty(),
        "{checked}: {missing:#?}"
    );
}

#[test]
fn links_and_names_are_found() {
    assert_eq!(
        links("a [b](dns.md#d) and [e](f)\n```\n[no](link)\n```\n"),
        ["dns.md#d", "f"]
    );
    let line = as_one_line("//! See docs/dns.md,\n    /// \"Records\" (or `README.md`). *.md");
    assert_eq!(
        documents_in(&line),
        [("docs/dns.md", Some("Records")), ("README.md", None)]
    );
    let anchors = headings("# Growing the protocol\ntext\n## What's 0-RTT?");
    assert!(anchors.contains("growing-the-protocol") && anchors.contains("whats-0-rtt"));
    let from = Path::new("docs/adr").join("../dns.md");
    assert_eq!(plain(&from), Path::new("docs/dns.md"));
}
