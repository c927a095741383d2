//! Tables that a neighbour says were replaced there (`copied`): they are copied from it afresh.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::database::Command;
use super::shared::Shared;
use crate::log::{Append, Draft, Parts};
use crate::model::{CodecError, Fingerprint, LinkId, Op, TableDef, scan_ops};
use crate::peer::Refusal;

/// What an append announces.
pub struct Replaced {
    from: LinkId,
    tables: Vec<Arc<TableDef>>,
    found: Arc<Mutex<Vec<Fingerprint>>>,
}

impl Replaced {
    /// Looks through an append; large transactions are looked through while they are written.
    pub fn of(append: Append) -> Result<(Append, Replaced), CodecError> {
        let replaced = Replaced { from: append.from, tables: append.tables.clone(), found: Arc::default() };
        let mut drafts = Vec::with_capacity(append.drafts.len());
        for draft in append.drafts {
            drafts.push(match draft {
                // Only the neighbour's own announcements count: it announces what it has copied from others itself.
                Draft::Relayed(entry) if entry.header().origin.is_some_and(|origin| origin.log == append.from.0) => {
                    note(&mut lock(&replaced.found), &entry.header().tables, entry.changes_bytes())?;
                    Draft::Relayed(entry)
                }
                Draft::Large { header, parts } if header.origin.is_some_and(|origin| origin.log == append.from.0) => {
                    let parts = Watched { tables: header.tables.clone(), found: replaced.found.clone(), parts };
                    Draft::Large { header, parts: Box::new(parts) }
                }
                other => other,
            });
        }
        Ok((Append { drafts, ..append }, replaced))
    }

    /// Has the tables found so far copied afresh; durable on return.
    pub async fn tell(&self, shared: &Shared) -> Result<(), Refusal> {
        let found = std::mem::take(&mut *lock(&self.found));
        let Some(database) = shared.database.as_ref().filter(|_| !found.is_empty()) else { return Ok(()) };
        for fingerprint in found {
            let given = self.tables.iter().find(|table| table.fingerprint == fingerprint).cloned();
            let Some(table) = given.or_else(|| shared.log.catalog().get(fingerprint)) else { continue };
            let name = table.name.clone();
            let told = database.ask(|reply| Command::Announced(self.from, name, reply)).await;
            told.map_err(|error| Refusal {
                code: "WS-COPY-002".into(),
                message: format!(
                    "that table {} was replaced cannot be noted in the database: {error} / do: nothing: it comes again",
                    table.name
                ),
                retryable: true,
            })?;
        }
        shared.copy_wake.notify_one();
        Ok(())
    }
}

fn lock(found: &Mutex<Vec<Fingerprint>>) -> MutexGuard<'_, Vec<Fingerprint>> {
    found.lock().unwrap_or_else(PoisonError::into_inner)
}

fn note(found: &mut Vec<Fingerprint>, tables: &[Fingerprint], changes: &[u8]) -> Result<(), CodecError> {
    for (index, op) in scan_ops(changes)? {
        let table = tables.get(index).filter(|table| op == Op::Copied && !found.contains(table));
        found.extend(table);
    }
    Ok(())
}

/// The parts of a large transaction, looked at as they pass.
struct Watched {
    tables: Vec<Fingerprint>,
    found: Arc<Mutex<Vec<Fingerprint>>>,
    parts: Box<dyn Parts>,
}

impl Parts for Watched {
    fn next(&mut self) -> io::Result<Option<Bytes>> {
        let part = self.parts.next()?;
        if let Some(changes) = &part {
            note(&mut lock(&self.found), &self.tables, changes).map_err(io::Error::other)?;
        }
        Ok(part)
    }
}
