//! The statement that makes a table which rows are about to arrive for.

use super::connect::quote_ident as quote;
use crate::model::TableDef;

/// `CREATE TABLE` with the columns and the key that received rows need; whatever else the sender's table has (checks,
/// indexes, defaults) is not known here.
pub fn create_table(def: &TableDef) -> String {
    let mut parts: Vec<String> = Vec::with_capacity(def.columns.len() + 1);
    for column in &def.columns {
        let type_name = if column.type_name.is_empty() { String::new() } else { format!(" {}", column.type_name) };
        parts.push(format!("{}{type_name}", quote(&column.name)));
    }
    let key: Vec<String> = def.key_columns().into_iter().map(|i| quote(&def.columns[i].name)).collect();
    if !key.is_empty() {
        parts.push(format!("PRIMARY KEY ({})", key.join(", ")));
    }
    format!("CREATE TABLE {} ({})", quote(def.name.as_str()), parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
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
}
