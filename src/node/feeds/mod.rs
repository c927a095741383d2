//! Feeds: named logs beside `main` that any program appends to and reads.

mod append;
mod consumers;
mod feed;
mod mirror;
mod partition;
mod pieces;
mod raw;
mod requests;
mod spec;

pub use append::{Appended, Call, CallError, CallRow, Refused};
pub use consumers::{Consumer, ConsumerError, Consumers, joined};
pub use feed::Feed;
pub use mirror::{HttpFrom, Mirror, MirrorFrom, MirrorSettings, MirrorStatus, Mirrors, PeerFeeds, look_at_originals};
pub use partition::Partition;
pub use pieces::{Generation, Piece, PieceOf, Pieces};
pub use raw::{RawReader, RawRefused};
pub use spec::FeedSpec;
pub(super) use spec::write_durably;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::settings::{Exit, NodeError};
use crate::log::Log;
use crate::model::{Position, limits};
use crate::peer::FeedFacts;

/// The media type of a feed's raw stream: messages of `docs/PROTOCOL.md`, each after its length.
pub const RAW_TYPE: &str = "application/vnd.watershed.entries";

/// Between two looks at what readers still need.
const RETAIN_INTERVAL: Duration = Duration::from_secs(2);

/// The logs of a node by name, `main` among them.
pub struct Feeds {
    dir: PathBuf,
    node: Box<str>,
    all: RwLock<BTreeMap<Box<str>, Arc<Feed>>>,
    /// Names that are taken by mirrors, be they there or not.
    expected: BTreeSet<Box<str>>,
    /// Counts the logs that were made or replaced.
    made: watch::Sender<u64>,
    /// What readers have been given last.
    pub pieces: Pieces,
    /// Readers that are read for in large pieces.
    pub large_reads: Arc<Semaphore>,
}

/// The folder of a node's feeds.
pub fn feeds_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("feeds")
}

/// The feeds that a data folder holds, with their partitions; by name.
///
/// # Errors
/// The folder, or what is noted in it, cannot be read.
pub fn stored(data_dir: &Path) -> Result<Vec<(String, u32)>, NodeError> {
    Ok(spec::stored(&feeds_dir(data_dir))?.into_iter().map(|(name, spec)| (name, spec.partitions)).collect())
}

impl Feeds {
    /// Opens every feed that the configuration names or that was created before; `main` is what the node has opened.
    ///
    /// # Errors
    /// A feed's folder cannot be read or its log is damaged; or the configuration contradicts what is there.
    pub async fn open(
        data_dir: &Path,
        node: &str,
        main: (Arc<dyn Log>, bool),
        configured: &BTreeMap<String, FeedSpec>,
        mirrors: &BTreeMap<String, MirrorSettings>,
    ) -> Result<Feeds, NodeError> {
        let dir = feeds_dir(data_dir);
        let mut specs: BTreeMap<String, FeedSpec> = spec::stored(&dir)?;
        for (name, given) in configured {
            let spec = match specs.get(name) {
                Some(stored) => given.over(name, stored)?,
                None => given.clone(),
            };
            specs.insert(name.clone(), spec);
        }
        for (name, given) in mirrors {
            // One that is not there is made when its original has been reached.
            if let Some(stored) = specs.get(name) {
                specs.insert(name.clone(), given.spec.mirror_over(name, stored)?);
            }
        }
        let mut all = BTreeMap::new();
        for (name, spec) in &specs {
            spec.store(&dir, name)?;
            all.insert(name.as_str().into(), Arc::new(Feed::open(&dir, node, name, spec)?));
        }
        let (log, append) = main;
        all.insert("main".into(), Arc::new(Feed::main(&dir, node, log, append)?));
        for feed in all.values() {
            feed.remember().await?;
        }
        let expected = mirrors.keys().map(|name| name.as_str().into()).collect();
        Ok(Feeds {
            dir,
            node: node.into(),
            all: RwLock::new(all),
            expected,
            made: watch::Sender::new(0),
            pieces: Pieces::default(),
            large_reads: Arc::new(Semaphore::new(limits::FEED_LARGE_READS_MAX)),
        })
    }

    /// The log of that name.
    pub fn get(&self, name: &str) -> Option<Arc<Feed>> {
        self.all.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// All of them, by name.
    pub fn all(&self) -> Vec<Arc<Feed>> {
        self.all.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Creates a feed; durable on return. Blocks. False: it is there already, as it is asked for.
    ///
    /// # Errors
    /// It is there with other properties, or its folder cannot be written.
    pub fn create(&self, name: &str, spec: &FeedSpec) -> Result<bool, NodeError> {
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(feed) = all.get(name) {
            return match feed.partitions.len() == spec.partitions as usize && feed.takes_appends() == spec.append {
                true => Ok(false),
                false => Err(spec::contradicts(name, feed.partitions.len(), spec.partitions)),
            };
        }
        if self.expected.contains(name) {
            let advice = "use another name, or remove `mirror` from its section".to_owned();
            return Err(spec::other_kind(name, "is going to be a mirror, by its section".into(), advice));
        }
        room(all.len())?;
        spec.store(&self.dir, name)?;
        all.insert(name.into(), Arc::new(Feed::open(&self.dir, &self.node, name, spec)?));
        self.made.send_modify(|made| *made += 1);
        Ok(true)
    }

    /// Changes when a log was made.
    pub fn made(&self) -> watch::Receiver<u64> {
        self.made.subscribe()
    }

    /// Whether that is the name of a mirror, be it there or not.
    pub fn expects(&self, name: &str) -> bool {
        self.expected.contains(name)
    }

    /// Creates a mirror's logs as its original is; durable on return. Blocks.
    ///
    /// # Errors
    /// There are too many logs, or its folder cannot be written.
    fn begin_mirror(&self, name: &str, given: &FeedSpec, original: &FeedFacts) -> Result<Arc<Feed>, NodeError> {
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        room(all.len())?;
        let folder = self.dir.join(name);
        if spec::is_noted(&folder) {
            let there = std::io::Error::from(std::io::ErrorKind::AlreadyExists);
            return Err(spec::failed("cannot begin a mirror in", &folder, there));
        }
        // Without its properties nobody has ever seen it: it was being created when the process was killed.
        if let Err(error) = std::fs::remove_dir_all(&folder)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(spec::failed("cannot clear", &folder, error));
        }
        let spec = FeedSpec { partitions: original.parts.len() as u32, ..given.clone() };
        let feed = Arc::new(Feed::mirror(&self.dir, &self.node, name, &spec, original)?);
        spec.store(&self.dir, name)?;
        all.insert(name.into(), feed.clone());
        self.made.send_modify(|made| *made += 1);
        Ok(feed)
    }

    /// Removes a mirror that has nothing; one that has something by now stays. Blocks.
    ///
    /// # Errors
    /// Its folder cannot be written or read.
    fn drop_blank(&self, name: &str) -> Result<(), NodeError> {
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        let Some(feed) = all.remove(name) else { return Ok(()) };
        feed.close();
        // Whoever has it still is told by nothing else.
        self.made.send_modify(|made| *made += 1);
        if feed.is_blank() {
            return spec::forget(&self.dir, name);
        }
        let spec = spec::stored(&self.dir)?.remove(name);
        if let Some(spec) = spec {
            all.insert(name.into(), Arc::new(Feed::open(&self.dir, &self.node, name, &spec)?));
        }
        Ok(())
    }

    /// Lets retention have what nobody needs, until `stop`.
    pub async fn retain(self: Arc<Self>, stop: CancellationToken) {
        let mut known = Vec::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(RETAIN_INTERVAL) => {}
            }
            for feed in self.all() {
                feed.release().await;
            }
            let all = self.all();
            let oldest: Vec<Position> = all.iter().flat_map(|feed| feed.oldest()).collect();
            // What retention has taken is not given out of memory for longer than until here.
            if oldest != known {
                self.pieces.clear();
                known = oldest;
            }
        }
    }

    /// Finishes what is queued and unlocks the folders.
    pub fn close(&self) {
        for feed in self.all() {
            feed.close();
        }
    }
}

/// Whether a node may have another log.
fn room(logs: usize) -> Result<(), NodeError> {
    if logs < limits::FEEDS_MAX {
        return Ok(());
    }
    let what = format!("there are {} logs", limits::FEEDS_MAX);
    let (why, fix) = ("a node has no more", "use keys or tables within one log");
    Err(NodeError::new("WS-FEED-001", Exit::Failure, what, why, fix))
}
