//! Changes as a view's statements see them: rows of feeds, whose columns are the members of a JSON object, and rows of
//! tables alike.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::keys::put_key_value;
use crate::model::{
    Entry, Kind, Position, Row, TableDef, Value, ValueClass, put_canonical, put_json_text, put_json_value,
};

/// A value as a statement is given it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Cell<'a> {
    /// Also of a member that an object does not have.
    Null,
    /// JSON's.
    Boolean(bool),
    /// A whole number of ours, as a position is.
    Integer(i64),
    /// JSON's, as it is written.
    Number(&'a str),
    /// JSON's strings, and what an entry says of itself.
    Text(Cow<'a, str>),
    /// An object or a list, or a whole row.
    Json(Cow<'a, str>),
    /// Of a table: the value, and the type that its column declares.
    Value(&'a Value, &'a str),
}

/// Where a statement's parameter is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    /// A member of a feed's row, by its place among those that are picked.
    Member(usize),
    /// A column of the row after the change.
    Column(usize),
    /// A column of the row before it.
    Old(usize),
    /// The table did not have the column yet, or has it no more.
    Absent,
    Key,
    Position,
    Time,
    Origin,
    Node,
    Correlation,
    Json,
}

/// What an entry says of itself.
pub(crate) struct About<'a> {
    pub position: Position,
    /// Its header is read when it is first asked for.
    entry: &'a Entry,
    time: OnceCell<String>,
}

impl<'a> About<'a> {
    pub fn new(position: Position, entry: &'a Entry) -> About<'a> {
        About { position, entry, time: OnceCell::new() }
    }
}

/// The rows of one change.
pub(crate) enum Rows<'a> {
    /// Appended to a feed: its key, its JSON, and the members that were picked.
    Feed { key: Option<&'a str>, json: &'a str, members: &'a [Cell<'a>] },
    /// Of a table: the rows after and before, and which columns are the key.
    Table { def: &'a TableDef, keys: &'a [usize], row: Option<&'a Row>, old: Option<&'a Row> },
}

/// One change, with its entry.
pub(crate) struct Seen<'a> {
    pub about: &'a About<'a>,
    pub rows: Rows<'a>,
}

impl Seen<'_> {
    /// The value of a parameter.
    ///
    /// # Errors
    /// The source has left it out, and the row before it is not known.
    pub fn cell(&self, slot: Slot) -> Result<Cell<'_>, String> {
        let header = || self.about.entry.header();
        let text = |text: &Option<Box<str>>| match text {
            Some(text) => Cell::Text(Cow::Owned(text.to_string())),
            None => Cell::Null,
        };
        Ok(match (slot, &self.rows) {
            (Slot::Member(at), Rows::Feed { members, .. }) => members.get(at).cloned().unwrap_or(Cell::Null),
            (Slot::Column(at), Rows::Table { def, row, .. }) => column(def, *row, at)?,
            (Slot::Old(at), Rows::Table { def, old, .. }) => column(def, *old, at)?,
            (Slot::Key, Rows::Feed { key, .. }) => key.map_or(Cell::Null, |key| Cell::Text(Cow::Borrowed(key))),
            (Slot::Key, Rows::Table { def, keys, row, old }) => key(def, keys, row.or(*old))?,
            (Slot::Json, Rows::Feed { json, .. }) => Cell::Json(Cow::Borrowed(json)),
            (Slot::Json, Rows::Table { def, row, old, .. }) => {
                row.or(*old).map_or(Cell::Null, |row| Cell::Json(Cow::Owned(json(def, row))))
            }
            (Slot::Position, _) => Cell::Integer(i64::try_from(self.about.position.0).unwrap_or(i64::MAX)),
            (Slot::Time, _) => Cell::Text(Cow::Borrowed(self.about.time.get_or_init(|| header().time.to_string()))),
            (Slot::Origin, _) => {
                header().origin.map_or(Cell::Null, |origin| Cell::Text(Cow::Owned(origin.to_string())))
            }
            (Slot::Node, _) => Cell::Text(Cow::Borrowed(&header().node)),
            (Slot::Correlation, _) => text(&header().correlation),
            (Slot::Absent | Slot::Member(_) | Slot::Column(_) | Slot::Old(_), _) => Cell::Null,
        })
    }
}

fn column<'a>(def: &'a TableDef, row: Option<&'a Row>, at: usize) -> Result<Cell<'a>, String> {
    let Some(value) = row.and_then(|row| row.get(at)) else { return Ok(Cell::Null) };
    let column = &def.columns[at];
    match value.kind {
        Kind::Null => Ok(Cell::Null),
        Kind::Unchanged | Kind::Same => Err(format!(
            "the source has not sent column {:?} of {}, and the row as it was is not known here",
            column.name, def.name
        )),
        _ => Ok(Cell::Value(value, &column.type_name)),
    }
}

fn key<'a>(def: &'a TableDef, keys: &[usize], row: Option<&'a Row>) -> Result<Cell<'a>, String> {
    if let [only] = keys {
        return column(def, row, *only);
    }
    let Some(row) = row.filter(|_| !keys.is_empty()) else { return Ok(Cell::Null) };
    let mut joined = String::new();
    for (number, &at) in keys.iter().enumerate() {
        if number > 0 {
            joined.push(',');
        }
        put_key_value(&mut joined, &String::from_utf8_lossy(&row[at].text));
    }
    Ok(Cell::Text(Cow::Owned(joined)))
}

/// A table's row as an object; columns that were not sent are not in it.
fn json(def: &TableDef, row: &Row) -> String {
    let mut out = String::from("{");
    for (column, value) in def.columns.iter().zip(row) {
        if matches!(value.kind, Kind::Unchanged | Kind::Same) {
            continue;
        }
        if out.len() > 1 {
            out.push(',');
        }
        put_json_text(&mut out, &column.name);
        out.push(':');
        put_json_value(&mut out, value, &column.type_name);
    }
    out.push('}');
    out
}

/// A form of a row's key that is the same for equal keys.
pub(crate) fn key_form(def: &TableDef, keys: &[usize], row: &Row) -> Vec<u8> {
    let mut form = Vec::with_capacity(32);
    for &at in keys {
        put_canonical(&mut form, &row[at], ValueClass::of(&def.columns[at].type_name));
    }
    form
}

/// Picks the members with these names out of a JSON object, in their order; of equal names the last one counts, and what is
/// no object has none. The text is read once, and only what is picked is looked at.
///
/// # Errors
/// The text is not JSON.
pub(crate) fn pick<'a>(names: &[Box<str>], json: &'a str, cells: &mut Vec<Cell<'a>>) -> Result<(), String> {
    cells.clear();
    cells.resize(names.len(), Cell::Null);
    if names.is_empty() || !json.trim_start().starts_with('{') {
        return Ok(());
    }
    let mut reader = serde_json::Deserializer::from_str(json);
    let read = reader.deserialize_map(Pick { names, cells }).and_then(|()| reader.end());
    read.map_err(|error| format!("the row is not JSON: {error}"))
}

struct Pick<'n, 'c, 'a> {
    names: &'n [Box<str>],
    cells: &'c mut [Cell<'a>],
}

impl<'a> Visitor<'a> for Pick<'_, '_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'a>>(self, mut map: M) -> Result<(), M::Error> {
        while let Some(found) = map.next_key_seed(Name(self.names))? {
            match found {
                Some(at) => {
                    let raw: &'a RawValue = map.next_value()?;
                    self.cells[at] = cell(raw.get()).map_err(serde::de::Error::custom)?;
                }
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

/// Which of the names a member has.
#[derive(Clone, Copy)]
struct Name<'n>(&'n [Box<str>]);

impl<'a> DeserializeSeed<'a> for Name<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'a>>(self, reader: D) -> Result<Option<usize>, D::Error> {
        reader.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Option<usize>, E> {
        Ok(self.0.iter().position(|wanted| **wanted == *name))
    }
}

/// A JSON value, taken as it is written.
fn cell(raw: &str) -> Result<Cell<'_>, serde_json::Error> {
    Ok(match raw.as_bytes().first() {
        Some(b'"') => match raw.contains('\\') {
            true => Cell::Text(Cow::Owned(serde_json::from_str(raw)?)),
            false => Cell::Text(Cow::Borrowed(&raw[1..raw.len() - 1])),
        },
        Some(b'{' | b'[') => Cell::Json(Cow::Borrowed(raw)),
        Some(b't') => Cell::Boolean(true),
        Some(b'f') => Cell::Boolean(false),
        Some(b'n') | None => Cell::Null,
        Some(_) => Cell::Number(raw),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn picked<'a>(names: &[&str], json: &'a str) -> Result<Vec<Cell<'a>>, String> {
        let names: Vec<Box<str>> = names.iter().map(|name| (*name).into()).collect();
        let mut cells = vec![Cell::Boolean(true)];
        pick(&names, json, &mut cells)?;
        Ok(cells)
    }

    #[test]
    fn wanted_members_are_picked_as_they_are_written() {
        let row = r#" {"a": "x", "b": 12345678901234567890.10, "passed": [{"a": 1}], "c": {"a" : 2}, "d": true, "e": null, "f": "\u00e9\n", "\u0061b": 3}"#;
        let cells = picked(&["a", "b", "c", "d", "e", "f", "ab", "none"], row).expect("JSON");
        let text = |text: &'static str| Cell::Text(Cow::Borrowed(text));
        let expected = [
            text("x"),
            Cell::Number("12345678901234567890.10"),
            Cell::Json(Cow::Borrowed(r#"{"a" : 2}"#)),
            Cell::Boolean(true),
            Cell::Null,
            text("é\n"),
            Cell::Number("3"),
            Cell::Null,
        ];
        assert_eq!(cells, expected);
        assert_eq!(picked(&["a"], r#"{"a":1,"a":2}"#), Ok(vec![Cell::Number("2")]));
    }

    #[test]
    fn what_is_no_object_has_no_members() {
        for row in ["1", "\"a\"", "[{\"a\":1}]", "null"] {
            assert_eq!(picked(&["a"], row), Ok(vec![Cell::Null]), "{row}");
        }
        for bad in ["{", "{\"a\":1", "{\"a\":1}}", "{\"a\":\"\\ud800\"}", "{'a':1}"] {
            assert!(picked(&["a"], bad).is_err(), "{bad}");
        }
        let deep =
            format!("{{\"b\":{}{},\"a\":{}{}}}", "[".repeat(200), "]".repeat(200), "[".repeat(200), "]".repeat(200));
        assert!(matches!(&picked(&["a"], &deep).expect("JSON")[..], [Cell::Json(_)]));
    }

    proptest! {
        #[test]
        fn members_are_what_serde_json_reads(row in "\\{(\"[ab]\":(-?(0|[1-9][0-9]{0,17})|\"[a-zé]{0,4}\"|true|null|\\[1\\]),){0,4}\"z\":0\\}") {
            let whole: serde_json::Value = serde_json::from_str(&row).expect("JSON");
            let cells = picked(&["a", "b"], &row).expect("JSON");
            for (name, cell) in ["a", "b"].into_iter().zip(cells) {
                let expected = whole.get(name).cloned().unwrap_or(serde_json::Value::Null);
                let found = match cell {
                    Cell::Null => serde_json::Value::Null,
                    Cell::Boolean(value) => value.into(),
                    Cell::Text(text) => text.into_owned().into(),
                    Cell::Number(text) => serde_json::from_str(text).expect("a number"),
                    Cell::Json(text) => serde_json::from_str(&text).expect("JSON"),
                    other => panic!("{other:?}"),
                };
                prop_assert_eq!(found, expected);
            }
        }

        #[test]
        fn foreign_rows_never_panic(row: String) {
            let _ = picked(&["a"], &row);
            let _ = picked(&["a"], &format!("{{{row}"));
        }
    }
}
