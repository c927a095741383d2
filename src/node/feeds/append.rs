//! Appending to a feed: one call is one transaction, in one partition.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use thiserror::Error;

use super::feed::Feed;
use super::partition::{NewTables, Partition};
use super::requests::{Known, Requests, digest};
use crate::log::{Append, AppendError, Draft, Limit};
use crate::model::{
    Cursor, EntryHeader, FeedRow, Lamport, LinkId, Position, TableDef, TableName, TableNameError, Timestamp, limits,
    put_feed_row,
};

/// One row that is to be appended.
pub struct CallRow<'a> {
    /// Its table; the log's name where none is given.
    pub table: Option<TableName>,
    /// Its key.
    pub key: Option<std::borrow::Cow<'a, str>>,
    /// JSON on one line.
    pub row: std::borrow::Cow<'a, str>,
}

/// What one call appends, and how.
#[derive(Default)]
pub struct Call<'a> {
    /// In their order.
    pub rows: Vec<CallRow<'a>>,
    /// Of what belongs together.
    pub correlation: Option<Box<str>>,
    /// Of what caused this.
    pub causation: Option<Box<str>>,
    /// The same call may come again with it.
    pub idempotency: Option<Box<str>>,
    /// Only if this is the partition's tail.
    pub expected: Option<Position>,
    /// The partition, where no key says it.
    pub partition: Option<usize>,
    /// Rows of several partitions become several transactions.
    pub split: bool,
    /// Bytes, as it was sent.
    pub bytes: usize,
}

/// What has been appended to a partition; durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Which.
    pub partition: usize,
    /// Where.
    pub position: Position,
    /// The same, as a token.
    pub cursor: Cursor,
    /// The partition's tail by now.
    pub tail: Position,
    /// Greater than that of everything this log had seen.
    pub lamport: Lamport,
    /// It had been appended before, by an earlier call with the same idempotency key.
    pub replayed: bool,
}

/// Why a call is refused.
#[derive(Debug, Error)]
pub enum CallError {
    /// The log is not one to append to.
    #[error("the log {0:?} may not be appended to")]
    ReadOnly(Box<str>),
    /// It is a mirror.
    #[error("the log {0:?} is a mirror of {1}")]
    Mirror(Box<str>, String),
    /// It is the output of a view.
    #[error("the log {0:?} is the output of the view {1:?}")]
    View(Box<str>, String),
    /// It names too many tables.
    #[error("the call names more than {} tables", limits::FEED_CALL_TABLES_MAX)]
    Tables,
    /// It names tables that the log does not have, and it has as many as it may.
    #[error("the log has {} tables, and takes no further ones", limits::FEED_TABLES_MAX)]
    TablesOfLog,
    /// Nothing to append.
    #[error("there is nothing to append")]
    Empty,
    /// Rows of several partitions.
    #[error("the keys of this call belong to the partitions {0} and {1}")]
    Partitions(usize, usize),
    /// There is no such partition.
    #[error("the log has {0} partitions, numbered from 0")]
    NoPartition(usize),
    /// A condition about one partition, and rows of several.
    #[error("a condition on the position is about one partition")]
    Condition,
    /// An idempotency key that was used for other rows.
    #[error("the idempotency key was used for other rows, at position {0}")]
    Reused(Position),
    /// Too much is under way.
    #[error("{} bytes of calls are under way at this log", limits::FEED_ROOM_BYTES)]
    Busy,
    /// The log.
    #[error(transparent)]
    Log(#[from] AppendError),
}

/// A call that is refused, after part of it may have been appended (`split` only).
#[derive(Debug, Error)]
#[error("{error}")]
pub struct Refused {
    /// Why.
    pub error: CallError,
    /// What stands in the log all the same.
    pub appended: Vec<Appended>,
}

impl From<CallError> for Refused {
    fn from(error: CallError) -> Refused {
        Refused { error, appended: Vec::new() }
    }
}

/// One transaction, encoded.
struct Ready {
    partition: usize,
    append: Append,
    idempotency: Option<(Box<str>, u64)>,
}

impl Feed {
    /// Appends a call; durable on return. One answer per partition that it went to.
    ///
    /// # Errors
    /// See [`CallError`]; without `split` nothing is appended then, but where the log says that it failed.
    pub async fn append(&self, call: Call<'_>) -> Result<Vec<Appended>, Refused> {
        if let Some(of) = self.mirror_of() {
            return Err(CallError::Mirror(self.name.clone(), of).into());
        }
        if let Some(view) = self.view_of() {
            return Err(CallError::View(self.name.clone(), view).into());
        }
        if !self.takes_appends() {
            return Err(CallError::ReadOnly(self.name.clone()).into());
        }
        let units = (call.bytes >> 10).max(1) as u32;
        let room = self.room.clone().try_acquire_many_owned(units);
        let _room = room.map_err(|_| CallError::Busy)?;
        let mut new = NewTables::default();
        let ready = self.encode(&call, &mut new)?;
        drop(call);
        let mut appended = Vec::with_capacity(ready.len());
        for one in ready {
            match self.append_one(one).await {
                Ok(done) => appended.push(done),
                Err(error) => return Err(Refused { error, appended }),
            }
        }
        Ok(appended)
    }

    /// The partition of every row: that of its key, or the call's.
    fn places(&self, call: &Call<'_>) -> Result<Vec<usize>, CallError> {
        let count = self.partitions.len();
        if call.partition.is_some_and(|partition| partition >= count) {
            return Err(CallError::NoPartition(count));
        }
        if count == 1 {
            return Ok(vec![0; call.rows.len()]);
        }
        let keyed = call.rows.iter().find_map(|row| row.key.as_deref()).map(|key| self.partition_of(key));
        let otherwise = call.partition.or(keyed).or(call.idempotency.as_deref().map(|key| self.partition_of(key)));
        let otherwise = otherwise.unwrap_or_else(|| self.next_partition());
        Ok(call.rows.iter().map(|row| row.key.as_deref().map_or(otherwise, |key| self.partition_of(key))).collect())
    }

    fn encode<'f>(&'f self, call: &Call<'_>, new: &mut NewTables<'f>) -> Result<Vec<Ready>, CallError> {
        let places = self.places(call)?;
        let first = *places.first().ok_or(CallError::Empty)?;
        let mut groups = vec![first];
        for place in &places {
            if !groups.contains(place) {
                groups.push(*place);
            }
        }
        let wanted = call.partition.filter(|wanted| groups.iter().any(|group| group != wanted));
        match (wanted, groups.get(1)) {
            (Some(wanted), _) => return Err(CallError::Partitions(wanted, first)),
            (None, Some(second)) if !call.split => return Err(CallError::Partitions(first, *second)),
            (None, Some(_)) if call.expected.is_some() => return Err(CallError::Condition),
            _ => {}
        }
        let rows = call.rows.iter().zip(&places);
        groups
            .iter()
            .map(|group| {
                let own = rows.clone().filter(|(_, place)| *place == group).map(|(row, _)| row);
                self.encode_group(call, *group, own, new)
            })
            .collect()
    }

    fn encode_group<'a, 'f>(
        &'f self,
        call: &Call<'_>,
        partition: usize,
        rows: impl Iterator<Item = &'a CallRow<'a>>,
        new: &mut NewTables<'f>,
    ) -> Result<Ready, CallError> {
        let own: TableName = self
            .name
            .parse()
            .map_err(|error: TableNameError| CallError::Log(AppendError::Invalid(error.to_string())))?;
        let at = &self.partitions[partition];
        let mut tables: Vec<Arc<TableDef>> = Vec::new();
        let mut changes = Vec::new();
        for row in rows {
            let name = row.table.as_ref().unwrap_or(&own);
            let table = match tables.iter().rposition(|table| table.name == *name) {
                Some(known) => known,
                None if tables.len() == limits::FEED_CALL_TABLES_MAX => return Err(CallError::Tables),
                None => {
                    tables.push(at.table(name, new).ok_or(CallError::TablesOfLog)?);
                    tables.len() - 1
                }
            };
            put_feed_row(&mut changes, &FeedRow { table, key: row.key.as_deref(), row: &row.row });
        }
        let header = EntryHeader {
            time: Timestamp::now(),
            node: self.node.clone(),
            correlation: call.correlation.clone(),
            causation: call.causation.clone(),
            idempotency: call.idempotency.clone(),
            tables: tables.iter().map(|table| table.fingerprint).collect(),
            ..EntryHeader::default()
        };
        let idempotency = call.idempotency.clone().map(|key| (key, digest(&changes)));
        let local = Draft::Local { header, changes: Bytes::from(changes) };
        let drafts = match call.expected {
            Some(expected) => vec![Draft::Expect(expected), local],
            None => vec![local],
        };
        Ok(Ready { partition, idempotency, append: Append { from: LinkId::LOCAL, tables, drafts, upto: None } })
    }

    async fn append_one(&self, ready: Ready) -> Result<Appended, CallError> {
        let Ready { partition, append, idempotency } = ready;
        let at = &self.partitions[partition];
        let Some((key, digest)) = idempotency else {
            return Ok(done(at, partition, at.log.append_stamped(append).await?));
        };
        let note = loop {
            let known = lock(&at.requests).ask(&key, digest);
            match known {
                Known::New(note) => break note,
                Known::Running(mut running) => {
                    // It ends when its sender goes.
                    let _ = running.changed().await;
                }
                Known::Done(position) => return Ok(before(at, partition, position).await),
                Known::Other(position) => return Err(CallError::Reused(position)),
            }
        };
        // Whoever asked may go away; what comes of it is noted all the same.
        let (log, requests) = (at.log.clone(), at.requests.clone());
        let appending = tokio::spawn(async move {
            let outcome = log.append_stamped(append).await;
            match &outcome {
                Ok((cursor, _)) => lock(&requests).done(&key, digest, cursor.position),
                Err(_) => lock(&requests).failed(&key),
            }
            drop(note);
            outcome
        });
        let stamped = appending.await.unwrap_or(Err(AppendError::Closed))?;
        Ok(done(at, partition, stamped))
    }
}

fn lock(requests: &Mutex<Requests>) -> MutexGuard<'_, Requests> {
    requests.lock().unwrap_or_else(PoisonError::into_inner)
}

fn done(at: &Partition, partition: usize, (cursor, lamport): (Cursor, Lamport)) -> Appended {
    let tail = *at.log.tail().borrow();
    Appended { partition, position: cursor.position, cursor, tail, lamport, replayed: false }
}

async fn before(at: &Partition, partition: usize, position: Position) -> Appended {
    let (cursor, tail) = (at.log.cursor_at(position), *at.log.tail().borrow());
    let one = Limit { entries: 1, ..Limit::default() };
    let read = at.log.read(Position(position.0 - 1).into(), one).await;
    // Retention may have removed it; the positions still hold.
    let entry = read.ok().and_then(|batch| batch.entries.into_iter().next());
    let lamport = entry.map_or(Lamport(0), |logged| logged.entry.header().lamport);
    Appended { partition, position, cursor, tail, lamport, replayed: true }
}
