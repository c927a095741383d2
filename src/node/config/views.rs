//! `[view.NAME]`: views of logs.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::Check;
use super::sections::rebase;
use super::{Config, DatabaseUrl, Period, ViewStoreUrl, nearest};
use crate::model::limits;
use crate::view::plain::{CountSettings, LatestSettings, PlainSettings, ReduceSettings};

/// `[view.NAME]`: a view of a log. Its definition is a file of SQL.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ViewConfig {
    /// The log that it is derived from: `main`, a feed of this node, or `https://HOST:PORT/v1/logs/NAME`, a feed elsewhere.
    #[serde(default = "main_log")]
    pub log: String,
    /// `sqlite:PATH` (relative to the file; a file of its own), a postgres URL (a schema of its own), or `memory`, which is
    /// where views without SQL are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<ViewStoreUrl>,
    /// Environment variable with our token at the node of a log elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_env: Option<String>,
    /// File with our token there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// PEM file with the authority that signed its certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// File with its definition: SQL, with `-- on insert TABLE` before the statements for a change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sql: Option<PathBuf>,
    /// Whether what changes in its rows is kept for a while, for `GET /v1/views/NAME/changes`; by SQL.
    #[serde(default)]
    pub changes: bool,
    /// Its output is a log of this node with this name: what changes in its rows, each with the row before and after; by SQL.
    /// A section `[log.NAME]` may say how long that is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publish: Option<String>,
    /// Instead of SQL: how many entries and rows there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<CountSettings>,
    /// Instead of SQL: the last row of every key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latest: Option<LatestSettings>,
    /// Instead of SQL: a state that every row changes, in CEL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reduce: Option<ReduceSettings>,
    /// For `memory`: how often its state is saved. Default: 10s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub persist_every: Option<Period>,
}

fn main_log() -> String {
    "main".into()
}

impl ViewConfig {
    pub(super) fn settle(&mut self, base: &Path) {
        if let Some(ViewStoreUrl::Database(DatabaseUrl::Sqlite(path))) = &mut self.store {
            rebase(path, base);
        }
        [&mut self.sql, &mut self.token_file, &mut self.ca_file]
            .into_iter()
            .flatten()
            .for_each(|path| rebase(path, base));
    }

    /// What it is made by: `sql`, `count`, `latest` or `reduce`.
    pub fn kind(&self) -> &'static str {
        match self.plain() {
            None => "sql",
            Some(PlainSettings::Count(_)) => "count",
            Some(PlainSettings::Latest(_)) => "latest",
            Some(PlainSettings::Reduce(_)) => "reduce",
        }
    }

    /// What it is made by, without SQL.
    pub fn plain(&self) -> Option<PlainSettings> {
        let count = self.count.clone().map(PlainSettings::Count);
        let latest = self.latest.clone().map(PlainSettings::Latest);
        count.or(latest).or(self.reduce.clone().map(PlainSettings::Reduce))
    }

    /// Whether it is kept in memory.
    pub fn is_in_memory(&self) -> bool {
        self.store.as_ref().is_none_or(|store| *store == ViewStoreUrl::Memory)
    }

    /// Whether its log is one of another node.
    pub fn is_elsewhere(&self) -> bool {
        self.log.contains("://")
    }

    /// The log of this node that it follows: of a log elsewhere a mirror that is its own.
    pub fn log_name(&self, view: &str) -> String {
        if self.is_elsewhere() { format!("view.{view}") } else { self.log.clone() }
    }
}

/// Adds every mistake found in the sections of views.
pub(super) fn check(config: &Config, check: &mut Check<'_>) {
    if config.view.len() > limits::VIEWS_MAX {
        let what = format!("there are more than {} views", limits::VIEWS_MAX);
        check.fail(&["view"], what, "each follows its log on its own", "have one view keep several tables");
    }
    for (name, view) in &config.view {
        let at = |key: &'static str| ["view", name.as_str(), key];
        let places = [("token_env", view.token_env.is_some()), ("token_file", view.token_file.is_some())];
        let places = places.into_iter().chain([("ca_file", view.ca_file.is_some())]);
        for (key, _) in places.filter(|(_, given)| *given && !view.is_elsewhere()) {
            let what = format!("`view.{name}.{key}` is set, and the log of the view is one of this node");
            check.fail(&at(key), what, "it is for asking another node", "remove it");
        }
        if view.token_env.is_some() && view.token_file.is_some() {
            let what = format!("[view.{name}] has both token_env and token_file");
            check.fail(&at("token_file"), what, "a token stands in one place", "give one of them");
        }
        if view.is_elsewhere() && config.log.contains_key(&view.log_name(name)) {
            let what = format!(
                "the view {name:?} keeps what it reads in the log {:?}, which is configured",
                view.log_name(name)
            );
            check.fail(&at("log"), what, "one log is one thing", "give the view, or the log, another name");
        }
        if view.log != "main" && !view.is_elsewhere() && !config.has_log(&view.log) {
            let what = format!("the view {name:?} reads the log {:?}, which is not configured", view.log);
            let published = config.view.values().filter_map(|view| view.publish.as_deref());
            let known = config.log.keys().map(String::as_str).chain(published).chain(["main"]);
            let fix = match nearest(&view.log, known) {
                Some(near) => format!("did you mean {near:?}? or add [log.{}]", view.log),
                None => format!("add [log.{}]", view.log),
            };
            check.fail(&at("log"), what, "a view is derived from a log of this node", &fix);
        }
        definition(name, view, check);
        super::published::check(config, name, view, check);
        if view.persist_every.is_some() && !view.is_in_memory() {
            let what = format!("`view.{name}.persist_every` is set, and the view is not kept in memory");
            let why = "every other store has its state durable with every commit";
            check.fail(&at("persist_every"), what, why, "remove it");
        }
        if view.persist_every.is_some_and(|every| every.0.is_zero()) {
            let what = format!("`view.{name}.persist_every` is 0");
            check.fail(&at("persist_every"), what, "saving takes time", "write \"10s\"");
        }
        let own = config.database.as_ref().map(|database| &database.url);
        if let Some(ViewStoreUrl::Database(url)) = &view.store
            && own == Some(url)
        {
            let what = format!("the view {name:?} is kept in the node's own database");
            let why = "what a view writes would be captured as if the application had written it";
            check.fail(&at("store"), what, why, "keep it in a database of its own, or in a SQLite file");
        }
    }
}

/// There is one definition, and a place that suits it.
fn definition(name: &str, view: &ViewConfig, check: &mut Check<'_>) {
    let given = [
        ("sql", view.sql.is_some()),
        ("count", view.count.is_some()),
        ("latest", view.latest.is_some()),
        ("reduce", view.reduce.is_some()),
    ];
    let mut given = given.into_iter().filter(|(_, given)| *given).map(|(key, _)| key);
    let Some(first) = given.next() else {
        let what = format!("[view.{name}] has no definition");
        let fix = format!("add `sql = \"{name}.sql\"`, or count, latest or reduce");
        return check.fail(&["view", name], what, "a definition says what becomes of each change", &fix);
    };
    if let Some(second) = given.next() {
        let what = format!("[view.{name}] has several definitions: {first} and {second}");
        return check.fail(&["view", name, second], what, "a view is one thing", "keep one of them");
    }
    if first != "sql" && view.changes {
        let what = format!("`view.{name}.changes` is set, and the view is made by `{first}`");
        check.fail(&["view", name, "changes"], what, "changes are kept by views by SQL", "remove it");
    }
    if first == "sql" && view.store.is_none() {
        let what = format!("[view.{name}] does not say where it is kept");
        let fix = format!("add `store = \"sqlite:{name}.db\"`, or \"memory\"");
        check.fail(&["view", name], what, "SQL is carried out by a database", &fix);
    }
    if first != "sql" && !view.is_in_memory() {
        let what = format!("a view by `{first}` is kept in memory");
        check.fail(&["view", name, "store"], what, "it needs no database", "remove `store`, or write \"memory\"");
    }
}
