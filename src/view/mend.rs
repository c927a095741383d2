//! Makes a table of one database equal to that of another.

use super::compare::{Common, Compare};
use super::diff::{DiffError, DiffOptions, Mend, Repaired, RowDiff, RowDiffKind, Side};
use crate::model::{Row, TableName, Value, limits};

impl Compare<'_> {
    /// Makes B's rows equal to A's in the columns that both have, in commits of [`limits::DIFF_MEND_ROWS`] rows. Interrupted,
    /// it leaves B partly repaired, and can be started again.
    ///
    /// # Errors
    /// A database cannot be read, B's table cannot take A's rows, or one side has no such table.
    pub async fn repair(&mut self, table: &TableName) -> Result<Repaired, DiffError> {
        let missing = || DiffError { why: format!("not both have a table {table}"), is_retryable: false };
        let common = self.common(table).await?.map_err(|_| missing())?;
        let options = DiffOptions { rechecks: 0, ..DiffOptions::default() };
        let mut done = Repaired::default();
        let mut before = u64::MAX;
        loop {
            let diff = self.compare(&common, options).await?;
            // Somebody else may be writing: what does not become less is not gone on with.
            if diff.different == 0 || diff.different >= before {
                return Ok(Repaired { rows: diff.rows_a, ..done });
            }
            before = diff.different;
            for rows in diff.rows.chunks(limits::DIFF_MEND_ROWS) {
                let mends = self.mends(&common, rows).await?;
                let written = self.b.mend(&common.b, &common.a, &mends).await?;
                done.written += written.written;
                done.removed += written.removed;
            }
        }
    }

    async fn mends(&mut self, common: &Common, rows: &[RowDiff]) -> Result<Vec<Mend>, DiffError> {
        let keys = common.a.key_columns();
        if keys.is_empty() {
            let each = rows.iter().map(|row| match row.kind {
                RowDiffKind::Only(Side::B) => Mend::Remove(row.key.clone()),
                _ => Mend::Put(row.key.clone()),
            });
            return Ok(each.collect());
        }
        let wanted: Vec<Row> = rows.iter().map(|row| row.key.clone()).collect();
        let found = self.a.rows(&common.a, &wanted).await?;
        let each = wanted.into_iter().zip(found).map(|(key, row)| match row {
            Some(row) => Mend::Put(row),
            None => {
                let mut whole: Row = vec![Value::UNCHANGED; common.a.columns.len()];
                keys.iter().zip(key).for_each(|(&i, value)| whole[i] = value);
                Mend::Remove(whole)
            }
        });
        Ok(each.collect())
    }
}
