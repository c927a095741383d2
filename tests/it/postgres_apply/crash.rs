//! `kill -9` of the server: rows and cursor agree, and the same applier goes on.

use std::time::{Duration, Instant};

use watershed::view::View;

use super::*;

#[test]
fn a_killed_server_keeps_rows_and_cursor_of_one_position_and_is_gone_on_with() {
    let mut cluster = Cluster::with(&[("shared_buffers", "16MB"), ("wal_level", "logical")]);
    let url = cluster.database();
    cluster.sql(&url, "CREATE TABLE t(id bigint PRIMARY KEY, position bigint)");
    let db = Database::at(url);
    let t = table("t", &[("id", 1), ("position", 0)]);
    let mut log = db.script();
    for position in 1..=2_000i64 {
        let rows: Vec<Change> = (0..5).map(|i| insert(vec![int(position * 5 + i), int(position)])).collect();
        log.one(&t, &rows);
    }
    let mut view = db.applier();
    let (mut at, mut kills) = (0, 0);
    let deadline = Instant::now() + Duration::from_secs(180);
    while at < 2_000 {
        assert!(Instant::now() < deadline, "stands at {at}");
        // Few at once, and many.
        let upto = (at + if at % 3 == 0 { 7 } else { 150 }).min(2_000);
        if at >= 500 * (kills + 1) {
            kills += 1;
            let batch = log.batch(at, upto);
            let applied = std::thread::scope(|scope| {
                let applying = scope.spawn(|| run(view.apply(&batch)));
                cluster.kill();
                applying.join().expect("does not panic")
            });
            if let Err(error) = applied {
                assert!(matches!(error, ViewError::Retry(_)), "{error}");
            }
            cluster.restart();
        }
        match run(view.apply(&log.batch(at, upto))).and_then(|()| run(view.flush())).and_then(|()| run(view.cursor())) {
            Ok(cursor) => at = cursor.map_or(0, |cursor| cursor.position.0),
            // The server has lost commits that were not yet on disk: from the stored cursor again.
            Err(ViewError::Lost(_)) => at = run(view.cursor()).expect("reads").map_or(0, |cursor| cursor.position.0),
            Err(error) => assert!(error.is_retryable(), "{error}"),
        }
        let stored = "SELECT coalesce((SELECT split_part(cursor, '-', 3)::int8 FROM watershed.cursor), 0) = coalesce(max(position), 0),
                      count(*) = 5 * coalesce(max(position), 0) FROM t";
        assert_eq!(cluster.sql(&db.url, stored), "t|t\n");
    }
    assert!(kills >= 3);
}

#[test]
fn a_broken_connection_is_made_again_and_the_cursor_tells_what_is_there() {
    let db = Database::new("CREATE TABLE t(id bigint PRIMARY KEY, position bigint)");
    let t = table("t", &[("id", 1), ("position", 0)]);
    let mut log = db.script();
    let mut view = db.applier();
    for position in 1..=10 {
        log.one(&t, &[insert(vec![int(position), int(position)])]);
        db.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'watershed' AND datname = current_database()");
        let deadline = Instant::now() + Duration::from_secs(180);
        while let Err(error) = run(view.apply(&log.all())) {
            assert!(error.is_retryable() && Instant::now() < deadline, "{error}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    assert_eq!(db.rows("SELECT count(*), max(position) FROM t"), ["10|10"]);
    assert_eq!(run(view.cursor()).expect("reads"), Some(db.cursor(10)));
}
