//! `publish` under `[view.NAME]`: the log that a view's output is.

use super::check::Check;
use super::views::ViewConfig;
use super::{Config, LogConfig};

/// Adds every mistake about the log that a view publishes.
pub(super) fn check(config: &Config, name: &str, view: &ViewConfig, check: &mut Check<'_>) {
    let Some(log) = &view.publish else { return };
    let at = ["view", name, "publish"];
    check.name(&at, log);
    let mut fail = |what: String, why: &str, fix: &str| check.fail(&at, what, why, fix);
    if view.kind() != "sql" {
        let what = format!("`view.{name}.publish` is set, and the view is made by `{}`", view.kind());
        return fail(what, "what changes in rows is known of views by SQL", "remove it, or define the view by SQL");
    }
    if log == "main" {
        let what = format!("the view {name:?} publishes into main");
        let why = "the node's own log has what its database commits and its peers send";
        return fail(what, why, "give its output a name of its own");
    }
    let taken = |(other, of): (&String, &ViewConfig)| {
        let publishes = other != name && of.publish.as_ref() == Some(log);
        let mirrors = of.is_elsewhere() && of.log_name(other) == *log;
        (publishes || mirrors).then(|| other.clone())
    };
    if let Some(other) = config.view.iter().find_map(taken) {
        let what = format!("the views {other:?} and {name:?} both have the log {log:?}");
        return fail(what, "a log is the output of one view, or what one view reads", "give each a name of its own");
    }
    if let Some(section) = config.log.get(log)
        && let Some(what) = contradicts(section)
    {
        let what = format!("the log {log:?} is the output of the view {name:?}, and its section says `{what}`");
        let why = "it has one order, that in which the view changes, and nobody else appends there";
        return fail(what, why, "keep only `retain` and `fsync` there, or publish under another name");
    }
    let parts = config.log.get(&view.log).and_then(|log| log.partitions);
    if view.is_in_memory() && parts.is_some_and(|parts| parts > 1) {
        let what = format!("the view {name:?} publishes, is kept in memory, and its log has several partitions");
        let why = "after a crash a state in memory takes them again in another order, and would publish other changes than before";
        return fail(what, why, "keep it in a SQLite file or in PostgreSQL");
    }
    if let Some(circle) = circle(config, name) {
        let what = format!("the view {name:?} is derived from its own output: {circle}");
        fail(what, "each change would cause another one, without end", "derive it from another log, or do not publish");
    }
}

/// What in its section cannot be of a view's output.
fn contradicts(section: &LogConfig) -> Option<&'static str> {
    match section {
        LogConfig { append: true, .. } => Some("append = true"),
        LogConfig { mirror: Some(_), .. } => Some("mirror"),
        LogConfig { partitions: Some(count), .. } if *count != 1 => Some("partitions"),
        _ => None,
    }
}

/// The way from a view's log back to its output, as far as it is within this node.
fn circle(config: &Config, name: &str) -> Option<String> {
    let (mut at, mut way) = (name, Vec::new());
    // Longer than there are views no way is without a circle, which is then told of others.
    for _ in 0..=config.view.len() {
        let log = config.view.get(at)?.log.as_str();
        let (by, _) = config.view.iter().find(|(_, view)| view.publish.as_deref() == Some(log))?;
        way.push(format!("{at:?} reads {log:?}, which {by:?} publishes"));
        if by == name {
            return Some(way.join("; "));
        }
        at = by;
    }
    None
}
