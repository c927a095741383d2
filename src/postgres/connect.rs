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
        Ok(Endpoint { config, shown: shown.to_string() })
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
