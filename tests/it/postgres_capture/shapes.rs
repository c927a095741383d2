//! Rows that become others without a word of the stream: their tables are announced, and no others are.

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use watershed::testing::postgres::Cluster;

use super::bed::{Bed, DEADLINE};
use super::{CLUSTER, SETTINGS};

/// Everything up to a look that has seen what was done before this call: the first one may have begun before, and announces
/// the first table while it has others still to announce.
fn seen(bed: &mut Bed, name: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for marker in [format!("{name}_a"), format!("{name}_b")] {
        bed.sql(&format!("create table {marker} (id int primary key)"));
        let wanted = format!("copied {marker}");
        let deadline = Instant::now() + DEADLINE;
        while !lines.contains(&wanted) {
            assert!(Instant::now() < deadline, "no {wanted:?} in {lines:?}");
            lines.extend(bed.lines());
        }
    }
    lines.retain(|line| !line.contains(name));
    lines
}

/// Runs statements one by one in one session: some do not stand others beside them.
fn run(bed: &Bed, statements: &str) {
    let mut shell = Command::new("psql");
    shell.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &bed.url]);
    for statement in statements.split(';') {
        shell.args(["-c", statement.trim()]);
    }
    let ran = shell.output().expect("psql is installed");
    assert!(ran.status.success(), "{statements}: {}", String::from_utf8_lossy(&ran.stderr));
}

const SCHEMA: &str =
    "create table t (id int primary key, v text, n int, w varchar(10), g int generated always as (40 + 2) stored);
    insert into t values (1, 'a', 1, 'x'), (2, 'b', 2, 'y'); create index t_v on t (v)";

/// Statements after which the rows of `t` are others.
const OTHERS: [&str; 14] = [
    "alter table t alter v type text using upper(v)",
    "alter table t alter n type int using n * 100",
    "alter table t alter id type int using id + 1000",
    "alter table t add filled int default 7",
    "alter table t add volatile text default md5(random()::text)",
    "alter table t add numbered bigint generated always as identity",
    "alter table t drop n; alter table t add n int",
    "begin; alter table t add d int default 5; alter table t alter d drop default; commit; vacuum full t",
    "begin; alter table t rename v to tmp; alter table t rename w to v; alter table t rename tmp to w; commit",
    "alter table t rename filled to \"Filled, too\"",
    "alter table t alter g drop expression",
    "begin; alter table t alter n type int using n + 1; commit; analyze t",
    "begin; alter table t rename to elsewhere; alter table elsewhere rename to t; commit",
    "begin; truncate t; alter table t alter n type int using n + 1; commit",
];

#[test]
fn a_table_whose_rows_are_written_anew_is_announced() {
    let mut bed = Bed::new(SCHEMA);
    for (n, statements) in OTHERS.iter().enumerate() {
        run(&bed, statements);
        let mut lines = seen(&mut bed, &format!("marker{n}"));
        lines.retain(|line| !line.starts_with("truncate"));
        assert_eq!(lines, ["copied t"], "{statements}");
    }
}

#[test]
fn also_while_nobody_looks() {
    let mut bed = Bed::new(SCHEMA);
    for (n, statements) in OTHERS.iter().enumerate() {
        bed.capture = None;
        run(&bed, statements);
        bed.reopen();
        let mut lines = seen(&mut bed, &format!("marker{n}"));
        lines.retain(|line| !line.starts_with("truncate"));
        assert_eq!(lines, ["copied t"], "{statements}");
    }
}

#[test]
fn a_column_that_comes_back_later_has_its_table_announced() {
    let mut bed = Bed::new(SCHEMA);
    bed.sql("alter table t drop n");
    assert_eq!(seen(&mut bed, "first"), [""; 0]);
    bed.reopen();
    bed.sql("alter table t add other int");
    assert_eq!(seen(&mut bed, "second"), [""; 0]);
    bed.sql("alter table t add n int");
    assert_eq!(seen(&mut bed, "third"), ["copied t"]);
}

/// What writes the same rows anew, or is told, is copied by nobody.
#[test]
fn a_table_that_keeps_its_rows_is_not_announced() {
    let mut bed = Bed::new(SCHEMA);
    bed.sql("alter table t add earlier int");
    bed.drain();
    for (n, statements) in [
        "vacuum full t",
        "cluster t using t_pkey",
        "reindex table t",
        "vacuum freeze analyze t",
        "alter table t set (fillfactor = 50); vacuum full t; analyze t",
        "alter table t add plain int",
        "alter table t add gen int generated always as (id * 2) stored",
        "alter table t drop plain",
        "alter table t alter v set not null; alter table t alter v set default 'x'; alter table t alter v set statistics 7",
        "alter table t alter w type text",
        "create index on t (n); drop index t_v; comment on table t is 'x'; grant select on t to public",
        "alter table t owner to postgres; alter table t add check (n < 100000)",
        "vacuum full pg_attribute; vacuum full pg_class; vacuum full pg_type",
    ]
    .iter()
    .enumerate()
    {
        for down in [false, true] {
            if down {
                bed.capture = None;
            }
            if !down || n < 5 {
                run(&bed, statements);
            }
            if down {
                bed.reopen();
            }
            assert_eq!(seen(&mut bed, &format!("marker{n}{down}")), [""; 0], "{statements}");
        }
    }
    bed.sql("truncate t; insert into t (id, v) values (1, 'a')");
    assert!(seen(&mut bed, "cut").iter().all(|line| !line.starts_with("copied")), "a TRUNCATE is told");
    bed.capture = None;
    run(&bed, "truncate t; vacuum full t");
    bed.reopen();
    assert!(seen(&mut bed, "cut_down").iter().all(|line| !line.starts_with("copied")), "a TRUNCATE is told");
}

#[test]
fn tables_that_hand_on_their_names_are_announced_also_while_nobody_looks() {
    let mut bed = Bed::new(
        "create table x1 (id int primary key, v text); create table x2 (id int primary key, v text);
         create table same (id int primary key)",
    );
    let swap = "begin; alter table x1 rename to tmp; alter table x2 rename to x1; alter table tmp rename to x2; commit";
    bed.sql(swap);
    assert_eq!(seen(&mut bed, "first"), ["copied x1; copied x2"]);
    bed.capture = None;
    bed.sql(swap);
    bed.reopen();
    assert_eq!(seen(&mut bed, "second"), ["copied x1; copied x2"]);
    bed.sql("create schema other; alter table x2 set schema other");
    assert_eq!(seen(&mut bed, "third"), ["copied other.x2"]);
    // Filled beside it, and put in its place.
    bed.sql("create table x1_new (id int primary key, v text); insert into x1_new values (1, 'new')");
    assert_eq!(seen(&mut bed, "fourth"), ["copied x1_new"]);
    bed.sql("begin; alter table x1 rename to x1_old; alter table x1_new rename to x1; commit; insert into x1 values (2, 'more')");
    let mut lines = seen(&mut bed, "fifth");
    lines.sort();
    assert_eq!(lines, ["copied x1; copied x1_old", "insert x1 (2, more)"]);
}

#[test]
fn a_partitioned_table_is_announced_where_its_leaves_are_written_anew_or_its_columns_come_with_values() {
    let mut bed = Bed::new(
        "create table p (id int primary key, v text, n int) partition by range (id);
         create table p1 partition of p for values from (0) to (100);
         create table p2 partition of p for values from (100) to (200);
         insert into p values (1, 'a', 1), (101, 'b', 2)",
    );
    for (n, statements) in [
        "alter table p add filled int default 7",
        "alter table p drop n; alter table p add n int",
        "alter table p alter v type text using upper(v); analyze p; analyze p1; analyze p2",
        // The usual way of loading a partition anew.
        "begin; truncate p2; insert into p2 (id) values (102); commit; analyze p2",
        "truncate p2; analyze p2",
    ]
    .iter()
    .enumerate()
    {
        run(&bed, statements);
        let mut lines = seen(&mut bed, &format!("marker{n}"));
        lines.retain(|line| !line.starts_with("insert"));
        assert!(!lines.is_empty() && lines.iter().all(|line| line == "copied p"), "{statements}: {lines:?}");
    }
    run(&bed, "alter table p add plain int");
    assert_eq!(seen(&mut bed, "plain").len(), 0);
    bed.sql("create table p3 partition of p for values from (200) to (300)");
    assert_eq!(seen(&mut bed, "empty").len(), 0);
    run(&bed, "vacuum full p1; vacuum full p3");
    assert_eq!(seen(&mut bed, "kept").len(), 0);
}

/// The usual way of making tomorrow's partition: made and filled at once.
#[test]
fn a_partition_that_is_made_and_filled_at_once_is_no_reason_to_copy_the_whole() {
    let mut bed = Bed::new(
        "create table p (id int, at int not null default 0, v text default 'x', primary key (id, at)) partition by range (id);
         create table p1 partition of p for values from (0) to (100); insert into p values (1)",
    );
    bed.sql("begin; create table p2 partition of p for values from (100) to (200); insert into p values (101), (102); commit");
    bed.sql("create table p3 partition of p for values from (200) to (300); insert into p values (201)");
    bed.sql(
        "begin; create table p4 partition of p for values from (300) to (500) partition by range (id);
             create table p41 partition of p4 for values from (300) to (400); insert into p values (301); commit",
    );
    let mut lines = seen(&mut bed, "made");
    lines.sort();
    assert_eq!(lines, ["insert p (101, 0, x); insert p (102, 0, x)", "insert p (201, 0, x)", "insert p (301, 0, x)"]);
    bed.capture = None;
    bed.sql("create table p5 partition of p for values from (500) to (600); insert into p values (501)");
    bed.reopen();
    assert_eq!(seen(&mut bed, "down"), ["insert p (501, 0, x)"]);
    // With rows that nobody was told of.
    for (n, statements) in [
        "begin; create table q1 (like p including all); insert into q1 values (601); \
         alter table p attach partition q1 for values from (600) to (700); commit",
        "begin; create table q2 partition of p for values from (700) to (800); alter table p detach partition q2; \
         insert into q2 values (701); alter table p attach partition q2 for values from (700) to (800); commit",
        "begin; create table q3 (like p including defaults) partition by range (id); \
         create table q31 partition of q3 for values from (800) to (850); insert into q3 values (801); \
         alter table p attach partition q3 for values from (800) to (900); commit",
        "begin; create table q4 partition of p for values from (900) to (1000); commit; insert into p values (901); truncate q4",
    ]
    .iter()
    .enumerate()
    {
        run(&bed, statements);
        let lines = seen(&mut bed, &format!("attached{n}"));
        assert!(lines.contains(&"copied p".to_string()), "{statements}: {lines:?}");
    }
}

/// Another session that has a table locked, until it is dropped. On a server of its own: a slot is not made before such a
/// session ends.
struct Locking(Child);

impl Locking {
    fn begin(cluster: &Cluster, url: &str, statement: &str) -> Locking {
        let mut shell = Command::new("psql");
        shell.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", url]).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut shell = shell.spawn().expect("psql is installed");
        writeln!(shell.stdin.as_mut().expect("it is piped"), "begin; {statement};").expect("psql reads");
        let deadline = Instant::now() + DEADLINE;
        let locks =
            "select count(*) > 0 from pg_locks where mode = 'AccessExclusiveLock' and granted and relation >= 16384";
        while cluster.sql(url, locks) != "t\n" {
            assert!(Instant::now() < deadline, "nothing is locked");
            std::thread::sleep(Duration::from_millis(20));
        }
        Locking(shell)
    }
}

impl Drop for Locking {
    fn drop(&mut self) {
        // It ends with what it is told.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn own(schema: &str) -> (Cluster, Bed) {
    let cluster = Cluster::with(&SETTINGS);
    let url = cluster.database();
    cluster.sql(&url, schema);
    (cluster, Bed::at(url))
}

#[test]
fn a_table_that_somebody_has_locked_holds_up_no_other() {
    let (cluster, mut bed) =
        own("create table t (id int primary key, v text); create table locked (id int primary key, big text);
         alter table locked alter big set storage external; insert into locked values (1, repeat('x', 9000));
         create table p (id int primary key) partition by range (id);
         create table p1 (like p including all); insert into p1 values (1)");
    bed.sql("alter table p attach partition p1 for values from (0) to (100)");
    let locking = Locking::begin(&cluster, &bed.url, "lock table locked, p1 in access exclusive mode");
    // Looks, starts, and looks at what is new beside it, all of which once waited for the lock.
    let began = Instant::now();
    for n in 0..3 {
        bed.reopen();
        bed.sql(&format!("create table new{n} (id int primary key); insert into t values ({n}, 'x')"));
        let lines = seen(&mut bed, &format!("marker{n}"));
        assert!(lines.contains(&format!("insert t ({n}, x)")), "{lines:?}");
    }
    println!("{:?}", began.elapsed());
    drop(locking);
    bed.sql("create table late (id int primary key)");
    let mut lines = Vec::new();
    let deadline = Instant::now() + DEADLINE;
    while !lines.iter().any(|line| line == "copied p") {
        assert!(Instant::now() < deadline, "the attached partition is not announced: {lines:?}");
        lines.extend(bed.lines());
    }
}

/// The row that moved cannot be read, so its table is copied; what others wrote is not kept waiting.
#[test]
fn a_row_that_cannot_be_read_because_its_table_is_locked_has_the_table_announced() {
    let (cluster, mut bed) =
        own("create table t (id int primary key, big text); alter table t alter big set storage external;
         create table u (id int primary key); insert into t values (1, repeat('x', 9000))");
    bed.capture = None;
    run(&bed, "update t set id = 2; update t set id = 3; insert into u values (1)");
    let locking = Locking::begin(&cluster, &bed.url, "lock table t in access exclusive mode");
    bed.reopen();
    assert_eq!(
        bed.lines(),
        [
            "update t (2, unchanged) was (1, unchanged); copied t",
            "update t (3, unchanged) was (2, unchanged); copied t",
            "insert u (1)"
        ]
    );
    drop(locking);
}

#[test]
fn temporary_tables_are_nobodys_business() {
    let mut bed = Bed::new("create table t (id int primary key)");
    seen(&mut bed, "settled");
    let scans = |bed: &Bed, table: &str| -> i64 {
        let sql = format!("select pg_stat_get_numscans('{table}'::regclass)");
        bed.sql(&sql).trim().parse().expect("a number")
    };
    // Each look scans the publications; only one that has to read the catalog reads what tables were.
    let (looks, reads) = (scans(&bed, "pg_publication"), scans(&bed, "watershed.shape"));
    let deadline = Instant::now() + DEADLINE;
    while scans(&bed, "pg_publication") < looks + 8 {
        assert!(Instant::now() < deadline, "nobody looks");
        CLUSTER.sql(&bed.url, "create temp table a (id int primary key); create temp table b (id int primary key)");
        bed.lines();
    }
    let read = scans(&bed, "watershed.shape") - reads;
    assert!(read <= 2, "the catalog was read {read} times");
}
