//! `watershed filter`

use std::io::Read;

use clap::{Args, Subcommand};
use serde_json::{Map, Value as Json, json};

use super::{Exit, ExitError, Global, output};
use crate::model::{Column, Kind, Row, TableDef, TableName, Value, limits};
use crate::stream::{Expression, ExpressionError, Scope};

/// Filters, tried out
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  watershed filter test 'row.region == \"EU\"' --row '{\"region\": \"EU\"}'
  watershed filter test 'row.site == destination' --row '{\"site\": \"b7\"}' --destination b7
  watershed log read --json | jq -c '.changes[].row' | watershed filter test 'row.total > 100'")]
pub(super) struct Filter {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Which rows pass an expression
    Test(Test),
}

/// An expression and what it is tried on.
#[derive(Debug, Args)]
pub(super) struct Test {
    /// CEL over row, old, table, origin, destination
    expr: String,
    /// A row as a JSON object; without any, lines of stdin
    #[arg(long, value_name = "JSON")]
    row: Vec<String>,
    /// The value of `table`
    #[arg(long)]
    table: Option<TableName>,
    /// The value of `origin`
    #[arg(long, default_value = "")]
    origin: String,
    /// The value of `destination`
    #[arg(long, default_value = "")]
    destination: String,
}

impl Filter {
    pub(super) fn run(self, global: &Global) -> Result<(), ExitError> {
        let Action::Test(test) = self.action;
        let expression = Expression::new(&test.expr).map_err(wrong)?;
        let mut rows = test.row.clone();
        if rows.is_empty() {
            let mut text = String::new();
            std::io::stdin().lock().take(limits::ADMIN_ANSWER_BYTES_MAX).read_to_string(&mut text)?;
            rows = text.lines().filter(|line| !line.trim().is_empty()).map(Into::into).collect();
        }
        for (index, text) in rows.iter().enumerate() {
            let row: Map<String, Json> = serde_json::from_str(text).map_err(|_| {
                let why = format!("row {} is: {text}", index + 1);
                ExitError::new(
                    "WS-CLI-015",
                    Exit::Usage,
                    "a row must be a JSON object",
                    why,
                    "write {\"column\": value}",
                )
            })?;
            let passes = evaluate(&expression, &test, &row).map_err(wrong)?;
            match global.json {
                true => output::object(json!({ "passes": passes, "row": row }))?,
                false => output::line(&format!("{}  {text}", if passes { "pass" } else { "drop" }))?,
            }
        }
        Ok(())
    }
}

/// Evaluates the expression over one row.
fn evaluate(expression: &Expression, test: &Test, row: &Map<String, Json>) -> Result<bool, ExpressionError> {
    let (columns, row): (Vec<Column>, Row) = row.iter().map(|(name, value)| column(name, value)).unzip();
    let name = test.table.clone().unwrap_or_else(|| "rows".parse().expect("a table name"));
    let table = TableDef::new(name, columns);
    expression.check_columns(&table)?;
    let (origin, destination) = (test.origin.as_str(), test.destination.as_str());
    expression.test(&Scope { table: &table, row: Some(&row), old: None, origin, destination })
}

/// A JSON value as a column of a row.
fn column(name: &str, value: &Json) -> (Column, Value) {
    let (type_name, value) = match value {
        Json::Null => ("", Value::NULL),
        Json::Bool(value) => ("boolean", Value::new(Kind::Typed, if *value { "t" } else { "f" })),
        Json::Number(number) if number.is_i64() => ("", Value::new(Kind::Integer, number.to_string())),
        Json::Number(number) => ("", Value::new(Kind::Real, number.to_string())),
        Json::String(text) => ("", Value::new(Kind::Text, text.clone())),
        other => ("", Value::new(Kind::Text, other.to_string())),
    };
    (Column { name: name.into(), type_name: type_name.into(), key: 0 }, value)
}

fn wrong(error: ExpressionError) -> ExitError {
    let why = "an expression may use row, old, table, origin and destination, and gives true or false";
    ExitError::new("WS-CLI-021", Exit::Failure, error, why, "correct the expression, or the row")
}
