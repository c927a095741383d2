//! A view of a log of another node, by its URL.

use serde_json::json;

use super::calls::{append, ask};
use super::sql::{TOTALS, write};
use crate::tree::site::Ground;

#[test]
fn a_view_follows_a_log_elsewhere_and_goes_on_after_the_connection_has_failed() {
    let ground = Ground::new();
    let (mut hub, mut reader) = (ground.log_site("hub"), ground.log_site("reader"));
    hub.configure(None, "[log.orders]\nappend = true\npartitions = 2\n");
    write(&reader, "totals.sql", TOTALS);
    let log = format!("http://127.0.0.1:{}/v1/logs/orders", hub.port);
    reader.configure(
        None,
        &format!("[view.totals]\nlog = \"{log}\"\nstore = \"sqlite:totals.db\"\nsql = \"totals.sql\"\n"),
    );
    hub.up();
    reader.up();
    let sum = "select sum(orders) from totals";
    for n in 1..=30 {
        let token = append(&hub, &format!("c{}", n % 5), n);
        let (status, answer) = ask(&reader, "totals", &format!("?after={token}&timeout=40s"), "select 1", json!([]));
        assert_eq!(status, 200, "{answer}");
        match n {
            10 => {
                hub.kill();
                hub.up();
            }
            20 => {
                reader.kill();
                reader.up();
            }
            _ => {}
        }
    }
    let tail: serde_json::Value =
        serde_json::from_str(&hub.get("/v1/logs/orders").expect("an answer").1).expect("JSON");
    let query = format!("?after={}&timeout=40s", tail["cursor"].as_str().expect("a cursor"));
    let (status, answer) = ask(&reader, "totals", &query, sum, json!([]));
    assert_eq!((status, &answer["rows"]), (200, &json!([[30]])), "{answer}");
    assert!(reader.does(&["log", "ls"]).contains("view.totals"), "what it reads is a log of its own");
    assert!(reader.does(&["view", "ls"]).contains("current"));
}
