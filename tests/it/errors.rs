//! `docs/ERRORS.md` knows every code, and every code has one meaning.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Codes that are said in several files, with the same meaning everywhere.
const SAID_TWICE: [&str; 4] = ["WS-OWN-002", "WS-SEND-003", "WS-SQLITE-004", "WS-NODE-005"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
            found.push(path);
        }
    }
}

/// Every `WS-ROOM-123` in a text.
fn codes(text: &str) -> Vec<String> {
    let starts = text.match_indices("WS-").map(|(at, _)| &text[at..]);
    let code = |text: &str| {
        let end =
            text.find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '-')).unwrap_or(text.len());
        let code = &text[..end];
        let number = code.rsplit('-').next().unwrap_or_default();
        (code.matches('-').count() == 2 && number.len() == 3 && number.bytes().all(|b| b.is_ascii_digit()))
            .then(|| code.to_owned())
    };
    starts.filter_map(code).collect()
}

fn in_sources() -> BTreeMap<String, BTreeSet<String>> {
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("sources are text");
        let said: String = text
            .lines()
            .take_while(|line| !line.contains("#[cfg(test)]"))
            .filter(|line| !line.trim_start().starts_with("//"))
            .map(|line| format!("{line}\n"))
            .collect();
        for code in codes(&said) {
            found.entry(code).or_default().insert(file.display().to_string());
        }
    }
    found
}

#[test]
fn every_code_stands_on_the_page_of_errors_once() {
    let page = fs::read_to_string(root().join("docs/ERRORS.md")).expect("the page");
    let rows: Vec<String> = page
        .lines()
        .filter(|line| line.starts_with("| `WS-"))
        .filter_map(|line| codes(line).first().cloned())
        .collect();
    let listed: BTreeSet<String> = rows.iter().cloned().collect();
    assert_eq!(listed.len(), rows.len(), "a code has two rows");
    let said: BTreeSet<String> = in_sources().into_keys().collect();
    let missing: Vec<_> = said.difference(&listed).collect();
    assert!(missing.is_empty(), "docs/ERRORS.md lacks {missing:?}");
    let gone: Vec<_> = listed.difference(&said).collect();
    assert!(gone.is_empty(), "docs/ERRORS.md lists {gone:?}, which nothing says any more");
}

#[test]
fn no_code_is_given_in_two_places() {
    let twice: Vec<_> = in_sources()
        .into_iter()
        .filter(|(code, files)| files.len() > 1 && !SAID_TWICE.contains(&&**code) && !code.starts_with("WS-CFG"))
        .collect();
    assert!(twice.is_empty(), "one code, one meaning: {twice:#?}");
}

#[test]
fn codes_are_found() {
    assert_eq!(codes("error[WS-NODE-014]: `WS-CFG-001`, WS-X-1, WS-, WS-NODE-01"), ["WS-NODE-014", "WS-CFG-001"]);
}
