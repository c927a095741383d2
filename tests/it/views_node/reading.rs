//! What a reader gets: what it has written, and nothing older than what it has seen.

use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use super::bed::{Bed, Place};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_shows_its_token_reads_what_it_has_written() {
    let (dir, place) = (tempfile::tempdir().expect("a folder"), Place::new());
    let bed = Bed::up(dir.path(), &place, 1).await;
    for n in 1..=50i64 {
        let token = bed.append("orders", n).await;
        let (status, answer) = match n % 3 {
            0 => bed.sum(&format!("?after={token}")).await,
            1 => bed.ask("sum", "", &[("Watershed-Cursor", &token)]).await,
            _ => bed.sum("?consistency=latest").await,
        };
        assert_eq!(status, 200, "{answer}");
        assert_eq!(answer["rows"], serde_json::json!([[n, n * (n + 1) / 2]]), "{answer}");
        assert_eq!((&answer["cursor"], &answer["stale"]), (&token.as_str().into(), &false.into()), "{answer}");
        assert_eq!(answer["definition"], "0000000000000001");
    }
    let (status, row) = bed.get("totals/totals/all").await;
    assert_eq!((status, &row["row"]["count"]), (200, &50.into()), "{row}");
    let (_, digest) = bed.get("totals/digest").await;
    assert_eq!((&digest["rows"], digest["digest"].as_str().map(str::len)), (&50.into(), Some(64)), "{digest}");
    let (_, all) = bed.look("/v1/views").await;
    assert_eq!((&all["views"][0]["name"], &all["views"][0]["state"]), (&"totals".into(), &"current".into()), "{all}");
    bed.down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_partition_of_a_token_counts() {
    let (dir, place) = (tempfile::tempdir().expect("a folder"), Place::new());
    let bed = Bed::up(dir.path(), &place, 3).await;
    let mut tokens = Vec::new();
    for n in 1..=20 {
        tokens.push(bed.append("orders", n).await);
    }
    let (status, answer) = bed.sum(&format!("?after={}", tokens.join(","))).await;
    assert_eq!((status, &answer["rows"]), (200, &serde_json::json!([[20, 210]])), "{answer}");
    assert_eq!(answer["cursor"].as_str().expect("cursors").split(',').count(), 3, "{answer}");
    let seen = answer["cursor"].as_str().expect("cursors").to_owned();
    assert_eq!(bed.sum(&format!("?after={seen}")).await.0, 200, "what was given is taken");
    let status = bed.status().await;
    assert_eq!((status["parts"].as_array().map(Vec::len), &status["behind"]), (Some(3), &0.into()), "{status}");
    bed.down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_in_vain_is_told_in_time_and_stale_is_an_answer_on_request() {
    let (dir, place) = (tempfile::tempdir().expect("a folder"), Place::new());
    let bed = Bed::up(dir.path(), &place, 1).await;
    let token = bed.append("orders", 1).await;
    assert_eq!(bed.sum(&format!("?after={token}")).await.0, 200);
    place.faults.held.store(true, SeqCst);
    let token = bed.append("orders", 2).await;
    let began = Instant::now();
    let (status, told) = bed.sum(&format!("?after={token}&timeout=200ms")).await;
    assert_eq!((status, &told["reason"], &told["code"]), (503, &"not_yet".into(), &"WS-VIEW-050".into()), "{told}");
    assert!(told["retryable"] == true && began.elapsed() >= Duration::from_millis(200), "{told}");
    let (status, answer) = bed.sum(&format!("?after={token}&timeout=100ms&on_timeout=stale")).await;
    assert_eq!((status, &answer["stale"], &answer["rows"][0][0]), (200, &true.into(), &1.into()), "{answer}");
    assert_eq!(bed.sum("").await.1["rows"][0][0], 1, "without a token there is no need to wait");
    let query = format!("?after={token}&timeout=30s");
    let waiting = bed.sum(&query);
    let release = async {
        bed.until("somebody waits", |status| status["waiting"] == 1).await;
        place.faults.held.store(false, SeqCst);
    };
    let ((status, answer), ()) = tokio::join!(waiting, release);
    assert_eq!((status, &answer["rows"][0][0]), (200, &2.into()), "{answer}");
    bed.down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_nobody_reads_less_than_what_the_log_had() {
    let (dir, place) = (tempfile::tempdir().expect("a folder"), Place::new());
    let bed = Bed::up(dir.path(), &place, 1).await;
    for n in 1..=5 {
        bed.append("orders", n).await;
    }
    assert_eq!(bed.sum("?consistency=latest").await.0, 200);
    bed.down().await;
    place.set_back(2);
    place.faults.held.store(true, SeqCst);
    let bed = Bed::up(dir.path(), &place, 1).await;
    let (status, told) = bed.sum("?timeout=200ms").await;
    assert_eq!((status, &told["reason"]), (503, &"not_yet".into()), "{told}");
    assert_eq!(bed.status().await["state"], "starting");
    place.faults.held.store(false, SeqCst);
    let (status, answer) = bed.sum("?timeout=30s").await;
    assert_eq!((status, &answer["rows"]), (200, &serde_json::json!([[5, 15]])), "{answer}");
    bed.down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_put_back_while_the_node_runs_lets_nobody_go_back() {
    let (dir, place) = (tempfile::tempdir().expect("a folder"), Place::new());
    let bed = Bed::up(dir.path(), &place, 1).await;
    for n in 1..=5 {
        bed.append("orders", n).await;
    }
    assert_eq!(bed.sum("?consistency=latest").await.0, 200);
    place.faults.away.store(true, SeqCst);
    bed.append("orders", 6).await;
    bed.until("the store is away", |status| status["state"] == "waiting").await;
    place.set_back(3);
    place.faults.away.store(false, SeqCst);
    let (status, answer) = bed.sum("?timeout=30s").await;
    assert_eq!(status, 200, "{answer}");
    assert!(answer["rows"][0][0].as_u64() >= Some(5), "5 had been seen: {answer}");
    bed.down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_shown_before_the_view_had_told_of_it_is_not_taken_back() {
    let (dir, place) = (tempfile::tempdir().expect("a folder"), Place::new());
    let bed = Bed::up(dir.path(), &place, 1).await;
    for n in 1..=3 {
        bed.append("orders", n).await;
    }
    assert_eq!(bed.sum("?consistency=latest").await.0, 200);
    place.faults.lingers.store(true, SeqCst);
    bed.append("orders", 4).await;
    bed.until("the store has it", |_| place.faults.waits.load(SeqCst) > 0).await;
    assert_eq!(bed.sum("").await.1["rows"], serde_json::json!([[4, 10]]));
    // Nobody has told of more than 3.
    place.set_back(3);
    let (status, told) = bed.sum("?timeout=200ms").await;
    assert_eq!((status, &told["reason"]), (503, &"not_yet".into()), "{told}");
    place.faults.lingers.store(false, SeqCst);
    bed.down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_to_a_bad_question_says_what_is_wrong() {
    let (dir, place) = (tempfile::tempdir().expect("a folder"), Place::new());
    let bed = Bed::up(dir.path(), &place, 1).await;
    for (sql, status, code) in [
        ("drop table x", 403, "WS-VIEW-061"),
        ("loop", 422, "WS-VIEW-062"),
        ("many", 413, "WS-VIEW-063"),
        ("selct", 422, "WS-VIEW-060"),
    ] {
        let (found, told) = bed.ask(sql, "", &[]).await;
        assert_eq!((found, &told["code"]), (status, &code.into()), "{sql}: {told}");
    }
    for (query, code) in [
        ("?timeout=1h", "WS-VIEW-040"),
        ("?timeout=-1s", "WS-VIEW-040"),
        ("?on_timeout=maybe", "WS-VIEW-040"),
        ("?consistency=strong", "WS-VIEW-040"),
        ("?afte=x", "WS-VIEW-040"),
        ("?after=x", "WS-VIEW-041"),
    ] {
        let (found, told) = bed.sum(query).await;
        assert_eq!((found, &told["code"]), (400, &code.into()), "{query}: {told}");
    }
    let absent = [("none", "WS-VIEW-043"), ("totals/none/x", "WS-VIEW-064"), ("none/digest", "WS-VIEW-043")];
    for (path, code) in absent {
        let (found, told) = bed.get(path).await;
        assert_eq!((found, &told["code"]), (404, &code.into()), "{path}: {told}");
    }
    for body in ["", "[", "{}", "{\"sql\":1}", "{\"sql\":\"sum\",\"parms\":[]}"] {
        let (found, told) = bed.order("/v1/views/totals/query", body).await;
        assert!(matches!(found, 400 | 422) && told["code"] == "WS-VIEW-042", "{body}: {found} {told}");
    }
    let long = serde_json::json!({ "sql": "x".repeat(100_000) }).to_string();
    let (found, told) = bed.order("/v1/views/totals/query", &long).await;
    assert_eq!((found, &told["code"]), (413, &"WS-VIEW-042".into()), "{told}");
    bed.down().await;
}
