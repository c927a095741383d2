//! `events init` in PostgreSQL: what it makes, and what it does with what is there.

use std::time::Duration;

use watershed::postgres::Endpoint;
use watershed::postgres::events::init;
use watershed::testing::postgres::Cluster;
use watershed::view::{EventIds, EventsError, EventsRole, InitDone, InitOptions, InitReport, Trouble};

use super::tables::cluster;

const LIMIT: Duration = Duration::from_secs(60);

pub async fn try_init(url: &str, options: InitOptions) -> Result<InitReport, EventsError> {
    init(&Endpoint::from_url(url).expect("a URL"), options, LIMIT).await
}

pub async fn source(url: &str) -> InitReport {
    try_init(url, InitOptions::new(EventsRole::Source)).await.expect("a source")
}

pub fn by_sequence() -> InitOptions {
    InitOptions { ids: Some(EventIds::Sequence), ..InitOptions::new(EventsRole::Source) }
}

fn done(report: &InitReport, name: &str) -> InitDone {
    let object = report.objects.iter().find(|object| &*object.name == name);
    object.unwrap_or_else(|| panic!("{name} in {report:#?}")).done
}

/// What a database has of events tables.
fn objects(cluster: &Cluster, url: &str) -> String {
    cluster.sql(
        url,
        "select indexdef from pg_indexes where schemaname = 'public' order by 1;
         select oid::regprocedure, prosrc from pg_proc where pronamespace = 'public'::regnamespace and prolang <>
            (select oid from pg_language where lanname = 'c') order by 1;
         select pg_get_triggerdef(oid) from pg_trigger order by 1;
         select relname, relkind from pg_class where relnamespace = 'public'::regnamespace order by 1;
         select extname from pg_extension order by 1",
    )
}

#[tokio::test]
async fn a_source_is_made_once_and_found_complete_afterwards() {
    let cluster = cluster();
    let url = cluster.database();
    let made = source(&url).await;
    assert!(made.objects.iter().all(|object| object.done == InitDone::Created), "{made:#?}");
    let names: Vec<&str> = made.objects.iter().map(|object| &*object.name).collect();
    for name in [
        "events",
        "events_event_entityname",
        "events_event_operation",
        "events_event_propertyname",
        "events_event_entityid",
        "events_event_metadata_command",
        "events_ts",
        "notify_event_insert()",
        "filter_sql_command()",
        "insert_events(text)",
        "notify_insert",
        "check_sql_command",
        "dblink",
        "restore_events(text, text, text, text)",
        "id",
    ] {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
    let before = objects(&cluster, &url);
    let again = source(&url).await;
    assert!(again.objects.iter().all(|object| object.done == InitDone::Present) && !again.changed(), "{again:#?}");
    assert_eq!(objects(&cluster, &url), before);
}

#[tokio::test]
async fn a_dry_run_prints_what_makes_the_same_objects_and_changes_nothing() {
    let cluster = cluster();
    for options in [InitOptions::new(EventsRole::Source), by_sequence(), InitOptions::new(EventsRole::Destination)] {
        let (by_hand, by_init) = (cluster.database(), cluster.database());
        let empty = objects(&cluster, &by_hand);
        let plan = try_init(&by_hand, InitOptions { dry_run: true, ..options }).await.expect("a plan");
        assert_eq!(objects(&cluster, &by_hand), empty);
        let script: String = plan.objects.iter().map(|object| object.sql.as_str()).collect();
        cluster.sql(&by_hand, &script);
        try_init(&by_init, options).await.expect("made");
        assert_eq!(objects(&cluster, &by_hand), objects(&cluster, &by_init));
        assert!(!try_init(&by_hand, options).await.expect("found").changed());
    }
}

#[tokio::test]
async fn a_missing_database_is_created_when_asked_for_and_only_then() {
    let cluster = cluster();
    let url = cluster.url("made by \"init\"").replace(' ', "%20").replace('"', "%22");
    let options = InitOptions::new(EventsRole::Destination);
    let refused = try_init(&url, options).await.expect_err("it is not there");
    assert_eq!((refused.code, refused.trouble), ("WS-PG-004", Trouble::Invalid));
    let options = InitOptions { create_database: true, ..options };
    let plan = try_init(&url, InitOptions { dry_run: true, ..options }).await.expect("a plan");
    assert_eq!(plan.objects[0].sql, "CREATE DATABASE \"made by \"\"init\"\"\";\n");
    assert_eq!(cluster.sql("postgres", "select count(*) from pg_database where datname like 'made%'"), "0\n");
    let made = try_init(&url, options).await.expect("made");
    assert_eq!(made.objects[0].done, InitDone::Created);
    assert!(!try_init(&url, options).await.expect("found").changed());
}

#[tokio::test]
async fn two_that_make_the_same_objects_at_once_both_succeed() {
    let cluster = cluster();
    let url = cluster.url("made_twice");
    let options = InitOptions { create_database: true, ..InitOptions::new(EventsRole::Source) };
    let (one, other) = tokio::join!(try_init(&url, options), try_init(&url, options));
    let changed = [one, other].map(|report| report.expect("made")).iter().filter(|report| report.changed()).count();
    assert!(changed >= 1);
    assert!(!source(&url).await.changed());
}

/// The objects of a source as other tools made them, in other words: a notification a row, with the event in it, and no index
/// on the command.
const OLD: &str = r#"
create table events (id bigint not null, ts timestamp with time zone not null, event jsonb not null,
    constraint events_pkey primary key (id));
create index events_event_entityname on events ((event #>> '{entityName}'));
create index events_event_operation on events ((event #>> '{operation}'));
create index by_property on events ((event #>> '{propertyName}'));
create index events_event_entityid on events ((event #>> '{entityId}'));
create index events_ts on events (ts);
create table id (id bigint not null, constraint id_pkey primary key (id));
insert into id values (1);
create function notify_event_insert() returns trigger language plpgsql as $$ begin
    perform pg_notify('eventsinsert', json_build_object('table', 'events', 'id', new.id, 'event', new.event)::text);
    return new;
end $$;
create trigger notify_insert after insert on events for each row execute procedure notify_event_insert();
create function filter_sql_command() returns trigger language plpgsql as $$ begin
    raise exception 'cannot perform SQL command on events table:  %', tg_op;
end $$;
create trigger check_sql_command before update or delete or truncate on events
    for each statement execute procedure filter_sql_command();
create function insert_events(insertValues text) returns integer language plpgsql as $$
declare ids bigint[]; inserted bigint; begin
    lock table id in access exclusive mode;
    update id set id = id + 1 returning array[id - 1] into ids;
    execute 'insert into events (id, ts, event) values ' || insertValues using ids, transaction_timestamp();
    get diagnostics inserted = row_count;
    return inserted;
end $$;
create role appender_of_init login;
grant execute on function insert_events(text) to appender_of_init;
grant select, insert on events to appender_of_init;
grant select, update on id to appender_of_init;
"#;

const ONE: &str = r#"select insert_events($$($1[1], $2, '{"entityName":"Person"}')$$);"#;

#[tokio::test]
async fn a_source_that_others_made_keeps_its_events_and_grants_and_gets_the_cures() {
    let cluster = cluster();
    let url = cluster.database();
    cluster.sql(&url, OLD);
    cluster.sql(&url, ONE);
    let large = "select insert_events(format($$($1[1], $2, '\"%s\"')$$, repeat('x', 9000)))";
    assert!(cluster.try_sql(&url, large).expect_err("too long to notify").contains("payload string too long"));
    let before = cluster.sql(&url, "select * from events");
    let report = source(&url).await;
    for (name, expected) in [
        ("events", InitDone::Present),
        ("id", InitDone::Present),
        ("events_ts", InitDone::Present),
        ("events_event_propertyname", InitDone::Present),
        ("events_event_metadata_command", InitDone::Created),
        ("insert_events(text)", InitDone::Replaced),
        ("notify_event_insert()", InitDone::Replaced),
        ("notify_insert", InitDone::Replaced),
        ("check_sql_command", InitDone::Present),
        ("restore_events(text, text, text, text)", InitDone::Created),
    ] {
        assert_eq!(done(&report, name), expected, "{name}");
    }
    assert_eq!(cluster.sql(&url, "select * from events"), before);
    assert_eq!(cluster.sql(&url, large), "1\n");
    let appender = url.replace("postgres@", "appender_of_init@");
    assert_eq!(cluster.sql(&appender, ONE), "1\n");
    assert_eq!(cluster.sql(&url, "select array_agg(id order by id), (select id from id) from events"), "{1,2,3}|4\n");
    assert!(!source(&url).await.changed());
}

#[tokio::test]
async fn an_index_whose_building_was_interrupted_is_built_again() {
    let cluster = cluster();
    let url = cluster.database();
    source(&url).await;
    cluster.sql(&url, ONE);
    cluster.sql(&url, "update pg_index set indisvalid = false where indexrelid = 'events_ts'::regclass");
    assert_eq!(done(&source(&url).await, "events_ts"), InitDone::Replaced);
    assert!(!source(&url).await.changed());
}

#[tokio::test]
async fn an_id_that_is_given_already_is_not_given_again() {
    let cluster = cluster();
    let url = cluster.database();
    try_init(&url, InitOptions::new(EventsRole::Destination)).await.expect("made");
    cluster.sql(&url, "insert into events select n, now(), '1' from generate_series(1, 7) n");
    source(&url).await;
    cluster.sql(&url, ONE);
    cluster.sql(&url, "update id set id = 3");
    let report = source(&url).await;
    assert_eq!(done(&report, "id"), InitDone::Replaced);
    cluster.sql(&url, ONE);
    assert_eq!(cluster.sql(&url, "select max(id), count(*) from events"), "9|9\n");
    cluster.sql(&url, "insert into id values (20)");
    let refused = try_init(&url, InitOptions::new(EventsRole::Source)).await.expect_err("two next ids");
    assert_eq!((refused.code, refused.trouble), ("WS-PG-025", Trouble::Operator));
}

#[tokio::test]
async fn what_is_something_else_is_refused_and_left_alone() {
    let cluster = cluster();
    let cases = [
        ("create table events (id bigint primary key, ts timestamptz not null, event json not null)", "WS-PG-022"),
        ("create table events (id bigint not null, ts timestamptz not null, event jsonb not null)", "WS-PG-022"),
        (
            "create table events (id bigint primary key, ts timestamptz not null, event jsonb not null, by text)",
            "WS-PG-022",
        ),
        ("create view events as select 1::bigint as id, now() as ts, '1'::jsonb as event", "WS-PG-021"),
        ("create table id (id text primary key)", "WS-PG-022"),
        ("create sequence id", "WS-PG-021"),
    ];
    for (sql, code) in cases {
        let url = cluster.database();
        cluster.sql(&url, sql);
        let before = objects(&cluster, &url);
        let refused = try_init(&url, InitOptions::new(EventsRole::Source)).await.expect_err(sql);
        assert_eq!((refused.code, refused.trouble), (code, Trouble::Invalid), "{refused}");
        assert_eq!(objects(&cluster, &url), before, "{sql}");
    }
    let url = cluster.database();
    source(&url).await;
    let refused = try_init(&url, InitOptions::new(EventsRole::Destination)).await.expect_err("it is a source");
    assert_eq!(refused.code, "WS-PG-023");
    assert!(refused.why.contains("insert_events"), "{refused}");
}

#[tokio::test]
async fn an_owner_who_is_no_superuser_gets_all_but_dblink() {
    let cluster = cluster();
    let url = cluster.database();
    let name = url.rsplit('/').next().expect("a name");
    cluster.sql("postgres", &format!("create role owner_of_init login; alter database {name} owner to owner_of_init"));
    let owner = url.replace("postgres@", "owner_of_init@");
    let report = source(&owner).await;
    assert_eq!(done(&report, "dblink"), InitDone::Skipped);
    assert_eq!(done(&report, "restore_events(text, text, text, text)"), InitDone::Created);
    let note = &report.objects.iter().find(|object| &*object.name == "dblink").expect("it is there").note;
    assert!(note.contains("have a superuser run `CREATE EXTENSION dblink SCHEMA public;`"), "{note}");
    assert_eq!(cluster.sql(&owner, ONE), "1\n");
    cluster.sql("postgres", "create role stranger_of_init login");
    let stranger = cluster.database().replace("postgres@", "stranger_of_init@");
    let refused = try_init(&stranger, InitOptions::new(EventsRole::Source)).await.expect_err("not allowed");
    assert_eq!((refused.code, refused.trouble), ("WS-PG-027", Trouble::Invalid));
    assert!(refused.fix.contains("GRANT CREATE ON SCHEMA public TO stranger_of_init"), "{refused}");
    let options = InitOptions { create_database: true, ..InitOptions::new(EventsRole::Source) };
    let nowhere = cluster.url("not_allowed").replace("postgres@", "stranger_of_init@");
    assert_eq!(try_init(&nowhere, options).await.expect_err("not allowed").code, "WS-PG-026");
    let unknown = try_init(&url.replace("postgres@", "nobody_of_init@"), options).await.expect_err("no such role");
    assert_eq!((unknown.code, unknown.trouble), ("WS-PG-003", Trouble::Invalid));
}

#[tokio::test]
async fn a_source_is_restored_from_a_copy() {
    let cluster = cluster();
    let (first, copy, second) = (cluster.database(), cluster.database(), cluster.database());
    source(&first).await;
    try_init(&copy, InitOptions::new(EventsRole::Destination)).await.expect("made");
    cluster.sql(
        &copy,
        "insert into events select n, timestamptz '2024-01-01 00:00:00.000001+00' + n * interval '1 us',
        jsonb_build_object('n', n, 'x', 1234567890123456789012345678901234567890.10) from generate_series(1, 25000) n",
    );
    let name = copy.rsplit('/').next().expect("a name");
    let call = format!(
        "select * from restore_events(fromHost := '127.0.0.1 port={}', fromDatabase := '{name}',
        fromDatabaseUser := 'postgres', fromDatabasePassword := 'it''s \\ secret')",
        cluster.port()
    );
    assert_eq!(cluster.sql(&first, &call), "25000|25001\n");
    let digest = "select count(*), md5(string_agg(events::text, ',' order by id)) from events";
    assert_eq!(cluster.sql(&first, digest), cluster.sql(&copy, digest));
    assert_eq!(cluster.sql(&first, "select id from id"), "25001\n");
    assert!(cluster.try_sql(&first, &call).expect_err("not empty").contains("row count (25000) is not 0"));
    try_init(&second, by_sequence()).await.expect("made");
    assert_eq!(cluster.sql(&second, &call), "25000|25001\n");
    cluster.sql(&second, ONE);
    assert_eq!(
        cluster.sql(&second, "select max(id), (select count(*) from event_transactions) from events"),
        "25001|25001\n"
    );
    let gap = cluster.database();
    source(&gap).await;
    cluster.sql(&copy, "delete from events where id = 7");
    let refused = cluster.try_sql(&gap, &call).expect_err("a gap");
    assert!(
        refused.contains("row count (24999) is not equal to the from events table maximum id (25000)"),
        "{refused}"
    );
    assert_eq!(cluster.sql(&gap, "select count(*), (select id from id) from events"), "0|1\n");
}
