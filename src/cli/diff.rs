//! `watershed diff`

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::{Exit, ExitError, Global, output};
use crate::model::TableName;
use crate::node::config::{Config, DatabaseUrl, Overrides};

/// Compare two databases table by table
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  watershed diff sqlite:hq.db sqlite:branch-7.db
  watershed diff hq.toml branch-7.toml --tables orders,customers
  watershed diff sqlite:hq.db sqlite:branch-7.db --repair --yes     make B like A

Exit code 6 when they differ. Rows that change meanwhile are looked at again.")]
pub(super) struct Diff {
    /// sqlite:PATH, or a node's configuration
    a: String,
    /// sqlite:PATH, or a node's configuration
    b: String,
    /// These tables only; by default all that either has
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    tables: Vec<TableName>,
    /// Make the rows of B like those of A
    #[arg(long)]
    repair: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Differing keys to show per table
    #[arg(long, value_name = "N", default_value_t = 10)]
    max: usize,
}

/// What was found in one table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TableDiff {
    /// Its name.
    pub table: String,
    /// Rows compared.
    pub rows: u64,
    /// Rows that only A has.
    pub only_a: u64,
    /// Rows that only B has.
    pub only_b: u64,
    /// Rows with the same key and other values.
    pub differ: u64,
    /// Rows of B that were repaired.
    pub repaired: u64,
    /// Keys of differing rows, at most `max`.
    pub keys: Vec<String>,
}

impl TableDiff {
    fn is_equal(&self) -> bool {
        self.only_a + self.only_b + self.differ == 0
    }
}

impl Diff {
    pub(super) fn run(self, global: &Global) -> Result<(), ExitError> {
        let (a, b) = (side(&self.a)?, side(&self.b)?);
        if self.repair {
            output::confirm(self.yes, &format!("change rows of {} to those of {}", b.display(), a.display()))?;
        }
        let found = compare(&a, &b, &self.tables, self.repair, self.max)?;
        let equal = found.iter().all(|table| table.is_equal() || table.repaired > 0);
        self.print(global.json, &found, equal)?;
        if equal { Ok(()) } else { Err(ExitError::quiet(Exit::Differences)) }
    }

    fn print(&self, as_json: bool, found: &[TableDiff], equal: bool) -> Result<(), ExitError> {
        if as_json {
            let tables = found.iter().map(|table| {
                json!({
                    "table": table.table, "rows": table.rows, "only_a": table.only_a, "only_b": table.only_b,
                    "differ": table.differ, "repaired": table.repaired, "keys": table.keys,
                })
            });
            return output::object(json!({ "equal": equal, "tables": tables.collect::<Vec<_>>() }));
        }
        let rows: Vec<Vec<String>> = found
            .iter()
            .map(|table| {
                let numbers = [table.rows, table.only_a, table.only_b, table.differ, table.repaired];
                std::iter::once(table.table.clone()).chain(numbers.iter().map(u64::to_string)).collect()
            })
            .collect();
        output::line(&output::table(&["TABLE", "ROWS", "ONLY A", "ONLY B", "DIFFER", "REPAIRED"], &rows))?;
        for table in found.iter().filter(|table| !table.keys.is_empty()) {
            output::line(&format!("{}: {}", table.table, table.keys.join(", ")))?;
        }
        Ok(())
    }
}

/// The database that is meant: a URL, or the one of a node.
fn side(text: &str) -> Result<PathBuf, ExitError> {
    let url = match text.starts_with("sqlite:") || text.contains("://") {
        true => text.parse::<DatabaseUrl>().map_err(|why| not_a_side(text, &why))?,
        false => {
            let config = Config::load(Path::new(text), &Overrides::default())?;
            config.database.map(|database| database.url).ok_or_else(|| not_a_side(text, "the node has no database"))?
        }
    };
    match url {
        DatabaseUrl::Sqlite(path) if path.is_file() => Ok(path),
        DatabaseUrl::Sqlite(path) => {
            let message = format!("there is no database {}", path.display());
            Err(ExitError::new("WS-CLI-017", Exit::Unreachable, message, "the file does not exist", "correct the path"))
        }
        DatabaseUrl::Postgres(_) => Err(not_a_side(text, "PostgreSQL is not available in this version")),
    }
}

fn not_a_side(text: &str, why: &str) -> ExitError {
    let message = format!("{} cannot be compared", crate::node::config::redact(text));
    ExitError::new("WS-CLI-016", Exit::Usage, message, why, "give sqlite:PATH or a node's configuration file")
}

/// Compares the tables of two SQLite files, all that either has when `tables` is empty.
fn compare(
    _a: &Path,
    _b: &Path,
    _tables: &[TableName],
    _repair: bool,
    _max: usize,
) -> Result<Vec<TableDiff>, ExitError> {
    Err(ExitError::not_connected("diff"))
}
