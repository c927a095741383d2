//! Connections to a server.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{AsyncMessage, Client, Config, Connection, NoTls, Notification};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::tls::{self, Mode};
use super::url::Parts;
use super::{PgError, password};
use crate::model::limits;

/// Where a database is, and who asks.
#[derive(Clone)]
pub struct Endpoint {
    config: Config,
    shown: String,
    /// `None`: no TLS.
    tls: Option<MakeRustlsConnect>,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl Endpoint {
    /// The URL without a password, for people.
    pub fn name(&self) -> &str {
        &self.shown
    }

    /// An endpoint from a URL (`postgres://USER:PASSWORD@HOST:PORT/DATABASE?…`); `shown` is what people may see of it.
    /// What the URL does not say of user, password and TLS is taken from where PostgreSQL's own programs have it:
    /// `PGUSER`, `PGPASSWORD`, `PGPASSFILE` or `~/.pgpass`, `PGSSLMODE`, `PGSSLROOTCERT`.
    ///
    /// # Errors
    /// The URL is none, or a certificate that it names cannot be read.
    pub fn new(url: &str, shown: &str) -> Result<Endpoint, PgError> {
        Endpoint::with_environment(url, shown, &|name| std::env::var(name).ok())
    }

    /// The same with other variables of the environment than the process's.
    ///
    /// # Errors
    /// As [`Endpoint::new`].
    pub fn with_environment(
        url: &str,
        shown: &str,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Endpoint, PgError> {
        let environment = |name: &str| environment(name).filter(|value| !value.is_empty());
        let refused = |why: String| PgError::Url { url: shown.to_string(), why };
        let parts = Parts::of(url).map_err(refused)?;
        let mut config = Config::from_str(&parts.driver).map_err(|error| refused(chain(&error)))?;
        let home = environment("HOME").map(PathBuf::from);
        if let (None, Some(user)) = (config.get_user(), environment("PGUSER")) {
            config.user(user);
        }
        if config.get_password().is_none() {
            let standard = || home.as_ref().map(|home| home.join(".pgpass"));
            let file = parts.passfile.or_else(|| environment("PGPASSFILE")).map(PathBuf::from).or_else(standard);
            let user = config.get_user().map(str::to_string).or_else(|| environment("USER")).unwrap_or_default();
            let found = environment("PGPASSWORD").or_else(|| password::from_file(&file?, &config, &user));
            found.map(|password| config.password(password));
        }
        let mode = parts.sslmode.or_else(|| environment("PGSSLMODE")).map_or(Ok(Mode::default()), |mode| mode.parse());
        let mode: Mode = mode.map_err(refused)?;
        let standard = || home.map(|home| home.join(".postgresql/root.crt")).filter(|root| root.exists());
        let root = parts.sslrootcert.or_else(|| environment("PGSSLROOTCERT")).map(PathBuf::from).or_else(standard);
        config.ssl_mode(match mode {
            Mode::Disable => SslMode::Disable,
            Mode::Prefer => SslMode::Prefer,
            _ => SslMode::Require,
        });
        // Sockets of the same machine have no TLS, whatever is asked for.
        let is_local = |host: &Host| !matches!(host, Host::Tcp(_));
        let tls = match mode == Mode::Disable || config.get_hosts().iter().all(is_local) {
            true => None,
            false => Some(tls::connector(mode, root.as_deref()).map_err(refused)?),
        };
        if tls.is_none() {
            config.ssl_mode(SslMode::Disable);
        }
        if config.get_application_name().is_none() {
            config.application_name("watershed");
        }
        // The driver, and the system, would wait for hours for a server whose machine is gone.
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(limits::POSTGRES_SILENCE_MAX);
        }
        if config.get_keepalives_idle() > limits::POSTGRES_SILENCE_MAX {
            let every = limits::POSTGRES_SILENCE_MAX / 4;
            config.keepalives_idle(every).keepalives_interval(every).keepalives_retries(3);
        }
        Ok(Endpoint { config, shown: shown.to_string(), tls })
    }

    /// The same, with what people may see found out.
    ///
    /// # Errors
    /// The URL is none.
    pub fn from_url(url: &str) -> Result<Endpoint, PgError> {
        Endpoint::new(url, &without_password(url))
    }

    /// The database's name: as given, else that of the user, as the server takes it.
    pub fn database(&self) -> &str {
        self.config.get_dbname().or(self.config.get_user()).unwrap_or("postgres")
    }

    /// Another database on the same server.
    pub fn at_database(&self, name: &str) -> Endpoint {
        let mut config = self.config.clone();
        config.dbname(name);
        Endpoint { config, shown: format!("{} (database {name})", self.shown), tls: self.tls.clone() }
    }

    /// The driver's configuration, for those who need another database on the same server.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What makes TLS connections, if any are to be made.
    pub(super) fn tls(&self) -> Option<&MakeRustlsConnect> {
        self.tls.as_ref()
    }

    /// Connects, or gives up after `limit`.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub async fn connect(&self, limit: Duration) -> Result<Session, PgError> {
        let connected = tokio::time::timeout(limit, self.connected()).await;
        let (client, notifications, task) =
            connected.map_err(|_| PgError::Timeout { url: self.shown.clone(), limit })??;
        Ok(Session { client, notifications, endpoint: self.clone(), task })
    }

    async fn connected(&self) -> Result<Connected, PgError> {
        let failed = |source: tokio_postgres::Error| match chain(&source).ends_with("password missing") {
            true => PgError::NoPassword { url: self.shown.clone() },
            false => self.failed("connecting", source),
        };
        let Some(tls) = &self.tls else {
            let (client, connection) = self.config.connect(NoTls).await.map_err(failed)?;
            return Ok(self.drive(client, connection));
        };
        let error = match self.config.connect(tls.clone()).await {
            Ok((client, connection)) => return Ok(self.drive(client, connection)),
            Err(error) => error,
        };
        let Some(why) = handshake_refusal(&error) else { return Err(failed(error)) };
        if self.config.get_ssl_mode() != SslMode::Prefer {
            return Err(PgError::Tls { url: self.shown.clone(), why });
        }
        tracing::debug!("{}: without TLS, which it cannot do: {why}", self.shown);
        let mut plain = self.config.clone();
        let (client, connection) = plain.ssl_mode(SslMode::Disable).connect(NoTls).await.map_err(failed)?;
        Ok(self.drive(client, connection))
    }

    /// Has a connection go on, until it ends or is dropped with its session.
    fn drive<S, T>(&self, client: Client, mut connection: Connection<S, T>) -> Connected
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, notifications) = mpsc::channel(limits::NOTIFICATIONS_MAX);
        let url = self.shown.clone();
        let task = tokio::spawn(async move {
            let mut messages = futures_util::stream::poll_fn(|context| connection.poll_message(context));
            while let Some(message) = futures_util::StreamExt::next(&mut messages).await {
                match message {
                    // A full queue says what one more notification would say: look again.
                    Ok(AsyncMessage::Notification(notification)) => drop(sender.try_send(notification)),
                    Ok(AsyncMessage::Notice(notice)) => tracing::debug!("{url}: {}", notice.message()),
                    Ok(_) => {}
                    Err(error) => {
                        tracing::debug!("{url}: the connection ended: {error}");
                        break;
                    }
                }
            }
        });
        (client, notifications, task)
    }

    /// The server's answer is not what was asked for.
    pub fn unexpected(&self, doing: impl Into<String>, why: impl Into<String>) -> PgError {
        PgError::Unexpected { url: self.shown.clone(), doing: doing.into(), why: why.into() }
    }

    /// An error of the driver, with what was tried.
    pub fn failed(&self, doing: impl Into<String>, source: tokio_postgres::Error) -> PgError {
        PgError::Server { url: self.shown.clone(), doing: doing.into(), source }
    }
}

type Connected = (Client, mpsc::Receiver<Notification>, JoinHandle<()>);

/// An error's words and those of its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words.push_str(&format!(": {error}"));
        cause = error.source();
    }
    words
}

/// Why there is no TLS, if that is the trouble, and not that the connection broke meanwhile.
fn handshake_refusal(error: &tokio_postgres::Error) -> Option<String> {
    const TLS: &str = "error performing TLS handshake";
    let words = chain(error);
    let broke = std::error::Error::source(error)
        .and_then(|cause| cause.downcast_ref::<io::Error>())
        .is_some_and(|cause| !matches!(cause.kind(), io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput));
    (words.starts_with(TLS) && !broke).then(|| words.trim_start_matches(TLS).trim_start_matches(": ").to_string())
}

/// Where user and password stand in a URL: between the scheme and the last `@` before path and query.
pub(crate) fn user_info(url: &str) -> Option<(usize, usize)> {
    let start = url.find("://")? + 3;
    // A password may have a `/` in it that should have been encoded: better too much is hidden than too little.
    let end = url.find('?').unwrap_or(url.len());
    let at = url.get(start..end)?.rfind('@')?;
    Some((start, start + at))
}

/// The URL as people may see it.
pub fn without_password(url: &str) -> String {
    let mut shown = url.to_string();
    if let Some((start, at)) = user_info(url)
        && let Some(colon) = url[start..at].find(':')
    {
        shown.replace_range(start + colon..at, "");
    }
    let Some((before, query)) = shown.split_once('?') else { return shown };
    let kept: Vec<&str> = query.split('&').filter(|part| !part.to_lowercase().contains("password")).collect();
    match kept.is_empty() {
        true => before.to_string(),
        false => format!("{before}?{}", kept.join("&")),
    }
}

/// One connection. Dropping it ends it; the server rolls back what was not committed.
pub struct Session {
    /// Takes statements.
    pub client: Client,
    /// What `LISTEN` brings; ends with the connection.
    pub notifications: mpsc::Receiver<Notification>,
    endpoint: Endpoint,
    task: JoinHandle<()>,
}

impl Session {
    /// Where it leads.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}
