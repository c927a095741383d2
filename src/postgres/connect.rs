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

/// A URL as people may see it.
fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return "the URL given".into() };
    // The first `@` ends user and password, whatever stands in them.
    let (user, rest) = rest.split_once('@').map_or((None, rest), |(user, rest)| (Some(user), rest));
    let (rest, parameters) = rest.split_once('?').map_or((rest, None), |(rest, after)| (rest, Some(after)));
    let rest = match user {
        Some(user) => format!("{}@{rest}", user.split([':', '/', '?']).next().unwrap_or_default()),
        None => rest.to_string(),
    };
    let is_open = |parameter: &&str| !parameter.to_ascii_lowercase().starts_with("password");
    let parameters: Vec<&str> = parameters.unwrap_or_default().split('&').filter(is_open).collect();
    match parameters.join("&").as_str() {
        "" => format!("{scheme}://{rest}"),
        parameters => format!("{scheme}://{rest}?{parameters}"),
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
