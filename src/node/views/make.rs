//! From the configuration to views: definitions are read here, and stores are named.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::settings::ViewSettings;
use super::views_dir;
use crate::model::TableName;
use crate::node::config::{Config, ConfigError, ViewConfig};
use crate::node::settings::{Exit, NodeError};
use crate::view::ViewBuilds;
use crate::view::plain::{Plain, PlainSettings};

/// How often a state in memory is saved, where nothing is said.
const PERSIST_EVERY: std::time::Duration = std::time::Duration::from_secs(10);

/// What is needed to make a view's builds, again and again.
#[derive(Clone)]
enum Made {
    /// Without SQL, in memory.
    Plain { folder: PathBuf, name: String, settings: PlainSettings },
}

impl Made {
    /// By its section.
    fn of(config: &Config, name: &str, view: &ViewConfig) -> Result<Made, ConfigError> {
        let folder = views_dir(&config.node.data_dir);
        let made = match view.plain() {
            Some(settings) => Made::Plain { folder, name: name.into(), settings },
            None => {
                let (what, why) = ("views by SQL are not available in this version", "`sql` asks for one");
                return Err(config.mistake_in(&format!("view.{name}.sql"), what, why, "write count, latest or reduce"));
            }
        };
        Ok(made)
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
        }
    }

    fn make(&self) -> Result<Arc<dyn ViewBuilds>, NodeError> {
        match self {
            Made::Plain { folder, name, settings } => {
                let builds = Plain::builds(folder, name, settings.clone()).map_err(|error| unusable(name, &error))?;
                Ok(Arc::new(builds))
            }
        }
    }
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
        let made = Made::of(config, name, view)?;
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
            make: Arc::new(move || made.make()),
            persist_every: persist,
        };
        views.insert(name.clone(), settings);
    }
    Ok(views)
}
