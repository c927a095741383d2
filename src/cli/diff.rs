//! `watershed diff`

use std::fmt;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::{Exit, ExitError, Global, block_on, output};
use crate::model::{TableName, Value};
use crate::node::config::{Config, DatabaseUrl, Overrides};
use crate::node::entry_json::write_value;
use crate::postgres::{Endpoint, PgSide};
use crate::sqlite::{SqliteSide, diff_table, list_tables, repair_table};
use crate::view::{Compare, Compared, DiffError, DiffOptions, Repaired, RowDiff, RowDiffKind, Side, TableDiff};

/// Compare two databases table by table
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  watershed diff sqlite:hq.db sqlite:branch-7.db
  watershed diff hq.toml branch-7.toml --tables orders,customers
  watershed diff postgres://app@hq/shop sqlite:branch-7.db
  watershed diff sqlite:hq.db sqlite:branch-7.db --repair --yes     make B like A

Exit code 6 when they differ. Rows that change meanwhile are looked at again.")]
pub(super) struct Diff {
    /// postgres://…, sqlite:PATH, or a node's configuration
    a: String,
    /// postgres://…, sqlite:PATH, or a node's configuration
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

/// Where a side is.
enum Place {
    Sqlite(PathBuf),
    Postgres(Box<Endpoint>),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Sqlite(path) => path.display().fmt(f),
            Place::Postgres(endpoint) => f.write_str(endpoint.name()),
        }
    }
}

impl Place {
    async fn open(&self) -> Result<Box<dyn Compared>, ExitError> {
        Ok(match self {
            Place::Sqlite(path) => Box::new(SqliteSide::open(path).map_err(|error| failed(error.into()))?),
            Place::Postgres(endpoint) => Box::new(PgSide::open(endpoint).await.map_err(ExitError::from)?),
        })
    }
}

impl Diff {
    pub(super) fn run(self, global: &Global) -> Result<(), ExitError> {
        let (a, b) = (side(&self.a)?, side(&self.b)?);
        if self.repair {
            output::confirm(self.yes, &format!("change rows of {b} to those of {a}"))?;
        }
        let found = match (&a, &b) {
            (Place::Sqlite(a), Place::Sqlite(b)) => self.compare_files(a, b)?,
            _ => block_on(self.compare(&a, &b))?,
        };
        let equal = found.iter().all(Found::is_equal);
        print(global.json, &found, equal)?;
        if equal { Ok(()) } else { Err(ExitError::quiet(Exit::Differences)) }
    }

    fn options(&self) -> DiffOptions {
        DiffOptions { rows_max: self.max, ..DiffOptions::default() }
    }

    /// The tables asked for, all that either has when none are.
    fn wanted(&self, a: Vec<TableName>, b: Vec<TableName>) -> Vec<TableName> {
        if !self.tables.is_empty() {
            return self.tables.clone();
        }
        let mut tables: Vec<TableName> = a.into_iter().chain(b).collect();
        tables.sort();
        tables.dedup();
        tables
    }

    /// Compares; what is repaired is compared again.
    async fn compare(&self, a: &Place, b: &Place) -> Result<Vec<Found>, ExitError> {
        let (mut a, mut b) = (a.open().await?, b.open().await?);
        let (tables_a, tables_b) = match self.tables.is_empty() {
            true => (a.tables().await.map_err(failed)?, b.tables().await.map_err(failed)?),
            false => (Vec::new(), Vec::new()),
        };
        let mut compare = Compare { a: &mut *a, b: &mut *b };
        let mut found = Vec::new();
        for table in self.wanted(tables_a, tables_b) {
            let mut diff = compare.table(&table, self.options()).await.map_err(failed)?;
            let mut repaired = None;
            if self.repair && diff.different > 0 {
                repaired = Some(compare.repair(&table).await.map_err(failed)?);
                diff = compare.table(&table, self.options()).await.map_err(failed)?;
            }
            found.push(Found { table, diff, repaired });
        }
        Ok(found)
    }

    /// The same for two SQLite databases, whose values have classes of their own.
    fn compare_files(&self, a: &Path, b: &Path) -> Result<Vec<Found>, ExitError> {
        let failed = |error: crate::sqlite::SqliteError| failed(error.into());
        let tables = self.wanted(list_tables(a).map_err(failed)?, list_tables(b).map_err(failed)?);
        let each = tables.into_iter().map(|table| {
            let mut diff = diff_table(a, b, &table, self.options()).map_err(failed)?;
            let mut repaired = None;
            if self.repair && diff.different > 0 {
                repaired = Some(repair_table(a, b, &table, &mut |_| {}).map_err(failed)?);
                diff = diff_table(a, b, &table, self.options()).map_err(failed)?;
            }
            Ok(Found { table, diff, repaired })
        });
        each.collect()
    }
}

fn failed(error: DiffError) -> ExitError {
    let exit = if error.is_retryable { Exit::Unreachable } else { Exit::Failure };
    let fix = "is each a database that this user may read, and do both have the table? try again when its writer has finished";
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
fn side(text: &str) -> Result<Place, ExitError> {
    let url = match text.starts_with("sqlite:") || text.contains("://") {
        true => text.parse::<DatabaseUrl>().map_err(|why| not_a_side(text, &why))?,
        false => {
            let config = Config::load(Path::new(text), &Overrides::default())?;
            config.database.map(|database| database.url).ok_or_else(|| not_a_side(text, "the node has no database"))?
        }
    };
    match url {
        DatabaseUrl::Sqlite(path) if path.is_file() => Ok(Place::Sqlite(path)),
        DatabaseUrl::Sqlite(path) => {
            let message = format!("there is no database {}", path.display());
            Err(ExitError::new("WS-CLI-017", Exit::Unreachable, message, "the file does not exist", "correct the path"))
        }
        DatabaseUrl::Postgres(url) => Ok(Place::Postgres(Box::new(Endpoint::from_url(&url)?))),
    }
}

fn not_a_side(text: &str, why: &str) -> ExitError {
    let message = format!("{} cannot be compared", crate::node::config::redact(text));
    let fix = "give postgres://USER@HOST/DATABASE, sqlite:PATH or a node's configuration file";
    ExitError::new("WS-CLI-016", Exit::Usage, message, why, fix)
}
