//! Replay, then live, without a gap or a duplicate.

use super::*;

#[test]
fn the_past_is_found_by_position_cursor_time_count_key_table_and_expression() {
    let ground = Ground::new();
    let site = node(&ground, ORDERS);
    for n in 1..=20 {
        append(&site, "orders", &format!(r#"{{"key":"k{}","table":"t{}","row":{{"n":{n}}}}}"#, n % 5, n % 2));
    }
    let all = entries(&site, "orders/entries");
    assert_eq!(all.len(), 20);
    let at = |n: usize, name: &str| all[n - 1][name].as_str().expect("a text").to_owned();
    let numbers = |query: &str| -> Vec<u64> {
        entries(&site, &format!("orders/entries?{query}"))
            .iter()
            .map(|entry| entry["position"].as_u64().expect("a position"))
            .collect()
    };
    assert_eq!(numbers("after=18"), [19, 20]);
    assert_eq!(numbers(&format!("after={}", at(18, "cursor"))), [19, 20]);
    assert_eq!(numbers(&format!("time={}", at(17, "time"))), [17, 18, 19, 20]);
    assert_eq!(numbers("time=2999-01-01T00:00:00Z"), [0; 0]);
    assert_eq!(numbers("tail=2"), [19, 20]);
    assert_eq!(numbers("after=0&limit=3"), [1, 2, 3]);
    assert_eq!(numbers("key=k3"), [3, 8, 13, 18]);
    assert_eq!(numbers("tables=t0&after=14"), [16, 18, 20]);
    assert_eq!(numbers("where=row.n%20%3E%2018"), [19, 20]);
    // A row that lacks what is asked for does not pass.
    assert_eq!(numbers("where=row.other%20%3D%3D%201"), [0; 0]);
    for (query, status) in [
        ("after=21", 416),
        ("after=x", 400),
        ("time=yesterday", 400),
        ("tail=1&after=1", 400),
        ("wher=1", 400),
        ("where=row.", 400),
        ("where=nobody%20%3D%3D%201", 400),
        ("partition=1", 400),
        ("wait=-1", 400),
        ("after=00000000000000000000000000000001-0000000000000001-1", 409),
    ] {
        assert_eq!(get(&site, &format!("orders/entries?{query}")).0, status, "{query}");
    }
}

#[test]
fn a_long_poll_ends_with_the_first_answer() {
    let ground = Ground::new();
    let site = node(&ground, ORDERS);
    let found = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| entries(&site, "orders/entries?after=0&wait=25s"));
        append(&site, "orders", r#"{"row":1}"#);
        waiting.join().expect("answered")
    });
    assert_eq!(rows(&found), ["1"]);
    assert!(entries(&site, "orders/entries?after=1&wait=0.2s").is_empty());
}

#[test]
fn events_go_on_over_restarts_without_loss_or_duplicate() {
    let ground = Ground::new();
    let mut site = node(&ground, ORDERS);
    for n in 1..=50 {
        append(&site, "orders", &format!("{{\"row\":{n}}}"));
    }
    let mut reader = Events::new(&site, "orders/entries?after=0");
    let mut expected = 0;
    for round in 0..3 {
        for _ in 0..25 {
            expected += 1;
            let entry = reader.wait();
            assert_eq!((entry["position"].as_u64(), &entry["changes"][0]["row"]), (Some(expected), &expected.into()));
        }
        if round % 2 == 0 {
            site.kill();
        } else {
            assert_eq!(site.stop(), Some(0));
        }
        site.up();
        for n in 1..=25 {
            append(&site, "orders", &format!("{{\"row\":{}}}", 50 + round * 25 + n));
        }
    }
    while expected < 125 {
        expected += 1;
        assert_eq!(reader.wait()["position"].as_u64(), Some(expected));
    }
}

#[test]
fn a_log_with_partitions_is_read_as_one_and_resumed_as_one() {
    let ground = Ground::new();
    let mut site = node(&ground, "[log.orders]\nappend = true\npartitions = 3\n");
    let mut reader = Events::new(&site, "orders/entries?after=0");
    let mut seen = std::collections::BTreeSet::new();
    for round in 0..3 {
        for n in 0..20 {
            append(&site, "orders", &format!("{{\"key\":\"k{n}\",\"row\":{}}}", round * 20 + n));
        }
        while seen.len() < (round + 1) * 20 {
            let entry = reader.wait();
            assert!(seen.insert(entry["changes"][0]["row"].as_u64()), "twice: {entry}");
        }
        site.kill();
        site.up();
    }
}

#[test]
fn a_websocket_gets_an_entry_a_message() {
    let ground = Ground::new();
    let site = node(&ground, ORDERS);
    for n in 1..=3 {
        append(&site, "orders", &format!("{{\"row\":{n}}}"));
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let positions = runtime.block_on(async {
        use futures_util::StreamExt;
        let url = format!("ws://127.0.0.1:{}/v1/logs/orders/entries?after=1", site.port);
        let (mut socket, _) = tokio_tungstenite::connect_async(url).await.expect("connects");
        let mut positions = Vec::new();
        while positions.len() < 3 {
            let message = socket.next().await.expect("a message").expect("readable");
            let value: Json = serde_json::from_str(message.to_text().expect("text")).expect("JSON");
            if value["event"] == "current" {
                assert_eq!(value["tail"], 3);
                append(&site, "orders", r#"{"row":4}"#);
            } else {
                positions.push(value["position"].as_u64().expect("a position"));
            }
        }
        positions
    });
    assert_eq!(positions, [2, 3, 4]);
}

#[test]
fn many_readers_of_one_feed_get_everything_once_and_in_order_wherever_they_begin() {
    let ground = Ground::new();
    let site = node(&ground, ORDERS);
    for n in 1..=150 {
        append(&site, "orders", &format!("{{\"row\":{n}}}"));
    }
    std::thread::scope(|scope| {
        for after in [0, 0, 1, 63, 64, 65, 100, 149] {
            let site = &site;
            scope.spawn(move || {
                let mut reader = Events::new(site, &format!("orders/entries?after={after}"));
                for expected in after + 1..=400 {
                    let entry = reader.wait();
                    let found = (entry["position"].as_u64(), entry["changes"][0]["row"].as_u64());
                    assert_eq!(found, (Some(expected), Some(expected)), "after {after}");
                }
            });
        }
        for n in 151..=400 {
            append(&site, "orders", &format!("{{\"row\":{n}}}"));
        }
    });
    // What is trimmed is not given out of memory either.
    site.does(&["log", "trim", "orders", "--upto", "10", "--yes"]);
    let request = agent().get(format!("http://127.0.0.1:{}/v1/logs/orders/entries?after=9", site.port));
    assert_eq!(answer(request.header("Accept", "text/event-stream").call()).0, 410);
    assert_eq!(Events::new(&site, "orders/entries?after=10").wait()["position"], 11);
}

#[test]
fn who_finds_nothing_in_a_long_stretch_hears_how_far_it_has_come() {
    let ground = Ground::new();
    let site = node(&ground, ORDERS);
    let other = format!("{{\"key\":\"other\",\"row\":\"{}\"}}\n", "x".repeat(1_000_000)).repeat(7);
    for _ in 0..12 {
        append(&site, "orders", &other);
    }
    append(&site, "orders", r#"{"key":"mine","row":1}"#);
    let ask = |after: &str| {
        let url = format!("http://127.0.0.1:{}/v1/logs/orders/entries?key=mine&after={after}", site.port);
        let mut response = agent().get(url).call().expect("an answer");
        let cursor = response.headers().get("watershed-cursor").map(|cursor| cursor.to_str().expect("text").to_owned());
        (cursor, response.body_mut().read_to_string().expect("text"))
    };
    let (cursor, text) = ask("0");
    assert!(text.is_empty(), "84 MB are more than is looked through at once: {text}");
    let cursor = cursor.expect("how far it has come");
    let (none, text) = ask(&cursor);
    assert!(none.is_none() && text.lines().count() == 1, "{text}");
    let entry: Json = serde_json::from_str(&text).expect("JSON");
    assert_eq!(entry["position"], 13);
    // At the end it is answered with where it is.
    let end = entry["cursor"].as_str().expect("a cursor");
    assert_eq!(ask(end), (Some(end.to_owned()), String::new()));
    // The command goes on by itself.
    assert!(site.does(&["log", "read", "orders", "--key", "mine", "--json"]).contains("\"position\":13"));
    assert_eq!(site.does(&["log", "read", "orders", "--key", "nobody", "--json"]), "");
}

#[test]
fn who_resumes_gets_nothing_from_before_the_time_that_it_asks_for() {
    let ground = Ground::new();
    let site = node(&ground, ORDERS);
    for n in 1..=3 {
        append(&site, "orders", &format!("{{\"row\":{n}}}"));
    }
    let all = entries(&site, "orders/entries");
    let url = format!(
        "http://127.0.0.1:{}/v1/logs/orders/entries?time={}",
        site.port,
        all[2]["time"].as_str().expect("text")
    );
    let request = agent().get(url).header("Last-Event-ID", all[0]["cursor"].as_str().expect("text"));
    let text = request.call().expect("an answer").body_mut().read_to_string().expect("text");
    assert!(text.lines().count() == 1 && text.starts_with("{\"position\":3,"), "{text}");
}

#[test]
fn who_resumes_from_no_place_at_all_is_told_and_does_not_begin_anew() {
    let ground = Ground::new();
    let site = node(&ground, ORDERS);
    append(&site, "orders", r#"{"row":1}"#);
    let url = format!("http://127.0.0.1:{}/v1/logs/orders/entries", site.port);
    for id in [&b"garbage"[..], b"\xff\xfe", b"0-0-0"] {
        let id = ureq::http::HeaderValue::from_bytes(id).expect("a header");
        let mut answer = agent().get(&url).header("Last-Event-ID", &id).call().expect("an answer");
        let text = answer.body_mut().read_to_string().expect("text");
        assert!(answer.status().is_client_error() && text.contains("WS-"), "{id:?}: {} {text}", answer.status());
    }
}

#[test]
fn a_command_that_finds_nothing_ends_although_the_log_is_written_all_the_time() {
    let ground = Ground::new();
    let site = node(&ground, ORDERS);
    append(&site, "orders", r#"{"row":0}"#);
    let ended = std::sync::atomic::AtomicBool::new(false);
    let until = std::time::Instant::now() + Duration::from_secs(180);
    let given_up = std::thread::scope(|scope| {
        let (site, ended) = (&site, &ended);
        let writers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(move || {
                    while !ended.load(std::sync::atomic::Ordering::Relaxed) && std::time::Instant::now() < until {
                        append(site, "orders", r#"{"row":1}"#);
                    }
                    std::time::Instant::now() >= until
                })
            })
            .collect();
        assert_eq!(site.does(&["log", "read", "orders", "--key", "nobody", "--json"]), "");
        ended.store(true, std::sync::atomic::Ordering::Relaxed);
        writers.into_iter().map(|writer| writer.join().expect("it ends")).fold(false, |all, one| all | one)
    });
    assert!(!given_up, "it ended only when nobody wrote any more");
}
