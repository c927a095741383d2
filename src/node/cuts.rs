//! Where in the log the snapshot stands from which a table without a key was copied.

use super::shared::Shared;
use crate::log::Limit;
use crate::model::{Cursor, LinkId, Op, Position, ReadFrom, TableName, scan_ops};

/// The entry that marks a snapshot's place.
pub(super) struct Cut {
    /// Its position.
    pub at: Position,
    /// Whether the table was changed by others before it.
    pub changed: bool,
}

/// Looks for the entry with that causation id, which came by the link `from`, between `after` and the log's tail. What
/// came by the link `except` does not count as a change.
pub(super) async fn find(
    shared: &Shared,
    from: LinkId,
    table: &TableName,
    after: Position,
    cut: &str,
    except: Option<LinkId>,
) -> Result<Option<Cut>, String> {
    let tail = *shared.log.tail().borrow();
    let (mut next, mut changed) = (ReadFrom::from(after), false);
    while next.after < tail {
        let batch = shared.log.read(next, Limit::default()).await.map_err(|error| error.to_string())?;
        for logged in &batch.entries {
            let header = logged.entry.header();
            let named = |fingerprint| batch.catalog.get(fingerprint).is_some_and(|def| def.name == *table);
            if !header.tables.iter().any(|fingerprint| named(*fingerprint)) {
                continue;
            }
            let is_named = logged.from == from && header.causation.as_deref() == Some(cut);
            if !is_named && (changed || logged.from == from || Some(logged.from) == except) {
                continue;
            }
            let ops = scan_ops(logged.entry.changes_bytes()).map_err(|error| error.to_string())?;
            if is_named && ops.iter().any(|(_, op)| *op == Op::Cut) {
                return Ok(Some(Cut { at: logged.position, changed }));
            }
            // A mark changes nothing.
            changed |= logged.from != from && Some(logged.from) != except && ops.iter().any(|(_, op)| *op != Op::Cut);
        }
        if batch.next == next {
            break;
        }
        next = batch.next;
    }
    Ok(None)
}

/// Whether a snapshot of our own database, which contains our log up to `cursor`, has exactly what stands before its mark;
/// once everything that had been committed by then is captured. Whoever is given it by the link `to` has what came by that.
///
/// # Errors
/// Words: the copy is to be made again.
pub(super) async fn check(
    shared: &Shared,
    table: &TableName,
    cursor: Option<Cursor>,
    cut: &str,
    to: Option<LinkId>,
) -> Result<Position, String> {
    let after = cursor.map_or(Position::ZERO, |cursor| cursor.position);
    match find(shared, LinkId::LOCAL, table, after, cut, to).await? {
        Some(cut) if cut.changed => {
            Err(format!("changes of {table} arrived while its snapshot was taken; it is taken again"))
        }
        Some(cut) => Ok(cut.at),
        None => Err(format!("the place of the snapshot of {table} is not in the log; it is taken again")),
    }
}
