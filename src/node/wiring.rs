//! From the configuration to what a node is started with.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::certificate::ServerTls;
use super::config::{
    ApplyMode, Config, ConfigError, DatabaseUrl, Fsync, LogConfig, RateConfig, SendRule, TablePattern, secret,
};
use super::feeds::{FeedSpec, MirrorFrom, MirrorSettings};
use super::policy::{Policy, SendPolicy};
use super::rights::{Right, Token};
use super::settings::{CopySettings, DatabaseSettings, LogSettings, Parent, Secret, Settings};
use super::store::Store;
use super::views::{ViewSettings, configured};
use crate::model::{TableName, limits};
use crate::postgres::Endpoint;
use crate::stream::{CelFilter, CelRule, Expression, Owner, Ownership, Selection};
use crate::view::Ids;

/// A segment is at most this part of the byte budget, so that retention has something to remove.
const SEGMENTS_IN_BUDGET: u64 = 8;
/// The smallest segment.
const SEGMENT_BYTES_MIN: u64 = 64 << 10;

impl Settings {
    /// Compiles expressions and turns sections into settings.
    ///
    /// # Errors
    /// What this version cannot do, and expressions that are wrong; each points at its line.
    pub fn from_config(config: &Config) -> Result<Settings, ConfigError> {
        config.ready()?;
        let database = config.database.as_ref().map(|database| {
            Ok::<_, ConfigError>(DatabaseSettings {
                store: store(config, "database.url", &database.url)?,
                fire_triggers: database.fire_triggers,
                exact: database.apply == ApplyMode::Exact,
                slot_retain_max: database.slot_retain_max.map(|size| size.0),
                ids: database.id_range.map(|range| Ids { first: range.first, last: range.last }),
            })
        });
        let database = database.transpose()?;
        let views = configured(config)?;
        let mut policy = policy(config)?;
        policy.viewed = viewed(&views);
        Ok(Settings {
            name: config.node.name.clone(),
            data_dir: config.node.data_dir.clone(),
            listen: config.node.listen.0,
            parent: parent(config)?,
            database,
            copies: copies(config)?,
            policy,
            log: log_settings(config),
            append_main: config.main_log().append,
            feeds: feeds(config),
            mirrors: mirrors(config)?,
            views,
            tokens: tokens(config)?,
            tls: tls(config)?,
            cors: config.node.cors.iter().map(|origin| origin.as_str().into()).collect(),
        })
    }
}

fn parent(config: &Config) -> Result<Option<Parent>, ConfigError> {
    let Some(section) = &config.parent else { return Ok(None) };
    let parent = Parent {
        url: section.url.as_str().to_owned(),
        token: config.parent_token()?.map(|token| Secret(token.into())),
        ca_file: section.ca_file.clone(),
        allow_plaintext: section.allow_plaintext,
        retry_first: section.retry.first.0,
        retry_max: section.retry.max.0,
    };
    parent.dial().map_err(|refused| {
        config.mistake_in(
            "parent",
            &format!("the parent cannot be dialled: {}", refused.what()),
            refused.why(),
            refused.advice(),
        )
    })?;
    Ok(Some(parent))
}

fn tls(config: &Config) -> Result<Option<Arc<ServerTls>>, ConfigError> {
    let Some(files) = &config.node.tls else { return Ok(None) };
    ServerTls::open(&files.cert_file, &files.key_file).map(|tls| Some(Arc::new(tls))).map_err(|why| {
        let fix = "put the chain (the node's own certificate first) and its key there, in PEM";
        config.mistake_in("node.tls", "TLS cannot be spoken with these files", &why, fix)
    })
}

fn copies(config: &Config) -> Result<Vec<CopySettings>, ConfigError> {
    let copies = config.copy.iter().map(|(name, copy)| {
        let store = store(config, &format!("copy.{name}.url"), &copy.url)?;
        let (name, tables) = (name.clone(), selection(&copy.tables));
        Ok(CopySettings { name, database: DatabaseSettings::new(store), tables })
    });
    copies.collect()
}

fn store(config: &Config, key: &str, url: &DatabaseUrl) -> Result<Store, ConfigError> {
    let url = match url {
        DatabaseUrl::Sqlite(path) => return Ok(Store::Sqlite(path.clone())),
        DatabaseUrl::Postgres(url) => url,
    };
    Endpoint::from_url(url).map(|endpoint| Store::Postgres(Box::new(endpoint))).map_err(|error| {
        config.mistake_in(
            key,
            &format!("{key} cannot be used"),
            &error.words(),
            "write postgres://USER@HOST:PORT/DATABASE",
        )
    })
}

fn log_settings(config: &Config) -> LogSettings {
    let log = config.main_log();
    let default = LogSettings::default();
    let retain_bytes = log.retain.bytes.map_or(default.retain_bytes, |size| size.0);
    let retain_time =
        log.retain.time.map_or(default.retain_time, |period: super::config::Period| -> Duration { period.0 });
    LogSettings {
        retain_time,
        retain_bytes,
        fsync: log.fsync == Fsync::Always,
        segment_bytes: (retain_bytes / SEGMENTS_IN_BUDGET).clamp(SEGMENT_BYTES_MIN, limits::SEGMENT_BYTES_DEFAULT),
    }
}

fn feed(log: &LogConfig) -> FeedSpec {
    FeedSpec {
        partitions: log.partitions.unwrap_or(1),
        append: log.append,
        retain_ms: log.retain.time.map(|period| period.0.as_millis() as u64),
        retain_bytes: log.retain.bytes.map(|size| size.0),
        fsync: log.fsync == Fsync::Always,
        mirror: log.mirror.clone(),
        ..FeedSpec::default()
    }
}

fn feeds(config: &Config) -> BTreeMap<String, FeedSpec> {
    let feeds = config.log.iter().filter(|(name, log)| *name != "main" && log.mirror.is_none());
    let mut feeds: BTreeMap<String, FeedSpec> = feeds.map(|(name, log)| (name.clone(), feed(log))).collect();
    for (name, view) in &config.view {
        if let Some(log) = &view.publish {
            let spec = config.log.get(log).map(feed).unwrap_or_default();
            feeds.insert(log.clone(), FeedSpec { append: false, view: Some(name.clone()), ..spec });
        }
    }
    feeds
}

fn mirrors(config: &Config) -> Result<BTreeMap<String, MirrorSettings>, ConfigError> {
    let mut mirrors = BTreeMap::new();
    for (name, log) in &config.log {
        let Some(text) = &log.mirror else { continue };
        let token = secret(log.token_env.as_deref(), log.token_file.as_deref());
        let from = mirrored(config, &format!("log.{name}.mirror"), text, token, log.ca_file.as_ref())?;
        let spec = FeedSpec { mirror: Some(from.to_string()), append: false, ..feed(log) };
        mirrors.insert(name.clone(), MirrorSettings { from, spec });
    }
    for (name, view) in config.view.iter().filter(|(_, view)| view.is_elsewhere()) {
        let token = secret(view.token_env.as_deref(), view.token_file.as_deref());
        let from = mirrored(config, &format!("view.{name}.log"), &view.log, token, view.ca_file.as_ref())?;
        let spec = FeedSpec { mirror: Some(from.to_string()), append: false, ..FeedSpec::default() };
        mirrors.insert(view.log_name(name), MirrorSettings { from, spec });
    }
    Ok(mirrors)
}

/// A feed elsewhere, by the value at a key.
fn mirrored(
    config: &Config,
    key: &str,
    text: &str,
    token: Result<Option<String>, String>,
    ca_file: Option<&PathBuf>,
) -> Result<MirrorFrom, ConfigError> {
    let mut from = MirrorFrom::parse(text).map_err(|why| {
        let fix =
            "write \"https://HOST:7070/v1/logs/NAME\", or \"peer:NODE/NAME\" for a mirror of a linked node's feed";
        config.mistake_in(key, &format!("`{key}` cannot be {text:?}"), &why, fix)
    })?;
    let token = token.map_err(|why| {
        let (what, fix) = (format!("the token for {text} cannot be read"), "put it there, in one line");
        config.mistake_in(key, &what, &why, fix)
    })?;
    if let MirrorFrom::Http(http) = &mut from {
        (http.token, http.ca_file) = (token, ca_file.cloned());
    }
    Ok(from)
}

/// The tables of main that views look at; one that names none looks at all.
fn viewed(views: &BTreeMap<String, ViewSettings>) -> Selection {
    let of_main = || views.values().filter(|view| &*view.log == "main");
    let named = of_main().filter_map(|view| view.tables.as_ref()).flatten().map(TableName::as_str);
    let all = of_main().any(|view| view.tables.is_none()).then_some("*");
    let names: Vec<&str> = named.chain(all).collect();
    Selection::new(&names).expect("a table's name is a pattern")
}

fn tokens(config: &Config) -> Result<Vec<Token>, ConfigError> {
    let tokens = config.node.tokens.iter().enumerate().map(|(index, token)| {
        let read = secret(token.token_env.as_deref(), token.token_file.as_deref());
        let secret = read.and_then(|secret| secret.ok_or_else(|| "no place is given".into())).map_err(|why| {
            let (what, fix) = (
                format!("the token {:?} cannot be read", token.name),
                "put it there, in one line; `watershed token new` makes one",
            );
            config.mistake_in(&format!("node.tokens.{index}"), &what, &why, fix)
        })?;
        // They have been checked when the file was read.
        let may = token.may.iter().filter_map(|right| Right::parse(right)).collect();
        Ok(Token::new(&token.name, &secret, may).limited(token.rate.as_ref().map(RateConfig::limit)))
    });
    tokens.collect()
}

fn selection(patterns: &[TablePattern]) -> Selection {
    let texts: Vec<&str> = patterns.iter().map(TablePattern::as_str).collect();
    Selection::new(&texts).expect("patterns have been checked when the file was read")
}

/// Who gets what, and who owns what.
pub fn policy(config: &Config) -> Result<Policy, ConfigError> {
    let send = |rule: Option<&SendRule>| rule.map_or(Ok(SendPolicy::default()), |rule| send_policy(config, rule));
    let mut child = BTreeMap::new();
    for (name, rule) in &config.send.child {
        child.insert(name.clone(), send_policy(config, rule)?);
    }
    let mut owners = HashMap::new();
    let mut may_diverge = HashSet::new();
    let mut owned: Vec<String> = Vec::new();
    for (name, rule) in &config.table {
        let table: TableName = name.parse().expect("names have been checked when the file was read");
        if let Some(by) = &rule.owner_by {
            owners.insert(table.clone(), Owner::By(Box::new(expression(config, &by.text, &by.span, "owner_by")?)));
        } else if !rule.owner.is_empty() {
            owners.insert(table.clone(), Owner::Nodes(rule.owner.iter().map(|name| name.as_str().into()).collect()));
        }
        if rule.may_diverge() {
            may_diverge.insert(table.clone());
        }
        if rule.is_owned() {
            owned.push(name.clone());
        }
    }
    let capture = config.database.iter().flat_map(|database| &database.capture);
    let copied = config.copy.values().flat_map(|copy| &copy.tables);
    let captured: Vec<String> = capture.chain(copied).map(|pattern| pattern.as_str().to_owned()).collect();
    let select =
        |patterns: &[String]| Selection::new(patterns).expect("patterns have been checked when the file was read");
    Ok(Policy {
        parent: send(config.send.parent.as_ref())?,
        children: send(config.send.children.as_ref())?,
        child,
        feed: config.send.feed.as_ref().map(|rule| send_policy(config, rule)).transpose()?,
        ownership: Arc::new(Ownership::new(owners)),
        may_diverge,
        capture: select(&captured),
        owned: select(&owned),
        viewed: Selection::default(),
    })
}

fn send_policy(config: &Config, rule: &SendRule) -> Result<SendPolicy, ConfigError> {
    let mut rules = Vec::new();
    for filter in &rule.filters {
        let when = match &filter.when {
            Some(when) => Some(expression(config, &when.text, &when.span, "when")?),
            None => None,
        };
        rules.push(CelRule {
            tables: selection(&filter.tables),
            when,
            ops: (!filter.ops.is_empty()).then(|| filter.ops.iter().map(|op| op.op()).collect()),
            drop_columns: filter.drop_columns.clone(),
            keys_may_leave: filter.keys_may_leave,
        });
    }
    let logs = rule.logs.iter().map(|log| log.as_str().into()).collect();
    Ok(SendPolicy { selection: selection(&rule.tables), filter: Arc::new(CelFilter::new(rules)), logs })
}

fn expression(config: &Config, text: &str, span: &Range<usize>, key: &str) -> Result<Expression, ConfigError> {
    Expression::new(text).map_err(|error| {
        let fix = "write CEL over row, old, table, origin and destination, as in 'row.region == \"EU\"'; try it with `watershed filter test`";
        config.mistake_at(span, &format!("`{key}` is not a usable expression"), &error.to_string(), fix)
    })
}
