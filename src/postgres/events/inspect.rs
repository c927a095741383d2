//! What an events table is: columns, objects, counts, the first event.

use std::time::Duration;

use async_trait::async_trait;
use tokio_postgres::types::{FromSql, Type};
use tokio_postgres::{IsolationLevel, Row, Transaction};

use super::compare;
use crate::model::EventTime;
use crate::postgres::identity::identity;
use crate::postgres::{Endpoint, PgError, Session};
use crate::view::{ChunkDigest, EventIds, EventsError, EventsFacts, EventsTable, StoredEvent, Trouble};

/// An events table that is asked, over a connection of its own. It never writes.
pub struct PgEventsTable {
    session: Session,
    digest_kind: String,
}

const COLUMNS: &str = "select attname::text, format_type(atttypid, atttypmod), attnotnull \
                       from pg_attribute where attrelid = 'events'::regclass and attnum > 0 and not attisdropped \
                       order by attname";
const KEY: &str = "select exists (select 1 from pg_index i join pg_attribute a \
                   on a.attrelid = i.indrelid and a.attnum = i.indkey[0] \
                   where i.indrelid = 'events'::regclass and i.indisunique and i.indisvalid and i.indnkeyatts = 1 \
                   and i.indpred is null and a.attname = 'id')";
/// One row: whether rows are hidden from this user, and why inserting would be refused.
const ACCESS: &str = "select row_security_active('events'::regclass), case \
    when pg_is_in_recovery() then 'the server is a standby' \
    when current_setting('default_transaction_read_only')::bool then 'default_transaction_read_only is on' \
    when not (has_column_privilege('events', 'id', 'insert') and has_column_privilege('events', 'ts', 'insert') \
        and has_column_privilege('events', 'event', 'insert')) \
    then format('the user %s may not INSERT into the table events', current_user) end";
/// Names of the objects that only a source has, in the order in which [`SOURCE_OBJECTS`] lists them.
const OBJECTS: &str = "select tgname::text from pg_trigger where tgrelid = 'events'::regclass and not tgisinternal \
        and tgname in ('notify_insert', 'check_sql_command') \
    union all select distinct proname::text from pg_proc where (pg_function_is_visible(oid) or pronamespace = \
        (select relnamespace from pg_class where oid = 'events'::regclass)) and prokind = 'f' \
        and proname in ('notify_event_insert', 'filter_sql_command', 'insert_events', 'restore_events') \
    union all select 'id' from pg_class where oid = to_regclass('id') and relkind in ('r', 'p')";
/// What a source has, besides `id` where its ids come from that table. `restore_events` needs an extension that not
/// every server offers, and copying does not need it.
const SOURCE_OBJECTS: [&str; 5] =
    ["notify_insert", "notify_event_insert", "check_sql_command", "filter_sql_command", "insert_events"];
/// Where ids come from a sequence, this table says in which transaction each was given.
const SEQUENCE: &str = "select to_regclass('event_transactions') is not null";
const COUNTS: &str = "select count(*), coalesce(max(id), 0) from events";
const FIRST: &str = "select id, ts, event::text from events order by id limit 1";
const BY_IDS: &str = "select id, ts, event::text from events where id = any($1) order by id";

/// A timestamp with time zone as the server sends it: microseconds since 2000, nothing rounded.
struct Micros(i64);

impl<'a> FromSql<'a> for Micros {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Micros, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Micros(i64::from_be_bytes(raw.try_into()?)))
    }

    fn accepts(wanted: &Type) -> bool {
        *wanted == Type::TIMESTAMPTZ
    }
}

/// The event in a row of `id, ts, event::text`.
pub(super) fn stored(row: &Row) -> Result<StoredEvent, tokio_postgres::Error> {
    let Micros(micros) = row.try_get(1)?;
    let json: &str = row.try_get(2)?;
    Ok(StoredEvent { id: row.try_get(0)?, time: EventTime(micros), json: json.as_bytes().into() })
}

impl PgEventsTable {
    /// Connects, or gives up after `connect_timeout`.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub async fn open(endpoint: &Endpoint, connect_timeout: Duration) -> Result<PgEventsTable, EventsError> {
        let session = endpoint.connect(connect_timeout).await?;
        let failed = |error| endpoint.failed("asking for its encoding", error);
        let row = session.client.query_one("select current_setting('server_encoding')", &[]).await.map_err(failed)?;
        let encoding: String = row.get(0);
        Ok(PgEventsTable { session, digest_kind: format!("postgres/{encoding}") })
    }

    fn failed(&self, doing: &'static str) -> impl Fn(tokio_postgres::Error) -> PgError {
        let endpoint = self.session.endpoint().clone();
        move |error| endpoint.failed(doing, error)
    }
}

/// Answers that come one after the other in one snapshot.
struct Asking<'a> {
    transaction: Transaction<'a>,
    endpoint: Endpoint,
}

impl Asking<'_> {
    async fn one<T: for<'b> FromSql<'b>>(&self, sql: &str) -> Result<T, PgError> {
        let row = self.transaction.query_one(sql, &[]).await;
        row.and_then(|row| row.try_get(0)).map_err(|error| self.failed(error))
    }

    async fn all(&self, sql: &str) -> Result<Vec<Row>, PgError> {
        self.transaction.query(sql, &[]).await.map_err(|error| self.failed(error))
    }

    fn failed(&self, error: tokio_postgres::Error) -> PgError {
        self.endpoint.failed("looking at the table events", error)
    }

    /// Refuses a table with other columns, or one whose rows are hidden in part.
    async fn check_shape(&self) -> Result<(), EventsError> {
        let mut columns = Vec::new();
        for row in self.all(COLUMNS).await? {
            let (name, kind, filled): (String, String, bool) = (row.get(0), row.get(1), row.get(2));
            columns.push(format!("{name} {kind}{}", if filled { " not null" } else { "" }));
        }
        let wanted = "event jsonb not null, id bigint not null, ts timestamp with time zone not null";
        let found = columns.join(", ");
        if found != wanted {
            return Err(EventsError {
                code: "WS-PG-011",
                trouble: Trouble::Invalid,
                what: format!("{}: the table events has other columns", self.endpoint.name()),
                why: format!("expected {wanted}; found {found}"),
                fix: "name the database that has the events, or make the table with `watershed events init`".into(),
            });
        }
        Ok(())
    }

    /// Why inserting would be refused.
    async fn access(&self) -> Result<Option<String>, EventsError> {
        let row = self.transaction.query_one(ACCESS, &[]).await.map_err(|error| self.failed(error))?;
        if row.get::<_, bool>(0) {
            return Err(EventsError {
                code: "WS-PG-012",
                trouble: Trouble::Invalid,
                what: format!("{}: rows of the table events are hidden from this user", self.endpoint.name()),
                why: "row security is active: what cannot be seen would be missing in the copy, silently".into(),
                fix: "use the table's owner, or a role with BYPASSRLS".into(),
            });
        }
        Ok(row.get(1))
    }

    async fn objects(&self, facts: &mut EventsFacts) -> Result<(), PgError> {
        let rows = self.all(OBJECTS).await?;
        facts.source_objects = rows.iter().map(|row| row.get(0)).collect();
        facts.source_objects.sort();
        let has = |name: &str| facts.source_objects.iter().any(|object| object == name);
        facts.ids = match has("id") {
            true => Some(EventIds::Table),
            false if self.one(SEQUENCE).await? => Some(EventIds::Sequence),
            false => None,
        };
        let id = ["id"].into_iter().filter(|_| facts.ids.is_none());
        let missing = SOURCE_OBJECTS.into_iter().filter(|name| !has(name)).chain(id);
        facts.missing_objects = missing.map(str::to_string).collect();
        Ok(())
    }

    async fn facts(&self) -> Result<EventsFacts, EventsError> {
        let mut facts = EventsFacts {
            identity: identity(&self.transaction).await.map_err(|error| self.failed(error))?,
            ..EventsFacts::default()
        };
        self.check_shape().await?;
        facts.insert_refused = self.access().await?;
        facts.has_key = self.one(KEY).await?;
        self.objects(&mut facts).await?;
        let counts = self.transaction.query_one(COUNTS, &[]).await.map_err(|error| self.failed(error))?;
        (facts.count, facts.max_id) = (counts.get(0), counts.get(1));
        let first = self.all(FIRST).await?;
        facts.first = first.first().map(stored).transpose().map_err(|error| self.failed(error))?;
        Ok(facts)
    }
}

#[async_trait]
impl EventsTable for PgEventsTable {
    fn name(&self) -> &str {
        self.session.endpoint().name()
    }

    fn digest_kind(&self) -> &str {
        &self.digest_kind
    }

    async fn facts(&mut self) -> Result<EventsFacts, EventsError> {
        let endpoint = self.session.endpoint().clone();
        let transaction = self.session.client.build_transaction();
        let started = transaction.isolation_level(IsolationLevel::RepeatableRead).read_only(true).start().await;
        let transaction = started.map_err(|error| endpoint.failed("beginning", error))?;
        Asking { transaction, endpoint }.facts().await
    }

    async fn events(&mut self, ids: &[i64]) -> Result<Vec<StoredEvent>, EventsError> {
        let failed = self.failed("reading events");
        let rows = self.session.client.query(BY_IDS, &[&ids]).await.map_err(&failed)?;
        Ok(rows.iter().map(stored).collect::<Result<_, _>>().map_err(failed)?)
    }

    async fn range(&mut self, first: i64, last: i64, limit: u32) -> Result<Vec<StoredEvent>, EventsError> {
        let read = compare::range(&self.session.client, first, last, limit).await;
        Ok(read.map_err(self.failed("reading events"))?)
    }

    async fn digests(&mut self, first: i64, last: i64, width: i64) -> Result<Vec<ChunkDigest>, EventsError> {
        let read = compare::digests(&self.session.client, first, last, width).await;
        Ok(read.map_err(self.failed("computing digests"))?)
    }

    async fn torn(&mut self, first: i64, last: i64, limit: u32) -> Result<Vec<i64>, EventsError> {
        let read = compare::torn(&self.session.client, first, last, limit).await;
        Ok(read.map_err(self.failed("comparing times"))?)
    }
}
