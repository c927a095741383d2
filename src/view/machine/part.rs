//! One partition's view of a machine.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use async_trait::async_trait;

use super::super::spool::{Spools, Work};
use super::super::{View, ViewError};
use super::rows::{Tables, Transaction};
use super::store::{Core, Held};
use super::{KeptDigests, Machine};
use crate::model::{Batch, Catalog, Cursor, Entry, LogId, Position, limits};

/// Applies one log to a machine.
pub(super) struct MachinePart<M> {
    core: Arc<Core<M>>,
    log: LogId,
    /// What this part has moved the cursor to; another that moves it makes this one a zombie.
    expected: Option<Cursor>,
    spools: Spools,
    tables: Tables,
}

impl<M: Machine> MachinePart<M> {
    pub(super) fn new(core: Arc<Core<M>>, log: LogId) -> MachinePart<M> {
        let expected = core.read().cursors.get(&log).copied();
        let tables = Tables::selecting(core.options.tables.clone());
        MachinePart { core, log, expected, spools: Spools::default(), tables }
    }

    fn after(&self) -> Position {
        self.expected.map_or(Position::ZERO, |cursor| cursor.position)
    }

    fn move_to(&mut self, held: &mut Held<M>, upto: Cursor) {
        held.cursors.insert(self.log, upto);
        held.version += 1;
        self.expected = Some(upto);
    }

    /// Applies what comes next, and moves the cursor over it: state and cursor change under one lock. On an error the
    /// cursor stands before what failed.
    fn apply_some(&mut self, work: &[Work<'_>], batch: &Batch) -> Result<(), ViewError> {
        let core = self.core.clone();
        let mut held = core.write();
        self.check(&held)?;
        for (number, work) in work.iter().enumerate() {
            let position = work.position();
            self.note_digests(&mut held, Position(position.0.saturating_sub(1)));
            if let Err(error) = self.apply_one(&mut held, work, batch) {
                // The epoch of what has been applied: that of the batch knows all that came before it.
                let before = Cursor { position: Position(position.0.saturating_sub(1)), ..batch.upto };
                // A state that begins with one large transaction, and fails on that, has nothing.
                let has_something = number > 0 || self.after() > Position::ZERO;
                if before.position > self.after() && has_something {
                    self.move_to(&mut held, before);
                }
                return Err(error);
            }
        }
        if let Some(last) = work.last() {
            self.note_digests(&mut held, last.position());
            self.move_to(&mut held, Cursor { position: last.position(), ..batch.upto });
        }
        Ok(())
    }

    fn check(&self, held: &Held<M>) -> Result<(), ViewError> {
        // The state has to be opened anew.
        if let Some(why) = &held.broken {
            return Err(ViewError::Lost(why.clone()));
        }
        let found = held.cursors.get(&self.log).copied();
        match found == self.expected {
            true => Ok(()),
            false => Err(ViewError::Fenced { expected: self.expected, found }),
        }
    }

    fn apply_one(&mut self, held: &mut Held<M>, work: &Work<'_>, batch: &Batch) -> Result<(), ViewError> {
        let position = work.position();
        match work {
            Work::Whole(logged) => {
                let catalogs = std::slice::from_ref(&batch.catalog);
                let Some(named) = self.tables.of(&logged.entry, logged.entry.glance(), catalogs)? else {
                    return Ok(());
                };
                run(held, &Transaction::whole(self.log, position, named, &logged.entry))
            }
            Work::Spooled(_) => {
                let (first, catalogs): (Entry, Vec<Arc<Catalog>>) = self.spools.first_of(position)?;
                let Some(named) = self.tables.of(&first, first.glance(), &catalogs)? else { return Ok(()) };
                run(held, &Transaction::large(self.log, position, named, &first, &mut self.spools))
            }
        }
    }

    /// Notes the digests of agreed positions that the state has now come to: everything up to `upto` is in it.
    fn note_digests(&self, held: &mut Held<M>, upto: Position) {
        let Some(digests) = &mut held.digests else { return };
        let noted = digests.last().map_or(self.after(), |position| position.max(self.after()));
        let mut next = KeptDigests::next_after(noted);
        if next > upto {
            return;
        }
        if held.cursors.keys().any(|log| *log != self.log) {
            // Of several logs there is no position that says which state it is.
            *digests = KeptDigests::default();
            return;
        }
        // Nothing has been applied between the first and the last of them.
        let digest = held.machine.digest();
        let last = KeptDigests::next_after(upto).0 - limits::MACHINE_DIGEST_EVERY;
        let kept = limits::MACHINE_DIGEST_EVERY * (limits::MACHINE_DIGESTS_MAX as u64 - 1);
        next = next.max(KeptDigests::next_after(Position(last.saturating_sub(kept + 1))));
        while next <= upto {
            digests.note(next, digest);
            next = KeptDigests::next_after(next);
        }
    }
}

/// Has the machine apply a transaction, or nothing of it. Where it has left nobody knows what, the state is given up: after a
/// panic it stops at that entry, which would come to the same again; and what could not be read may be read later.
fn run<M: Machine>(held: &mut Held<M>, transaction: &Transaction<'_>) -> Result<(), ViewError> {
    transaction.check()?;
    let machine = &mut held.machine;
    let applied = catch_unwind(AssertUnwindSafe(|| machine.apply(transaction)));
    let position = transaction.position();
    let then = "what it left is not used: it goes on from what was saved before";
    let why = match applied {
        Ok(Err(error)) if transaction.is_torn() => {
            let why = format!("at position {position}: {error}; {then}");
            held.broken = Some(why.clone());
            return Err(ViewError::Lost(why));
        }
        Ok(applied) => return applied,
        Err(panic) => {
            let words = panic.downcast_ref::<&str>().copied();
            let words = words.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
            format!("the machine panicked: {}", words.unwrap_or("it did not say why"))
        }
    };
    held.broken = Some(format!("at position {position}: {why}; {then}"));
    Err(ViewError::Entry { position, why: format!("{why}; {then}") })
}

#[async_trait]
impl<M: Machine> View for MachinePart<M> {
    async fn cursor(&mut self) -> Result<Option<Cursor>, ViewError> {
        Ok(self.expected)
    }

    fn works_here(&self) -> bool {
        true
    }

    async fn apply(&mut self, batch: &Batch) -> Result<(), ViewError> {
        if batch.upto.log != self.log {
            return Err(ViewError::Failed(format!("a batch of log {} for the view of {}", batch.upto.log, self.log)));
        }
        let folder = self.core.options.spool_dir.clone();
        let work = self.spools.take_all(batch, self.after(), &folder)?;
        for some in work.chunks(limits::MACHINE_APPLY_MAX) {
            self.apply_some(some, batch)?;
        }
        if batch.upto.position > self.after() || self.expected.is_none() {
            let core = self.core.clone();
            let mut held = core.write();
            self.check(&held)?;
            self.note_digests(&mut held, batch.upto.position);
            self.move_to(&mut held, batch.upto);
        } else if let Some(at) = &self.expected
            && at.position == batch.upto.position
        {
            let core = self.core.clone();
            self.check(&core.read())?;
        }
        self.spools.forget(self.after());
        Ok(())
    }
}
