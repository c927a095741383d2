//! The statement that makes a table which rows are about to arrive for.

use super::connect::quote_ident as quote;
use crate::model::{IndexColumn, Kind, Row, TableDef, TableIndex};

/// `CREATE TABLE` with the columns and the key that received rows need; whatever else the sender's table has (checks,
/// indexes, defaults) is not known here. Types come from a peer and stand in SQL: only plain words and lengths are taken over.
pub fn create_table(def: &TableDef) -> String {
    create_table_for(def, &[])
}

/// The same, told by its first rows whether the types are PostgreSQL's: SQLite would take some values of those for numbers,
/// and not keep them.
pub fn create_table_for(def: &TableDef, rows: &[Row]) -> String {
    let is_typed = rows.iter().flatten().any(|value| value.kind == Kind::Typed);
    let mut parts: Vec<String> = Vec::with_capacity(def.columns.len() + 1);
    for column in &def.columns {
        let type_name = if is_typed { of_postgres(&column.type_name) } else { plain_type(&column.type_name) };
        parts.push(format!("{} {type_name}", quote(&column.name)).trim_end().to_owned());
    }
    let key: Vec<String> = def.key_columns().into_iter().map(|i| quote(&def.columns[i].name)).collect();
    if !key.is_empty() {
        parts.push(format!("PRIMARY KEY ({})", key.join(", ")));
    }
    format!("CREATE TABLE main.{} ({})", quote(def.name.as_str()), parts.join(", "))
}

/// The statement that makes an index of the table under that name; `None` where columns do not tell all of it, or SQLite has
/// no index like it.
pub(super) fn create_index(def: &TableDef, index: &TableIndex, name: &str) -> Option<String> {
    if !index.is_plain() || !matches!(&*index.method, "" | "btree") {
        return None;
    }
    let column = |of: &IndexColumn| {
        let order = if of.descending { " DESC" } else { "" };
        Some(format!("{}{order}", quote(&def.columns.get(of.column)?.name)))
    };
    let columns = index.columns.iter().map(column).collect::<Option<Vec<String>>>()?.join(", ");
    let unique = if index.unique { "UNIQUE " } else { "" };
    Some(format!("CREATE {unique}INDEX main.{} ON {} ({columns})", quote(name), quote(def.name.as_str())))
}

/// Digits that a NUMERIC column keeps.
const DIGITS_KEPT: u32 = 15;

/// The declaration of a column that keeps the values of a PostgreSQL type: as there, if no value of it could be taken for
/// another number.
fn of_postgres(type_name: &str) -> &str {
    let (words, length) = type_name.split_once('(').unwrap_or((type_name, ""));
    match words.trim_end() {
        "smallint"
        | "integer"
        | "bigint"
        | "oid"
        | "real"
        | "double precision"
        | "boolean"
        | "text"
        | "character varying"
        | "character"
        | "date"
        | "time"
        | "time without time zone"
        | "time with time zone"
        | "timestamp"
        | "timestamp without time zone"
        | "timestamp with time zone"
        | "interval"
        | "uuid"
        | "inet"
        | "cidr" => plain_type(type_name),
        "numeric" => {
            let digits = length.split([',', ')']).next().and_then(|digits| digits.trim().parse::<u32>().ok());
            if digits.is_some_and(|digits| digits <= DIGITS_KEPT) { plain_type(type_name) } else { "text" }
        }
        "bytea" => "blob",
        _ => "text",
    }
}

/// A declared type, if it is words and perhaps a length, as in `double precision` or `numeric(10,2)`; else none.
fn plain_type(declared: &str) -> &str {
    let (words, rest) = declared.split_at(declared.find('(').unwrap_or(declared.len()));
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ' ';
    let length = rest.is_empty()
        || rest.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')).is_some_and(|inside| {
            inside.chars().all(|c| c.is_ascii_digit() || c == ',' || c == ' ') && !inside.is_empty()
        });
    match words.chars().all(word) && length && !is_keyword(words) {
        true => declared,
        false => "",
    }
}

/// Words that would be constraints and not part of a type.
fn is_keyword(words: &str) -> bool {
    const CONSTRAINTS: [&str; 11] = [
        "primary",
        "not",
        "null",
        "unique",
        "check",
        "default",
        "collate",
        "references",
        "generated",
        "as",
        "constraint",
    ];
    words.split(' ').any(|word| CONSTRAINTS.contains(&word.to_ascii_lowercase().as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Column, Value};
    use crate::sqlite::inspect;

    #[test]
    fn the_table_that_is_made_has_the_same_fingerprint() {
        let folder = tempfile::tempdir().expect("a folder");
        let made = |name: &str, sql: &str| {
            let path = folder.path().join(name);
            rusqlite::Connection::open(&path).expect("a database").execute_batch(sql).expect("the statement is SQL");
            inspect(&path).expect("inspected").tables[0].def.clone()
        };
        for (index, sql) in [
            "create table orders (id integer primary key, note text, total decimal(9, 2))",
            "create table \"odd \"\" name\" (a, b blob, primary key (b, a))",
        ]
        .into_iter()
        .enumerate()
        {
            let def = made(&format!("a{index}.db"), sql);
            let again = made(&format!("b{index}.db"), &create_table(&def));
            assert_eq!(again.fingerprint, def.fingerprint, "{sql} became {}", create_table(&def));
        }
    }

    #[test]
    fn types_of_postgresql_are_kept_where_their_values_are() {
        let column = |type_name: &str| Column { name: "c".into(), type_name: type_name.into(), key: 0 };
        let made = |type_name: &str| {
            let def = TableDef::new("t".parse().expect("a name"), vec![column(type_name)]);
            let sql = create_table_for(&def, &[vec![Value::new(Kind::Typed, "1")]]);
            sql.strip_prefix("CREATE TABLE main.\"t\" (\"c\" ").expect("a statement").trim_end_matches(')').to_string()
        };
        for (type_name, declared) in [
            ("bigint", "bigint"),
            ("numeric(10,2)", "numeric(10,2"),
            ("numeric(20,2)", "text"),
            ("numeric", "text"),
            ("bit(3)", "text"),
            ("jsonb", "text"),
            ("public.mood", "text"),
            ("integer[]", "text"),
            ("bytea", "blob"),
            ("timestamp with time zone", "timestamp with time zone"),
            ("text default (1)", "text"),
        ] {
            assert_eq!(made(type_name), declared);
        }
    }
}
