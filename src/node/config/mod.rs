//! The configuration: what `watershed.toml` may say, and what is wrong with it.
//!
//! Everything in the file is read and checked here; expressions are kept as text with their place, and whoever
//! compiles them reports what is wrong with [`Config::mistake_at`].

mod check;
mod error;
mod events;
mod keys;
mod load;
mod published;
mod rate;
mod reach;
mod ready;
mod rules;
mod secret;
mod sections;
mod values;
mod views;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;

pub use error::{ConfigError, FileText, Mistake};
pub(in crate::node) use events::EventsFile;
pub use events::{EventsConfig, EventsDatabase};
pub use keys::{describe, known_keys, nearest, resolve, schema};
pub use load::Overrides;
pub(in crate::node) use load::read;
pub use rate::{ByteRate, RateConfig, RequestRate};
pub use rules::{ColumnRule, Conflicts, FilterOp, FilterRule, LaneConfig, SendConfig, SendRule, TableRule};
pub(in crate::node) use secret::secret;
pub use sections::{
    ApplyMode, CopyConfig, DatabaseConfig, Engine, Fsync, LogConfig, NodeConfig, ParentConfig, RetainConfig,
    RetryConfig, TlsConfig, TokenConfig,
};
pub use values::{
    DatabaseUrl, Expression, IdRange, Listen, ParentUrl, Period, Size, TablePattern, ViewStoreUrl, redact,
};
pub use views::ViewConfig;

/// A configuration that has been read and checked. Paths in it are absolute.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "watershed.toml")]
pub struct Config {
    /// This process.
    pub node: NodeConfig,
    /// The node above; left out at the root.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<ParentConfig>,
    /// The node's database; left out for a node that is only a log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database: Option<DatabaseConfig>,
    /// Other databases that follow this node's log.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(default)]
    pub copy: BTreeMap<String, CopyConfig>,
    /// The node's own log `main`, and feeds.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(default)]
    pub log: BTreeMap<String, LogConfig>,
    /// What leaves, and to whom; nothing by default.
    #[schemars(default)]
    pub send: SendConfig,
    /// Who writes which rows.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(default)]
    pub table: BTreeMap<String, TableRule>,
    /// Tables that share a cursor.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(default)]
    pub lane: BTreeMap<String, LaneConfig>,
    /// Projections of logs.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(default)]
    pub view: BTreeMap<String, ViewConfig>,
    /// Append-only tables copied to other databases.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events: Option<EventsConfig>,
    #[serde(skip)]
    file: Arc<FileText>,
}

impl Config {
    /// The file that it was read from, as the path was given.
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// Whether that is a log of this node, besides `main`: a feed, or a view's output.
    pub(in crate::node) fn has_log(&self, name: &str) -> bool {
        self.log.contains_key(name) || self.view.values().any(|view| view.publish.as_deref() == Some(name))
    }

    /// The settings of the node's own log.
    pub fn main_log(&self) -> LogConfig {
        self.log.get("main").cloned().unwrap_or_default()
    }

    /// The 1-based line of a place in the file.
    pub fn line_of(&self, span: &Range<usize>) -> Option<usize> {
        self.file.line(span.start).map(|(line, ..)| line)
    }

    /// An error about an expression (or another place) in the file, found by whoever uses it. Code `WS-CFG-012`.
    pub fn mistake_at(&self, span: &Range<usize>, what: &str, why: &str, fix: &str) -> ConfigError {
        let (what, why, fix) = (what.into(), why.into(), fix.into());
        let mistake = Mistake { code: "WS-CFG-012", what, why, fix, span: Some(span.clone()) };
        ConfigError::new(vec![mistake], self.file.clone())
    }

    /// The place of the value at a dotted path, for pointing at it.
    pub fn span_of(&self, path: &str) -> Option<Range<usize>> {
        let document = toml::de::DeTable::parse(&self.file.text).ok()?;
        let keys: Vec<&str> = path.split('.').collect();
        load::Places::of(document.into_inner()).nearest_span(&keys)
    }

    /// An error about the value at a dotted path. Code `WS-CFG-008`.
    pub fn mistake_in(&self, path: &str, what: &str, why: &str, fix: &str) -> ConfigError {
        let (what, why, fix) = (what.into(), why.into(), fix.into());
        let mistake = Mistake { code: "WS-CFG-008", what, why, fix, span: self.span_of(path) };
        ConfigError::new(vec![mistake], self.file.clone())
    }

    fn settle(&mut self, base: &Path) {
        self.node.settle(base);
        self.parent.iter_mut().for_each(|parent| parent.settle(base));
        self.database.iter_mut().for_each(|database| database.settle(base));
        self.copy.values_mut().for_each(|copy| copy.settle(base));
        self.log.values_mut().for_each(|log| log.settle(base));
        self.view.values_mut().for_each(|view| view.settle(base));
        self.events.iter_mut().for_each(|events| events.settle(base));
    }
}

#[cfg(test)]
mod tests;
