//! What any log must do. Every implementation runs all of it: [`check_all`] on fresh logs, [`check_reopen`] where a
//! log can be closed and opened again.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::log::{Append, AppendError, CursorRefused, Draft, Limit, Log, Parts, SourceError};
use crate::model::{
    Change, Column, Cursor, Entry, EntryHeader, Epoch, Kind, Lamport, LinkId, LogId, Logged, Op, Origin, Position,
    ReadFrom, SourceCursor, TableDef, Timestamp, Value, encode_changes,
};

/// How long anything may take before a test gives up.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// A table with a key and a text.
pub fn table() -> Arc<TableDef> {
    let column = |name: &str, key| Column { name: name.into(), type_name: "text".into(), key };
    Arc::new(TableDef::new("notes".parse().expect("a name"), vec![column("id", 1), column("text", 0)]))
}

/// Encoded changes: one insert into [`table`].
pub fn insert(id: &str, text: &str) -> Bytes {
    let row = vec![Value::new(Kind::Typed, id.to_owned()), Value::new(Kind::Typed, text.to_owned())];
    encode_changes(&[Change { table: 0, op: Op::Insert, row: Some(row), old: None }])
}

/// A draft of this node's own.
pub fn local(text: &str) -> Draft {
    let header = EntryHeader {
        time: Timestamp(1),
        node: "here".into(),
        tables: vec![table().fingerprint],
        ..Default::default()
    };
    Draft::Local { header, changes: insert("1", text) }
}

/// An entry as another log with that id would send it.
pub fn relayed(log: u128, epoch: u64, position: u64, text: &str) -> Entry {
    let header = EntryHeader {
        origin: Some(Origin { log: LogId(log), epoch: Epoch(epoch), position: Position(position) }),
        lamport: Lamport(100 * position),
        node: "there".into(),
        tables: vec![table().fingerprint],
        ..Default::default()
    };
    Entry::new(header, insert("1", text))
}

/// Parts out of memory; fails at the end where that is wanted.
pub struct VecParts {
    /// The parts to come.
    pub parts: std::vec::IntoIter<Bytes>,
    /// What comes after them, if not the end.
    pub error: Option<io::Error>,
}

impl Parts for VecParts {
    fn next(&mut self) -> io::Result<Option<Bytes>> {
        match (self.parts.next(), self.error.take()) {
            (Some(part), error) => {
                self.error = error;
                Ok(Some(part))
            }
            (None, Some(error)) => Err(error),
            (None, None) => Ok(None),
        }
    }
}

/// A large draft of that many parts.
pub fn large(parts: usize, bytes: usize, origin: Option<Origin>) -> Draft {
    let header = EntryHeader { origin, tables: vec![table().fingerprint], ..Default::default() };
    let parts: Vec<Bytes> = (0..parts).map(|i| insert(&i.to_string(), &"x".repeat(bytes))).collect();
    Draft::Large { header, parts: Box::new(VecParts { parts: parts.into_iter(), error: None }) }
}

/// An append of local drafts that defines the table.
pub fn append(drafts: Vec<Draft>) -> Append {
    Append { from: LinkId::LOCAL, tables: vec![table()], drafts, upto: None }
}

/// An append from a link.
pub fn arrival(link: u128, drafts: Vec<Draft>, upto: Option<&'static str>) -> Append {
    let upto = upto.map(|upto| SourceCursor(Bytes::from_static(upto.as_bytes())));
    Append { from: LinkId(LogId(link)), tables: vec![table()], drafts, upto }
}

/// Reads everything after a place, with a small limit, and checks what any read must give.
pub async fn read_all(log: &dyn Log, from: ReadFrom) -> Result<Vec<Logged>, SourceError> {
    let mut all: Vec<Logged> = Vec::new();
    let mut from = from;
    loop {
        let batch = log.read(from, Limit { bytes: 3_000, entries: 7 }).await?;
        assert_eq!(batch.upto, log.cursor_at(batch.next.after), "upto is the last complete position");
        if batch.entries.is_empty() {
            assert_eq!(batch.next, from, "an empty batch stays where it is");
            return Ok(all);
        }
        for logged in batch.entries {
            let header = logged.entry.header();
            let expected = match all.last().filter(|last| last.entry.header().more) {
                Some(last) => (last.position, last.entry.header().part + 1),
                None => (
                    all.last().map_or(from.after, |last| last.position).next(),
                    if all.is_empty() { from.part } else { 0 },
                ),
            };
            assert_eq!((logged.position, header.part), expected, "entries follow each other without a gap");
            for table in &header.tables {
                assert!(batch.catalog.get(*table).is_some(), "every table named is defined");
            }
            all.push(logged);
        }
        assert_ne!(batch.next, from, "a batch with entries goes on");
        from = batch.next;
    }
}

/// Text of each entry's first change: what it is told apart by.
pub fn texts(entries: &[Logged]) -> Vec<String> {
    let text = |logged: &Logged| {
        let changes = logged.entry.changes().expect("own changes");
        let row = changes[0].row.as_ref().expect("an insert");
        String::from_utf8_lossy(&row[1].text).into_owned()
    };
    entries.iter().map(text).collect()
}

/// Runs every law that a fresh log must keep.
pub async fn check_all<L: Log + 'static>(fresh: impl Fn() -> L) {
    positions_are_given_in_order_and_local_drafts_are_stamped(&fresh()).await;
    reading_ahead_gives_what_reading_gives(&fresh()).await;
    relayed_entries_keep_their_bytes_and_arrival(&fresh()).await;
    redelivered_entries_are_ignored(&fresh()).await;
    a_contradicting_origin_is_refused(&fresh()).await;
    a_refused_append_leaves_nothing_behind(&fresh()).await;
    large_transactions_are_whole_and_adjacent(&fresh()).await;
    a_large_transaction_that_fails_leaves_nothing_behind(&fresh()).await;
    source_cursors_are_stored_with_what_was_received(&fresh()).await;
    cursors_are_checked(&fresh()).await;
    the_tail_moves_only_to_what_can_be_read(Arc::new(fresh())).await;
    concurrent_appends_are_one_order(Arc::new(fresh())).await;
    dropping_an_append_neither_takes_it_back_nor_blocks_others(Arc::new(fresh())).await;
}

async fn positions_are_given_in_order_and_local_drafts_are_stamped(log: &dyn Log) {
    let first = log.append(append(vec![local("a"), local("b")])).await.expect("appended");
    assert_eq!((first.log, first.position), (log.id(), Position(2)));
    let second = log.append(append(vec![local("c")])).await.expect("appended");
    assert_eq!(second.position, Position(3));
    let all = read_all(log, Position::ZERO.into()).await.expect("readable");
    assert_eq!(texts(&all), ["a", "b", "c"]);
    let mut lamport = Lamport(0);
    for logged in &all {
        let header = logged.entry.header();
        assert_eq!(header.origin, Some(log.cursor_at(logged.position)));
        assert!(header.lamport > lamport);
        assert!(logged.from.is_local());
        assert_eq!(&*header.node, "here");
        lamport = header.lamport;
    }
    assert_eq!(texts(&read_all(log, Position(2).into()).await.expect("readable")), ["c"]);
    let beyond = log.read(Position(4).into(), Limit::default()).await;
    assert!(matches!(beyond, Err(SourceError::Beyond { asked: Position(4), tail: Position(3) })), "{beyond:?}");
    let one = log.read(Position::ZERO.into(), Limit { bytes: 0, entries: 0 }).await.expect("readable");
    assert_eq!(one.entries.len(), 1, "at least one entry is returned");
}

async fn reading_ahead_gives_what_reading_gives(log: &dyn Log) {
    for i in 0..10 {
        log.append(append(vec![local(&format!("{i}")), large(3, 500, None)])).await.expect("appended");
    }
    let mut from: ReadFrom = Position::ZERO.into();
    loop {
        let limit = Limit { bytes: 3_000, entries: 7 };
        let (read, ahead) =
            (log.read(from, limit).await.expect("read"), log.read_ahead(from, limit).await.expect("read"));
        assert_eq!((ahead.entries, ahead.upto, ahead.next), (read.entries, read.upto, read.next));
        if ahead.next == from {
            break;
        }
        from = ahead.next;
    }
    let beyond = log.tail().borrow().next().into();
    let read = log.read(beyond, Limit::default()).await.expect_err("nothing is there");
    let ahead = log.read_ahead(beyond, Limit::default()).await.expect_err("nothing is there");
    assert_eq!(ahead.to_string(), read.to_string());
}

async fn relayed_entries_keep_their_bytes_and_arrival(log: &dyn Log) {
    let mut bytes = relayed(7, 1, 5, "foreign").bytes().to_vec();
    bytes.extend_from_slice(&[0xfa, 0x01, 0x03, b'n', b'e', b'w']);
    let entry = Entry::decode(bytes.clone().into()).expect("an unknown field is tolerated");
    let drafts = vec![Draft::Relayed(entry), Draft::Relayed(relayed(8, 1, 1, "other"))];
    log.append(arrival(9, drafts, None)).await.expect("appended");
    log.append(append(vec![local("own")])).await.expect("appended");
    let all = read_all(log, Position::ZERO.into()).await.expect("readable");
    assert_eq!(all[0].entry.bytes(), &bytes);
    assert_eq!([all[0].from, all[1].from, all[2].from], [LinkId(LogId(9)), LinkId(LogId(9)), LinkId::LOCAL]);
    assert!(all[2].entry.header().lamport > Lamport(500), "Lamport time is raised to that of what arrives");
}

async fn redelivered_entries_are_ignored(log: &dyn Log) {
    let entry = |position, text| Draft::Relayed(relayed(7, 1, position, text));
    log.append(arrival(7, vec![entry(3, "a"), entry(3, "again"), entry(9, "b")], None)).await.expect("appended");
    let again = log.append(arrival(7, vec![entry(3, "again"), entry(9, "again"), entry(12, "c")], None)).await;
    assert_eq!(again.expect("appended").position, Position(3));
    let again = log.append(arrival(8, vec![entry(5, "filtered then"), entry(12, "again")], None)).await;
    assert_eq!(again.expect("a no-op").position, Position(3));
    let own = read_all(log, Position::ZERO.into()).await.expect("readable");
    assert_eq!(texts(&own), ["a", "b", "c"]);
    log.append(append(vec![local("own")])).await.expect("appended");
    let own = read_all(log, Position(3).into()).await.expect("readable").remove(0).entry;
    let back = log.append(arrival(7, vec![Draft::Relayed(own)], None)).await.expect("its own entry came back");
    assert_eq!(back.position, Position(4));
}

async fn a_contradicting_origin_is_refused(log: &dyn Log) {
    let entry = |epoch, position| Draft::Relayed(relayed(7, epoch, position, "x"));
    log.append(arrival(7, vec![entry(1, 3), entry(1, 6), entry(2, 9)], None)).await.expect("a restart is fine");
    for (epoch, position) in [(3, 9), (3, 7), (1, 9), (1, 12), (2, 5)] {
        let refused = log.append(arrival(7, vec![entry(2, 10), entry(epoch, position)], None)).await;
        let Err(AppendError::Diverged { known, sent, .. }) = refused else { panic!("{epoch} {position}: {refused:?}") };
        assert_eq!((sent.epoch, sent.position), (Epoch(epoch), Position(position)));
        assert!(known.position >= Position(9));
    }
    let mine = relayed(log.id().0, 4, 2, "from a future that this log has lost");
    let refused = log.append(arrival(7, vec![Draft::Relayed(mine)], None)).await;
    assert!(matches!(refused, Err(AppendError::Diverged { .. })), "{refused:?}");
    assert_eq!(log.info().tail, Position(3));
    log.append(arrival(7, vec![entry(2, 10)], None)).await.expect("what was refused with it was not stored");
}

async fn a_refused_append_leaves_nothing_behind(log: &dyn Log) {
    log.append(append(vec![local("a")])).await.expect("appended");
    let header = EntryHeader { tables: vec![crate::model::Fingerprint(1)], ..Default::default() };
    let unknown = Draft::Local { header, changes: Bytes::new() };
    let mut wrong = arrival(5, vec![local("lost"), unknown], Some("7"));
    wrong.tables = vec![];
    assert!(matches!(log.append(wrong).await, Err(AppendError::Invalid(_))));
    let huge = Draft::Local { header: EntryHeader::default(), changes: vec![0; 65 << 20].into() };
    let refused = log.append(arrival(5, vec![local("lost"), huge], Some("8"))).await;
    assert!(matches!(refused, Err(AppendError::TooLarge { .. })), "{refused:?}");
    assert_eq!(log.source_cursor(LinkId(LogId(5))), None);
    assert_eq!(log.append(append(vec![local("b")])).await.expect("appended").position, Position(2));
    assert_eq!(texts(&read_all(log, Position::ZERO.into()).await.expect("readable")), ["a", "b"]);
}

async fn large_transactions_are_whole_and_adjacent(log: &dyn Log) {
    let origin = Origin { log: LogId(7), epoch: Epoch(1), position: Position(4) };
    log.append(append(vec![local("a")])).await.expect("appended");
    let at = log.append(append(vec![local("b"), large(9, 2_000, None), local("c")])).await.expect("appended");
    assert_eq!(at.position, Position(4));
    let at = log.append(arrival(7, vec![large(3, 500, Some(origin))], Some("4"))).await.expect("appended");
    assert_eq!(at.position, Position(5));
    let at = log.append(arrival(7, vec![large(3, 500, Some(origin))], Some("4"))).await.expect("a no-op");
    assert_eq!(at.position, Position(5));
    let all = read_all(log, Position::ZERO.into()).await.expect("readable");
    let places: Vec<_> = all.iter().map(|logged| (logged.position.0, logged.entry.header().part)).collect();
    let parts = |position, n| (0..n).map(move |part| (position, part));
    let expected: Vec<_> = [(1, 0), (2, 0)].into_iter().chain(parts(3, 9)).chain([(4, 0)]).chain(parts(5, 3)).collect();
    assert_eq!(places, expected);
    assert_eq!(all[2].entry.header().origin, Some(log.cursor_at(Position(3))));
    assert_eq!(all[13].entry.header().origin, Some(origin));
    let middle = read_all(log, ReadFrom { after: Position(2), part: 6 }).await.expect("readable");
    assert_eq!(middle, all[8..], "reading goes on in the middle of a large transaction");
}

async fn a_large_transaction_that_fails_leaves_nothing_behind(log: &dyn Log) {
    log.append(append(vec![local("a")])).await.expect("appended");
    let parts = vec![insert("1", &"x".repeat(3_000)); 4].into_iter();
    let header = EntryHeader { tables: vec![table().fingerprint], ..Default::default() };
    let parts = Box::new(VecParts { parts, error: Some(io::Error::other("the spool is gone")) });
    let refused = log.append(append(vec![local("lost"), Draft::Large { header: header.clone(), parts }])).await;
    assert!(matches!(refused, Err(AppendError::Invalid(_))), "{refused:?}");
    let empty = Box::new(VecParts { parts: vec![].into_iter(), error: None });
    let refused = log.append(append(vec![Draft::Large { header, parts: empty }])).await;
    assert!(matches!(refused, Err(AppendError::Invalid(_))), "{refused:?}");
    assert_eq!(log.append(append(vec![local("b")])).await.expect("appended").position, Position(2));
    assert_eq!(texts(&read_all(log, Position::ZERO.into()).await.expect("readable")), ["a", "b"]);
}

async fn source_cursors_are_stored_with_what_was_received(log: &dyn Log) {
    let stored = |link| log.source_cursor(LinkId(LogId(link))).map(|cursor| cursor.0);
    assert_eq!(stored(5), None);
    let at = log.append(arrival(5, vec![], Some("seen 3"))).await.expect("appended");
    assert_eq!((at.position, stored(5)), (Position::ZERO, Some("seen 3".into())));
    log.append(arrival(6, vec![local("x")], Some("other"))).await.expect("appended");
    log.append(arrival(5, vec![], Some("seen 9"))).await.expect("appended");
    log.append(arrival(5, vec![local("y")], None)).await.expect("appended");
    assert_eq!((stored(5), stored(6)), (Some("seen 9".into()), Some("other".into())));
    let long = SourceCursor(vec![b'x'; 2_000].into());
    let refused = log.append(Append { upto: Some(long), ..arrival(5, vec![], None) }).await;
    assert!(matches!(refused, Err(AppendError::Invalid(_))), "{refused:?}");
}

async fn cursors_are_checked(log: &dyn Log) {
    let at = log.append(append(vec![local("a"), local("b")])).await.expect("appended");
    assert_eq!(log.check(at), Ok(()));
    assert_eq!(log.check(log.cursor_at(Position::ZERO)), Ok(()));
    assert_eq!(log.cursor_at(Position(99)), at, "beyond the tail is the tail");
    let other = Cursor { log: LogId(1), ..at };
    assert_eq!(log.check(other), Err(CursorRefused::OtherLog { expected: LogId(1), actual: log.id() }));
    let epoch = Epoch(at.epoch.0 ^ 2);
    assert_eq!(log.check(Cursor { epoch, ..at }), Err(CursorRefused::UnknownEpoch(epoch)));
    let beyond = Cursor { position: Position(3), ..at };
    assert_eq!(log.check(beyond), Err(CursorRefused::BeyondEpoch { position: Position(3), end: Position(2) }));
}

async fn the_tail_moves_only_to_what_can_be_read<L: Log + 'static>(log: Arc<L>) {
    let mut tail = log.tail();
    let reader = log.clone();
    let following = tokio::spawn(async move {
        let mut from = ReadFrom::default();
        while from.after < Position(50) {
            let seen = *tail.wait_for(|tail| *tail > from.after).await.expect("the log is open");
            let batch = reader.read(from, Limit::default()).await.expect("readable");
            assert!(batch.next.after >= seen, "what the tail shows can be read");
            from = batch.next;
        }
    });
    for i in 0..50 {
        log.append(append(vec![local(&i.to_string())])).await.expect("appended");
    }
    tokio::time::timeout(DEADLINE, following).await.expect("in time").expect("no panic");
}

async fn concurrent_appends_are_one_order<L: Log + 'static>(log: Arc<L>) {
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..16 {
        let log = log.clone();
        tasks.spawn(async move {
            let mut at = Vec::new();
            for i in 0..20 {
                let text = format!("{task} {i}");
                let cursor = log.append(append(vec![local(&text), local(&text)])).await.expect("appended");
                assert!(*log.tail().borrow() >= cursor.position, "durable on return");
                at.push((cursor.position, text));
            }
            at
        });
    }
    let answers = tokio::time::timeout(DEADLINE, tasks.join_all()).await.expect("in time");
    let all = texts(&read_all(log.as_ref(), Position::ZERO.into()).await.expect("readable"));
    assert_eq!(all.len(), 640);
    for task in answers {
        assert!(task.is_sorted_by_key(|(position, _)| *position), "one appender's appends are in its order");
        for (position, text) in task {
            assert_eq!(all[position.0 as usize - 1], text, "the cursor is that of the last draft");
            assert_eq!(all[position.0 as usize - 2], text, "an append is at consecutive positions");
        }
    }
}

async fn dropping_an_append_neither_takes_it_back_nor_blocks_others<L: Log + 'static>(log: Arc<L>) {
    let mut tasks = tokio::task::JoinSet::new();
    for i in 0..64 {
        let log = log.clone();
        tasks.spawn(async move {
            let append = log.append(append(vec![local("maybe")]));
            let _ = tokio::time::timeout(Duration::from_micros(i * 10), append).await;
        });
    }
    let last = async {
        tasks.join_all().await;
        log.append(append(vec![local("sure")])).await.expect("appended")
    };
    let last = tokio::time::timeout(DEADLINE, last).await.expect("nobody is blocked");
    let all = texts(&read_all(log.as_ref(), Position::ZERO.into()).await.expect("readable"));
    assert_eq!(all.len() as u64, last.position.0);
    assert_eq!(all.last().map(String::as_str), Some("sure"));
}

/// The laws that need a log to be closed and opened again: `reopen` does both.
pub async fn check_reopen<L: Log>(log: L, reopen: impl Fn(L) -> L) {
    let origin = Origin { log: LogId(7), epoch: Epoch(1), position: Position(1) };
    let drafts = vec![Draft::Relayed(relayed(7, 1, 2, "b"))];
    log.append(append(vec![local("a")])).await.expect("appended");
    log.append(arrival(7, vec![large(5, 700, Some(origin))], None)).await.expect("appended");
    let first = log.append(arrival(7, drafts, Some("two"))).await.expect("appended");
    let before = read_all(&log, Position::ZERO.into()).await.expect("readable");
    let (id, epochs) = (log.id(), log.info().epochs);
    let log = reopen(reopen(log));
    assert_eq!((log.id(), log.info().tail), (id, Position(3)));
    assert!(log.info().epochs.starts_with(&epochs));
    assert!(log.info().epochs.len() > epochs.len(), "every opening begins an epoch");
    assert_eq!(read_all(&log, Position::ZERO.into()).await.expect("readable"), before);
    assert_eq!(log.source_cursor(LinkId(LogId(7))).map(|cursor| cursor.0), Some("two".into()));
    assert_eq!(log.cursor_at(Position(3)), first, "a position keeps the epoch that it was appended in");
    let again = log.append(arrival(7, vec![Draft::Relayed(relayed(7, 1, 2, "b"))], None)).await.expect("a no-op");
    assert_eq!(again, first);
    let second = log.append(append(vec![local("c")])).await.expect("appended");
    assert_ne!(second.epoch, first.epoch);
    assert!(read_all(&log, Position(3).into()).await.expect("readable")[0].entry.header().lamport > Lamport(200));
    let lost = Cursor { position: Position(4), ..first };
    assert_eq!(log.check(lost), Err(CursorRefused::BeyondEpoch { position: Position(4), end: Position(3) }));
    assert_eq!(log.check(first), Ok(()));
    assert_eq!(log.check(second), Ok(()));
}
