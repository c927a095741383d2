//! An entry as one line of JSON, as `GET /v1/logs/{log}/entries` and `watershed log read` give it.
//!
//! Text is written directly, so numbers keep every digit that they were stored with.

use std::sync::Arc;

use thiserror::Error;

pub use crate::model::{put_json_text as write_string, put_json_value as write_value};

use crate::model::{Catalog, Change, CodecError, Cursor, FeedRows, Fingerprint, Kind, Logged, Op, Row, TableDef};

/// An entry cannot be shown.
#[derive(Debug, Error)]
pub enum EntryJsonError {
    /// Its changes cannot be decoded.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// A table that it names is not defined in the log.
    #[error("table {0} is not defined in this log")]
    NoTable(Fingerprint),
    /// A change names a table by a number that its entry does not have, or a row does not fit its table.
    #[error("the entry contradicts itself: {0}")]
    Inconsistent(String),
}

/// Appends one line (without the newline) for an entry, or for one part of a large one. `cursor` is that of its
/// position; `from` the name of the neighbour by which it arrived, if it did.
///
/// # Errors
/// See [`EntryJsonError`]; what was appended before is cut off again.
pub fn write_entry(
    out: &mut String,
    logged: &Logged,
    cursor: Cursor,
    from: Option<&str>,
    catalog: &Catalog,
) -> Result<(), EntryJsonError> {
    let start = out.len();
    write_parts(out, logged, cursor, from, catalog).inspect_err(|_| out.truncate(start))
}

fn write_parts(
    out: &mut String,
    logged: &Logged,
    cursor: Cursor,
    from: Option<&str>,
    catalog: &Catalog,
) -> Result<(), EntryJsonError> {
    let header = logged.entry.header();
    out.push_str("{\"position\":");
    write_number(out, logged.position.0);
    out.push_str(",\"cursor\":\"");
    cursor.put(out);
    out.push_str("\",\"time\":\"");
    header.time.put(out);
    out.push_str("\",\"lamport\":");
    write_number(out, header.lamport.0);
    match header.origin {
        Some(origin) => {
            out.push_str(",\"origin\":\"");
            origin.put(out);
            out.push('"');
        }
        None => out.push_str(",\"origin\":null"),
    }
    out.push_str(",\"node\":");
    write_string(out, &header.node);
    out.push_str(",\"from\":");
    write_optional(out, from);
    out.push_str(",\"correlation\":");
    write_optional(out, header.correlation.as_deref());
    if header.part > 0 || header.more {
        out.push_str(&format!(",\"part\":{},\"more\":{}", header.part, header.more));
    }
    if let Some(causation) = &header.causation {
        out.push_str(",\"causation\":");
        write_string(out, causation);
    }
    out.push_str(",\"changes\":[");
    if write_feed(out, logged, catalog) {
        out.push_str("]}");
        return Ok(());
    }
    for (index, change) in logged.entry.changes()?.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        let number = || EntryJsonError::Inconsistent(format!("a change of table number {}", change.table));
        let fingerprint = *header.tables.get(change.table).ok_or_else(number)?;
        let table = catalog.get(fingerprint).ok_or(EntryJsonError::NoTable(fingerprint))?;
        write_change(out, change, &table)?;
    }
    out.push_str("]}");
    Ok(())
}

/// Rows of a feed, as they were sent; false, and nothing appended, if there are other changes.
fn write_feed(out: &mut String, logged: &Logged, catalog: &Catalog) -> bool {
    let start = out.len();
    let mut tables: Vec<Arc<TableDef>> = Vec::with_capacity(1);
    for fingerprint in &logged.entry.header().tables {
        match catalog.get(*fingerprint).filter(|table| table.is_feed()) {
            Some(table) => tables.push(table),
            None => return false,
        }
    }
    for row in FeedRows::new(logged.entry.changes_slice()) {
        let named = row.and_then(|row| Some((row, tables.get(row.table)?)));
        let Some((row, table)) = named else {
            out.truncate(start);
            return false;
        };
        out.push_str(if out.len() > start { ",{\"table\":" } else { "{\"table\":" });
        write_string(out, table.name.as_str());
        out.push_str(",\"op\":\"insert\",\"key\":");
        write_optional(out, row.key);
        out.push_str(",\"row\":");
        out.push_str(row.row);
        out.push_str(",\"old\":null}");
    }
    out.len() > start
}

/// Appends one change: `{table, op, key, row, old}`; what a change does not have is null.
///
/// # Errors
/// A row does not fit its table.
pub fn write_change(out: &mut String, change: &Change, table: &TableDef) -> Result<(), EntryJsonError> {
    let old = change.old_resolved();
    let keyed = if change.op == Op::Delete { old.as_ref() } else { change.row.as_ref() };
    let keys = table.key_columns();
    out.push_str("{\"table\":");
    write_string(out, table.name.as_str());
    out.push_str(&format!(",\"op\":\"{}\",\"key\":", change.op.name()));
    write_row(out, keyed.filter(|_| !keys.is_empty()), table, &keys)?;
    let all: Vec<usize> = (0..table.columns.len()).collect();
    out.push_str(",\"row\":");
    write_row(out, change.row.as_ref(), table, &all)?;
    out.push_str(",\"old\":");
    write_row(out, old.as_ref(), table, &all)?;
    out.push('}');
    Ok(())
}

fn write_row(out: &mut String, row: Option<&Row>, table: &TableDef, columns: &[usize]) -> Result<(), EntryJsonError> {
    let Some(row) = row else {
        out.push_str("null");
        return Ok(());
    };
    if row.len() != table.columns.len() {
        let why = format!("a row of {} values in {}, which has {} columns", row.len(), table.name, table.columns.len());
        return Err(EntryJsonError::Inconsistent(why));
    }
    out.push('{');
    let mut first = true;
    for &index in columns {
        if matches!(row[index].kind, Kind::Unchanged | Kind::Same) {
            continue;
        }
        if !std::mem::take(&mut first) {
            out.push(',');
        }
        write_string(out, &table.columns[index].name);
        out.push(':');
        write_value(out, &row[index], &table.columns[index].type_name);
    }
    out.push('}');
    Ok(())
}

fn write_number(out: &mut String, number: u64) {
    out.push_str(itoa::Buffer::new().format(number));
}

fn write_optional(out: &mut String, text: Option<&str>) {
    match text {
        Some(text) => write_string(out, text),
        None => out.push_str("null"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{Column, Entry, EntryHeader, LinkId, Position, Timestamp, Value, encode_changes};

    fn table() -> Arc<TableDef> {
        let column = |name: &str, type_name: &str, key| Column { name: name.into(), type_name: type_name.into(), key };
        let columns = vec![column("id", "INTEGER", 1), column("price", "numeric(30,2)", 0), column("a\"b", "text", 0)];
        Arc::new(TableDef::new("orders".parse().unwrap(), columns))
    }

    fn line(change: Change) -> String {
        let (table, catalog) = (table(), Catalog::default());
        let header = EntryHeader {
            time: Timestamp(1_700_000_000_000_001),
            node: "shop".into(),
            tables: vec![table.fingerprint],
            ..EntryHeader::default()
        };
        catalog.add(table);
        let entry = Entry::new(header, encode_changes(&[change]));
        let logged = Logged { position: Position(7), from: LinkId::LOCAL, entry };
        let mut out = String::new();
        write_entry(&mut out, &logged, Cursor::default(), Some("hq"), &catalog).unwrap();
        out
    }

    #[test]
    fn an_update_is_one_line_with_every_digit() {
        let row = vec![
            Value::new(Kind::Integer, "9223372036854775807"),
            Value::new(Kind::Typed, "12345678901234567890.10"),
            Value::new(Kind::Text, "é\n\u{1}"),
        ];
        let old = vec![Value::SAME, Value::new(Kind::Typed, "NaN"), Value::UNCHANGED];
        let shown = line(Change { table: 0, op: Op::Update, row: Some(row), old: Some(old) });
        let expected = concat!(
            r#"{"position":7,"cursor":"00000000000000000000000000000000-0000000000000000-0","#,
            r#""time":"2023-11-14T22:13:20.000001Z","lamport":0,"origin":null,"node":"shop","from":"hq","#,
            r#""correlation":null,"changes":[{"table":"orders","op":"update","key":{"id":9223372036854775807},"#,
            r#""row":{"id":9223372036854775807,"price":12345678901234567890.10,"a\"b":"é\n\u0001"},"#,
            r#""old":{"id":9223372036854775807,"price":"NaN"}}]}"#
        );
        assert_eq!(shown, expected);
        serde_json::from_str::<serde_json::Value>(&shown).unwrap();
    }

    #[test]
    fn a_truncate_has_no_rows() {
        let shown = line(Change { table: 0, op: Op::Truncate, row: None, old: None });
        assert!(
            shown.ends_with(r#"[{"table":"orders","op":"truncate","key":null,"row":null,"old":null}]}"#),
            "{shown}"
        );
    }

    #[test]
    fn only_json_numbers_are_written_bare() {
        let shown = |kind, text: &'static str, type_name: &str| {
            let mut out = String::new();
            write_value(&mut out, &Value::new(kind, text), type_name);
            out
        };
        for number in ["0", "-1", "1.50", "1e300", "-0.5E-7"] {
            assert_eq!(shown(Kind::Real, number, ""), number);
        }
        for other in ["", "-", "01", "1.", ".5", "1e", "Infinity", "0x1", "1 "] {
            assert_eq!(shown(Kind::Typed, other, "numeric"), format!("\"{other}\""));
        }
        assert_eq!(shown(Kind::Typed, "t", "boolean"), "true");
        assert_eq!(shown(Kind::Typed, "1", "text"), "\"1\"");
        assert_eq!(shown(Kind::Blob, "\u{0}z", ""), r#""\\x007a""#);
    }

    #[test]
    fn texts_are_escaped_where_they_must_be() {
        for text in ["", "a", "\"", "a\"b\\c\n", "\r\t\u{0}\u{1f}x", "é\u{2028}\"日本", "\\\\"] {
            let mut out = String::from(">");
            write_string(&mut out, text);
            assert_eq!(serde_json::from_str::<String>(&out[1..]).unwrap(), text);
            assert!(!out.contains(|c: char| c.is_control()), "{out:?}");
        }
    }

    #[test]
    fn a_row_that_does_not_fit_is_an_error_and_leaves_nothing() {
        let change = Change { table: 0, op: Op::Insert, row: Some(vec![Value::NULL]), old: None };
        let mut out = String::from("x");
        assert!(write_change(&mut out, &change, &table()).is_err());
    }
}
