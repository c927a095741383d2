//! What single values cannot tell: names, combinations, references between sections.

use std::collections::BTreeMap;

use super::load::Places;
use super::{Config, DatabaseUrl, Mistake, TokenConfig};
use crate::model::{TableName, limits};
use crate::node::Right;

pub(super) struct Check<'a> {
    places: &'a Places<'a>,
    mistakes: &'a mut Vec<Mistake>,
}

impl Check<'_> {
    pub(super) fn fail(&mut self, path: &[&str], what: String, why: &str, fix: &str) {
        let span = self.places.nearest_span(path);
        self.mistakes.push(Mistake { code: "WS-CFG-008", what, why: why.into(), fix: fix.into(), span });
    }

    pub(super) fn name(&mut self, path: &[&str], name: &str) {
        let clean = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
        let whole = !name.is_empty() && name.len() <= limits::NAME_BYTES_MAX && !name.starts_with('.');
        if !clean || !whole {
            let what = format!("`{}`: {name:?} cannot be a name", path.join("."));
            let why = "a name has 1 to 255 letters, digits, `-`, `_` or `.`, and does not begin with a dot";
            self.fail(path, what, why, "choose another one, as in \"branch-7\"");
        }
    }
}

/// Adds every mistake found.
pub(super) fn check(config: &Config, places: &Places<'_>, mistakes: &mut Vec<Mistake>) {
    let mut check = Check { places, mistakes };
    check.name(&["node", "name"], &config.node.name);
    tokens(config, &mut check);
    super::reach::reach(config, places, check.mistakes);
    parent(config, &mut check);
    names(config, &mut check);
    mirrors(config, &mut check);
    rules(config, &mut check);
    databases(config, &mut check);
    super::views::check(config, &mut check);
}

fn tokens(config: &Config, check: &mut Check<'_>) {
    for (index, token) in config.node.tokens.iter().enumerate() {
        let index = index.to_string();
        let path = ["node", "tokens", index.as_str()];
        let TokenConfig { name, token_file, token_env, may, rate: _ } = token;
        check.name(&["node", "tokens", index.as_str(), "name"], name);
        if token_file.is_some() == token_env.is_some() {
            let what = format!("the token {name:?} needs either token_file or token_env");
            check.fail(&path, what, "a token stands in one place, never in this file", "give exactly one of them");
        }
        for right in may {
            if Right::parse(right).is_none() {
                let what = format!("the token {name:?} may {right:?}, which is no right");
                let why = "rights are peer:NODE, read:LOG, append:LOG, query:VIEW (or * for all), operate, metrics";
                check.fail(&["node", "tokens", index.as_str(), "may"], what, why, "use one of these");
            }
        }
    }
}

fn parent(config: &Config, check: &mut Check<'_>) {
    let Some(parent) = &config.parent else {
        if config.send.parent.is_some() {
            let what = "[send.parent] is given, but there is no parent".to_string();
            check.fail(
                &["send", "parent"],
                what,
                "the root of the tree has nobody above it",
                "add [parent], or remove it",
            );
        }
        return;
    };
    if parent.token_env.is_some() && parent.token_file.is_some() {
        let what = "[parent] has both token_env and token_file".to_string();
        check.fail(&["parent", "token_file"], what, "a token stands in one place", "give one of them");
    }
    if parent.retry.first > parent.retry.max || parent.retry.first.0.is_zero() {
        let what = format!("`parent.retry`: first is {}, max is {}", parent.retry.first, parent.retry.max);
        check.fail(&["parent", "retry"], what, "waits are doubled from first up to max", "give 0 < first ≤ max");
    }
    let own = format!("ws://{}", config.node.listen);
    if parent.url.as_str().replace("localhost", "127.0.0.1") == own {
        let what = "the node is its own parent".to_string();
        check.fail(&["parent", "url"], what, "`parent.url` is where this node listens", "name the node above this one");
    }
}

fn names(config: &Config, check: &mut Check<'_>) {
    let sections: [(&str, Vec<&String>); 5] = [
        ("copy", config.copy.keys().collect()),
        ("log", config.log.keys().collect()),
        ("lane", config.lane.keys().collect()),
        ("view", config.view.keys().collect()),
        ("child", config.send.child.keys().collect()),
    ];
    for (section, names) in sections {
        for name in names {
            let child = ["send", "child", name.as_str()];
            let plain = [section, name.as_str()];
            check.name(if section == "child" { &child } else { &plain }, name);
        }
    }
    for (name, log) in &config.log {
        if log.partitions == Some(0) {
            let what = format!("`log.{name}.partitions` is 0");
            check.fail(&["log", name, "partitions"], what, "a log has at least one partition", "leave it out for one");
        }
        if log.partitions.is_some_and(|count| count > limits::FEED_PARTITIONS_MAX) {
            let what = format!("`log.{name}.partitions` is more than {}", limits::FEED_PARTITIONS_MAX);
            check.fail(&["log", name, "partitions"], what, "each is a log of its own on disk", "give fewer");
        }
        if name == "main" && log.partitions.is_some_and(|count| count != 1) {
            let what = "`log.main.partitions` is not 1".to_string();
            let why = "the node's own log keeps one order; feeds may have partitions";
            check.fail(&["log", name, "partitions"], what, why, "remove it, or use [log.NAME]");
        }
        if name == "main" && log.append && config.database.is_some() {
            let what = "`log.main.append` is set, and there is a [database]".to_string();
            let why = "the log of a node with a database has what the database commits";
            check.fail(&["log", name, "append"], what, why, "append to a log of its own: [log.NAME]");
        }
        if name == "main" && log.mirror.is_some() {
            let what = "`log.main.mirror` is set".to_string();
            let why = "the node's own log has what its database commits and its peers send";
            check.fail(&["log", name, "mirror"], what, why, "mirror into a log of its own: [log.NAME]");
        }
        if log.mirror.is_some() && log.partitions.is_some() {
            let what = format!("the log {name:?} is a mirror and says how many partitions it has");
            let why = "a mirror has as many as its original";
            check.fail(&["log", name, "partitions"], what, why, "remove `partitions`");
        }
        let place = [("token_env", log.token_env.is_some()), ("token_file", log.token_file.is_some())];
        let place = place.into_iter().chain([("ca_file", log.ca_file.is_some())]).find(|(_, given)| *given);
        if let Some((key, _)) = place.filter(|_| !log.mirror.as_ref().is_some_and(|of| of.starts_with("http"))) {
            let what = format!("`log.{name}.{key}` is set, and the log is no mirror over HTTP");
            check.fail(&["log", name, key], what, "it is for asking the node of the original", "remove it");
        }
        if log.token_env.is_some() && log.token_file.is_some() {
            let what = format!("[log.{name}] has both token_env and token_file");
            check.fail(&["log", name, "token_file"], what, "a token stands in one place", "give one of them");
        }
        if log.mirror.is_some() && log.append {
            let what = format!("the log {name:?} is a mirror and may be appended to");
            let why = "a mirror keeps the positions of what it copies, so nobody else may append";
            check.fail(&["log", name, "append"], what, why, "keep one of `mirror` and `append`");
        }
    }
}

fn mirrors(config: &Config, check: &mut Check<'_>) {
    let mut known: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, log) in &config.log {
        let of = log.mirror.as_deref().filter(|of| of.starts_with("peer:"));
        if let Some(other) = of.and_then(|of| known.insert(of, name)) {
            let what = format!("the logs {other:?} and {name:?} are mirrors of the same feed of a peer");
            let why = "a link carries a feed once";
            check.fail(&["log", name, "mirror"], what, why, "keep one; programs here read it under one name");
        }
    }
}

fn rules(config: &Config, check: &mut Check<'_>) {
    for (key, rule) in config.send.all() {
        let path: Vec<&str> = key.split('.').take(2).chain(key.splitn(3, '.').nth(2)).collect();
        let at_logs: Vec<&str> = path.iter().copied().chain(["logs"]).collect();
        for log in &rule.logs {
            if log == "main" || key == "send.feed" {
                let what = format!("[{key}] names the log {log:?} under `logs`");
                let why = "`logs` are feeds that a linked node may mirror; what is in main leaves table by table";
                check.fail(&at_logs, what, why, "list tables under `tables`; remove it from `logs`");
            } else {
                check.name(&at_logs, log);
            }
        }
        for (index, filter) in rule.filters.iter().enumerate() {
            let index = index.to_string();
            let at = |last: &'static str| -> Vec<String> {
                path.iter().map(ToString::to_string).chain(["filter".into(), index.clone(), last.into()]).collect()
            };
            if filter.tables.is_empty() {
                let place = at("tables");
                let place: Vec<&str> = place.iter().map(String::as_str).collect();
                let what = format!("a filter of [{key}] names no tables");
                check.fail(&place, what, "a filter is about the tables that it lists", "add `tables = [\"orders\"]`");
            }
        }
    }
    for (name, rule) in &config.table {
        if let Err(error) = name.parse::<TableName>() {
            check.fail(&["table", name], error.to_string(), "[table.NAME] is about a table", "write [table.orders]");
        }
        if !rule.owner.is_empty() && rule.owner_by.is_some() {
            let what = format!("[table.{name}] has both owner and owner_by");
            let why = "a row has one writing node, so one rule says which";
            check.fail(&["table", name, "owner"], what, why, "keep one of them");
        }
        for (column, owner) in &rule.columns {
            if owner.owner.is_empty() == owner.owner_by.is_none() {
                let what = format!("[table.{name}.columns.{column}] needs either owner or owner_by");
                let why = "a column's rule says which node writes it";
                check.fail(&["table", name, "columns", column], what, why, "give exactly one of them");
            }
        }
        if let Some(lane) = rule.lane.as_ref().filter(|lane| *lane != "main" && !config.lane.contains_key(*lane)) {
            let what = format!("[table.{name}] is in the lane {lane:?}, which is not configured");
            check.fail(&["table", name, "lane"], what, "a lane has its priority in a section", "add [lane.NAME]");
        }
    }
}

fn databases(config: &Config, check: &mut Check<'_>) {
    let own = config.database.as_ref().map(|database| &database.url);
    for (name, copy) in &config.copy {
        if Some(&copy.url) == own {
            let what = format!("[copy.{name}] is the node's own database");
            check.fail(&["copy", name, "url"], what, "a copy is another database", "name another one");
        }
        if own.is_none() {
            let what = format!("[copy.{name}] has nothing to copy from");
            check.fail(
                &["copy", name, "url"],
                what,
                "a copy follows the node's own database, and there is no [database]",
                "add [database]",
            );
        }
        if copy.tables.is_empty() {
            let what = format!("[copy.{name}] copies no tables");
            check.fail(&["copy", name, "tables"], what, "nothing is copied unless listed", "write tables = [\"*\"]");
        }
    }
    if let Some(DatabaseUrl::Sqlite(path)) = own
        && path.starts_with(&config.node.data_dir)
    {
        let what = "the database lies inside the node's data folder".to_string();
        let why = "the data folder belongs to the logs: it may be thrown away, the database may not";
        check.fail(&["database", "url"], what, why, "put the database beside it");
    }
}
