//! The laws of a link, one by one, without sockets.

use super::*;
use crate::model::{Entry, EntryHeader, Epoch, LogId, Origin, Position};

fn node(number: u128) -> NodeRef {
    NodeRef { name: format!("node-{number}").into(), log: LogId(number) }
}

fn cursor(log: u128, position: u64) -> Cursor {
    Cursor { log: LogId(log), epoch: Epoch(1), position: Position(position) }
}

fn hello(node: &NodeRef, above: &[NodeRef]) -> Hello {
    Hello {
        node: node.clone(),
        epoch: Epoch(1),
        probe: false,
        path: [std::slice::from_ref(node), above].concat(),
        below: Vec::new(),
        offers: Vec::new(),
        received: None,
        mirrors: false,
    }
}

fn entries(log: u128, upto: u64) -> Message {
    let origin: Origin = cursor(log, upto);
    let entry = Entry::new(EntryHeader { origin: Some(origin), ..EntryHeader::default() }, bytes::Bytes::new());
    Message::Entries(Entries { tables: Vec::new(), entries: vec![entry], upto: Some(origin) })
}

fn beat(id: u64) -> Message {
    Message::Heartbeat { id, heads: Vec::new(), replicas: Vec::new() }
}

/// Node 1, the child of node 2; its link stands.
fn child(now: Instant) -> Session {
    let mut session = Session::new(Role::Child, node(1), vec![node(1)], Timing::default(), now);
    let actions = session.on_message(Message::Hello(hello(&node(2), &[])), 10, now).expect("a good hello");
    assert!(matches!(actions[..], [Action::Admit(_)]));
    session.established();
    session
}

fn refused(result: Result<Vec<Action>, Refusal>) -> String {
    result.expect_err("refused").code
}

fn echoes(actions: &[Action]) -> Vec<u64> {
    let id = |action: &Action| match action {
        Action::Send(Message::HeartbeatEcho { id }) => Some(*id),
        _ => None,
    };
    actions.iter().filter_map(id).collect()
}

fn credits(actions: &[Action]) -> u64 {
    let credits = |action: &Action| match action {
        Action::Send(Message::Acknowledge { credits, .. }) => *credits,
        _ => 0,
    };
    actions.iter().map(credits).sum()
}

#[test]
fn nothing_comes_before_hello_and_hello_comes_once() {
    let now = Instant::now();
    for message in [entries(2, 1), beat(1), Message::Path(vec![node(2)]), Message::Offers(Vec::new())] {
        let mut session = Session::new(Role::Child, node(1), vec![node(1)], Timing::default(), now);
        assert_eq!(refused(session.on_message(message, 10, now)), code::OUT_OF_ORDER);
    }
    assert_eq!(refused(child(now).on_message(Message::Hello(hello(&node(2), &[])), 10, now)), code::OUT_OF_ORDER);
}

#[test]
fn a_parent_announces_no_subtree_and_a_child_no_path() {
    let now = Instant::now();
    assert_eq!(refused(child(now).on_message(Message::Below(Vec::new()), 10, now)), code::OUT_OF_ORDER);
    let mut parent = Session::new(Role::Parent, node(2), vec![node(2)], Timing::default(), now);
    parent.on_message(Message::Hello(hello(&node(1), &[])), 10, now).expect("a good hello");
    parent.established();
    assert_eq!(refused(parent.on_message(Message::Path(vec![node(1)]), 10, now)), code::OUT_OF_ORDER);
}

#[test]
fn the_topology_is_checked_at_the_handshake_at_both_ends() {
    let now = Instant::now();
    let greet = |role, me: &NodeRef, above: &[NodeRef], peer: Hello| {
        let path = [std::slice::from_ref(me), above].concat();
        refused(Session::new(role, me.clone(), path, Timing::default(), now).on_message(Message::Hello(peer), 10, now))
    };
    assert_eq!(greet(Role::Child, &node(1), &[], hello(&node(1), &[])), code::SELF);
    assert_eq!(greet(Role::Parent, &node(1), &[], hello(&node(1), &[])), code::SELF);
    assert_eq!(greet(Role::Child, &node(1), &[], hello(&node(2), &[node(3), node(1)])), code::CYCLE);
    assert_eq!(greet(Role::Parent, &node(2), &[node(3), node(1)], hello(&node(1), &[])), code::CYCLE);
    let twin = NodeRef { log: LogId(99), ..node(1) };
    assert_eq!(greet(Role::Child, &node(1), &[], hello(&twin, &[])), code::NAME_TAKEN);
    assert_eq!(greet(Role::Child, &node(1), &[], hello(&node(2), std::slice::from_ref(&twin))), code::NAME_TAKEN);
    assert_eq!(greet(Role::Parent, &node(2), &[node(1)], hello(&twin, &[])), code::NAME_TAKEN);
    let deep: Vec<NodeRef> = (3..3 + limits::PATH_NODES_MAX as u128).map(node).collect();
    assert_eq!(greet(Role::Child, &node(1), &[], hello(&node(2), &deep)), code::TOO_LARGE);
}

#[test]
fn a_child_that_redials_with_an_old_path_is_welcome() {
    let now = Instant::now();
    let mut parent = Session::new(Role::Parent, node(2), vec![node(2)], Timing::default(), now);
    let redialling = hello(&node(1), &[node(2)]);
    assert!(parent.on_message(Message::Hello(redialling), 10, now).is_ok());
}

#[test]
fn a_node_that_finds_itself_in_its_parents_new_path_drops_the_link() {
    let now = Instant::now();
    let mut session = child(now);
    assert!(session.on_message(Message::Path(vec![node(2), node(3)]), 10, now).is_ok());
    assert_eq!(refused(session.on_message(Message::Path(vec![node(2), node(1)]), 10, now)), code::CYCLE);
    assert_eq!(refused(child(now).on_message(Message::Path(vec![node(3)]), 10, now)), code::OUT_OF_ORDER);
}

#[test]
fn an_echo_goes_out_only_when_everything_before_the_heartbeat_is_durable() {
    let now = Instant::now();
    let mut session = child(now);
    let at_once = session.on_message(beat(1), 10, now).expect("taken");
    assert_eq!(echoes(&at_once), [1], "nothing is before it");
    let mut take = |message| session.on_message(message, 2000, now).expect("taken");
    for message in [entries(2, 1), beat(2), entries(2, 2), beat(3), entries(2, 3)] {
        assert_eq!(echoes(&take(message)), [0u64; 0]);
    }
    let first = session.durable(1, Some(cursor(2, 1)));
    assert_eq!((echoes(&first), credits(&first)), (vec![2], 2000));
    let rest = session.durable(2, Some(cursor(2, 3)));
    assert_eq!((echoes(&rest), credits(&rest)), (vec![3], 4000));
}

#[test]
fn parts_of_a_large_transaction_give_credits_back_but_hold_heartbeats() {
    let now = Instant::now();
    let mut session = child(now);
    session.on_message(entries(2, 1), 5000, now).expect("taken");
    session.on_message(beat(1), 10, now).expect("taken");
    session.on_message(entries(2, 1), 5000, now).expect("taken");
    let spooled = session.spooled(2);
    assert_eq!((echoes(&spooled), credits(&spooled)), (vec![], 10_000));
    assert_eq!(echoes(&session.on_message(beat(2), 10, now).expect("taken")), [0u64; 0], "the end is not here");
    session.on_message(entries(2, 2), 5000, now).expect("taken");
    let done = session.durable(1, Some(cursor(2, 2)));
    assert_eq!((echoes(&done), credits(&done)), (vec![1, 2], 5000));
}

#[test]
fn a_sender_keeps_to_its_credits_and_a_receiver_holds_it_to_them() {
    let now = Instant::now();
    let mut session = child(now);
    let half = limits::LINK_CREDIT_BYTES / 2;
    session.sent(half);
    session.sent(half);
    assert!(!session.may_send(1));
    let acknowledge = |credits| Message::Acknowledge { received: None, credits };
    let actions = session.on_message(acknowledge(half), 10, now).expect("taken");
    assert!(matches!(actions[..], [Action::Credits]));
    assert!(session.may_send(half) && !session.may_send(half + 1));
    assert_eq!(refused(session.on_message(acknowledge(half + 1), 10, now)), code::OUT_OF_ORDER);

    let mut session = child(now);
    session.on_message(entries(2, 1), limits::LINK_CREDIT_BYTES as usize, now).expect("all of it");
    assert_eq!(refused(session.on_message(entries(2, 2), 1, now)), code::CREDITS);
}

#[test]
fn one_larger_message_passes_alone() {
    let now = Instant::now();
    let larger = limits::LINK_CREDIT_BYTES + 1;
    let mut session = child(now);
    assert!(session.may_send(larger));
    session.sent(larger);
    assert!(!session.may_send(1));
    session.on_message(entries(2, 1), larger as usize, now).expect("alone");
    assert_eq!(refused(session.on_message(entries(2, 2), 1, now)), code::CREDITS);
}

#[test]
fn lag_is_measured_from_the_echo_and_echoes_come_in_order() {
    let now = Instant::now();
    let mut session = child(now);
    assert_eq!(session.beat(now), Some(1));
    assert_eq!(session.beat(now + Duration::from_secs(1)), Some(2));
    let echo = |id| Message::HeartbeatEcho { id };
    let actions = session.on_message(echo(1), 10, now + Duration::from_secs(3)).expect("taken");
    assert!(matches!(actions[..], [Action::Delivered(lag)] if lag == Duration::from_secs(3)));
    assert_eq!(refused(session.on_message(echo(7), 10, now)), code::OUT_OF_ORDER);
    let mut session = child(now);
    let beats = (0..100).filter(|_| session.beat(now).is_some()).count();
    assert_eq!(beats, limits::HEARTBEATS_UNANSWERED_MAX, "no more are under way");
}

#[test]
fn silence_ends_a_link_and_any_sign_of_life_keeps_it() {
    let start = Instant::now();
    let timing = Timing::default();
    let mut session = child(start);
    let almost = start + timing.silence - Duration::from_millis(1);
    let actions = session.on_tick(almost).expect("alive");
    assert!(matches!(actions[..], [Action::Ping(1)]));
    session.on_sign_of_life(Some(1), almost + Duration::from_micros(500));
    assert_eq!(session.rtt(), Some(Duration::from_micros(500)));
    assert!(session.on_tick(start + timing.silence).is_ok());
    assert_eq!(refused(session.on_tick(almost + timing.silence + timing.heartbeat)), code::SILENT);
}

#[test]
fn a_peer_that_says_no_hello_is_given_up() {
    let start = Instant::now();
    let timing = Timing::default();
    let mut session = Session::new(Role::Parent, node(1), vec![node(1)], timing, start);
    assert!(session.on_tick(start + timing.handshake / 2).is_ok());
    assert_eq!(refused(session.on_tick(session.next_tick())), code::NO_HELLO);
}

#[test]
fn entries_of_another_log_or_without_origin_are_refused() {
    let now = Instant::now();
    assert_eq!(refused(child(now).on_message(entries(3, 1), 10, now)), code::OUT_OF_ORDER);
    let entries = vec![Entry::new(EntryHeader::default(), bytes::Bytes::new())];
    let unstamped = Message::Entries(Entries { entries, ..Entries::default() });
    assert_eq!(refused(child(now).on_message(unstamped, 10, now)), code::OUT_OF_ORDER);
}

/// Three nodes: the link at `i` is dialled by node `i` to node `i + 1`.
struct Circle {
    paths: Vec<Vec<NodeRef>>,
    /// The child's and the parent's end; `None` once the link is down.
    links: Vec<Option<[Session; 2]>>,
    /// On the way to the child's and to the parent's end.
    under_way: Vec<[VecDeque<Message>; 2]>,
    cycles: usize,
}

impl Circle {
    fn new(now: Instant) -> Circle {
        let path = |i: u128| vec![node(i % 3 + 1)];
        let session = |role, i| Session::new(role, path(i)[0].clone(), path(i), Timing::default(), now);
        let greeting = |i: u128| VecDeque::from([Message::Hello(hello(&path(i)[0], &[]))]);
        Circle {
            paths: (0..3).map(path).collect(),
            links: (0..3).map(|i| Some([session(Role::Child, i), session(Role::Parent, i + 1)])).collect(),
            under_way: (0..3).map(|i| [VecDeque::new(), greeting(i)]).collect(),
            cycles: 0,
        }
    }

    fn set_path(&mut self, i: usize, above: Vec<NodeRef>) {
        let path = [vec![node(i as u128 + 1)], above].concat();
        self.paths[i].clone_from(&path);
        for (link, end) in [(i, 0), ((i + 2) % 3, 1)] {
            let Some(ends) = &mut self.links[link] else { continue };
            match ends[end].on_path_changed(path.clone()) {
                Ok(actions) => self.say(link, end, actions),
                Err(why) => self.drop_link(link, &why),
            }
        }
    }

    fn say(&mut self, link: usize, end: usize, actions: Vec<Action>) {
        for action in actions {
            if let Action::Send(message) = action {
                self.under_way[link][1 - end].push_back(message);
            }
        }
    }

    fn drop_link(&mut self, link: usize, why: &Refusal) {
        assert_eq!(why.code, code::CYCLE);
        self.cycles += 1;
        self.links[link] = None;
        self.under_way[link] = Default::default();
        self.set_path(link, Vec::new());
    }

    fn deliver(&mut self, link: usize, end: usize, now: Instant) {
        let Some(message) = self.under_way[link][end].pop_front() else { return };
        let Some(ends) = &mut self.links[link] else { return };
        let actions = match ends[end].on_message(message, 10, now) {
            Ok(actions) => actions,
            Err(why) => return self.drop_link(link, &why),
        };
        for action in actions {
            match action {
                Action::Admit(peer) => self.admitted(link, end, peer),
                Action::Changed(PeerChange::Path(path)) => self.set_path(link, path),
                other => panic!("{other:?}"),
            }
        }
    }

    fn admitted(&mut self, link: usize, end: usize, peer: Hello) {
        let Some(ends) = &mut self.links[link] else { return };
        ends[end].established();
        if end == 0 {
            self.set_path(link, peer.path);
        } else {
            let path = &self.paths[(link + 1) % 3];
            self.under_way[link][0].push_back(Message::Hello(hello(&path[0], &path[1..])));
        }
    }
}

#[test]
fn three_nodes_that_dial_in_a_circle_find_out_in_whatever_order_messages_come() {
    let now = Instant::now();
    for seed in 1..3000u64 {
        let mut circle = Circle::new(now);
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for step in 0.. {
            assert!(step < 200, "it ends (seed {seed})");
            let waiting = |&(link, end): &(usize, usize)| !circle.under_way[link][end].is_empty();
            let ready: Vec<_> = (0..3).flat_map(|link| [(link, 0), (link, 1)]).filter(waiting).collect();
            if ready.is_empty() {
                break;
            }
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let (link, end) = ready[random as usize % ready.len()];
            circle.deliver(link, end, now);
        }
        assert!(circle.cycles > 0, "the circle was found (seed {seed})");
        assert!(circle.links.iter().any(Option::is_none), "and is open (seed {seed})");
        for path in &circle.paths {
            assert!(path[1..].iter().all(|above| above.log != path[0].log), "nobody is its own ancestor (seed {seed})");
        }
    }
}
