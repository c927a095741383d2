//! A changed definition is built beside the old one, which answers until the new one can.

use std::sync::atomic::Ordering::SeqCst;

use watershed::model::Fingerprint;

use super::bed::{Bed, Place};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_old_definition_answers_until_the_new_one_has_everything() {
    let (dir, place) = (tempfile::tempdir().expect("a folder"), Place::new());
    let bed = Bed::up(dir.path(), &place, 1).await;
    for n in 1..=20 {
        bed.append("orders", n).await;
    }
    assert_eq!(bed.sum("?after=latest").await.0, 200);
    place.faults.build_held.store(true, SeqCst);
    place.wanted.store(2, SeqCst);
    assert_eq!(bed.node.shared.views.take_up().await.expect("it is good"), 1);
    let shown = bed.until("it is being built", |status| status["building"]["left"] == 20).await;
    assert_eq!(shown["building"]["definition"], "0000000000000002", "{shown}");
    // While it is being built the old one goes on, and a token is met by it.
    let token = bed.append("orders", 21).await;
    let (status, answer) = bed.sum(&format!("?after={token}&timeout=30s")).await;
    assert_eq!(
        (status, &answer["rows"], &answer["definition"]),
        (200, &serde_json::json!([[21, 231]]), &"0000000000000001".into())
    );
    place.faults.build_held.store(false, SeqCst);
    let mut last = (21, false);
    for n in 22..=400i64 {
        let token = bed.append("orders", n).await;
        let (status, answer) = bed.sum(&format!("?after={token}&timeout=30s")).await;
        assert_eq!(status, 200, "{answer}");
        let new = answer["definition"] == "0000000000000002";
        let factor = if new { 2 } else { 1 };
        assert_eq!(answer["rows"], serde_json::json!([[n, factor * n * (n + 1) / 2]]), "{answer}");
        assert!(new || !last.1, "it goes back to the old one: {answer}");
        last = (n, new);
        if new && n > 60 {
            break;
        }
    }
    assert!(last.1, "it was never switched");
    let shown = bed.status().await;
    assert_eq!(
        (&shown["building"], &shown["definition"]),
        (&serde_json::Value::Null, &"0000000000000002".into()),
        "{shown}"
    );
    let sum = 2 * last.0 * (last.0 + 1) / 2;
    let digest = bed.get("totals/digest").await.1["digest"].as_str().expect("a digest").to_owned();
    let expected: String = sum.to_le_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(digest.starts_with(&expected), "as one that is built from nothing: {digest}");
    bed.down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_further_change_takes_the_place_of_the_one_before_and_a_withdrawn_one_is_given_up() {
    let (dir, place) = (tempfile::tempdir().expect("a folder"), Place::new());
    let bed = Bed::up(dir.path(), &place, 1).await;
    bed.append("orders", 1).await;
    assert_eq!(bed.sum("?after=latest").await.0, 200);
    place.faults.build_held.store(true, SeqCst);
    for (wanted, shown) in [(2, "0000000000000002"), (3, "0000000000000003")] {
        place.wanted.store(wanted, SeqCst);
        bed.node.shared.views.take_up().await.expect("it is good");
        bed.until("it is being built", |status| status["building"]["definition"] == shown).await;
    }
    place.wanted.store(1, SeqCst);
    bed.node.shared.views.take_up().await.expect("it is good");
    bed.until("it is given up", |status| status["building"].is_null()).await;
    place.wanted.store(4, SeqCst);
    place.faults.build_held.store(false, SeqCst);
    bed.node.shared.views.take_up().await.expect("it is good");
    let shown = bed.until("it is switched", |status| status["definition"] == "0000000000000004").await;
    assert_eq!(shown["building"], serde_json::Value::Null, "{shown}");
    assert_eq!(bed.sum("?after=latest").await.1["rows"], serde_json::json!([[1, 4]]));
    bed.down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_goes_on_after_a_restart_and_one_that_fails_leaves_what_answers() {
    let (dir, place) = (tempfile::tempdir().expect("a folder"), Place::new());
    let bed = Bed::up(dir.path(), &place, 1).await;
    for n in 1..=5 {
        bed.append("orders", n).await;
    }
    assert_eq!(bed.sum("?after=latest").await.0, 200);
    place.faults.fails_at.store(3, SeqCst);
    place.wanted.store(2, SeqCst);
    bed.node.shared.views.take_up().await.expect("it is good");
    let shown = bed.until("it has failed", |status| status["building"]["failure"].is_object()).await;
    assert_eq!((&shown["building"]["failure"]["position"], &shown["state"]), (&3.into(), &"current".into()), "{shown}");
    assert!(bed.look("/readyz").await.1["problems"].to_string().contains("cannot be built by its new definition"));
    assert_eq!(bed.sum("").await.1["rows"], serde_json::json!([[5, 15]]));
    bed.down().await;
    place.faults.fails_at.store(0, SeqCst);
    let bed = Bed::up(dir.path(), &place, 1).await;
    bed.until("it is switched", |status| status["definition"] == "0000000000000002").await;
    assert_eq!(bed.sum("?after=latest").await.1["rows"], serde_json::json!([[5, 30]]));
    let (status, done) = bed.order("/v1/views/totals/rebuild", "").await;
    assert_eq!(status, 200, "{done}");
    bed.until("it is built afresh", |status| status["building"].is_null()).await;
    assert_eq!(bed.sum("?after=latest").await.1["rows"], serde_json::json!([[5, 30]]));
    assert_eq!(bed.get("none/rebuild").await.0, 405);
    bed.down().await;
}

/// What answers is lost while the second definition is built, and another one is wanted before it is there again.
async fn wanted_while_the_store_is_away(bed: &Bed, place: &Place, wanted: u64) {
    for n in 1..=5 {
        bed.append("orders", n).await;
    }
    assert_eq!(bed.sum("?after=latest").await.0, 200);
    place.faults.build_held.store(true, SeqCst);
    place.wanted.store(2, SeqCst);
    bed.node.shared.views.take_up().await.expect("it is good");
    bed.until("it is being built", |_| place.faults.waits.load(SeqCst) > 0).await;
    place.faults.away.store(true, SeqCst);
    bed.append("orders", 6).await;
    bed.until("it is opened anew", |_| place.not_there.load(SeqCst) > 0).await;
    place.wanted.store(wanted, SeqCst);
    bed.node.shared.views.take_up().await.expect("it is good");
    let view = bed.node.shared.views.get("totals").expect("there is one").clone();
    bed.until("it was heard", |_| view.wanted() == Fingerprint(wanted)).await;
    place.faults.away.store(false, SeqCst);
    place.faults.build_held.store(false, SeqCst);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_wanted_before_the_store_was_lost_does_not_answer_once_another_one_is() {
    let (dir, place) = (tempfile::tempdir().expect("a folder"), Place::new());
    let bed = Bed::up(dir.path(), &place, 1).await;
    wanted_while_the_store_is_away(&bed, &place, 3).await;
    bed.until("it is switched", |status| status["definition"] == "0000000000000003").await;
    assert_eq!(bed.sum("?after=latest&timeout=60s").await.1["rows"], serde_json::json!([[6, 63]]));
    assert_eq!(*place.switched.lock().expect("nobody panics"), [3]);
    bed.down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_definition_that_is_withdrawn_while_the_store_is_lost_never_answers() {
    let (dir, place) = (tempfile::tempdir().expect("a folder"), Place::new());
    let bed = Bed::up(dir.path(), &place, 1).await;
    wanted_while_the_store_is_away(&bed, &place, 1).await;
    let shown = bed.until("it is given up", |status| status["building"].is_null()).await;
    assert_eq!(shown["definition"], "0000000000000001", "{shown}");
    assert_eq!(bed.sum("?after=latest&timeout=60s").await.1["rows"], serde_json::json!([[6, 21]]));
    assert!(place.switched.lock().expect("nobody panics").is_empty());
    bed.down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_that_fails_is_tried_again_and_what_answers_goes_on_meanwhile() {
    let (dir, place) = (tempfile::tempdir().expect("a folder"), Place::new());
    let bed = Bed::up(dir.path(), &place, 1).await;
    bed.append("orders", 1).await;
    assert_eq!(bed.sum("?after=latest").await.0, 200);
    place.faults.switch_refused.store(2, SeqCst);
    place.wanted.store(2, SeqCst);
    bed.node.shared.views.take_up().await.expect("it is good");
    bed.until("it has failed", |_| place.faults.switch_refused.load(SeqCst) < 2).await;
    let token = bed.append("orders", 2).await;
    assert_eq!(bed.sum(&format!("?after={token}&timeout=60s")).await.0, 200);
    bed.until("it is switched", |status| status["definition"] == "0000000000000002").await;
    assert_eq!(bed.sum("?after=latest&timeout=60s").await.1["rows"], serde_json::json!([[2, 6]]));
    bed.down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_that_was_to_begin_afresh_does_so_also_when_it_could_not_at_first() {
    let (dir, place) = (tempfile::tempdir().expect("a folder"), Place::new());
    let bed = Bed::up(dir.path(), &place, 1).await;
    for n in 1..=5 {
        bed.append("orders", n).await;
    }
    assert_eq!(bed.sum("?after=latest").await.0, 200);
    place.faults.build_fails_at.store(3, SeqCst);
    place.wanted.store(2, SeqCst);
    bed.node.shared.views.take_up().await.expect("it is good");
    bed.until("it has failed", |status| status["building"]["failure"].is_object()).await;
    place.faults.build_refused.store(true, SeqCst);
    let (status, told) = bed.order("/v1/views/totals/rebuild", "").await;
    assert_eq!(status, 500, "{told}");
    place.faults.build_fails_at.store(0, SeqCst);
    place.faults.build_refused.store(false, SeqCst);
    bed.until("it is switched", |status| status["definition"] == "0000000000000002").await;
    assert_eq!(bed.sum("?after=latest&timeout=60s").await.1["rows"], serde_json::json!([[5, 30]]));
    assert_eq!(place.begun.load(SeqCst), 2, "it went on with what there was");
    bed.down().await;
}
