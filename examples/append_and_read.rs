//! A log in a temporary folder: append, read, and find everything again after reopening.
//!
//! `cargo run --example append_and_read`

use std::sync::Arc;

use watershed::log::segments::{SegmentLog, SegmentOptions};
use watershed::log::{Append, Draft, Limit, Log, Source};
use watershed::model::{
    Change, Column, EntryHeader, Kind, LinkId, Op, Position, TableDef, Timestamp, Value, encode_changes,
};

/// `orders (id integer primary key, note text)`. Entries name tables by the fingerprint of such a definition.
fn orders() -> Arc<TableDef> {
    let column = |name: &str, type_name: &str, key| Column { name: name.into(), type_name: type_name.into(), key };
    let columns = vec![column("id", "integer", 1), column("note", "text", 0)];
    Arc::new(TableDef::new("orders".parse().expect("a table name"), columns))
}

/// One transaction with one insert.
fn insert(table: &Arc<TableDef>, id: i64, note: &str) -> Append {
    let row = vec![Value::new(Kind::Integer, id.to_string()), Value::new(Kind::Text, note.to_owned())];
    let change = Change { table: 0, op: Op::Insert, row: Some(row.into_iter().collect()), old: None };
    let header = EntryHeader { time: Timestamp::now(), tables: vec![table.fingerprint], ..EntryHeader::default() };
    let draft = Draft::Local { header, changes: encode_changes(&[change]) };
    Append { from: LinkId::LOCAL, tables: vec![table.clone()], drafts: vec![draft], upto: None }
}

#[tokio::main]
pub async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let options = SegmentOptions { segment_bytes: 1 << 20, ..SegmentOptions::new(folder.path()) };

    let log = SegmentLog::open(options.clone())?;
    for (id, note) in [(1, "rope"), (2, "lantern")] {
        // When `append` returns, the transaction is on the disk, and its cursor says where.
        let at = log.append(insert(&orders(), id, note)).await?;
        println!("appended at {at}");
    }
    log.close()?;

    // Another opening is another epoch of the same log; everything is still there.
    let log = SegmentLog::open(options)?;
    let batch = log.read(Position::ZERO.into(), Limit::default()).await?;
    for logged in &batch.entries {
        for change in logged.entry.changes()? {
            let table = batch.catalog.get(logged.entry.header().tables[change.table]).ok_or("an unknown table")?;
            let row: Vec<String> = change.row.iter().flatten().map(text).collect();
            println!("{}: {} {} ({})", logged.position, change.op.name(), table.name, row.join(", "));
        }
    }
    assert_eq!((batch.entries.len(), batch.upto.position), (2, Position(2)));
    Ok(())
}

fn text(value: &Value) -> String {
    String::from_utf8_lossy(&value.text).into_owned()
}
