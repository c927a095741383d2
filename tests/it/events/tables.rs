//! Events tables as they are found, made by hand, and the servers that they are in.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use watershed::testing::postgres::Cluster;

/// A destination's table; PostgreSQL.
pub const DESTINATION: &str = "create table events (id bigint not null primary key, ts timestamptz not null, \
    event jsonb not null);";

/// What a source has besides: the names count, and that ids are consecutive.
pub const SOURCE: &str = r#"
create table id (id bigint not null primary key);
insert into id values (1);
create function notify_event_insert() returns trigger language plpgsql as $$ begin
    perform pg_notify('eventsinsert', json_build_object('table', 'events', 'id', new.id)::text);
    return null;
end $$;
create function filter_sql_command() returns trigger language plpgsql as $$ begin
    raise exception 'events are immutable';
end $$;
create function restore_events(text, text, text, text) returns bigint language sql as 'select 0::bigint';
create function insert_events(insert_values text) returns bigint language plpgsql as $$
declare next bigint; made bigint;
begin
    select id from id into next for update;
    execute 'insert into events (id, ts, event) select $1, now(), jsonb_build_object(''text'', $2)' using next, insert_values;
    get diagnostics made = row_count;
    update id set id = next + made;
    return made;
end $$;
create trigger notify_insert after insert on events for each row execute function notify_event_insert();
create trigger check_sql_command before update or delete or truncate on events
    for each statement execute function filter_sql_command();
"#;

/// A server that the tests of this room share; it ends with the last of those that run at the same time.
pub fn cluster() -> Arc<Cluster> {
    static SHARED: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let cluster = Arc::new(Cluster::start());
        *shared = Arc::downgrade(&cluster);
        cluster
    })
}

/// A new database with an empty source.
pub fn source(cluster: &Cluster) -> String {
    let url = cluster.database();
    cluster.sql(&url, DESTINATION);
    cluster.sql(&url, SOURCE);
    url
}

/// A new database with an empty destination.
pub fn destination(cluster: &Cluster) -> String {
    let url = cluster.database();
    cluster.sql(&url, DESTINATION);
    url
}

/// Statements that put events with these ids, one a transaction in their times, into a table.
pub fn events(ids: std::ops::RangeInclusive<i64>) -> String {
    let (first, last) = (ids.start(), ids.end());
    format!(
        "insert into events select i, timestamptz '2024-01-01 00:00:00.000001+00' + i * interval '1 s', \
         jsonb_build_object('n', i, 'entityName', 'Person') from generate_series({first}, {last}) as i"
    )
}

/// Puts events into a source, as if they had come by its functions.
pub fn append(cluster: &Cluster, url: &str, ids: std::ops::RangeInclusive<i64>) {
    let next = ids.end() + 1;
    cluster.sql(url, &format!("{}; update id set id = {next}", events(ids)));
}

/// A SQLite file with an events table, and that of a source besides.
pub fn sqlite(path: &Path, source: bool) -> rusqlite::Connection {
    let conn = rusqlite::Connection::open(path).expect("a file");
    let table = "create table events (id integer primary key, ts text not null, event text not null);";
    conn.execute_batch(table).expect("made");
    if source {
        conn.execute_batch("create table id (id integer primary key); insert into id values (1);").expect("made");
    }
    conn
}
