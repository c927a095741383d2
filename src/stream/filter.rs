//! Which rows and columns of the selected tables leave, per destination.

use std::sync::Arc;

use thiserror::Error;

use super::expression::{Expression, ExpressionError, Scope};
use super::selection::Selection;
use crate::model::{Change, Kind, LinkId, Op, Row, TableDef, TableName, Value};

/// The node that something would be sent to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Its label.
    pub node: Box<str>,
    /// Its log.
    pub link: LinkId,
}

/// What becomes of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Sent as it is.
    Pass(Change),
    /// Sent with fewer columns, or as an insert because the row enters.
    Narrowed(Change),
    /// The row leaves what the destination has: sent as a delete.
    AsDelete(Change),
    /// Not sent.
    Drop,
}

/// A filter fails on a row or does not suit a table: the link stops, and nothing is sent by mistake (law 7).
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum FilterError {
    /// Its expression.
    #[error(transparent)]
    Expression(#[from] ExpressionError),
    /// A column to be dropped is part of the key.
    #[error(
        "drop_columns names {column:?}, which is part of the key of {table}: a row without its key cannot be applied"
    )]
    KeyDropped {
        /// The table.
        table: String,
        /// The column.
        column: String,
    },
    /// A column to be dropped is not there.
    #[error("drop_columns names {column:?}, which {table} does not have")]
    UnknownColumn {
        /// The table.
        table: String,
        /// The column.
        column: String,
    },
    /// Without the old row nobody knows whether the row had passed, so its key would leave.
    #[error(
        "a row of {table} does not pass, and its old values are not known: its key would leave; set keys_may_leave = true, \
         or let the source give whole old rows"
    )]
    KeyWouldLeave {
        /// The table.
        table: String,
    },
    /// Any other reason of a filter written in Rust.
    #[error("{0}")]
    Other(String),
}

/// Decides per destination, operation and row.
///
/// To be correct, a filter is a function of its arguments alone: a change that is sent again gets the same verdict; and
/// it composes: a row that a destination does not have is never updated there.
pub trait Filter: Send + Sync {
    /// The definition under which the table's rows leave. Called before the first change of a table, and whenever its
    /// definition changes.
    fn table(&self, to: &Destination, table: &Arc<TableDef>) -> Result<Arc<TableDef>, FilterError>;
    /// What becomes of a change. `table` is the definition before [`Filter::table`] narrowed it; the change in the
    /// verdict has the narrowed one.
    fn filter(&self, to: &Destination, table: &TableDef, origin: &str, change: Change) -> Result<Verdict, FilterError>;
    /// What the filter does to that table, as a text that changes when it does something else; `None` when it never
    /// touches the table.
    fn describe(&self, table: &TableDef) -> Option<String>;
}

/// One `[[send.….filter]]`.
#[derive(Debug, Default)]
pub struct CelRule {
    /// Its tables.
    pub tables: Selection,
    /// Rows that pass; all when `None`.
    pub when: Option<Expression>,
    /// Operations that are finally sent; all when `None`.
    pub ops: Option<Vec<Op>>,
    /// Columns that do not leave.
    pub drop_columns: Vec<String>,
    /// Keys of rows that never passed may leave, where the source does not give whole old rows.
    pub keys_may_leave: bool,
}

/// The filters of the configuration; a change passes when every rule for its table lets it pass.
#[derive(Debug, Default)]
pub struct CelFilter {
    rules: Vec<CelRule>,
}

impl CelFilter {
    /// A filter of these rules.
    pub fn new(rules: Vec<CelRule>) -> CelFilter {
        CelFilter { rules }
    }

    /// Whether any rule looks at rows.
    pub fn has_conditions(&self) -> bool {
        self.rules.iter().any(|rule| rule.when.is_some())
    }

    /// Whether a rule looks at the rows of that table.
    pub fn looks_at(&self, table: &TableName) -> bool {
        self.rules.iter().any(|rule| rule.when.is_some() && rule.tables.matches(table))
    }

    fn rules<'a>(&'a self, table: &'a TableDef) -> impl Iterator<Item = &'a CelRule> {
        self.rules.iter().filter(|rule| rule.tables.matches(&table.name))
    }
}

impl Filter for CelFilter {
    fn table(&self, _to: &Destination, table: &Arc<TableDef>) -> Result<Arc<TableDef>, FilterError> {
        let mut dropped = Vec::new();
        for rule in self.rules(table) {
            if let Some(when) = &rule.when {
                when.check_columns(table)?;
            }
            for column in &rule.drop_columns {
                let name = || (table.name.to_string(), column.clone());
                let Some(index) = table.column(column) else {
                    let (table, column) = name();
                    return Err(FilterError::UnknownColumn { table, column });
                };
                if table.columns[index].key > 0 {
                    let (table, column) = name();
                    return Err(FilterError::KeyDropped { table, column });
                }
                dropped.push(index);
            }
        }
        if dropped.is_empty() {
            return Ok(table.clone());
        }
        let kept = table.columns.iter().enumerate().filter(|(i, _)| !dropped.contains(i)).map(|(_, c)| c.clone());
        Ok(Arc::new(TableDef::new(table.name.clone(), kept.collect())))
    }

    fn filter(&self, to: &Destination, table: &TableDef, origin: &str, change: Change) -> Result<Verdict, FilterError> {
        let before = change.op;
        let mut change = change;
        for rule in self.rules(table) {
            match rule.rows(to, table, origin, change)? {
                Some(passed) => change = passed,
                None => return Ok(Verdict::Drop),
            }
        }
        let sent = |rule: &CelRule| {
            let of_rows = !matches!(change.op, Op::Copied | Op::Cut);
            rule.ops.as_ref().is_none_or(|ops| !of_rows || ops.contains(&change.op))
        };
        if !self.rules(table).all(sent) {
            return Ok(Verdict::Drop);
        }
        let mut narrowed = change.op != before;
        let drop: Vec<usize> =
            self.rules(table).flat_map(|rule| &rule.drop_columns).filter_map(|name| table.column(name)).collect();
        if !drop.is_empty() {
            narrowed = true;
            let keep = |row: Row| -> Row {
                row.into_iter().enumerate().filter(|(i, _)| !drop.contains(i)).map(|(_, value)| value).collect()
            };
            change.row = change.row.map(keep);
            change.old = change.old.map(keep);
        }
        Ok(match (change.op, narrowed) {
            (Op::Delete, true) if before != Op::Delete => Verdict::AsDelete(change),
            (_, true) => Verdict::Narrowed(change),
            (_, false) => Verdict::Pass(change),
        })
    }

    fn describe(&self, table: &TableDef) -> Option<String> {
        let mut text = String::new();
        for rule in self.rules(table) {
            let when = rule.when.as_ref().map(Expression::source);
            text.push_str(&format!("{when:?} {:?} {:?};", rule.ops, rule.drop_columns));
        }
        (!text.is_empty()).then_some(text)
    }
}

/// Whether every column's value is known.
fn is_whole(row: &Row) -> bool {
    row.iter().all(|value| value.kind != Kind::Unchanged)
}

/// The row with its key only; the other columns [`Kind::Unchanged`].
fn key_only(table: &TableDef, row: &Row) -> Row {
    let pick = |(i, value): (usize, &Value)| match table.columns[i].key > 0 {
        true => value.clone(),
        false => Value::UNCHANGED,
    };
    row.iter().enumerate().map(pick).collect()
}

impl CelRule {
    /// DESIGN's table: an insert is sent if the row passes; an update as an upsert if the new row passes, else as a
    /// delete by key; a delete by key. What is known not to have passed before is not sent at all.
    fn rows(
        &self,
        to: &Destination,
        table: &TableDef,
        origin: &str,
        change: Change,
    ) -> Result<Option<Change>, FilterError> {
        let Some(when) = &self.when else { return Ok(Some(change)) };
        if matches!(change.op, Op::Truncate | Op::Copied | Op::Cut) {
            return Ok(Some(change));
        }
        let old = change.old_resolved();
        let whole = old.as_ref().filter(|old| is_whole(old));
        let test = |row: &Row| {
            let scope = Scope { table, row: Some(row), old: whole, origin, destination: &to.node };
            when.test(&scope)
        };
        let passed_before = match (change.op, whole) {
            (Op::Insert, _) => Some(false),
            (_, Some(old)) => Some(test(old)?),
            (_, None) => None,
        };
        let passes = match &change.row {
            Some(row) => test(row)?,
            None => false,
        };
        Ok(match (passes, passed_before) {
            (true, Some(false)) => Some(Change { op: Op::Insert, old: None, ..change }),
            (true, _) => Some(change),
            (false, Some(false)) => None,
            (false, Some(true)) => Some(Change { op: Op::Delete, row: None, old, ..change }),
            (false, None) => {
                if !self.keys_may_leave {
                    return Err(FilterError::KeyWouldLeave { table: table.name.to_string() });
                }
                let key = old.as_ref().or(change.row.as_ref()).map(|row| key_only(table, row));
                Some(Change { op: Op::Delete, row: None, old: key, ..change })
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Column;

    fn table() -> Arc<TableDef> {
        let column = |name: &str, key| Column { name: name.into(), type_name: "".into(), key };
        let columns = vec![column("id", 1), column("region", 0), column("ssn", 0)];
        Arc::new(TableDef::new("customers".parse().expect("a name"), columns))
    }

    fn row(id: &str, region: &str) -> Option<Row> {
        Some(vec![
            Value::new(Kind::Integer, id.to_owned()),
            Value::new(Kind::Text, region.to_owned()),
            Value::new(Kind::Text, "s"),
        ])
    }

    fn run(rule: CelRule, change: Change) -> Result<Verdict, FilterError> {
        let to = Destination { node: "north".into(), link: LinkId::LOCAL };
        let filter = CelFilter::new(vec![CelRule { tables: Selection::new(&["*"]).expect("a star"), ..rule }]);
        filter.table(&to, &table())?;
        filter.filter(&to, &table(), "n1", change)
    }

    fn eu() -> CelRule {
        CelRule { when: Some(Expression::new("row.region == 'EU'").expect("CEL")), ..CelRule::default() }
    }

    fn change(op: Op, row: Option<Row>, old: Option<Row>) -> Change {
        Change { table: 0, op, row, old }
    }

    #[test]
    fn rows_enter_and_leave() {
        let update = |from, to| change(Op::Update, row("1", to), row("1", from));
        assert!(matches!(run(eu(), update("EU", "EU")), Ok(Verdict::Pass(c)) if c.op == Op::Update));
        assert!(
            matches!(run(eu(), update("US", "EU")), Ok(Verdict::Narrowed(c)) if c.op == Op::Insert && c.old.is_none())
        );
        assert!(matches!(run(eu(), update("EU", "US")), Ok(Verdict::AsDelete(c)) if c.row.is_none()));
        assert_eq!(run(eu(), update("US", "US")), Ok(Verdict::Drop));
        assert_eq!(run(eu(), change(Op::Insert, row("1", "US"), None)), Ok(Verdict::Drop));
        assert_eq!(run(eu(), change(Op::Delete, None, row("1", "US"))), Ok(Verdict::Drop));
        assert!(matches!(run(eu(), change(Op::Delete, None, row("1", "EU"))), Ok(Verdict::Pass(_))));
    }

    #[test]
    fn keys_of_rows_that_may_never_have_passed_leave_only_by_consent() {
        let key: Row = vec![Value::new(Kind::Integer, "1"), Value::UNCHANGED, Value::UNCHANGED];
        let delete = change(Op::Delete, None, Some(key.clone()));
        assert!(matches!(run(eu(), delete.clone()), Err(FilterError::KeyWouldLeave { .. })));
        let rule = CelRule { keys_may_leave: true, ..eu() };
        assert!(matches!(run(rule, delete), Ok(Verdict::Pass(c)) if c.old == Some(key)));
    }

    #[test]
    fn operations_are_restricted_after_entering_and_leaving() {
        let only = |ops: &[Op]| CelRule { ops: Some(ops.to_vec()), ..eu() };
        let enters = change(Op::Update, row("1", "EU"), row("1", "US"));
        assert!(matches!(run(only(&[Op::Insert]), enters.clone()), Ok(Verdict::Narrowed(_))));
        assert_eq!(run(only(&[Op::Update]), enters), Ok(Verdict::Drop));
    }

    #[test]
    fn dropped_columns_do_not_leave_and_keys_cannot_be_dropped() {
        let rule = |column: &str| CelRule { drop_columns: vec![column.into()], ..CelRule::default() };
        let insert = change(Op::Insert, row("1", "EU"), None);
        assert!(
            matches!(run(rule("ssn"), insert.clone()), Ok(Verdict::Narrowed(c)) if c.row.as_ref().map(Vec::len) == Some(2))
        );
        assert!(matches!(run(rule("id"), insert.clone()), Err(FilterError::KeyDropped { .. })));
        assert!(matches!(run(rule("nosuch"), insert), Err(FilterError::UnknownColumn { .. })));
    }
}
