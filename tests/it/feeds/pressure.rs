//! More is sent than the disk takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use watershed::http;
use watershed::model::limits;
use watershed::node::feeds::{Call, CallError, CallRow, FeedSpec, Refused};
use watershed::node::{LogSettings, Node, Policy, Settings};

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_sends_more_than_the_disk_takes_is_told_to_come_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let listen = ([127, 0, 0, 1], 0).into();
    let settings = Settings {
        name: "hub".into(),
        data_dir: dir.path().join("hub.data"),
        listen,
        parent: None,
        database: None,
        copies: Vec::new(),
        policy: Policy::default(),
        log: LogSettings::default(),
        append_main: false,
        feeds: [("orders".to_owned(), FeedSpec { append: true, ..FeedSpec::default() })].into(),
        mirrors: Default::default(),
        views: Default::default(),
        tokens: Vec::new(),
        tls: None,
        cors: Vec::new(),
    };
    let node = Arc::new(Node::start(settings).await.expect("starts"));
    let address = http::serve(node.clone(), listen).await.expect("listens");
    let feed = node.shared.feeds.get("orders").expect("it is there");
    let stop = Arc::new(AtomicBool::new(false));
    let filling = {
        let (stop, feed) = (stop.clone(), feed.clone());
        // Each as large as everything that may be under way.
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let row = CallRow { table: None, key: None, row: "1".into() };
                let call = Call { rows: vec![row], bytes: limits::FEED_ROOM_BYTES, ..Call::default() };
                match feed.append(call).await {
                    Ok(_) | Err(Refused { error: CallError::Busy, .. }) => {}
                    Err(refused) => panic!("{refused}"),
                }
            }
        })
    };
    let post = move || {
        let mut response =
            agent().post(format!("http://{address}/v1/logs/orders/entries")).send("{\"row\":2}").expect("an answer");
        let wait = response.headers().get("retry-after").is_some_and(|wait| wait.as_bytes() == b"1");
        (response.status().as_u16(), wait, response.body_mut().read_to_string().expect("text"))
    };
    let found = tokio::task::spawn_blocking(move || {
        let mut found = None;
        crate::tree::site::wait("it is too much", || {
            let (status, wait, told) = post();
            assert!(matches!(status, 201 | 503), "{status} {told}");
            found = (status == 503).then_some((wait, told));
            found.is_some()
        });
        found.expect("it was waited for")
    });
    let (wait, told) = found.await.expect("asked");
    assert!(wait && told.contains("WS-FEED-017") && told.contains("\"retryable\":true"), "{told}");
    stop.store(true, Ordering::Relaxed);
    filling.await.expect("ended");
    let (status, _, told) = tokio::task::spawn_blocking(post).await.expect("asked");
    assert_eq!(status, 201, "{told}");
    node.stop().await;
}
