//! A view that cannot go on says so, to everybody, and passes over nothing by itself.

use std::sync::atomic::Ordering::SeqCst;

use super::bed::{Bed, Place};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_stops_at_what_it_cannot_take_and_goes_on_behind_it_when_told() {
    let (dir, place) = (tempfile::tempdir().expect("a folder"), Place::new());
    place.faults.fails_at.store(3, SeqCst);
    let bed = Bed::up(dir.path(), &place, 1).await;
    let mut tokens = Vec::new();
    for n in 1..=5 {
        tokens.push(bed.append("orders", n).await);
    }
    let began = std::time::Instant::now();
    let (status, told) = bed.sum(&format!("?after={}&timeout=60s", tokens[4])).await;
    assert_eq!((status, &told["reason"], &told["code"]), (409, &"view_failed".into(), &"WS-VIEW-053".into()), "{told}");
    assert!(began.elapsed() < std::time::Duration::from_secs(30), "it was waited for");
    assert!(told["message"].as_str().is_some_and(|text| text.contains("position 3")), "{told}");
    let shown = bed.until("it has failed", |status| status["state"] == "failed").await;
    assert_eq!(
        (&shown["failure"]["position"], &shown["failure"]["reason"]),
        (&3.into(), &"view_failed".into()),
        "{shown}"
    );
    assert!(shown["failure"]["entry"].as_str().is_some_and(|entry| entry.contains("\"row\":3")), "{shown}");
    let (status, ready) = bed.look("/readyz").await;
    assert_eq!(status, 200, "{ready}");
    assert!(ready["problems"].to_string().contains("view totals has stopped at position 3"), "{ready}");
    let metrics = bed.look("/metrics").await.1.to_string();
    assert!(metrics.contains("watershed_view_up{view=\\\"totals\\\"} 0"), "{metrics}");
    for (body, code) in [("{\"position\":4}", 409), ("{\"position\":3,\"partition\":1}", 409), ("{}", 400), ("x", 400)]
    {
        assert_eq!(bed.order("/v1/views/totals/skip", body).await.0, code, "{body}");
    }
    let (status, done) = bed.order("/v1/views/totals/skip", "{\"position\":3}").await;
    assert_eq!(status, 200, "{done}");
    let (status, answer) = bed.sum(&format!("?after={}&timeout=60s", tokens[4])).await;
    assert_eq!((status, &answer["rows"]), (200, &serde_json::json!([[4, 12]])), "{answer}");
    bed.down().await;
    let bed = Bed::up(dir.path(), &place, 1).await;
    let shown = bed.status().await;
    assert_eq!(shown["passed_over"][0]["position"], 3, "for ever: {shown}");
    assert!(shown["passed_over"][0]["error"].as_str().is_some_and(|why| why.contains("liking")), "{shown}");
    bed.down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_view_is_tried_again_when_its_definition_is_taken_up() {
    let (dir, place) = (tempfile::tempdir().expect("a folder"), Place::new());
    place.faults.fails_at.store(1, SeqCst);
    let bed = Bed::up(dir.path(), &place, 1).await;
    let token = bed.append("orders", 7).await;
    bed.until("it has failed", |status| status["state"] == "failed").await;
    place.faults.fails_at.store(0, SeqCst);
    bed.node.shared.views.take_up().await.expect("the definition is good");
    // Until it tries again, who asks is told that it has stopped.
    bed.until("it goes on", |status| status["state"] == "current").await;
    let (status, answer) = bed.sum(&format!("?after={token}&timeout=30s")).await;
    assert_eq!((status, &answer["rows"]), (200, &serde_json::json!([[1, 7]])), "{answer}");
    bed.down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_that_stalls_says_so_within_seconds() {
    let (dir, place) = (tempfile::tempdir().expect("a folder"), Place::new());
    place.faults.held.store(true, SeqCst);
    let bed = Bed::up(dir.path(), &place, 1).await;
    bed.append("orders", 1).await;
    let began = std::time::Instant::now();
    bed.until("it has stalled", |status| status["state"] == "stalled").await;
    assert!(began.elapsed() < std::time::Duration::from_secs(30), "{:?}", began.elapsed());
    let (_, ready) = bed.look("/readyz").await;
    assert!(ready["problems"].to_string().contains("view totals has stalled"), "{ready}");
    place.faults.held.store(false, SeqCst);
    bed.until("it goes on", |status| status["state"] == "current").await;
    bed.down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_away_is_waited_for_and_holds_up_nobody() {
    let (dir, place) = (tempfile::tempdir().expect("a folder"), Place::new());
    place.faults.away.store(true, SeqCst);
    let bed = Bed::up(dir.path(), &place, 1).await;
    let token = bed.append("orders", 1).await;
    let shown = bed.until("it waits", |status| status["error"].is_string()).await;
    assert_eq!(shown["state"], "waiting", "{shown}");
    let (status, told) = bed.sum(&format!("?after={token}&timeout=100ms")).await;
    assert_eq!((status, &told["reason"]), (503, &"not_yet".into()), "{told}");
    place.faults.away.store(false, SeqCst);
    assert_eq!(bed.sum(&format!("?after={token}&timeout=60s")).await.0, 200);
    // And when it goes while the view follows.
    place.faults.away.store(true, SeqCst);
    let token = bed.append("orders", 2).await;
    bed.until("it waits", |status| status["state"] == "waiting").await;
    place.faults.away.store(false, SeqCst);
    assert_eq!(bed.sum(&format!("?after={token}&timeout=60s")).await.0, 200);
    bed.down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_that_was_cut_off_says_so_and_what_a_view_needs_is_kept() {
    let (dir, place) = (tempfile::tempdir().expect("a folder"), Place::new());
    place.faults.away.store(true, SeqCst);
    let bed = Bed::up(dir.path(), &place, 1).await;
    let mut token = String::new();
    for n in 1..=3 {
        token = bed.append("orders", n).await;
    }
    let log = bed.look("/v1/logs/orders").await.1;
    assert_eq!(log["pins"], serde_json::json!([{ "who": "view totals", "position": 0 }]), "{log}");
    // An operator may remove it all the same.
    assert_eq!(bed.order("/v1/logs/orders/trim", "{\"upto\":2}").await.0, 200);
    place.faults.away.store(false, SeqCst);
    let shown = bed.until("it was cut off", |status| status["state"] == "trimmed").await;
    assert!(shown["failure"]["error"].as_str().is_some_and(|why| why.contains("oldest that is there is 3")), "{shown}");
    let (status, told) = bed.sum(&format!("?after={token}&timeout=60s")).await;
    assert_eq!((status, &told["reason"], &told["code"]), (409, &"trimmed".into(), &"WS-VIEW-054".into()), "{told}");
    bed.down().await;
}
