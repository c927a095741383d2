//! Where a transaction waits that is too large for memory, or whose end is not known: an unnamed file. What a
//! subtransaction wrote can be taken back.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use bytes::Bytes;

use crate::log::Parts;
use crate::model::limits;

/// Encoded changes in pieces; a change is never split between two.
pub(super) struct Overflow {
    file: BufWriter<File>,
    pieces: Vec<u32>,
    bytes: u64,
    /// Pieces and changes before the first one of each subtransaction.
    marks: HashMap<u32, (usize, u64)>,
    latest: Option<u32>,
}

impl Overflow {
    /// An empty one in that folder.
    pub fn new(dir: &Path) -> io::Result<Overflow> {
        let file = BufWriter::with_capacity(256 << 10, tempfile::tempfile_in(dir)?);
        Ok(Overflow { file, pieces: Vec::new(), bytes: 0, marks: HashMap::new(), latest: None })
    }

    /// Adds whole changes.
    pub fn push(&mut self, changes: &[u8]) -> io::Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let length = u32::try_from(changes.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        self.file.write_all(changes)?;
        self.pieces.push(length);
        self.bytes += u64::from(length);
        Ok(())
    }

    /// What follows is of that subtransaction: call it when everything before, so many changes, has been pushed.
    pub fn mark(&mut self, subxid: u32, changes: u64) {
        self.latest = Some(subxid);
        self.marks.entry(subxid).or_insert((self.pieces.len(), changes));
    }

    /// Whether what is pushed now is marked as that subtransaction's.
    pub fn is_at(&self, subxid: u32) -> bool {
        self.latest == Some(subxid)
    }

    /// Takes back what was pushed since that subtransaction began: while it runs, only it and those within it write. Gives
    /// back how many changes there were before it.
    pub fn undo(&mut self, subxid: u32) -> io::Result<Option<u64>> {
        let Some((kept, changes)) = self.marks.remove(&subxid) else { return Ok(None) };
        self.latest = None;
        if kept >= self.pieces.len() {
            return Ok(None);
        }
        self.bytes -= self.pieces.drain(kept..).map(u64::from).sum::<u64>();
        self.file.flush()?;
        self.file.get_ref().set_len(self.bytes)?;
        self.file.seek(SeekFrom::Start(self.bytes))?;
        Ok(Some(changes))
    }

    /// What is there, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The changes as parts of about [`limits::PART_BYTES_TARGET`]; one empty part if there are none.
    pub fn into_parts(self) -> io::Result<Box<dyn Parts>> {
        let mut file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.seek(SeekFrom::Start(0))?;
        let is_empty = self.pieces.is_empty();
        Ok(Box::new(Pieces { file: BufReader::new(file), pieces: self.pieces.into_iter().peekable(), is_empty }))
    }
}

struct Pieces {
    file: BufReader<File>,
    pieces: std::iter::Peekable<std::vec::IntoIter<u32>>,
    is_empty: bool,
}

impl Parts for Pieces {
    fn next(&mut self) -> io::Result<Option<Bytes>> {
        if std::mem::take(&mut self.is_empty) {
            return Ok(Some(Bytes::new()));
        }
        let Some(first) = self.pieces.next() else { return Ok(None) };
        let mut length = first as usize;
        while let Some(more) = self.pieces.next_if(|more| length + *more as usize <= limits::PART_BYTES_TARGET) {
            length += more as usize;
        }
        let mut part = vec![0; length];
        self.file.read_exact(&mut part)?;
        Ok(Some(part.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(overflow: Overflow) -> Vec<u8> {
        let mut parts = overflow.into_parts().expect("flushed");
        let mut all = Vec::new();
        while let Some(part) = parts.next().expect("readable") {
            assert!(part.len() <= limits::PART_BYTES_TARGET);
            all.extend_from_slice(&part);
        }
        all
    }

    #[test]
    fn what_an_aborted_subtransaction_wrote_is_taken_back() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut overflow = Overflow::new(dir.path()).expect("a file");
        overflow.mark(1, 0);
        overflow.push(b"a").expect("room");
        overflow.mark(2, 1);
        overflow.push(&[b'x'; 700_000]).expect("room");
        overflow.mark(3, 2);
        overflow.push(&[b'y'; 700_000]).expect("room");
        assert_eq!(overflow.undo(3).expect("cut"), Some(2));
        assert_eq!(overflow.undo(2).expect("cut"), Some(1));
        assert_eq!(overflow.undo(9).expect("nothing to cut"), None);
        overflow.mark(1, 1);
        overflow.push(b"b").expect("room");
        overflow.mark(4, 2);
        overflow.push(b"c").expect("room");
        assert_eq!(overflow.bytes(), 3);
        assert_eq!(all(overflow), b"abc");
    }

    #[test]
    fn parts_are_the_pieces_in_order() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut overflow = Overflow::new(dir.path()).expect("a file");
        let pieces: Vec<Vec<u8>> = (0..50u8).map(|i| vec![i; 100_000]).collect();
        pieces.iter().for_each(|piece| overflow.push(piece).expect("room"));
        assert!(all(overflow) == pieces.concat());
        assert_eq!(all(Overflow::new(dir.path()).expect("a file")), b"");
    }
}
