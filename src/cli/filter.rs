//! `watershed filter`

use std::io::Read;

use clap::{Args, Subcommand};
use serde_json::{Value as Json, json};

use super::{Exit, ExitError, Global, output};
use crate::model::{Column, Kind, TableDef, Value, limits};
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
    #[arg(long, default_value = "")]
    table: String,
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
        let mut rows = test.row.clone();
        if rows.is_empty() {
            let mut text = String::new();
            std::io::stdin().lock().take(limits::ADMIN_ANSWER_BYTES_MAX).read_to_string(&mut text)?;
            rows = text.lines().filter(|line| !line.trim().is_empty()).map(Into::into).collect();
        }
        for (index, text) in rows.iter().enumerate() {
            let row: Json = serde_json::from_str(text).ok().filter(Json::is_object).ok_or_else(|| {
                let why = format!("row {} is: {text}", index + 1);
                ExitError::new(
                    "WS-CLI-015",
                    Exit::Usage,
                    "a row must be a JSON object",
                    why,
                    "write {\"column\": value}",
                )
            })?;
            let passes = evaluate(&test, &row)?;
            match global.json {
                true => output::object(json!({ "passes": passes, "row": row }))?,
                false => output::line(&format!("{}  {text}", if passes { "pass" } else { "drop" }))?,
            }
        }
        Ok(())
    }
}

/// Compiles the expression and evaluates it over one row, as if it were inserted.
fn evaluate(test: &Test, row: &Json) -> Result<bool, ExitError> {
    let wrong = |error: ExpressionError| {
        let fix = "write CEL over row, old, table, origin and destination: row.region == \"EU\"";
        ExitError::new("WS-CLI-018", Exit::Failure, error, "a filter that fails stops its link, and nothing is sent by mistake", fix)
    };
    let expression = Expression::new(&test.expr).map_err(wrong)?;
    let name = if test.table.is_empty() { "row" } else { &test.table };
    let name = name.parse().map_err(|error| ExitError::new("WS-CLI-019", Exit::Usage, error, "--table names no table", "give a table's name"))?;
    let (mut columns, mut values) = (Vec::new(), Vec::new());
    for (column, value) in row.as_object().into_iter().flatten() {
        let type_name = if value.is_boolean() { "boolean" } else { "" };
        columns.push(Column { name: column.as_str().into(), type_name: type_name.into(), key: 0 });
        values.push(value_of(value));
    }
    let table = TableDef::new(name, columns);
    expression.check_columns(&table).map_err(wrong)?;
    let scope = Scope { table: &table, row: Some(&values), old: None, origin: &test.origin, destination: &test.destination };
    expression.test(&scope).map_err(wrong)
}

fn value_of(value: &Json) -> Value {
    match value {
        Json::Null => Value::NULL,
        Json::Bool(flag) => Value::new(Kind::Typed, if *flag { "t" } else { "f" }),
        Json::Number(number) if number.is_i64() => Value::new(Kind::Integer, number.to_string()),
        Json::Number(number) => Value::new(Kind::Real, number.to_string()),
        Json::String(text) => Value::new(Kind::Text, text.clone()),
        other => Value::new(Kind::Text, other.to_string()),
    }
}
