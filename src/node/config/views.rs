//! `[view.NAME]`: views of logs.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::Check;
use super::sections::rebase;
use super::{Config, DatabaseUrl, Period, ViewStoreUrl, nearest};

/// `[view.NAME]`: a view of a log. Its definition is a file of SQL.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ViewConfig {
    /// The log that it is derived from: `main`, a feed of this node, or `https://HOST:PORT/v1/logs/NAME`, a feed elsewhere.
    #[serde(default = "main_log")]
    pub log: String,
    /// `sqlite:PATH` (relative to the file; a file of its own), a postgres URL (a schema of its own), or `memory`.
    pub store: ViewStoreUrl,
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
    /// For `memory`: how often its state is saved. Default: 10s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub persist_every: Option<Period>,
}

fn main_log() -> String {
    "main".into()
}

impl ViewConfig {
    pub(super) fn settle(&mut self, base: &Path) {
        if let ViewStoreUrl::Database(DatabaseUrl::Sqlite(path)) = &mut self.store {
            rebase(path, base);
        }
        [&mut self.sql, &mut self.token_file, &mut self.ca_file]
            .into_iter()
            .flatten()
            .for_each(|path| rebase(path, base));
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
        if view.log != "main" && !view.is_elsewhere() && !config.log.contains_key(&view.log) {
            let what = format!("the view {name:?} reads the log {:?}, which is not configured", view.log);
            let known = config.log.keys().map(String::as_str).chain(["main"]);
            let fix = match nearest(&view.log, known) {
                Some(near) => format!("did you mean {near:?}? or add [log.{}]", view.log),
                None => format!("add [log.{}]", view.log),
            };
            check.fail(&at("log"), what, "a view is derived from a log of this node", &fix);
        }
        if view.sql.is_none() {
            let what = format!("[view.{name}] has no definition");
            let fix = format!("add `sql = \"{name}.sql\"`");
            check.fail(&["view", name], what, "a definition says what becomes of each change", &fix);
        }
        if view.persist_every.is_some() && view.store != ViewStoreUrl::Memory {
            let what = format!("`view.{name}.persist_every` is set, and the view is not kept in memory");
            let why = "every other store has its state durable with every commit";
            check.fail(&at("persist_every"), what, why, "remove it");
        }
        if view.persist_every.is_some_and(|every| every.0.is_zero()) {
            let what = format!("`view.{name}.persist_every` is 0");
            check.fail(&at("persist_every"), what, "saving takes time", "write \"10s\"");
        }
        let own = config.database.as_ref().map(|database| &database.url);
        if let ViewStoreUrl::Database(url) = &view.store
            && own == Some(url)
        {
            let what = format!("the view {name:?} is kept in the node's own database");
            let why = "what a view writes would be captured as if the application had written it";
            check.fail(&at("store"), what, why, "keep it in a database of its own, or in a SQLite file");
        }
    }
}
