//! `watershed filter`

use std::io::Read;

use clap::{Args, Subcommand};
use serde_json::{Value as Json, json};

use super::{Exit, ExitError, Global, output};
use crate::model::limits;

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

/// Compiles the expression and evaluates it over one row.
fn evaluate(_test: &Test, _row: &Json) -> Result<bool, ExitError> {
    Err(ExitError::not_connected("filter test"))
}
