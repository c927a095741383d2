//! CEL expressions over rows. (Common Expression Language, <https://cel.dev>)

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use cel::common::ast::{EntryExpr, Expr, IdedExpr};
use cel::objects::Key;
use cel::{Context, Program, Value as CelValue};
use thiserror::Error;

use crate::model::{Kind, Row, TableDef, Value, limits};
use crate::view::cel_json;

/// The variables that an expression may use.
const VARIABLES: [&str; 5] = ["row", "old", "table", "origin", "destination"];

/// A compiled expression.
pub struct Expression {
    source: Box<str>,
    program: Program,
    root: Context<'static, 'static>,
    row: Columns,
    old: Columns,
}

/// The columns of a row that an expression names.
#[derive(Default, Debug)]
struct Columns {
    named: BTreeSet<String>,
    /// The row is used as a whole (`size(row)`, `row[x]`).
    whole: bool,
}

/// What an expression is evaluated over.
pub struct Scope<'a> {
    /// The table.
    pub table: &'a TableDef,
    /// The row; `None` gives null.
    pub row: Option<&'a Row>,
    /// The row before an update; `None` gives null.
    pub old: Option<&'a Row>,
    /// The name of the node of origin.
    pub origin: &'a str,
    /// The name of the node that it would be sent to.
    pub destination: &'a str,
}

/// An expression is wrong, or fails on a row.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ExpressionError {
    /// Longer than [`limits::FILTER_BYTES_MAX`].
    #[error("an expression of {bytes} bytes is longer than {max}")]
    TooLong {
        /// Bytes.
        bytes: usize,
        /// Bytes.
        max: usize,
    },
    /// Not CEL.
    #[error("not a CEL expression: {0}")]
    Syntax(String),
    /// A name that is not there.
    #[error("unknown name {0:?}: an expression may use row, old, table, origin and destination")]
    UnknownName(String),
    /// A column that the table does not have.
    #[error("table {table} has no column {column:?}{hint}")]
    UnknownColumn {
        /// The table.
        table: String,
        /// The column named.
        column: String,
        /// The nearest name, as a sentence.
        hint: String,
    },
    /// It fails on this row.
    #[error("{expression:?} fails on a row of {table}: {why}")]
    Fails {
        /// Its text.
        expression: String,
        /// The table.
        table: String,
        /// What CEL says.
        why: String,
    },
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

impl Expression {
    /// Compiles; names other than the five variables are an error.
    pub fn new(source: &str) -> Result<Expression, ExpressionError> {
        if source.len() > limits::FILTER_BYTES_MAX {
            return Err(ExpressionError::TooLong { bytes: source.len(), max: limits::FILTER_BYTES_MAX });
        }
        let program = Program::compile(source).map_err(|e| ExpressionError::Syntax(e.to_string()))?;
        let (mut row, mut old) = (Columns::default(), Columns::default());
        walk(program.expression(), &mut Vec::new(), &mut row, &mut old)?;
        Ok(Expression { source: source.into(), program, root: Context::default(), row, old })
    }

    /// Its text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The columns of a row that it needs.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.row.named.iter().map(String::as_str)
    }

    /// Whether what it gives for a row may depend on that column.
    pub fn looks_at(&self, column: &str) -> bool {
        self.row.whole || self.row.named.contains(column)
    }

    /// Checks that the table has every column that is named.
    pub fn check_columns(&self, table: &TableDef) -> Result<(), ExpressionError> {
        for name in self.row.named.iter().chain(&self.old.named) {
            if table.column(name).is_none() {
                let near = table
                    .columns
                    .iter()
                    .max_by(|a, b| strsim::jaro_winkler(&a.name, name).total_cmp(&strsim::jaro_winkler(&b.name, name)));
                let hint = near.map(|c| format!(" (did you mean {:?}?)", c.name)).unwrap_or_default();
                return Err(ExpressionError::UnknownColumn {
                    table: table.name.to_string(),
                    column: name.clone(),
                    hint,
                });
            }
        }
        Ok(())
    }

    /// Evaluates to true or false; anything else is an error.
    pub fn test(&self, scope: &Scope<'_>) -> Result<bool, ExpressionError> {
        match self.evaluate(scope)? {
            CelValue::Bool(value) => Ok(value),
            other => Err(self.fails(scope, format!("it gives {other:?}, not true or false"))),
        }
    }

    /// Evaluates to a text (a node's name); null gives `None`.
    pub fn text(&self, scope: &Scope<'_>) -> Result<Option<String>, ExpressionError> {
        match self.evaluate(scope)? {
            CelValue::String(text) => Ok(Some(text.to_string())),
            CelValue::Null => Ok(None),
            other => Err(self.fails(scope, format!("it gives {other:?}, not a node's name"))),
        }
    }

    /// The same over a row that is any JSON value: `row` is what it says, `old` is null.
    pub fn test_json(&self, table: &TableDef, origin: &str, row: &serde_json::Value) -> Result<bool, ExpressionError> {
        let scope = Scope { table, row: None, old: None, origin, destination: "" };
        let mut context = self.root.new_inner_scope();
        context.add_variable_from_value("row", cel_json(row));
        context.add_variable_from_value("old", CelValue::Null);
        context.add_variable_from_value("table", table.name.as_str());
        context.add_variable_from_value("origin", origin);
        context.add_variable_from_value("destination", "");
        match self.program.execute(&context).map_err(|e| self.fails(&scope, e.to_string()))? {
            CelValue::Bool(value) => Ok(value),
            other => Err(self.fails(&scope, format!("it gives {other:?}, not true or false"))),
        }
    }

    fn fails(&self, scope: &Scope<'_>, why: String) -> ExpressionError {
        ExpressionError::Fails { expression: self.source.to_string(), table: scope.table.name.to_string(), why }
    }

    fn evaluate(&self, scope: &Scope<'_>) -> Result<CelValue, ExpressionError> {
        let mut context = self.root.new_inner_scope();
        let mut bind = |name: &str, columns: &Columns, row: Option<&Row>| -> Result<(), ExpressionError> {
            let value = match row {
                Some(row) => columns.map(scope.table, row).map_err(|why| self.fails(scope, why))?,
                None => CelValue::Null,
            };
            context.add_variable_from_value(name, value);
            Ok(())
        };
        bind("row", &self.row, scope.row)?;
        bind("old", &self.old, scope.old)?;
        context.add_variable_from_value("table", scope.table.name.as_str());
        context.add_variable_from_value("origin", scope.origin);
        context.add_variable_from_value("destination", scope.destination);
        self.program.execute(&context).map_err(|e| self.fails(scope, e.to_string()))
    }
}

impl Columns {
    fn map(&self, table: &TableDef, row: &Row) -> Result<CelValue, String> {
        let mut map: HashMap<Key, CelValue> = HashMap::with_capacity(self.named.len());
        for (column, value) in table.columns.iter().zip(row) {
            if self.whole || self.named.contains(&*column.name) {
                map.insert(Key::from(&*column.name), cel_value(&column.type_name, &column.name, value)?);
            }
        }
        Ok(map.into())
    }
}

/// A value as CEL sees it.
fn cel_value(type_name: &str, column: &str, value: &Value) -> Result<CelValue, String> {
    let text = || std::str::from_utf8(&value.text).map_err(|_| format!("column {column:?} is not UTF-8"));
    let number = |text: &str| -> CelValue {
        text.parse::<i64>()
            .map(CelValue::Int)
            .or_else(|_| text.parse::<f64>().map(CelValue::Float))
            .unwrap_or_else(|_| text.into())
    };
    Ok(match value.kind {
        Kind::Null => CelValue::Null,
        Kind::Unchanged | Kind::Same => {
            return Err(format!("column {column:?} was not sent by the source because it did not change"));
        }
        Kind::Integer => CelValue::Int(text()?.parse().map_err(|_| format!("column {column:?} is no integer"))?),
        Kind::Real => CelValue::Float(text()?.parse().map_err(|_| format!("column {column:?} is no number"))?),
        Kind::Text => text()?.into(),
        Kind::Blob => value.text.to_vec().into(),
        Kind::Typed => match type_name.split('(').next().unwrap_or_default() {
            "smallint" | "integer" | "bigint" | "int2" | "int4" | "int8" | "numeric" | "real" | "double precision"
            | "float4" | "float8" => number(text()?),
            "boolean" | "bool" => CelValue::Bool(text()?.starts_with('t')),
            _ => text()?.into(),
        },
    })
}

/// Collects the columns named on `row` and `old`; `bound` are the variables of enclosing macros.
fn walk(node: &IdedExpr, bound: &mut Vec<String>, row: &mut Columns, old: &mut Columns) -> Result<(), ExpressionError> {
    let mut each = |node: &IdedExpr, bound: &mut Vec<String>| walk(node, bound, row, old);
    match &node.expr {
        Expr::Select(select) => match &select.operand.expr {
            Expr::Ident(name) if name == "row" && !bound.contains(name) => {
                row.named.insert(select.field.clone());
            }
            Expr::Ident(name) if name == "old" && !bound.contains(name) => {
                old.named.insert(select.field.clone());
            }
            _ => each(&select.operand, bound)?,
        },
        Expr::Ident(name) if bound.contains(name) => {}
        Expr::Ident(name) if name == "row" => row.whole = true,
        Expr::Ident(name) if name == "old" => old.whole = true,
        Expr::Ident(name) => {
            if !VARIABLES.contains(&name.as_str()) {
                return Err(ExpressionError::UnknownName(name.clone()));
            }
        }
        Expr::Call(call) => {
            for part in call.target.as_deref().into_iter().chain(&call.args) {
                each(part, bound)?;
            }
        }
        Expr::List(list) => {
            for element in &list.elements {
                each(element, bound)?;
            }
        }
        Expr::Map(map) => {
            for entry in &map.entries {
                if let EntryExpr::MapEntry(entry) = &entry.expr {
                    each(&entry.key, bound)?;
                    each(&entry.value, bound)?;
                }
            }
        }
        Expr::Struct(value) => {
            for entry in &value.entries {
                if let EntryExpr::StructField(field) = &entry.expr {
                    each(&field.value, bound)?;
                }
            }
        }
        Expr::Comprehension(inner) => {
            each(&inner.iter_range, bound)?;
            let depth = bound.len();
            bound.extend([inner.iter_var.clone(), inner.accu_var.clone()]);
            bound.extend(inner.iter_var2.clone());
            for part in [&inner.accu_init, &inner.loop_cond, &inner.loop_step, &inner.result] {
                each(part, bound)?;
            }
            bound.truncate(depth);
        }
        Expr::Literal(_) | Expr::Unspecified => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Column;

    fn table() -> TableDef {
        let column = |name: &str, key| Column { name: name.into(), type_name: "".into(), key };
        TableDef::new(
            "orders".parse().expect("a name"),
            vec![column("id", 1), column("region", 0), column("amount", 0)],
        )
    }

    fn row() -> Row {
        vec![Value::new(Kind::Integer, "7"), Value::new(Kind::Text, "EU"), Value::new(Kind::Real, "2.5")]
    }

    fn test(source: &str) -> Result<bool, ExpressionError> {
        let expression = Expression::new(source)?;
        let table = table();
        expression.check_columns(&table)?;
        let row = row();
        let scope = Scope { table: &table, row: Some(&row), old: None, origin: "n1", destination: "EU" };
        expression.test(&scope)
    }

    #[test]
    fn rows_tables_and_nodes_can_be_tested() {
        for source in [
            "row.region == 'EU'",
            "row.region == destination && origin == 'n1' && table == 'orders'",
            "row.id > 5 && row.amount < 3.0",
            "row.amount > 2",
            "old == null",
            "row.region.startsWith('E')",
            "has(row.region)",
            "['EU', 'US'].exists(r, r == row.region)",
            "row.region in ['EU']",
        ] {
            assert_eq!(test(source), Ok(true), "{source}");
        }
        assert_eq!(test("row.id == 8"), Ok(false));
    }

    #[test]
    fn mistakes_are_found_at_load() {
        assert!(matches!(test("row.region =="), Err(ExpressionError::Syntax(_))));
        assert!(matches!(test("rows.region == 'EU'"), Err(ExpressionError::UnknownName(name)) if name == "rows"));
        let unknown = test("row.regio == 'EU'").expect_err("no such column");
        assert!(unknown.to_string().contains("did you mean \"region\"?"), "{unknown}");
        assert!(matches!(test(&" ".repeat(9000)), Err(ExpressionError::TooLong { .. })));
    }

    #[test]
    fn a_failing_expression_is_an_error_never_a_pass() {
        assert!(matches!(test("row.region > 5"), Err(ExpressionError::Fails { .. })));
        assert!(matches!(test("row.region"), Err(ExpressionError::Fails { .. })));
        assert!(matches!(test("old.region == 'EU'"), Err(ExpressionError::Fails { .. })));
    }
}
