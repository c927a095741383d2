//! Every reason for which there is no answer, with its status and words; and readers that go from node to node.

use std::io::{BufRead, BufReader};
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::bed::{Bed, Place};
use super::calls::{append, ask};
use super::sql::{TOTALS, write};
use crate::tree::site::{Ground, Site};

/// Looks at a refusal, by every way of asking.
async fn refuses(bed: &Bed, token: &str, status: u16, code: &str, reason: &str, words: &str) {
    let query = format!("?after={token}&timeout=300ms");
    let header = [("Watershed-Cursor", token)];
    let mut told = vec![bed.sum(&query).await, bed.ask("sum", "?timeout=300ms", &header).await];
    for path in ["totals", "totals/digest", "totals/totals/all"] {
        told.push(bed.get(&format!("{path}{query}")).await);
    }
    for (found, said) in told {
        assert_eq!(
            (found, said["code"].as_str(), said["reason"].as_str()),
            (status, Some(code), Some(reason)),
            "{said}"
        );
        assert!(said["message"].as_str().is_some_and(|message| message.contains(words)), "{words}: {said}");
        assert!(said["why"].is_string() && said["do"].is_string(), "{said}");
        assert_eq!(said["retryable"], status == 503, "{said}");
        assert!(
            said["cursor"].is_string() && said["view"] == "totals",
            "where it is, so that a reader can decide: {said}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_reason_has_its_status_and_its_words_whichever_way_it_is_asked() {
    let (dir, place) = (tempfile::tempdir().expect("a folder"), Place::new());
    let bed = Bed::up(dir.path(), &place, 1).await;
    let first = bed.append("orders", 1).await;
    assert_eq!(bed.sum("?after=latest").await.0, 200);
    let other = bed.append("others", 1).await;
    refuses(&bed, &other, 409, "WS-VIEW-055", "unknown", "the token is of the log").await;
    place.faults.held.store(true, SeqCst);
    let second = bed.append("orders", 2).await;
    refuses(&bed, &second, 503, "WS-VIEW-050", "not_yet", "has not come that far yet: 1 entries are to come").await;
    place.faults.fails_at.store(2, SeqCst);
    place.faults.held.store(false, SeqCst);
    bed.until("it has failed", |status| status["state"] == "failed").await;
    refuses(&bed, &second, 409, "WS-VIEW-053", "view_failed", "at position 2 of partition 0").await;
    assert_eq!(bed.sum(&format!("?after={first}")).await.0, 200, "what it has, it has");
    bed.down().await;
    // Cut off, by an operator; then a token of what was trimmed.
    place.faults.fails_at.store(0, SeqCst);
    place.faults.away.store(true, SeqCst);
    let bed = Bed::up(dir.path(), &place, 1).await;
    let mut last = String::new();
    for row in 3..=5 {
        last = bed.append("orders", row).await;
    }
    assert_eq!(bed.order("/v1/logs/orders/trim", "{\"upto\":4}").await.0, 200);
    place.faults.away.store(false, SeqCst);
    bed.until("it was cut off", |status| status["state"] == "trimmed").await;
    refuses(&bed, &last, 409, "WS-VIEW-054", "trimmed", "position 2 is not in the log any more").await;
    refuses(&bed, &second, 409, "WS-VIEW-054", "trimmed", "position 2 is not in the log any more").await;
    bed.down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_that_is_built_for_the_first_time_and_is_far_from_it_says_so() {
    let (dir, place) = (tempfile::tempdir().expect("a folder"), Place::new());
    place.faults.held.store(true, SeqCst);
    let bed = Bed::up(dir.path(), &place, 1).await;
    for row in 1..=3 {
        bed.append("orders", row).await;
    }
    bed.down().await;
    // What the log has at the start it has to have before it answers anybody.
    let bed = Bed::up(dir.path(), &place, 1).await;
    let token = bed.append("orders", 4).await;
    bed.until("it is being built", |status| status["state"] == "building" || status["state"] == "stalled").await;
    refuses(&bed, &token, 503, "WS-VIEW-052", "rebuilding", "entries are to come").await;
    place.faults.held.store(false, SeqCst);
    assert_eq!(bed.sum(&format!("?after={token}&timeout=60s")).await.0, 200);
    bed.down().await;
}

/// The header of every answer is what may be shown next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_has_the_header_and_it_is_taken_everywhere() {
    let (dir, place) = (tempfile::tempdir().expect("a folder"), Place::new());
    let bed = Bed::up(dir.path(), &place, 2).await;
    let mut tokens = Vec::new();
    for row in 1..=6 {
        tokens.push(bed.append("orders", row).await);
    }
    let mut seen = tokens.join(",");
    for _ in 0..2 {
        for path in ["totals", "totals/digest", "totals/totals/all", "totals/digest?at="] {
            let path = if path.ends_with('=') { format!("{path}{seen}") } else { format!("{path}?after={seen}") };
            let (status, answer) = bed.get(&path).await;
            assert_eq!(status, 200, "{path}: {answer}");
            seen = answer["header"].as_str().expect("the header").to_owned();
            assert_eq!(answer["cursor"], seen.as_str());
            assert_eq!(seen.split(',').count(), 2, "a cursor of each partition: {seen}");
        }
        let (status, answer) = bed.ask("sum", "", &[("Watershed-Cursor", &seen)]).await;
        assert_eq!((status, &answer["rows"][0][0]), (200, &json!(6)), "{answer}");
        seen = answer["header"].as_str().expect("the header").to_owned();
    }
    bed.down().await;
}

/// A question, and what was answered: how many, and as of where.
fn read(site: &Site, query: &str) -> (u64, String) {
    let (status, answer): (u16, Json) =
        ask(site, "totals", query, "select coalesce(sum(orders), 0) from totals", json!([]));
    assert_eq!(status, 200, "{answer}");
    (answer["rows"][0][0].as_u64().expect("a number"), answer["cursor"].as_str().expect("a cursor").to_owned())
}

#[test]
fn a_reader_that_goes_from_node_to_node_never_goes_back() {
    let ground = Ground::new();
    let (mut hub, mut reader) = (ground.log_site("hub"), ground.log_site("reader"));
    let section = "[view.totals]\nlog = \"orders\"\nstore = \"sqlite:totals.db\"\nsql = \"totals.sql\"\n";
    write(&hub, "totals.sql", TOTALS);
    write(&reader, "totals.sql", TOTALS);
    hub.configure(None, &format!("[log.orders]\nappend = true\n{section}"));
    hub.up();
    let mirror = format!("[log.orders]\nmirror = \"http://127.0.0.1:{}/v1/logs/orders\"\n", hub.port);
    reader.configure(None, &format!("{mirror}{section}"));
    reader.up();
    let (mut last, mut without) = (0, 0);
    for n in 1..=60u64 {
        let token = append(&hub, &format!("c{}", n % 7), 1);
        // Its own write at the one, then what was seen there at the other, and back.
        let (mine, seen) = read(&hub, &format!("?after={token}&timeout=60s"));
        let (there, seen) = read(&reader, &format!("?after={seen}&timeout=60s"));
        let (back, _) = read(&hub, &format!("?after={seen}&timeout=60s"));
        assert!(mine > last && there >= mine && back >= there, "{last} {mine} {there} {back} of {n}");
        append(&hub, "more", 1);
        last = read(&hub, "?after=latest&timeout=60s").0;
        // Who shows nothing may go back: the check can fail.
        without += u64::from(read(&reader, "").0 < last);
        if n == 30 {
            reader.kill();
            reader.up();
        }
    }
    eprintln!("without a token {without} of 60 went back");
    assert!(without > 0, "the mirror was never behind, so nothing was shown");
}

#[test]
fn a_snapshot_of_changes_has_what_its_reader_has_seen() {
    let ground = Ground::new();
    let mut site = ground.log_site("hub");
    write(&site, "totals.sql", TOTALS);
    let view = "[view.totals]\nlog = \"orders\"\nstore = \"memory\"\nsql = \"totals.sql\"\nchanges = true\n";
    site.configure(None, &format!("[log.orders]\nappend = true\n{view}"));
    site.up();
    let changes = |port: u16, query: &str, seen: &str| {
        let config = ureq::Agent::config_builder().http_status_as_error(false);
        let agent: ureq::Agent = config.timeout_recv_body(Some(Duration::from_secs(120))).build().into();
        let url = format!("http://127.0.0.1:{port}/v1/views/totals/changes{query}");
        let request = agent.get(url).header("Watershed-Cursor", seen);
        let answer = request.call().expect("an answer");
        let cursor = answer.headers().get("watershed-cursor").and_then(|value| Some(value.to_str().ok()?.to_owned()));
        (answer.status().as_u16(), cursor, BufReader::new(answer.into_body().into_reader()))
    };
    for n in 1..=20 {
        let token = append(&site, "ada", 1);
        let (status, cursor, events) = changes(site.port, "?snapshot=1", &token);
        assert_eq!((status, cursor.as_deref()), (200, Some(&*token)));
        let row = events.lines().map(|line| line.expect("a line")).find(|line| line.starts_with("data: "));
        assert!(row.as_deref().is_some_and(|row| row.contains(&format!("\"orders\":{n}"))), "{n}: {row:?}");
        if n == 10 {
            // What was in memory is made again first.
            site.kill();
            site.up();
        }
    }
    let nobodys = format!("{}-{}-1", "9".repeat(32), "a".repeat(16));
    for (seen, status) in [(nobodys.as_str(), 409), ("x", 400)] {
        assert_eq!(changes(site.port, "", seen).0, status, "{seen}");
    }
}
