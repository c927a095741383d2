//! Events in the binary format of COPY: rows of (id bigint, ts timestamptz, event jsonb).
//! (postgresql.org/docs/15/sql-copy.html, "Binary Format"; jsonb travels as a version byte, 1, and its text.)

use crate::model::{Event, EventTime};

/// The format's signature, no flags, no extension.
pub(super) const HEADER: &[u8; 19] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// After the last row.
pub(super) const TRAILER: [u8; 2] = (-1_i16).to_be_bytes();
/// The version of jsonb's binary form.
const JSONB_VERSION: u8 = 1;

/// Appends a row.
pub(super) fn put_row(out: &mut Vec<u8>, event: Event<'_>) {
    let mut front = [0; 31];
    front[..2].copy_from_slice(&3_i16.to_be_bytes());
    front[2..6].copy_from_slice(&8_i32.to_be_bytes());
    front[6..14].copy_from_slice(&event.id.to_be_bytes());
    front[14..18].copy_from_slice(&8_i32.to_be_bytes());
    front[18..26].copy_from_slice(&event.time.0.to_be_bytes());
    front[26..30].copy_from_slice(&(event.json.len() as i32 + 1).to_be_bytes());
    front[30] = JSONB_VERSION;
    out.extend_from_slice(&front);
    out.extend_from_slice(event.json);
}

/// Reads fields one after the other.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }

    fn long(&mut self) -> Option<i64> {
        (i32::from_be_bytes(self.take()?) == 8).then_some(())?;
        self.take().map(i64::from_be_bytes)
    }

    fn json(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(i32::from_be_bytes(self.take()?)).ok()?;
        let (json, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        json.strip_prefix(&[JSONB_VERSION])
    }
}

/// One row as it comes from COPY: the event, and the number of its transaction where the row begins with one. `None`
/// for the trailer.
///
/// # Errors
/// The row is not of that form.
pub(super) fn row(bytes: &[u8], with_transaction: bool) -> Result<Option<(u64, Event<'_>)>, String> {
    let bytes = bytes.strip_prefix(HEADER.as_slice()).unwrap_or(bytes);
    let columns = 3 + i16::from(with_transaction);
    let mut fields = Fields(bytes);
    let found = match fields.take().map(i16::from_be_bytes) {
        Some(-1) if fields.0.is_empty() => return Ok(None),
        Some(found) => found,
        None => return Err("a row without a number of columns".into()),
    };
    if found != columns {
        return Err(format!("a row of {found} columns, expected {columns}"));
    }
    let read = |mut fields: Fields<'_>| {
        let transaction = if with_transaction { fields.long()? as u64 } else { 0 };
        let (id, time) = (fields.long()?, EventTime(fields.long()?));
        let json = fields.json()?;
        fields.0.is_empty().then_some((transaction, id, time, json.len()))
    };
    let (transaction, id, time, length) =
        read(Fields(fields.0)).ok_or_else(|| "a row that is not (bigint, timestamptz, jsonb)".to_string())?;
    Ok(Some((transaction, Event { id, time, json: &bytes[bytes.len() - length..] })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rows_read_back_as_written(id: i64, time: i64, json: Vec<u8>, first: bool) {
            let event = Event { id, time: EventTime(time), json: &json };
            let mut bytes = if first { HEADER.to_vec() } else { Vec::new() };
            put_row(&mut bytes, event);
            prop_assert_eq!(row(&bytes, false), Ok(Some((0, event))));
            prop_assert!(row(&bytes, true).is_err());
            for end in 0..bytes.len() {
                prop_assert!(row(&bytes[..end], false).is_err());
            }
        }

        #[test]
        fn foreign_bytes_are_an_error_never_a_panic(bytes: Vec<u8>, with: bool) {
            let _ = row(&bytes, with);
        }
    }

    #[test]
    fn the_trailer_is_no_row() {
        assert_eq!(row(&TRAILER, false), Ok(None));
    }
}
