//! Links that break, at every place where they can.

use std::time::{Duration, Instant};

use watershed::log::Source;
use watershed::peer::*;
use watershed::testing::proxy::{Fault, FaultProxy, Faults};

use super::host::*;

/// What both made, in order, without gap or double, at both ends.
async fn assert_equal(hq: &TestNode, branch: &TestNode, each: usize) {
    for maker in [hq.name, branch.name] {
        let there = hq.made_by(maker).await;
        assert_eq!(there.len(), each, "{maker} at hq");
        assert!(there.is_sorted_by(|a, b| (a.0, a.1) < (b.0, b.1)));
        assert!(there == branch.made_by(maker).await, "{maker}'s are the same at both");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_cut_anywhere_loses_and_doubles_nothing() {
    let (hq, branch) = (TestNode::new("hq"), TestNode::new("branch"));
    let server = serve(&hq, timing()).await;
    // Every connection lives some bytes longer than the one before: through the handshake, the hellos, and frames.
    let step = |n: u64| Some(150 + 23 * n);
    let proxy = FaultProxy::start(server.address, move |n| match n % 2 {
        _ if n >= 200 => Faults::default(),
        0 => Faults { up: Fault { cut_after: step(n), ..Fault::default() }, ..Faults::default() },
        _ => Faults { down: Fault { cut_after: step(n), ..Fault::default() }, ..Faults::default() },
    });
    let proxy = proxy.await.expect("a proxy");
    let _dialler = dial(&branch, proxy.address(), timing());
    let mut made = 0;
    let began = Instant::now();
    while proxy.connections() <= 200 {
        assert!(began.elapsed() < Duration::from_secs(60), "only {} connections", proxy.connections());
        let before = proxy.connections();
        hq.commit(change(&"h".repeat(made % 700))).await;
        branch.commit(change(&"b".repeat(made % 900))).await;
        made += 1;
        let arrived = || hq.tail() == 2 * made as u64 && branch.tail() == 2 * made as u64;
        until("both arrive, or the link breaks again", || arrived() || proxy.connections() > before).await;
    }
    until("both have all", || hq.tail() == 2 * made as u64 && branch.tail() == 2 * made as u64).await;
    assert_equal(&hq, &branch, made).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_transaction_cut_between_its_parts_arrives_whole_and_once() {
    let (hq, branch) = (TestNode::new("hq"), TestNode::new("branch"));
    let server = serve(&hq, timing()).await;
    let proxy = FaultProxy::start(server.address, |n| {
        let down = Fault { cut_after: (n < 6).then_some((n + 1) * 1_900_000), ..Fault::default() };
        Faults { down, ..Faults::default() }
    });
    let proxy = proxy.await.expect("a proxy");
    hq.commit(change("before")).await;
    hq.commit_large(12, 1).await;
    hq.commit(change("after")).await;
    let _dialler = dial(&branch, proxy.address(), timing());
    until("all three are there", || branch.tail() == 3).await;
    assert!(proxy.connections() > 6, "it was cut");
    assert!(hq.contents().await == branch.contents().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_corrupted_link_is_given_up_and_nothing_wrong_is_appended() {
    let (hq, branch) = (TestNode::new("hq"), TestNode::new("branch"));
    let server = serve(&hq, timing()).await;
    // The HTTP answer, the header of a WebSocket message, its length, protobuf keys, rows: whatever lies there.
    let proxy = FaultProxy::start(server.address, |n| {
        let down = Fault { corrupt_at: (n < 40).then_some(120 + 13 * n), ..Fault::default() };
        Faults { down, ..Faults::default() }
    });
    let proxy = proxy.await.expect("a proxy");
    let mut times = timing();
    times.handshake = Duration::from_millis(100);
    times.silence = Duration::from_millis(200);
    times.connect = Duration::from_millis(100);
    let _dialler = dial(&branch, proxy.address(), times);
    let mut made = 0;
    while proxy.connections() <= 40 {
        let before = proxy.connections();
        made += 1;
        hq.commit(change(&"x".repeat(400))).await;
        until("it arrives, or the link is given up", || branch.tail() == made || proxy.connections() > before).await;
        if proxy.connections() == before {
            proxy.cut();
            until("the link is dialled again", || proxy.connections() > before).await;
        }
    }
    until("all arrive", || branch.tail() == made).await;
    assert_eq!(hq.contents().await, branch.contents().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_black_hole_is_given_up_after_the_silence_at_both_ends() {
    let (hq, branch) = (TestNode::new("hq"), TestNode::new("branch"));
    let mut times = timing();
    times.silence = Duration::from_millis(300);
    times.connect = Duration::from_millis(300);
    let server = serve(&hq, times).await;
    let proxy = FaultProxy::start(server.address, |_| Faults::default()).await.expect("a proxy");
    let dialler = dial(&branch, proxy.address(), times);
    until("connected", || dialler.state.borrow().connected_since.is_some()).await;
    proxy.black_hole(true);
    hq.commit(change("into the void")).await;
    let silent = |node: &TestNode| node.told.borrow().closed.iter().any(|why| why.code == code::SILENT);
    until("both give up", || silent(&hq) && silent(&branch)).await;
    assert_eq!(*hq.log.tail().borrow(), watershed::model::Position(1));
    proxy.black_hole(false);
    until("it arrives when packets pass again", || branch.tail() == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_link_is_not_a_silent_one() {
    let (hq, branch) = (TestNode::new("hq"), TestNode::new("branch"));
    let mut times = timing();
    times.silence = Duration::from_millis(400);
    let server = serve(&hq, times).await;
    // 16 KiB every 20 ms: the entry below takes several times the silence.
    let down = Fault { delay: Duration::from_millis(20), ..Fault::default() };
    let proxy = FaultProxy::start(server.address, move |_| Faults { down, ..Faults::default() });
    let proxy = proxy.await.expect("a proxy");
    hq.commit(change(&"x".repeat(1 << 20))).await;
    let _dialler = dial(&branch, proxy.address(), times);
    let began = Instant::now();
    until("it arrives", || branch.tail() == 1).await;
    assert!(began.elapsed() > 2 * times.silence, "the link was slow: {:?}", began.elapsed());
    assert_eq!(proxy.connections(), 1, "and was never given up");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parent_that_is_away_is_dialled_again_and_the_state_says_so() {
    let (hq, branch) = (TestNode::new("hq"), TestNode::new("branch"));
    let server = serve(&hq, timing()).await;
    let proxy = FaultProxy::start(server.address, |_| Faults::default()).await.expect("a proxy");
    let dialler = dial(&branch, proxy.address(), timing());
    let connected = || dialler.state.borrow().connected_since.is_some();
    until("connected", connected).await;
    for round in 1..=5 {
        proxy.cut();
        hq.commit(change("while it was away")).await;
        until("it comes back by itself", || connected() && branch.tail() == round).await;
    }
    assert_eq!(dialler.state.borrow().attempts, 0);
    assert!(branch.told.borrow().closed.iter().all(|why| why.code == code::LOST));
}
