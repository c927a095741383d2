//! What a mirror does: reaches its original, begins with the oldest that is there, and follows every partition, for ever.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::select_all;

use super::Mirror;
use super::original::Original;
use super::trouble::{self, Trouble};
use crate::log::{Append, AppendError, Draft};
use crate::model::{Cursor, LinkId, LogId, Position, limits};
use crate::node::feeds::raw::epoch_of;
use crate::node::feeds::{Feed, Feeds};
use crate::peer::{FeedEntries, FeedFacts, Retry};

/// Runs until the mirror is ended.
pub(super) async fn run(mirror: Arc<Mirror>, feeds: Arc<Feeds>) {
    tokio::select! {
        () = mirror.stop.cancelled() => {}
        () = follow(&mirror, &feeds) => {}
    }
}

async fn follow(mirror: &Mirror, feeds: &Feeds) {
    loop {
        let feed = match feeds.get(&mirror.name) {
            Some(feed) => feed,
            None => begin(mirror, feeds).await,
        };
        mirror.follows(&feed);
        let parts = (0..feed.partitions.len()).map(|number| Box::pin(part(mirror, &feed, number)));
        // One that ends has found out that the original has trimmed what would have been the first.
        select_all(parts).await;
        tracing::warn!(
            "the mirror {} has nothing yet, and begins anew with the oldest that {} has",
            mirror.name,
            mirror.from
        );
        if let Err(error) = tokio::task::block_in_place(|| feeds.drop_blank(&mirror.name)) {
            let wait = Retry::default().max;
            mirror.troubled(None, trouble::unwritable(&error), wait);
            tokio::time::sleep(wait).await;
        }
    }
}

/// Creates the logs, once the original has said what it is.
async fn begin(mirror: &Mirror, feeds: &Feeds) -> Arc<Feed> {
    let mut failed = 0;
    loop {
        let found = mirror.original.open(0, None).await.and_then(|(facts, _)| {
            let begun = tokio::task::block_in_place(|| feeds.begin_mirror(&mirror.name, &mirror.spec, &facts));
            begun.map_err(|error| trouble::unwritable(&error))
        });
        match found {
            Ok(feed) => return feed,
            Err(trouble) => failed = pause(mirror, None, trouble, failed).await,
        }
    }
}

async fn pause(mirror: &Mirror, number: Option<usize>, trouble: Trouble, failed: u32) -> u32 {
    let wait: Duration = Retry::default().wait(failed + 1, trouble.retryable, rand::random());
    mirror.troubled(number, trouble, wait);
    tokio::select! {
        () = tokio::time::sleep(wait) => {}
        () = mirror.original.changed() => {}
    }
    failed + 1
}

/// Follows one partition; returns only when the mirror can and must begin anew.
async fn part(mirror: &Mirror, feed: &Arc<Feed>, number: usize) {
    let mut failed = 0;
    loop {
        let mut stood = false;
        let trouble = match attempt(mirror, feed, number, &mut stood).await {
            Ok(never) => match never {},
            Err(trouble) => trouble,
        };
        if trouble.trimmed && feed.is_blank() {
            return;
        }
        failed = pause(mirror, Some(number), trouble, if stood { 0 } else { failed }).await;
    }
}

async fn attempt(
    mirror: &Mirror,
    feed: &Arc<Feed>,
    number: usize,
    stood: &mut bool,
) -> Result<std::convert::Infallible, Trouble> {
    let log = &feed.partitions[number].log;
    let mut here = log.cursor_at(*log.tail().borrow());
    let original: &dyn Original = &*mirror.original;
    let (facts, mut stretches) = original.open(number as u32, Some(here)).await?;
    check(feed, number, &facts, here)?;
    mirror.heard(number, here.position, facts.parts[number].tail);
    *stood = true;
    loop {
        let mut gathered = Gathered::new(number as u32, here);
        gathered.take(stretches.next().await?)?;
        let mut end = None;
        // What has come meanwhile is made durable together with it.
        while end.is_none()
            && gathered.bytes < limits::MIRROR_APPEND_BYTES
            && let Some(more) = stretches.next().now_or_never()
        {
            end = more.and_then(|more| gathered.take(more)).err();
        }
        let tail = gathered.tail;
        if !gathered.append.drafts.is_empty() {
            here = log.append(gathered.append).await.map_err(refused)?;
        }
        mirror.heard(number, here.position, tail);
        if let Some(trouble) = end {
            return Err(trouble);
        }
    }
}

fn refused(error: AppendError) -> Trouble {
    match error {
        AppendError::DiskFull { .. } | AppendError::Failed(_) | AppendError::Closed => trouble::unwritable(&error),
        other => trouble::unreadable(other.to_string()),
    }
}

/// Whether the original is the log that this is a mirror of, up to what is here.
fn check(feed: &Feed, number: usize, original: &FeedFacts, here: Cursor) -> Result<(), Trouble> {
    if original.parts.len() != feed.partitions.len() {
        return Err(trouble::partitions(feed.partitions.len(), original.parts.len()));
    }
    original.parts[number].check(here).map_err(|refused| trouble::parted_at(here, &refused))
}

/// Stretches that are appended together.
struct Gathered {
    log: LogId,
    partition: u32,
    /// The last position that is here or gathered.
    upto: Position,
    /// The original's.
    tail: Position,
    bytes: usize,
    append: Append,
}

impl Gathered {
    fn new(partition: u32, here: Cursor) -> Gathered {
        let append = Append { from: LinkId::LOCAL, tables: Vec::new(), drafts: Vec::new(), upto: None };
        let upto = here.position;
        Gathered { log: here.log, partition, upto, tail: upto, bytes: 0, append }
    }

    fn take(&mut self, stretch: FeedEntries) -> Result<(), Trouble> {
        if stretch.partition != self.partition {
            let what = format!("entries of partition {} came, asked for was {}", stretch.partition, self.partition);
            return Err(trouble::unreadable(what));
        }
        if stretch.first != self.upto.next() {
            return Err(trouble::out_of_order(self.upto.next(), stretch.first));
        }
        self.append.tables.extend(stretch.tables);
        for entry in stretch.entries {
            let position = self.upto.next();
            let Some(epoch) = epoch_of(&stretch.epochs, position) else {
                return Err(trouble::unreadable(format!("the entry at {position} has no epoch")));
            };
            // The log refuses it too, but with everything that is appended with it.
            let header = entry.header();
            let own = Cursor { log: self.log, epoch, position };
            if header.more || header.part > 0 || header.origin.is_none_or(|at| at.log == self.log && at != own) {
                let what = format!("the entry at {position} is not whole, or says that it was logged elsewhere");
                return Err(trouble::unreadable(what));
            }
            self.bytes += entry.bytes().len();
            self.append.drafts.push(Draft::Mirrored { position, epoch, entry });
            self.upto = position;
        }
        self.tail = stretch.tail.max(self.upto);
        Ok(())
    }
}
