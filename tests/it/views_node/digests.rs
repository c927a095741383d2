//! Digests of exactly one place, of views that do not stand there yet, and what is refused.

use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use super::bed::{Bed, Place};
use crate::tree::site::DEADLINE;

/// The cursors with so much more at each position.
fn ahead(cursor: &str, more: &[u64]) -> String {
    let each = cursor.split(',').zip(more).map(|(one, more)| {
        let (start, position) = one.rsplit_once('-').expect("a cursor");
        format!("{start}-{}", position.parse::<u64>().expect("a position") + more)
    });
    each.collect::<Vec<_>>().join(",")
}

fn positions(cursor: &str) -> Vec<u64> {
    cursor.split(',').map(|one| one.rsplit('-').next().expect("a part").parse().expect("a position")).collect()
}

/// Asks for places ahead until so many were answered, while rows 1, 2, 3… are appended.
async fn asks(bed: &Bed, partitions: usize, each: impl Fn(&str, &Json)) {
    let stop = std::sync::atomic::AtomicBool::new(false);
    let writes = async {
        let mut row = 0;
        while !stop.load(SeqCst) {
            row += 1;
            bed.append("orders", row).await;
        }
    };
    let digests = async {
        let (began, mut exact) = (Instant::now(), 0);
        for more in [2u64, 9, 1, 4, 20].into_iter().cycle() {
            let now = bed.status().await["cursor"].as_str().expect("a cursor").to_owned();
            let place = ahead(&now, &vec![more; partitions]);
            let (status, told) = bed.get(&format!("totals/digest?at={place}&timeout=60s")).await;
            match status {
                200 => {
                    assert_eq!(
                        (&told["cursor"], &told["definition"]),
                        (&json!(place), &json!("0000000000000001")),
                        "{told}"
                    );
                    each(&place, &told);
                    exact += 1;
                }
                // Between the look and the question it has gone past; or a partition has not come there in time.
                _ => assert_eq!((status, &told["reason"]), (409, &json!("passed")), "{told}"),
            }
            if exact == 10 {
                break;
            }
            assert!(began.elapsed() < DEADLINE, "{exact} were of exactly there");
        }
        stop.store(true, SeqCst);
    };
    tokio::join!(writes, digests);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_digest_of_a_place_ahead_is_of_exactly_there_while_the_log_moves() {
    let (dir, place) = (tempfile::tempdir().expect("a folder"), Place::new());
    let bed = Bed::up(dir.path(), &place, 1).await;
    bed.append("orders", 0).await;
    asks(&bed, 1, |place, told| {
        // Position p has the row p − 1.
        let p = positions(place)[0];
        assert_eq!(told["rows"], p, "{told}");
        let sum: String = (p * (p - 1) / 2).to_le_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(told["digest"].as_str().is_some_and(|digest| digest.starts_with(&sum)), "at {p}: {told}");
    })
    .await;
    // Where it stands it is at once; by a position, too.
    let now = positions(bed.sum("?after=latest").await.1["cursor"].as_str().expect("a cursor"))[0];
    let (status, told) = bed.get(&format!("totals/digest?at={now}")).await;
    assert_eq!((status, &told["rows"]), (200, &json!(now)), "{told}");
    bed.down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_partition_is_at_its_place() {
    let (dir, place) = (tempfile::tempdir().expect("a folder"), Place::new());
    let bed = Bed::up(dir.path(), &place, 3).await;
    for row in 1..=20 {
        bed.append("orders", row).await;
    }
    assert_eq!(bed.sum("?after=latest").await.0, 200);
    asks(&bed, 3, |place, told| assert_eq!(told["rows"], positions(place).iter().sum::<u64>(), "{told}")).await;
    bed.down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_place_that_does_not_come_holds_up_nobody_for_long() {
    let (dir, place) = (tempfile::tempdir().expect("a folder"), Place::new());
    let bed = Bed::up(dir.path(), &place, 2).await;
    for row in 1..=10 {
        bed.append("orders", row).await;
    }
    let now = bed.sum("?after=latest").await.1["cursor"].as_str().expect("a cursor").to_owned();
    // One partition is there already, the other never comes.
    let at = ahead(&now, &[0, 1_000_000]);
    let path = format!("totals/digest?at={at}&timeout=60s");
    let waiting = bed.get(&path);
    let writes = async {
        for row in 11..=60 {
            let token = bed.append("orders", row).await;
            let (status, answer) = bed.sum(&format!("?after={token}&timeout=30s")).await;
            assert_eq!(status, 200, "{answer}");
        }
    };
    let ((status, told), ()) = tokio::join!(waiting, writes);
    assert_eq!((status, &told["reason"]), (409, &json!("passed")), "{told}");
    bed.down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_place_is_refused_each_with_its_reason() {
    let (dir, place) = (tempfile::tempdir().expect("a folder"), Place::new());
    let bed = Bed::up(dir.path(), &place, 1).await;
    let mut token = String::new();
    for row in 1..=3 {
        token = bed.append("orders", row).await;
    }
    assert_eq!(bed.sum("?after=latest").await.0, 200);
    let other = bed.append("others", 1).await;
    let parts: Vec<&str> = token.split('-').collect();
    let epoch = format!("{}-00000000000000aa-3", parts[0]);
    let long = "1".repeat(9000);
    for (query, status, code, reason) in [
        (format!("at={}", ahead(&token, &[7])), 503, "WS-VIEW-050", "not_yet"),
        (format!("at={}", u64::MAX), 503, "WS-VIEW-050", "not_yet"),
        ("at=1".into(), 409, "WS-VIEW-120", "passed"),
        ("at=0".into(), 409, "WS-VIEW-120", "passed"),
        (format!("at={other}"), 409, "WS-VIEW-055", "unknown"),
        (format!("at={token},{other}"), 409, "WS-VIEW-055", "unknown"),
        (format!("at={token},{token}"), 409, "WS-VIEW-055", "unknown"),
        (format!("at={epoch}"), 409, "WS-VIEW-055", "unknown"),
        ("at=".into(), 400, "WS-VIEW-041", ""),
        ("at=latest".into(), 400, "WS-VIEW-041", ""),
        ("at=lsn:hub/0/1".into(), 400, "WS-VIEW-041", ""),
        ("at=18446744073709551616".into(), 400, "WS-VIEW-041", ""),
        ("at=%00%ff".into(), 400, "WS-VIEW-04", ""),
        (format!("at={long}"), 400, "WS-VIEW-041", ""),
        (format!("at=3&after={token}"), 400, "WS-VIEW-040", ""),
        ("at=3&on_timeout=stale".into(), 400, "WS-VIEW-040", ""),
        ("at=3&at=4".into(), 400, "WS-VIEW-040", ""),
    ] {
        let (found, told) = bed.get(&format!("totals/digest?{query}&timeout=200ms")).await;
        let code_told = told["code"].as_str().unwrap_or_default();
        assert!(found == status && code_told.starts_with(code), "{query:.60}: {found} {told}");
        assert_eq!(told["reason"].as_str().unwrap_or_default(), reason, "{query:.60}: {told}");
        eprintln!("{query:.60}: {found} {told}");
    }
    for path in ["totals?at=3", "totals/totals/all?at=3"] {
        let (status, told) = bed.get(path).await;
        assert_eq!((status, &told["code"]), (400, &json!("WS-VIEW-040")), "{path}: {told}");
    }
    bed.down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_that_does_not_come_there_says_why_at_once_and_few_are_summed_up_at_a_time() {
    let (dir, place) = (tempfile::tempdir().expect("a folder"), Place::new());
    let bed = Bed::up(dir.path(), &place, 1).await;
    bed.append("orders", 1).await;
    assert_eq!(bed.sum("?after=latest").await.0, 200);
    place.faults.digest_held.store(true, SeqCst);
    let third = async {
        let began = Instant::now();
        loop {
            let (status, told) = bed.get("totals/digest?timeout=30s").await;
            if status == 503 {
                assert_eq!((&told["code"], &told["retryable"]), (&json!("WS-VIEW-121"), &json!(true)), "{told}");
                break;
            }
            assert!(began.elapsed() < DEADLINE);
        }
        // What is summed up holds up no question.
        assert_eq!(bed.sum("").await.0, 200);
        place.faults.digest_held.store(false, SeqCst);
    };
    // The third one is asked for when both others have their places.
    let place_two = async {
        while bed.node.shared.views.get("totals").expect("the view").digests_under_way() < 2 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        third.await;
    };
    let (one, two, ()) = tokio::join!(bed.get("totals/digest"), bed.get("totals/digest?at=1&timeout=30s"), place_two);
    assert_eq!((one.0, two.0), (200, 200), "{} {}", one.1, two.1);
    place.faults.fails_at.store(3, SeqCst);
    bed.append("orders", 2).await;
    let began = Instant::now();
    let (failed, ()) = tokio::join!(bed.get("totals/digest?at=9&timeout=60s"), async {
        bed.append("orders", 3).await;
    });
    assert_eq!((failed.0, &failed.1["reason"]), (409, &json!("view_failed")), "{}", failed.1);
    assert!(began.elapsed() < Duration::from_secs(50), "it was waited for");
    bed.down().await;
    // Cut off before the place.
    place.faults.fails_at.store(0, SeqCst);
    place.faults.away.store(true, SeqCst);
    let bed = Bed::up(dir.path(), &place, 1).await;
    for row in 4..=6 {
        bed.append("orders", row).await;
    }
    assert_eq!(bed.order("/v1/logs/orders/trim", "{\"upto\":5}").await.0, 200);
    place.faults.away.store(false, SeqCst);
    bed.until("it was cut off", |status| status["state"] == "trimmed").await;
    for at in [4, 9] {
        let (status, told) = bed.get(&format!("totals/digest?at={at}&timeout=60s")).await;
        assert_eq!((status, &told["reason"], &told["code"]), (409, &json!("trimmed"), &json!("WS-VIEW-054")), "{told}");
    }
    bed.down().await;
}
