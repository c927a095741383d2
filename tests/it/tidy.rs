//! The house's rules that a compiler does not know: walls between rooms, sizes, words, links.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What each room may import.
const WALLS: [(&str, &[&str]); 11] = [
    ("model", &[]),
    ("log", &["model"]),
    ("view", &["model"]),
    ("stream", &["model", "log", "view"]),
    ("sqlite", &["model", "log", "view"]),
    ("postgres", &["model", "log", "view"]),
    ("peer", &["model", "log", "view", "stream"]),
    ("node", &["model", "log", "view", "stream", "sqlite", "postgres", "peer"]),
    ("http", &["model", "log", "view", "stream", "sqlite", "postgres", "peer", "node"]),
    ("cli", &["model", "log", "view", "stream", "sqlite", "postgres", "peer", "node", "http"]),
    ("testing", &["model", "log", "view", "stream", "sqlite", "postgres", "peer", "node", "http", "cli"]),
];

/// Files over 500 lines, each with its reason.
const LONG_FILES: [(&str, &str); 0] = [];
/// Functions over 70 lines, as `file:name`, each with its reason.
const LONG_FUNCTIONS: [(&str, &str); 0] = [];

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut entries: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            files(&path, ending, found);
        } else if path.extension().is_some_and(|extension| extension == ending) {
            found.push(path);
        }
    }
}

/// Rust files below the given folders, by their path from the root.
fn sources(folders: &[&str]) -> BTreeMap<String, String> {
    let mut found = Vec::new();
    folders.iter().for_each(|folder| files(&root().join(folder), "rs", &mut found));
    assert!(!found.is_empty(), "there are no sources in {folders:?}");
    found.into_iter().map(|path| (name(&path), fs::read_to_string(&path).expect("sources are text"))).collect()
}

fn name(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).to_string_lossy().replace('\\', "/")
}

/// A file without comments, doc examples and what stands after `#[cfg(test)]`.
fn code(text: &str) -> String {
    let end = text.find("#[cfg(test)]").unwrap_or(text.len());
    text[..end].lines().map(|line| line.split("//").next().unwrap_or("")).collect::<Vec<_>>().join("\n")
}

/// The rooms named after `crate::` or `watershed::`, braces included (`use crate::{log, model::Position}`).
fn imported(code: &str) -> Vec<String> {
    let mut rooms = Vec::new();
    for start in ["crate::", "watershed::"] {
        for (at, _) in code.match_indices(start) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$') {
                continue;
            }
            let rest = code[at + start.len()..].trim_start();
            match rest.strip_prefix('{') {
                Some(list) => rooms.extend(first_words(list)),
                None => rooms.push(word(rest)),
            }
        }
    }
    rooms
}

fn word(text: &str) -> String {
    text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// The first word of each item of `a::x, b::{c, d}, e}`.
fn first_words(list: &str) -> Vec<String> {
    let (mut depth, mut words, mut start) = (0, vec![word(list)], false);
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => start = true,
            _ => {}
        }
        if start && c != ',' && !c.is_whitespace() {
            words.push(word(&list[at..]));
            start = false;
        }
    }
    words
}

fn broken_walls(files: &BTreeMap<String, String>) -> Vec<String> {
    let mut broken = Vec::new();
    for (file, text) in files {
        let room = file.trim_start_matches("src/").split(['/', '.']).next().unwrap_or("");
        let Some((_, may)) = WALLS.iter().find(|(name, _)| *name == room) else { continue };
        for import in imported(&code(text)) {
            let is_room = WALLS.iter().any(|(name, _)| *name == import);
            if is_room && import != room && !may.contains(&import.as_str()) {
                let allowed = if may.is_empty() { "nothing of ours".into() } else { may.join(", ") };
                broken.push(format!("{file} imports `{import}`, but the room `{room}` may import {allowed}."));
            }
        }
    }
    broken
}

#[test]
fn rooms_import_downward_only() {
    let broken = broken_walls(&sources(&["src"]));
    assert!(broken.is_empty(), "a wall is broken:\n{}", broken.join("\n"));
}

#[test]
fn a_broken_wall_is_found() {
    let file = |name: &str, text: &str| BTreeMap::from([(name.to_string(), text.to_string())]);
    for (name, text) in [
        ("src/log/segments/mod.rs", "use crate::view::View;"),
        ("src/view.rs", "use crate::{\n    model::{Position, Cursor},\n    log::Log,\n};"),
        ("src/model/x.rs", "fn f() { crate::node::run() }"),
        ("src/node/mod.rs", "use watershed::testing::Proxy;"),
    ] {
        assert_eq!(broken_walls(&file(name, text)).len(), 1, "{name}");
    }
    for (name, text) in [
        ("src/log/mod.rs", "// crate::view\nuse crate::model::Cursor;\n#[cfg(test)]\nmod t { use crate::testing::x; }"),
        ("src/stream/mod.rs", "use crate::{log::{Log, Source}, view};"),
    ] {
        assert_eq!(broken_walls(&file(name, text)), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn every_room_has_its_wall() {
    let lib = fs::read_to_string(root().join("src/lib.rs")).expect("lib.rs is there");
    for line in lib.lines().filter_map(|line| line.trim().strip_prefix("pub mod ")) {
        let room = line.trim_end_matches(';');
        assert!(
            WALLS.iter().any(|(name, _)| *name == room),
            "the room `{room}` has no line in WALLS: say what it may import."
        );
    }
}

#[test]
fn files_are_short() {
    let mut long = Vec::new();
    for (file, text) in sources(&["src", "tests", "examples"]) {
        let lines = text.lines().count();
        let excused = LONG_FILES.iter().any(|(name, _)| *name == file);
        if lines > FILE_LINES_MAX && !excused {
            long.push(format!("{file} has {lines} lines; split it, or give a reason in LONG_FILES."));
        }
        if excused && lines <= FILE_LINES_MAX {
            long.push(format!("{file} is short now: take it out of LONG_FILES."));
        }
    }
    assert!(long.is_empty(), "files should have 300 lines, and have at most {FILE_LINES_MAX}:\n{}", long.join("\n"));
}

/// Functions as rustfmt lays them out: from a line with `fn` to the line with `}` of the same indent.
fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let starts = [
            "fn ",
            "pub fn ",
            "async fn ",
            "pub async fn ",
            "const fn ",
            "pub const fn ",
            "pub(super) fn ",
            "pub(crate) fn ",
            "pub(super) async fn ",
            "pub(crate) async fn ",
        ];
        let Some(rest) = starts.iter().find_map(|start| line.trim_start().strip_prefix(start)) else { continue };
        let closing = format!("{}}}", " ".repeat(indent));
        let length = lines[start..].iter().position(|line| {
            **line == closing || line.trim_end().ends_with(';') && line.len() - line.trim_start().len() == indent
        });
        found.push((word(rest), length.map_or(1, |length| length + 1)));
    }
    found
}

#[test]
fn functions_are_short() {
    let mut long = Vec::new();
    for (file, text) in sources(&["src", "tests", "examples"]) {
        for (function, lines) in functions(&text) {
            let place = format!("{file}:{function}");
            if lines > FUNCTION_LINES_MAX && !LONG_FUNCTIONS.iter().any(|(name, _)| *name == place) {
                long.push(format!("{place} has {lines} lines; split it, or give a reason in LONG_FUNCTIONS."));
            }
        }
    }
    assert!(long.is_empty(), "functions have at most {FUNCTION_LINES_MAX} lines:\n{}", long.join("\n"));
}

#[test]
fn a_long_function_is_found() {
    let body = "        let x = 1;\n".repeat(80);
    let text = format!("impl X {{\n    pub fn long(&self) {{\n{body}    }}\n}}\nfn short() {{\n}}\n");
    assert_eq!(functions(&text), [("long".to_string(), 82), ("short".to_string(), 2)]);
}

#[test]
fn nothing_is_left_undone_in_the_code() {
    // Put together here, so that this file does not contain them.
    let words = [["todo", "!("], ["dbg", "!("], ["unimplemented", "!("], ["FIX", "ME"], ["TO", "DO"]]
        .map(|parts| parts.concat());
    for (file, text) in sources(&["src", "tests", "examples"]) {
        for (number, line) in text.lines().enumerate() {
            for word in &words {
                assert!(!line.contains(word.as_str()), "{file}:{} has `{word}`: finish it.", number + 1);
            }
        }
    }
}

#[test]
fn modules_say_what_they_are() {
    for file in sources(&["src", "tests", "examples"]).keys() {
        for part in file.split(['/', '.', '_']) {
            let vague = matches!(part, "manager" | "helper" | "helpers" | "util" | "utils" | "misc" | "common");
            assert!(!vague, "{file}: `{part}` says nothing; name the file after what it has.");
        }
    }
}

/// Targets of `[text](target)` in Markdown, outside of code blocks.
fn links(text: &str) -> Vec<&str> {
    let mut fenced = false;
    let prose = text.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    });
    prose.flat_map(|line| line.match_indices("](").filter_map(|(at, _)| line[at + 2..].split(')').next())).collect()
}

/// Paths like `docs/FORMAT.md` in backticks.
fn mentions(text: &str) -> Vec<&str> {
    let known = ["docs/", "scripts/", "src/", "tests/", "examples/", "fuzz/", "benches/"];
    // Every second piece stands between backquotes.
    let quoted = text.split('`').enumerate().filter(|(n, _)| n % 2 == 1).map(|(_, word)| word);
    quoted
        .filter(|word| known.iter().any(|start| word.starts_with(start)) && !word.contains([' ', '*', '<', '{']))
        .collect()
}

#[test]
fn pages_name_existing_files_only() {
    let mut pages = Vec::new();
    files(&root().join("docs"), "md", &mut pages);
    pages.extend(["README.md", "ARCHITECTURE.md", "CHANGELOG.md"].map(|page| root().join(page)));
    let mut dead = Vec::new();
    for page in pages {
        let text = fs::read_to_string(&page).unwrap_or_else(|error| panic!("{}: {error}", page.display()));
        let folder = page.parent().unwrap_or(root());
        let relative = links(&text).into_iter().filter(|link| !link.contains("://") && !link.starts_with('#'));
        let linked = relative.map(|link| folder.join(link.split('#').next().unwrap_or(link)));
        let mentioned = mentions(&text).into_iter().map(|path| root().join(path));
        let missing = linked.chain(mentioned).filter(|path| !path.exists());
        dead.extend(missing.map(|path| format!("{} names {}, which does not exist.", name(&page), name(&path))));
    }
    assert!(dead.is_empty(), "{}", dead.join("\n"));
}

#[test]
fn links_and_mentions_are_found() {
    let text = "a [b](docs/X.md) `docs/Y.md` `cargo run`\n```\n[c](no.md)\n```\n";
    assert_eq!(links(text), ["docs/X.md"]);
    assert_eq!(mentions(text), ["docs/Y.md"]);
}
