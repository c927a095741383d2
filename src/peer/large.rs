//! A large transaction while its parts arrive: out of memory, and vanishing with the link if they do not all come.

use std::path::PathBuf;

use super::host::Refusal;
use super::refusal::{code, out_of_order, refusal};
use crate::log::{Draft, Spool};
use crate::model::{Entry, EntryHeader};

/// The parts that have come.
pub(super) struct Large {
    spool: Spool,
    header: Option<EntryHeader>,
    next: u32,
}

/// File work is done on threads for it: a slow disk must not hold up the link's other half.
async fn on_disk<T: Send + 'static>(work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> Result<T, Refusal> {
    let done = tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other).and_then(|done| done);
    done.map_err(|error| {
        let what = format!("parts of a large transaction could not be kept: {error}");
        refusal(code::SPOOL, true, what, "the disk is full or failing", "make room; the link is tried again")
    })
}

impl Large {
    /// Nothing has come yet.
    pub(super) async fn new(dir: PathBuf) -> Result<Large, Refusal> {
        let spool = on_disk(move || Spool::new(&dir)).await?;
        Ok(Large { spool, header: None, next: 0 })
    }

    /// The next part, in order.
    pub(super) async fn push(mut self, part: Entry) -> Result<Large, Refusal> {
        let header = part.header();
        if header.part != self.next {
            return Err(out_of_order(format!("part {} of a transaction came, expected {}", header.part, self.next)));
        }
        match &self.header {
            None => self.header = Some(EntryHeader { more: false, ..header.clone() }),
            Some(first) if first.origin != header.origin || first.tables != header.tables => {
                return Err(out_of_order(format!("part {} is not of the same transaction as part 0", header.part)));
            }
            Some(_) => {}
        }
        self.next += 1;
        on_disk(move || {
            self.spool.push(part.changes_bytes())?;
            Ok(self)
        })
        .await
    }

    /// All parts have come.
    pub(super) async fn finish(self) -> Result<Draft, Refusal> {
        let header = self.header.ok_or_else(|| out_of_order("a transaction has no parts"))?;
        let parts = on_disk(move || self.spool.into_parts()).await?;
        Ok(Draft::Large { header, parts })
    }
}
