//! Rows of a table between two keys, in the key's order; and whether two databases have keys in the same order.
//!
//! The sender of a first copy reads in the order of its own index. The receiver of a chunk removes the rows of the range
//! `after < key ≤ upto` that the chunk does not have, in *its* order: that is right only if both order keys alike, else a
//! row that came with one chunk would be removed with a later one. Numbers and the system's types without a collation
//! are ordered alike everywhere; of texts nobody knows (collations differ between servers, and SQLite has its own). Where
//! [`same_order`] is false, the first chunk removes everything that is the sender's, and the later ones remove nothing.

use std::borrow::Cow;

use std::fmt::Write as _;

use crate::model::{Kind, Row, TableDef, Value};
use crate::view::CopyChunk;

/// `after < key ≤ upto`; `None` is unbounded. Keys have the values of the key's columns, in key order.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct KeyRange<'a> {
    pub after: Option<&'a Row>,
    pub upto: Option<&'a Row>,
}

/// A name as it stands in SQL.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A key's columns as they stand in SQL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KeyOrder {
    /// Quoted, each with the collation by which it is ordered if that is not the column's own.
    columns: Vec<String>,
    types: Vec<String>,
}

impl KeyOrder {
    /// Of a table of *this* database: its types stand in SQL as they are.
    pub(crate) fn of(def: &TableDef) -> KeyOrder {
        let keys = def.key_columns();
        let columns = keys.iter().map(|&i| quoted(&def.columns[i].name)).collect();
        KeyOrder { columns, types: keys.iter().map(|&i| def.columns[i].type_name.to_string()).collect() }
    }

    /// With the collation of each column of the key (quoted; `None`: the column has none).
    pub(crate) fn collated(mut self, collations: &[Option<String>]) -> KeyOrder {
        for (column, collation) in self.columns.iter_mut().zip(collations) {
            if let Some(collation) = collation {
                let _ = write!(column, " COLLATE {collation}");
            }
        }
        self
    }

    /// ` WHERE (k1,k2) > (…) AND (k1,k2) <= (…)`: row-wise, so that the key's index is used; empty for everything.
    ///
    /// # Errors
    /// A bound is no key of this table.
    pub(crate) fn condition(&self, range: KeyRange<'_>) -> Result<String, String> {
        let mut conditions = Vec::new();
        for (key, operator) in [(range.after, ">"), (range.upto, "<=")] {
            let Some(key) = key else { continue };
            if key.len() != self.columns.len() || key.is_empty() {
                let (expected, got) = (self.columns.len(), key.len());
                return Err(format!("a key has {got} values, the table's has {expected}"));
            }
            let values: Result<Vec<String>, String> =
                key.iter().zip(&self.types).map(|(value, type_name)| literal(value, type_name)).collect();
            conditions.push(format!("({}) {operator} ({})", self.columns.join(","), values?.join(",")));
        }
        Ok(if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) })
    }

    /// ` ORDER BY k1,k2`; empty without a key.
    pub(crate) fn order_by(&self) -> String {
        if self.columns.is_empty() { String::new() } else { format!(" ORDER BY {}", self.columns.join(",")) }
    }
}

/// A value's text as PostgreSQL reads it; `None` for NULL.
///
/// # Errors
/// It has no value of its own (unchanged, same), or has a NUL or bytes that are no UTF-8, which PostgreSQL has in no text.
pub(crate) fn text_of(value: &Value) -> Result<Option<String>, String> {
    let text = match value.kind {
        Kind::Null => return Ok(None),
        Kind::Unchanged | Kind::Same => return Err(format!("a value of the kind {:?} stands for another", value.kind)),
        Kind::Blob => {
            let mut text = String::with_capacity(2 + 2 * value.text.len());
            text.push_str("\\x");
            for byte in value.text.iter() {
                let _ = write!(text, "{byte:02x}");
            }
            text
        }
        Kind::Typed | Kind::Integer | Kind::Real | Kind::Text => {
            let text = std::str::from_utf8(&value.text).map_err(|_| "a text is not UTF-8, which PostgreSQL refuses")?;
            text.to_string()
        }
    };
    match text.contains('\0') {
        true => Err("a text has a NUL character, which PostgreSQL has in no text".into()),
        false => Ok(Some(text)),
    }
}

/// A type of PostgreSQL's own without its length: a cast to one with a length cuts what does not fit, and says nothing.
pub(crate) fn unlimited(type_name: &str) -> Cow<'_, str> {
    let Some((base, rest)) = type_name.split_once('(') else { return type_name.into() };
    // Types of others have their schema before them; their names may be quoted.
    if base.contains(['"', '.']) {
        return type_name.into();
    }
    let rest = rest.split_once(')').map_or("", |(_, rest)| rest);
    match base {
        "character" => format!("bpchar{rest}").into(),
        "bit" => format!("\"bit\"{rest}").into(),
        _ => format!("{base}{rest}").into(),
    }
}

/// A value as it stands in SQL, of a type of this database.
///
/// # Errors
/// As [`text_of`].
pub(crate) fn literal(value: &Value, type_name: &str) -> Result<String, String> {
    Ok(match text_of(value)? {
        None => format!("NULL::{}", unlimited(type_name)),
        Some(text) => {
            let type_name = unlimited(type_name);
            let escape = if text.contains('\\') { "E" } else { "" };
            let text = text.replace('\\', "\\\\").replace('\'', "''");
            format!("{escape}'{text}'::{type_name}")
        }
    })
}

/// Types that are ordered as numbers, in both databases.
const NUMBERS: [&str; 18] = [
    "smallint",
    "integer",
    "bigint",
    "int",
    "int2",
    "int4",
    "int8",
    "tinyint",
    "mediumint",
    "oid",
    "numeric",
    "decimal",
    "real",
    "double precision",
    "double",
    "float",
    "float4",
    "float8",
];
/// Types that every PostgreSQL orders alike, and that have no collation.
const PLAIN: [&str; 16] = [
    "boolean",
    "bytea",
    "uuid",
    "date",
    "time without time zone",
    "time with time zone",
    "timestamp without time zone",
    "timestamp with time zone",
    "interval",
    "inet",
    "cidr",
    "macaddr",
    "macaddr8",
    "pg_lsn",
    "money",
    "\"char\"",
];

/// A type without its length: `numeric(10,2)` is `numeric`, `timestamp(3) with time zone` is `timestamp with time zone`.
pub(crate) fn base_type(type_name: &str) -> String {
    let Some((before, rest)) = type_name.split_once('(') else { return type_name.to_ascii_lowercase() };
    let after = rest.split_once(')').map_or("", |(_, after)| after);
    format!("{}{after}", before.trim_end()).to_ascii_lowercase()
}

/// Whether the sender's rows and this database's are ordered alike by their keys, whatever the keys are. `own` is the
/// definition here, its columns found by the sender's names. The same for all chunks of a copy.
#[allow(dead_code)]
pub(crate) fn same_order(chunk: &CopyChunk, own: &TableDef) -> bool {
    let Some(bound) = chunk.upto.as_ref().or(chunk.after.as_ref()) else { return true };
    let keys = chunk.table.key_columns();
    keys.len() == bound.len()
        && keys.iter().zip(bound).all(|(&i, value)| {
            let sent = &chunk.table.columns[i];
            let Some(here) = own.columns.iter().find(|column| column.name == sent.name) else { return false };
            let (there, here) = (base_type(&sent.type_name), base_type(&here.type_name));
            let number = |name: &String| NUMBERS.contains(&name.as_str());
            // What SQLite keeps in a column declared `date` is not known.
            let is_typed = value.kind == Kind::Typed;
            number(&there) && number(&here) || is_typed && there == here && PLAIN.contains(&here.as_str())
        })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::Column;

    fn def(types: &[&str]) -> TableDef {
        let column = |(i, type_name): (usize, &&str)| Column {
            name: format!("k{i}").into(),
            type_name: (*type_name).into(),
            key: i as u16 + 1,
        };
        TableDef::new("t".parse().expect("a name"), types.iter().enumerate().map(column).collect())
    }

    #[test]
    fn ranges_are_row_wise_and_quoted() {
        let order = KeyOrder::of(&def(&["integer", "text"])).collated(&[None, Some("\"pg_catalog\".\"C\"".into())]);
        let after = vec![Value::new(Kind::Integer, "7"), Value::new(Kind::Text, r"it's \")];
        let range = KeyRange { after: Some(&after), upto: None };
        let sql = order.condition(range).expect("a range");
        assert_eq!(sql, r#" WHERE ("k0","k1" COLLATE "pg_catalog"."C") > ('7'::integer,E'it''s \\'::text)"#);
        assert_eq!(order.order_by(), r#" ORDER BY "k0","k1" COLLATE "pg_catalog"."C""#);
        assert!(order.condition(KeyRange { after: None, upto: Some(&vec![Value::NULL]) }).is_err());
        assert!(literal(&Value::new(Kind::Text, "a\0"), "text").is_err());
        assert!(literal(&Value::new(Kind::Typed, &b"\xff"[..]), "text").is_err());
        assert_eq!(literal(&Value::new(Kind::Blob, &b"\x00\xff"[..]), "bytea").expect("bytes"), r"E'\\x00ff'::bytea");
    }

    #[test]
    fn only_orders_that_are_known_are_the_same() {
        let same = |sent: &[&str], kind: Kind, own: &[&str]| {
            let key = sent.iter().map(|_| Value::new(kind, "1")).collect();
            let chunk =
                CopyChunk { table: Arc::new(def(sent)), after: None, upto: Some(key), rows: Vec::new(), lines: None };
            same_order(&chunk, &def(own))
        };
        assert!(same(&["integer"], Kind::Integer, &["bigint"]));
        assert!(same(&["numeric(10,2)", "bigint"], Kind::Typed, &["numeric", "bigint"]));
        assert!(same(&["timestamp(3) with time zone"], Kind::Typed, &["timestamp with time zone"]));
        assert!(same(&["uuid"], Kind::Typed, &["uuid"]));
        assert!(!same(&["uuid"], Kind::Text, &["uuid"]));
        assert!(!same(&["text"], Kind::Typed, &["text"]));
        assert!(!same(&["TEXT"], Kind::Text, &["integer"]));
        assert!(!same(&["public.mood"], Kind::Typed, &["public.mood"]));
    }
}
