//! What a node is started with.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use super::certificate::ServerTls;
use super::feeds::{FeedSpec, MirrorSettings};
use super::policy::Policy;
use super::rights::Token;
use super::store::Store;
use super::views::ViewSettings;
use crate::model::limits;
use crate::peer::{Dial, ParentUrl, Refusal};
use crate::stream::Selection;
use crate::view::Ids;

/// Everything that a node needs to know; made from the configuration, or by hand in a program.
pub struct Settings {
    /// The node's label, unique in the tree.
    pub name: String,
    /// Its data folder; created if missing.
    pub data_dir: PathBuf,
    /// Where it serves HTTP and links; beyond loopback only with tokens.
    pub listen: SocketAddr,
    /// Its parent.
    pub parent: Option<Parent>,
    /// Its database.
    pub database: Option<DatabaseSettings>,
    /// Other databases that follow this node's log.
    pub copies: Vec<CopySettings>,
    /// Who gets what.
    pub policy: Policy,
    /// How the log is kept.
    pub log: LogSettings,
    /// The node's own log may be appended to over HTTP; only without a database.
    pub append_main: bool,
    /// Logs beside it.
    pub feeds: BTreeMap<String, FeedSpec>,
    /// Logs that are copies of feeds elsewhere.
    pub mirrors: BTreeMap<String, MirrorSettings>,
    /// Views of its logs.
    pub views: BTreeMap<String, ViewSettings>,
    /// Who may do what over HTTP. Where there are none, everybody on this machine may append to feeds and read them.
    pub tokens: Vec<Token>,
    /// The certificate with which it speaks TLS; without one it does not.
    pub tls: Option<Arc<ServerTls>>,
    /// Origins whose pages may use it from a browser.
    pub cors: Vec<Box<str>>,
}

/// How the parent is dialled.
#[derive(Clone, Debug)]
pub struct Parent {
    /// `wss://HOST:PORT`, `ws://HOST:PORT`, or a bare HOST:PORT.
    pub url: String,
    /// What this node shows there.
    pub token: Option<Secret>,
    /// A PEM file with whoever signed the parent's certificate; else those whom the system knows.
    pub ca_file: Option<PathBuf>,
    /// Beyond loopback, `ws://` is dialled all the same.
    pub allow_plaintext: bool,
    /// Before the second attempt.
    pub retry_first: Duration,
    /// Between attempts at most.
    pub retry_max: Duration,
}

impl Parent {
    /// There, without a token, with the usual waits.
    pub fn at(url: &str) -> Parent {
        let (retry_first, retry_max) = (Duration::from_millis(500), Duration::from_secs(30));
        Parent { url: url.into(), token: None, ca_file: None, allow_plaintext: false, retry_first, retry_max }
    }

    /// For dialling.
    ///
    /// # Errors
    /// The URL, the token or the certificates cannot be used.
    pub fn dial(&self) -> Result<Dial, Refusal> {
        let url = ParentUrl::parse_with(&self.url, self.allow_plaintext)?;
        Dial::new(url, self.token.as_ref().map(|token| &*token.0), self.ca_file.as_deref())
    }
}

/// What is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Box<str>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

/// A node's database.
#[derive(Clone, Debug)]
pub struct DatabaseSettings {
    /// Where it is.
    pub store: Store,
    /// Triggers of the application fire for received transactions too.
    pub fire_triggers: bool,
    /// Every change is applied, also when there is much to catch up with; else net effects. (PostgreSQL)
    pub exact: bool,
    /// At this much retained transaction log, in bytes, a slot whose changes cannot be logged is dropped. (PostgreSQL)
    pub slot_retain_max: Option<u64>,
    /// The ids that may be made here.
    pub ids: Option<Ids>,
}

impl DatabaseSettings {
    /// That database, with everything else as it is without configuration.
    pub fn new(store: Store) -> DatabaseSettings {
        DatabaseSettings { store, fire_triggers: false, exact: false, slot_retain_max: None, ids: None }
    }
}

/// Another database that follows the node's log, as a live copy of its own.
#[derive(Clone, Debug)]
pub struct CopySettings {
    /// Its name.
    pub name: String,
    /// The database.
    pub database: DatabaseSettings,
    /// What is copied.
    pub tables: Selection,
}

/// How the `main` log is kept.
#[derive(Clone, Debug)]
pub struct LogSettings {
    /// What nobody needs is kept this long.
    pub retain_time: Duration,
    /// The log's size at most, whoever needs it.
    pub retain_bytes: u64,
    /// `false`: for scratch data, survives no power failure.
    pub fsync: bool,
    /// Of one segment file.
    pub segment_bytes: u64,
}

impl Default for LogSettings {
    /// A week, 50 GiB, fsync.
    fn default() -> Self {
        LogSettings {
            retain_time: Duration::from_secs(7 * 86_400),
            retain_bytes: 50 << 30,
            fsync: true,
            segment_bytes: limits::SEGMENT_BYTES_DEFAULT,
        }
    }
}

/// What an exit code says of a failure to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 1: failed.
    Failure,
    /// 3: the configuration is invalid.
    Configuration,
    /// 4: an endpoint cannot be reached.
    Unreachable,
    /// 5: an operator must decide.
    Operator,
    /// 7: the data folder is locked by another process.
    Locked,
}

/// A node cannot start; nothing has been changed by it.
#[derive(Debug, Error)]
#[error("error[{code}]: {what}\nwhy: {why}\ndo: {advice}")]
pub struct NodeError {
    /// Greppable.
    pub code: &'static str,
    /// For the exit code.
    pub exit: Exit,
    /// What happened.
    pub what: String,
    /// Why.
    pub why: String,
    /// What to do.
    pub advice: String,
    /// The database is locked by somebody else: it may be free a little later.
    pub locked: bool,
}

impl NodeError {
    /// The three parts.
    pub fn new(
        code: &'static str,
        exit: Exit,
        what: impl ToString,
        why: impl ToString,
        advice: impl ToString,
    ) -> NodeError {
        NodeError {
            code,
            exit,
            what: what.to_string(),
            why: why.to_string(),
            advice: advice.to_string(),
            locked: false,
        }
    }

    /// The same, with [`NodeError::locked`].
    pub fn locked(self, locked: bool) -> NodeError {
        NodeError { locked, ..self }
    }
}
