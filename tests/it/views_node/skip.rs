//! An entry that is passed over by order: now, after a crash, and whenever the view is built again.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use serde_json::{Value as Json, json};
use watershed::model::Fingerprint;

use super::bed::{Bed, Place};
use super::calls::{append, ask};
use super::sql::write;
use crate::tree::site::{Ground, Site, wait};

async fn sum(bed: &Bed) -> Json {
    let (status, answer) = bed.sum("?after=latest&timeout=60s").await;
    assert_eq!(status, 200, "{answer}");
    answer["rows"].clone()
}

async fn skip(bed: &Bed, position: u64) {
    let (status, done) = bed.order("/v1/views/totals/skip", &format!("{{\"position\":{position}}}")).await;
    assert_eq!(status, 200, "{done}");
}

async fn take_up(bed: &Bed) {
    bed.node.shared.views.take_up().await.expect("it is good");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_that_a_build_cannot_take_is_passed_over_by_it_and_by_those_after_it() {
    let (dir, place) = (tempfile::tempdir().expect("a folder"), Place::new());
    let bed = Bed::up(dir.path(), &place, 1).await;
    for n in 1..=5 {
        bed.append("orders", n).await;
    }
    assert_eq!(sum(&bed).await, json!([[5, 15]]));
    place.faults.build_fails_at.store(3, SeqCst);
    place.wanted.store(2, SeqCst);
    take_up(&bed).await;
    let shown = bed.until("its build has failed", |status| status["building"]["failure"].is_object()).await;
    let command = "watershed view skip totals --position 3 --yes";
    assert_eq!((&shown["building"]["failure"]["skip"], &shown["failure"]), (&json!(command), &Json::Null), "{shown}");
    assert!(bed.look("/readyz").await.1["problems"].to_string().contains(command));
    let (status, told) = bed.order("/v1/views/totals/skip", "{\"position\":2}").await;
    assert_eq!(status, 409, "{told}");
    skip(&bed, 3).await;
    bed.until("it is switched", |status| status["definition"] == "0000000000000002").await;
    assert_eq!(sum(&bed).await, json!([[4, 24]]));
    // A state that goes back comes to the entry again, and so does every build.
    bed.down().await;
    place.wanted.store(3, SeqCst);
    let bed = Bed::up(dir.path(), &place, 1).await;
    let shown = bed.until("it is switched", |status| status["definition"] == "0000000000000003").await;
    assert_eq!(sum(&bed).await, json!([[4, 36]]));
    let over = &shown["passed_over"][0];
    assert_eq!((&over["position"], &over["in_effect"], &over["taken_back"]), (&json!(3), &json!(true), &Json::Null));
    // Until it is ordered that builds take it.
    place.faults.build_fails_at.store(0, SeqCst);
    for body in ["{\"with_skipped\":1}", "{\"without\":true}", "x", "7"] {
        let (status, told) = bed.order("/v1/views/totals/rebuild", body).await;
        assert_eq!(status, 400, "{body}: {status} {told}");
    }
    let (status, done) = bed.order("/v1/views/totals/rebuild", "{\"with_skipped\":true}").await;
    assert_eq!(status, 200, "{done}");
    let shown = bed.until("it is built", |status| status["passed_over"][0]["in_effect"] == false).await;
    assert_eq!(sum(&bed).await, json!([[5, 45]]));
    assert!(shown["passed_over"][0]["taken_back"].is_string(), "it is shown for ever: {shown}");
    bed.down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_that_had_taken_the_entry_begins_again_without_it() {
    let (dir, place) = (tempfile::tempdir().expect("a folder"), Place::new());
    place.faults.live_fails_at.store(3, SeqCst);
    place.faults.build_fails_at.store(5, SeqCst);
    let bed = Bed::up(dir.path(), &place, 1).await;
    for n in 1..=5 {
        bed.append("orders", n).await;
    }
    bed.until("it has failed", |status| status["state"] == "failed").await;
    place.wanted.store(2, SeqCst);
    take_up(&bed).await;
    let both = |status: &Json| status["failure"]["position"] == 3 && status["building"]["failure"]["position"] == 5;
    bed.until("both have failed", both).await;
    skip(&bed, 3).await;
    bed.until("its build has failed again", |status| {
        status["state"] == "current" && status["building"]["failure"]["position"] == 5
    })
    .await;
    assert_eq!(sum(&bed).await, json!([[4, 12]]));
    skip(&bed, 5).await;
    bed.until("it is switched", |status| status["definition"] == "0000000000000002").await;
    assert_eq!(sum(&bed).await, json!([[3, 14]]));
    bed.down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_that_had_taken_the_entry_before_it_said_so_begins_again_without_it() {
    let (dir, place) = (tempfile::tempdir().expect("a folder"), Place::new());
    place.faults.live_fails_at.store(3, SeqCst);
    let bed = Bed::up(dir.path(), &place, 1).await;
    for n in 1..=5 {
        bed.append("orders", n).await;
    }
    bed.until("it has failed", |status| status["state"] == "failed").await;
    place.faults.lingers.store(true, SeqCst);
    place.wanted.store(2, SeqCst);
    take_up(&bed).await;
    bed.until("it has taken all of them", |_| place.faults.waits.load(SeqCst) > 0).await;
    skip(&bed, 3).await;
    place.faults.lingers.store(false, SeqCst);
    bed.until("it is switched", |status| status["definition"] == "0000000000000002").await;
    assert_eq!(sum(&bed).await, json!([[4, 24]]));
    bed.down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_to_be_taken_again_is_taken_also_if_the_build_could_not_begin_at_first() {
    let (dir, place) = (tempfile::tempdir().expect("a folder"), Place::new());
    place.faults.live_fails_at.store(3, SeqCst);
    let bed = Bed::up(dir.path(), &place, 1).await;
    for n in 1..=5 {
        bed.append("orders", n).await;
    }
    bed.until("it has failed", |status| status["state"] == "failed").await;
    skip(&bed, 3).await;
    assert_eq!(sum(&bed).await, json!([[4, 12]]));
    // One that passes over it, too, and has come beyond it.
    place.faults.build_fails_at.store(5, SeqCst);
    place.wanted.store(2, SeqCst);
    take_up(&bed).await;
    bed.until("its build has failed", |status| status["building"]["failure"]["position"] == 5).await;
    place.faults.build_refused.store(true, SeqCst);
    let (status, told) = bed.order("/v1/views/totals/rebuild", "{\"with_skipped\":true}").await;
    assert_eq!(status, 500, "{told}");
    place.faults.live_fails_at.store(0, SeqCst);
    place.faults.build_fails_at.store(0, SeqCst);
    // It is tried again, by this run or by the next one.
    bed.down().await;
    place.faults.build_refused.store(false, SeqCst);
    let bed = Bed::up(dir.path(), &place, 1).await;
    bed.until("it is switched", |status| status["definition"] == "0000000000000002").await;
    assert_eq!(sum(&bed).await, json!([[5, 30]]));
    assert_eq!(bed.status().await["passed_over"][0]["in_effect"], false);
    bed.down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_has_been_set_back_passes_over_the_entry_again() {
    let (dir, place) = (tempfile::tempdir().expect("a folder"), Place::new());
    place.faults.fails_at.store(4, SeqCst);
    let bed = Bed::up(dir.path(), &place, 1).await;
    for n in 1..=5 {
        bed.append("orders", n).await;
    }
    bed.until("it has failed", |status| status["state"] == "failed").await;
    skip(&bed, 4).await;
    assert_eq!(sum(&bed).await, json!([[4, 11]]));
    bed.down().await;
    // As if it had been killed after the note, before the store had it.
    place.set_back(2);
    let bed = Bed::up(dir.path(), &place, 1).await;
    assert_eq!(sum(&bed).await, json!([[4, 11]]));
    bed.down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_that_cannot_be_noted_changes_nothing() {
    let (dir, place) = (tempfile::tempdir().expect("a folder"), Place::new());
    place.faults.fails_at.store(1, SeqCst);
    let bed = Bed::up(dir.path(), &place, 2).await;
    bed.append_to(0, 7).await;
    bed.until("it has failed", |status| status["state"] == "failed").await;
    let obstacle = dir.path().join("hub.data/views/totals.passed.new");
    std::fs::create_dir_all(&obstacle).expect("a folder in its way");
    let (status, told) = bed.order("/v1/views/totals/skip", "{\"position\":1}").await;
    assert_eq!(status, 500, "{told}");
    let shown = bed.status().await;
    assert_eq!((&shown["passed_over"], &shown["state"]), (&json!([]), &json!("failed")), "{shown}");
    std::fs::remove_dir(&obstacle).expect("removed");
    skip(&bed, 1).await;
    place.faults.fails_at.store(0, SeqCst);
    bed.append_to(1, 5).await;
    assert_eq!(sum(&bed).await, json!([[1, 5]]));
    // What is to be built afresh, of another definition and with what was passed over, is not even wanted.
    std::fs::create_dir_all(&obstacle).expect("a folder in its way");
    place.wanted.store(2, SeqCst);
    let (status, told) = bed.order("/v1/views/totals/rebuild", "{\"with_skipped\":true}").await;
    assert_eq!(status, 500, "{told}");
    let view = bed.node.shared.views.get("totals").expect("there is one").clone();
    assert_eq!((view.wanted(), bed.status().await["building"].is_null()), (Fingerprint(1), true));
    std::fs::remove_dir(&obstacle).expect("removed");
    bed.down().await;
}

const STRICT: &str = "\
-- setup
create table totals (customer text primary key, amount integer not null check (amount < 1000));
-- on insert orders
insert into totals values (:row.customer, :row.amount) on conflict (customer) do update set amount = totals.amount + excluded.amount;
";

const SECTIONS: &str =
    "[log.orders]\nappend = true\n[view.totals]\nlog = \"orders\"\nstore = \"STORE\"\nsql = \"totals.sql\"\n";

fn shown(site: &Site) -> Json {
    let text = site.get("/v1/views/totals").expect("an answer").1;
    serde_json::from_str(&text).expect("JSON")
}

/// As an operator on the node's machine.
fn bearer(site: &Site) -> String {
    let token = std::fs::read_to_string(site.data().join("admin.token")).expect("the token of this run");
    format!("Bearer {}", token.trim())
}

fn has(site: &Site, expected: &Json) -> bool {
    let (status, answer) =
        ask(site, "totals", "?after=latest&timeout=20s", "select sum(amount) from totals", json!([]));
    status == 200 && answer["rows"][0][0] == *expected
}

/// Kills the node at any time after the order was given; the entry is passed over, or the order has to be given again.
fn killed_in_the_middle(store: &str) {
    let ground = Ground::new();
    let mut site = ground.log_site("hub");
    write(&site, "totals.sql", STRICT);
    site.configure(None, &SECTIONS.replace("STORE", store));
    site.up();
    let mut expected = 0;
    for pause in [0, 2, 5, 10, 30] {
        append(&site, "ada", 5);
        append(&site, "bob", 5_000);
        append(&site, "ada", 7);
        expected += 12;
        wait("it has failed", || shown(&site)["state"] == "failed");
        let (position, port) = (shown(&site)["failure"]["position"].clone(), site.port);
        let bearer = bearer(&site);
        let order = std::thread::spawn(move || {
            // Killed in the middle it is not answered.
            let _ = ureq::post(format!("http://127.0.0.1:{port}/v1/views/totals/skip"))
                .header("Content-Type", "application/json")
                .header("Authorization", bearer)
                .send(json!({ "position": position }).to_string());
        });
        std::thread::sleep(Duration::from_millis(pause));
        site.kill();
        let _ = order.join();
        site.up();
        wait("it goes on, or has stopped at the same entry again", || match shown(&site) {
            shown if shown["state"] == "current" => true,
            shown if shown["state"] == "failed" => {
                let position = shown["failure"]["position"].to_string();
                site.watershed(&["view", "skip", "totals", "--position", &position, "--yes"]);
                false
            }
            _ => false,
        });
        assert!(has(&site, &json!(expected)), "{}", shown(&site));
    }
    // By another definition that could not take them either.
    write(&site, "totals.sql", &STRICT.replace("< 1000", "< 2000"));
    let before = shown(&site)["definition"].clone();
    site.reload();
    wait("it is built by its new definition", || shown(&site)["definition"] != before);
    assert!(has(&site, &json!(expected)), "{}", shown(&site));
    let shown = shown(&site);
    let over = shown["passed_over"].as_array().expect("a list");
    assert!(over.len() == 5 && over.iter().all(|one| one["in_effect"] == true), "{shown}");
}

#[test]
fn a_skip_in_sqlite_survives_kills_at_any_time() {
    killed_in_the_middle("sqlite:totals.db");
}

#[test]
fn a_skip_in_memory_survives_kills_at_any_time() {
    killed_in_the_middle("memory");
}
