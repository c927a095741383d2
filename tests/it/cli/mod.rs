//! The built binary, as a shell sees it.

mod config;
mod data;

use std::io::Read;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

fn watershed(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_watershed"));
    command.current_dir(folder).stdin(Stdio::null());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("WATERSHED_")) {
        command.env_remove(name);
    }
    command
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder for the test")
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    watershed(folder).args(arguments).output().expect("the binary starts")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("stdout is text")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("stderr is text")
}

#[track_caller]
fn expect_exit(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "stdout: {}\nstderr: {}", stdout(output), stderr(output));
}

const COMMANDS: [&str; 19] = [
    "demo",
    "init",
    "check",
    "run",
    "status",
    "log",
    "consumer",
    "filter",
    "source",
    "diff",
    "view",
    "events",
    "peer",
    "promote",
    "token",
    "config",
    "doctor",
    "completions",
    "man",
];

#[test]
fn the_help_screen_lists_every_command_in_groups() {
    let folder = folder();
    let output = run(folder.path(), &["--help"]);
    expect_exit(&output, 0);
    let screen = stdout(&output);
    for group in ["Start here:", "Data:", "Operate:"] {
        assert!(screen.contains(group), "{screen}");
    }
    for command in COMMANDS {
        assert!(screen.lines().any(|line| line.starts_with(&format!("  {command} "))), "{command} in {screen}");
    }
    let page = stdout(&run(folder.path(), &["completions", "bash"]));
    let listed = page
        .lines()
        .find(|line| line.contains("opts=\"") && line.contains(" demo "))
        .expect("completions list commands");
    let known =
        listed.split([' ', '"', '=']).filter(|word| word.chars().all(|c| c.is_ascii_lowercase()) && !word.is_empty());
    let known: Vec<&str> = known.filter(|word| *word != "opts").collect();
    assert_eq!(known, COMMANDS, "the screen and the commands differ");
}

#[test]
fn every_help_begins_with_examples() {
    let folder = folder();
    let actions = [
        "log ls",
        "log read",
        "log verify",
        "log tail",
        "log export",
        "log append",
        "log create",
        "log retain",
        "log trim",
        "consumer ls",
        "consumer show",
        "consumer reset",
        "token new",
        "filter test",
        "source ls",
        "source pause",
        "source resume",
        "source retry",
        "source skip",
        "source resync",
        "source drop",
        "peer ls",
        "peer pause",
        "peer resume",
        "config show",
        "config schema",
        "config explain",
    ];
    for call in COMMANDS.iter().chain(&actions) {
        let words: Vec<&str> = call.split(' ').chain(["--help"]).collect();
        let output = run(folder.path(), &words);
        expect_exit(&output, 0);
        let help = stdout(&output);
        assert!(help.starts_with(&format!("Examples:\n  watershed {}", words[0])), "{call}: {help}");
    }
}

#[test]
fn usage_errors_end_with_2() {
    let folder = folder();
    for arguments in [vec![], vec!["nonsense"], vec!["run", "--nonsense"], vec!["log", "read", "--tail", "x"]] {
        expect_exit(&run(folder.path(), &arguments), 2);
    }
    let output = run(folder.path(), &["stauts"]);
    assert!(stderr(&output).contains("'status'"), "{}", stderr(&output));
}

#[test]
fn a_node_that_does_not_run_is_unreachable() {
    let folder = folder();
    expect_exit(&run(folder.path(), &["init", "sqlite:shop.db"]), 0);
    for call in [vec!["status"], vec!["peer", "ls"], vec!["source", "ls"], vec!["log", "tail"]] {
        let output = run(folder.path(), &call);
        expect_exit(&output, 4);
        assert!(
            stderr(&output).ends_with("do: is it running? `watershed run -c watershed.toml`\n"),
            "{}",
            stderr(&output)
        );
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn destructive_commands_want_yes_without_a_terminal() {
    let folder = folder();
    expect_exit(&run(folder.path(), &["init", "sqlite:shop.db"]), 0);
    for verb in ["skip", "resync", "drop"] {
        let output = run(folder.path(), &["source", verb, "orders"]);
        expect_exit(&output, 2);
        assert!(stderr(&output).contains("do: give --yes if you mean it"), "{}", stderr(&output));
        // Peers are dropped without the node, too; the rest needs it to run.
        let code = if verb == "drop" { 1 } else { 4 };
        expect_exit(&run(folder.path(), &["source", verb, "orders", "--yes"]), code);
    }
}

#[test]
fn a_reader_that_goes_away_ends_a_command_quietly() {
    let folder = folder();
    let mut child = watershed(folder.path())
        .args(["config", "schema"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    drop(child.stdout.take());
    let mut said = String::new();
    child.stderr.take().expect("stderr is piped").read_to_string(&mut said).unwrap();
    assert_eq!((child.wait().unwrap().code(), said.as_str()), (Some(0), ""));
}

#[test]
fn completions_manual_and_schema_are_written() {
    let folder = folder();
    for shell in ["bash", "zsh", "fish"] {
        let output = run(folder.path(), &["completions", shell]);
        expect_exit(&output, 0);
        assert!(stdout(&output).contains("watershed"));
    }
    assert!(stdout(&run(folder.path(), &["man"])).contains(".TH watershed 1"));
    let schema: serde_json::Value = serde_json::from_str(&stdout(&run(folder.path(), &["config", "schema"]))).unwrap();
    assert_eq!(schema["required"], serde_json::json!(["node"]));
    assert_eq!(schema["additionalProperties"], serde_json::json!(false));
}
