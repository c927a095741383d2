//! What was acknowledged is there once, in one order for everybody, whatever dies meanwhile.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::*;

/// Seconds of appending and killing; more by hand.
fn seconds() -> u64 {
    std::env::var("WATERSHED_HISTORY_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(8)
}

/// One appender: rows `[who, n]` under one key, n ascending; notes what was acknowledged. With a key of its own each call may be
/// sent again; every fourth goes without, once.
fn appender(who: usize, port: u16, stop: &AtomicBool, acknowledged: &Mutex<HashMap<(usize, u64), u64>>) -> u64 {
    let agent = agent();
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        n += 1;
        let sure = n % 4 != 0;
        loop {
            let mut request = agent.post(format!("http://127.0.0.1:{port}/v1/logs/orders/entries"));
            if sure {
                request = request.header("Idempotency-Key", format!("{who}-{n}"));
            }
            let sent = request.send(format!("{{\"key\":\"k{who}\",\"row\":[{who},{n}]}}"));
            if let Ok(mut response) = sent
                && response.status() == 201
            {
                let text = response.body_mut().read_to_string().unwrap_or_default();
                let Ok(told) = serde_json::from_str::<Json>(&text) else { continue };
                let position = told["end"].as_u64().expect("a position");
                acknowledged.lock().expect("not poisoned").insert((who, n), position);
                break;
            }
            if !sure || stop.load(Ordering::Relaxed) {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    n
}

/// Reads until it has seen the marker; returns (position, who, n).
fn reader(mut events: Events) -> Vec<(u64, usize, u64)> {
    let mut seen = Vec::new();
    loop {
        let entry = events.wait();
        let row = &entry["changes"][0]["row"];
        if row == "end" {
            return seen;
        }
        let number = |i: usize| row[i].as_u64().expect("a number");
        seen.push((entry["position"].as_u64().expect("a position"), number(0) as usize, number(1)));
    }
}

#[test]
fn every_acknowledged_append_is_there_once_in_one_order_through_kills() {
    let ground = Ground::new();
    let mut site = node(&ground, ORDERS);
    let (stop, acknowledged) = (AtomicBool::new(false), Mutex::new(HashMap::new()));
    let (port, until) = (site.port, Instant::now() + Duration::from_secs(seconds()));
    let seen = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|_| Events::new(&site, "orders/entries?after=0").url)
            .map(|url| scope.spawn(move || reader(Events { url, last: None, lines: None })))
            .collect();
        let appenders: Vec<_> = (0..6)
            .map(|who| {
                let (stop, acknowledged) = (&stop, &acknowledged);
                scope.spawn(move || appender(who, port, stop, acknowledged))
            })
            .collect();
        while Instant::now() < until {
            std::thread::sleep(Duration::from_millis(900));
            site.kill();
            site.up();
        }
        stop.store(true, Ordering::Relaxed);
        for one in appenders {
            assert!(one.join().expect("ends") > 0);
        }
        append(&site, "orders", r#"{"row":"end"}"#);
        readers.into_iter().map(|one| one.join().expect("ends")).collect::<Vec<_>>()
    });
    let acknowledged = acknowledged.into_inner().expect("not poisoned");
    assert!(acknowledged.len() > 50, "only {} were acknowledged", acknowledged.len());
    for other in &seen[1..] {
        assert_eq!(other, &seen[0], "readers disagree");
    }
    let mut last: HashMap<usize, u64> = HashMap::new();
    let mut at: HashMap<(usize, u64), u64> = HashMap::new();
    for (index, (position, who, n)) in seen[0].iter().enumerate() {
        assert_eq!(*position, index as u64 + 1, "a gap");
        assert!(at.insert((*who, *n), *position).is_none(), "[{who},{n}] is there twice");
        let before = last.insert(*who, *n).unwrap_or(0);
        assert!(before < *n, "of key k{who}: {n} after {before}");
    }
    for (row, position) in &acknowledged {
        assert_eq!(at.get(row), Some(position), "{row:?} was acknowledged at {position}");
    }
}
