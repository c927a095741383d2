//! Opening: find out where the log ends, bring the disk to that state, and begin an epoch.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;

use super::error::OpenError;
use super::format::{BATCH_HEADER, SegmentHeader};
use super::reserve::{Reserve, sweep};
use super::scan::{self, Found, Scan};
use super::segment::Segment;
use super::shared::Shared;
use super::storage::{Lock, Storage};
use super::writer::Writer;
use super::{Retention, SegmentOptions};
use crate::log::AppendError;
use crate::log::ledger::Ledger;
use crate::model::{Catalog, Epoch, LogId, Position};

/// What opening gives: the log's shared state, and the guard of its folder.
pub(super) type Opened = (Arc<Shared>, Box<dyn Send + Sync>);

fn lock(storage: &dyn Storage, exclusive: bool) -> Result<Box<dyn Send + Sync>, OpenError> {
    match storage.lock(exclusive)? {
        Lock::Held(guard) => Ok(guard),
        Lock::Taken(pid) => Err(OpenError::Locked { place: storage.place(), pid }),
    }
}

/// Opens for appending: repairs a torn tail and begins an epoch.
pub(super) fn open(options: &SegmentOptions, storage: Arc<dyn Storage>) -> Result<Opened, OpenError> {
    let guard = lock(storage.as_ref(), true)?;
    let found = scan::find(storage.as_ref())?;
    sweep(storage.as_ref())?;
    let reserve = Reserve::new(storage.clone(), options.segment_bytes);
    if found.is_empty() && options.mirror && options.start.is_none() {
        return Err(OpenError::Missing(storage.place()));
    }
    let shared = match found.is_empty() {
        true => create(options, storage, reserve)?,
        false => recover(options, storage, reserve, found)?,
    };
    let shared = Arc::new(shared);
    // The mark carries the epoch. Where there is no room for it, the next segment's header will.
    let marked = shared.writer().as_mut().map_or(Ok(()), |writer| writer.mark(&shared));
    marked.map_err(|error| OpenError::Io(io::Error::other(error.to_string())))?;
    Ok((shared, guard))
}

/// Opens for reading only: changes nothing, also where a running process would.
pub(super) fn open_read_only(storage: Arc<dyn Storage>) -> Result<Opened, OpenError> {
    let guard = lock(storage.as_ref(), false)?;
    let found = scan::find(storage.as_ref())?;
    if found.is_empty() {
        return Err(OpenError::Missing(storage.place()));
    }
    let catalog = Arc::new(Catalog::default());
    let segments = segments_of(&found);
    let scan = scan::scan(storage.as_ref(), &found, &segments, &catalog)?;
    settle(&segments, &found, &scan);
    let segments: Vec<_> = segments.into_iter().take(scan.segment + 1).collect();
    let reserve = Reserve::new(storage.clone(), 0);
    let parts = Parts { storage, catalog, segments, ledger: scan.ledger, writer: None, torn_bytes: scan.torn_bytes };
    Ok((Arc::new(parts.assemble(true, Retention::default(), reserve)), guard))
}

struct Parts {
    storage: Arc<dyn Storage>,
    catalog: Arc<Catalog>,
    segments: Vec<Arc<Segment>>,
    ledger: Ledger,
    writer: Option<Writer>,
    torn_bytes: u64,
}

impl Parts {
    fn assemble(self, fsync: bool, retain: Retention, reserve: Reserve) -> Shared {
        Shared {
            storage: self.storage,
            fsync,
            retain: retain.into(),
            hidden: Default::default(),
            catalog: self.catalog,
            tail: watch::Sender::new(self.ledger.tail),
            state: self.ledger.into(),
            segments: self.segments.into(),
            queue: Default::default(),
            read_only: self.writer.is_none(),
            writer: self.writer.into(),
            reserve,
            buffers: Default::default(),
            worker: Default::default(),
            released: Default::default(),
            torn_bytes: self.torn_bytes,
            closed: Default::default(),
        }
    }
}

fn create(options: &SegmentOptions, storage: Arc<dyn Storage>, reserve: Reserve) -> Result<Shared, OpenError> {
    let ledger = match options.start.clone().filter(|_| options.mirror) {
        Some(start) => Ledger::mirror(start),
        None => {
            let mut ledger = Ledger { id: LogId::draw(), ..Ledger::default() };
            ledger.begin_epoch(Epoch::draw());
            ledger
        }
    };
    let mut header = SegmentHeader::new(&ledger, std::iter::empty());
    (header.base, header.sequence) = (ledger.tail.next().0, 1);
    let needed = header.encode(0).len() as u64 + 2 * BATCH_HEADER as u64;
    let begun = reserve.take(needed, |file, capacity| {
        let bytes = header.encode(capacity);
        file.write_at(&bytes, 0)?;
        file.sync_data()?;
        Ok(Segment::new(&header, bytes.len() as u64, capacity))
    });
    let (file, segment) = begun.map_err(|error| match error {
        AppendError::DiskFull { place, needed } => OpenError::DiskFull { place, needed },
        other => OpenError::Io(io::Error::other(other.to_string())),
    })?;
    let segment = Arc::new(segment);
    segment.set_end(segment.header_bytes, true);
    let writer = Writer {
        file,
        offset: segment.header_bytes,
        written: segment.header_bytes,
        segment: segment.clone(),
        sequence: 1,
        prev_crc: 0,
        marked: false,
        last_append: Instant::now(),
        broken: None,
        buffer: Vec::new(),
    };
    let parts = Parts {
        storage,
        catalog: Arc::default(),
        segments: vec![segment],
        ledger,
        writer: Some(writer),
        torn_bytes: 0,
    };
    Ok(parts.assemble(options.fsync, options.retain, reserve))
}

fn recover(
    options: &SegmentOptions,
    storage: Arc<dyn Storage>,
    reserve: Reserve,
    found: Vec<Found>,
) -> Result<Shared, OpenError> {
    let catalog = Arc::new(Catalog::default());
    let segments = segments_of(&found);
    let mut scan = scan::scan(storage.as_ref(), &found, &segments, &catalog)?;
    settle(&segments, &found, &scan);
    repair(storage.as_ref(), &found, &scan)?;
    let segments: Vec<_> = segments.into_iter().take(scan.segment + 1).collect();
    let segment = segments[scan.segment].clone();
    scan.ledger.mirror = options.mirror;
    if !options.mirror {
        scan.ledger.begin_epoch(Epoch::draw());
    }
    let writer = Writer {
        file: storage.open(&segment.name, true)?,
        offset: scan.offset,
        written: scan.offset,
        segment,
        sequence: scan.sequence,
        prev_crc: scan.prev_crc,
        marked: false,
        last_append: Instant::now(),
        broken: None,
        buffer: Vec::new(),
    };
    let parts =
        Parts { storage, catalog, segments, ledger: scan.ledger, writer: Some(writer), torn_bytes: scan.torn_bytes };
    Ok(parts.assemble(options.fsync, options.retain, reserve))
}

fn segments_of(found: &[Found]) -> Vec<Arc<Segment>> {
    found.iter().map(|found| Arc::new(Segment::new(&found.header, found.header_bytes, found.capacity))).collect()
}

/// Tells the segments where they end.
fn settle(segments: &[Arc<Segment>], found: &[Found], scan: &Scan) {
    let first_scanned = found.iter().rposition(|found| !found.header.continues).unwrap_or_default();
    for (i, segment) in segments.iter().enumerate() {
        match found.get(i + 1).filter(|_| i < scan.segment) {
            Some(next) => segment.set_end(next.header.previous_end, i >= first_scanned),
            None => segment.set_end(scan.offset, true),
        }
    }
}

/// Cuts what is torn. What stays but is above the last durable mark is written again, because what the system shows of it
/// need not be on disk.
fn repair(storage: &dyn Storage, found: &[Found], scan: &Scan) -> Result<(), OpenError> {
    for later in found.iter().enumerate().rev().take_while(|(i, _)| *i > scan.segment).map(|(_, later)| later) {
        storage.remove(&later.name)?;
        storage.sync()?;
    }
    let mut touched: Vec<usize> = scan.unproven.iter().map(|unproven| unproven.segment).collect();
    touched.push(scan.segment);
    touched.dedup();
    for segment in touched {
        let file = storage.open(&found[segment].name, true)?;
        for unproven in scan.unproven.iter().filter(|unproven| unproven.segment == segment) {
            let mut bytes = vec![0; (unproven.end - unproven.start) as usize];
            file.read_at(&mut bytes, unproven.start)?;
            file.write_at(&bytes, unproven.start)?;
        }
        if segment == scan.segment {
            zero(file.as_ref(), scan.offset, found[segment].capacity)?;
        }
        file.sync_data()?;
    }
    Ok(())
}

/// Zeroes what is not zero in a range.
fn zero(file: &dyn super::storage::StoredFile, from: u64, to: u64) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 16];
    let mut at = from;
    while at < to {
        let chunk = &mut buffer[..(to - at).min(1 << 16) as usize];
        file.read_at(chunk, at)?;
        if chunk.iter().any(|&byte| byte != 0) {
            chunk.fill(0);
            file.write_at(chunk, at)?;
        }
        at += chunk.len() as u64;
    }
    Ok(())
}

/// What checking every batch of a log has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Segment files.
    pub segments: usize,
    /// Batches, marks included.
    pub batches: u64,
    /// Entries, parts counted singly.
    pub entries: u64,
    /// The first position that is there (tail + 1 when there is none).
    pub oldest: Position,
    /// The last one.
    pub tail: Position,
    /// What an opening would cut, in bytes.
    pub torn_bytes: u64,
}
