//! A connection in replication mode, and its commands. (postgresql.org/docs/15/protocol-replication.html)

use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use tokio_postgres::config::{SslMode, TargetSessionAttrs};
use tokio_postgres::error::SqlState;

use super::connection::Connection;
use super::error::ReplicationError;
use super::socket::{self, Place};
use super::stream::ReplicationStream;
use super::wire::Fields;
use super::{Lsn, startup};
use crate::model::limits;
use crate::postgres::Endpoint;

/// Which server, which database, and how far its log is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identification {
    /// The number that a cluster was given when it was made, in decimal; its standbys and restored backups have the same.
    pub system: String,
    /// Its timeline: one more after every promotion.
    pub timeline: u32,
    /// How far its transaction log is flushed.
    pub flushed: Lsn,
    /// The connection's database.
    pub database: String,
}

/// A slot that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedSlot {
    /// Its name.
    pub name: String,
    /// Transactions that commit from here on are streamed.
    pub consistent: Lsn,
}

/// How a stream is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartOptions {
    /// Large transactions come in parts before they are committed (protocol version 2); else the server keeps them on its disk
    /// until then (version 1). Parts do not say from which origin they are (PostgreSQL 15 sends no `O` for them): whoever must
    /// know leaves this off.
    pub streaming: bool,
    /// `pg_logical_emit_message` is heard.
    pub messages: bool,
    /// A server that says nothing for so long, although it is asked, is given up.
    pub silence: Duration,
}

impl Default for StartOptions {
    fn default() -> StartOptions {
        StartOptions { streaming: false, messages: true, silence: limits::REPLICATION_SILENCE_MAX }
    }
}

/// A connection in replication mode. Dropping it ends it.
pub struct ReplicationClient {
    connection: Connection,
}

/// A row of texts, and nulls.
type TextRow = Vec<Option<String>>;

impl ReplicationClient {
    /// Connects, or gives up after `limit`. The user needs the attribute `REPLICATION`, and `pg_hba.conf` to let it in (as
    /// for any connection to the database).
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub async fn connect(endpoint: &Endpoint, limit: Duration) -> Result<ReplicationClient, ReplicationError> {
        let timeout = |_| ReplicationError::Timeout { url: endpoint.name().to_string(), limit };
        tokio::time::timeout(limit, ReplicationClient::any_place(endpoint)).await.map_err(timeout)?
    }

    async fn any_place(endpoint: &Endpoint) -> Result<ReplicationClient, ReplicationError> {
        let nowhere = std::io::Error::other("the URL names no host");
        let mut error = ReplicationError::Connect { url: endpoint.name().to_string(), source: nowhere };
        for place in socket::places(endpoint.config()) {
            match ReplicationClient::at(endpoint, &place).await {
                Ok(client) => return Ok(client),
                Err(refused) => error = refused,
            }
        }
        Err(error)
    }

    async fn at(endpoint: &Endpoint, place: &Place) -> Result<ReplicationClient, ReplicationError> {
        let socket = match socket::connect(endpoint, place, false).await {
            // As libpq does: whoever only prefers TLS goes on without it.
            Err(ReplicationError::Tls { url, why }) if endpoint.config().get_ssl_mode() == SslMode::Prefer => {
                tracing::debug!("{url}: without TLS, which it cannot do: {why}");
                socket::connect(endpoint, place, true).await?
            }
            connected => connected?,
        };
        let mut connection = Connection::new(endpoint, socket);
        startup::begin(&mut connection, endpoint).await?;
        let mut client = ReplicationClient { connection };
        let read_only = match endpoint.config().get_target_session_attrs() {
            TargetSessionAttrs::ReadWrite => Some("off"),
            TargetSessionAttrs::ReadOnly => Some("on"),
            _ => None,
        };
        if let Some(expected) = read_only
            && client.setting("transaction_read_only").await?.as_deref() != Some(expected)
        {
            let source = std::io::Error::other("it is not the kind of server that target_session_attrs names");
            return Err(ReplicationError::Connect { url: endpoint.name().to_string(), source });
        }
        Ok(client)
    }

    /// What the server says of itself without being asked: `server_version`, `server_encoding` and others.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.connection.parameter(name)
    }

    /// What a setting of the server is, as `SHOW` writes it.
    ///
    /// # Errors
    /// There is none of that name, or the connection is lost.
    pub async fn setting(&mut self, name: &str) -> Result<Option<String>, ReplicationError> {
        let rows = self.query(&format!("reading the setting {name}"), &format!("SHOW {name}")).await?;
        Ok(rows.into_iter().next().and_then(|row| row.into_iter().next()?))
    }

    /// `IDENTIFY_SYSTEM`
    ///
    /// # Errors
    /// The server refuses, or the connection is lost.
    pub async fn identify(&mut self) -> Result<Identification, ReplicationError> {
        let doing = "IDENTIFY_SYSTEM";
        let rows = self.query(doing, doing).await?;
        let read = |rows: &[TextRow]| {
            let row = rows.first()?;
            let text = |at: usize| row.get(at)?.clone();
            let (timeline, flushed) = (text(1)?.parse().ok()?, text(2)?.parse().ok()?);
            Some(Identification { system: text(0)?, timeline, flushed, database: text(3)? })
        };
        read(&rows).ok_or_else(|| self.connection.unexpected(doing, format!("the answer is {rows:?}")))
    }

    /// Makes a slot of `pgoutput` that stays. The server waits for all transactions that run; one that is told to make a slot
    /// may do so even if the answer is not waited for.
    ///
    /// # Errors
    /// There is one of that name, none is free, or the server refuses otherwise.
    pub async fn create_slot(&mut self, name: &str) -> Result<CreatedSlot, ReplicationError> {
        let doing = format!("creating the replication slot {name}");
        let command = format!("CREATE_REPLICATION_SLOT {} LOGICAL pgoutput NOEXPORT_SNAPSHOT", quoted(name));
        let rows = self.query(&doing, &command).await?;
        let read = |rows: &[TextRow]| {
            let row = rows.first()?;
            let consistent = row.get(1)?.as_ref()?.parse().ok()?;
            Some(CreatedSlot { name: row.first()?.clone()?, consistent })
        };
        read(&rows).ok_or_else(|| self.connection.unexpected(&doing, format!("the answer is {rows:?}")))
    }

    /// Drops a slot, and waits for whoever uses it if `wait`; whether there was one.
    ///
    /// # Errors
    /// It is in use, or the server refuses otherwise.
    pub async fn drop_slot(&mut self, name: &str, wait: bool) -> Result<bool, ReplicationError> {
        let wait = if wait { " WAIT" } else { "" };
        let command = format!("DROP_REPLICATION_SLOT {}{wait}", quoted(name));
        match self.query(&format!("dropping the replication slot {name}"), &command).await {
            Ok(_) => Ok(true),
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_OBJECT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Any statement of the simple query protocol, one or several: the rows of all of them.
    ///
    /// # Errors
    /// The server refuses, or the connection is lost. After a refusal the connection can be used.
    pub async fn simple_query(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>, ReplicationError> {
        self.query("a statement", sql).await
    }

    /// Streams the changes of a publication, or of several with commas between their names, from a slot: all transactions that
    /// commit behind `from` and behind what was acknowledged last. Values are written as DateStyle `ISO`, IntervalStyle
    /// `postgres`, in UTC, with all digits and UTF-8.
    ///
    /// # Errors
    /// The slot is in use (`55006`), is none or is invalidated, the server refuses otherwise, or the connection is lost. A
    /// publication that is none is noticed only when something is to be sent.
    pub async fn start(
        mut self,
        slot: &str,
        from: Lsn,
        publication: &str,
        options: StartOptions,
    ) -> Result<ReplicationStream, ReplicationError> {
        let doing = format!("streaming from the replication slot {slot}");
        let timeout = self.setting("wal_sender_timeout").await?;
        let every = limits::REPLICATION_STATUS_INTERVAL;
        let every = timeout.as_deref().and_then(duration).map_or(every, |timeout| every.min(timeout / 3));
        let proto = if options.streaming { "2" } else { "1" };
        let publications: Vec<String> = publication.split(',').map(quoted).collect();
        let publication = literal(&publications.join(","));
        let mut wanted = format!("proto_version '{proto}', publication_names {publication}");
        for (name, set) in [("streaming", options.streaming), ("messages", options.messages)] {
            if set {
                wanted.push_str(&format!(", {name} 'on'"));
            }
        }
        let command = format!("START_REPLICATION SLOT {} LOGICAL {from} ({wanted})", quoted(slot));
        self.send(&doing, &command).await?;
        match self.connection.receive(&doing).await? {
            (b'W', _) => Ok(ReplicationStream::new(self.connection, doing, from, every, options.silence)),
            (b'E', content) => Err(self.connection.refused(&doing, &content)),
            (tag, _) => Err(self.connection.unexpected(&doing, format!("a message {:?} came", char::from(tag)))),
        }
    }

    async fn send(&mut self, doing: &str, sql: &str) -> Result<(), ReplicationError> {
        let mut bytes = BytesMut::new();
        frontend::query(sql, &mut bytes).map_err(|error| self.connection.unexpected(doing, error.to_string()))?;
        self.connection.send(doing, &bytes).await
    }

    async fn query(&mut self, doing: &str, sql: &str) -> Result<Vec<TextRow>, ReplicationError> {
        self.send(doing, sql).await?;
        let mut rows = Vec::new();
        let mut error = None;
        loop {
            match self.connection.receive(doing).await? {
                // Columns, how many rows, and that there was no statement.
                (b'T' | b'C' | b'I', _) => {}
                (b'D', content) => {
                    let row = row(&content).ok_or_else(|| self.connection.unexpected(doing, "a row ends too early"));
                    rows.push(row?);
                }
                // A fatal one is the last message.
                (b'E', content) => {
                    let refused = self.connection.refused(doing, &content);
                    if refused.server().is_some_and(|error| error.severity != "ERROR") {
                        return Err(refused);
                    }
                    error = Some(refused);
                }
                (b'Z', _) => return error.map_or(Ok(rows), Err),
                (tag, _) => {
                    return Err(self.connection.unexpected(doing, format!("a message {:?} came", char::from(tag))));
                }
            }
        }
    }
}

fn row(content: &[u8]) -> Option<TextRow> {
    let mut fields = Fields(content);
    let count = fields.u16()?;
    let mut row = Vec::new();
    for _ in 0..count {
        row.push(match usize::try_from(fields.i32()?) {
            Ok(length) => Some(String::from_utf8_lossy(fields.take(length)?).into_owned()),
            Err(_) => None,
        });
    }
    Some(row)
}

/// An identifier.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A string of the replication grammar: no escapes but the doubled quote.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A duration as `SHOW` writes it; `None`: none, or switched off.
fn duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok().filter(|number| *number > 0)?;
    let unit_ms = match &text[digits..] {
        "" | "ms" => 1,
        "s" => 1_000,
        "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    Some(Duration::from_millis(number.saturating_mul(unit_ms)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted() {
        assert_eq!(quoted("a\"b"), "\"a\"\"b\"");
        assert_eq!(literal(&quoted("it's")), "'\"it''s\"'");
    }

    #[test]
    fn durations_are_read_as_shown() {
        for (text, ms) in
            [("1min", Some(60_000)), ("500ms", Some(500)), ("2s", Some(2_000)), ("0", None), ("7", Some(7))]
        {
            assert_eq!(duration(text), ms.map(Duration::from_millis), "{text}");
        }
        assert_eq!(duration("1 fortnight"), None);
    }

    #[test]
    fn rows_that_end_early_are_none() {
        let content = b"\0\x02\0\0\0\x02ab\xff\xff\xff\xff";
        assert_eq!(row(content), Some(vec![Some("ab".into()), None]));
        for end in 0..content.len() {
            assert_eq!(row(&content[..end]), None, "{end}");
        }
    }
}
