//! Feeds mirrored over the links of the tree: both ways, over several hops, through kills.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use super::mirror::{caught_up, lines};
use super::*;
use crate::tree::site::wait;

/// A node without a database below `parent`.
fn below(ground: &Ground, name: &str, parent: Option<&Site>, sections: &str) -> Site {
    let mut site = ground.log_site(name);
    site.configure(parent.map(|parent| parent.port), sections);
    site.up();
    site
}

fn of<'a>(site: &Site, log: &'a str) -> (Json, &'a str) {
    let mirrors = site.status()["mirrors"].as_array().cloned().unwrap_or_default();
    (mirrors.into_iter().find(|mirror| mirror["name"] == log).unwrap_or_default(), log)
}

fn wait_following(site: &Site, log: &str) {
    wait(&format!("{log} at {} is followed: {}", site.name, of(site, log).0), || {
        of(site, log).0["state"] == "following"
    });
}

const HQ: &str = "[log.orders]\nappend = true\npartitions = 2\n[log.secret]\nappend = true\n\
    [log.sales-7]\nmirror = \"peer:b7/sales\"\n\
    [send.children]\nlogs = [\"orders\", \"sales-7\"]\n";
const B7: &str = "[log.orders]\nmirror = \"peer:hq/orders\"\n[log.sales]\nappend = true\n\
    [log.back]\nmirror = \"peer:hq/sales-7\"\n[log.secret]\nmirror = \"peer:hq/secret\"\n\
    [send.parent]\nlogs = [\"sales\"]\n[send.child.leaf]\nlogs = [\"orders\"]\n";
const LEAF: &str = "[log.orders]\nmirror = \"peer:b7/orders\"\n";
const B8: &str = "[log.theirs]\nmirror = \"peer:hq/sales-7\"\n";

#[test]
fn feeds_travel_both_ways_over_hops_and_never_back() {
    let ground = Ground::new();
    let hq = below(&ground, "hq", None, HQ);
    let b7 = below(&ground, "b7", Some(&hq), B7);
    let leaf = below(&ground, "leaf", Some(&b7), LEAF);
    let b8 = below(&ground, "b8", Some(&hq), B8);
    append(&hq, "secret", r#"{"row":"not for everybody"}"#);
    for n in 0..20 {
        append(&hq, "orders", &format!("{{\"key\":\"k{n}\",\"row\":{{\"n\":{n} }} }}"));
    }
    let (status, sold) = post(&b7, "sales/entries", r#"{"row":{"x": 1.50}}"#, &[("Correlation-Id", "trip-1")]);
    assert_eq!(status, 201, "{sold}");
    for (site, log) in [(&b7, "orders"), (&leaf, "orders")] {
        wait_following(site, log);
        caught_up(&hq, site, log);
        assert_eq!(lines(site, log), lines(&hq, "orders"), "at {}", site.name);
    }
    // One correlation id, over three nodes.
    wait("the sale at the third node", || get(&b8, "theirs").1["tail"] == 1);
    for (site, log) in [(&b7, "sales"), (&hq, "sales-7"), (&b8, "theirs")] {
        let found = entries(site, &format!("{log}/entries?correlation=trip-1"));
        assert_eq!(found.len(), 1, "at {}", site.name);
        assert_eq!(found[0]["cursor"], sold["cursor"]);
        assert_eq!(rows(&found), [r#"{"x":1.5}"#]);
    }
    // What comes from b7 is not offered to b7, and what is not listed to nobody.
    b7.wait_problem("WS-MIRROR-004");
    wait("both are refused", || of(&b7, "back").0["state"] == "stopped" && of(&b7, "secret").0["state"] == "stopped");
    assert_eq!((get(&b7, "back").0, get(&b7, "secret").0), (503, 503));
    let (status, refused) = post(&leaf, "orders/entries", r#"{"row":1}"#, &[]);
    assert!(status == 403 && refused["do"].as_str().is_some_and(|text| text.contains("b7/orders")), "{refused}");
}

#[test]
fn a_feed_that_is_made_later_is_announced() {
    let ground = Ground::new();
    let hq = below(&ground, "hq", None, "[send.children]\nlogs = [\"late\"]\n");
    let b7 = below(&ground, "b7", Some(&hq), "[log.mine]\nmirror = \"peer:hq/late\"\n");
    b7.wait_problem("WS-MIRROR-004");
    hq.does(&["log", "create", "late"]);
    append(&hq, "late", r#"{"row":1}"#);
    wait("it came", || get(&b7, "mine").1["tail"] == 1);
    // What is listed and mirrored nowhere is told.
    let b8 = below(&ground, "b8", Some(&hq), "");
    b8.wait_log("mirror = \"peer:hq/late\"");
}

#[test]
fn kills_along_the_way_leave_equal_logs() {
    let ground = Ground::new();
    let up = "[log.up]\nmirror = \"peer:b7/sales\"\n";
    let mut hq = below(&ground, "hq", None, &format!("{ORDERS}{up}[send.children]\nlogs = [\"orders\"]\n"));
    let mut b7 = below(&ground, "b7", Some(&hq), B7);
    let mut leaf = below(&ground, "leaf", Some(&b7), LEAF);
    let stop = AtomicBool::new(false);
    let (down_port, up_port) = (hq.port, b7.port);
    let counts = [AtomicUsize::new(0), AtomicUsize::new(0)];
    let appender = |port: u16, log: &'static str, count: &AtomicUsize| {
        let agent = agent();
        while !stop.load(Ordering::Relaxed) {
            let n = count.load(Ordering::Relaxed);
            let body = format!("{{\"key\":\"{}\",\"row\":\"{}\"}}", n % 7, "y".repeat(n % 2_000));
            if agent.post(format!("http://127.0.0.1:{port}/v1/logs/{log}/entries")).send(body).is_ok() {
                count.store(n + 1, Ordering::Relaxed);
            }
        }
    };
    let enough = || counts.iter().all(|count| count.load(Ordering::Relaxed) > 20);
    std::thread::scope(|scope| {
        scope.spawn(|| appender(down_port, "orders", &counts[0]));
        scope.spawn(|| appender(up_port, "sales", &counts[1]));
        let (until, deadline) = (Instant::now() + Duration::from_secs(8), Instant::now() + Duration::from_secs(180));
        let mut turn = 0;
        // On a busy machine it takes longer until something has been appended between the kills.
        while Instant::now() < until || !enough() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(300 + 130 * (turn % 4)));
            let site = match turn % 4 {
                1 => &mut leaf,
                2 => &mut hq,
                _ => &mut b7,
            };
            turn += 1;
            site.kill();
            site.up();
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(enough(), "{counts:?}");
    caught_up(&hq, &b7, "orders");
    caught_up(&hq, &leaf, "orders");
    let original = lines(&hq, "orders");
    assert_eq!(lines(&b7, "orders"), original);
    assert_eq!(lines(&leaf, "orders"), original);
    wait("the sales", || lines(&hq, "up") == lines(&b7, "sales"));
}

#[test]
fn a_trimmed_or_other_original_is_refused_over_a_link_too() {
    let ground = Ground::new();
    let mut hq = below(&ground, "hq", None, &format!("{ORDERS}[send.children]\nlogs = [\"orders\"]\n"));
    let mut b7 = below(&ground, "b7", Some(&hq), "[log.orders]\nmirror = \"peer:hq/orders\"\n");
    append(&hq, "orders", r#"{"row":1}"#);
    caught_up(&hq, &b7, "orders");
    b7.kill();
    append(&hq, "orders", r#"[{"row":2},{"row":3}]"#);
    append(&hq, "orders", r#"{"row":4}"#);
    hq.does(&["log", "trim", "orders", "--upto", "2", "--yes"]);
    b7.up();
    b7.wait_problem("WS-MIRROR-005");
    assert_eq!(rows(&entries(&b7, "orders/entries")), ["1"]);
    hq.kill();
    std::fs::remove_dir_all(hq.data().join("feeds")).expect("removed");
    hq.up();
    append(&hq, "orders", r#"{"row":"new"}"#);
    b7.wait_problem("WS-MIRROR-006");
    // It is promoted where it is, although a peer of that name answers: that is another log.
    b7.does(&["promote", "orders", "--yes"]);
    assert_eq!(append(&b7, "orders", r#"{"row":2}"#)["end"], 2);
}

#[test]
fn what_a_linked_mirror_has_not_fetched_is_kept_for_it() {
    let ground = Ground::new();
    let kept = "append = true\nretain = { time = \"1s\" }\n";
    let sections = format!("[log.orders]\n{kept}[log.control]\n{kept}[send.children]\nlogs = [\"orders\"]\n");
    let mut hq = below(&ground, "hq", None, &sections);
    let mut b7 = below(&ground, "b7", Some(&hq), "[log.orders]\nmirror = \"peer:hq/orders\"\n");
    append(&hq, "orders", r#"{"row":1}"#);
    caught_up(&hq, &b7, "orders");
    let place = |hq: &Site| get(hq, "orders/consumers/mirror:b7").1["position"].as_u64();
    wait("its place is noted", || place(&hq) == Some(1));
    wait("what everybody has is removed", || get(&hq, "orders").1["oldest"] == 2);
    b7.kill();
    append(&hq, "orders", r#"{"row":2}"#);
    hq.kill();
    hq.up();
    append(&hq, "orders", r#"{"row":3}"#);
    // Retention has passed by, twice, with the time of all of them over: it has what was appended after them.
    for oldest in [2, 3] {
        append(&hq, "control", r#"{"row":0}"#);
        wait("retention", || get(&hq, "control").1["oldest"] == oldest);
    }
    assert_eq!(get(&hq, "orders").1["oldest"], 2);
    b7.up();
    caught_up(&hq, &b7, "orders");
    assert_eq!(rows(&entries(&b7, "orders/entries?after=1")), ["2", "3"]);
    wait("it is removed then", || get(&hq, "orders").1["oldest"] == 4);
}
