//! An entry: one transaction (or one part of a large one) as its bytes, with the envelope read.

use bytes::Bytes;

use super::codec;
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
    /// 0-based number of this part of a large transaction; 0 for a whole one.
    pub part: u32,
    /// Further parts follow under the same position.
    pub more: bool,
    /// The tables that its changes name by index.
    pub tables: Vec<Fingerprint>,
}

/// An entry, encoded. Cloning is cheap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    header: EntryHeader,
    changes: Bytes,
    bytes: Bytes,
}

impl Entry {
    /// Encodes a header and already encoded changes (see [`super::encode_changes`]).
    pub fn new(header: EntryHeader, changes: Bytes) -> Entry {
        let bytes = Bytes::from(codec::encode_entry(&header, &changes));
        Entry { header, changes, bytes }
    }

    /// Reads an entry's envelope; the changes stay encoded until [`Entry::changes`].
    pub fn decode(bytes: Bytes) -> Result<Entry, CodecError> {
        let (header, changes) = codec::decode_entry(&bytes)?;
        Ok(Entry { header, changes, bytes })
    }

    /// The envelope.
    pub fn header(&self) -> &EntryHeader {
        &self.header
    }

    /// The whole entry, as it is stored and sent.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The encoded changes.
    pub fn changes_bytes(&self) -> &Bytes {
        &self.changes
    }

    /// Decodes the changes.
    pub fn changes(&self) -> Result<Vec<Change>, CodecError> {
        codec::decode_changes(&self.changes)
    }
}
