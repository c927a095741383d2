//! One feed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;

use super::consumers::Consumers;
use super::partition::Partition;
use super::spec::FeedSpec;
use crate::log::segments::{SegmentLog, SegmentOptions};
use crate::log::{Log, MirrorStart};
use crate::model::{Cursor, LogId, Position, limits};
use crate::node::settings::{Exit, NodeError};
use crate::peer::{FeedFacts, FeedPart};

/// A named log.
pub struct Feed {
    /// Its name.
    pub name: Box<str>,
    append: AtomicBool,
    /// Order holds within each.
    pub partitions: Vec<Partition>,
    /// Who has read how far.
    pub consumers: Consumers,
    pub(super) node: Box<str>,
    pub(super) room: Arc<Semaphore>,
    turn: AtomicUsize,
    /// How far linked peers have mirrored it, where that is not noted yet.
    mirrored: Mutex<BTreeMap<Box<str>, BTreeMap<LogId, Cursor>>>,
    /// What views of this node still need, by view and partition.
    pins: Mutex<BTreeMap<(Box<str>, LogId), Position>>,
    dir: PathBuf,
    /// As it is noted; `None` for the node's own log.
    spec: Option<Mutex<FeedSpec>>,
}

impl Feed {
    /// Opens or creates the logs of a feed; those of a mirror are there. Blocks.
    pub(super) fn open(dir: &Path, node: &str, name: &str, spec: &FeedSpec) -> Result<Feed, NodeError> {
        Feed::open_with(dir, node, name, spec, &[])
    }

    /// Creates the logs of a mirror, which begin with the oldest that the original has. Blocks.
    pub(super) fn mirror(
        dir: &Path,
        node: &str,
        name: &str,
        spec: &FeedSpec,
        original: &FeedFacts,
    ) -> Result<Feed, NodeError> {
        Feed::open_with(dir, node, name, spec, &original.parts)
    }

    fn open_with(dir: &Path, node: &str, name: &str, spec: &FeedSpec, begin: &[FeedPart]) -> Result<Feed, NodeError> {
        let folder = dir.join(name);
        let mut partitions = Vec::new();
        for number in 0..spec.partitions.max(1) {
            let log = spec.log();
            let options = SegmentOptions {
                segment_bytes: log.segment_bytes,
                retain: spec.retention(),
                fsync: log.fsync,
                mirror: spec.mirror.is_some(),
                start: begin.get(number as usize).map(|part| MirrorStart {
                    id: part.id,
                    epochs: part.epochs.clone(),
                    oldest: part.oldest,
                    lamport: part.lamport,
                }),
                ..SegmentOptions::new(folder.join(number.to_string()))
            };
            let log = Arc::new(SegmentLog::open(options).map_err(|error| unreadable(name, number, error))?);
            log.hide(Position(spec.trimmed.get(number as usize).copied().unwrap_or(0)));
            partitions.push(Partition::new(log.clone(), Some(log)));
        }
        let mut feed = Feed::assemble(&folder, node, name, spec.append, partitions)?;
        feed.spec = Some(Mutex::new(spec.clone()));
        Ok(feed)
    }

    /// The node's own log.
    pub(super) fn main(dir: &Path, node: &str, log: Arc<dyn Log>, append: bool) -> Result<Feed, NodeError> {
        Feed::assemble(&dir.join("main"), node, "main", append, vec![Partition::new(log, None)])
    }

    fn assemble(
        folder: &Path,
        node: &str,
        name: &str,
        append: bool,
        partitions: Vec<Partition>,
    ) -> Result<Feed, NodeError> {
        let logs = partitions.iter().map(|partition| partition.log.id()).collect();
        Ok(Feed {
            name: name.into(),
            append: append.into(),
            consumers: Consumers::open(&folder.join("consumers.json"), logs)?,
            partitions,
            node: node.into(),
            room: Arc::new(Semaphore::new(limits::FEED_ROOM_BYTES >> 10)),
            turn: AtomicUsize::new(0),
            mirrored: Mutex::default(),
            pins: Mutex::default(),
            dir: folder.parent().unwrap_or(folder).into(),
            spec: None,
        })
    }

    /// Reads what idempotency keys stand at the ends of its partitions.
    pub(super) async fn remember(&self) -> Result<(), NodeError> {
        for (number, partition) in self.partitions.iter().enumerate().filter(|_| self.takes_appends()) {
            partition.remember().await.map_err(|error| unreadable(&self.name, number as u32, error))?;
        }
        Ok(())
    }

    /// Whether it may be appended to over HTTP.
    pub fn takes_appends(&self) -> bool {
        self.append.load(Ordering::Acquire)
    }

    /// The feed elsewhere that this is a mirror of.
    pub fn mirror_of(&self) -> Option<String> {
        let spec = self.spec.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        spec.mirror.clone()
    }

    /// The view of this node whose output it is.
    pub fn view_of(&self) -> Option<String> {
        let spec = self.spec.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        spec.view.clone()
    }

    /// A promotion has begun and could not be finished.
    pub fn is_half_promoted(&self) -> bool {
        let spec = self.spec.as_ref().map(|spec| spec.lock().unwrap_or_else(PoisonError::into_inner));
        spec.is_some_and(|spec| spec.promoted.is_some()) && !self.takes_appends()
    }

    /// How it stands, for its mirrors; `None` for the node's own log, which is no feed.
    pub fn facts(&self) -> Option<FeedFacts> {
        self.spec.as_ref()?;
        let part = |partition: &Partition| {
            let info = partition.log.info();
            let (id, epochs, oldest, tail, lamport) = (info.id, info.epochs, info.oldest, info.tail, info.lamport);
            FeedPart { id, epochs, oldest, tail, lamport }
        };
        Some(FeedFacts { log: self.name.clone(), parts: self.partitions.iter().map(part).collect() })
    }

    /// Whether there is nothing in it and nobody has a place in it.
    pub(super) fn is_blank(&self) -> bool {
        let blank = |partition: &Partition| {
            let info = partition.log.info();
            info.oldest > info.tail
        };
        self.partitions.iter().all(blank) && self.consumers.all().is_empty()
    }

    /// A mirror becomes a log of its own, in a new epoch; durable on return.
    ///
    /// # Errors
    /// It is no mirror, or the disk fails.
    pub(in crate::node) async fn promote(&self) -> Result<(), NodeError> {
        let failed = |error: &dyn std::fmt::Display| self.not_promoted(error);
        tokio::task::block_in_place(|| {
            // First what it is: a crash behind this leaves a log that opens as one of its own, in a new epoch.
            self.change(|spec| {
                spec.promoted = spec.mirror.take().or(spec.promoted.take());
                spec.append = true;
            })?;
            let logs = self.partitions.iter().filter_map(|partition| partition.segments.as_ref());
            logs.map(|log| log.promote()).collect::<Result<Vec<()>, _>>().map_err(|error| failed(&error)).map(drop)
        })?;
        for partition in &self.partitions {
            partition.remember().await.map_err(|error| failed(&error))?;
        }
        self.append.store(true, Ordering::Release);
        Ok(())
    }

    /// A promotion that has not come to its end.
    pub(in crate::node) fn not_promoted(&self, error: &dyn std::fmt::Display) -> NodeError {
        let what = format!("the log {:?} could not be promoted: {error}", self.name);
        let (why, advice) =
            ("the new epoch stands in its files", "make room or mend the disk, and give the order again");
        NodeError::new("WS-FEED-032", Exit::Failure, what, why, advice)
    }

    /// The partition of a key.
    pub fn partition_of(&self, key: &str) -> usize {
        match self.partitions.len() {
            1 => 0,
            // The same for ever, wherever the log is.
            count => (super::requests::digest(key.as_bytes()) % count as u64) as usize,
        }
    }

    /// A partition for what has no key, in turn.
    pub(super) fn next_partition(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed) % self.partitions.len()
    }

    /// The partition with that log.
    pub fn partition_with(&self, log: LogId) -> Option<usize> {
        self.partitions.iter().position(|partition| partition.log.id() == log)
    }

    /// The first position of each partition that can be read.
    pub(super) fn oldest(&self) -> impl Iterator<Item = Position> {
        self.partitions.iter().map(|partition| partition.log.info().oldest)
    }

    /// The tails of all partitions.
    pub fn tails(&self) -> Vec<Cursor> {
        let tail = |partition: &Partition| partition.log.cursor_at(*partition.log.tail().borrow());
        self.partitions.iter().map(tail).collect()
    }

    /// A linked peer has durably mirrored everything up to that cursor: what comes after it is kept for it, as for a consumer.
    pub fn has_mirrored(&self, peer: &str, upto: Cursor) {
        let mut mirrored = self.mirrored.lock().unwrap_or_else(PoisonError::into_inner);
        mirrored.entry(peer.into()).or_default().insert(upto.log, upto);
    }

    /// Notes what peers have mirrored since the last time. Blocks.
    fn note_mirrored(&self) {
        let mirrored = std::mem::take(&mut *self.mirrored.lock().unwrap_or_else(PoisonError::into_inner));
        for (peer, cursors) in mirrored {
            let name = format!("mirror:{peer}");
            let mut all: BTreeMap<LogId, Cursor> = match self.consumers.get(&name) {
                Some(known) => known.cursors.into_iter().map(|cursor| (cursor.log, cursor)).collect(),
                None => BTreeMap::new(),
            };
            let before = all.clone();
            all.extend(cursors);
            if all == before {
                continue;
            }
            if let Err(error) = self.consumers.set(&name, Some(all.into_values().collect()), None) {
                tracing::warn!("what {peer} has of the log {} cannot be noted: {error}", self.name);
            }
        }
    }

    /// What comes after that position of a partition is kept for whoever that is; with `None` nothing is any more.
    pub fn pin(&self, who: &str, log: LogId, upto: Option<Position>) {
        let mut pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
        match upto {
            Some(upto) => drop(pins.insert((who.into(), log), upto)),
            None => drop(pins.remove(&(who.into(), log))),
        }
    }

    /// Who needs what comes after which position of a partition: consumers, and views.
    pub fn needs(&self, log: LogId) -> Vec<(String, Position)> {
        let pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
        let pins = pins.iter().filter(|((_, of), _)| *of == log).map(|((who, _), upto)| (who.to_string(), *upto));
        let consumers = self.consumers.needs(log).into_iter().map(|(name, upto)| (format!("consumer {name}"), upto));
        pins.chain(consumers).collect()
    }

    /// Lets retention have what nobody needs; the node's own log has its own rules.
    pub(super) async fn release(&self) {
        tokio::task::block_in_place(|| self.note_mirrored());
        for partition in &self.partitions {
            let Some(segments) = &partition.segments else { continue };
            let needs = self.needs(segments.info().id);
            let upto =
                needs.into_iter().map(|(_, position)| position).min().unwrap_or_else(|| *partition.log.tail().borrow());
            if let Err(error) = partition.log.release(upto).await {
                tracing::warn!("retention of the log {}: {error}", self.name);
            }
        }
    }

    /// Notes changed properties durably, and has them take effect.
    fn change(&self, change: impl FnOnce(&mut FeedSpec)) -> Result<(), NodeError> {
        let Some(spec) = &self.spec else {
            let what = "the node's own log is not changed like this";
            let (why, fix) =
                ("its database and its peers need it", "set `retain` under [log.main], and send the node SIGHUP");
            return Err(NodeError::new("WS-FEED-007", Exit::Configuration, what, why, fix));
        };
        let mut spec = spec.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = spec.clone();
        change(&mut changed);
        changed.store(&self.dir, &self.name)?;
        *spec = changed;
        for (number, segments) in self.partitions.iter().filter_map(|one| one.segments.as_ref()).enumerate() {
            segments.set_retention(spec.retention());
            segments.hide(Position(spec.trimmed.get(number).copied().unwrap_or(0)));
        }
        Ok(())
    }

    /// Removes everything up to and including a position of a partition, whether it is needed or not; durable on return.
    ///
    /// # Errors
    /// The folder cannot be written, or the log is the node's own.
    pub async fn trim(&self, partition: usize, upto: Position) -> Result<(), NodeError> {
        let Some(at) = self.partitions.get(partition) else {
            let what = format!("the log {:?} has no partition {partition}", self.name);
            return Err(NodeError::new(
                "WS-FEED-008",
                Exit::Failure,
                what,
                "partitions are numbered from 0",
                "name one that is there",
            ));
        };
        let upto = upto.min(*at.log.tail().borrow());
        tokio::task::block_in_place(|| {
            self.change(|spec| {
                spec.trimmed.resize(self.partitions.len(), 0);
                spec.trimmed[partition] = spec.trimmed[partition].max(upto.0);
            })
        })?;
        let Some(segments) = &at.segments else { return Ok(()) };
        // It is out of sight; what its segments take on disk goes now or later.
        if let Err(error) = segments.trim(upto).await {
            tracing::warn!("trimming the log {}: {error}", self.name);
        }
        Ok(())
    }

    /// Changes how long entries are kept, until the configuration says otherwise at a start; durable on return. Blocks.
    ///
    /// # Errors
    /// As of [`Feed::trim`].
    pub fn keep(&self, retain_ms: Option<u64>, retain_bytes: Option<u64>) -> Result<(), NodeError> {
        self.change(|spec| {
            spec.retain_ms = retain_ms.or(spec.retain_ms);
            spec.retain_bytes = retain_bytes.or(spec.retain_bytes);
        })
    }

    pub(super) fn close(&self) {
        for segments in self.partitions.iter().filter_map(|partition| partition.segments.as_ref()) {
            if let Err(error) = segments.close() {
                tracing::error!(
                    "error[WS-FEED-005]: closing the log {}: {error}; it is recovered at the next start",
                    self.name
                );
            }
        }
    }
}

fn unreadable(name: &str, partition: u32, error: impl std::fmt::Display) -> NodeError {
    NodeError::new(
        "WS-FEED-004",
        Exit::Operator,
        format!("partition {partition} of the log {name:?} cannot be opened: {error}"),
        "a log is never served past damage, and nothing of it is deleted",
        format!(
            "run `watershed log verify {name}` for the whole picture; put its folder back from a backup, or move it away to begin anew"
        ),
    )
}
