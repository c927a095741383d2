//! What any store of views must do. Every implementation runs all of it: [`check_all`].
//!
//! The views are over one feed, `orders`, whose rows are `{"customer": "c3", "amount": 17}` under keys that come again. A
//! [`ViewBed`] makes a view of them, and says what it must answer.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::Value as Json;

use super::log_conformance::VecParts;
use crate::log::memory::MemoryLog;
use crate::log::{Append, Draft, Limit, Log, Source};
use crate::model::{
    Batch, EntryHeader, FeedRow, LinkId, LogId, Position, ReadFrom, TableDef, Timestamp, feed_table, put_feed_row,
};
use crate::view::{AskError, Bounds, Hold, Question, View, ViewError, ViewStore};

/// Keys and customers that come again and again.
const KEYS: u64 = 23;
const CUSTOMERS: u64 = 7;

/// An order that was appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Where.
    pub log: LogId,
    /// At which position.
    pub position: u64,
    /// Under which key. Keys of different logs differ.
    pub key: String,
    /// Whose it is.
    pub customer: String,
    /// From 0.
    pub amount: i64,
}

/// A view of the orders, in a store that is to be checked.
#[async_trait]
pub trait ViewBed: Send + Sync {
    /// Opens the store of that name: as it was left, as after a `kill -9`, if it was opened before.
    async fn open(&self, name: &str) -> Arc<dyn ViewStore>;
    /// What to ask for all that the view knows.
    fn question(&self) -> Question;
    /// What it must answer after these orders, in any order of rows.
    fn expected(&self, sent: &[Sent]) -> Vec<Vec<Json>>;
    /// A question that writes, if the store has a language in which that can be said.
    fn writing(&self) -> Option<Question> {
        Some(Question::Sql { sql: "delete from orders".into(), params: Json::Null })
    }
    /// How often what was applied is there after a kill without [`ViewStore::persist`]: always, or sometimes.
    fn is_durable_at_once(&self) -> bool;
}

/// What no answer of these tests comes near.
pub const BOUNDS: Bounds = Bounds { time: std::time::Duration::from_secs(60), rows: 100_000, bytes: 16 << 20 };

fn orders() -> Arc<TableDef> {
    Arc::new(feed_table("orders".parse().expect("a name")))
}

fn header(table: &TableDef) -> EntryHeader {
    EntryHeader { tables: vec![table.fingerprint], time: Timestamp(1_700_000_000_000_000), ..EntryHeader::default() }
}

/// A feed, and what was appended to it.
struct Feed {
    log: MemoryLog,
    sent: Vec<Sent>,
    /// So that keys of two feeds differ.
    mark: &'static str,
}

impl Feed {
    fn new(mark: &'static str) -> Feed {
        Feed { log: MemoryLog::new(), sent: Vec::new(), mark }
    }

    fn order(&self, position: u64) -> (Sent, Bytes) {
        let amount = self.sent.len() as i64;
        let key = format!("{}{}", self.mark, amount as u64 * 7 % KEYS);
        let customer = format!("c{}", amount as u64 % CUSTOMERS);
        let row = format!(r#"{{"customer":"{customer}","amount":{amount}}}"#);
        let mut changes = Vec::new();
        put_feed_row(&mut changes, &FeedRow { table: 0, key: Some(&key), row: &row });
        (Sent { log: self.log.id(), position, key, customer, amount }, changes.into())
    }

    async fn append(&mut self, drafts: Vec<Draft>) {
        let append = Append { from: LinkId::LOCAL, tables: vec![orders()], drafts, upto: None };
        self.log.append(append).await.expect("appended");
    }

    fn tail(&self) -> Position {
        *self.log.tail().borrow()
    }

    /// Appends orders, each a transaction of its own.
    async fn orders(&mut self, count: usize) {
        let mut drafts = Vec::new();
        for number in 0..count as u64 {
            let (sent, changes) = self.order(self.tail().0 + 1 + number);
            self.sent.push(sent);
            drafts.push(Draft::Local { header: header(&orders()), changes });
        }
        self.append(drafts).await;
    }

    /// Appends orders as one large transaction, one in each part.
    async fn large(&mut self, count: usize) {
        let position = self.tail().0 + 1;
        let mut parts = Vec::new();
        for _ in 0..count {
            let (sent, changes) = self.order(position);
            self.sent.push(sent);
            parts.push(changes);
        }
        let parts = Box::new(VecParts { parts: parts.into_iter(), error: None });
        self.append(vec![Draft::Large { header: header(&orders()), parts }]).await;
    }

    /// Appends what no view can read.
    async fn unreadable(&mut self) {
        let changes = Bytes::from_static(&[0xff, 0xff, 0xff, 0xff, 1, 2, 3]);
        self.append(vec![Draft::Local { header: header(&orders()), changes }]).await;
    }

    /// What had been sent at that position.
    fn upto(&self, position: Position) -> Vec<Sent> {
        self.sent.iter().filter(|sent| sent.position <= position.0).cloned().collect()
    }

    async fn read(&self, from: ReadFrom, entries: usize) -> Batch {
        self.log.read(from, Limit { bytes: 1 << 20, entries }).await.expect("readable")
    }

    /// Gives the view what it lacks, so many entries at a time, in at most `steps` batches.
    async fn follow(&self, view: &mut dyn View, entries: usize, steps: usize) -> Result<(), ViewError> {
        let cursor = view.cursor().await?;
        let mut from: ReadFrom = cursor.map_or(Position::ZERO, |cursor| cursor.position).into();
        for _ in 0..steps {
            let batch = self.read(from, entries).await;
            if batch.next == from {
                view.caught_up().await?;
                break;
            }
            view.apply(&batch).await?;
            from = batch.next;
        }
        view.flush().await
    }

    async fn catch_up(&self, store: &dyn ViewStore) {
        let mut view = store.part(self.log.id()).await.expect("a part");
        self.follow(&mut *view, 64, usize::MAX).await.expect("applied");
    }
}

fn sorted(mut rows: Vec<Vec<Json>>) -> Vec<Vec<Json>> {
    rows.sort_by_key(|row| format!("{row:?}"));
    rows
}

/// Checks that the answer is that of exactly the orders up to the cursor that it carries; gives the position of that.
async fn check_answer(bed: &dyn ViewBed, store: &dyn ViewStore, feed: &Feed) -> Position {
    let answer = store.ask(&bed.question(), &BOUNDS).await.expect("an answer");
    let at = answer.cursors.iter().find(|cursor| cursor.log == feed.log.id());
    let at = at.map_or(Position::ZERO, |cursor| cursor.position);
    let expected = bed.expected(&feed.upto(at));
    assert_eq!(sorted(answer.rows), sorted(expected), "the answer is that of its cursor, {at}");
    assert_eq!(answer.definition, store.definition());
    at
}

async fn digest(store: &dyn ViewStore) -> [u8; 32] {
    store.digest().await.expect("a digest").digest
}

/// Runs every law that a store of views must keep.
pub async fn check_all(bed: &dyn ViewBed) {
    every_entry_is_applied_once(bed).await;
    how_entries_come_does_not_matter(bed).await;
    empty_batches_move_the_cursor(bed).await;
    redelivered_entries_are_ignored(bed).await;
    a_kill_at_any_place_leaves_state_and_cursor_together(bed).await;
    a_zombie_is_fenced(bed).await;
    two_partitions_have_two_cursors(bed).await;
    a_large_transaction_is_seen_whole_or_not_at_all(bed).await;
    what_cannot_be_read_stops_the_view_until_it_is_passed_over(bed).await;
    a_digest_is_of_where_its_view_was_held(bed).await;
    questions_keep_to_their_bounds(bed).await;
}

async fn a_digest_is_of_where_its_view_was_held(bed: &dyn ViewBed) {
    let mut feed = Feed::new("k");
    let store = bed.open("held").await;
    feed.orders(50).await;
    feed.catch_up(&*store).await;
    let (before, at) = (digest(&*store).await, store.cursors().await.expect("cursors"));
    feed.orders(50).await;
    let (guard, gone) = tokio::sync::oneshot::channel::<()>();
    let follows = async {
        // It is never sent, only dropped.
        let _ = gone.await;
        feed.catch_up(&*store).await;
    };
    let (summed, ()) = tokio::join!(store.digest_held(Hold::by(guard)), follows);
    let summed = summed.expect("a digest");
    assert_eq!((summed.digest, summed.cursors), (before, at), "what comes after the hold is not in it");
    assert_ne!(digest(&*store).await, before, "and has come");
}

async fn every_entry_is_applied_once(bed: &dyn ViewBed) {
    let mut feed = Feed::new("k");
    let store = bed.open("once").await;
    assert_eq!(check_answer(bed, &*store, &feed).await, Position::ZERO);
    assert_eq!(store.cursors().await.expect("cursors"), []);
    for count in [1, 2, 300] {
        feed.orders(count).await;
        feed.catch_up(&*store).await;
        assert_eq!(check_answer(bed, &*store, &feed).await, feed.tail());
        assert_eq!(store.cursors().await.expect("cursors"), [feed.log.cursor_at(feed.tail())]);
    }
    let summed = store.digest().await.expect("a digest");
    assert_eq!(summed.cursors, [feed.log.cursor_at(feed.tail())], "a digest says as of where it is");
}

async fn how_entries_come_does_not_matter(bed: &dyn ViewBed) {
    let mut feed = Feed::new("k");
    let (slow, quick) = (bed.open("slow").await, bed.open("quick").await);
    let mut view = slow.part(feed.log.id()).await.expect("a part");
    let mut digests = Vec::new();
    for _ in 0..5 {
        feed.orders(40).await;
        feed.follow(&mut *view, 1, usize::MAX).await.expect("applied");
        digests.push(digest(&*slow).await);
    }
    feed.catch_up(&*quick).await;
    assert_eq!(digest(&*quick).await, digests[4], "built at once or bit by bit, it is the same");
    digests.dedup();
    assert_eq!(digests.len(), 5, "another state has another digest");
}

async fn empty_batches_move_the_cursor(bed: &dyn ViewBed) {
    let mut feed = Feed::new("k");
    feed.orders(30).await;
    let store = bed.open("empty").await;
    let mut view = store.part(feed.log.id()).await.expect("a part");
    let nothing = Batch { entries: Vec::new(), ..feed.read(Position::ZERO.into(), 1_000).await };
    view.apply(&nothing).await.expect("applied");
    view.flush().await.expect("flushed");
    assert_eq!(view.cursor().await.expect("a cursor"), Some(feed.log.cursor_at(Position(30))));
    store.persist().await.expect("durable");
    drop((view, store));
    let store = bed.open("empty").await;
    assert_eq!(store.cursors().await.expect("cursors"), [feed.log.cursor_at(Position(30))]);
    let answer = store.ask(&bed.question(), &BOUNDS).await.expect("an answer");
    assert_eq!(sorted(answer.rows), sorted(bed.expected(&[])), "what was held back is not in it");
}

async fn redelivered_entries_are_ignored(bed: &dyn ViewBed) {
    let mut feed = Feed::new("k");
    feed.orders(60).await;
    let store = bed.open("again").await;
    let mut view = store.part(feed.log.id()).await.expect("a part");
    let all = feed.read(Position::ZERO.into(), 60).await;
    let half = feed.read(Position::ZERO.into(), 30).await;
    for batch in [&half, &half, &all, &half, &all] {
        view.apply(batch).await.expect("applied");
        view.flush().await.expect("flushed");
        check_answer(bed, &*store, &feed).await;
    }
    assert_eq!(check_answer(bed, &*store, &feed).await, Position(60), "it never goes back");
}

async fn a_kill_at_any_place_leaves_state_and_cursor_together(bed: &dyn ViewBed) {
    let mut feed = Feed::new("k");
    feed.orders(200).await;
    let mut reached = Position::ZERO;
    for kill in 0..8 {
        let store = bed.open("killed").await;
        let begins = check_answer(bed, &*store, &feed).await;
        assert!(begins >= reached, "what was durable is there: {reached}, and not only {begins}");
        let mut view = store.part(feed.log.id()).await.expect("a part");
        assert_eq!(view.cursor().await.expect("a cursor").map_or(Position::ZERO, |at| at.position), begins);
        feed.follow(&mut *view, 10, 2).await.expect("applied");
        if kill % 2 == 0 {
            store.persist().await.expect("durable");
        }
        let at = check_answer(bed, &*store, &feed).await;
        if bed.is_durable_at_once() || kill % 2 == 0 {
            reached = at;
        }
        // Some more, of which nothing is waited for.
        let next = feed.read(at.into(), 5).await;
        let applied = tokio::time::timeout(std::time::Duration::from_micros(kill * 40), view.apply(&next)).await;
        drop((applied, view, store));
    }
    let store = bed.open("killed").await;
    feed.catch_up(&*store).await;
    assert_eq!(check_answer(bed, &*store, &feed).await, feed.tail());
    let afresh = bed.open("not killed").await;
    feed.catch_up(&*afresh).await;
    assert_eq!(digest(&*store).await, digest(&*afresh).await);
}

async fn a_zombie_is_fenced(bed: &dyn ViewBed) {
    let mut feed = Feed::new("k");
    feed.orders(20).await;
    let store = bed.open("fenced").await;
    let mut zombie = store.part(feed.log.id()).await.expect("a part");
    feed.follow(&mut *zombie, 10, 1).await.expect("applied");
    let mut view = store.part(feed.log.id()).await.expect("a part");
    feed.follow(&mut *view, 10, usize::MAX).await.expect("applied");
    let late = feed.read(Position(10).into(), 10).await;
    let applied = async {
        zombie.apply(&late).await?;
        zombie.flush().await
    };
    let fenced = applied.await;
    assert!(matches!(fenced, Err(ViewError::Fenced { .. } | ViewError::Lost(_))), "{fenced:?}");
    assert_eq!(check_answer(bed, &*store, &feed).await, Position(20));
}

async fn two_partitions_have_two_cursors(bed: &dyn ViewBed) {
    let (mut one, mut other) = (Feed::new("a"), Feed::new("b"));
    one.orders(100).await;
    other.orders(70).await;
    let store = bed.open("partitions").await;
    let mut views =
        (store.part(one.log.id()).await.expect("a part"), store.part(other.log.id()).await.expect("a part"));
    let (first, second) = tokio::join!(one.follow(&mut *views.0, 7, 100), other.follow(&mut *views.1, 5, 100));
    first.and(second).expect("applied");
    let mut cursors = [one.log.cursor_at(Position(100)), other.log.cursor_at(Position(70))];
    cursors.sort_by_key(|cursor| cursor.log);
    store.persist().await.expect("durable");
    drop((views, store));
    let store = bed.open("partitions").await;
    let answer = store.ask(&bed.question(), &BOUNDS).await.expect("an answer");
    assert_eq!(answer.cursors, cursors);
    assert_eq!(sorted(answer.rows), sorted(bed.expected(&[one.sent.clone(), other.sent.clone()].concat())));
    one.orders(1).await;
    one.catch_up(&*store).await;
    let answer = store.ask(&bed.question(), &BOUNDS).await.expect("an answer");
    assert_eq!(sorted(answer.rows), sorted(bed.expected(&[one.sent.clone(), other.sent.clone()].concat())));
}

async fn a_large_transaction_is_seen_whole_or_not_at_all(bed: &dyn ViewBed) {
    let mut feed = Feed::new("k");
    feed.orders(3).await;
    feed.large(40).await;
    feed.orders(3).await;
    let store = bed.open("large").await;
    let mut view = store.part(feed.log.id()).await.expect("a part");
    let mut from = ReadFrom::default();
    let mut in_the_middle = 0;
    while from.after < feed.tail() {
        let batch = feed.read(from, 7).await;
        view.apply(&batch).await.expect("applied");
        view.flush().await.expect("flushed");
        from = batch.next;
        let at = check_answer(bed, &*store, &feed).await;
        assert_eq!(at, batch.upto.position, "parts do not move the cursor before the last one has come");
        in_the_middle += u32::from(from.part > 0);
    }
    assert!(in_the_middle > 2, "some batches ended within the transaction");
    // Killed in the middle of it.
    let killed = bed.open("large and killed").await;
    let mut view = killed.part(feed.log.id()).await.expect("a part");
    feed.follow(&mut *view, 7, 3).await.expect("applied");
    killed.persist().await.expect("durable");
    drop((view, killed));
    let killed = bed.open("large and killed").await;
    assert_eq!(check_answer(bed, &*killed, &feed).await, Position(3));
    feed.catch_up(&*killed).await;
    assert_eq!(check_answer(bed, &*killed, &feed).await, feed.tail());
    assert_eq!(digest(&*killed).await, digest(&*store).await);
}

async fn what_cannot_be_read_stops_the_view_until_it_is_passed_over(bed: &dyn ViewBed) {
    let mut feed = Feed::new("k");
    feed.orders(25).await;
    feed.unreadable().await;
    feed.orders(25).await;
    let store = bed.open("failing").await;
    let mut view = store.part(feed.log.id()).await.expect("a part");
    for _ in 0..2 {
        let failed = feed.follow(&mut *view, 1_000, usize::MAX).await;
        let error = failed.expect_err("the entry at 26 is not readable");
        assert!(!error.is_retryable(), "{error}");
        assert_eq!(check_answer(bed, &*store, &feed).await, Position(25), "what stands before it is applied");
        view = store.part(feed.log.id()).await.expect("a part");
    }
    drop(view);
    let elsewhere = feed.log.cursor_at(Position(30));
    assert!(store.pass_over(elsewhere).await.is_err(), "only the next entry can be passed over");
    store.pass_over(feed.log.cursor_at(Position(26))).await.expect("passed over");
    assert_eq!(check_answer(bed, &*store, &feed).await, Position(26));
    drop(store);
    let store = bed.open("failing").await;
    assert_eq!(check_answer(bed, &*store, &feed).await, Position(26), "that is durable");
    feed.catch_up(&*store).await;
    assert_eq!(check_answer(bed, &*store, &feed).await, feed.tail());
}

async fn questions_keep_to_their_bounds(bed: &dyn ViewBed) {
    let mut feed = Feed::new("k");
    feed.orders(100).await;
    let store = bed.open("asked").await;
    feed.catch_up(&*store).await;
    let ask = async |bounds| store.ask(&bed.question(), &bounds).await;
    let whole = ask(BOUNDS).await.expect("an answer");
    let few = ask(Bounds { rows: whole.rows.len() - 1, ..BOUNDS }).await;
    assert_eq!(few, Err(AskError::Large { what: "rows", most: whole.rows.len() - 1 }));
    let short = ask(Bounds { bytes: 1, ..BOUNDS }).await;
    assert_eq!(short, Err(AskError::Large { what: "bytes", most: 1 }));
    let absent = Question::Row { table: "no_such_table".into(), key: "x".into() };
    let absent = store.ask(&absent, &BOUNDS).await;
    assert!(matches!(absent, Err(AskError::Absent(_))), "{absent:?}");
    if let Some(writing) = bed.writing() {
        let refused = store.ask(&writing, &BOUNDS).await;
        assert!(matches!(refused, Err(AskError::Forbidden(_) | AskError::Invalid(_))), "{refused:?}");
    }
    assert_eq!(check_answer(bed, &*store, &feed).await, feed.tail(), "asking changes nothing");
}
