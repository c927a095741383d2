//! Consumers, retention, and logs that are made while the node runs.

use super::*;
use crate::tree::site::wait;

fn put(site: &Site, path: &str, body: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = agent().put(format!("http://127.0.0.1:{}/v1/logs/{path}", site.port));
    request = request.header("Content-Type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    answer(request.send(body))
}

#[test]
fn a_consumer_is_where_it_was_left_and_moves_on_condition() {
    let ground = Ground::new();
    let mut site = node(&ground, ORDERS);
    let cursors: Vec<String> = (1..=3)
        .map(|n| append(&site, "orders", &format!("{{\"row\":{n}}}"))["cursor"].as_str().expect("a cursor").to_owned())
        .collect();
    let body = |n: usize| format!("{{\"cursor\":\"{}\"}}", cursors[n - 1]);
    assert_eq!(get(&site, "orders/consumers/me").0, 404);
    assert_eq!(put(&site, "orders/consumers/me", &body(1), &[("If-None-Match", "*")]).0, 201);
    assert_eq!(put(&site, "orders/consumers/me", &body(1), &[("If-None-Match", "*")]).0, 412);
    let tag = format!("\"{}\"", cursors[0]);
    assert_eq!(put(&site, "orders/consumers/me", &body(2), &[("If-Match", &tag)]).0, 200);
    let (status, refused) = put(&site, "orders/consumers/me", &body(3), &[("If-Match", &tag)]);
    assert_eq!((status, refused["cursor"].as_str()), (412, Some(cursors[1].as_str())), "{refused}");
    site.kill();
    site.up();
    let (_, me) = get(&site, "orders/consumers/me");
    assert_eq!((&me["cursor"], &me["behind"]), (&cursors[1].as_str().into(), &1.into()), "{me}");
    for (body, status) in [("{}", 400), ("{\"cursor\":\"x\"}", 400), (&body(1).replace('-', "+")[..], 400), ("[", 400)]
    {
        assert_eq!(put(&site, "orders/consumers/me", body, &[]).0, status, "{body}");
    }
    let gone = agent().delete(format!("http://127.0.0.1:{}/v1/logs/orders/consumers/me", site.port)).call();
    assert_eq!(answer(gone).0, 204);
    assert_eq!(get(&site, "orders/consumers").1["consumers"], serde_json::json!([]));
}

#[test]
fn who_comes_too_late_is_told_the_oldest_that_is_left() {
    let ground = Ground::new();
    let mut site = node(&ground, ORDERS);
    for n in 1..=10 {
        append(&site, "orders", &format!("{{\"row\":{n}}}"));
    }
    site.does(&["log", "trim", "orders", "--upto", "4", "--yes"]);
    for restart in [false, true] {
        if restart {
            site.kill();
            site.up();
        }
        let (status, gone) = get(&site, "orders/entries?after=2");
        assert_eq!((status, gone["code"].as_str()), (410, Some("WS-HTTP-009")), "{gone}");
        assert!(gone["message"].as_str().is_some_and(|text| text.contains("oldest that can be read is 5")), "{gone}");
        assert_eq!(rows(&entries(&site, "orders/entries?after=0")), ["5", "6", "7", "8", "9", "10"]);
        assert_eq!(rows(&entries(&site, "orders/entries?after=9")), ["10"]);
    }
    // Nothing is left in it, and it goes on where it was.
    site.does(&["log", "trim", "orders", "--upto", "10", "--yes"]);
    assert_eq!(append(&site, "orders", r#"{"row":11}"#)["end"], 11);
    assert_eq!(rows(&entries(&site, "orders/entries")), ["11"]);
}

#[test]
fn what_is_old_goes_by_itself_but_not_what_a_consumer_needs() {
    let ground = Ground::new();
    let site = node(
        &ground,
        "[log.orders]\nappend = true\nretain = { time = \"1s\" }\n[log.kept]\nappend = true\nretain = { time = \"1s\" }\n",
    );
    let first = append(&site, "kept", r#"{"row":1}"#);
    append(&site, "kept", r#"{"row":2}"#);
    append(&site, "orders", r#"{"row":1}"#);
    append(&site, "orders", r#"{"row":2}"#);
    let place = format!("{{\"cursor\":{}}}", first["cursor"]);
    assert_eq!(put(&site, "kept/consumers/slow", &place, &[]).0, 201);
    crate::tree::site::wait("retention", || get(&site, "orders/entries?after=1").0 == 410);
    assert_eq!(rows(&entries(&site, "kept/entries?after=1")), ["2"]);
}

#[test]
fn a_log_is_made_while_the_node_runs_and_stays() {
    let ground = Ground::new();
    let mut site = node(&ground, "");
    site.does(&["log", "create", "wide", "--partitions", "3"]);
    append(&site, "wide", r#"{"row":1}"#);
    site.kill();
    site.up();
    assert_eq!(get(&site, "wide").1["partitions"], 3);
    assert_eq!(rows(&entries(&site, "wide/entries")), ["1"]);
    let again = site.watershed(&["log", "create", "wide", "--partitions", "2"]);
    assert!(!again.status.success());
    assert!(String::from_utf8_lossy(&again.stderr).contains("WS-FEED-003"));
    for name in ["../x", ".x", "a/b", ""] {
        assert!(!site.watershed(&["log", "create", name]).status.success(), "{name}");
    }
    // The configuration may not say otherwise.
    site.kill();
    site.configure(None, "[log.wide]\npartitions = 2\n");
    site.start();
    assert_eq!(site.ended(), Some(3));
}

#[test]
fn what_a_consumer_of_the_main_log_has_not_read_is_kept_and_goes_when_it_has() {
    let ground = Ground::new();
    let site = node(&ground, "[log.main]\nappend = true\nretain = { time = \"0.5s\", bytes = \"1MiB\" }\n");
    let row = format!("{{\"row\":\"{}\"}}", "x".repeat(1000));
    let first = append(&site, "main", &row)["cursor"].as_str().expect("a cursor").to_owned();
    assert_eq!(put(&site, "main/consumers/me", &format!("{{\"cursor\":\"{first}\"}}"), &[]).0, 201);
    let mut last = first;
    for _ in 0..300 {
        last = append(&site, "main", &row)["cursor"].as_str().expect("a cursor").to_owned();
    }
    let log = || get(&site, "main").1;
    let pins =
        |log: &Json| log["pins"].as_array().is_some_and(|pins| pins.iter().any(|pin| pin["who"] == "consumer me"));
    wait("the consumer is among those who pin it", || pins(&log()));
    // A second log, which nobody pins, shows that retention has had its time.
    site.does(&["log", "create", "other"]);
    site.does(&["log", "retain", "other", "--time", "0.5s"]);
    append(&site, "other", "{\"row\":1}");
    wait("retention has looked", || get(&site, "other").1["oldest"].as_u64() > Some(1));
    assert!(log()["oldest"].as_u64() <= Some(2), "{}", log());
    assert_eq!(put(&site, "main/consumers/me", &format!("{{\"cursor\":\"{last}\"}}"), &[]).0, 200);
    wait("what nobody needs goes", || log()["oldest"].as_u64() > Some(2));
}
