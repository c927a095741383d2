//! What changes in a view's rows, as events that are resumed.

use std::io::{BufRead, BufReader, Read};
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::calls::append;
use super::publish::UPSERTS as TOTALS;
use super::sql::write;
use crate::tree::site::{Ground, Site, wait};
use crate::views::postgres::CLUSTER;

/// A reader of events.
struct Events(BufReader<Box<dyn Read>>);

/// What an event says: its kind, its id, its data.
type Event = (String, String, Json);

impl Events {
    fn open(site: &Site, query: &str, last: Option<&str>) -> Result<Events, u16> {
        let config = ureq::Agent::config_builder().http_status_as_error(false);
        let agent: ureq::Agent = config.timeout_recv_body(Some(Duration::from_secs(120))).build().into();
        let mut request = agent.get(format!("http://127.0.0.1:{}/v1/views/totals/changes{query}", site.port));
        if let Some(last) = last {
            request = request.header("Last-Event-ID", last);
        }
        let answer = request.call().expect("an answer");
        match answer.status().as_u16() {
            200 => Ok(Events(BufReader::new(Box::new(answer.into_body().into_reader())))),
            status => Err(status),
        }
    }

    fn next(&mut self) -> Event {
        let (mut kind, mut id, mut data) = (String::new(), String::new(), Json::Null);
        loop {
            let mut line = String::new();
            assert!(self.0.read_line(&mut line).expect("a line") > 0, "the stream has ended");
            let line = line.trim_end();
            if let Some(text) = line.strip_prefix("event: ") {
                kind = text.into();
            } else if let Some(text) = line.strip_prefix("id: ") {
                id = text.into();
            } else if let Some(text) = line.strip_prefix("data: ") {
                data = serde_json::from_str(text).expect("JSON");
            } else if line.is_empty() && kind != "ping" {
                return (kind, id, data);
            } else if line.is_empty() {
                kind.clear();
            }
        }
    }
}

fn site(ground: &Ground, store: &str, changes: bool) -> Site {
    let mut site = ground.log_site("hub");
    write(&site, "totals.sql", TOTALS);
    let view = format!("[view.totals]\nlog = \"orders\"\nstore = \"{store}\"\nsql = \"totals.sql\"\n");
    site.configure(None, &format!("[log.orders]\nappend = true\n{view}changes = {changes}\n"));
    site.up();
    site
}

fn row(customer: &str, orders: i64, amount: i64) -> Json {
    json!({ "customer": customer, "orders": orders, "amount": amount })
}

#[test]
fn changes_come_with_before_and_after_and_go_on_where_a_reader_was() {
    changes_come_from("sqlite:totals.db");
}

#[test]
fn changes_of_a_view_in_postgresql_come_as_those_of_one_in_sqlite() {
    changes_come_from(&CLUSTER.database());
}

fn changes_come_from(store: &str) {
    let ground = Ground::new();
    let mut site = site(&ground, store, true);
    let token = append(&site, "ada", 5);
    wait("the view answers", || {
        site.get(&format!("/v1/views/totals?after={token}")).is_some_and(|(code, _)| code == 200)
    });
    let mut events = Events::open(&site, "?snapshot=1", None).expect("changes are kept");
    let (kind, _, first) = events.next();
    assert_eq!((&*kind, &first["after"], &first["table"]), ("row", &row("ada", 1, 5), &"totals".into()), "{first}");
    let (kind, place, _) = events.next();
    assert!(kind == "current" && !place.is_empty(), "{kind} {place}");
    let token = append(&site, "ada", 7);
    let (kind, id, change) = events.next();
    assert_eq!((&*kind, &change["op"]), ("", &"update".into()), "{change}");
    assert_eq!((&change["before"], &change["after"]), (&row("ada", 1, 5), &row("ada", 2, 12)), "{change}");
    assert_eq!(change["cursor"], token.as_str());
    append(&site, "bob", 1);
    let (_, _, change) = events.next();
    assert_eq!(
        (&change["op"], &change["before"], &change["after"]),
        (&"insert".into(), &Json::Null, &row("bob", 1, 1))
    );
    drop(events);
    site.kill();
    site.up();
    // Behind the first change comes the second one, also after the process was killed.
    let mut events = Events::open(&site, "", Some(&id)).expect("it is resumed");
    assert_eq!(events.next().2["after"], row("bob", 1, 1));
    append(&site, "bob", 2);
    assert_eq!(events.next().2["after"], row("bob", 2, 3));
    for wrong in ["0000000000000000-1", "x", "1", &format!("{id}9999")] {
        assert_eq!(Events::open(&site, &format!("?after={wrong}"), None).err(), Some(410), "{wrong}");
    }
    assert_eq!(Events::open(&site, "?snapshot=maybe", None).err(), Some(400));
}

#[test]
fn a_view_that_keeps_no_changes_says_so() {
    let ground = Ground::new();
    let site = site(&ground, "sqlite:totals.db", false);
    wait("the view answers", || site.get("/v1/views/totals?after=latest").is_some_and(|(code, _)| code == 200));
    assert_eq!(Events::open(&site, "", None).err(), Some(409));
}
