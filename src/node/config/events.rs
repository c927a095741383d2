//! `[events]`: append-only tables copied to other databases.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::load::Places;
use super::sections::rebase;
use super::values::{DatabaseUrl, Period};
use super::{ConfigError, FileText, Mistake};

/// `[events]`: append-only tables copied to other databases.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EventsConfig {
    /// The database with the events: a URL, or { url = …, password_env = … }.
    pub source: EventsDatabase,
    /// The databases that they are copied to, each as a URL, or { url = …, password_env = … }.
    pub destinations: Vec<EventsDatabase>,
    /// Events written at once; at least 10000. Default: 10000.
    #[serde(default = "default_events")]
    pub max_events_per_write: u32,
    /// How long connecting may take. Default: 15s.
    #[serde(default = "default_connect_timeout")]
    pub connect_timeout: Period,
}

fn default_events() -> u32 {
    10_000
}

fn default_connect_timeout() -> Period {
    Period(Duration::from_secs(15))
}

impl EventsConfig {
    /// Makes paths absolute that are relative to the file.
    pub(super) fn settle(&mut self, base: &Path) {
        for database in self.destinations.iter_mut().chain([&mut self.source]) {
            if let DatabaseUrl::Sqlite(path) = &mut database.url {
                rebase(path, base);
            }
            database.password_file.iter_mut().for_each(|path| rebase(path, base));
        }
    }
}

/// A database, and where its password stands: `"postgres://…"` or `{ url = "postgres://…", password_env = "NAME" }`.
#[derive(Clone, Debug)]
pub struct EventsDatabase {
    /// Where it is.
    pub url: DatabaseUrl,
    /// The environment variable that holds the password.
    pub password_env: Option<String>,
    /// The file that holds the password, in one line; relative to the configuration.
    pub password_file: Option<PathBuf>,
}

/// It, with its password elsewhere.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Table {
    /// Where it is.
    url: DatabaseUrl,
    /// The environment variable that holds the password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    password_env: Option<String>,
    /// The file that holds the password, in one line; relative to the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    password_file: Option<PathBuf>,
}

impl<'de> Deserialize<'de> for EventsDatabase {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = EventsDatabase;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a URL, or { url = …, password_env = … }")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<EventsDatabase, E> {
                let url = text.parse().map_err(E::custom)?;
                Ok(EventsDatabase { url, password_env: None, password_file: None })
            }
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<EventsDatabase, A::Error> {
                let Table { url, password_env, password_file } = Table::deserialize(MapAccessDeserializer::new(map))?;
                Ok(EventsDatabase { url, password_env, password_file })
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl Serialize for EventsDatabase {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let EventsDatabase { url, password_env, password_file } = self.clone();
        match password_env.is_some() || password_file.is_some() {
            true => Table { url, password_env, password_file }.serialize(serializer),
            false => url.serialize(serializer),
        }
    }
}

impl JsonSchema for EventsDatabase {
    fn schema_name() -> Cow<'static, str> {
        "database or table".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let table = generator.subschema_for::<Table>();
        json_schema!({ "anyOf": [table, { "type": "string", "format": "database" }] })
    }
}

/// `[events]`, with the file for pointing into it.
pub(in crate::node) struct EventsFile {
    /// Paths are absolute; `None` where the file has no such section.
    pub events: Option<EventsConfig>,
    pub(super) file: Arc<FileText>,
}

impl EventsFile {
    /// A mistake with its place: that of the value at a dotted path.
    pub fn place(&self, path: &str) -> Option<std::ops::Range<usize>> {
        let document = toml::de::DeTable::parse(&self.file.text).ok()?;
        let keys: Vec<&str> = path.split('.').collect();
        Places::of(document.into_inner()).nearest_span(&keys)
    }

    /// All mistakes as one error.
    pub fn error(&self, mistakes: Vec<Mistake>) -> ConfigError {
        ConfigError::new(mistakes, self.file.clone())
    }
}
