//! Whether copying may begin: each thing that stands against it, and that nothing is touched then.

use watershed::testing::postgres::Cluster;

use super::process::Site;
use super::tables::{append, cluster, destination, events, source};

const DIGEST: &str = "select count(*), sum(hashtextextended(id || ts::text || event::text, 0)::numeric) from events";

/// Runs it on a source and destinations, and asserts how it ends: its code, its exit, and untouched destinations.
#[track_caller]
fn refused(cluster: &Cluster, source: &str, destinations: &[&str], code: &str, exit: i32) -> String {
    let before: Vec<_> = destinations.iter().map(|url| cluster.try_sql(url, DIGEST).ok()).collect();
    let site = Site::new(source, destinations);
    for arguments in [&["--dry-run"][..], &["--exit-on-error"][..]] {
        let output = site.output(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(&format!("error[{code}]")), "{code} {arguments:?}: {said}");
        assert_eq!(output.status.code(), Some(exit), "{said}");
        assert!(!said.contains("secret"), "{said}");
    }
    let after: Vec<_> = destinations.iter().map(|url| cluster.try_sql(url, DIGEST).ok()).collect();
    assert_eq!(before, after);
    String::from_utf8_lossy(&site.output(&["--dry-run"]).stderr).into_owned()
}

#[test]
fn an_invalid_configuration_ends_with_3() {
    for (name, text, code) in [
        ("config.js", "", "WS-EVENTS-001"),
        ("config.js", "module.exports = {eventSource: require('./x')}", "WS-EVENTS-002"),
        ("config.js", "{}", "WS-EVENTS-003"),
        ("events.toml", "", "WS-EVENTS-006"),
        ("events.toml", "[events]\nsource = \"sqlite:a.db\"\ndestinations = [\"sqlite:a.db\"]\n", "WS-EVENTS-005"),
    ] {
        let output = Site::with(name, text).output(&[]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(code), "{text}: {said}");
        assert_eq!(output.status.code(), Some(3), "{said}");
    }
    let output = Site::with("events.toml", "").output(&["--listen", "0.0.0.0:1"]);
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_dry_run_tells_what_would_be_copied_and_changes_nothing() {
    let cluster = cluster();
    let (from, to, other) = (source(&cluster), destination(&cluster), destination(&cluster));
    append(&cluster, &from, 1..=2000);
    cluster.sql(&to, &events(1..=500));
    let output = Site::new(&from, &[&to, &other]).output(&["--dry-run", "--json"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    let plan: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(plan["source"]["max_id"], 2000);
    assert_eq!(plan["destinations"][0]["to_copy"], 1500);
    assert_eq!(plan["destinations"][1]["to_copy"], 2000);
    assert!(said.contains("500 events, the greatest id is 500"), "{said}");
    assert_eq!(cluster.sql(&to, "select count(*) from events"), "500\n");
    let config = format!(
        "var config = {{\n  eventSource: {{host: '127.0.0.1', port: {port}, databaseName: '{}', user: 'postgres'}},\n  \
         replicationDestinations: [{{host: '127.0.0.1:{port}', databaseName: '{}', user: 'postgres', password: 'secret'}}],\n}};\nmodule.exports = config;\n",
        from.rsplit('/').next().expect("a name"),
        to.rsplit('/').next().expect("a name"),
        port = cluster.port(),
    );
    let output = Site::with("config.js", &config).output(&["--dry-run"]);
    let (said, plan) = (String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(plan.contains("1500") && !plan.contains("secret") && !said.contains("secret"), "{plan}{said}");
}

#[test]
fn databases_that_are_not_what_the_configuration_says_end_with_3() {
    let cluster = cluster();
    let (from, to) = (source(&cluster), destination(&cluster));
    append(&cluster, &from, 1..=10);
    let nowhere = cluster.url("no_such_database");
    refused(&cluster, &from, &[&nowhere], "WS-PG-004", 3);
    refused(&cluster, &nowhere, &[&to], "WS-PG-004", 3);
    let empty = cluster.database();
    refused(&cluster, &from, &[&empty], "WS-PG-006", 3);
    let other = cluster.database();
    cluster.sql(&other, "create table events (id bigint primary key, ts timestamptz not null, event json not null)");
    refused(&cluster, &from, &[&other], "WS-PG-011", 3);
    let keyless = cluster.database();
    cluster.sql(&keyless, "create table events (id bigint not null, ts timestamptz not null, event jsonb not null)");
    refused(&cluster, &from, &[&keyless], "WS-EVENTS-032", 3);
    let said = refused(&cluster, &to, &[&destination(&cluster)], "WS-EVENTS-031", 3);
    assert!(said.contains("insert_events") && said.contains("notify_insert"), "{said}");
    refused(&cluster, &from, &[&source(&cluster)], "WS-EVENTS-034", 3);
    let name = to.rsplit('/').next().expect("a name");
    let through_socket = cluster.socket_url(name);
    refused(&cluster, &from, &[&to, &through_socket], "WS-EVENTS-038", 3);
    let name = from.rsplit('/').next().expect("a name");
    refused(&cluster, &from, &[&cluster.socket_url(name)], "WS-EVENTS-038", 3);
}

#[test]
fn users_who_may_not_are_refused_with_3() {
    let cluster = cluster();
    let (from, to) = (source(&cluster), destination(&cluster));
    append(&cluster, &from, 1..=10);
    cluster.sql(
        &to,
        "create role reader_of_validate login password 'secret'; grant select on events to reader_of_validate",
    );
    let reader = to.replace("postgres@", "reader_of_validate:secret@");
    let said = refused(&cluster, &from, &[&reader], "WS-EVENTS-035", 3);
    assert!(said.contains("reader_of_validate may not INSERT"), "{said}");
    cluster.sql(&to, "revoke select on events from reader_of_validate");
    refused(&cluster, &from, &[&reader], "WS-PG-005", 3);
    let strict = Cluster::with(&[("fsync", "off"), ("shared_buffers", "16MB")]);
    let strict_to = destination(&strict);
    strict.sql(&strict_to, "create role locked login password 'secret'");
    let hba = strict.sql("postgres", "show hba_file");
    std::fs::write(
        hba.trim(),
        "local all postgres trust\nhost all postgres all trust\nhost all all all scram-sha-256\n",
    )
    .expect("written");
    strict.sql("postgres", "select pg_reload_conf()");
    let wrong = strict_to.replace("postgres@", "locked:secret_but_wrong@");
    // The server reloads when it comes to it.
    super::process::until("passwords are asked for", || match strict.try_sql(&wrong, "select 1") {
        Ok(_) => Err("not yet"),
        Err(_) => Ok(()),
    });
    refused(&cluster, &from, &[&wrong], "WS-PG-003", 3);
    // The password file has the right one.
    let site = Site::new(&from, &[&strict_to.replace("postgres@", "locked@")]);
    let passfile = site.folder.path().join("pgpass");
    std::fs::write(&passfile, "*:*:*:locked:secret\n").expect("written");
    for (mode, code) in [(0o644, "WS-PG-"), (0o600, "WS-PG-005")] {
        std::fs::set_permissions(&passfile, std::os::unix::fs::PermissionsExt::from_mode(mode)).expect("changed");
        let said = String::from_utf8_lossy(&site.output(&["--dry-run"]).stderr).into_owned();
        assert!(said.contains(code) && said.contains("chmod 0600") == (mode == 0o644), "{said}");
    }
}

#[test]
fn tables_that_contradict_each_other_end_with_5() {
    let cluster = cluster();
    let from = source(&cluster);
    append(&cluster, &from, 1..=10);
    let ahead = destination(&cluster);
    cluster.sql(&ahead, &events(1..=11));
    refused(&cluster, &from, &[&ahead], "WS-EVENTS-036", 5);
    let first = destination(&cluster);
    cluster.sql(&first, "insert into events values (1, '2020-01-01', '{\"other\": true}')");
    let said = refused(&cluster, &from, &[&first], "WS-EVENTS-037", 5);
    assert!(said.contains("{\"other\": true}") && said.contains("2024-01-01 00:00:01.000001+00"), "{said}");
    let gap = destination(&cluster);
    cluster.sql(&gap, &format!("{}; delete from events where id = 4", events(1..=8)));
    refused(&cluster, &from, &[&gap], "WS-EVENTS-033", 5);
    let middle = destination(&cluster);
    cluster.sql(&middle, &format!("{}; update events set event = '0' where id = 5", events(1..=8)));
    let said = refused(&cluster, &from, &[&middle], "WS-EVENTS-039", 5);
    assert!(said.contains("(5, ") && said.contains(", 0)"), "{said}");
    let empty = source(&cluster);
    refused(&cluster, &empty, &[&middle], "WS-EVENTS-036", 5);
    let holes = source(&cluster);
    cluster.sql(&holes, &format!("{}; {}", events(1..=5), events(7..=9)));
    refused(&cluster, &holes, &[&destination(&cluster)], "WS-EVENTS-033", 5);
}

#[test]
fn everything_is_told_at_once_and_the_gravest_decides() {
    let cluster = cluster();
    let from = source(&cluster);
    append(&cluster, &from, 1..=10);
    let (ahead, wrong) = (destination(&cluster), cluster.url("no_such_database"));
    cluster.sql(&ahead, &events(1..=12));
    let said = refused(&cluster, &from, &[&wrong, &ahead, &source(&cluster)], "WS-EVENTS-036", 5);
    for code in ["WS-PG-004", "WS-EVENTS-034", "WS-EVENTS-036"] {
        assert!(said.contains(&format!("error[{code}]")), "{code}: {said}");
    }
}

#[test]
fn who_cannot_be_reached_ends_it_with_4_where_nothing_is_waited_for() {
    let cluster = cluster();
    let (from, to) = (source(&cluster), destination(&cluster));
    // Port 1 is nobody's.
    refused(&cluster, "postgres://postgres@127.0.0.1:1/a", &[&to], "WS-PG-002", 4);
    refused(&cluster, &from, &[&to, "postgres://postgres@127.0.0.1:1/a"], "WS-PG-002", 4);
}
