//! Servers that stop, die, change their password, lack a setting, or forget.

use std::time::Instant;

use watershed::log::{Capture, CaptureTrouble, Polled};
use watershed::testing::postgres::Cluster;

use super::SETTINGS;
use super::bed::{Bed, DEADLINE};

fn cluster(changed: &[(&str, &str)]) -> Cluster {
    let mut settings: Vec<(&str, &str)> = SETTINGS.to_vec();
    settings.retain(|(name, _)| !changed.iter().any(|(other, _)| other == name));
    settings.extend(changed);
    Cluster::with(&settings)
}

#[test]
fn a_killed_server_is_read_on_where_it_was() {
    let mut cluster = cluster(&[]);
    let url = cluster.database();
    cluster.sql(&url, "create table t (id int primary key)");
    let mut bed = Bed::at(url.clone());
    for round in 0..3 {
        cluster.sql(&url, &format!("insert into t values ({})", 2 * round));
        if round == 1 {
            // It was given, and the kill comes before it is released.
            bed.wait_for(1);
        }
        cluster.kill();
        let error = loop {
            match bed.capture().poll() {
                Err(error) => break error,
                Ok(Polled::Captured(captured)) => bed.log(captured, &mut Vec::new()),
                Ok(_) => bed.capture().wait(false),
            }
        };
        assert_eq!(error.kind, CaptureTrouble::Retry, "{error}");
        cluster.restart();
        cluster.sql(&url, &format!("insert into t values ({})", 2 * round + 1));
        let logged = bed.wait_for(1);
        let last = logged.last().map(|logged| bed.line(logged));
        assert!(last.is_some_and(|line| line.starts_with("insert t (")), "it goes on");
        bed.drain();
    }
}

#[test]
fn a_password_that_changed_while_the_server_was_down_is_waited_for() {
    let mut cluster = cluster(&[]);
    let url = cluster.database();
    cluster.sql(&url, "create table t (id int primary key); create role app login superuser password 'one'");
    let hba = cluster.sql("postgres", "show hba_file");
    let with_password = url.replace("postgres@", "app:one@");
    let mut bed = Bed::at(with_password);
    std::fs::write(
        hba.trim(),
        "host all app all scram-sha-256\nhost all all all trust\nhost replication all all trust\n",
    )
    .expect("written");
    cluster.sql("postgres", "alter role app password 'two'");
    cluster.kill();
    cluster.restart();
    let deadline = Instant::now() + DEADLINE;
    let error = loop {
        assert!(Instant::now() < deadline, "it is not refused");
        match bed.capture().poll() {
            Err(error) if error.what.contains("password authentication failed") => break error,
            Ok(Polled::Captured(captured)) => bed.log(captured, &mut Vec::new()),
            Ok(_) => bed.capture().wait(false),
            Err(error) => assert_eq!(error.kind, CaptureTrouble::Retry, "{error}"),
        }
    };
    println!("{error}");
    assert_eq!(error.kind, CaptureTrouble::Retry, "{error}");
    assert!(error.what.contains(" / why: ") && error.what.contains(" / do: "), "{error}");
    cluster.sql("postgres", "alter role app password 'one'");
    cluster.sql(&url, "insert into t values (1)");
    let logged = bed.wait_for(1);
    assert_eq!(bed.line(&logged[0]), "insert t (1)");
}

#[test]
fn a_slot_that_the_server_gave_up_is_refused() {
    let mut cluster = cluster(&[("max_slot_wal_keep_size", "1MB"), ("min_wal_size", "32MB"), ("max_wal_size", "32MB")]);
    let url = cluster.database();
    cluster.sql(&url, "create table t (id int primary key, v text)");
    let mut bed = Bed::at(url.clone());
    bed.capture = None;
    let name = bed.name();
    let status = format!("select wal_status from pg_replication_slots where slot_name = '{name}'");
    let deadline = Instant::now() + DEADLINE;
    while cluster.sql(&url, &status) != "lost\n" {
        assert!(Instant::now() < deadline, "the server keeps it");
        cluster.sql(
            &url,
            "create table if not exists junk (i int); insert into junk values (1); select pg_switch_wal(); checkpoint",
        );
    }
    let error = bed.refusal();
    println!("{error}");
    assert_eq!(error.kind, CaptureTrouble::Operator);
    assert!(error.what.starts_with("error[WS-PGCAPTURE-036]"), "{error}");
    assert!(error.what.contains("max_slot_wal_keep_size"), "{error}");
    cluster.kill();
}

#[test]
fn a_server_without_a_free_slot_or_without_logical_decoding_is_refused() {
    let cluster = cluster(&[("max_replication_slots", "1")]);
    let url = cluster.database();
    cluster.sql(&url, "select pg_create_logical_replication_slot('somebody', 'test_decoding')");
    let error = Bed::closed(url.clone()).refusal();
    println!("{error}");
    assert_eq!(error.kind, CaptureTrouble::Failed);
    assert!(error.what.contains("WS-PGCAPTURE-005") && error.what.contains("somebody"), "{error}");
    let plain = Cluster::start();
    let error = Bed::closed(plain.database()).refusal();
    println!("{error}");
    assert!(error.what.contains("WS-PGCAPTURE-003"), "{error}");
}

#[test]
fn a_user_with_the_grants_that_check_names_suffices() {
    let cluster = cluster(&[]);
    let url = cluster.database();
    let database = url.rsplit('/').next().expect("a name");
    cluster.sql(
        &url,
        &format!(
            "create role app login; create role small login replication; create role other login;
             create table t (id int primary key); alter table t owner to app;
             create table theirs (id int primary key); alter table theirs owner to other; grant app to small;
             grant create on database {database} to small; grant set on parameter session_replication_role to small;
             grant execute on function pg_replication_origin_create(text), pg_replication_origin_drop(text),
                pg_replication_origin_oid(text), pg_replication_origin_session_setup(text), pg_replication_origin_session_reset() to small"
        ),
    );
    let mut bed = Bed::at(url.replace("postgres@", "small@"));
    cluster.sql(&url, "insert into t values (1); insert into theirs values (1)");
    assert_eq!(bed.lines(), ["insert t (1)"]);
    cluster.sql(&url, "grant other to small");
    let deadline = Instant::now() + DEADLINE;
    // The next look that a change of the catalog causes finds that it may be published.
    cluster.sql(&url, "create table more (id int primary key); alter table more owner to app");
    let mut lines = Vec::new();
    while lines.len() < 2 {
        assert!(Instant::now() < deadline, "{lines:?}");
        lines.extend(bed.lines());
    }
    lines.sort();
    assert_eq!(lines, ["copied more", "copied theirs"]);
}
