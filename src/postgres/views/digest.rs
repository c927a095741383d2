//! What the state of a build is, as a number.

use tokio_postgres::types::Type;
use tokio_postgres::{IsolationLevel, Transaction};

use super::meta::{self, quoted};
use super::session::{self, Trouble};
use super::store::Shared;
use crate::model::{Kind, Value, ValueClass};
use crate::view::{Hold, RowSums, StateDigest, ViewError};

/// Rows that are asked for at once.
const ROWS_AT_ONCE: i32 = 1_000;

/// Over all tables of the view, in one snapshot; once that is taken, what is held goes on.
pub(super) async fn digest(shared: &Shared, hold: Hold) -> Result<StateDigest, ViewError> {
    let mut session = session::connect(&shared.endpoint).await?;
    let transaction = session.client.build_transaction();
    let transaction = transaction.isolation_level(IsolationLevel::RepeatableRead).read_only(true).start();
    let digest = async { of(&transaction.await?, &shared.schema, hold).await };
    digest.await.map_err(|trouble| shared.told(trouble))
}

async fn of(transaction: &Transaction<'_>, schema: &str, hold: Hold) -> Result<StateDigest, Trouble> {
    // The first statement is what the snapshot is of.
    let cursors = meta::cursors(transaction, schema).await?;
    drop(hold);
    let sql = "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
               WHERE n.nspname = $1 AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relname NOT LIKE 'watershed\\_%'
               ORDER BY c.relname COLLATE \"C\"";
    let mut sums = RowSums::default();
    for table in transaction.query(sql, &[&schema]).await? {
        let table: String = table.get(0);
        let all = format!("{}.{}", quoted(schema), quoted(&table));
        let columns = transaction.prepare(&format!("SELECT * FROM {all}")).await?;
        let names: Vec<String> = columns.columns().iter().map(|column| column.name().to_owned()).collect();
        let classes: Vec<ValueClass> = columns.columns().iter().map(|column| class(column.type_())).collect();
        sums.table(&table, &names);
        let texts: Vec<String> = names.iter().map(|name| format!("{}::text", quoted(name))).collect();
        let portal = transaction.bind(&format!("SELECT {} FROM {all}", texts.join(", ")), &[]).await?;
        loop {
            let rows = transaction.query_portal(&portal, ROWS_AT_ONCE).await?;
            for row in &rows {
                let value = |(at, class): (usize, &ValueClass)| match row.get::<_, Option<&str>>(at) {
                    None => (Value::NULL, ValueClass::Text),
                    Some(text) => (Value::new(Kind::Typed, text.to_owned()), *class),
                };
                sums.row(&classes.iter().enumerate().map(value).collect::<Vec<_>>());
            }
            if rows.len() < ROWS_AT_ONCE as usize {
                break;
            }
        }
    }
    let (digest, rows) = sums.end();
    Ok(StateDigest { digest, rows, cursors })
}

/// How a type's values are compared: as a view in SQLite has them, numbers by what they are worth.
fn class(of: &Type) -> ValueClass {
    match *of {
        Type::INT2 | Type::INT4 | Type::INT8 | Type::OID | Type::NUMERIC | Type::FLOAT4 | Type::FLOAT8 => {
            ValueClass::Number
        }
        Type::BOOL => ValueClass::Boolean,
        Type::BYTEA => ValueClass::Bytes,
        _ => ValueClass::Text,
    }
}
