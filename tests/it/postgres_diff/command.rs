//! `watershed diff` as a shell sees it.

use std::process::{Command, Output};

use super::*;

fn diff(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_watershed"));
    command.arg("diff").args(arguments).stdin(std::process::Stdio::null()).output().expect("the binary starts")
}

#[track_caller]
fn expect(arguments: &[&str], code: i32) -> (String, String) {
    let output = diff(arguments);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{out}\n{err}");
    (out, err)
}

#[test]
fn databases_are_compared_and_repaired_by_their_urls() {
    let url =
        database("create table orders (id int primary key, note text); insert into orders values (1, 'x'), (2, 'y')");
    let file = File::new(
        "create table orders (id integer primary key, note text); insert into orders values (1, 'x'), (3, 'z')",
    );
    let sqlite = format!("sqlite:{}", file.path.display());
    let (out, _) = expect(&[&url, &sqlite], 6);
    assert!(out.contains("DIFFERENT") && out.contains("only in a") && out.contains("only in b"), "{out}");
    let (out, _) = expect(&[&sqlite, &url, "--json", "--tables", "orders"], 6);
    let found: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((&found["tables"][0]["differ"], &found["tables"][0]["rows_a"]), (&2.into(), &2.into()));
    expect(&[&url, &sqlite, "--repair"], 2);
    expect(&[&url, &sqlite, "--repair", "--yes"], 0);
    expect(&[&url, &sqlite], 0);
    let other = database("create table orders (id int primary key, note text)");
    let (out, _) = expect(&[&url, &other, "--repair", "--yes", "--json"], 0);
    assert!(out.contains("\"repaired\": 2") || out.contains("\"repaired\":2"), "{out}");
    expect(&[&url, &other, "--tables", "orders,gone"], 6);
}

#[test]
fn sides_that_are_none_say_why() {
    let url = database("create table t (id int primary key)");
    let closed = "postgres://app:secret@127.0.0.1:1/shop";
    let (_, err) = expect(&[&url, closed], 4);
    assert!(err.contains("error[WS-PG-002]") && !err.contains("secret"), "{err}");
    let (_, err) = expect(&[&url, "postgres://h/x?sslmod=require"], 3);
    assert!(err.contains("did you mean \"sslmode\""), "{err}");
    let missing = url.rsplit_once('/').expect("a URL").0.to_string() + "/nowhere";
    let (_, err) = expect(&[&url, &missing], 3);
    assert!(err.contains("WS-PG-004"), "{err}");
    expect(&[&url, "sqlite:/nowhere.db"], 4);
    expect(&[&url, "mysql://h/x"], 2);
}
