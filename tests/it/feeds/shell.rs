//! The same by `watershed log`, `consumer` and `token`.

use std::io::Write;
use std::process::{Command, Stdio};

use super::*;

fn text(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn rows_of_an_argument_a_file_and_stdin_are_appended() {
    let ground = Ground::new();
    let mut site = node(&ground, ORDERS);
    let token = site.does(&["log", "append", "orders", r#"{"n":1}"#, "--key", "a", "--token"]);
    assert_eq!(token.trim(), entries(&site, "orders/entries")[0]["cursor"]);
    let file = site.dir.join("rows.ndjson");
    std::fs::write(&file, "{\"n\":2}\n\n{\"key\":\"b\",\"row\":{\"n\":3}}\n").expect("written");
    site.does(&["log", "append", "orders", "--file", file.to_str().expect("a path"), "--batch", "1"]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_watershed"));
    let command = command.args(["log", "append", "orders", "--json", "-c"]).arg(site.config());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("starts");
    child.stdin.take().expect("stdin").write_all(b"{\"n\":4}\n{\"n\":5}\n").expect("written");
    let output = child.wait_with_output().expect("ends");
    assert!(output.status.success() && text(&output).contains("\"end\":4"), "{}", text(&output));
    assert_eq!(
        rows(&entries(&site, "orders/entries")),
        [r#"{"n":1}"#, r#"{"n":2}"#, r#"{"n":3}"#, r#"{"n":4}"#, r#"{"n":5}"#]
    );
    let refused = site.watershed(&["log", "append", "orders", "{\"n\":"]);
    assert_eq!(refused.status.code(), Some(1));
    let keyed = site.does(&["log", "read", "orders", "--key", "b", "--json"]);
    assert!(keyed.contains("\"position\":3") && keyed.lines().count() == 1, "{keyed}");
    assert_eq!(
        site.does(&["log", "read", "orders", "--from", "1h", "--where", "row.n > 4", "--json"]).lines().count(),
        1
    );
    let whole = site.does(&["log", "export", "orders"]);
    site.stop();
    assert_eq!(site.does(&["log", "export", "orders"]), whole);
    assert!(site.does(&["log", "verify", "orders"]).contains("whole"));
    let listed: Json = serde_json::from_str(&site.does(&["log", "ls", "--json"])).expect("JSON");
    let orders = listed["logs"].as_array().and_then(|logs| logs.iter().find(|log| log["name"] == "orders"));
    assert_eq!(orders.map(|log| &log["tail"]), Some(&4.into()), "{listed}");
}

#[test]
fn consumers_are_shown_reset_and_forgotten() {
    let ground = Ground::new();
    let site = node(&ground, ORDERS);
    let cursor = append(&site, "orders", r#"{"row":1}"#)["cursor"].to_string();
    let url = format!("http://127.0.0.1:{}/v1/logs/orders/consumers/bill", site.port);
    let made = agent().put(url).header("Content-Type", "application/json").send(format!("{{\"cursor\":{cursor}}}"));
    assert_eq!(answer(made).0, 201);
    assert!(site.does(&["consumer", "ls"]).contains("bill"));
    assert_eq!(site.watershed(&["consumer", "reset", "orders", "bill", "--after", "0"]).status.code(), Some(2));
    assert!(site.does(&["consumer", "reset", "orders", "bill", "--after", "0", "--yes"]).contains("1 behind"));
    assert!(site.does(&["consumer", "show", "orders", "bill", "--json"]).contains("\"behind\":1"));
    site.does(&["consumer", "reset", "orders", "bill", "--forget", "--yes"]);
    assert!(!site.does(&["consumer", "ls", "--json"]).contains("bill"));
}

#[test]
fn a_token_is_drawn_once_and_its_line_fits_the_configuration() {
    let ground = Ground::new();
    let site = ground.log_site("hub");
    let drawn = crate::tree::site::watershed(&["token", "new", "team-a", "--may", "read:orders", "--json"], None);
    let drawn: Json = serde_json::from_slice(&drawn.stdout).expect("JSON");
    assert!(drawn["token"].as_str().is_some_and(|token| token.len() > 40), "{drawn}");
    std::fs::write(site.dir.join("team-a.token"), drawn["token"].as_str().expect("a token")).expect("written");
    let line = drawn["line"].as_str().expect("a line");
    std::fs::write(site.config(), format!("[node]\nname = \"hub\"\ntokens = [{line}]\n")).expect("written");
    site.does(&["check"]);
    let wrong = crate::tree::site::watershed(&["token", "new", "x", "--may", "write:orders"], None);
    assert_eq!(wrong.status.code(), Some(2));
}

#[test]
fn init_writes_a_node_that_takes_appends() {
    let ground = Ground::new();
    let site = ground.log_site("hub");
    site.does(&["init", "--log", "orders", "--listen", &format!("127.0.0.1:{}", site.port)]);
    let mut site = site;
    site.up();
    assert_eq!(append(&site, "orders", r#"{"row":1}"#)["end"], 1);
}
