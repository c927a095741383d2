//! A database by its URL, whichever kind it is.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use crate::log::Source;
use crate::model::LogId;
use crate::node::config::DatabaseUrl;
use crate::postgres::events::{PgEventsOptions, PgEventsSource, PgEventsTable, PgEventsView};
use crate::postgres::{PgError, user_info};
use crate::sqlite::events::{SqliteEventsOptions, SqliteEventsSource, SqliteEventsTable, SqliteEventsView};
use crate::view::{EventIds, EventsError, EventsTable, View};

/// A database with an events table. Shown without its password.
#[derive(Clone)]
pub enum Endpoint {
    /// On a server.
    Postgres(Box<crate::postgres::Endpoint>),
    /// In a file.
    Sqlite(PathBuf),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Postgres(endpoint) => f.write_str(endpoint.name()),
            Endpoint::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a URL was not. Its words hold no password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotAnEndpoint(pub String);

impl FromStr for Endpoint {
    type Err = NotAnEndpoint;
    /// Reads `postgres://USER:PASSWORD@HOST:PORT/DATABASE?…` or `sqlite:PATH`.
    fn from_str(text: &str) -> Result<Endpoint, NotAnEndpoint> {
        let url: DatabaseUrl = text.parse().map_err(NotAnEndpoint)?;
        Endpoint::of(&url).map_err(|error| NotAnEndpoint(error.to_string()))
    }
}

impl Endpoint {
    /// The database of a URL. What a PostgreSQL URL does not say of user and password is taken from `PGUSER`,
    /// `PGPASSWORD` and the password file, as by PostgreSQL's own programs.
    ///
    /// # Errors
    /// The URL cannot be read.
    pub fn of(url: &DatabaseUrl) -> Result<Endpoint, PgError> {
        match url {
            DatabaseUrl::Sqlite(path) => Ok(Endpoint::Sqlite(path.clone())),
            DatabaseUrl::Postgres(url) => {
                let endpoint = crate::postgres::Endpoint::from_url(url)?;
                Ok(Endpoint::Postgres(Box::new(endpoint)))
            }
        }
    }

    /// Whether both plainly name the same database; two that do not may still be the same.
    pub fn is_plainly(&self, other: &Endpoint) -> bool {
        match (self, other) {
            (Endpoint::Postgres(one), Endpoint::Postgres(other)) => place(one.config()) == place(other.config()),
            (Endpoint::Sqlite(one), Endpoint::Sqlite(other)) => absolute(one) == absolute(other),
            _ => false,
        }
    }

    /// Opens it to be asked about its events.
    ///
    /// # Errors
    /// It cannot be reached, or refuses.
    pub async fn table(&self, connect_timeout: Duration) -> Result<Box<dyn EventsTable>, EventsError> {
        Ok(match self {
            Endpoint::Postgres(endpoint) => Box::new(PgEventsTable::open(endpoint, connect_timeout).await?),
            Endpoint::Sqlite(path) => Box::new(SqliteEventsTable::open(path).await?),
        })
    }

    /// Opens it to be read as it grows.
    ///
    /// # Errors
    /// It cannot be reached, or refuses.
    pub async fn source(&self, ids: EventIds, connect_timeout: Duration) -> Result<Box<dyn Source>, EventsError> {
        Ok(match self {
            Endpoint::Postgres(endpoint) => Box::new(PgEventsSource::open(endpoint, ids, connect_timeout).await?),
            Endpoint::Sqlite(path) => Box::new(SqliteEventsSource::open(path).await?),
        })
    }

    /// Opens it to be written with what the source of that id has.
    ///
    /// # Errors
    /// It cannot be reached, or refuses.
    pub async fn view(
        &self,
        source: LogId,
        ids: EventIds,
        events_per_write_max: u32,
        connect_timeout: Duration,
    ) -> Result<Box<dyn View>, EventsError> {
        let events_per_write_max = events_per_write_max as usize;
        Ok(match self {
            Endpoint::Postgres(endpoint) => {
                let options = PgEventsOptions { ids, events_per_write_max, connect_limit: connect_timeout };
                Box::new(PgEventsView::open(endpoint, source, options).await?)
            }
            Endpoint::Sqlite(path) => {
                let options = SqliteEventsOptions { ids, events_per_write_max };
                Box::new(SqliteEventsView::open(path, source, options).await?)
            }
        })
    }
}

fn absolute(path: &Path) -> PathBuf {
    path.canonicalize().or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.into())
}

/// Hosts with their ports, and the database.
fn place(config: &tokio_postgres::Config) -> (Vec<(String, u16)>, Option<String>) {
    use tokio_postgres::config::Host;
    let ports = config.get_ports();
    let host = |(index, host): (usize, &Host)| {
        let port = ports.get(index).or(ports.first().filter(|_| ports.len() == 1)).copied().unwrap_or(5432);
        let host = match host {
            Host::Tcp(name) if ["localhost", "127.0.0.1", "::1"].contains(&&*name.to_lowercase()) => "localhost".into(),
            Host::Tcp(name) => name.to_lowercase(),
            Host::Unix(folder) => folder.display().to_string(),
        };
        (host, port)
    };
    let mut hosts: Vec<_> = config.get_hosts().iter().enumerate().map(host).collect();
    hosts.sort();
    (hosts, config.get_dbname().or(config.get_user()).map(str::to_string))
}

/// The URL with a user and a password where it has none.
pub(super) fn completed(url: &str, user: Option<&str>, password: Option<&str>) -> String {
    let info = user_info(url).map(|(start, at)| &url[start..at]).unwrap_or_default();
    let (has_user, has_password) = (!info.is_empty() && !info.starts_with(':'), info.contains(':'));
    let named =
        |name: &str| url.split_once('?').is_some_and(|(_, query)| query.split('&').any(|part| part.starts_with(name)));
    let mut full = url.to_string();
    let given = [("user=", user.filter(|_| !has_user)), ("password=", password.filter(|_| !has_password))];
    for (name, value) in given {
        if let Some(value) = value.filter(|_| !named(name)) {
            full.push(if full.contains('?') { '&' } else { '?' });
            full.push_str(name);
            full.push_str(&encoded(value));
        }
    }
    full
}

/// A text as it stands in a URL.
pub(super) fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::without_password;

    #[test]
    fn no_password_is_shown() {
        let cases = [
            ("postgres://a:b@c:1/d", "postgres://a@c:1/d"),
            ("postgres://a:b@b/b@c/d?sslmode=require", "postgres://a@c/d?sslmode=require"),
            ("postgres://c/d?user=a&password=b", "postgres://c/d?user=a"),
            ("postgres://c/d?password=b", "postgres://c/d"),
            ("postgres://c/d", "postgres://c/d"),
            ("postgres://a@/d?host=/tmp", "postgres://a@/d?host=/tmp"),
        ];
        for (url, shown) in cases {
            assert_eq!(without_password(url), shown);
            if let Ok(endpoint) = url.parse::<Endpoint>() {
                assert_eq!(format!("{endpoint} {endpoint:?}"), format!("{shown} {shown}"));
            }
        }
        let error = "postgres://a:secret@c:port/d".parse::<Endpoint>().expect_err("no port");
        assert!(!error.0.contains("secret"), "{error}");
    }

    #[test]
    fn what_a_url_leaves_out_is_taken_from_elsewhere() {
        let full = |url| completed(url, Some("me"), Some("p@ss/ö"));
        assert_eq!(full("postgres://c/d"), "postgres://c/d?user=me&password=p%40ss%2F%C3%B6");
        assert_eq!(full("postgres://a@c/d?x=1"), "postgres://a@c/d?x=1&password=p%40ss%2F%C3%B6");
        assert_eq!(full("postgres://a:b@c/d"), "postgres://a:b@c/d");
        let config = tokio_postgres::Config::from_str(&full("postgres://c/d")).expect("a URL");
        assert_eq!((config.get_user(), config.get_password()), (Some("me"), Some("p@ss/ö".as_bytes())));
    }

    #[test]
    fn the_same_place_is_the_same_however_it_is_written() {
        let endpoint = |url: &str| url.parse::<Endpoint>().expect("a URL");
        let same = |one, other| endpoint(one).is_plainly(&endpoint(other));
        assert!(same("postgres://a@Host/d", "postgresql://b:c@host:5432/d"));
        assert!(same("postgres://a@localhost/d", "postgres://a@127.0.0.1/d"));
        assert!(same("sqlite:a.db", "sqlite:./a.db"));
        assert!(!same("postgres://a@host/d", "postgres://a@host/e"));
        assert!(!same("postgres://a@host:1/d", "postgres://a@host:2/d"));
        assert!(!same("sqlite:a.db", "sqlite:b.db"));
    }
}
