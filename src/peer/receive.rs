//! The receiving half of a link: what came is gathered into appends while earlier ones are being made durable.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::host::{Host, Refusal};
use super::large::Large;
use super::protocol::Entries;
use super::refusal::{code, out_of_order, refusal};
use super::session::{Action, Session};
use crate::log::{Append, Draft};
use crate::model::{Cursor, Entry, LinkId, TableDef, limits};

/// Entries that wait to be appended. Bounded by the credits that the session holds the peer to.
#[derive(Default)]
pub(super) struct Inbox {
    waiting: Mutex<VecDeque<Entries>>,
    added: Notify,
}

impl Inbox {
    fn waiting(&self) -> MutexGuard<'_, VecDeque<Entries>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, entries: Entries) {
        self.waiting().push_back(entries);
        self.added.notify_one();
    }

    fn pop(&self) -> Option<Entries> {
        self.waiting().pop_front()
    }
}

/// What is gathered for the next append.
#[derive(Default)]
struct Gathered {
    tables: Vec<Arc<TableDef>>,
    drafts: Vec<Draft>,
    upto: Option<Cursor>,
    messages: usize,
    bytes: u64,
}

/// Appends what came.
pub(super) struct Receiver<'a> {
    host: &'a dyn Host,
    session: &'a Mutex<Session>,
    inbox: &'a Inbox,
    /// Does what the session says after something has become durable.
    act: &'a (dyn Fn(Vec<Action>) -> Result<(), Refusal> + Send + Sync),
    peer: LinkId,
    gathered: Gathered,
    large: Option<Large>,
    stored: Option<Cursor>,
}

impl<'a> Receiver<'a> {
    pub(super) fn new(
        host: &'a dyn Host,
        session: &'a Mutex<Session>,
        inbox: &'a Inbox,
        act: &'a (dyn Fn(Vec<Action>) -> Result<(), Refusal> + Send + Sync),
        peer: LinkId,
    ) -> Receiver<'a> {
        Receiver { host, session, inbox, act, peer, gathered: Gathered::default(), large: None, stored: None }
    }

    /// Appends until the link ends. After `stop` no further append is begun; one that is under way is finished, so that
    /// the next link starts from a cursor that stands still.
    pub(super) async fn run(mut self, stop: CancellationToken) -> Result<Infallible, Refusal> {
        loop {
            let entries = loop {
                if stop.is_cancelled() {
                    return Err(super::refusal::stopping());
                }
                match self.inbox.pop() {
                    Some(entries) => break entries,
                    None => tokio::select! {
                        () = self.inbox.added.notified() => {}
                        () = stop.cancelled() => {}
                    },
                }
            };
            self.take(entries).await?;
            while self.gathered.bytes < limits::LINK_APPEND_BYTES_MAX
                && let Some(entries) = self.inbox.pop()
            {
                self.take(entries).await?;
            }
            if self.gathered.messages > 0 {
                self.append(None).await?;
            }
        }
    }

    /// Takes one message: whole entries are gathered, parts of a large one are spooled.
    async fn take(&mut self, message: Entries) -> Result<(), Refusal> {
        if self.gathered.tables.len() + message.tables.len() > limits::OFFERS_MAX {
            let what = format!("the definitions of more than {} tables wait for one append", limits::OFFERS_MAX);
            return Err(refusal(code::TOO_LARGE, false, what, "memory is bounded", "send fewer tables"));
        }
        self.gathered.tables.extend(message.tables);
        let count = message.entries.len();
        for (i, entry) in message.entries.into_iter().enumerate() {
            // The last entry is appended together with the cursor that covers it.
            if i + 1 == count {
                self.gathered.upto = message.upto.or(self.gathered.upto);
            }
            self.gathered.bytes += entry.bytes().len() as u64;
            match is_part(&entry) {
                false if self.large.is_some() => {
                    return Err(out_of_order("an entry came between the parts of a large transaction"));
                }
                false => self.gathered.drafts.push(Draft::Relayed(entry)),
                true => self.take_part(entry).await?,
            }
        }
        self.gathered.upto = message.upto.or(self.gathered.upto);
        if self.large.is_none() {
            self.gathered.messages += 1;
            return Ok(());
        }
        self.gathered.bytes = 0;
        let actions = self.session.lock().unwrap_or_else(PoisonError::into_inner).spooled(1);
        (self.act)(actions)
    }

    async fn take_part(&mut self, part: Entry) -> Result<(), Refusal> {
        let more = part.header().more;
        let large = match self.large.take() {
            Some(large) => large,
            None => {
                // What stands before it goes first, so that a large transaction is alone in its append.
                if self.gathered.messages > 0 || !self.gathered.drafts.is_empty() {
                    let tables = self.gathered.tables.clone();
                    self.append(None).await?;
                    self.gathered.tables = tables;
                }
                Large::new(self.host.spool_dir()).await?
            }
        };
        let large = large.push(part).await?;
        if more {
            self.large = Some(large);
            return Ok(());
        }
        let draft = large.finish().await?;
        self.append(Some(draft)).await
    }

    /// Appends what is gathered, or with it one large transaction, and says so when it is durable.
    async fn append(&mut self, large: Option<Draft>) -> Result<(), Refusal> {
        let gathered = std::mem::take(&mut self.gathered);
        let mut drafts = gathered.drafts;
        drafts.extend(large);
        // Of a cursor that is stored already there is nothing to store.
        if !drafts.is_empty() || gathered.upto != self.stored {
            let upto = gathered.upto.map(Into::into);
            self.host.receive(Append { from: self.peer, tables: gathered.tables, drafts, upto }).await?;
            self.stored = gathered.upto.or(self.stored);
        }
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let actions = session.durable(gathered.messages, gathered.upto);
        drop(session);
        (self.act)(actions)
    }
}

fn is_part(entry: &Entry) -> bool {
    entry.header().part > 0 || entry.header().more
}
