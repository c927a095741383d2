//! Where something stands: logs, epochs, positions, cursors, origins and times.

use std::fmt;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use jiff::fmt::temporal::DateTimePrinter;
use thiserror::Error;

/// Entries of a log are numbered 1, 2, 3…; position p means everything up to and including p, 0 means nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

impl Position {
    /// Before the first entry.
    pub const ZERO: Position = Position(0);

    /// The position of the entry after this one.
    pub fn next(self) -> Position {
        Position(self.0 + 1)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A random number drawn whenever a log is opened for appending.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Epoch {
    /// Draws a new epoch, never 0.
    pub fn draw() -> Epoch {
        Epoch(rand::random::<u64>() | 1)
    }
}

/// Identifies a log for ever; drawn once, when the log is created. 0 is no log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId(pub u128);

impl LogId {
    /// Draws a new id, never 0.
    pub fn draw() -> LogId {
        LogId(rand::random::<u128>() | 1)
    }

    /// The upper and lower half, as they travel in protobuf.
    pub fn halves(self) -> (u64, u64) {
        ((self.0 >> 64) as u64, self.0 as u64)
    }

    /// The inverse of [`LogId::halves`].
    pub fn from_halves(high: u64, low: u64) -> LogId {
        LogId((u128::from(high) << 64) | u128::from(low))
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for LogId {
    type Err = CursorError;
    fn from_str(text: &str) -> Result<Self, CursorError> {
        if text.len() != 32 {
            return Err(CursorError(text.into()));
        }
        u128::from_str_radix(text, 16).map(LogId).map_err(|_| CursorError(text.into()))
    }
}

/// The link by which an entry arrived: the id of the neighbour's log, or [`LinkId::LOCAL`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub LogId);

impl LinkId {
    /// Captured or appended at this node.
    pub const LOCAL: LinkId = LinkId(LogId(0));

    /// Whether the entry was first logged here.
    pub fn is_local(self) -> bool {
        self == LinkId::LOCAL
    }
}

/// (log id, epoch, position): valid only where its epoch is listed and its position is not beyond that epoch's end.
/// As text it is opaque and header-safe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Cursor {
    /// The log that the position counts in.
    pub log: LogId,
    /// The epoch in which the entry at `position` was appended.
    pub epoch: Epoch,
    /// Inclusive: everything up to and including it has been seen.
    pub position: Position,
}

/// Where a transaction was first logged; never changes.
pub type Origin = Cursor;

/// A text is no cursor.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("not a cursor: {0:?} (expected LOG-EPOCH-POSITION: 32 hex digits, 16 hex digits, a decimal number)")]
pub struct CursorError(pub String);

impl Cursor {
    /// Appends its text: what [`fmt::Display`] gives, without its machinery, because every entry that is read has two of them.
    pub fn put(&self, out: &mut String) {
        let mut digits = [0; 48];
        put_hex(&mut digits[..32], self.log.0);
        put_hex(&mut digits[32..], u128::from(self.epoch.0));
        let text = std::str::from_utf8(&digits).expect("hex digits are ASCII");
        out.push_str(&text[..32]);
        out.push('-');
        out.push_str(&text[32..]);
        out.push('-');
        out.push_str(itoa::Buffer::new().format(self.position.0));
    }
}

/// Fills the bytes with the digits of a number, those that do not fit left out.
fn put_hex(digits: &mut [u8], number: u128) {
    let mut rest = number;
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(rest & 0xf) as usize];
        rest >>= 4;
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity(72);
        self.put(&mut text);
        f.write_str(&text)
    }
}

impl FromStr for Cursor {
    type Err = CursorError;
    fn from_str(text: &str) -> Result<Self, CursorError> {
        let bad = || CursorError(text.chars().take(80).collect());
        let mut parts = text.split('-');
        let (Some(log), Some(epoch), Some(position), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(bad());
        };
        if epoch.len() != 16 || position.starts_with('+') {
            return Err(bad());
        }
        Ok(Cursor {
            log: log.parse().map_err(|_| bad())?,
            epoch: Epoch(u64::from_str_radix(epoch, 16).map_err(|_| bad())?),
            position: Position(position.parse().map_err(|_| bad())?),
        })
    }
}

/// How far a source has been read, in the source's own terms; opaque to the log that stores it (at most
/// [`crate::model::limits::SOURCE_CURSOR_BYTES_MAX`] bytes).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceCursor(pub Bytes);

impl From<Cursor> for SourceCursor {
    fn from(cursor: Cursor) -> Self {
        SourceCursor(Bytes::from(cursor.to_string()))
    }
}

impl TryFrom<&SourceCursor> for Cursor {
    type Error = CursorError;
    fn try_from(source: &SourceCursor) -> Result<Self, CursorError> {
        String::from_utf8_lossy(&source.0).parse()
    }
}

/// Lamport time: greater than that of everything its node had seen. (Lamport, "Time, Clocks, and the Ordering of
/// Events in a Distributed System", 1978.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lamport(pub u64);

/// Wall-clock time in microseconds since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The system clock's time now.
    pub fn now() -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }
}

/// Microseconds, always.
const PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(6));

impl Timestamp {
    /// Appends its text: what [`fmt::Display`] gives.
    pub fn put(self, out: &mut String) {
        let printed = jiff::Timestamp::from_microsecond(self.0).map(|time| PRINTER.print_timestamp(&time, &mut *out));
        if !matches!(printed, Ok(Ok(()))) {
            // It is beyond any calendar.
            out.push_str(itoa::Buffer::new().format(self.0));
            out.push_str("us");
        }
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity(32);
        self.put(&mut text);
        f.write_str(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_back_from_its_text() {
        for (log, epoch, position) in [(0, 0, 0), (1, 2, 3), (u128::MAX, u64::MAX, u64::MAX), (0xab << 100, 0xcd, 10)] {
            let cursor = Cursor { log: LogId(log), epoch: Epoch(epoch), position: Position(position) };
            let text = cursor.to_string();
            assert_eq!(text, format!("{log:032x}-{epoch:016x}-{position}"));
            assert_eq!(text.parse(), Ok(cursor));
        }
    }

    #[test]
    fn a_time_has_microseconds_and_no_calendar_is_needed_for_it() {
        for (time, text) in [
            (1_700_000_000_000_001, "2023-11-14T22:13:20.000001Z"),
            (0, "1970-01-01T00:00:00.000000Z"),
            (-1, "1969-12-31T23:59:59.999999Z"),
            (i64::MAX, "9223372036854775807us"),
        ] {
            assert_eq!(Timestamp(time).to_string(), text);
        }
    }
}
