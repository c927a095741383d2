//! Links through a hostile network: status tells what is known, and the tree recovers by itself.
//!
//! Links are cut and black-holed for 3 s, or `WATERSHED_OUTAGE_S` seconds.

use std::net::SocketAddr;
use std::time::Duration;

use watershed::testing::proxy::{Fault, FaultProxy, Faults};

use super::decisions::ORDERS;
use super::site::{Ground, Site, wait, wait_equal};

const SCHEMA: &str = "pragma journal_mode = wal; create table orders (id integer primary key, note text);";

struct Through {
    hq: Site,
    north: Site,
    proxy: FaultProxy,
    _ground: Ground,
    _runtime: tokio::runtime::Runtime,
}

/// A child that reaches its parent through a proxy.
fn through(plan: impl Fn(u64) -> Faults + Send + Sync + 'static) -> Through {
    let ground = Ground::new();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let [mut hq, mut north] = ["hq", "north"].map(|name| ground.site(name, SCHEMA));
    let target: SocketAddr = ([127, 0, 0, 1], hq.port).into();
    let proxy = runtime.block_on(FaultProxy::start(target, plan)).expect("a proxy");
    hq.configure(None, "");
    north.configure(Some(proxy.address().port()), "[send.parent]\ntables = [\"orders\"]\n");
    hq.up();
    north.up();
    Through { hq, north, proxy, _ground: ground, _runtime: runtime }
}

fn outage() -> Duration {
    let seconds = std::env::var("WATERSHED_OUTAGE_S").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(3))
}

fn rows(site: &Site, from: u64, count: u64) {
    site.sql(&format!(
        "with recursive c(i) as (select {from} union all select i + 1 from c where i < {from} + {count} - 1)
         insert into orders select i, hex(randomblob(100)) from c"
    ));
}

#[test]
fn a_black_hole_is_seen_in_the_lag_and_everything_arrives_after_it() {
    let tree = through(|_| Faults::default());
    rows(&tree.north, 1, 10);
    wait_equal(ORDERS, &[&tree.hq, &tree.north]);
    let lag = || tree.north.status()["links"][0]["lag_ms"].as_f64();
    wait("a heartbeat is answered", || lag().is_some_and(|lag| lag < 1_000.0));
    tree.proxy.black_hole(true);
    rows(&tree.north, 11, 100);
    let truth = outage().as_secs_f64() * 1e3 - 2_000.0;
    wait("the lag grows, or the link is given up", || {
        let link = &tree.north.status()["links"][0];
        link["state"] != "connected" || link["lag_ms"].as_f64().is_some_and(|lag| lag > truth)
    });
    assert!(tree.north.status()["links"][0]["behind"].as_u64() > Some(0), "{}", tree.north.status());
    assert_eq!(tree.hq.sql("select count(*) from orders"), "10\n");
    tree.proxy.black_hole(false);
    wait_equal(ORDERS, &[&tree.hq, &tree.north]);
    wait("the lag is small again", || lag().is_some_and(|lag| lag < 1_000.0));
}

#[test]
fn a_silent_link_is_given_up_by_both_ends_and_made_again() {
    let tree = through(|_| Faults::default());
    rows(&tree.north, 1, 10);
    wait_equal(ORDERS, &[&tree.hq, &tree.north]);
    tree.proxy.black_hole(true);
    rows(&tree.north, 11, 10);
    wait("the child gives it up", || tree.north.log().contains("WS-PEER-010"));
    wait("the child says so", || tree.north.status()["problems"].to_string().contains("link with"));
    wait("the parent gives it up", || tree.hq.status()["links"][0]["state"] == "away");
    tree.proxy.black_hole(false);
    wait_equal(ORDERS, &[&tree.hq, &tree.north]);
    wait("recovery is logged", || tree.north.log().matches("linked with the parent").count() >= 2);
    wait("nothing is wrong any more", || tree.north.status()["problems"].as_array().is_some_and(Vec::is_empty));
}

#[test]
fn links_that_break_and_corrupt_at_any_byte_lose_nothing() {
    // Each connection lives a little longer than the one before, and every third one has a byte turned over.
    let tree = through(|n| {
        let up = Fault {
            cut_after: (n < 24).then_some(900 + n * 977),
            corrupt_at: (n < 24 && n % 3 == 1).then_some(600 + n * 631),
            delay: Duration::ZERO,
        };
        let down = Fault { corrupt_at: (n < 24 && n % 3 == 2).then_some(300 + n * 97), ..Fault::default() };
        Faults { up, down }
    });
    for i in 0..40 {
        rows(&tree.north, 1 + i * 50, 50);
    }
    wait_equal(ORDERS, &[&tree.hq, &tree.north]);
    assert_eq!(tree.hq.sql("select count(*) from orders"), "2000\n");
    let log = tree.hq.watershed(&["log", "read", "main", "--json"]);
    let log = String::from_utf8_lossy(&log.stdout).into_owned();
    let mut last = 0;
    for line in log.lines() {
        let entry: serde_json::Value = serde_json::from_str(line).expect("NDJSON");
        if entry["from"] != "north" {
            continue;
        }
        let origin = entry["origin"].as_str().expect("an origin");
        let position: u64 = origin.rsplit('-').next().expect("a position").parse().expect("a number");
        assert!(position > last, "in order, and once: {position} after {last}");
        last = position;
    }
    assert!(!tree.hq.log().contains("panicked") && !tree.north.log().contains("panicked"));
}
