//! From a file (and the environment, and flags) to a configuration.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::{DeserializeOwned, IntoDeserializer};
use serde_json::Value as Json;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::{describe, known_keys, nearest, resolve, schema, take_unknown};
use super::{Config, ConfigError, EventsConfig, EventsFile, FileText, Mistake, check};
use crate::model::limits;

/// Settings that replace those of the file; flags after the environment.
#[derive(Clone, Debug, Default)]
pub struct Overrides(Vec<Override>);

#[derive(Clone, Debug)]
struct Override {
    section: String,
    key: String,
    value: String,
    from: String,
}

impl Overrides {
    /// The sections whose plain keys the environment may set.
    const SECTIONS: [&str; 3] = ["node", "parent", "database"];

    /// `WATERSHED_NODE_NAME`, `WATERSHED_DATABASE_URL` and so on, as the process has them.
    pub fn from_environment() -> Overrides {
        let mut overrides = Overrides::default();
        let schema = schema();
        for section in Self::SECTIONS {
            for key in plain_keys(section, &schema) {
                let name = format!("WATERSHED_{}_{}", section.to_uppercase(), key.to_uppercase());
                if let Some(value) = std::env::var_os(&name) {
                    overrides.set(section, key, &value.to_string_lossy(), &name);
                }
            }
        }
        overrides
    }

    /// Adds one; `from` says where it comes from (`--listen`).
    pub fn set(&mut self, section: &str, key: &str, value: &str, from: &str) {
        let (section, key, value, from) = (section.into(), key.into(), value.into(), from.into());
        self.0.push(Override { section, key, value, from });
    }

    /// Where settings come from, for people: `(node.name, WATERSHED_NODE_NAME)`.
    pub fn names(&self) -> impl Iterator<Item = (String, &str)> {
        self.0.iter().map(|one| (format!("{}.{}", one.section, one.key), one.from.as_str()))
    }

    fn put_into<'i>(&'i self, root: &mut DeTable<'i>, file: &FileText) {
        for (index, one) in self.0.iter().enumerate() {
            let span = file.override_span(index);
            let section = Spanned::new(span.clone(), Cow::Borrowed(one.section.as_str()));
            let empty = || Spanned::new(span.clone(), DeValue::Table(DeTable::new()));
            let DeValue::Table(table) = root.entry(section).or_insert_with(empty).get_mut() else { continue };
            let value = match one.value.as_str() {
                "true" => DeValue::Boolean(true),
                "false" => DeValue::Boolean(false),
                text => DeValue::String(Cow::Borrowed(text)),
            };
            table.remove(one.key.as_str());
            table.insert(Spanned::new(span.clone(), Cow::Borrowed(one.key.as_str())), Spanned::new(span, value));
        }
    }
}

/// Keys of a section that hold one text or truth value.
fn plain_keys<'a>(section: &str, schema: &'a Json) -> Vec<&'a str> {
    let Some((section, _)) = describe(section, schema) else { return Vec::new() };
    let plain = |key: &&str| {
        let kind = &resolve(&section["properties"][*key], schema)["type"];
        let first = kind.as_str().or_else(|| kind[0].as_str());
        matches!(first, Some("string" | "boolean"))
    };
    known_keys(section).into_iter().filter(plain).collect()
}

fn unreadable(path: &Path, code: &'static str, what: String, why: String, fix: String) -> ConfigError {
    let file = FileText { path: path.into(), ..FileText::default() };
    ConfigError::new(vec![Mistake { code, what, why, fix, span: None }], Arc::new(file))
}

/// Reads a file's text.
pub(in crate::node) fn read(path: &Path) -> Result<String, ConfigError> {
    let shown = path.display();
    let failed = |error: std::io::Error| {
        let missing = error.kind() == std::io::ErrorKind::NotFound;
        let fix = match missing {
            true => "run `watershed init sqlite:FILE.db`, or name the file with -c or WATERSHED_CONFIG".to_string(),
            false => format!("make {shown} readable for the user that runs this"),
        };
        unreadable(path, "WS-CFG-001", format!("the configuration {shown} cannot be read"), error.to_string(), fix)
    };
    let meta = std::fs::metadata(path).map_err(failed)?;
    if !meta.is_file() {
        let what = format!("the configuration {shown} is not a file");
        let why = if meta.is_dir() { "it is a folder" } else { "it is a device, a pipe or a socket" };
        return Err(unreadable(path, "WS-CFG-001", what, why.into(), "name the file itself".into()));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(limits::CONFIG_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > limits::CONFIG_BYTES_MAX {
        let what = format!("the configuration {shown} is too large");
        let why = format!("it has more than {} bytes", limits::CONFIG_BYTES_MAX);
        return Err(unreadable(path, "WS-CFG-002", what, why, "is it the right file? name it with -c".into()));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
        let why = format!("line {line} has a byte that is not UTF-8, at offset {at} of the file");
        let what = format!("the configuration {shown} is not UTF-8 text");
        unreadable(path, "WS-CFG-003", what, why, "save it as UTF-8".into())
    })
}

impl Config {
    /// Reads and checks a file; paths in it become absolute (relative ones are relative to the file). Features that
    /// this version does not have are accepted; see [`Config::ready`].
    ///
    /// # Errors
    /// Every mistake that can be found at once, each with its place.
    pub fn load(path: &Path, overrides: &Overrides) -> Result<Config, ConfigError> {
        Config::parse(path, read(path)?, overrides)
    }

    /// As [`Config::load`], of a text that was read from `path`.
    pub fn parse(path: &Path, text: String, overrides: &Overrides) -> Result<Config, ConfigError> {
        let from = overrides.0.iter().map(|one| one.from.clone()).collect();
        let file = Arc::new(FileText { path: path.into(), text, overrides: from });
        let mut root = document(&file)?;
        overrides.put_into(&mut root, &file);
        let places = Places::of(root.clone());
        let schema = schema();
        let mut mistakes = Vec::new();
        take_unknown(&mut root, &schema, &schema, "", &mut mistakes);
        let mut reader = Reader { root, places: &places, schema: &schema, mistakes };
        let config = reader.config(file.clone());
        let mut mistakes = reader.mistakes;
        if let Some(mut config) = config {
            config.settle(&base_of(path));
            check::check(&config, &places, &mut mistakes);
            if mistakes.is_empty() {
                return Ok(config);
            }
        }
        Err(ConfigError::new(mistakes, file.clone()))
    }

    /// Only `[events]` of a text that was read from `path`, whose other sections may have any values.
    ///
    /// # Errors
    /// The text is not TOML, has unknown keys, or its `[events]` cannot be used.
    pub(in crate::node) fn parse_events(path: &Path, text: String) -> Result<EventsFile, ConfigError> {
        let file = Arc::new(FileText { path: path.into(), text, overrides: Vec::new() });
        let mut root = document(&file)?;
        let places = Places::of(root.clone());
        let (schema, mut mistakes) = (schema(), Vec::new());
        take_unknown(&mut root, &schema, &schema, "", &mut mistakes);
        let mut reader = Reader { root, places: &places, schema: &schema, mistakes };
        let events: Option<EventsConfig> = reader.section("events");
        if !reader.mistakes.is_empty() {
            return Err(ConfigError::new(reader.mistakes, file.clone()));
        }
        let events = events.map(|mut events| {
            events.settle(&base_of(path));
            events
        });
        Ok(EventsFile { events, file: file.clone() })
    }
}

/// The file as TOML.
fn document(file: &FileText) -> Result<DeTable<'_>, ConfigError> {
    let (document, errors) = DeTable::parse_recoverable(&file.text);
    if !errors.is_empty() {
        let mistakes = errors.into_iter().map(|error| syntax_mistake(&error)).collect();
        return Err(ConfigError::new(mistakes, Arc::new(file.clone())));
    }
    Ok(document.into_inner())
}

/// The absolute folder of the file.
fn base_of(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.into());
    absolute.parent().map(Into::into).unwrap_or_default()
}

fn syntax_mistake(error: &toml::de::Error) -> Mistake {
    Mistake {
        code: "WS-CFG-004",
        what: format!("not valid TOML: {}", error.message()),
        why: "the file must be TOML (https://toml.io)".into(),
        fix: "correct the marked place; text values need quotes".into(),
        span: error.span(),
    }
}

/// Where keys and values stand.
pub(super) struct Places<'i>(DeTable<'i>);

impl<'i> Places<'i> {
    pub(super) fn of(root: DeTable<'i>) -> Places<'i> {
        Places(root)
    }

    /// The value at a path, or what stands nearest above it.
    pub(super) fn nearest_span(&self, path: &[&str]) -> Option<Range<usize>> {
        (1..=path.len()).rev().find_map(|length| self.span(&path[..length]))
    }

    /// The value at a dotted path (numbers count in lists).
    pub(super) fn span(&self, path: &[&str]) -> Option<Range<usize>> {
        let (first, rest) = path.split_first()?;
        let mut value = self.0.get(*first)?;
        for key in rest {
            value = match value.get_ref() {
                DeValue::Table(table) => table.get(*key)?,
                DeValue::Array(list) => list.get(key.parse::<usize>().ok()?)?,
                _ => return None,
            };
        }
        Some(value.span())
    }

    /// The dotted path of the value at a place.
    fn path(&self, span: &Range<usize>) -> Option<String> {
        fn find(table: &DeTable<'_>, span: &Range<usize>, path: &str) -> Option<String> {
            table.iter().find_map(|(key, value)| {
                let full = if path.is_empty() { key.to_string() } else { format!("{path}.{key}") };
                inside(value, span, &full)
            })
        }
        fn inside(value: &Spanned<DeValue<'_>>, span: &Range<usize>, path: &str) -> Option<String> {
            let deeper = match value.get_ref() {
                DeValue::Table(table) => find(table, span, path),
                DeValue::Array(list) => list.iter().find_map(|item| inside(item, span, path)),
                _ => None,
            };
            deeper.or_else(|| (value.span() == *span).then(|| path.to_string()))
        }
        find(&self.0, span, "")
    }
}

/// Reads section by section, so that several mistakes are found at once.
struct Reader<'i, 's> {
    root: DeTable<'i>,
    places: &'s Places<'i>,
    schema: &'s Json,
    mistakes: Vec<Mistake>,
}

impl<'i> Reader<'i, '_> {
    fn config(&mut self, file: Arc<FileText>) -> Option<Config> {
        let nowhere = || Spanned::new(0..0, DeValue::Table(DeTable::new()));
        let node = self.root.remove("node").unwrap_or_else(nowhere);
        let node = self.value("node", node);
        let (parent, database) = (self.section("parent"), self.section("database"));
        let (send, events) = (self.section("send").unwrap_or_default(), self.section("events"));
        let (copy, log) = (self.named("copy"), self.named("log"));
        let (table, lane, view) = (self.named("table"), self.named("lane"), self.named("view"));
        Some(Config { node: node?, parent, database, copy, log, send, table, lane, view, events, file })
    }

    fn section<T: DeserializeOwned>(&mut self, name: &str) -> Option<T> {
        let value = self.root.remove(name)?;
        self.value(name, value)
    }

    fn named<T: DeserializeOwned>(&mut self, name: &str) -> BTreeMap<String, T> {
        let Some(value) = self.root.remove(name) else { return BTreeMap::new() };
        let span = value.span();
        let DeValue::Table(table) = value.into_inner() else {
            let what = format!("`{name}` must be a section of sections: [{name}.NAME]");
            let why = format!("there may be several, each with its name after `{name}.`");
            let fix = format!("write [{name}.NAME] on a line of its own");
            self.mistakes.push(Mistake { code: "WS-CFG-006", what, why, fix, span: Some(span) });
            return BTreeMap::new();
        };
        let items = table.into_iter().filter_map(|(key, value)| {
            let key = key.into_inner().into_owned();
            let value = self.value(&format!("{name}.{key}"), value)?;
            Some((key, value))
        });
        items.collect()
    }

    fn value<T: DeserializeOwned>(&mut self, section: &str, value: Spanned<DeValue<'i>>) -> Option<T> {
        let result = T::deserialize(value.into_deserializer());
        result
            .map_err(|error: toml::de::Error| {
                let mistake = self.value_mistake(section, &error);
                self.mistakes.push(mistake);
            })
            .ok()
    }

    fn value_mistake(&self, section: &str, error: &toml::de::Error) -> Mistake {
        let message = error.message().trim();
        let span = error.span().filter(|span| *span != (0..0));
        let quoted: Vec<&str> =
            message.split('`').enumerate().filter(|(at, _)| at % 2 == 1).map(|(_, name)| name).collect();
        let found = span.as_ref().and_then(|span| self.places.path(span));
        if let (true, Some(key)) = (message.starts_with("missing field"), quoted.first()) {
            let place = found.unwrap_or_else(|| section.into());
            let why = self.description(&format!("{place}.{key}"), "it has no default");
            let code = "WS-CFG-007";
            return Mistake {
                code,
                what: format!("[{place}] has no `{key}`"),
                why,
                fix: format!("add `{key} = …`"),
                span,
            };
        }
        let path = found.unwrap_or_else(|| section.into());
        let suggestion = match quoted.split_first() {
            Some((given, known)) if message.starts_with("unknown variant") => nearest(given, known.iter().copied()),
            _ => None,
        };
        let fix = match suggestion {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("correct `{path}`; `watershed config explain {path}` says what it takes"),
        };
        let why = self.description(&path, "its type is fixed");
        Mistake { code: "WS-CFG-006", what: format!("`{path}`: {message}"), why, fix, span }
    }

    fn description(&self, path: &str, otherwise: &str) -> String {
        let text = describe(path, self.schema).and_then(|(_, description)| description).unwrap_or(otherwise);
        format!("`{path}`: {}", text.replace('\n', " "))
    }
}
