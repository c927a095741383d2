//! The statement that makes a table which rows are about to arrive for.
//!
//! The types of a definition come from a peer and stand in SQL: what is written is built from words that are known, from
//! quoted names and from numbers, never taken over.

use super::copy::{qualified, quoted, schema_and_table};
use super::range::base_type;
use crate::model::{IndexColumn, Kind, Row, TableDef, TableIndex};

/// Types of PostgreSQL as `format_type` prints them, without length.
const BUILTIN: [&str; 71] = [
    "smallint",
    "integer",
    "bigint",
    "real",
    "double precision",
    "numeric",
    "boolean",
    "text",
    "character varying",
    "character",
    "bpchar",
    "name",
    "\"char\"",
    "bytea",
    "date",
    "time without time zone",
    "time with time zone",
    "timestamp without time zone",
    "timestamp with time zone",
    "interval",
    "interval year",
    "interval month",
    "interval day",
    "interval hour",
    "interval minute",
    "interval second",
    "interval year to month",
    "interval day to hour",
    "interval day to minute",
    "interval day to second",
    "interval hour to minute",
    "interval hour to second",
    "interval minute to second",
    "uuid",
    "json",
    "jsonb",
    "jsonpath",
    "xml",
    "inet",
    "cidr",
    "macaddr",
    "macaddr8",
    "bit",
    "bit varying",
    "tsvector",
    "tsquery",
    "point",
    "line",
    "lseg",
    "box",
    "path",
    "polygon",
    "circle",
    "money",
    "oid",
    "xid",
    "xid8",
    "pg_lsn",
    "pg_snapshot",
    "int4range",
    "int8range",
    "numrange",
    "tsrange",
    "tstzrange",
    "daterange",
    "int4multirange",
    "int8multirange",
    "nummultirange",
    "tsmultirange",
    "tstzmultirange",
    "datemultirange",
];
/// Of these, what SQLite's users declare, too: alone they do not tell where a definition comes from.
const SHARED: [&str; 13] = [
    "smallint",
    "integer",
    "bigint",
    "real",
    "double precision",
    "numeric",
    "boolean",
    "text",
    "character",
    "date",
    "json",
    "uuid",
    "interval",
];
/// Other names of PostgreSQL's types, which only SQLite's definitions have: `format_type` does not print them.
const ALIASES: [(&str, &str); 9] = [
    ("bool", "boolean"),
    ("timestamp", "timestamp without time zone"),
    ("timestamptz", "timestamp with time zone"),
    ("time", "time without time zone"),
    ("timetz", "time with time zone"),
    ("decimal", "numeric"),
    ("dec", "numeric"),
    ("varchar", "text"),
    ("char", "text"),
];

/// `CREATE TABLE` with the columns and the key that received rows need; whatever else the sender's table has (checks,
/// defaults) is not known here, and its indexes are statements of their own. Where a definition may be PostgreSQL's or SQLite's (`id integer, note text`), the
/// types are wide enough for both.
pub fn create_table(def: &TableDef) -> String {
    create_table_for(def, &[])
}

/// The same, told by its first rows where the definition comes from.
pub fn create_table_for(def: &TableDef, rows: &[Row]) -> String {
    let from_sqlite = is_from_sqlite(def, rows);
    let mut parts: Vec<String> = Vec::with_capacity(def.columns.len() + 1);
    for column in &def.columns {
        parts.push(format!("{} {}", quoted(&column.name), type_for(&column.type_name, from_sqlite)));
    }
    let key: Vec<String> = def.key_columns().into_iter().map(|i| quoted(&def.columns[i].name)).collect();
    if !key.is_empty() {
        parts.push(format!("PRIMARY KEY ({})", key.join(", ")));
    }
    format!("CREATE TABLE {} ({})", qualified(&def.name), parts.join(", "))
}

/// Access methods of PostgreSQL's own.
const METHODS: [&str; 6] = ["btree", "hash", "gin", "gist", "spgist", "brin"];

/// The statement that makes an index of the table; under its own name, or under one that the server chooses. `None` where
/// columns do not tell all of it, or its method is not known.
pub(super) fn create_index(def: &TableDef, index: &TableIndex, named: bool) -> Option<String> {
    let method = if index.method.is_empty() { METHODS[0] } else { &*index.method };
    let method = METHODS.iter().find(|known| index.is_plain() && **known == method)?;
    let name = |column: usize| def.columns.get(column).map(|column| quoted(&column.name));
    let column = |of: &IndexColumn| {
        // The others have no order.
        let order = match (of.descending, of.nulls_first) {
            _ if *method != "btree" => "",
            (false, false) => "",
            (true, true) => " DESC",
            (false, true) => " NULLS FIRST",
            (true, false) => " DESC NULLS LAST",
        };
        Some(format!("{}{order}", name(of.column)?))
    };
    let columns = index.columns.iter().map(column).collect::<Option<Vec<String>>>()?.join(", ");
    let included = index.included.iter().map(|&column| name(column)).collect::<Option<Vec<String>>>()?.join(", ");
    let included = if included.is_empty() { included } else { format!(" INCLUDE ({included})") };
    let unique = if index.unique { "UNIQUE " } else { "" };
    let name = if named { format!("{} ", quoted(&index.name)) } else { String::new() };
    Some(format!("CREATE {unique}INDEX {name}ON {} USING {method} ({columns}){included}", qualified(&def.name)))
}

/// The statement that makes the table's schema; `None` where it is `public`.
pub fn create_schema(def: &TableDef) -> Option<String> {
    let (schema, _) = schema_and_table(&def.name);
    (schema != "public").then(|| format!("CREATE SCHEMA {}", quoted(schema)))
}

/// Whether some type of the definition is one that only PostgreSQL prints.
pub(super) fn is_postgres(def: &TableDef) -> bool {
    let only_postgres = |name: &str| {
        let (element, is_array) = element(name);
        let is_printed = builtin(element).is_some() && *element == *element.to_ascii_lowercase();
        is_array || own_type(element).is_some() || is_printed && !SHARED.contains(&base_type(element).as_str())
    };
    def.columns.iter().any(|column| only_postgres(&column.type_name))
}

/// Whether the types are SQLite's declarations, which bind no value: `integer` has 64 bits there, and `varchar(3)` takes
/// any text. What cannot be told is taken for SQLite's, whose values need more room.
fn is_from_sqlite(def: &TableDef, rows: &[Row]) -> bool {
    let kinds = rows.iter().flatten().map(|value| value.kind);
    for kind in kinds {
        match kind {
            Kind::Typed => return false,
            Kind::Integer | Kind::Real | Kind::Text | Kind::Blob => return true,
            Kind::Null | Kind::Unchanged | Kind::Same => {}
        }
    }
    !is_postgres(def)
}

/// A type without `[]`.
fn element(type_name: &str) -> (&str, bool) {
    match type_name.strip_suffix("[]") {
        Some(element) => (element, true),
        None => (type_name, false),
    }
}

/// The type of a column that takes the values of that declaration.
fn type_for(declared: &str, from_sqlite: bool) -> String {
    let declared = declared.trim();
    if from_sqlite {
        return of_sqlite(&declared.to_ascii_lowercase());
    }
    let (element, is_array) = element(declared);
    match builtin(element).or_else(|| own_type(element)) {
        Some(name) if is_array => format!("{name}[]"),
        Some(name) => name,
        None => of_sqlite(&declared.to_ascii_lowercase()),
    }
}

/// A type of the system with its length.
fn builtin(type_name: &str) -> Option<String> {
    if !BUILTIN.contains(&base_type(type_name).as_str()) {
        return None;
    }
    let length = type_name.split_once('(').map(|(_, rest)| rest.split_once(')').map(|(inside, _)| inside));
    let is_number =
        |inside: &str| !inside.is_empty() && inside.chars().all(|c| c.is_ascii_digit() || matches!(c, ',' | '-' | ' '));
    match length {
        None => Some(type_name.to_ascii_lowercase()),
        Some(Some(inside)) if is_number(inside) => Some(type_name.to_ascii_lowercase()),
        Some(_) => None,
    }
}

/// A type of the user or of an extension: `schema.name`, with either part quoted where it must be, and perhaps a length.
fn own_type(type_name: &str) -> Option<String> {
    let (schema, rest) = identifier(type_name)?;
    let (name, rest) = identifier(rest.strip_prefix('.')?)?;
    let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, ',' | '-' | ' ' | '_');
    let length = match rest {
        "" => "",
        _ => {
            let inside = rest.strip_prefix('(')?.strip_suffix(')')?;
            (!inside.is_empty() && inside.chars().all(is_word)).then_some(rest)?
        }
    };
    Some(format!("{}.{}{length}", quoted(&schema), quoted(&name)))
}

/// The name at the start of a text, unquoted, and what follows it.
fn identifier(text: &str) -> Option<(String, &str)> {
    let Some(inside) = text.strip_prefix('"') else {
        let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$')).unwrap_or(text.len());
        return (end > 0).then(|| (text[..end].to_string(), &text[end..]));
    };
    let mut name = String::new();
    let mut chars = inside.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' if chars.next_if(|(_, next)| *next == '"').is_some() => name.push('"'),
            '"' => return (!name.is_empty()).then(|| (name, &inside[at + 1..])),
            '\0' => return None,
            _ => name.push(c),
        }
    }
    None
}

/// A declaration of SQLite's, in lower case. Lengths bind nothing there, so none is taken over.
fn of_sqlite(declared: &str) -> String {
    let base = base_type(declared);
    let base = ALIASES.iter().find(|(alias, _)| *alias == base).map_or(base.as_str(), |(_, name)| name);
    match base {
        "numeric" | "boolean" | "date" | "json" | "uuid" | "bytea" | "inet" | "cidr" => return base.to_string(),
        "time without time zone"
        | "time with time zone"
        | "timestamp without time zone"
        | "timestamp with time zone" => return base.to_string(),
        "interval" | "point" => return "text".to_string(),
        _ => {}
    }
    let has = |part: &str| base.contains(part);
    // As SQLite finds a column's affinity. (sqlite.org/datatype3.html, "Determination Of Column Affinity")
    let name = if has("int") {
        "bigint"
    } else if has("char") || has("clob") || has("text") {
        "text"
    } else if has("blob") {
        "bytea"
    } else if has("real") || has("floa") || has("doub") {
        "double precision"
    } else {
        "text"
    };
    name.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Column, Value};

    fn def(name: &str, columns: &[(&str, &str, u16)]) -> TableDef {
        let columns = columns.iter().map(|(name, type_name, key)| Column {
            name: (*name).into(),
            type_name: (*type_name).into(),
            key: *key,
        });
        TableDef::new(name.parse().expect("a name"), columns.collect())
    }

    fn types(columns: &[&str]) -> Vec<String> {
        let columns: Vec<(&str, &str, u16)> = columns.iter().map(|type_name| ("c", *type_name, 0)).collect();
        let sql = create_table(&def("t", &columns));
        let inside = sql.strip_prefix("CREATE TABLE \"public\".\"t\" (\"c\" ").and_then(|sql| sql.strip_suffix(')'));
        inside.expect("a statement").split(", \"c\" ").map(str::to_string).collect()
    }

    #[test]
    fn types_of_postgresql_stay_what_they_are() {
        let own = [
            "integer",
            "character varying(10)",
            "numeric(10,2)",
            "timestamp(3) with time zone",
            "bit(3)",
            "\"char\"",
            "interval day to second(3)",
            "integer[]",
            "double precision",
        ];
        assert_eq!(types(&own), own);
        assert_eq!(
            types(&["public.mood", "\"My Types\".\"odd \"\"one\"[]", "public.geometry(Point,4326)"]),
            ["\"public\".\"mood\"", "\"My Types\".\"odd \"\"one\"[]", "\"public\".\"geometry\"(Point,4326)"]
        );
    }

    #[test]
    fn declarations_of_sqlite_become_types_that_take_their_values() {
        let declared = ["INTEGER", "varchar(3)", "", "real", "blob", "DATETIME", "decimal(9, 2)", "bool", "timestamp"];
        let types = types(&declared);
        let wide = ["bigint", "text", "text", "double precision", "bytea", "text", "numeric", "boolean"];
        assert_eq!(types[..8], wide);
        assert_eq!(types[8], "timestamp without time zone");
    }

    #[test]
    fn rows_tell_where_a_definition_comes_from() {
        let def = def("app.Orders", &[("id", "integer", 1), ("note \"x\"", "text", 0)]);
        let row = |kind| vec![vec![Value::new(kind, "1"), Value::NULL]];
        let sql = |id: &str| {
            format!("CREATE TABLE \"app\".\"Orders\" (\"id\" {id}, \"note \"\"x\"\"\" text, PRIMARY KEY (\"id\"))")
        };
        assert_eq!(create_table_for(&def, &row(Kind::Typed)), sql("integer"));
        assert_eq!(create_table_for(&def, &row(Kind::Integer)), sql("bigint"));
        assert_eq!(create_table(&def), sql("bigint"));
        assert_eq!(create_schema(&def).as_deref(), Some("CREATE SCHEMA \"app\""));
    }

    #[test]
    fn no_type_of_a_peer_is_taken_over_as_sql() {
        for hostile in [
            "integer); DROP TABLE t; --",
            "text default (select 1)",
            "numeric(10,2) check (true)",
            "public.x; drop table t",
            "public.\"x",
            "public.x(1); drop",
            "bit(1) default (now())",
            "text[] collate \"C\"",
            "numeric(x)",
        ] {
            for sent_by_postgres in ["jsonb", "int"] {
                let sql = create_table(&def("t", &[("a", sent_by_postgres, 0), ("b", hostile, 0)]));
                let got = sql.split("\"b\" ").nth(1).expect("the column").trim_end_matches(')');
                let plain = ["bigint", "text", "bytea", "double precision", "numeric"];
                assert!(plain.contains(&got), "{hostile:?} became {got:?}");
            }
        }
    }
}
