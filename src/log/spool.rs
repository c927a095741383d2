//! Where the changes of a large transaction wait for their commit: an unnamed file.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use bytes::Bytes;

use super::Parts;
use crate::model::limits;

/// Collects encoded changes (see [`crate::model::encode_changes`]) in a file that nobody else sees and that vanishes
/// with the process, and gives them back as the parts of one transaction. Memory use does not grow with the
/// transaction.
///
/// ```
/// # use watershed::log::Spool;
/// let mut spool = Spool::new(&std::env::temp_dir())?;
/// spool.push(&bytes::Bytes::from_static(b"encoded changes"))?;
/// let mut parts = spool.into_parts()?;
/// assert_eq!(parts.next()?.as_deref(), Some(&b"encoded changes"[..]));
/// assert_eq!(parts.next()?, None);
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Spool {
    file: BufWriter<File>,
    /// Lengths of the parts that are complete; changes are never split between parts.
    parts: Vec<u32>,
    open_bytes: usize,
    bytes: u64,
}

impl Spool {
    /// An empty spool in that folder (which should be on the log's disk, not in memory).
    pub fn new(dir: &Path) -> io::Result<Spool> {
        let file = BufWriter::with_capacity(256 << 10, tempfile::tempfile_in(dir)?);
        Ok(Spool { file, parts: Vec::new(), open_bytes: 0, bytes: 0 })
    }

    /// Adds whole encoded changes. Parts are cut between pushes, so push about a row at a time; one push may have at most
    /// [`limits::ENTRY_BYTES_MAX`] bytes.
    pub fn push(&mut self, changes: &Bytes) -> io::Result<()> {
        if changes.len() > limits::ENTRY_BYTES_MAX {
            let why = format!("a change of {} bytes is larger than {}", changes.len(), limits::ENTRY_BYTES_MAX);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        if self.open_bytes > 0 && self.open_bytes + changes.len() > limits::PART_BYTES_TARGET {
            self.cut();
        }
        self.file.write_all(changes)?;
        self.open_bytes += changes.len();
        self.bytes += changes.len() as u64;
        Ok(())
    }

    /// What has been pushed, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn cut(&mut self) {
        self.parts.push(self.open_bytes as u32);
        self.open_bytes = 0;
    }

    /// The parts, in the order of the pushes; one empty part if nothing was pushed.
    pub fn into_parts(mut self) -> io::Result<Box<dyn Parts>> {
        if self.open_bytes > 0 || self.parts.is_empty() {
            self.cut();
        }
        let mut file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.seek(SeekFrom::Start(0))?;
        Ok(Box::new(SpooledParts { file: BufReader::new(file), parts: self.parts.into_iter() }))
    }
}

struct SpooledParts {
    file: BufReader<File>,
    parts: std::vec::IntoIter<u32>,
}

impl Parts for SpooledParts {
    fn next(&mut self) -> io::Result<Option<Bytes>> {
        let Some(length) = self.parts.next() else { return Ok(None) };
        let mut part = vec![0; length as usize];
        self.file.read_exact(&mut part)?;
        Ok(Some(part.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_the_pushes_in_order_near_the_target_size() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut spool = Spool::new(dir.path()).expect("a spool");
        let pushes: Vec<Bytes> = (0..50u8).map(|i| Bytes::from(vec![i; 100_000])).collect();
        for push in &pushes {
            spool.push(push).expect("room");
        }
        assert_eq!(spool.bytes(), 5_000_000);
        assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 0, "the file is unnamed");
        let mut parts = spool.into_parts().expect("flushed");
        let mut all = Vec::new();
        while let Some(part) = parts.next().expect("readable") {
            assert!(part.len() <= limits::PART_BYTES_TARGET);
            assert_eq!(part.len() % 100_000, 0, "a push is never split");
            all.extend_from_slice(&part);
        }
        assert!(all == pushes.concat());
    }
}
