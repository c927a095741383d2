//! The built binary, as a shell sees it.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use tempfile::TempDir;
use watershed::log::segments::{SegmentLog, SegmentOptions};
use watershed::log::{Append, Draft, Log};
use watershed::model::{Change, Column, EntryHeader, Kind, LinkId, Op, TableDef, Value, encode_changes};

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

/// Writes a configuration, and gives what `check` says to it.
#[track_caller]
fn check_says(text: &str, code: i32) -> String {
    let folder = folder();
    fs::write(folder.path().join("watershed.toml"), text).expect("the file is written");
    let output = run(folder.path(), &["check"]);
    expect_exit(&output, code);
    stderr(&output)
}

const COMMANDS: [&str; 14] = [
    "demo",
    "init",
    "check",
    "run",
    "status",
    "log",
    "filter",
    "source",
    "diff",
    "peer",
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
fn init_writes_a_file_that_check_accepts_and_never_overwrites_it() {
    let folder = folder();
    let call = ["init", "sqlite:shop.db", "--name", "b7", "--parent", "127.0.0.1:7099", "-c", "b7.toml"];
    expect_exit(&run(folder.path(), &call), 0);
    let written = fs::read_to_string(folder.path().join("b7.toml")).unwrap();
    let output = run(folder.path(), &["run", "--dry-run", "-c", "b7.toml"]);
    expect_exit(&output, 0);
    assert!(stdout(&output).contains("ws://127.0.0.1:7099"), "{}", stdout(&output));
    let again = run(folder.path(), &["init", "sqlite:other.db", "-c", "b7.toml"]);
    expect_exit(&again, 1);
    let expected = "error[WS-CLI-007]: b7.toml exists\n\
                    why: init never overwrites a configuration by itself\n\
                    do: give --force to replace it, or -c FILE for another one\n";
    assert_eq!(stderr(&again), expected);
    assert_eq!(fs::read_to_string(folder.path().join("b7.toml")).unwrap(), written);
    expect_exit(&run(folder.path(), &["init", "sqlite:other.db", "-c", "b7.toml", "--force"]), 0);
    assert!(fs::read_to_string(folder.path().join("b7.toml")).unwrap().contains("sqlite:other.db"));
}

#[test]
fn init_refuses_what_it_could_not_read_back() {
    let folder = folder();
    expect_exit(&run(folder.path(), &["init", "sqlite:shop.db", "--name", "a b"]), 3);
    expect_exit(&run(folder.path(), &["init", "mysql://x/y"]), 2);
    assert!(!folder.path().join("watershed.toml").exists());
}

#[test]
fn a_missing_configuration_says_how_to_make_one() {
    let folder = folder();
    let output = run(folder.path(), &["check"]);
    expect_exit(&output, 3);
    let expected = "error[WS-CFG-001]: the configuration watershed.toml cannot be read\n\
                    why: No such file or directory (os error 2)\n\
                    do: run `watershed init sqlite:FILE.db`, or name the file with -c or WATERSHED_CONFIG\n";
    assert_eq!(stderr(&output), expected);
}

#[test]
fn files_that_are_no_configuration_are_refused() {
    let folder = folder();
    let path = folder.path();
    fs::create_dir(path.join("d")).unwrap();
    fs::write(path.join("large"), vec![b'#'; (1 << 20) + 1]).unwrap();
    fs::write(path.join("bytes"), b"[node]\nname = \"\xff\"\n").unwrap();
    for (file, code) in [("d", "WS-CFG-001"), ("large", "WS-CFG-002"), ("bytes", "WS-CFG-003")] {
        let output = run(path, &["check", "-c", file]);
        expect_exit(&output, 3);
        assert!(stderr(&output).starts_with(&format!("error[{code}]: ")), "{}", stderr(&output));
    }
}

#[test]
fn an_unknown_key_is_pointed_at_with_a_suggestion() {
    let expected = "\
error[WS-CFG-005]: `lisen` is not a key of [node]
 --> watershed.toml:3:1
  |
3 | lisen = \"127.0.0.1:7070\"
  | ^^^^^
why: [node] knows allow_plaintext, data_dir, listen, name, tls, tokens
do: did you mean `listen`?
";
    assert_eq!(check_says("[node]\nname = \"a\"\nlisen = \"127.0.0.1:7070\"\n", 3), expected);
}

#[test]
fn a_value_of_the_wrong_form_is_pointed_at() {
    let expected = "\
error[WS-CFG-006]: `log.main.retain.bytes`: `50 parsec` is not a size; write it as \"50GiB\", \"200MB\" or a number of bytes
 --> watershed.toml:4:20
  |
4 | retain = { bytes = \"50 parsec\" }
  |                    ^^^^^^^^^^^
why: `log.main.retain.bytes`: The oldest is removed beyond this much, needed or not.
do: correct `log.main.retain.bytes`; `watershed config explain log.main.retain.bytes` says what it takes
";
    assert_eq!(check_says("[node]\nname = \"a\"\n[log.main]\nretain = { bytes = \"50 parsec\" }\n", 3), expected);
}

#[test]
fn a_missing_key_is_named_with_its_meaning() {
    let expected = "\
error[WS-CFG-007]: [node] has no `name`
 --> watershed.toml:1:1
  |
1 | [node]
  | ^^^^^^
why: `node.name`: Its label, unique in the tree: letters, digits, `-`, `_` and `.`.
do: add `name = …`
";
    assert_eq!(check_says("[node]\n", 3), expected);
}

#[test]
fn broken_toml_is_pointed_at() {
    let said = check_says("[node]\nname = branch\n", 3);
    assert!(said.starts_with("error[WS-CFG-004]: not valid TOML: "), "{said}");
    assert!(said.contains(" --> watershed.toml:2:8\n  |\n2 | name = branch\n  |        ^^^^^^\n"), "{said}");
}

#[test]
fn several_mistakes_are_told_at_once() {
    let said =
        check_says("[node]\nname = \"a\"\nlisen = 1\n[database]\nurl = \"shop.db\"\n[send.children]\ntabels = []\n", 3);
    let codes: Vec<&str> = said.lines().filter(|line| line.starts_with("error[")).map(|line| &line[6..16]).collect();
    assert_eq!(codes, ["WS-CFG-005", "WS-CFG-006", "WS-CFG-005"], "{said}");
    assert!(said.contains("did you mean \"sqlite:shop.db\"?") && said.contains("did you mean `tables`?"), "{said}");
}

#[test]
fn what_this_version_lacks_is_said_with_its_line() {
    let expected = "\
error[WS-CFG-009]: PostgreSQL is not available in this version
 --> watershed.toml:4:7
  |
4 | url = \"postgres://app:******@localhost/shop\"
  |       ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
why: `database.url` asks for it
do: use a SQLite database: url = \"sqlite:FILE.db\"
";
    let text = "[node]\nname = \"a\"\n[database]\nurl = \"postgres://app:geheim@localhost/shop\"\n";
    assert_eq!(check_says(text, 3), expected);
    assert!(check_says("[node]\nname = \"a\"\nlisten = \"0.0.0.0:7070\"\n", 3).contains("beyond loopback"));
}

#[test]
fn config_show_hides_secrets_and_names_the_environment() {
    let folder = folder();
    let text = "[node]\nname = \"a\"\n[parent]\nurl = \"127.0.0.1:9\"\ntoken_env = \"HQ\"\n[database]\nurl = \"postgres://app:geheim@h/s\"\n";
    fs::write(folder.path().join("w.toml"), text).unwrap();
    for extra in [vec![], vec!["--json"]] {
        let mut command = watershed(folder.path());
        command.args(["config", "show", "-c", "w.toml"]).args(extra);
        let output = command.env("HQ", "geheim").env("WATERSHED_NODE_NAME", "elsewhere").output().unwrap();
        expect_exit(&output, 0);
        let shown = stdout(&output);
        assert!(!shown.contains("geheim") && shown.contains("app:******@h"), "{shown}");
        assert!(shown.contains("elsewhere") && shown.contains("HQ"), "{shown}");
    }
}

#[test]
fn the_environment_goes_over_the_file_and_is_named_in_mistakes() {
    let folder = folder();
    fs::write(folder.path().join("watershed.toml"), "[node]\nname = \"a\"\n").unwrap();
    let output = watershed(folder.path()).arg("check").env("WATERSHED_NODE_LISTEN", "nowhere").output().unwrap();
    expect_exit(&output, 3);
    assert!(stderr(&output).contains("--> WATERSHED_NODE_LISTEN"), "{}", stderr(&output));
    let output = watershed(folder.path()).arg("check").env("WATERSHED_CONFIG", "other.toml").output().unwrap();
    assert!(stderr(&output).contains("the configuration other.toml cannot be read"), "{}", stderr(&output));
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
        expect_exit(&run(folder.path(), &["source", verb, "orders", "--yes"]), 4);
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

#[test]
fn explain_describes_keys_and_suggests_names() {
    let folder = folder();
    let output = run(folder.path(), &["config", "explain", "node.listen"]);
    assert!(stdout(&output).starts_with("node.listen: Address of HTTP"), "{}", stdout(&output));
    let output = run(folder.path(), &["config", "explain", "node.lisen"]);
    expect_exit(&output, 2);
    assert!(stderr(&output).ends_with("do: did you mean `listen`?\n"), "{}", stderr(&output));
}

#[test]
fn doctor_looks_at_the_configuration_and_ends_with_1_when_something_is_wrong() {
    let folder = folder();
    let output = run(folder.path(), &["doctor", "--json"]);
    expect_exit(&output, 1);
    let found: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!((&found["schema"], &found["ok"]), (&serde_json::json!(1), &serde_json::json!(false)));
}

/// Writes a configuration, and a log of three entries in its data folder.
fn stopped_node() -> TempDir {
    let folder = folder();
    expect_exit(&run(folder.path(), &["init", "sqlite:shop.db"]), 0);
    let column = |name: &str, key| Column { name: name.into(), type_name: "".into(), key };
    let table = Arc::new(TableDef::new("orders".parse().expect("a name"), vec![column("id", 1), column("note", 0)]));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let options = SegmentOptions::new(folder.path().join("shop.data/logs/main"));
        let log =
            SegmentLog::open(SegmentOptions { segment_bytes: 1 << 16, ..options }).expect("a log in an empty folder");
        for id in ["1", "2", "3"] {
            let row = Some(vec![Value::new(Kind::Integer, id), Value::new(Kind::Text, "x")]);
            let change = Change { table: 0, op: Op::Insert, row, old: None };
            let header = EntryHeader { node: "shop".into(), tables: vec![table.fingerprint], ..EntryHeader::default() };
            let drafts = vec![Draft::Local { header, changes: encode_changes(&[change]) }];
            let append = Append { from: LinkId::LOCAL, tables: vec![table.clone()], drafts, upto: None };
            log.append(append).await.expect("the append is durable");
        }
        log.close().expect("the log closes");
    });
    folder
}

#[test]
fn the_log_of_a_stopped_node_is_read_without_changing_it() {
    let folder = stopped_node();
    let lines = stdout(&run(folder.path(), &["log", "export"]));
    let entries: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let ids: Vec<i64> = entries.iter().map(|entry| entry["changes"][0]["key"]["id"].as_i64().unwrap()).collect();
    assert_eq!(ids, [1, 2, 3]);
    let last = stdout(&run(folder.path(), &["log", "read", "--tail", "1"]));
    assert!(last.contains("insert   orders  {\"id\":3,\"note\":\"x\"}"), "{last}");
    let cursor = entries[0]["cursor"].as_str().unwrap();
    for (after, count) in [(cursor, 2), ("2", 1), ("0", 3)] {
        let shown = stdout(&run(folder.path(), &["log", "read", "--json", "--after", after]));
        assert_eq!(shown.lines().count(), count, "after {after}: {shown}");
    }
    let none = run(folder.path(), &["log", "read", "--tables", "others"]);
    expect_exit(&none, 0);
    assert!(none.stdout.is_empty());
    let shown = run(folder.path(), &["log", "ls"]);
    assert!(stdout(&shown).contains("stopped"), "{}{}", stdout(&shown), stderr(&shown));
}

#[test]
fn a_cursor_of_another_log_is_for_an_operator() {
    let folder = stopped_node();
    let cursor = format!("{:032x}-{:016x}-1", 5, 7);
    expect_exit(&run(folder.path(), &["log", "read", "--after", &cursor]), 5);
    expect_exit(&run(folder.path(), &["log", "read", "--after", "nonsense"]), 2);
}

#[test]
fn verify_counts_what_is_whole_and_stops_at_damage() {
    let folder = stopped_node();
    let output = run(folder.path(), &["log", "verify", "--json"]);
    expect_exit(&output, 0);
    let found: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!((&found["entries"], &found["tail"]), (&serde_json::json!(3), &serde_json::json!(3)));
    let logs = folder.path().join("shop.data/logs/main");
    let files = fs::read_dir(&logs).unwrap().map(|entry| entry.unwrap().path());
    let in_file = |path: &PathBuf| fs::read(path).unwrap().windows(4).position(|four| four == b"shop");
    let (file, at) = files.filter_map(|path| Some((path.clone(), in_file(&path)?))).next().expect("an entry on disk");
    let mut bytes = fs::read(&file).unwrap();
    bytes[at] ^= 1;
    fs::write(&file, bytes).unwrap();
    let output = run(folder.path(), &["log", "verify"]);
    expect_exit(&output, 5);
    assert!(stderr(&output).starts_with("error[WS-CLI-020]: the log is damaged\nwhy: segment "), "{}", stderr(&output));
}

#[test]
fn a_log_that_is_in_use_is_locked() {
    let folder = stopped_node();
    let log = SegmentLog::open(SegmentOptions::new(folder.path().join("shop.data/logs/main"))).unwrap();
    expect_exit(&run(folder.path(), &["log", "verify"]), 7);
    drop(log);
    expect_exit(&run(folder.path(), &["log", "verify"]), 0);
}
