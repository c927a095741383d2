//! Two nodes as real processes over a loopback WebSocket, SQLite to SQLite, fsync on.
//!
//! `cargo bench --bench tree` runs everything; `cargo bench --bench tree -- backlog latency` only those. The other side of
//! the backlog is SQLite alone writing the same rows with a prepared statement, one commit per 1,000 transactions: what
//! remains when streaming costs nothing. `WATERSHED_BENCH_DIR` names a folder on the disk to measure.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, params};
use watershed::log::segments::{SegmentLog, SegmentOptions};
use watershed::log::{Append, Draft, Log};
use watershed::model::{Change, EntryHeader, Kind, LinkId, Op, TableDef, Timestamp, Value, encode_changes};

const SCHEMA: &str = "pragma journal_mode = wal;
create table items (id integer primary key, site text not null, name text not null, amount real not null);";
const ROWS: u64 = 10;
const DEADLINE: Duration = Duration::from_secs(120);

struct Node {
    dir: PathBuf,
    port: u16,
    process: Option<Child>,
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Node {
    fn new(ground: &Path, name: &str, parent: Option<u16>, sections: &str) -> Node {
        let dir = ground.join(name);
        fs::create_dir_all(&dir).expect("a folder");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
        let parent = parent.map_or(String::new(), |port| {
            format!("[parent]\nurl = \"127.0.0.1:{port}\"\nretry = {{ first = \"0.05s\", max = \"0.2s\" }}\n")
        });
        let text = format!(
            "[node]\nname = \"{name}\"\ndata_dir = \"data\"\nlisten = \"127.0.0.1:{port}\"\n{parent}\n[database]\nurl = \"sqlite:shop.db\"\n{sections}"
        );
        fs::write(dir.join("watershed.toml"), text).expect("a configuration");
        let node = Node { dir, port, process: None };
        node.open().execute_batch(SCHEMA).expect("a schema");
        node
    }

    fn open(&self) -> Connection {
        let connection = Connection::open(self.dir.join("shop.db")).expect("a database");
        connection.busy_timeout(DEADLINE).expect("a timeout");
        connection
    }

    fn start(&mut self) {
        let log = fs::File::options().create(true).append(true).open(self.dir.join("node.log")).expect("a log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_watershed"));
        command.arg("run").arg("-c").arg(self.dir.join("watershed.toml"));
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        self.process = Some(process.expect("the binary starts"));
    }

    fn ready(&self) {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        wait("the node is ready", || {
            let answer = agent.get(format!("http://127.0.0.1:{}/readyz", self.port)).call();
            answer.is_ok_and(|answer| answer.status() == 200)
        });
    }

    fn stop(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        Command::new("kill").args(["-TERM", &process.id().to_string()]).status().expect("kill");
        process.wait().expect("it ends");
    }

    /// The most memory that the process has had resident, in MiB.
    fn memory_mib(&self) -> u64 {
        let id = self.process.as_ref().expect("it runs").id();
        let status = fs::read_to_string(format!("/proc/{id}/status")).expect("a process");
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a figure");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("KiB") / 1024
    }

    fn count(&self) -> u64 {
        self.open().query_row("select count(*) from items", [], |row| row.get::<_, i64>(0)).expect("a count") as u64
    }
}

fn wait(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < DEADLINE, "it does not come about: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A parent and a child that sends it `items`; both ready once.
fn pair(ground: &Path) -> (Node, Node) {
    let mut parent = Node::new(ground, "hq", None, "");
    let mut child = Node::new(ground, "north", Some(parent.port), "[send.parent]\ntables = [\"items\"]\n");
    parent.start();
    parent.ready();
    child.start();
    child.ready();
    let followed = |node: &Node| {
        let sql = "select count(*) from watershed_followed";
        node.open().query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap_or(0) > 0
    };
    wait("the first copy", || followed(&parent));
    parent.ready();
    // From now on the parent has a cursor in the child's log.
    child.open().execute("insert into items values (0, 'north', 'first', 0)", []).expect("inserted");
    wait("the first row", || parent.count() == 1);
    (parent, child)
}

/// Appends transactions of so many rows to the log of a node that does not run.
fn fill(node: &Node, transactions: u64, rows: u64) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("a runtime");
    let log = SegmentLog::open(SegmentOptions::new(node.dir.join("data/main"))).expect("a log");
    let table: Arc<TableDef> = log_table(&log);
    let mut id = 0_u64;
    for chunk in 0..transactions.div_ceil(1_000) {
        let drafts = (0..1_000.min(transactions - chunk * 1_000)).map(|_| {
            let changes: Vec<Change> = (0..rows)
                .map(|_| {
                    id += 1;
                    let row = vec![
                        Value::new(Kind::Integer, id.to_string()),
                        Value::new(Kind::Text, "north"),
                        Value::new(Kind::Text, format!("item number {id}")),
                        Value::new(Kind::Real, "12.5"),
                    ];
                    Change { table: 0, op: Op::Insert, row: Some(row), old: None }
                })
                .collect();
            let header = EntryHeader {
                node: "north".into(),
                time: Timestamp::now(),
                tables: vec![table.fingerprint],
                ..EntryHeader::default()
            };
            Draft::Local { header, changes: encode_changes(&changes) }
        });
        let append = Append { from: LinkId::LOCAL, tables: vec![table.clone()], drafts: drafts.collect(), upto: None };
        runtime.block_on(log.append(append)).expect("appended");
    }
    log.close().expect("closed");
}

fn log_table(log: &SegmentLog) -> Arc<TableDef> {
    use watershed::log::Source;
    let all = log.catalog().all();
    all.into_iter().find(|table| table.name.as_str() == "items").unwrap_or_else(|| {
        use watershed::model::Column;
        let column = |name: &str, kind: &str, key| Column { name: name.into(), type_name: kind.into(), key };
        let columns = vec![
            column("id", "integer", 1),
            column("site", "text", 0),
            column("name", "text", 0),
            column("amount", "real", 0),
        ];
        Arc::new(TableDef::new("items".parse().expect("a name"), columns))
    })
}

/// Rows per second of a backlog, and the memory of both nodes.
fn catch_up(ground: &Path, transactions: u64, rows: u64) -> (f64, u64, u64) {
    let (mut parent, mut child) = pair(ground);
    child.stop();
    fill(&child, transactions, rows);
    child.start();
    let begun = wait_first(&parent);
    wait("the backlog is there", || parent.count() > transactions * rows);
    let rate = (transactions * rows) as f64 / begun.elapsed().as_secs_f64();
    let memory = (parent.memory_mib(), child.memory_mib());
    parent.stop();
    (rate, memory.0, memory.1)
}

/// Waits until the child has linked again.
fn wait_first(parent: &Node) -> Instant {
    let log = parent.dir.join("node.log");
    wait("the child links", || {
        fs::read_to_string(&log).unwrap_or_default().matches("linked with the child").count() >= 2
    });
    Instant::now()
}

/// SQLite alone.
fn sqlite_alone(ground: &Path, transactions: u64) -> f64 {
    let mut connection = Connection::open(ground.join("alone.db")).expect("a database");
    connection.execute_batch(SCHEMA).expect("a schema");
    connection.execute_batch("pragma synchronous = full").expect("a setting");
    let begun = Instant::now();
    for chunk in 0..transactions / 1_000 {
        let transaction = connection.transaction().expect("begin");
        {
            let mut statement =
                transaction.prepare_cached("insert into items values (?, ?, ?, ?)").expect("a statement");
            for row in 0..1_000 * ROWS {
                let id = (chunk * 1_000 * ROWS + row) as i64;
                statement.execute(params![id, "north", format!("item number {id}"), 12.5]).expect("inserted");
            }
        }
        transaction.commit().expect("commit");
    }
    (transactions * ROWS) as f64 / begun.elapsed().as_secs_f64()
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn backlog(dir: &Path) {
    let (mut ours, mut alone) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let ground = tempfile::tempdir_in(dir).expect("a folder");
        ours.push(catch_up(ground.path(), 50_000, ROWS).0);
        alone.push(sqlite_alone(ground.path(), 50_000));
    }
    let (ours, alone) = (median(ours), median(alone));
    println!(
        "backlog of 50,000 10-row transactions: {ours:.0} rows/s (goal 100,000); SQLite alone {alone:.0} rows/s; ratio {:.2}",
        ours / alone
    );
}

fn latency(dir: &Path) {
    let ground = tempfile::tempdir_in(dir).expect("a folder");
    let (parent, child) = pair(ground.path());
    let (from, to) = (child.open(), parent.open());
    let mut seen = to.prepare("select 1 from items where id = ?").expect("a statement");
    let mut times: Vec<f64> = Vec::new();
    for id in 1..600_i64 {
        from.execute("insert into items values (?, 'north', 'one', 1.5)", [id]).expect("inserted");
        let committed = Instant::now();
        while !seen.exists([id]).expect("a look") {
            assert!(committed.elapsed() < DEADLINE, "row {id} does not arrive");
            // A look that never rests would take one of two cores from the nodes that it watches.
            std::thread::sleep(Duration::from_micros(100));
        }
        if id >= 100 {
            times.push(committed.elapsed().as_secs_f64() * 1e3);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    times.sort_by(f64::total_cmp);
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
    println!("idle latency, commit to visible: p50 {:.2} ms (goal 5), p99 {:.2} ms (goal 25)", at(0.5), at(0.99));
}

fn memory(dir: &Path) {
    let ground = tempfile::tempdir_in(dir).expect("a folder");
    let (rate, receiver, sender) = catch_up(ground.path(), 1_000_000, 1);
    println!(
        "backlog of 1,000,000 1-row transactions: {rate:.0}/s; resident at most {receiver} MiB (receiver), {sender} MiB (sender); goal 200"
    );
}

fn large(dir: &Path) {
    let ground = tempfile::tempdir_in(dir).expect("a folder");
    let mut hq = Node::new(ground.path(), "hq", None, "");
    let mut north = Node::new(ground.path(), "north", Some(hq.port), "[send.parent]\ntables = [\"items\"]\n");
    let mut n1 = Node::new(ground.path(), "n1", Some(north.port), "[send.parent]\ntables = [\"items\"]\n");
    for node in [&mut hq, &mut north, &mut n1] {
        node.start();
        node.ready();
    }
    let followed = |node: &Node| {
        let sql = "select count(*) from watershed_followed";
        node.open().query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap_or(0) > 0
    };
    wait("the first copies", || followed(&hq) && followed(&north));
    let begun = Instant::now();
    let mut writer = n1.open();
    let transaction = writer.transaction().expect("begin");
    let text = "x".repeat(64 << 10);
    for id in 0..16 << 10_i64 {
        transaction.execute("insert into items values (?, 'n1', ?, 1)", params![id, text]).expect("inserted");
    }
    transaction.commit().expect("commit");
    println!("1 GiB written in one transaction after {:.1} s", begun.elapsed().as_secs_f64());
    let committed = Instant::now();
    wait("it is at the root", || hq.count() == 16 << 10);
    let memory = [&hq, &north, &n1].map(Node::memory_mib);
    println!(
        "one transaction of 1 GiB over two links: {:.1} s after its commit; resident at most {} / {} / {} MiB (root, middle, leaf); goal 200",
        committed.elapsed().as_secs_f64(),
        memory[0],
        memory[1],
        memory[2]
    );
}

fn main() {
    let dir = std::env::var_os("WATERSHED_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let mut arguments = std::env::args();
    let _program = arguments.next();
    let asked: Vec<String> = arguments.filter(|argument| !argument.starts_with('-')).collect();
    let wants = |name: &str| asked.is_empty() || asked.iter().any(|argument| argument == name);
    for (name, run) in [("latency", latency as fn(&Path)), ("backlog", backlog), ("memory", memory), ("large", large)] {
        if wants(name) {
            run(&dir);
        }
    }
}
