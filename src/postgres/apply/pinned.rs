//! Columns whose values can be inserted and not updated (`GENERATED ALWAYS AS IDENTITY`), outside of the key: a row whose value
//! of one has changed is taken out and put in again, with everything that it had.

use super::shape::Param;
use super::target::{Target, quote};

impl Target {
    /// Whether a column's value can be inserted only, and is none of the key's.
    pub(super) fn is_pinned(&self, column: usize) -> bool {
        self.columns[column].always && !self.key.contains(&column)
    }

    /// Whether some column is.
    pub(super) fn has_pinned(&self) -> bool {
        self.written.iter().any(|&i| self.is_pinned(i))
    }

    /// What limits an update to a row that has the given values of such columns already; nothing where none is given.
    pub(super) fn unmoved(&self, takes: &[usize], param: Param<'_>) -> String {
        let given = takes.iter().enumerate().filter(|(_, i)| self.is_pinned(**i));
        given.map(|(n, &i)| format!(" AND {} = {}", self.columns[i].name, param(i, n + 1))).collect()
    }

    /// The statement that takes the row out that `condition` tells, and puts it in again with the values given.
    pub(super) fn replaced(&self, takes: &[usize], condition: &str, param: Param<'_>) -> String {
        let value = |&i: &usize| match takes.iter().position(|&taken| taken == i) {
            Some(at) => param(i, at + 1),
            None => format!("ws__gone.{}", self.columns[i].name),
        };
        let own = self.own_columns.iter().map(|name| quote(name));
        let names: Vec<String> =
            self.written.iter().map(|&i| self.columns[i].name.clone()).chain(own.clone()).collect();
        let values: Vec<String> =
            self.written.iter().map(value).chain(own.map(|name| format!("ws__gone.{name}"))).collect();
        format!(
            "WITH ws__gone AS (DELETE FROM {} AS ws__t{condition} RETURNING ws__t.*) INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE \
             SELECT {} FROM ws__gone",
            self.own_rows,
            self.rel,
            names.join(", "),
            values.join(", ")
        )
    }
}
