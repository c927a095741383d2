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
use crate::sqlite::views::{SqlitePlace, SqliteViewOptions, SqliteViews};
use crate::view::ViewBuilds;
use crate::view::sql::{Definition, Dialect};

/// How often a state in memory is saved, where nothing is said.
const PERSIST_EVERY: std::time::Duration = std::time::Duration::from_secs(10);

/// What is needed to make a view's builds, again and again.
#[derive(Clone)]
struct Made {
    name: String,
    sql: PathBuf,
    place: Place,
}

#[derive(Clone)]
enum Place {
    Sqlite(SqlitePlace),
}

impl Place {
    fn dialect(&self) -> Dialect {
        match self {
            Place::Sqlite(_) => Dialect::Sqlite,
        }
    }
}

impl Made {
    /// The definition as it stands now.
    fn definition(&self) -> Result<Definition, String> {
        let text = read(&self.sql)?;
        let file = self.sql.display().to_string();
        Definition::parse(&file, &text, self.place.dialect()).map_err(|error| error.to_string())
    }

    fn make(&self) -> Result<Arc<dyn ViewBuilds>, NodeError> {
        let definition = Arc::new(self.definition().map_err(|why| {
            let what = format!("the view {} has no usable definition: {why}", self.name);
            let (reason, fix) = ("a view is what its definition says", "correct it; what answers stays as it is");
            NodeError::new("WS-VIEW-034", Exit::Configuration, what, reason, fix)
        })?);
        match &self.place {
            Place::Sqlite(place) => {
                let options = SqliteViewOptions::new(self.name.clone(), definition, place.clone());
                Ok(Arc::new(SqliteViews::new(options)))
            }
        }
    }
}

/// A definition's text.
fn read(path: &Path) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("{} cannot be read: {error}", path.display());
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(limits::VIEW_SQL_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > limits::VIEW_SQL_BYTES_MAX {
        return Err(format!("{} has more than {} bytes", path.display(), limits::VIEW_SQL_BYTES_MAX));
    }
    String::from_utf8(bytes).map_err(|error| format!("{} is not UTF-8 text: {error}", path.display()))
}

fn place(config: &Config, name: &str, view: &ViewConfig) -> Result<Place, ConfigError> {
    match &view.store {
        ViewStoreUrl::Memory => {
            Ok(Place::Sqlite(SqlitePlace::Memory(views_dir(&config.node.data_dir).join(format!("{name}.db")))))
        }
        ViewStoreUrl::Database(DatabaseUrl::Sqlite(path)) => Ok(Place::Sqlite(SqlitePlace::File(path.clone()))),
        ViewStoreUrl::Database(DatabaseUrl::Postgres(_)) => Err(config.mistake_in(
            &format!("view.{name}.store"),
            "views in PostgreSQL are not available in this version",
            "a view is kept in SQLite, or in memory",
            "write store = \"sqlite:views.db\"",
        )),
    }
}

/// The views of a configuration, with the tables of main that they look at.
///
/// # Errors
/// A definition is wrong.
pub(in crate::node) fn configured(config: &Config) -> Result<BTreeMap<String, ViewSettings>, ConfigError> {
    let mut views = BTreeMap::new();
    for (name, view) in &config.view {
        // A section without a definition has been refused when the file was read.
        let Some(sql) = view.sql.clone() else { continue };
        let made = Made { name: name.clone(), sql, place: place(config, name, view)? };
        let definition = made.definition().map_err(|why| {
            let what = format!("the view {name:?} has no usable definition");
            config.mistake_in(&format!("view.{name}.sql"), &what, &why, "correct it there")
        })?;
        let tables: Vec<TableName> = definition.tables().into_iter().cloned().collect();
        let persist =
            (view.store == ViewStoreUrl::Memory).then(|| view.persist_every.map_or(PERSIST_EVERY, |every| every.0));
        let settings = ViewSettings {
            log: view.log_name(name).into(),
            kind: "sql".into(),
            store: view.store.to_string().into(),
            tables: Some(tables),
            make: Arc::new(move || made.make()),
            persist_every: persist,
        };
        views.insert(name.clone(), settings);
    }
    Ok(views)
}
