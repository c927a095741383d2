//! `docs/CONFORMANCE.md` names tests that there are.

use std::fs;
use std::path::Path;

/// The file of a test `folder::file::name` and the line that begins it.
fn place(test: &str) -> Option<(String, String)> {
    let (module, name) = test.rsplit_once("::")?;
    Some((format!("tests/it/{}.rs", module.replace("::", "/")), format!("fn {name}(")))
}

/// What stands between backquotes: every second piece.
fn quoted(row: &str) -> impl Iterator<Item = &str> {
    row.split('`').enumerate().filter(|(n, _)| n % 2 == 1).map(|(_, name)| name)
}

#[test]
fn every_row_names_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/CONFORMANCE.md")).expect("the page");
    let rows = page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| case"));
    let tests: Vec<&str> = rows.flat_map(quoted).collect();
    let is_there = |test: &&str| {
        let Some((file, line)) = place(test) else { return false };
        let text = fs::read_to_string(root.join(file)).unwrap_or_default();
        text.contains(&line)
    };
    let missing: Vec<&&str> = tests.iter().filter(|test| !is_there(test)).collect();
    assert!(missing.is_empty(), "docs/CONFORMANCE.md names tests that there are not: {missing:#?}");
    assert!(tests.len() > 20, "the page has rows");
}

#[test]
fn tests_are_found_by_their_names() {
    let expected = ("tests/it/a/b.rs".to_string(), "fn c_d(".to_string());
    assert_eq!(place("a::b::c_d"), Some(expected));
    assert_eq!(place("c_d"), None);
}
