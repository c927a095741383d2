//! Mirrors of feeds over HTTP: real nodes, one that has the feed and others that copy it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::*;
use crate::tree::site::wait;

/// The section of a mirror of a feed of that node.
pub fn mirror_of(site: &Site, log: &str) -> String {
    format!("[log.{log}]\nmirror = \"http://127.0.0.1:{}/v1/logs/{log}\"\n", site.port)
}

/// A node that mirrors.
pub fn mirror(ground: &Ground, name: &str, sections: &str) -> Site {
    let mut site = ground.log_site(name);
    site.configure(None, sections);
    site.up();
    site
}

fn tail(site: &Site, log: &str) -> u64 {
    get(site, log).1["tail"].as_u64().unwrap_or_default()
}

/// Waits until the mirror has what the original has.
pub fn caught_up(original: &Site, mirror: &Site, log: &str) {
    let wanted = tail(original, log);
    wait(&format!("{} has {wanted} of {log}", mirror.name), || tail(mirror, log) >= wanted);
}

/// Every entry as its line stands in the answer, of all partitions.
pub fn lines(site: &Site, log: &str) -> Vec<String> {
    let count = get(site, log).1["partitions"].as_u64().expect("partitions");
    let mut all = Vec::new();
    for partition in 0..count {
        let url = format!("http://127.0.0.1:{}/v1/logs/{log}/entries?partition={partition}&limit=1000000", site.port);
        let text = agent().get(url).call().expect("an answer").body_mut().read_to_string().expect("text");
        all.extend(text.lines().map(str::to_owned));
    }
    all
}

/// The state of the one mirror that a node has.
pub fn state(site: &Site) -> Json {
    site.status()["mirrors"][0].clone()
}

pub fn wait_state(site: &Site, wanted: &str) {
    wait(&format!("the mirror at {} is {wanted}: {}", site.name, state(site)), || state(site)["state"] == wanted);
}

#[test]
fn a_mirror_has_every_partition_with_its_positions_ids_and_bytes() {
    let ground = Ground::new();
    let mut hub = node(&ground, "[log.orders]\nappend = true\npartitions = 3\n");
    for n in 0..40 {
        let body = format!("{{\"key\":\"k{n}\",\"row\":{{\"n\": {n},  \"x\":1.10e2 }},\"correlation\":\"c{n}\"}}");
        post(&hub, "orders/entries", &body, &[("Idempotency-Key", &format!("i{n}"))]);
        if n == 20 {
            hub.kill();
            hub.up();
        }
    }
    let copy = mirror(&ground, "copy", &mirror_of(&hub, "orders"));
    caught_up(&hub, &copy, "orders");
    assert_eq!(lines(&copy, "orders"), lines(&hub, "orders"));
    assert_eq!(lines(&copy, "orders").len(), 40);
    // Cursors of the one are cursors of the other.
    for (from, to) in [(&hub, &copy), (&copy, &hub)] {
        let first = &entries(from, "orders/entries?partition=1&limit=3")[2];
        let cursor = first["cursor"].as_str().expect("a cursor");
        let (there, here) = (format!("orders/entries?after={cursor}"), format!("orders/entries?after={cursor}"));
        assert_eq!(entries(to, &there), entries(from, &here));
    }
    let (status, refused) = post(&copy, "orders/entries", r#"{"row":1}"#, &[]);
    assert_eq!((status, refused["code"].as_str()), (403, Some("WS-FEED-030")), "{refused}");
    assert!(
        refused["do"].as_str().is_some_and(|text| text.contains(&format!("{}/v1/logs/orders", hub.port))),
        "{refused}"
    );
    wait_state(&copy, "following");
    assert!(copy.does(&["log", "ls"]).contains("following http://"));
    assert!(copy.does(&["status"]).contains("MIRRORS"));
    let metrics = copy.get("/metrics").expect("metrics").1;
    assert!(metrics.contains("watershed_mirror_following{log=\"orders\"} 1"), "{metrics}");
    assert!(metrics.contains("watershed_mirror_behind{log=\"orders\"} 0"), "{metrics}");
}

/// Appends rows until it is told to stop; what was not answered may or may not be there.
fn append_until(port: u16, stop: &AtomicBool) -> u64 {
    let agent = agent();
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        let body =
            format!("[{{\"key\":\"a\",\"row\":{n}}},{{\"key\":\"a\",\"row\":\"{}\"}}]", "x".repeat(n as usize % 3_000));
        if agent.post(format!("http://127.0.0.1:{port}/v1/logs/orders/entries")).send(body).is_ok() {
            n += 1;
        }
    }
    n
}

#[test]
fn kills_of_either_side_leave_two_equal_logs() {
    let ground = Ground::new();
    let mut hub = node(&ground, ORDERS);
    let mut copy = mirror(&ground, "copy", &mirror_of(&hub, "orders"));
    let mut second = mirror(&ground, "second", &mirror_of(&copy, "orders"));
    let stop = AtomicBool::new(false);
    let port = hub.port;
    let sent = std::thread::scope(|scope| {
        let appending = scope.spawn(|| append_until(port, &stop));
        let until = Instant::now() + Duration::from_secs(8);
        let mut turn = 0;
        while Instant::now() < until {
            std::thread::sleep(Duration::from_millis(150 + 70 * (turn % 5)));
            turn += 1;
            let site = match turn % 4 {
                0 => &mut hub,
                2 => &mut second,
                _ => &mut copy,
            };
            site.kill();
            site.up();
        }
        stop.store(true, Ordering::Relaxed);
        appending.join().expect("it ends")
    });
    assert!(sent > 20, "only {sent} were appended");
    caught_up(&hub, &copy, "orders");
    caught_up(&hub, &second, "orders");
    let original = lines(&hub, "orders");
    assert_eq!(lines(&copy, "orders"), original);
    assert_eq!(lines(&second, "orders"), original);
    for site in [&mut copy, &mut second] {
        site.stop();
        let verified = site.watershed(&["log", "verify", "orders"]);
        assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    }
}

#[test]
fn readers_and_consumers_work_at_a_mirror_through_its_restarts() {
    let ground = Ground::new();
    let hub = node(&ground, ORDERS);
    let mut copy = mirror(&ground, "copy", &mirror_of(&hub, "orders"));
    let first = append(&hub, "orders", r#"{"row":0}"#);
    caught_up(&hub, &copy, "orders");
    let mut events = Events::new(&copy, "orders/entries?after=0");
    assert_eq!(events.wait()["position"], 1);
    for n in 1..4 {
        append(&hub, "orders", &format!("{{\"row\":{n}}}"));
        if n == 2 {
            copy.kill();
            copy.up();
        }
        assert_eq!(events.wait()["position"], n + 1);
    }
    let cursor = format!("{{\"cursor\":{}}}", first["cursor"]);
    let put = agent().put(format!("http://127.0.0.1:{}/v1/logs/orders/consumers/me", copy.port));
    assert_eq!(answer(put.header("Content-Type", "application/json").send(&cursor)).0, 201);
    assert_eq!(get(&copy, "orders/consumers/me").1["behind"], 3);
    // A cursor that the mirror has not reached is beyond its tail, not wrong.
    let mut far = mirror(&ground, "far", &mirror_of(&hub, "orders"));
    caught_up(&hub, &far, "orders");
    far.configure(None, &mirror_of(&hub, "orders").replace(&hub.port.to_string(), "1"));
    far.kill();
    far.up();
    let mut hub = hub;
    hub.kill();
    hub.up();
    let last = append(&hub, "orders", r#"{"row":9}"#);
    let place = last["cursor"].as_str().expect("a cursor");
    assert_eq!(get(&far, &format!("orders/entries?after={place}")).0, 416);
    assert_eq!(get(&copy, &format!("orders/entries?after={}", place.replace('-', "-0"))).0, 400);
}

#[test]
fn a_mirror_that_has_not_reached_its_original_says_so_and_goes_on_by_itself() {
    let ground = Ground::new();
    let mut hub = node(&ground, ORDERS);
    append(&hub, "orders", r#"{"row":1}"#);
    hub.kill();
    let copy = mirror(&ground, "copy", &mirror_of(&hub, "orders"));
    let (status, answer) = get(&copy, "orders/entries");
    assert_eq!((status, answer["code"].as_str()), (503, Some("WS-HTTP-031")), "{answer}");
    wait_state(&copy, "waiting");
    copy.wait_problem("WS-MIRROR-001");
    let made = copy.watershed(&["log", "create", "orders"]);
    assert!(String::from_utf8_lossy(&made.stderr).contains("WS-FEED-031"));
    hub.up();
    caught_up(&hub, &copy, "orders");
    assert_eq!(lines(&copy, "orders"), lines(&hub, "orders"));
}

#[test]
fn what_the_original_has_trimmed_is_never_passed_over_in_silence() {
    let ground = Ground::new();
    let hub = node(&ground, "[log.orders]\nappend = true\n[log.new]\nappend = true\n");
    let mut copy = mirror(&ground, "copy", &(mirror_of(&hub, "orders") + &mirror_of(&hub, "new")));
    append(&hub, "orders", r#"{"row":1}"#);
    caught_up(&hub, &copy, "orders");
    wait("both are there", || get(&copy, "new").0 == 200);
    copy.kill();
    for n in 2..6 {
        append(&hub, "orders", &format!("{{\"row\":{n}}}"));
        append(&hub, "new", &format!("{{\"row\":{n}}}"));
    }
    hub.does(&["log", "trim", "orders", "--upto", "3", "--yes"]);
    hub.does(&["log", "trim", "new", "--upto", "3", "--yes"]);
    copy.up();
    copy.wait_problem("WS-MIRROR-005");
    assert_eq!(rows(&entries(&copy, "orders/entries")), ["1"], "nothing is stored behind a hole");
    // What has nothing loses nothing: it begins with the oldest that is left.
    caught_up(&hub, &copy, "new");
    assert_eq!(lines(&copy, "new"), lines(&hub, "new"));
    assert_eq!(get(&copy, "new").1["oldest"], 4);
    // What the words say: moved away, the mirror begins anew.
    copy.kill();
    std::fs::rename(copy.data().join("feeds/orders"), copy.dir.join("kept")).expect("moved");
    copy.up();
    caught_up(&hub, &copy, "orders");
    assert_eq!(lines(&copy, "orders"), lines(&hub, "orders"));
    assert_eq!(rows(&entries(&copy, "orders/entries")), ["4", "5"]);
}

#[test]
fn an_original_that_is_another_log_now_is_refused() {
    let ground = Ground::new();
    let mut hub = node(&ground, ORDERS);
    let copy = mirror(&ground, "copy", &mirror_of(&hub, "orders"));
    append(&hub, "orders", r#"{"row":1}"#);
    hub.stop();
    copy_tree(&hub.data().join("feeds"), &hub.dir.join("backup"));
    hub.up();
    append(&hub, "orders", r#"{"row":2}"#);
    caught_up(&hub, &copy, "orders");
    let before = lines(&copy, "orders");
    // Restored from a backup, and appended to.
    hub.kill();
    std::fs::remove_dir_all(hub.data().join("feeds")).expect("removed");
    copy_tree(&hub.dir.join("backup"), &hub.data().join("feeds"));
    hub.up();
    for n in 0..4 {
        append(&hub, "orders", &format!("{{\"row\":\"other {n}\"}}"));
    }
    copy.wait_problem("WS-MIRROR-006");
    // Re-created under its old name.
    hub.kill();
    std::fs::remove_dir_all(hub.data().join("feeds")).expect("removed");
    hub.up();
    append(&hub, "orders", r#"{"row":"new"}"#);
    wait("the other log is named", || copy.status()["problems"].to_string().contains("WS-MIRROR-006"));
    wait_state(&copy, "stopped");
    assert_eq!(lines(&copy, "orders"), before, "nothing was mixed in");
}

pub fn copy_tree(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        match entry.file_type().expect("a type").is_dir() {
            true => copy_tree(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).expect("copied")),
        }
    }
}

#[test]
fn a_log_is_a_mirror_or_one_of_its_own() {
    let ground = Ground::new();
    let hub = node(&ground, ORDERS);
    let mut copy = mirror(&ground, "copy", ORDERS);
    append(&copy, "orders", r#"{"row":1}"#);
    copy.kill();
    copy.configure(None, &mirror_of(&hub, "orders"));
    copy.start();
    assert_eq!(copy.ended(), Some(3));
    copy.wait_log("WS-FEED-031");
    std::fs::remove_dir_all(copy.data().join("feeds")).expect("removed");
    copy.up();
    append(&hub, "orders", r#"{"row":1}"#);
    caught_up(&hub, &copy, "orders");
    copy.kill();
    copy.configure(None, ORDERS);
    copy.start();
    assert_eq!(copy.ended(), Some(3));
    for wrong in
        ["\"http://10.0.0.1:1/v1/logs/orders\"", "\"nowhere\"", "\"peer:hq\"", "\"http://127.0.0.1:1/v1/logs/main\""]
    {
        copy.configure(None, &format!("[log.orders]\nmirror = {wrong}\n"));
        copy.start();
        assert_eq!(copy.ended(), Some(3), "{wrong}");
    }
    for wrong in ["append = true", "partitions = 2", "token_env = \"A\"\ntoken_file = \"b\""] {
        copy.configure(None, &format!("{}{wrong}\n", mirror_of(&hub, "orders")));
        copy.start();
        assert_eq!(copy.ended(), Some(3), "{wrong}");
    }
}

#[test]
fn a_token_opens_the_original() {
    let ground = Ground::new();
    let mut hub = ground.log_site("hub");
    hub.configure(None, ORDERS);
    let tokens =
        "tokens = [{ name = \"copy\", token_file = \"copy.token\", may = [\"read:orders\", \"append:orders\"] }]\n";
    let text = std::fs::read_to_string(hub.config()).expect("a configuration");
    std::fs::write(hub.config(), text.replacen("listen", &format!("{tokens}listen"), 1)).expect("written");
    std::fs::write(hub.dir.join("copy.token"), "r1ght-s3cret\n").expect("written");
    hub.up();
    let bearer = [("Authorization", "Bearer r1ght-s3cret")];
    assert_eq!(post(&hub, "orders/entries", r#"{"row":1}"#, &bearer).0, 201);
    let mut copy = ground.log_site("copy");
    copy.configure(None, &(mirror_of(&hub, "orders") + "token_file = \"my.token\"\n"));
    std::fs::write(copy.dir.join("my.token"), "wrong\n").expect("written");
    copy.up();
    copy.wait_problem("WS-MIRROR-003");
    copy.kill();
    std::fs::write(copy.dir.join("my.token"), "r1ght-s3cret\n").expect("written");
    copy.up();
    wait("the entry", || get(&copy, "orders").1["tail"] == 1);
    assert!(!copy.log().contains("s3cret"), "a secret was logged");
}

#[test]
fn check_asks_the_originals_of_mirrors() {
    let ground = Ground::new();
    let mut hub = node(&ground, "[log.orders]\nappend = true\npartitions = 2\n");
    append(&hub, "orders", r#"{"key":"a","row":1}"#);
    let mut copy = ground.log_site("copy");
    copy.configure(None, &format!("{}{}", mirror_of(&hub, "orders"), mirror_of(&hub, "nothing")));
    let check = || {
        let output = copy.watershed(&["check"]);
        assert_eq!(output.status.code(), Some(0));
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    };
    let told = check();
    assert!(told.contains("mirror orders") && told.contains("with 1 entries in 2 partitions"), "{told}");
    assert!(told.contains("mirror nothing: error[WS-MIRROR-004]"), "{told}");
    assert!(!copy.data().exists(), "looking has left something");
    hub.kill();
    assert!(check().contains("mirror orders: error[WS-MIRROR-001]"));
}
