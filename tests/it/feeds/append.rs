//! What is appended, what is refused, and that a call may come twice.

use super::*;
use crate::tree::site::wait;

#[test]
fn a_call_is_a_transaction_and_rows_come_back_as_they_were_sent() {
    let ground = Ground::new();
    let site = node(&ground, ORDERS);
    let one = append(&site, "orders", r#"{"key":"a","row":{"n":1.10,"big":123456789012345678901234567890,"e":1e400}}"#);
    assert_eq!((one["start"].as_u64(), one["end"].as_u64(), one["tail"].as_u64()), (Some(1), Some(1), Some(1)));
    let many = append(&site, "orders", "[{\"row\":\"é\"},{\"row\":null,\"table\":\"other\"},\n{\"row\":[],\"key\":7}]");
    assert_eq!(many["end"], 2);
    let lines = append(&site, "orders", "{\"row\":1}\n{\"row\":2}\n");
    assert_eq!(lines["end"], 3);
    let mut response = agent().get(format!("http://127.0.0.1:{}/v1/logs/orders/entries?after=0", site.port)).call();
    let text = response.as_mut().expect("an answer").body_mut().read_to_string().expect("text");
    let first = r#""changes":[{"table":"orders","op":"insert","key":"a","row":{"n":1.10,"big":123456789012345678901234567890,"e":1e400},"old":null}]}"#;
    assert!(text.lines().next().is_some_and(|line| line.ends_with(first)), "{text}");
    let tables: Vec<_> = text.lines().nth(1).into_iter().flat_map(|line| line.matches("\"table\":\"other\"")).collect();
    assert_eq!((text.lines().count(), tables.len()), (3, 1), "{text}");
}

#[test]
fn ids_of_an_application_and_of_its_trace_are_kept() {
    let ground = Ground::new();
    let site = node(&ground, ORDERS);
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    assert_eq!(post(&site, "orders/entries", r#"{"row":1,"correlation":"c1","causation":"x"}"#, &[]).0, 201);
    assert_eq!(post(&site, "orders/entries", r#"{"row":2}"#, &[("Correlation-Id", "c2")]).0, 201);
    assert_eq!(post(&site, "orders/entries", r#"{"row":3}"#, &[("traceparent", trace)]).0, 201);
    let found = entries(&site, "orders/entries");
    let ids: Vec<_> = found.iter().map(|entry| entry["correlation"].as_str().expect("an id")).collect();
    assert_eq!(ids, ["c1", "c2", trace]);
    assert_eq!(found[0]["causation"], "x");
    assert_eq!(rows(&entries(&site, "orders/entries?correlation=c2")), ["2"]);
}

#[test]
fn a_call_with_the_same_key_is_appended_once_also_over_a_restart() {
    let ground = Ground::new();
    let mut site = node(&ground, ORDERS);
    let key = [("Idempotency-Key", "k-1")];
    let (status, first) = post(&site, "orders/entries", r#"{"row":{"a":1}}"#, &key);
    assert_eq!(status, 201);
    append(&site, "orders", r#"{"row":2}"#);
    for restart in [false, true] {
        if restart {
            site.kill();
            site.up();
        }
        let (status, again) = post(&site, "orders/entries", r#"{"row":{"a":1}}"#, &key);
        assert_eq!((status, &again["end"], &again["cursor"]), (201, &first["end"], &first["cursor"]), "{again}");
        let (status, refused) = post(&site, "orders/entries", r#"{"row":{"a":2}}"#, &key);
        assert_eq!((status, &refused["code"]), (422, &"WS-FEED-016".into()), "{refused}");
    }
    assert_eq!(entries(&site, "orders/entries").len(), 2);
}

#[test]
fn a_condition_holds_for_one_of_many_who_ask_at_once() {
    let ground = Ground::new();
    let site = node(&ground, ORDERS);
    append(&site, "orders", r#"{"row":0}"#);
    let path = "orders/entries?match_position=1";
    let told: Vec<Answer> = std::thread::scope(|scope| {
        let asked: Vec<_> = (0..8)
            .map(|n| {
                scope.spawn({
                    let site = &site;
                    move || post(site, path, &format!("{{\"row\":{n}}}"), &[])
                })
            })
            .collect();
        asked.into_iter().map(|one| one.join().expect("answered")).collect()
    });
    assert_eq!(told.iter().filter(|(status, _)| *status == 201).count(), 1, "{told:?}");
    let refused = told.iter().filter(|(status, answer)| *status == 412 && answer["position"] == 2);
    assert_eq!(refused.count(), 7, "{told:?}");
    assert_eq!(entries(&site, "orders/entries").len(), 2);
}

#[test]
fn rows_of_a_key_stay_in_its_partition() {
    let ground = Ground::new();
    let site = node(&ground, "[log.orders]\nappend = true\npartitions = 4\n");
    let mut places = std::collections::HashMap::new();
    for n in 0..60 {
        let key = format!("k{}", n % 12);
        let told = append(&site, "orders", &format!("{{\"key\":\"{key}\",\"row\":{n}}}"));
        let place = told["partition"].as_u64().expect("a partition");
        assert_eq!(*places.entry(key).or_insert(place), place);
    }
    let used: std::collections::HashSet<_> = places.values().collect();
    assert!(used.len() > 1, "{places:?}");
    let (one, other) = places
        .iter()
        .find_map(|(key, place)| places.iter().find(|(_, other)| *other != place).map(|(other, _)| (key, other)))
        .expect("two partitions");
    let both = format!("[{{\"key\":\"{one}\",\"row\":1}},{{\"key\":\"{other}\",\"row\":2}}]");
    let (status, refused) = post(&site, "orders/entries", &both, &[]);
    assert_eq!((status, &refused["code"]), (400, &"WS-FEED-015".into()), "{refused}");
    let (status, split) = post(&site, "orders/entries?split=1", &both, &[]);
    assert_eq!((status, split["parts"].as_array().map(Vec::len)), (201, Some(2)), "{split}");
    let mut seen = std::collections::HashMap::new();
    for entry in entries(&site, "orders/entries?limit=1000") {
        let partition = entry["partition"].as_u64().expect("a partition");
        let before = seen.insert(partition, entry["position"].as_u64().expect("a position")).unwrap_or(0);
        assert_eq!(entry["position"].as_u64(), Some(before + 1));
    }
    assert_eq!(seen.values().sum::<u64>(), 62);
}

#[test]
fn what_is_malformed_too_large_or_meant_for_another_log_is_refused_with_words() {
    let ground = Ground::new();
    let site = node(&ground, "[log.orders]\nappend = true\n[log.closed]\n");
    let large = format!("{{\"row\":\"{}\"}}", "x".repeat(1 << 20));
    let huge = format!("[{}]", [large.as_str(); 9].join(","));
    let key = format!("{{\"row\":1,\"key\":\"{}\"}}", "k".repeat(2_000));
    let deep = format!("{{\"row\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    for (path, body, headers, status, code) in [
        ("orders/entries", "", &[][..], 400, "WS-FEED-010"),
        ("orders/entries", "{\"row\":NaN}", &[], 400, "WS-FEED-010"),
        ("orders/entries", "{\"row\":1", &[], 400, "WS-FEED-010"),
        ("orders/entries", "{\"rwo\":1}", &[], 400, "WS-FEED-010"),
        ("orders/entries", deep.as_str(), &[], 400, "WS-FEED-010"),
        ("orders/entries", "{\"row\":1}", &[("Idempotency-Key", "")], 400, "WS-FEED-010"),
        ("orders/entries", large.as_str(), &[], 413, "WS-FEED-011"),
        ("orders/entries", huge.as_str(), &[], 413, "WS-FEED-011"),
        ("orders/entries", key.as_str(), &[], 413, "WS-FEED-011"),
        ("orders/entries", "x", &[("Content-Encoding", "gzip")], 415, "WS-FEED-012"),
        ("orders/entries?match_position=-1", "{\"row\":1}", &[], 400, "WS-FEED-010"),
        ("orders/entries?partition=1", "{\"row\":1}", &[], 400, "WS-FEED-015"),
        ("closed/entries", "{\"row\":1}", &[], 403, "WS-FEED-014"),
        ("none/entries", "{\"row\":1}", &[], 404, "WS-HTTP-007"),
        ("..%2Fmain/entries", "{\"row\":1}", &[], 404, "WS-HTTP-007"),
    ] {
        let (found, refused) = post(&site, path, body, headers);
        assert_eq!((found, refused["code"].as_str()), (status, Some(code)), "{path} {:.60}: {refused}", body);
        assert!(
            ["message", "why", "do"].iter().all(|part| refused[part].as_str().is_some_and(|text| !text.is_empty()))
        );
        assert_eq!(refused["side_effects"], false, "{refused}");
    }
    let request = agent().post(format!("http://127.0.0.1:{}/v1/logs/orders/entries", site.port));
    assert_eq!(answer(request.send(&b"{\"row\":\"\xff\"}"[..])).0, 400);
    assert!(entries(&site, "orders/entries").is_empty());
}

#[test]
fn a_call_that_names_too_many_tables_is_refused_and_the_log_stays_readable() {
    let ground = Ground::new();
    let mut site = node(&ground, ORDERS);
    let call = |from: usize, count: usize| {
        let rows: Vec<String> = (from..from + count).map(|n| format!("{{\"table\":\"t{n}\",\"row\":{n}}}")).collect();
        post(&site, "orders/entries", &format!("[{}]", rows.join(",")), &[]).0
    };
    assert_eq!((call(0, 1_000), call(0, 1_001), call(0, 10_001)), (201, 413, 413));
    // More definitions than a receiver takes at once, in calls of which each is allowed.
    let all: Vec<u16> = (1..12).map(|n| call(n * 1_000, 1_000)).collect();
    assert_eq!(all, [201; 11]);
    let mut mirror = ground.log_site("mirror");
    mirror.configure(None, &format!("[log.orders]\nmirror = \"http://127.0.0.1:{}/v1/logs/orders\"\n", site.port));
    mirror.up();
    wait("the mirror has all of it", || get(&mirror, "orders").1["tail"] == 12);
    site.kill();
    site.up();
    assert_eq!(entries(&site, "orders/entries").len(), 12);
}

#[test]
fn a_log_takes_rows_of_so_many_tables_and_no_more() {
    let ground = Ground::new();
    let mut site = node(&ground, ORDERS);
    let call = |from: usize, many: usize| {
        let rows = (from..from + many).map(|n| format!("{{\"table\":\"t{n}\",\"row\":{n}}}\n"));
        rows.collect::<String>()
    };
    let (each, max) = (watershed::model::limits::FEED_CALL_TABLES_MAX, watershed::model::limits::FEED_TABLES_MAX);
    // Calls that are refused use up nothing.
    for from in (max..3 * max).step_by(each) {
        let (status, told) = post(&site, "orders/entries?match_position=7", &call(from, each), &[]);
        assert_eq!(status, 412, "{told}");
    }
    for from in (0..max).step_by(each) {
        append(&site, "orders", &call(from, each));
    }
    for restart in [false, true] {
        if restart {
            site.kill();
            site.up();
        }
        let (status, told) = post(&site, "orders/entries", &call(max, 1), &[]);
        assert_eq!((status, &told["code"]), (409, &"WS-FEED-036".into()), "{told}");
        // Those that it has are taken.
        append(&site, "orders", &call(max - 1, 1));
    }
    assert_eq!(get(&site, "orders").1["tail"].as_u64(), Some((max / each) as u64 + 2));
}
