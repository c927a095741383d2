//! Feeds: named logs beside `main` that any program appends to and reads.

mod append;
mod consumers;
mod feed;
mod partition;
mod requests;
mod spec;

pub use append::{Appended, Call, CallError, CallRow, Refused};
pub use consumers::{Consumer, ConsumerError, Consumers, joined};
pub use feed::Feed;
pub use partition::Partition;
pub use spec::FeedSpec;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::settings::{Exit, NodeError};
use crate::log::Log;
use crate::model::limits;

/// Between two looks at what readers still need.
const RETAIN_INTERVAL: Duration = Duration::from_secs(2);

/// The logs of a node by name, `main` among them.
pub struct Feeds {
    dir: PathBuf,
    node: Box<str>,
    all: RwLock<BTreeMap<Box<str>, Arc<Feed>>>,
}

/// The folder of a node's feeds.
pub fn feeds_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("feeds")
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
        Ok(Feeds { dir, node: node.into(), all: RwLock::new(all) })
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
            return match feed.partitions.len() == spec.partitions as usize && feed.append == spec.append {
                true => Ok(false),
                false => Err(spec::contradicts(name, feed.partitions.len(), spec.partitions)),
            };
        }
        if all.len() >= limits::FEEDS_MAX {
            let what = format!("there are {} logs", limits::FEEDS_MAX);
            let (why, fix) = ("a node has no more", "use keys or tables within one log");
            return Err(NodeError::new("WS-FEED-001", Exit::Failure, what, why, fix));
        }
        spec.store(&self.dir, name)?;
        all.insert(name.into(), Arc::new(Feed::open(&self.dir, &self.node, name, spec)?));
        Ok(true)
    }

    /// Lets retention have what nobody needs, until `stop`.
    pub async fn retain(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(RETAIN_INTERVAL) => {}
            }
            for feed in self.all() {
                feed.release().await;
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
