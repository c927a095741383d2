//! `watershed diff`

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::{Exit, ExitError, Global, output};
use crate::model::{TableName, Value};
use crate::node::config::{Config, DatabaseUrl, Overrides};
use crate::node::entry_json::write_value;
use crate::sqlite::{
    DiffOptions, Repaired, RowDiff, RowDiffKind, Side, SqliteError, TableDiff, diff_table, list_tables, repair_table,
};

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
    /// Differing rows to show per table
    #[arg(long, value_name = "N", default_value_t = 10)]
    max: usize,
}

/// What was found in one table, and done about it.
struct Found {
    table: TableName,
    diff: TableDiff,
    repaired: Option<Repaired>,
}

impl Found {
    fn is_equal(&self) -> bool {
        self.diff.is_equal()
    }

    /// Sides and columns that are missing, as a text.
    fn missing(&self) -> String {
        let side = |side: &Side| if *side == Side::A { "a" } else { "b" };
        let sides = self.diff.missing_in.iter().map(|missing| format!("missing in {}", side(missing)));
        let only = |columns: &[Box<str>], side: &str| {
            (!columns.is_empty()).then(|| format!("only {side} has the columns {}", columns.join(", ")))
        };
        let (a, b) = (only(&self.diff.columns_only_a, "a"), only(&self.diff.columns_only_b, "b"));
        sides.chain(a).chain(b).collect::<Vec<_>>().join("; ")
    }

    fn rows(&self) -> Vec<String> {
        self.diff.rows.iter().map(row_text).collect()
    }
}

fn row_text(row: &RowDiff) -> String {
    let text = |value: &Value| {
        let mut text = String::new();
        write_value(&mut text, value, "");
        text
    };
    let key = row.key.iter().map(text).collect::<Vec<_>>().join(", ");
    match &row.kind {
        RowDiffKind::Only(Side::A) => format!("({key}) only in a"),
        RowDiffKind::Only(Side::B) => format!("({key}) only in b"),
        RowDiffKind::Values(values) => {
            let each = values.iter().map(|(column, a, b)| format!("{column}: {} in a, {} in b", text(a), text(b)));
            format!("({key}) {}", each.collect::<Vec<_>>().join("; "))
        }
    }
}

impl Diff {
    pub(super) fn run(self, global: &Global) -> Result<(), ExitError> {
        let (a, b) = (side(&self.a)?, side(&self.b)?);
        if self.repair {
            output::confirm(self.yes, &format!("change rows of {} to those of {}", b.display(), a.display()))?;
        }
        let found = self.compare(&a, &b)?;
        let equal = found.iter().all(Found::is_equal);
        print(global.json, &found, equal)?;
        if equal { Ok(()) } else { Err(ExitError::quiet(Exit::Differences)) }
    }

    /// Compares the tables asked for, all that either has when none are; what is repaired is compared again.
    fn compare(&self, a: &Path, b: &Path) -> Result<Vec<Found>, ExitError> {
        let mut tables = self.tables.clone();
        if tables.is_empty() {
            tables = list_tables(a).map_err(failed)?;
            tables.extend(list_tables(b).map_err(failed)?);
            tables.sort();
            tables.dedup();
        }
        let options = DiffOptions { rows_max: self.max, ..DiffOptions::default() };
        let each = tables.into_iter().map(|table| {
            let mut diff = diff_table(a, b, &table, options).map_err(failed)?;
            let mut repaired = None;
            if self.repair && diff.different > 0 {
                repaired = Some(repair_table(a, b, &table, &mut |_| {}).map_err(failed)?);
                diff = diff_table(a, b, &table, options).map_err(failed)?;
            }
            Ok(Found { table, diff, repaired })
        });
        each.collect()
    }
}

fn failed(error: SqliteError) -> ExitError {
    let exit = if error.is_retryable() { Exit::Unreachable } else { Exit::Failure };
    let fix = "is each a SQLite database, and do both have the table? try again when its writer has finished";
    ExitError::new("WS-CLI-022", exit, "the databases cannot be compared", error, fix)
}

fn print(as_json: bool, found: &[Found], equal: bool) -> Result<(), ExitError> {
    let hex = |digest: &[u8; 32]| digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let changed = |found: &Found| found.repaired.map_or(0, |repaired| repaired.written + repaired.removed);
    if as_json {
        let tables = found.iter().map(|one| {
            let diff = &one.diff;
            json!({
                "table": one.table.as_str(), "equal": one.is_equal(), "rows_a": diff.rows_a, "rows_b": diff.rows_b,
                "differ": diff.different, "settled": diff.settled, "repaired": changed(one), "missing": one.missing(),
                "rows": one.rows(), "digest_a": hex(&diff.digest_a), "digest_b": hex(&diff.digest_b),
            })
        });
        return output::object(json!({ "equal": equal, "tables": tables.collect::<Vec<_>>() }));
    }
    let rows: Vec<Vec<String>> = found
        .iter()
        .map(|one| {
            let result = if one.is_equal() { "equal".to_string() } else { format!("DIFFERENT {}", one.missing()) };
            let numbers = [one.diff.rows_a, one.diff.rows_b, one.diff.different, changed(one)];
            let numbers = numbers.iter().map(u64::to_string);
            std::iter::once(one.table.to_string()).chain(numbers).chain([result.trim_end().to_string()]).collect()
        })
        .collect();
    output::line(&output::table(&["TABLE", "ROWS A", "ROWS B", "DIFFER", "REPAIRED", "RESULT"], &rows))?;
    for one in found.iter().filter(|one| !one.diff.rows.is_empty()) {
        output::line(&format!("\n{}\n  {}", one.table, one.rows().join("\n  ")))?;
    }
    Ok(())
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
