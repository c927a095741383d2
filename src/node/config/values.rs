//! Values that stand in the file as text: sizes, periods, addresses, ranges, patterns, expressions.

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::model::{TableName, limits};

/// Reads a type from its text (or a bare whole number), and writes it back, by its `FromStr` and `Display`.
macro_rules! text_value {
    ($type:ty, $name:literal) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                parse_text(deserializer)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "format": $name })
            }
        }
    };
}

fn parse_text<'de, D: Deserializer<'de>, T: FromStr<Err = String>>(deserializer: D) -> Result<T, D::Error> {
    struct Visitor<T>(std::marker::PhantomData<T>);
    impl<T: FromStr<Err = String>> de::Visitor<'_> for Visitor<T> {
        type Value = T;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string")
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            text.parse().map_err(E::custom)
        }
        fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
            number.to_string().parse().map_err(E::custom)
        }
    }
    deserializer.deserialize_any(Visitor(std::marker::PhantomData))
}

/// Bytes: `"50GiB"`, `"200 MB"`, `4096`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);
text_value!(Size, "size");

const SIZE_UNITS: [(&str, u64); 10] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("KB", 1_000),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
];

impl FromStr for Size {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is not a size; write it as \"50GiB\", \"200MB\" or a number of bytes");
        let trimmed = text.trim();
        let (number, unit) = SIZE_UNITS
            .iter()
            .find_map(|(unit, factor)| trimmed.strip_suffix(unit).map(|number| (number, *factor)))
            .unwrap_or((trimmed, 1));
        let number = number.trim();
        if let Ok(whole) = number.parse::<u64>() {
            return whole.checked_mul(unit).map(Size).ok_or_else(bad);
        }
        let digits = number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        let bytes = number.parse::<f64>().ok().filter(|_| digits).map(|value| value * unit as f64);
        bytes.filter(|bytes| *bytes < u64::MAX as f64).map(|bytes| Size(bytes as u64)).ok_or_else(bad)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = SIZE_UNITS.iter().filter(|(_, factor)| self.0 >= *factor && self.0.is_multiple_of(*factor));
        match fits.max_by_key(|(_, factor)| *factor) {
            Some((unit, factor)) => write!(f, "{}{unit}", self.0 / factor),
            None => write!(f, "{}B", self.0),
        }
    }
}

/// A length of time: `"7d"`, `"0.5s"`, `"1h30m"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(pub Duration);
text_value!(Period, "period");

const PERIOD_UNITS: [(&str, f64); 6] =
    [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3_600.0), ("d", 86_400.0), ("w", 604_800.0)];

impl FromStr for Period {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is not a length of time; write it as \"7d\", \"12h\", \"0.5s\" or \"100ms\"");
        let mut rest = text.trim();
        let mut seconds = 0.0;
        if rest.is_empty() {
            return Err(bad());
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
            let number: f64 = rest[..digits].parse().map_err(|_| bad())?;
            let after = rest[digits..].trim_start();
            let length = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
            let unit = PERIOD_UNITS.iter().find(|(unit, _)| *unit == &after[..length]).ok_or_else(bad)?;
            seconds += number * unit.1;
            rest = after[length..].trim_start();
        }
        if seconds > limits::PERIOD_MAX.as_secs_f64() {
            return Err(format!("`{text}` is longer than 100 years"));
        }
        Duration::try_from_secs_f64(seconds).map(Period).map_err(|_| bad())
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        let whole = [("w", 604_800_000), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];
        match whole.iter().find(|(_, unit)| millis > 0 && millis.is_multiple_of(*unit)) {
            Some((name, unit)) => write!(f, "{}{name}", millis / unit),
            None => write!(f, "{millis}ms"),
        }
    }
}

/// Where the node listens: `"127.0.0.1:7070"`, `"localhost:7070"`, `"[::1]:7070"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen(pub SocketAddr);
text_value!(Listen, "address");

impl FromStr for Listen {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let address = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
        let address = address.as_deref().unwrap_or(text);
        address.parse().map(Listen).map_err(|_| {
            format!("`{text}` is not an address with a port; write it as \"127.0.0.1:7070\" or \"[::1]:7070\"")
        })
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where the parent listens, as a WebSocket URL. A bare `host:port` means `wss`, or `ws` on loopback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentUrl(String);
text_value!(ParentUrl, "url");

impl ParentUrl {
    /// `ws://…` or `wss://…`, without a path of ours.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it asks for TLS.
    pub fn is_tls(&self) -> bool {
        self.0.starts_with("wss://")
    }
}

impl FromStr for ParentUrl {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is not the address of a node; write it as \"hq.example:7070\" or \"ws://…\"");
        let rest = match text.split_once("://") {
            Some(("ws" | "http", rest)) => format!("ws://{rest}"),
            Some(("wss" | "https", rest)) => format!("wss://{rest}"),
            Some(_) => return Err(bad()),
            None => {
                let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
                port.parse::<u16>().map_err(|_| bad())?;
                let loopback = host == "localhost" || host.starts_with("127.") || host == "[::1]";
                format!("{}://{text}", if loopback { "ws" } else { "wss" })
            }
        };
        let host = rest.split_once("://").map_or("", |(_, host)| host);
        let clean = !host.is_empty() && !host.starts_with([':', '/']) && !host.contains(char::is_whitespace);
        if clean { Ok(ParentUrl(rest.trim_end_matches('/').to_string())) } else { Err(bad()) }
    }
}

impl fmt::Display for ParentUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redact(&self.0))
    }
}

/// A database: `"sqlite:shop.db"` or `"postgres://app@host/shop"`. Its `Display` hides a password.
#[derive(Clone, PartialEq, Eq)]
pub enum DatabaseUrl {
    /// A file.
    Sqlite(PathBuf),
    /// The URL as given, password included.
    Postgres(String),
}
text_value!(DatabaseUrl, "database");

impl FromStr for DatabaseUrl {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            return Ok(DatabaseUrl::Postgres(text.to_string()));
        }
        let Some(path) = text.strip_prefix("sqlite:") else {
            let shown = redact(text);
            let file = [".db", ".sqlite", ".sqlite3"].iter().any(|end| text.ends_with(end));
            let hint = if file { format!("; did you mean \"sqlite:{text}\"?") } else { String::new() };
            return Err(format!(
                "`{shown}` is not a database; write \"sqlite:PATH\" or \"postgres://USER@HOST/NAME\"{hint}"
            )
            .trim_end()
            .to_string());
        };
        let path = path.strip_prefix("//").unwrap_or(path);
        if path.is_empty() || path == ":memory:" || path.contains('\0') {
            return Err(format!("`{text}` names no file: a SQLite database must be a file, as in \"sqlite:shop.db\""));
        }
        Ok(DatabaseUrl::Sqlite(path.into()))
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DatabaseUrl::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            DatabaseUrl::Postgres(url) => f.write_str(&redact(url)),
        }
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Where a view is kept: `"sqlite:views.db"`, `"postgres://app@host/shop"` or `"memory"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ViewStoreUrl {
    /// In a database: a file of the view's own, or a schema of its own.
    Database(DatabaseUrl),
    /// In memory, saved now and then.
    Memory,
}
text_value!(ViewStoreUrl, "store");

impl FromStr for ViewStoreUrl {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "memory" => Ok(ViewStoreUrl::Memory),
            _ => text.parse().map(ViewStoreUrl::Database).map_err(|why| format!("{why}; or \"memory\"")),
        }
    }
}

impl fmt::Display for ViewStoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ViewStoreUrl::Database(url) => url.fmt(f),
            ViewStoreUrl::Memory => f.write_str("memory"),
        }
    }
}

/// Hides the password of every URL in a text, keeping its length in characters.
pub fn redact(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("://") {
        let (before, after) = rest.split_at(start + 3);
        out.push_str(before);
        let end = after.find(['/', '"', '\'', ' ', ',']).unwrap_or(after.len());
        match (after[..end].rfind('@'), after[..end].find(':')) {
            (Some(at), Some(colon)) if colon < at => {
                out.push_str(&after[..=colon]);
                out.extend(after[colon + 1..at].chars().map(|_| '*'));
                out.push_str(&after[at..end]);
            }
            _ => out.push_str(&after[..end]),
        }
        rest = &after[end..];
    }
    out.push_str(rest);
    out
}

/// Ids that are made at this node: `"7000000..7999999"`, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRange {
    /// Inclusive.
    pub first: i64,
    /// Inclusive.
    pub last: i64,
}
text_value!(IdRange, "range");

impl FromStr for IdRange {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is not a range; write it as \"7000000..7999999\", both ends included");
        let (first, last) = text.split_once("..").ok_or_else(bad)?;
        let first: i64 = first.trim().replace('_', "").parse().map_err(|_| bad())?;
        let last: i64 = last.trim().replace('_', "").parse().map_err(|_| bad())?;
        if first > last {
            return Err(format!("`{text}` is empty: its first number is greater than its last"));
        }
        Ok(IdRange { first, last })
    }
}

impl fmt::Display for IdRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.first, self.last)
    }
}

/// Which tables: `"*"`, `"app.*"`, `"orders"` or `"app.orders"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TablePattern(String);
text_value!(TablePattern, "tables");

impl TablePattern {
    /// As it stands in the file.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TablePattern {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let name = text.strip_suffix(".*").unwrap_or(text);
        if text != "*" && (name.contains('*') || name.parse::<TableName>().is_err()) {
            return Err(format!("`{text}` is not a table; write \"orders\", \"app.orders\", \"app.*\" or \"*\""));
        }
        Ok(TablePattern(text.to_string()))
    }
}

impl fmt::Display for TablePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An expression in CEL, with its place in the file. It is compiled by whoever uses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expression {
    /// The text.
    pub text: String,
    /// Bytes in the file, for [`super::Config::mistake_at`].
    pub span: Range<usize>,
}

impl<'de> Deserialize<'de> for Expression {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = toml::Spanned::<String>::deserialize(deserializer)?;
        let span = spanned.span();
        let text = spanned.into_inner();
        if text.len() > limits::FILTER_BYTES_MAX {
            let why = format!("an expression of {} bytes; at most {}", text.len(), limits::FILTER_BYTES_MAX);
            return Err(de::Error::custom(why));
        }
        Ok(Expression { text, span })
    }
}

impl Serialize for Expression {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl JsonSchema for Expression {
    fn schema_name() -> Cow<'static, str> {
        "expression".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "cel" })
    }
}

/// Reads one text or a list of texts.
pub(super) fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct Visitor;
    impl<'de> de::Visitor<'de> for Visitor {
        type Value = Vec<String>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string or a list of strings")
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<String>, E> {
            Ok(vec![text.to_string()])
        }
        fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Vec<String>, A::Error> {
            let mut all = Vec::new();
            while let Some(one) = list.next_element()? {
                all.push(one);
            }
            Ok(all)
        }
    }
    deserializer.deserialize_any(Visitor)
}
