//! An events table as a source.
//!
//! An entry is what one transaction appended. Its position is the greatest id in it, where ids are consecutive and
//! commit in their order (`insert_events` under the lock of the table `id`); transactions are told apart by `ts`, which
//! is the same for all events of one. Where ids come from a sequence they commit out of order: there the position is the
//! transaction's number, and only what lies below the snapshot's horizon is read.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Mutex, watch};
use tokio_postgres::Statement;

use super::scan::{Gathering, Open, Scan};
use super::watch::Watch;
use crate::log::{Limit, Source, SourceError};
use crate::model::{Batch, Catalog, Cursor, Epoch, LogId, Position, ReadFrom, events_table};
use crate::postgres::{Endpoint, PgError, Session};
use crate::view::EventIds;

/// For the reading session: rows come in the order of an index, without being sorted first, and nothing is written.
const SETTINGS: &str = "SET default_transaction_read_only = on; SET enable_seqscan = off; SET enable_bitmapscan = off; \
     SET enable_hashjoin = off; SET enable_mergejoin = off; SET max_parallel_workers_per_gather = 0; SET jit = off; \
     SET statement_timeout = 0; SET idle_session_timeout = 0";

/// An events table, read in the order of its transactions.
pub struct PgEventsSource {
    id: LogId,
    ids: EventIds,
    catalog: Arc<Catalog>,
    watch: Watch,
    reader: Mutex<Reader>,
}

struct Reader {
    session: Session,
    few: Statement,
    /// What the last read left.
    rest: Option<Rest>,
}

/// Where a read went on to: valid for the read that goes on from there.
struct Rest {
    next: ReadFrom,
    scan: Scan,
    open: Option<Open>,
}

impl PgEventsSource {
    /// Opens two connections: one that listens, one that reads. The id of the source is drawn: a view of it knows how
    /// far it has come from what it holds.
    ///
    /// # Errors
    /// The server cannot be reached, or there is no such table.
    pub async fn open(endpoint: &Endpoint, ids: EventIds, connect_limit: Duration) -> Result<PgEventsSource, PgError> {
        let watch = Watch::start(endpoint, ids, connect_limit).await?;
        let session = endpoint.connect(connect_limit).await?;
        let prepared = session.client.batch_execute(SETTINGS).await;
        prepared.map_err(|e| endpoint.failed("preparing to read events", e))?;
        let few = Scan::prepare(&session, ids).await?;
        let catalog = Arc::new(Catalog::default());
        catalog.add(events_table());
        let reader = Mutex::new(Reader { session, few, rest: None });
        Ok(PgEventsSource { id: LogId::draw(), ids, catalog, watch, reader })
    }

    fn cursor(&self, position: Position) -> Cursor {
        Cursor { log: self.id, epoch: Epoch(0), position }
    }
}

impl Reader {
    /// Fills the gathering: first with a query for few rows, and if those were not all, by COPY.
    async fn fill(&mut self, ids: EventIds, from: ReadFrom, limit: Limit) -> Result<Gathering, PgError> {
        let rest = self.rest.take().filter(|rest| rest.next == from);
        if rest.is_none() && from.part > 0 {
            let why = "a transaction was to be read from its middle";
            return Err(self.session.endpoint().unexpected("reading events", why));
        }
        let (mut scan, open) = match rest {
            Some(rest) => (rest.scan, rest.open),
            None => {
                let last = match ids {
                    EventIds::Table => (0, from.after.0 as i64),
                    EventIds::Sequence => (from.after.0, i64::MAX),
                };
                (Scan::few(&self.session, ids, &self.few, last).await?, None)
            }
        };
        let mut gathering = Gathering::new(ids, from, limit, open);
        while scan.gather(&self.session, &mut gathering).await? {
            if !scan.was_cut() {
                // The snapshot has no more: its last transaction is whole.
                gathering.close();
                return Ok(gathering);
            }
            scan = Scan::many(&self.session, ids, scan.last).await?;
        }
        let open = gathering.take_open();
        self.rest = Some(Rest { next: gathering.next, scan, open });
        Ok(gathering)
    }
}

#[async_trait]
impl Source for PgEventsSource {
    fn id(&self) -> LogId {
        self.id
    }

    fn tail(&self) -> watch::Receiver<Position> {
        self.watch.tail()
    }

    fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.catalog)
    }

    async fn read(&self, from: ReadFrom, limit: Limit) -> Result<Batch, SourceError> {
        let mut reader = self.reader.lock().await;
        if let Some(broken) = self.watch.broken() {
            return Err(SourceError::Io(io::Error::other(broken)));
        }
        let gathering = reader.fill(self.ids, from, limit).await;
        let gathering = gathering.map_err(|error| SourceError::Io(io::Error::other(error.words())))?;
        let (next, entries) = (gathering.next, gathering.finish());
        Ok(Batch { entries, upto: self.cursor(next.after), next, catalog: Arc::clone(&self.catalog) })
    }

    async fn release(&self, _upto: Position) -> Result<(), SourceError> {
        Ok(())
    }
}
