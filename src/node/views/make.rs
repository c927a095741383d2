//! From the configuration to views: definitions are read here, and stores are named.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::settings::ViewSettings;
use super::views_dir;
use crate::model::{TableName, limits};
use crate::node::config::{Config, ConfigError, DatabaseUrl, ViewConfig, ViewStoreUrl};
use crate::node::settings::{Exit, NodeError};
use crate::postgres::{Endpoint, PgViewOptions, PgViews};
use crate::sqlite::{SqlitePlace, SqliteViewOptions, SqliteViews};
use crate::view::ViewBuilds;
use crate::view::plain::{Plain, PlainSettings};
use crate::view::sql::{Definition, Dialect};

/// How often a state in memory is saved, where nothing is said.
const PERSIST_EVERY: std::time::Duration = std::time::Duration::from_secs(10);

/// What is needed to make a view's builds, again and again.
#[derive(Clone)]
enum Made {
    /// Without SQL, in memory.
    Plain { folder: PathBuf, name: String, settings: PlainSettings },
    /// By a file of SQL.
    Sql { name: String, file: PathBuf, place: Place, changes: bool, publish: bool },
}

/// Where a view by SQL is kept.
#[derive(Clone)]
enum Place {
    Sqlite(SqlitePlace),
    /// The database's URL, and where files of large transactions are put.
    Postgres(String, PathBuf),
}

impl Place {
    fn of(config: &Config, name: &str, store: &ViewStoreUrl) -> Place {
        let saved = || views_dir(&config.node.data_dir).join(format!("{name}.db"));
        match store {
            ViewStoreUrl::Memory => Place::Sqlite(SqlitePlace::Memory(saved())),
            ViewStoreUrl::Database(DatabaseUrl::Sqlite(path)) => Place::Sqlite(SqlitePlace::File(path.clone())),
            ViewStoreUrl::Database(DatabaseUrl::Postgres(url)) => {
                Place::Postgres(url.clone(), config.node.data_dir.clone())
            }
        }
    }

    fn dialect(&self) -> Dialect {
        match self {
            Place::Sqlite(_) => Dialect::Sqlite,
            Place::Postgres(..) => Dialect::Postgres,
        }
    }
}

impl Made {
    /// By its section, whose combinations have been checked when the file was read.
    fn of(config: &Config, name: &str, view: &ViewConfig) -> Made {
        let folder = views_dir(&config.node.data_dir);
        match (view.plain(), &view.sql) {
            (Some(settings), _) => Made::Plain { folder, name: name.into(), settings },
            (None, file) => Made::Sql {
                name: name.into(),
                file: file.clone().unwrap_or_default(),
                place: Place::of(config, name, view.store.as_ref().unwrap_or(&ViewStoreUrl::Memory)),
                changes: view.changes,
                publish: view.publish.is_some(),
            },
        }
    }

    /// The tables that it looks at; `None`: all.
    fn tables(&self) -> Result<Option<Vec<TableName>>, String> {
        match self {
            Made::Plain { settings, .. } => {
                Plain::new(settings)?;
                let tables: Result<Vec<TableName>, _> = settings.tables().iter().map(|name| name.parse()).collect();
                let tables = tables.map_err(|error: crate::model::TableNameError| error.to_string())?;
                Ok((!tables.is_empty()).then_some(tables))
            }
            Made::Sql { file, place, .. } => {
                let definition = definition(file, place.dialect())?;
                Ok(Some(definition.tables().into_iter().cloned().collect()))
            }
        }
    }

    fn make(&self) -> Result<Arc<dyn ViewBuilds>, NodeError> {
        match self {
            Made::Plain { folder, name, settings } => {
                let builds = Plain::builds(folder, name, settings.clone()).map_err(|error| unusable(name, &error))?;
                Ok(Arc::new(builds))
            }
            Made::Sql { name, file, place, changes, publish } => {
                let definition = definition(file, place.dialect()).map_err(|why| unusable(name, &why))?;
                let definition = Arc::new(definition);
                match place {
                    Place::Sqlite(place) => {
                        let options = SqliteViewOptions::new(name.clone(), definition, place.clone());
                        Ok(Arc::new(SqliteViews::new(SqliteViewOptions {
                            changes: *changes,
                            publish: *publish,
                            ..options
                        })))
                    }
                    Place::Postgres(url, spool_dir) => {
                        let endpoint = Endpoint::from_url(url).map_err(|error| unusable(name, &error))?;
                        let spool_dir = spool_dir.clone();
                        let options = PgViewOptions {
                            name: name.clone(),
                            definition,
                            endpoint,
                            spool_dir,
                            changes: *changes,
                            publish: *publish,
                        };
                        Ok(Arc::new(PgViews::new(options).map_err(|error| unusable(name, &error))?))
                    }
                }
            }
        }
    }
}

/// A definition as it stands now; the error says where it is wrong.
fn definition(file: &Path, dialect: Dialect) -> Result<Definition, String> {
    let text = read(file)?;
    Definition::parse(&file.display().to_string(), &text, dialect).map_err(|error| error.to_string())
}

fn read(path: &Path) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("{} cannot be read: {error}", path.display());
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(limits::VIEW_SQL_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > limits::VIEW_SQL_BYTES_MAX {
        return Err(format!("{} has more than {} bytes", path.display(), limits::VIEW_SQL_BYTES_MAX));
    }
    let text = String::from_utf8(bytes).map_err(|error| format!("{} is not UTF-8 text: {error}", path.display()))?;
    // Some editors begin a file with a mark of the byte order.
    Ok(match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.into(),
        None => text,
    })
}

fn unusable(name: &str, why: &dyn std::fmt::Display) -> NodeError {
    let what = format!("the view {name} cannot be made: {why}");
    let (reason, fix) = ("a view is what its definition says", "correct it; what answers stays as it is");
    NodeError::new("WS-VIEW-034", Exit::Configuration, what, reason, fix)
}

/// The views of a configuration, with the tables of main that they look at.
///
/// # Errors
/// A definition is wrong.
pub(in crate::node) fn configured(config: &Config) -> Result<BTreeMap<String, ViewSettings>, ConfigError> {
    let mut views = BTreeMap::new();
    for (name, view) in &config.view {
        let made = Made::of(config, name, view);
        let kind = view.kind();
        let tables = made.tables().map_err(|why| {
            let what = format!("the view {name:?} has no usable definition");
            config.mistake_in(&format!("view.{name}.{kind}"), &what, &why, "correct it there")
        })?;
        let persist = view.is_in_memory().then(|| view.persist_every.map_or(PERSIST_EVERY, |every| every.0));
        let settings = ViewSettings {
            log: view.log_name(name).into(),
            kind: kind.into(),
            store: view.store.as_ref().map_or_else(|| "memory".into(), ToString::to_string).into(),
            tables,
            publish: view.publish.as_deref().map(Into::into),
            make: Arc::new(move || made.make()),
            persist_every: persist,
        };
        views.insert(name.clone(), settings);
    }
    Ok(views)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_definition_is_read_as_editors_leave_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("v.sql");
        for text in ["-- setup\n", "\u{feff}-- setup\n"] {
            std::fs::write(&path, text).expect("written");
            assert_eq!(read(&path).as_deref(), Ok("-- setup\n"));
        }
        std::fs::write(&path, b"\xff").expect("written");
        assert!(read(&path).is_err_and(|why| why.contains("not UTF-8")));
    }
}
