//! Connections to a server.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_postgres::{AsyncMessage, Client, Config, NoTls, Notification};

use super::PgError;
use crate::model::limits;

/// Where a database is, and who asks.
#[derive(Clone)]
pub struct Endpoint {
    config: Config,
    shown: String,
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
    ///
    /// # Errors
    /// The URL is none.
    pub fn new(url: &str, shown: &str) -> Result<Endpoint, PgError> {
        let mut config =
            Config::from_str(url).map_err(|error| PgError::Url { url: shown.to_string(), why: error.to_string() })?;
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
        Ok(Endpoint { config, shown: shown.to_string() })
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
        Endpoint { config, shown: format!("{} (database {name})", self.shown) }
    }

    /// The driver's configuration, for those who need another database on the same server.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Connects, or gives up after `limit`.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub async fn connect(&self, limit: Duration) -> Result<Session, PgError> {
        let connected = tokio::time::timeout(limit, self.config.connect(NoTls)).await;
        let connected = connected.map_err(|_| PgError::Timeout { url: self.shown.clone(), limit })?;
        let (client, mut connection) = connected.map_err(|source| self.failed("connecting", source))?;
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
        Ok(Session { client, notifications, endpoint: self.clone(), task })
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
