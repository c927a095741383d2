//! Configurations: what is said to each mistake.

use std::fs;

use super::{expect_exit, folder, run, stderr, stdout, watershed};

/// Writes a configuration, and gives what `check` says to it.
#[track_caller]
fn check_says(text: &str, code: i32) -> String {
    let folder = folder();
    fs::write(folder.path().join("watershed.toml"), text).expect("the file is written");
    let output = run(folder.path(), &["check"]);
    expect_exit(&output, code);
    stderr(&output)
}

#[test]
fn init_writes_a_file_that_check_accepts_and_never_overwrites_it() {
    let folder = folder();
    let call = ["init", "sqlite:shop.db", "--name", "b7", "--parent", "127.0.0.1:7099", "-c", "b7.toml"];
    expect_exit(&run(folder.path(), &call), 0);
    let written = fs::read_to_string(folder.path().join("b7.toml")).unwrap();
    let output = run(folder.path(), &["run", "--dry-run", "-c", "b7.toml"]);
    expect_exit(&output, 4);
    assert!(
        stderr(&output).contains("error[WS-SQLITE-004]"),
        "a database is never made by mistake: {}",
        stderr(&output)
    );
    rusqlite::Connection::open(folder.path().join("shop.db"))
        .expect("a database")
        .execute_batch("vacuum")
        .expect("a file");
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
why: [node] knows allow_plaintext, cors, data_dir, listen, name, tls, tokens
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
error[WS-CFG-009]: the engine kafka is not available in this version
 --> watershed.toml:4:10
  |
4 | engine = \"kafka\"
  |          ^^^^^^^
why: `log.main.engine` asks for it
do: use the engine \"segments\"
";
    let text = "[node]\nname = \"a\"\n[log.main]\nengine = \"kafka\"\n";
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
