//! A mirror becomes a log of its own, and what was one history parts.

use super::mirror::{caught_up, lines, mirror, mirror_of, wait_state};
use super::*;
use crate::tree::site::wait;

fn said(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn with_key(site: &Site, key: &str) -> Json {
    let (status, answer) = post(site, "orders/entries", r#"{"key":"k","row":{"a":1}}"#, &[("Idempotency-Key", key)]);
    assert_eq!(status, 201, "{answer}");
    answer
}

#[test]
fn a_promoted_mirror_goes_on_and_nobody_mixes_the_two_histories() {
    let ground = Ground::new();
    let mut hub = node(&ground, "[log.orders]\nappend = true\npartitions = 2\n");
    let mut copy = mirror(&ground, "copy", &mirror_of(&hub, "orders"));
    let mut behind = mirror(&ground, "behind", &mirror_of(&hub, "orders"));
    let mut ahead = mirror(&ground, "ahead", &mirror_of(&hub, "orders"));
    let known = with_key(&hub, "once");
    for n in 0..6 {
        append(&hub, "orders", &format!("{{\"key\":\"k{n}\",\"row\":{n}}}"));
    }
    for site in [&copy, &behind, &ahead] {
        caught_up(&hub, site, "orders");
    }
    let output = copy.watershed(&["promote", "orders"]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    let output = copy.watershed(&["promote", "orders", "--yes"]);
    assert_eq!(output.status.code(), Some(5), "{}", said(&output));
    assert!(said(&output).contains("WS-FEED-033"), "{}", said(&output));
    assert_eq!(post(&copy, "orders/entries", r#"{"row":1}"#, &[]).0, 403);
    let before = lines(&hub, "orders");
    hub.kill();
    copy.does(&["promote", "orders", "--yes"]);
    // The epoch is durable when the command answers, and what was appended before may be appended again.
    copy.kill();
    copy.up();
    copy.wait_log("has been promoted");
    let again = with_key(&copy, "once");
    assert_eq!((&again["end"], &again["replayed"]), (&known["end"], &true.into()), "{again}");
    assert_eq!(lines(&copy, "orders"), before);
    for n in 0..6 {
        append(&copy, "orders", &format!("{{\"key\":\"k{n}\",\"row\":\"promoted {n}\"}}"));
    }
    assert!(said(&copy.watershed(&["promote", "orders", "--yes"])).contains("WS-FEED-035"));
    // Who has nothing else follows the promoted one.
    behind.kill();
    behind.configure(None, &mirror_of(&copy, "orders"));
    behind.up();
    caught_up(&copy, &behind, "orders");
    assert_eq!(lines(&behind, "orders"), lines(&copy, "orders"));
    // The original goes on as if nothing had happened: whoever followed it there cannot follow the other one.
    hub.up();
    for n in 0..6 {
        append(&hub, "orders", &format!("{{\"key\":\"k{n}\",\"row\":\"original {n}\"}}"));
    }
    caught_up(&hub, &ahead, "orders");
    let kept = lines(&ahead, "orders");
    ahead.kill();
    ahead.configure(None, &mirror_of(&copy, "orders"));
    ahead.up();
    ahead.wait_problem("WS-MIRROR-006");
    assert_eq!(lines(&ahead, "orders"), kept, "the two were mixed");
    // And the promoted one is no mirror any more, whatever its configuration says.
    assert_eq!(get(&copy, "orders").1["mirror"], Json::Null);
}

#[test]
fn a_mirror_is_promoted_beside_its_original_only_by_force() {
    let ground = Ground::new();
    let hub = node(&ground, ORDERS);
    let copy = mirror(&ground, "copy", &mirror_of(&hub, "orders"));
    append(&hub, "orders", r#"{"row":1}"#);
    caught_up(&hub, &copy, "orders");
    wait_state(&copy, "following");
    copy.does(&["promote", "orders", "--yes", "--force"]);
    assert_eq!(append(&copy, "orders", r#"{"row":"mine"}"#)["end"], 2);
    assert_eq!(append(&hub, "orders", r#"{"row":"theirs"}"#)["end"], 2);
    let (mine, theirs) = (entries(&copy, "orders/entries"), entries(&hub, "orders/entries"));
    assert_eq!(mine[0], theirs[0]);
    // A cursor of the one history is none of the other.
    let cursor = |entries: &[Json]| entries[1]["cursor"].as_str().expect("a cursor").to_owned();
    assert_eq!(get(&hub, &format!("orders/entries?after={}", cursor(&mine))).0, 409);
    assert_eq!(get(&copy, &format!("orders/entries?after={}", cursor(&theirs))).0, 409);
    for log in ["main", "nothing"] {
        assert!(!copy.watershed(&["promote", log, "--yes"]).status.success(), "{log}");
    }
    // Whoever mirrors a mirror follows it through its promotion.
    let far = mirror(&ground, "far", &mirror_of(&copy, "orders"));
    caught_up(&copy, &far, "orders");
    append(&copy, "orders", r#"{"row":"more"}"#);
    wait("the third", || lines(&far, "orders") == lines(&copy, "orders"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promotion_goes_on_when_whoever_asked_for_it_hangs_up() {
    let ground = Ground::new();
    let mut hub = node(&ground, ORDERS);
    append(&hub, "orders", r#"{"row":1}"#);
    let mut copy = mirror(&ground, "copy", &mirror_of(&hub, "orders"));
    caught_up(&hub, &copy, "orders");
    copy.stop();
    hub.kill();
    let config = watershed::node::config::Config::load(&copy.config(), &watershed::node::config::Overrides::default())
        .expect("a configuration");
    let settings = watershed::node::Settings::from_config(&config).expect("settings");
    let node = std::sync::Arc::new(watershed::node::Node::start(settings).await.expect("starts"));
    let feed = node.shared.feeds.get("orders").expect("it is there");
    {
        let mut promoting = Box::pin(node.promote("orders", true));
        let polled = futures_util::poll!(promoting.as_mut());
        assert!(polled.is_pending() && !feed.takes_appends(), "it is not done at once");
    }
    let until = std::time::Instant::now() + Duration::from_secs(180);
    while !feed.takes_appends() {
        assert!(std::time::Instant::now() < until, "it was left half done");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(feed.mirror_of().is_none() && node.shared.mirrors.get("orders").is_none());
    node.stop().await;
}
