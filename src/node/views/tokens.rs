//! What a token means for a log of this node.

use std::sync::PoisonError;

use tokio::time::Instant;

use crate::log::Log;
use crate::model::{Cursor, LinkId, LogId, Position, SourceCursor, TableName};
use crate::node::feeds::Feed;
use crate::node::shared::Shared;
use crate::peer::Head;
use crate::postgres::captured_lsn;
use crate::postgres::replication::Lsn;
use crate::view::{Lane, LaneState, Needed, Token, Unmet};

/// What a view of that log must have for a token; waits until the log has it, where it comes from elsewhere.
pub(super) async fn needed(
    shared: &Shared,
    feed: &Feed,
    tables: Option<&[TableName]>,
    token: &Token,
    until: Instant,
) -> Result<Needed, Unmet> {
    match token {
        Token::Latest => Ok(tails(feed)),
        Token::Cursors(cursors) => {
            let mut needed = Needed::new();
            for cursor in cursors {
                let found = match feed.partition_with(cursor.log) {
                    Some(number) => own(feed, number, *cursor)?,
                    None => travelled(shared, feed, tables, *cursor, until).await?,
                };
                for (log, position) in found {
                    let known = needed.entry(log).or_insert(position);
                    *known = position.max(*known);
                }
            }
            Ok(needed)
        }
        Token::Lsn { node, lsn } => captured(shared, feed, tables, node, *lsn, until).await,
    }
}

fn tails(feed: &Feed) -> Needed {
    feed.tails().into_iter().map(|tail| (tail.log, tail.position)).collect()
}

/// A cursor of a partition. A mirror may lag behind whoever gave it; every other log has what it has given cursors for.
fn own(feed: &Feed, number: usize, cursor: Cursor) -> Result<Needed, Unmet> {
    let log = &feed.partitions[number].log;
    let ahead = feed.mirror_of().is_some() && cursor.position > *log.tail().borrow();
    if !ahead {
        checked(feed, &**log, cursor)?;
    }
    Ok([(cursor.log, cursor.position)].into())
}

/// Whether a cursor is one of that partition of the feed.
pub(super) fn checked(feed: &Feed, log: &dyn Log, cursor: Cursor) -> Result<(), Unmet> {
    log.check(cursor).map_err(|refused| Unmet::Unknown(format!("the token is not valid in {}: {refused}", feed.name)))
}

/// Whether cursors that were ahead of a mirror are valid in it, now that it has come so far.
pub(super) fn still_valid(feed: &Feed, token: &Token) -> Result<(), Unmet> {
    let Token::Cursors(cursors) = token else { return Ok(()) };
    for cursor in cursors {
        if let Some(number) = feed.partition_with(cursor.log) {
            own(feed, number, *cursor)?;
        }
    }
    Ok(())
}

/// A cursor of another node's log: what this node's log has, once that has travelled here so far.
async fn travelled(
    shared: &Shared,
    feed: &Feed,
    tables: Option<&[TableName]>,
    cursor: Cursor,
    until: Instant,
) -> Result<Needed, Unmet> {
    let other = |why: &str| Unmet::Unknown(format!("the token is of the log {}, {why}", cursor.log));
    if &*feed.name != "main" {
        return Err(other(&format!("and the view is one of {}", feed.name)));
    }
    let feeds = shared.feeds.all();
    if let Some(feed) = feeds.iter().find(|feed| feed.partition_with(cursor.log).is_some()) {
        return Err(other(&format!("which is {}, and the view is one of main", feed.name)));
    }
    if shared.parent.is_none() && shared.book.all().is_empty() {
        return Err(other("and nothing travels to this node"));
    }
    let needed = [(cursor.log, cursor.position)].into();
    match tokio::time::timeout_at(until, shared.arrived.wait(&needed)).await {
        Ok(arrived) => arrived?,
        Err(_) => {
            return Err(match shared.arrived.at(cursor.log) {
                Position::ZERO => other("of which nothing has come here"),
                there => Unmet::NotYet(format!(": of the log {} everything up to {there} has come here", cursor.log)),
            });
        }
    }
    copied(shared, tables, until).await?;
    Ok(tails(feed))
}

/// Waits until no table is being copied: rows of a first copy come beside the log; `copied`, which stands in it behind them,
/// has the view built anew.
async fn copied(shared: &Shared, tables: Option<&[TableName]>, until: Instant) -> Result<(), Unmet> {
    while let Some(table) = arriving(shared, tables) {
        if Instant::now() + COPY_LOOK > until {
            return Err(Unmet::Rebuilding(format!("the table {table} is being copied to this node")));
        }
        tokio::time::sleep(COPY_LOOK).await;
    }
    Ok(())
}

/// Between two looks at whether a table is still being copied.
const COPY_LOOK: std::time::Duration = std::time::Duration::from_millis(20);

/// One of the tables of which not everything that has been sent is here.
fn arriving(shared: &Shared, tables: Option<&[TableName]>) -> Option<TableName> {
    let wanted = |table: &TableName| tables.is_none_or(|tables| tables.contains(table));
    let uncopied = shared.uncopied().into_iter().map(|(table, _)| table).find(wanted);
    let state = shared.database.as_ref().map(|database| database.state.borrow().lanes.clone());
    let arriving = |lane: &Lane| matches!(lane.state, LaneState::Copying { .. } | LaneState::Replaying { .. });
    uncopied.or_else(|| state?.into_iter().filter(arriving).map(|lane| lane.table).find(wanted))
}

/// What the log has, once the capture of this node's database has passed that place of its server's log.
async fn captured(
    shared: &Shared,
    feed: &Feed,
    tables: Option<&[TableName]>,
    node: &str,
    lsn: u64,
    until: Instant,
) -> Result<Needed, Unmet> {
    if &*feed.name != "main" {
        return Err(Unmet::Unknown(format!("a place in a database's log says nothing of {}", feed.name)));
    }
    if node != &*shared.name {
        captured_at(shared, node, lsn, until).await?;
        copied(shared, tables, until).await?;
        return Ok(tails(feed));
    }
    if shared.arrived.at(DATABASE) == Position::ZERO {
        return Err(Unmet::Unknown("this node captures no PostgreSQL database".into()));
    }
    let needed = [(DATABASE, Position(lsn))].into();
    match tokio::time::timeout_at(until, shared.arrived.wait(&needed)).await {
        Ok(arrived) => arrived?,
        Err(_) => {
            let there = Lsn(shared.arrived.at(DATABASE).0);
            return Err(Unmet::NotYet(format!(": the database is captured up to {there}")));
        }
    }
    Ok(tails(feed))
}

/// Waits until what the database of another node had committed there has travelled here, by what that node says of itself
/// from now on: what was heard before may be of another that had its name.
async fn captured_at(shared: &Shared, node: &str, lsn: u64, until: Instant) -> Result<(), Unmet> {
    if shared.parent.is_none() && shared.book.all().is_empty() {
        let here = &shared.name;
        return Err(Unmet::Unknown(format!("the place is one at {node}, this is {here}, and nothing travels here")));
    }
    let of = |head: &&Head| *head.node.name == *node;
    let heard = || -> Vec<Head> {
        let heads = shared.heads.lock().unwrap_or_else(PoisonError::into_inner);
        heads.values().filter(of).cloned().collect()
    };
    let before = heard();
    let is_news = |head: &&Head| before.iter().all(|old| old.node.log != head.node.log || old.time != head.time);
    let mut moved = shared.arrived.moved();
    loop {
        moved.mark_unchanged();
        let heads = heard();
        let there = match heads.iter().filter(is_news).max_by_key(|head| head.time) {
            Some(Head { captured: None, .. }) => {
                let why =
                    format!("{node} captures no PostgreSQL database, or does not say how far: show a cursor of it");
                return Err(Unmet::Unknown(why));
            }
            Some(Head { captured: Some(there), .. }) if *there >= lsn => return Ok(()),
            Some(Head { captured: Some(there), .. }) => Lsn(*there).to_string(),
            None => "an earlier place".into(),
        };
        if tokio::time::timeout_at(until, moved.changed()).await.is_err() {
            return Err(match heads.is_empty() {
                true => Unmet::Unknown(format!("the place is one at {node}, of which nothing has come here")),
                false => Unmet::NotYet(format!(": the database of {node} has come here up to {there}")),
            });
        }
    }
}

/// In place of a log's id, that of the database's own log.
const DATABASE: LogId = LogId(0);

impl Shared {
    /// What has come here before this run.
    pub(in crate::node) fn recall_arrived(&self) {
        if let Some(place) = self.log.source_cursor(LinkId::LOCAL) {
            self.captured_upto(&place);
        }
        for (_, known) in self.book.all() {
            let received = known.log.parse().ok().and_then(|log| self.received(LinkId(log)));
            received.into_iter().for_each(|cursor| self.arrived.reached(cursor));
        }
    }

    /// The log has everything of a peer's up to there.
    pub(in crate::node) fn has_arrived(&self, upto: Option<&SourceCursor>) {
        if let Some(Ok(upto)) = upto.map(Cursor::try_from) {
            self.arrived.reached(upto);
        }
    }

    /// Up to which place of its server's own log the node's database is in the log; `None` where none is captured.
    pub(in crate::node) fn captured(&self) -> Option<u64> {
        Some(self.arrived.at(DATABASE).0).filter(|place| *place > 0)
    }

    /// The log has everything that the database had committed at that place.
    pub(in crate::node) fn captured_upto(&self, place: &SourceCursor) {
        if let Some(lsn) = captured_lsn(place) {
            self.arrived.reached(Cursor { log: DATABASE, epoch: self.epoch, position: Position(lsn.0) });
        }
    }
}
