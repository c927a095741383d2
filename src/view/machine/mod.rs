//! State machines over logs: deterministic state in memory, saved now and then with its cursors, and read back.

mod asked;
mod builds;
mod digests;
mod part;
mod rows;
mod saved;
mod store;

pub use asked::{Rows, Select};
pub use builds::MachineBuilds;
pub use digests::{KeptDigests, Parted};
pub use rows::{RowChange, Transaction};
pub use store::{Found, MachineOptions, MachineStore};

use std::io::{self, Read, Write};

use sha2::{Digest, Sha256};

use super::{AskError, Bounds, Question, ViewError};

/// A deterministic state: whoever applies the same transactions in the same order has the same state, on every machine and
/// in every process.
///
/// To be correct, an implementation
/// - depends on nothing but the transactions that it is given: no clock, no random numbers, no order of a hash map, no
///   files;
/// - applies a transaction whole, or returns an error and is as it was before;
/// - is the same after `load` of what `save` wrote;
/// - answers from its state alone, within the bounds.
///
/// A command that the rules do not allow (an overdraft) is no error: it is a transaction that changes nothing, at every
/// replica. An error stops the view at that position.
pub trait Machine: Send + Sync + 'static {
    /// What decides the state: the name and version of its rules. When it changes, the log is applied afresh.
    fn definition(&self) -> String;

    /// Applies one transaction. Those that do not concern the tables that the machine wants are passed over without it.
    ///
    /// # Errors
    /// It cannot go on past this transaction (see [`Transaction::refuse`]).
    fn apply(&mut self, transaction: &Transaction<'_>) -> Result<(), ViewError>;

    /// Writes its state.
    ///
    /// # Errors
    /// Those of the writer.
    fn save(&self, out: &mut dyn Write) -> io::Result<()>;

    /// Replaces its state by what [`Machine::save`] wrote.
    ///
    /// # Errors
    /// Those of the reader; or the bytes are not such a state.
    fn load(&mut self, state: &mut dyn Read) -> io::Result<()>;

    /// Answers a question.
    ///
    /// # Errors
    /// See [`AskError`].
    fn ask(&self, question: &Question, bounds: &Bounds) -> Result<Rows, AskError>;

    /// How many rows it has, for people.
    fn rows(&self) -> u64;

    /// Its state as a number. By default SHA-256 of what [`Machine::save`] writes, so that must not depend on anything but the
    /// state either.
    fn digest(&self) -> [u8; 32] {
        let mut hash = Hashed(Sha256::new());
        self.save(&mut hash).expect("hashing does not fail");
        hash.0.finalize().into()
    }
}

/// Hashes what is written.
pub(in crate::view) struct Hashed(pub Sha256);

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Numbers and texts of a saved state.
pub(in crate::view) mod put {
    use std::io::{self, Read, Write};

    use crate::model::limits;

    pub(crate) fn number(out: &mut dyn Write, number: u64) -> io::Result<()> {
        out.write_all(&number.to_le_bytes())
    }

    pub(crate) fn text(out: &mut dyn Write, text: &str) -> io::Result<()> {
        out.write_all(&(text.len() as u32).to_le_bytes())?;
        out.write_all(text.as_bytes())
    }

    pub(crate) fn read_number(from: &mut dyn Read) -> io::Result<u64> {
        let mut bytes = [0; 8];
        from.read_exact(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    pub(crate) fn read_text(from: &mut dyn Read) -> io::Result<String> {
        let mut length = [0; 4];
        from.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length) as usize;
        if length > limits::ENTRY_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a text of {length} bytes")));
        }
        // Only as much as there is: a length alone costs no memory.
        let mut text = String::new();
        let read = from.take(length as u64).read_to_string(&mut text)?;
        if read < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(text)
    }
}
