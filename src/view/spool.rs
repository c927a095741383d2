//! Parts of large transactions, kept in a file until the last one has come, so that neither memory nor the database's
//! write lock is held while they arrive.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::ViewError;
use crate::model::{Batch, Catalog, Entry, Logged, Position};

/// The parts of one transaction.
struct Spooled {
    file: BufWriter<File>,
    parts: u32,
    complete: bool,
    catalogs: Vec<Arc<Catalog>>,
}

/// Transactions whose parts are arriving, by position. Their files have no name, and lie where the database lies: its
/// disk takes the same bytes anyway, while the folder for temporary files may be memory.
#[derive(Default)]
pub(crate) struct Spools(BTreeMap<Position, Spooled>);

impl Work<'_> {
    /// Its place in the log.
    pub(crate) fn position(&self) -> Position {
        match self {
            Work::Whole(logged) => logged.position,
            Work::Spooled(position) => *position,
        }
    }
}

/// What is applied next, in log order.
#[derive(Clone, Copy)]
pub(crate) enum Work<'a> {
    /// A whole transaction.
    Whole(&'a Logged),
    /// A large one, all of its parts here.
    Spooled(Position),
}

fn failed(error: io::Error) -> ViewError {
    ViewError::Retry(format!("the spool of a large transaction: {error}"))
}

impl Spools {
    /// Stores the parts of the batch with `after < position ≤ upto`, and says what can be applied. The same batch may be
    /// given again.
    pub(crate) fn take<'a>(
        &mut self,
        batch: &'a Batch,
        after: Position,
        upto: Position,
        folder: &Path,
    ) -> Result<Vec<Work<'a>>, ViewError> {
        let counts = |logged: &Logged| logged.position > after && logged.position <= upto && !logged.from.is_local();
        self.take_if(batch, folder, counts)
    }

    /// The same, of everything after `after`, also of what was first logged here.
    pub(crate) fn take_all<'a>(
        &mut self,
        batch: &'a Batch,
        after: Position,
        folder: &Path,
    ) -> Result<Vec<Work<'a>>, ViewError> {
        self.take_if(batch, folder, |logged| logged.position > after)
    }

    fn take_if<'a>(
        &mut self,
        batch: &'a Batch,
        folder: &Path,
        counts: impl Fn(&Logged) -> bool,
    ) -> Result<Vec<Work<'a>>, ViewError> {
        let mut work = Vec::with_capacity(batch.entries.len());
        for logged in batch.entries.iter().filter(|logged| counts(logged)) {
            let glance = logged.entry.glance();
            if glance.part == 0 && !glance.more {
                work.push(Work::Whole(logged));
            } else {
                self.store(logged, &batch.catalog, folder)?;
                if !glance.more {
                    work.push(Work::Spooled(logged.position));
                }
            }
        }
        Ok(work)
    }

    fn store(&mut self, logged: &Logged, catalog: &Arc<Catalog>, folder: &Path) -> Result<(), ViewError> {
        let header = logged.entry.header();
        if let std::collections::btree_map::Entry::Vacant(vacant) = self.0.entry(logged.position) {
            let file = BufWriter::new(tempfile::tempfile_in(folder).map_err(failed)?);
            vacant.insert(Spooled { file, parts: 0, complete: false, catalogs: Vec::new() });
        }
        let spooled = self.0.get_mut(&logged.position).expect("inserted above");
        if header.part < spooled.parts {
            return Ok(());
        }
        if header.part > spooled.parts {
            let (expected, position) = (spooled.parts, logged.position);
            self.0.remove(&position);
            return Err(ViewError::Failed(format!(
                "part {} of the transaction at {position} came where part {expected} was expected; read again from the cursor",
                header.part
            )));
        }
        if !spooled.catalogs.iter().any(|known| Arc::ptr_eq(known, catalog)) {
            spooled.catalogs.push(catalog.clone());
        }
        let bytes = logged.entry.bytes();
        spooled.file.write_all(&(bytes.len() as u64).to_le_bytes()).map_err(failed)?;
        spooled.file.write_all(bytes).map_err(failed)?;
        spooled.parts += 1;
        spooled.complete = !header.more;
        Ok(())
    }

    /// Whether nothing is stored.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads the parts of a complete transaction one after the other.
    pub(crate) fn read(&mut self, position: Position) -> Result<PartsOf, ViewError> {
        let spooled = self.0.get_mut(&position).filter(|spooled| spooled.complete);
        let spooled = spooled.ok_or_else(|| ViewError::Failed(format!("the parts at {position} are not complete")))?;
        spooled.file.flush().map_err(failed)?;
        let mut file = spooled.file.get_ref().try_clone().map_err(failed)?;
        file.seek(SeekFrom::Start(0)).map_err(failed)?;
        Ok(PartsOf { file: BufReader::new(file), left: spooled.parts, catalogs: spooled.catalogs.clone() })
    }

    /// The first part of a complete transaction, and where the definitions of its tables are.
    pub(crate) fn first_of(&mut self, position: Position) -> Result<(Entry, Vec<Arc<Catalog>>), ViewError> {
        let mut parts = self.read(position)?;
        let first = parts.next()?.ok_or_else(|| ViewError::Failed(format!("the parts at {position} are none")))?;
        Ok((first, parts.catalogs))
    }

    /// What is at or below the cursor is not needed any more.
    pub(crate) fn forget(&mut self, upto: Position) {
        self.0 = self.0.split_off(&upto.next());
    }
}

/// The parts of one transaction, in order.
pub(crate) struct PartsOf {
    file: BufReader<File>,
    left: u32,
    /// Where the definitions of their tables are.
    pub catalogs: Vec<Arc<Catalog>>,
}

impl PartsOf {
    /// The next part; `None` after the last.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, ViewError> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let mut length = [0; 8];
        self.file.read_exact(&mut length).map_err(failed)?;
        let mut bytes = vec![0; u64::from_le_bytes(length) as usize];
        self.file.read_exact(&mut bytes).map_err(failed)?;
        Entry::decode(Bytes::from(bytes)).map(Some).map_err(|e| ViewError::Failed(format!("the spool: {e}")))
    }
}
