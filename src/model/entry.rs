//! An entry: one transaction (or one part of a large one) as its bytes, with the envelope read.

use std::fmt;
use std::ops::Range;
use std::sync::OnceLock;

use bytes::Bytes;

use super::codec;
use super::envelope::{self, Glance};
use super::{Change, CodecError, Fingerprint, Lamport, Origin, Timestamp};

/// What stands around the changes of a transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EntryHeader {
    /// Where it was first logged; `None` until the first log stamps it.
    pub origin: Option<Origin>,
    /// Stamped with the origin.
    pub lamport: Lamport,
    /// Wall-clock commit time at the origin, as good as the source tells it.
    pub time: Timestamp,
    /// The label of the node of origin.
    pub node: Box<str>,
    /// An id that an application gives to what belongs together.
    pub correlation: Option<Box<str>>,
    /// The id of what caused this.
    pub causation: Option<Box<str>>,
    /// The key by which whoever appended it over HTTP can append it again without harm.
    pub idempotency: Option<Box<str>>,
    /// 0-based number of this part of a large transaction; 0 for a whole one.
    pub part: u32,
    /// Further parts follow under the same position.
    pub more: bool,
    /// The tables that its changes name by index.
    pub tables: Vec<Fingerprint>,
}

/// An entry, encoded. Cloning is cheap. Two entries are equal if their bytes are.
#[derive(Clone)]
pub struct Entry {
    bytes: Bytes,
    /// Where in `bytes` the changes are.
    changes: Range<u32>,
    glance: Glance,
    /// Read when it is first asked for: many entries are passed on, or over, by what stands in their batch.
    header: OnceLock<Box<EntryHeader>>,
    changes_bytes: OnceLock<Bytes>,
}

impl Entry {
    /// Encodes a header and already encoded changes (see [`super::encode_changes`]).
    pub fn new(header: EntryHeader, changes: Bytes) -> Entry {
        let bytes = Bytes::from(envelope::encode_entry(&header, &changes));
        let end = bytes.len() as u32;
        Entry {
            changes: end - changes.len() as u32..end,
            glance: Glance::of(&header),
            bytes,
            header: OnceLock::from(Box::new(header)),
            changes_bytes: OnceLock::from(changes),
        }
    }

    /// Checks an entry's envelope; the changes stay encoded until [`Entry::changes`].
    pub fn decode(bytes: Bytes) -> Result<Entry, CodecError> {
        let (changes, glance) = envelope::check_entry(&bytes)?;
        Ok(Entry { bytes, changes, glance, header: OnceLock::new(), changes_bytes: OnceLock::new() })
    }

    /// The envelope.
    pub fn header(&self) -> &EntryHeader {
        self.header.get_or_init(|| Box::new(envelope::decode_header(&self.bytes).expect("it was checked in decode")))
    }

    /// The little of the envelope that says how it is to be taken; cheaper than [`Entry::header`] where that is not needed.
    pub fn glance(&self) -> Glance {
        self.glance
    }

    /// The whole entry, as it is stored and sent.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The encoded changes.
    pub fn changes_bytes(&self) -> &Bytes {
        self.changes_bytes.get_or_init(|| self.bytes.slice(self.changes.start as usize..self.changes.end as usize))
    }

    /// The encoded changes, for those who only look at them.
    pub fn changes_slice(&self) -> &[u8] {
        &self.bytes[self.changes.start as usize..self.changes.end as usize]
    }

    /// Decodes the changes.
    pub fn changes(&self) -> Result<Vec<Change>, CodecError> {
        codec::decode_changes(self.changes_bytes())
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Entry {}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("header", self.header()).field("changes", self.changes_bytes()).finish()
    }
}
