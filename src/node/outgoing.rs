//! Our log as one peer gets it: selected, filtered, and without what came from that peer.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::copies::copied_from;
use crate::log::{Limit, Log, SourceError};
use crate::model::{Batch, Cursor, Fingerprint, LinkId, Position, ReadFrom, TableDef, TableName};
use crate::peer::{Outbound, Outgoing, Refusal};
use crate::stream::{Sieve, Sieved};

/// How long a cursor that moved over filtered stretches only waits for company.
const CURSOR_DELAY: Duration = Duration::from_millis(250);

/// Reads the log after what the peer has received.
pub struct LogOutgoing {
    log: Arc<dyn Log>,
    to: LinkId,
    copied_from: String,
    sieve: Arc<Sieve>,
    tail: watch::Receiver<Position>,
    from: ReadFrom,
    covered: Cursor,
    sent: Cursor,
    /// The peer does not know of its start yet.
    unannounced: bool,
}

impl LogOutgoing {
    /// Starts after `received`, a valid cursor of the log.
    pub fn new(log: Arc<dyn Log>, to: LinkId, sieve: Arc<Sieve>, received: Cursor, announced: bool) -> LogOutgoing {
        // A start that the peer does not know of is announced as soon as the link stands.
        let sent = if announced { received } else { Cursor { position: Position::ZERO, ..received } };
        let tail = log.tail();
        LogOutgoing {
            log,
            to,
            copied_from: copied_from(to),
            sieve,
            tail,
            from: received.position.into(),
            covered: received,
            sent,
            unannounced: !announced,
        }
    }

    fn take(&mut self, batch: Batch) -> Result<Option<Outbound>, Refusal> {
        let mut out = Outbound { entries: Vec::new(), tables: Vec::new(), upto: batch.upto };
        let mut next = batch.next;
        for logged in batch.entries {
            let header = logged.entry.header();
            // Law 5: never back where it came from, nor to where it was made; a copy is not announced to its source.
            let made_there = header.origin.is_some_and(|origin| origin.log == self.to.0);
            if logged.from == self.to || made_there || header.causation.as_deref() == Some(&*self.copied_from) {
                continue;
            }
            let sieved = match self.sieve.entry(&logged.entry, &batch.catalog) {
                Ok(sieved) => sieved,
                // What stands before it is sent; then it is met again, alone.
                Err(_) if !out.entries.is_empty() && logged.entry.header().part == 0 => {
                    let before = Position(logged.position.0.saturating_sub(1));
                    (out.upto, next) = (self.log.cursor_at(before), before.into());
                    break;
                }
                Err(error) => return Err(stopped(logged.position, &error)),
            };
            match sieved {
                Sieved::Nothing => {}
                Sieved::Whole => {
                    for fingerprint in &logged.entry.header().tables {
                        add(&mut out.tables, *fingerprint, || batch.catalog.get(*fingerprint));
                    }
                    out.entries.push(logged.entry);
                }
                Sieved::Narrowed(entry, tables) => {
                    for table in tables {
                        add(&mut out.tables, table.fingerprint, || Some(table.clone()));
                    }
                    out.entries.push(*entry);
                }
            }
        }
        self.from = next;
        self.covered = out.upto;
        if out.entries.is_empty() {
            return Ok(None);
        }
        self.sent = out.upto;
        Ok(Some(out))
    }
}

fn add(tables: &mut Vec<Arc<TableDef>>, fingerprint: Fingerprint, table: impl FnOnce() -> Option<Arc<TableDef>>) {
    if tables.iter().all(|known| known.fingerprint != fingerprint) {
        tables.extend(table());
    }
}

/// A filter that fails stops the link; it never sends by mistake (law 7).
fn stopped(position: Position, error: &dyn std::error::Error) -> Refusal {
    Refusal {
        code: "WS-SEND-001".into(),
        message: format!(
            "sending stopped at position {position}: {error} / why: nothing is sent by mistake / do: correct the filter in \
             the sender's configuration, and restart it or send it SIGHUP"
        ),
        retryable: false,
    }
}

/// As [`stopped`], for a row of a first copy.
pub fn stopped_copying(table: &TableName, error: &dyn std::error::Error) -> Refusal {
    Refusal {
        code: "WS-SEND-001".into(),
        message: format!(
            "sending stopped at a row of the first copy of {table}: {error} / why: nothing is sent by mistake / do: correct \
             the filter in the sender's configuration, and restart it or send it SIGHUP"
        ),
        retryable: false,
    }
}

fn unreadable(error: &SourceError) -> Refusal {
    let retryable = matches!(error, SourceError::Trimmed { .. } | SourceError::Closed);
    let message = match error {
        SourceError::Trimmed { .. } => format!("{error}: the peer fell out of the log and copies afresh"),
        _ => format!("the sender's log cannot be read: {error} / do: run `watershed log verify` there"),
    };
    Refusal { code: "WS-SEND-002".into(), message, retryable }
}

#[async_trait]
impl Outgoing for LogOutgoing {
    async fn next(&mut self) -> Result<Outbound, Refusal> {
        // At once: a link that ends before it would begin anew.
        if std::mem::take(&mut self.unannounced) {
            self.sent = self.covered;
            return Ok(Outbound { entries: Vec::new(), tables: Vec::new(), upto: self.covered });
        }
        let mut cursor_due: Option<Instant> = None;
        loop {
            self.tail.mark_unchanged();
            let batch = self.log.read(self.from, Limit::default()).await.map_err(|error| unreadable(&error))?;
            if batch.next != self.from {
                if let Some(out) = self.take(batch)? {
                    return Ok(out);
                }
                continue;
            }
            if self.covered == self.sent {
                if self.tail.changed().await.is_err() {
                    return Err(unreadable(&SourceError::Closed));
                }
                continue;
            }
            let due = *cursor_due.get_or_insert_with(|| Instant::now() + CURSOR_DELAY);
            if timeout_at(due, self.tail.changed()).await.is_err() {
                self.sent = self.covered;
                return Ok(Outbound { entries: Vec::new(), tables: Vec::new(), upto: self.covered });
            }
        }
    }
}
