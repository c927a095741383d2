//! Rows as PostgreSQL's COPY writes and reads them: where both ends are PostgreSQL, they are passed on as they are.
//! (postgresql.org/docs/15/sql-copy.html, "File Formats")

use bytes::{Bytes, BytesMut};

use crate::model::{Kind, Row, Value};

/// Whole lines of COPY's text format, a row each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CopyLines {
    /// The lines, each with its end.
    pub bytes: Bytes,
    /// How many there are.
    pub rows: usize,
}

impl CopyLines {
    /// The rows, with the values of that many columns.
    ///
    /// # Errors
    /// A line is no row, or there are others than were announced.
    pub fn decode(&self, columns: usize) -> Result<Vec<Row>, String> {
        let mut lines = Lines::default();
        lines.push(self.bytes.clone());
        let mut rows = Vec::with_capacity(self.rows.min(self.bytes.len()));
        while let Some(line) = lines.next() {
            rows.push(fields(&line, columns)?);
        }
        match rows.len() == self.rows && lines.is_empty() {
            true => Ok(rows),
            false => Err(format!("{} rows were announced, {} came", self.rows, rows.len())),
        }
    }
}

/// The lines of what COPY sends, in whatever pieces it comes. A value that has a line's end carries it escaped.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    rest: Bytes,
}

impl Lines {
    /// What came.
    pub(crate) fn push(&mut self, bytes: Bytes) {
        if self.rest.is_empty() {
            self.rest = bytes;
            return;
        }
        let mut both = BytesMut::with_capacity(self.rest.len() + bytes.len());
        both.extend_from_slice(&self.rest);
        both.extend_from_slice(&bytes);
        self.rest = both.freeze();
    }

    /// Whether nothing is left over.
    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next whole line, without its end.
    pub(crate) fn next(&mut self) -> Option<Bytes> {
        let end = memchr(b'\n', &self.rest)?;
        let mut line = self.rest.split_to(end + 1);
        line.truncate(end);
        Some(line)
    }
}

fn memchr(byte: u8, bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|&other| other == byte)
}

/// The values of a line, which share its bytes where nothing is escaped.
///
/// # Errors
/// It has another number of values, or an escape that does not exist.
pub(crate) fn fields(line: &Bytes, columns: usize) -> Result<Row, String> {
    let mut row = Vec::with_capacity(columns);
    if columns == 0 && line.is_empty() {
        return Ok(row);
    }
    let (mut start, mut escaped) = (0, false);
    for at in 0..=line.len() {
        match line.get(at) {
            Some(b'\\') => escaped = true,
            None | Some(b'\t') => {
                row.push(field(line.slice(start..at), escaped)?);
                (start, escaped) = (at + 1, false);
            }
            Some(_) => {}
        }
    }
    match row.len() == columns {
        true => Ok(row),
        false => Err(format!("expected {columns} values, got {}", row.len())),
    }
}

fn field(text: Bytes, escaped: bool) -> Result<Value, String> {
    if !escaped {
        return Ok(Value::new(Kind::Typed, text));
    }
    if *text == *b"\\N" {
        return Ok(Value::NULL);
    }
    let mut plain = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(&byte) = bytes.next() {
        if byte != b'\\' {
            plain.push(byte);
            continue;
        }
        plain.push(match bytes.next() {
            Some(b'b') => 8,
            Some(b'f') => 12,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'v') => 11,
            Some(b'\\') => b'\\',
            other => return Err(format!("an unknown escape: {:?}", other.map(|&byte| char::from(byte)))),
        });
    }
    Ok(Value::new(Kind::Typed, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_in_any_pieces() {
        let all = b"1\ta\\tb\t\\N\n2\t\t\\\\N\n";
        for cut in 0..all.len() {
            let mut lines = Lines::default();
            let mut rows = Vec::new();
            for piece in [&all[..cut], &all[cut..]] {
                lines.push(Bytes::copy_from_slice(piece));
                while let Some(line) = lines.next() {
                    rows.push(fields(&line, 3).expect("a row"));
                }
            }
            let typed = |text: &'static str| Value::new(Kind::Typed, text);
            assert_eq!(rows[0], [typed("1"), typed("a\tb"), Value::NULL], "cut at {cut}");
            assert_eq!(rows[1], [typed("2"), typed(""), typed("\\N")], "cut at {cut}");
            assert_eq!(rows.len(), 2);
        }
    }

    #[test]
    fn lines_are_the_rows_that_they_announce() {
        let lines = |text: &'static str, rows| CopyLines { bytes: Bytes::from_static(text.as_bytes()), rows };
        assert_eq!(lines("1\t\\N\n2\t3\n", 2).decode(2).expect("rows").len(), 2);
        for (text, rows) in [("1\t2\n", 2), ("1\t2\n3\t4\n", 1), ("1\t2", 1), ("1\n", 1)] {
            assert!(lines(text, rows).decode(2).is_err(), "{text:?}");
        }
        assert_eq!(lines("", 0).decode(2), Ok(Vec::new()));
    }

    #[test]
    fn what_is_no_row_is_an_error() {
        assert!(fields(&Bytes::from_static(b"1\t2"), 3).is_err());
        assert!(fields(&Bytes::from_static(b"\\x"), 1).is_err());
        assert!(fields(&Bytes::from_static(b"a\\"), 1).is_err());
        assert_eq!(fields(&Bytes::new(), 0), Ok(Vec::new()));
        assert_eq!(fields(&Bytes::new(), 1), Ok(vec![Value::new(Kind::Typed, "")]));
    }
}
