//! Removes from the change table what the log has.

use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior};

use super::continuity::{Place, draw_mark, oldest};
use crate::model::limits;

/// Rows are removed about once a second, or at once where there are many.
pub(crate) fn trim_interval(rows: i64) -> Duration {
    match rows > limits::CAPTURE_TRIM_ROWS_MAX {
        true => limits::CAPTURE_TRIM_INTERVAL / 50,
        false => limits::CAPTURE_TRIM_INTERVAL,
    }
}

/// Removes some rows before `released`. A new mark is drawn unless the log is yet to store a place with the present one.
/// Gives the mark and the first row that is left.
pub(crate) fn trim_some(conn: &mut Connection, released: Place, read: i64, mark: u64) -> rusqlite::Result<(u64, i64)> {
    let transaction = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let upto = released.seq.min(oldest(&transaction)? + limits::CAPTURE_TRIM_ROWS_MAX);
    transaction.execute("DELETE FROM watershed_changes WHERE seq < ?1", [upto])?;
    let mark = match read == released.seq {
        true => draw_mark(&transaction, released.mark)?,
        false => mark,
    };
    transaction.commit()?;
    Ok((mark, upto))
}
