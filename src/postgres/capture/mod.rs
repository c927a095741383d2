//! A database's commits, read from the server's transaction log through one replication slot.
//!
//! ```text
//! acknowledged to the slot ≤ durable in the node's log = released ≤ given ≤ received
//! ```
//!
//! While the log takes what was given, what follows is read and gathered, up to [`limits::CAPTURE_GIVE_BYTES`]. What was not
//! released when something fails is read again.
//!
//! Transactions that were applied by us carry our replication origin and are passed over; those of other origins are
//! local commits as any other. An application names what belongs together in the transaction itself:
//! `SELECT pg_logical_emit_message(true, 'watershed', 'order 7')` gives it the correlation id `order 7`, and
//! `'{"correlation": "order 7", "causation": "click 9"}'` both ids.

mod connect;
mod continuity;
mod encode;
mod failure;
mod gather;
mod install;
mod look;
mod overflow;
mod partitions;
mod place;
mod reactor;
mod reading;
mod relations;
mod shapes;
mod side;
mod uninstall;
mod witness;
mod work;

pub(crate) use gather::PREFIX_CUT;
pub use place::captured_lsn;
pub use uninstall::{is_captured, uninstall};

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use tokio::runtime::Handle;

use self::failure::Failed;
use self::gather::Gather;
use self::look::Look;
use self::place::Place;
use self::reactor::Reactor;
use self::side::Side;
use super::Endpoint;
use super::replication::{Event, Lsn, ReplicationStream};
use crate::log::{Capture, CaptureFailure, CapturesTable, NeedsValues, Polled};
use crate::model::{LogId, SourceCursor, TableName, limits};

/// How a database is captured.
pub struct PgCaptureOptions {
    /// Where it is. The user needs what [`crate::postgres::inspect`] asks for.
    pub endpoint: Endpoint,
    /// Runs what tells the server that we are alive.
    pub runtime: Handle,
    /// The log into which it goes: publication, slot and origin are named after it.
    pub log: LogId,
    /// Which tables.
    pub captured: CapturesTable,
    /// Columns at which filters and owners look. Where one of them was not sent with an update, all are read that were not;
    /// transactions are then read only once they have committed, however large. `None`: nobody looks at any.
    pub needed: Option<NeedsValues>,
    /// Where large transactions wait, on the log's disk, and where the node's half of the witness stands.
    pub spool_dir: PathBuf,
    /// The node's name.
    pub node: Box<str>,
    /// How far the log has read this database; `None`: never, or it begins afresh.
    pub resume: Option<SourceCursor>,
    /// When the log cannot take anything and the server has to keep more than this for us, in bytes, the slot is dropped;
    /// once the log takes something again, all tables are announced as replaced.
    pub slot_retain_max: Option<u64>,
}

/// The connections, and what comes over them.
struct Link {
    side: Side,
    stream: ReplicationStream,
    gather: Gather,
    /// Came while it was waited for.
    next: Option<Event>,
}

/// Whether there is a slot to read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Slot,
    /// It was dropped by us: the log is tried.
    Dropped,
    /// The log takes something again.
    Afresh,
}

/// Captures one database's commits. All calls block; it belongs on a thread of its own, outside of the runtime.
///
/// [`Polled::Current`] says that everything has been given that had been committed when the last `Current` was returned,
/// or before the call where nothing else comes.
pub struct PgCapture {
    options: PgCaptureOptions,
    reactor: Reactor,
    /// Of slot, publication and replication origin.
    name: String,
    /// Up to where it has been given.
    place: Place,
    released: Lsn,
    link: Option<Link>,
    look: Look,
    standing: Standing,
    /// The log could not take what was given last.
    is_stuck: bool,
    broken: Option<Failed>,
    /// Reached, everything is given that was committed when it was asked for.
    target: Option<Lsn>,
    /// The server was asked to say how far it is, so that the target is seen to be reached.
    is_asked: bool,
    /// The target was reached with what was given last.
    is_reached: bool,
    target_asked: Option<Instant>,
    /// The last wait brought nothing.
    is_idle: bool,
    /// The last look brought something.
    is_flowing: bool,
    given: Instant,
    /// When the witness was written last.
    witnessed: Instant,
    /// Something has been given since.
    is_unwitnessed: bool,
}

impl PgCapture {
    /// Installs what is missing (schema `watershed`, publications, slot) and checks that log and database belong together.
    ///
    /// # Errors
    /// The server cannot be reached or is not ready; the words have what to do.
    pub async fn open(options: PgCaptureOptions) -> Result<PgCapture, CaptureFailure> {
        Reactor::begin(|reactor| PgCapture::begin(options, reactor)).await
    }

    async fn begin(options: PgCaptureOptions, reactor: Reactor) -> Result<PgCapture, Failed> {
        let name = install::object_name(options.log);
        let resume = options.resume.as_ref().map(Place::try_from).transpose().map_err(failure::stream)?;
        let mut look = Look::default();
        let (place, link) = connect::open(&options, &name, resume, &mut look).await?;
        Ok(PgCapture {
            released: place.lsn,
            place,
            name,
            link: Some(link),
            look,
            options,
            reactor,
            standing: Standing::Slot,
            is_stuck: false,
            broken: None,
            target: None,
            is_asked: false,
            is_reached: false,
            target_asked: Some(Instant::now()),
            is_idle: false,
            is_flowing: false,
            given: Instant::now(),
            witnessed: Instant::now(),
            is_unwitnessed: false,
        })
    }

    async fn step(&mut self) -> Result<Polled, Failed> {
        if let Some(error) = self.broken.take() {
            return Err(error);
        }
        if self.standing == Standing::Dropped {
            return Ok(Polled::Captured(self.empty()));
        }
        if self.link.is_none() || self.standing == Standing::Afresh {
            self.link = None;
            let place = self.place.at(self.released);
            let afresh = self.standing == Standing::Afresh;
            let (place, link) = connect::again(&self.options, &self.name, &place, afresh, &mut self.look).await?;
            (self.released, self.place, self.link) = (place.lsn, place, Some(link));
            self.standing = Standing::Slot;
        }
        let link = self.link.as_mut().expect("it was made");
        let dropped = self.look.see(&self.options, &self.name, link, self.is_stuck).await?;
        if let Some(why) = dropped {
            self.link = None;
            look::drop_slot(&self.options, &self.name, &why).await?;
            self.standing = Standing::Dropped;
            return Err(failure::slot_dropped(&self.name, &why));
        }
        if self.is_unwitnessed && self.witnessed.elapsed() >= limits::CAPTURE_WITNESS_INTERVAL {
            let link = self.link.as_mut().expect("it was made");
            self.is_unwitnessed = !witness::renew(&mut link.side, &self.options.spool_dir).await?;
            self.witnessed = Instant::now();
        }
        if self.reached() {
            return Ok(Polled::Current);
        }
        self.sight().await?;
        self.read().await?;
        if let Some(captured) = self.give() {
            return Ok(Polled::Captured(captured));
        }
        self.aim().await
    }

    /// What was not released comes again.
    fn unlink(&mut self) {
        self.link = None;
        self.target = None;
        self.is_reached = false;
        self.place.lsn = self.released;
    }
}

impl Capture for PgCapture {
    fn place(&self) -> SourceCursor {
        (&self.place).into()
    }

    fn poll(&mut self) -> Result<Polled, CaptureFailure> {
        let polled = self.reactor.clone().block_on(self.step());
        if polled.is_err() {
            self.unlink();
        }
        polled
    }

    fn wait(&mut self, quiet: bool) {
        let mut most = if quiet { limits::CAPTURE_STREAM_WAIT_QUIET } else { limits::CAPTURE_STREAM_WAIT };
        if self.is_behind() && self.is_flowing {
            return reactor::nap();
        }
        let patience = self.patience();
        let Some(link) = &mut self.link else { return std::thread::sleep(most) };
        if !link.gather.done.is_empty() {
            most = most.min(patience);
        }
        if link.next.is_some() || most.is_zero() {
            return;
        }
        match self.reactor.block_on(async { tokio::time::timeout(most, link.stream.next()).await }) {
            Ok(Ok(event)) => link.next = Some(event),
            Ok(Err(error)) => self.broken = Some(failure::streamed(&error)),
            Err(_) => self.is_idle = true,
        }
    }

    fn read_ahead(&mut self, logged: Pin<&mut (dyn Future<Output = ()> + Send)>) {
        self.ahead(logged);
    }

    fn release(&mut self, upto: &SourceCursor) -> Result<(), CaptureFailure> {
        let place = Place::try_from(upto).map_err(failure::stream)?;
        if !place.is_of(&self.place) || place.lsn > self.place.lsn {
            return Err(failure::stream(format!("{place} was not given: {} was", self.place)));
        }
        self.is_stuck = false;
        if self.standing == Standing::Dropped {
            self.standing = Standing::Afresh;
        }
        self.released = self.released.max(place.lsn);
        if let Some(link) = &self.link {
            link.stream.acknowledge(self.released);
        }
        Ok(())
    }

    fn retry(&mut self) {
        self.is_stuck = true;
        if let Some(link) = self.link.take() {
            // So that the slot is free when it is read again.
            let closed = self.reactor.block_on(link.stream.close(limits::CAPTURE_CONNECT_TIMEOUT));
            if let Err(error) = closed {
                tracing::debug!("the stream of changes ended badly: {error}");
            }
        }
        self.unlink();
    }

    fn request_rescan(&mut self, table: &TableName) {
        self.look.rescans.push(table.clone());
    }
}

/// The definitions of all tables, shared with what remembers them.
type Tables = Vec<Arc<super::tables::Table>>;
