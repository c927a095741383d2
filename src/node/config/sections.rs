//! The sections of the file about the node itself: `[node]`, `[parent]`, `[database]`, `[copy]`, `[log]`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rate::RateConfig;
use super::values::{DatabaseUrl, IdRange, Listen, ParentUrl, Period, Size, TablePattern};

/// Makes a path relative to the file absolute.
pub(super) fn rebase(path: &mut PathBuf, base: &Path) {
    if path.is_relative() {
        *path = base.join(&*path);
    }
}

/// `[node]`: this process.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// Its label, unique in the tree: letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// Where its logs live; relative to the file. Default: the name with `.data` added.
    #[serde(default)]
    pub data_dir: PathBuf,
    /// Address of HTTP and of peers. Default: 127.0.0.1:7070.
    #[serde(default = "default_listen")]
    pub listen: Listen,
    /// Certificate and key; needed to listen beyond loopback.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsConfig>,
    /// Listen beyond loopback without TLS, behind an ingress that has it.
    #[serde(default)]
    pub allow_plaintext: bool,
    /// Who may do what over HTTP and as a peer; needed to listen beyond loopback.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tokens: Vec<TokenConfig>,
    /// Origins whose pages may use this node from a browser (CORS): `https://app.example`. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cors: Vec<String>,
}

fn default_listen() -> Listen {
    Listen(([127, 0, 0, 1], 7070).into())
}

/// `tls = { cert_file = …, key_file = … }`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// PEM file with the certificate chain.
    pub cert_file: PathBuf,
    /// PEM file with the private key.
    pub key_file: PathBuf,
}

/// One of `tokens`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenConfig {
    /// Whose token it is.
    pub name: String,
    /// File with the token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// Environment variable with the token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_env: Option<String>,
    /// Rights: `peer:NODE`, `read:LOG`, `append:LOG`, `query:VIEW` (or `*` for all of them), `operate`, `metrics`.
    pub may: Vec<String>,
    /// How much it may ask for; without it there is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<RateConfig>,
}

impl NodeConfig {
    /// The folder of one of its logs.
    pub fn log_dir(&self, log: &str) -> PathBuf {
        self.data_dir.join(log)
    }

    /// Where a running node leaves the token for its admin API (mode 0600).
    pub fn admin_token_path(&self) -> PathBuf {
        self.data_dir.join("admin.token")
    }

    /// Where a running node that speaks TLS leaves its certificate (DER), by which commands know it.
    pub fn admin_certificate_path(&self) -> PathBuf {
        self.data_dir.join("admin.certificate")
    }

    pub(super) fn settle(&mut self, base: &Path) {
        if self.data_dir.as_os_str().is_empty() {
            self.data_dir = format!("{}.data", self.name).into();
        }
        rebase(&mut self.data_dir, base);
        if let Some(tls) = &mut self.tls {
            rebase(&mut tls.cert_file, base);
            rebase(&mut tls.key_file, base);
        }
        self.tokens.iter_mut().filter_map(|token| token.token_file.as_mut()).for_each(|path| rebase(path, base));
    }
}

/// `[parent]`: the node above; left out at the root.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ParentConfig {
    /// Where it listens: `host:port`, `ws://…` or `wss://…`.
    pub url: ParentUrl,
    /// Environment variable with our token there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_env: Option<String>,
    /// File with our token there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// PEM file with the authority that signed its certificate, or with that certificate. Default: those of the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Dial `ws://` beyond loopback: everybody on the way can read what is sent, the token too.
    #[serde(default)]
    pub allow_plaintext: bool,
    /// Waits between attempts to dial: doubled from `first` up to `max`.
    #[serde(default)]
    pub retry: RetryConfig,
}

impl ParentConfig {
    pub(super) fn settle(&mut self, base: &Path) {
        [&mut self.token_file, &mut self.ca_file].into_iter().flatten().for_each(|path| rebase(path, base));
    }
}

/// `retry = { first = "0.5s", max = "30s" }`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetryConfig {
    /// The first wait. Default: 0.5s.
    pub first: Period,
    /// The longest wait. Default: 30s.
    pub max: Period,
}

impl Default for RetryConfig {
    fn default() -> Self {
        RetryConfig { first: Period(Duration::from_millis(500)), max: Period(Duration::from_secs(30)) }
    }
}

/// `[database]`: left out for a node that is only a log.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DatabaseConfig {
    /// `sqlite:PATH` (relative to the file) or `postgres://…`.
    pub url: DatabaseUrl,
    /// Let triggers of the application fire for received changes.
    #[serde(default)]
    pub fire_triggers: bool,
    /// Ids made here, both ends included, so that sites never collide.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id_range: Option<IdRange>,
    /// PostgreSQL: at this much retained transaction log the slot is dropped and the copy made afresh.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slot_retain_max: Option<Size>,
    /// `merge`: net effects when behind; `exact`: every change.
    #[serde(default)]
    pub apply: ApplyMode,
    /// Tables to capture beyond those that are selected.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capture: Vec<TablePattern>,
}

impl DatabaseConfig {
    pub(super) fn settle(&mut self, base: &Path) {
        if let DatabaseUrl::Sqlite(path) = &mut self.url {
            rebase(path, base);
        }
    }
}

/// How received changes are applied when there are many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ApplyMode {
    /// Net effects when behind.
    #[default]
    Merge,
    /// Every change.
    Exact,
}

/// `[copy.NAME]`: another database that follows this node's log.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CopyConfig {
    /// The database.
    pub url: DatabaseUrl,
    /// What is copied.
    pub tables: Vec<TablePattern>,
}

impl CopyConfig {
    pub(super) fn settle(&mut self, base: &Path) {
        if let DatabaseUrl::Sqlite(path) = &mut self.url {
            rebase(path, base);
        }
    }
}

/// `[log.NAME]`: the node's own log (`main`) or a feed.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// What stores it.
    pub engine: Engine,
    /// How long what nobody needs is kept.
    pub retain: RetainConfig,
    /// `always`: durable on return; `never`: scratch data.
    pub fsync: Fsync,
    /// Order holds within a partition.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partitions: Option<u32>,
    /// May be appended to over HTTP.
    pub append: bool,
    /// A read-only copy of a feed elsewhere: `https://HOST:PORT/v1/logs/NAME`, or `peer:NODE/NAME` of a linked node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror: Option<String>,
    /// Environment variable with our token at the node of the original.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_env: Option<String>,
    /// File with our token there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// PEM file with the authority that signed its certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
}

impl LogConfig {
    pub(super) fn settle(&mut self, base: &Path) {
        [&mut self.token_file, &mut self.ca_file].into_iter().flatten().for_each(|path| rebase(path, base));
    }
}

/// What stores a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// Append-only files in the node's data folder.
    #[default]
    Segments,
    /// A Kafka topic.
    Kafka,
}

/// Whether appends wait for the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Fsync {
    /// Group commit; durable on return.
    #[default]
    Always,
    /// Scratch data.
    Never,
}

/// `retain = { time = "7d", bytes = "50GiB" }`.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetainConfig {
    /// What nobody needs is removed when it is older.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<Period>,
    /// The oldest is removed beyond this much, needed or not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Size>,
}
