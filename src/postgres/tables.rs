//! The tables of a database, as they travel.

mod inspect;
mod read;

use std::sync::Arc;

pub use inspect::inspect;
pub(crate) use inspect::refusals;
pub(crate) use read::{SESSION, Tables, read_tables, tables};

use crate::model::{TableDef, TableName};

/// Quotes an identifier.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Quotes a text as a literal, whatever `standard_conforming_strings` says.
pub(crate) fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    match quoted.contains('\\') {
        true => format!("E'{}'", quoted.replace('\\', "\\\\")),
        false => format!("'{quoted}'"),
    }
}

/// Schema and table of a name that travels: without a schema it stands in `public`. A name with a dot in either part
/// does not travel, so the first dot divides.
pub(crate) fn schema_and_table(name: &TableName) -> (&str, &str) {
    name.as_str().split_once('.').unwrap_or(("public", name.as_str()))
}

/// The name of a table in SQL: qualified and quoted.
pub(crate) fn qualified(name: &TableName) -> String {
    let (schema, table) = schema_and_table(name);
    format!("{}.{}", quoted(schema), quoted(table))
}

/// How the old row of an update or a delete is told. (postgresql.org/docs/15/sql-altertable.html, REPLICA IDENTITY)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Identity {
    /// By the primary key, or the index that was chosen.
    Key,
    /// By the whole row.
    Full,
    /// Not at all: published for updates or deletes, the server would refuse them to everybody.
    None,
}

/// A column as the catalog has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ColumnFacts {
    pub attnum: i16,
    pub type_oid: u32,
    pub type_modifier: i32,
    pub not_null: bool,
    /// `GENERATED ALWAYS AS IDENTITY`: written only by `OVERRIDING SYSTEM VALUE`.
    pub identity_always: bool,
    /// `GENERATED … AS IDENTITY`, either kind.
    pub is_identity: bool,
}

/// An ordinary or partitioned table; partitions are part of their root.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub oid: u32,
    /// Without generated and dropped columns.
    pub def: Arc<TableDef>,
    /// One for every column of the definition.
    pub columns: Vec<ColumnFacts>,
    pub identity: Identity,
    pub is_partitioned: bool,
    pub rows_estimate: u64,
    /// Who owns it, unquoted.
    pub owner: String,
    /// The current user is its owner, or has the owner's rights.
    pub is_owned: bool,
    pub is_readable: bool,
    /// Row security hides rows from the current user.
    pub hides_rows: bool,
    /// Why it cannot be captured.
    pub refusal: Option<String>,
    /// What whoever selects it should know.
    pub warnings: Vec<String>,
    /// Leaves of a partitioned table.
    pub leaves: Vec<Leaf>,
}

/// A partition that has rows itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leaf {
    pub oid: u32,
    /// Changes when it is truncated or written anew.
    pub file: u32,
    /// In SQL.
    pub name: String,
    /// Its rows have not been counted since its file was made.
    pub is_uncounted: bool,
    /// The transaction that changed its catalog row last.
    pub xmin: u32,
}

impl Table {
    /// Its name in SQL.
    pub fn sql(&self) -> String {
        qualified(&self.def.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_texts_are_quoted() {
        assert_eq!(quoted(r#"a"b"#), r#""a""b""#);
        assert_eq!(literal("a'b"), "'a''b'");
        assert_eq!(literal(r"a\'b"), r"E'a\\''b'");
        let name = |text: &str| text.parse::<TableName>().expect("a name");
        assert_eq!(qualified(&name("public.orders")), r#""public"."orders""#);
        assert_eq!(qualified(&name("app.My Orders")), r#""app"."My Orders""#);
    }
}
