//! A state in a file: replaced atomically, with its cursors in it and a checksum behind it.
//!
//! ```text
//! magic 8 │ definition 8 │ its text: length 4, bytes │ cursors: count 4, {log 16, epoch 8, position 8}… │ digests: count 4, {position 8, digest 32}…
//! state … │ CRC-32C of everything before 4                                                        (little-endian)
//! ```

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::KeptDigests;
use super::put;
use crate::model::{Cursor, Epoch, Fingerprint, LogId, Position, limits};

const MAGIC: &[u8; 8] = b"wsview01";
const CHECKSUM_BYTES: u64 = 4;
const BUFFER_BYTES: usize = 1 << 20;

/// What stands before the state.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Head {
    pub definition: Fingerprint,
    /// By which a machine of that definition can be made again.
    pub text: String,
    pub cursors: Vec<Cursor>,
    pub digests: KeptDigests,
}

/// What was found where a state should be.
pub(super) enum Kept {
    /// No file.
    Nothing,
    /// It is not whole, and why.
    Damaged(String),
    /// A state, which can be read now.
    State(Head, Box<dyn Read>),
}

/// A file that is being written beside the one that it will replace.
pub(super) struct Pending {
    file: File,
    path: PathBuf,
    beside: PathBuf,
}

/// Sums up what passes through it.
struct Summed<W> {
    inner: W,
    sum: u32,
}

impl<W: Write> Write for Summed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.sum = crc32c::crc32c_append(self.sum, &bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Writes a state beside the file that it is to replace; nothing is durable yet.
pub(super) fn write(
    path: &Path,
    head: &Head,
    state: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<Pending> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let beside = path.with_file_name(name);
    let mut out = Summed { inner: BufWriter::with_capacity(BUFFER_BYTES, File::create(&beside)?), sum: 0 };
    out.write_all(MAGIC)?;
    put::number(&mut out, head.definition.0)?;
    put::text(&mut out, &head.text)?;
    out.write_all(&(head.cursors.len() as u32).to_le_bytes())?;
    for cursor in &head.cursors {
        out.write_all(&cursor.log.0.to_le_bytes())?;
        put::number(&mut out, cursor.epoch.0)?;
        put::number(&mut out, cursor.position.0)?;
    }
    out.write_all(&(head.digests.all().count() as u32).to_le_bytes())?;
    for (position, digest) in head.digests.all() {
        put::number(&mut out, position.0)?;
        out.write_all(&digest)?;
    }
    state(&mut out)?;
    let Summed { mut inner, sum } = out;
    inner.write_all(&sum.to_le_bytes())?;
    let file = inner.into_inner().map_err(io::IntoInnerError::into_error)?;
    Ok(Pending { file, path: path.into(), beside })
}

impl Pending {
    /// Makes it durable, and puts it in the place of the older one.
    pub(super) fn finish(self) -> io::Result<()> {
        self.file.sync_all()?;
        std::fs::rename(&self.beside, &self.path)?;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }
}

/// Looks for a state, and checks all of it before anything is believed.
pub(super) fn read(path: &Path) -> io::Result<Kept> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Kept::Nothing),
        Err(error) => return Err(error),
    };
    let length = file.metadata()?.len();
    let Some(content) = length.checked_sub(CHECKSUM_BYTES).filter(|length| *length >= MAGIC.len() as u64) else {
        return Ok(Kept::Damaged(format!("it has {length} bytes only")));
    };
    let (sum, magic) = sum_of(&mut file, content)?;
    let mut told = [0; CHECKSUM_BYTES as usize];
    file.read_exact(&mut told)?;
    if magic != *MAGIC {
        return Ok(Kept::Damaged("it does not begin as a state does".into()));
    }
    if told != sum.to_le_bytes() {
        return Ok(Kept::Damaged("its checksum is wrong".into()));
    }
    file.seek(SeekFrom::Start(MAGIC.len() as u64))?;
    let mut rest = BufReader::with_capacity(BUFFER_BYTES, file).take(content - MAGIC.len() as u64);
    match read_head(&mut rest) {
        Ok(head) => Ok(Kept::State(head, Box::new(rest))),
        Err(error) => Ok(Kept::Damaged(format!("its head: {error}"))),
    }
}

/// The checksum of the first bytes of a file, and its magic.
fn sum_of(file: &mut File, length: u64) -> io::Result<(u32, [u8; 8])> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let (mut left, mut sum, mut magic) = (length, 0, None);
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let part = &mut buffer[..most];
        file.read_exact(part)?;
        magic = magic.or_else(|| part.first_chunk().copied());
        sum = crc32c::crc32c_append(sum, part);
        left -= most as u64;
    }
    Ok((sum, magic.unwrap_or_default()))
}

fn read_head(from: &mut dyn Read) -> io::Result<Head> {
    let definition = Fingerprint(put::read_number(from)?);
    let text = put::read_text(from)?;
    let mut cursors = Vec::new();
    for _ in 0..count(from, limits::VIEW_PARTITIONS_MAX)? {
        let mut log = [0; 16];
        from.read_exact(&mut log)?;
        cursors.push(Cursor {
            log: LogId(u128::from_le_bytes(log)),
            epoch: Epoch(put::read_number(from)?),
            position: Position(put::read_number(from)?),
        });
    }
    let mut digests = KeptDigests::default();
    for _ in 0..count(from, limits::MACHINE_DIGESTS_MAX)? {
        let position = Position(put::read_number(from)?);
        let mut digest = [0; 32];
        from.read_exact(&mut digest)?;
        digests.note(position, digest);
    }
    Ok(Head { definition, text, cursors, digests })
}

fn count(from: &mut dyn Read, most: usize) -> io::Result<usize> {
    let mut bytes = [0; 4];
    from.read_exact(&mut bytes)?;
    let count = u32::from_le_bytes(bytes) as usize;
    match count > most {
        true => Err(io::Error::new(io::ErrorKind::InvalidData, format!("{count}, at most {most}"))),
        false => Ok(count),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Head {
        let cursor = |n: u64| Cursor { log: LogId(u128::from(n)), epoch: Epoch(n + 1), position: Position(n + 2) };
        let mut digests = KeptDigests::default();
        digests.note(Position(1000), [7; 32]);
        let text = "the rules".to_string();
        Head { definition: Fingerprint(5), text, cursors: vec![cursor(1), cursor(10)], digests }
    }

    fn found(path: &Path) -> Result<(Head, Vec<u8>), String> {
        match read(path).expect("readable") {
            Kept::Nothing => Err("nothing".into()),
            Kept::Damaged(why) => Err(why),
            Kept::State(head, mut state) => {
                let mut bytes = Vec::new();
                state.read_to_end(&mut bytes).expect("read");
                Ok((head, bytes))
            }
        }
    }

    #[test]
    fn a_state_is_read_as_it_was_written_and_an_unfinished_one_is_not_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.state");
        assert_eq!(found(&path), Err("nothing".into()));
        let save = |text: &'static str| write(&path, &head(), move |out| out.write_all(text.as_bytes()));
        save("one").expect("written").finish().expect("durable");
        assert_eq!(found(&path), Ok((head(), b"one".to_vec())));
        // As after a crash before the rename.
        drop(save("two").expect("written"));
        assert_eq!(found(&path), Ok((head(), b"one".to_vec())));
        save("three").expect("written").finish().expect("durable");
        assert_eq!(found(&path), Ok((head(), b"three".to_vec())));
    }

    #[test]
    fn every_cut_and_every_changed_byte_is_noticed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.state");
        write(&path, &head(), |out| out.write_all(b"the state")).expect("written").finish().expect("durable");
        let whole = std::fs::read(&path).expect("read");
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).expect("written");
            assert!(found(&path).is_err(), "cut to {length}");
        }
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            std::fs::write(&path, &changed).expect("written");
            assert!(found(&path).is_err(), "changed at {at}");
        }
        std::fs::write(&path, [&whole[..], b"x"].concat()).expect("written");
        assert!(found(&path).is_err(), "a byte more");
    }

    #[test]
    fn a_head_of_hostile_counts_is_damage() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.state");
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&[0; 12]);
        bytes.extend_from_slice(&u32::MAX.to_le_bytes());
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        std::fs::write(&path, bytes).expect("written");
        assert!(found(&path).is_err_and(|why| why.starts_with("its head")));
    }
}
