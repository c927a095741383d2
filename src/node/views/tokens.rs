//! What a token means for a log of this node.

use tokio::time::Instant;

use crate::model::{Cursor, LinkId, LogId, Position, SourceCursor, TableName};
use crate::node::feeds::Feed;
use crate::node::shared::Shared;
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
        Token::Lsn { node, lsn } => captured(shared, feed, node, *lsn, until).await,
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
        log.check(cursor)
            .map_err(|refused| Unmet::Unknown(format!("the token is not valid in {}: {refused}", feed.name)))?;
    }
    Ok([(cursor.log, cursor.position)].into())
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
    // Rows of a first copy come beside the log; `copied`, which stands in it behind them, has the view built anew.
    while let Some(table) = arriving(shared, tables) {
        if Instant::now() + COPY_LOOK > until {
            return Err(Unmet::Rebuilding(format!("the table {table} is being copied to this node")));
        }
        tokio::time::sleep(COPY_LOOK).await;
    }
    Ok(tails(feed))
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
async fn captured(shared: &Shared, feed: &Feed, node: &str, lsn: u64, until: Instant) -> Result<Needed, Unmet> {
    if &*feed.name != "main" {
        return Err(Unmet::Unknown(format!("a place in a database's log says nothing of {}", feed.name)));
    }
    if node != &*shared.name {
        let here = &shared.name;
        let why = format!("the place is one at {node}, and this is {here}: ask there for a cursor, and show that here");
        return Err(Unmet::Unknown(why));
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

    /// The log has everything that the database had committed at that place.
    pub(in crate::node) fn captured_upto(&self, place: &SourceCursor) {
        if let Some(lsn) = captured_lsn(place) {
            self.arrived.reached(Cursor { log: DATABASE, epoch: self.epoch, position: Position(lsn.0) });
        }
    }
}
