//! A backlog of pgbench's transactions read from a server's transaction log, beside `pg_recvlogical` writing the same into a
//! file: the server's decoding is the same for both.
//!
//! `cargo bench --bench replication`; `-- 50000` for other than 200,000 transactions, `-- 50000 ours` for our side alone.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use watershed::postgres::Endpoint;
use watershed::postgres::replication::pgoutput::{Message, Tuple, TupleValue};
use watershed::postgres::replication::{Event, Lsn, ReplicationClient, StartOptions};
use watershed::testing::postgres::Cluster;

const ROUNDS: usize = 5;
const LIMIT: Duration = Duration::from_secs(120);

/// The newest of PostgreSQL's programs.
fn program(name: &str) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<(u32, PathBuf)> = versions
        .filter_map(|version| {
            Some((version.file_name().to_str()?.parse().ok()?, version.path().join("bin").join(name)))
        })
        .filter(|(_, program)| program.is_file())
        .collect();
    found.sort();
    found.pop().map_or_else(|| PathBuf::from(name), |(_, program)| program)
}

fn run(name: &str, arguments: &[&str]) {
    let done = Command::new(program(name)).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(done.expect("PostgreSQL's programs are installed").success(), "{name} {arguments:?}");
}

/// How long `pg_recvlogical` takes.
fn theirs(url: &str, slot: &str, upto: Lsn) -> Duration {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let started = Instant::now();
    run(
        "pg_recvlogical",
        &[
            "-d",
            url,
            "-S",
            slot,
            "--start",
            "-n",
            "-f",
            &file.path().display().to_string(),
            "-o",
            "proto_version=1",
            "-o",
            "publication_names=p",
            "--endpos",
            &upto.to_string(),
        ],
    );
    started.elapsed()
}

fn bytes(tuple: &Tuple) -> usize {
    let length = |value| if let TupleValue::Text(text) = value { text.len() } else { 0 };
    tuple.values().map(length).sum()
}

/// How long we take, how many transactions there are, and how large all values are.
async fn ours(url: &str, slot: &str, upto: Lsn) -> (Duration, u64, usize) {
    let endpoint = Endpoint::from_url(url).expect("a URL");
    let started = Instant::now();
    let client = ReplicationClient::connect(&endpoint, LIMIT).await.expect("the server is there");
    let stream = client.start(slot, Lsn::NONE, "p", StartOptions::default()).await;
    let mut stream = stream.expect("the slot is free");
    let (mut transactions, mut size) = (0, 0);
    while stream.sent_upto() < upto {
        match stream.next().await.expect("the server streams") {
            Event::Data(data) => match data.message {
                Message::Insert { new, .. } | Message::Update { new, .. } => size += bytes(&new),
                Message::Commit(commit) => {
                    transactions += 1;
                    stream.acknowledge(commit.end);
                }
                _ => {}
            },
            Event::KeepAlive { .. } => {}
        }
    }
    let took = started.elapsed();
    stream.close(LIMIT).await.expect("the stream ends");
    (took, transactions, size)
}

fn main() {
    let arguments: Vec<String> = std::env::args().filter(|argument| !argument.starts_with("--")).collect();
    let count: u64 = arguments.get(1).map_or(200_000, |count| count.parse().expect("a number of transactions"));
    let alone = arguments.iter().any(|argument| argument == "ours");
    let cluster = Cluster::with(&[
        ("wal_level", "logical"),
        ("fsync", "off"),
        ("shared_buffers", "256MB"),
        ("max_wal_size", "8GB"),
        ("autovacuum", "off"),
    ]);
    let url = cluster.database();
    run("pgbench", &["-i", "-q", "-s", "10", &url]);
    cluster.sql(&url, "create publication p for all tables");
    cluster.sql(&url, "select pg_create_logical_replication_slot('base', 'pgoutput')");
    run("pgbench", &["-n", "-c", "4", "-t", &(count / 4).to_string(), &url]);
    let upto: Lsn = cluster.sql(&url, "select pg_current_wal_flush_lsn()").trim().parse().expect("an LSN");
    let socket = cluster.socket_url(url.rsplit('/').next().unwrap_or_default());
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    for way in [&url, &socket] {
        println!("{}", if *way == socket { "over a socket of the machine" } else { "over TCP" });
        let mut ratios = Vec::new();
        for round in 0..ROUNDS {
            let slot = format!("s{round}");
            let copied = |slot: &str| {
                drop(cluster.sql(&url, &format!("select pg_copy_logical_replication_slot('base', '{slot}')")))
            };
            let dropped = |slot: &str| drop(cluster.sql(&url, &format!("select pg_drop_replication_slot('{slot}')")));
            copied(&slot);
            let (took, transactions, size) = runtime.block_on(ours(way, &slot, upto));
            dropped(&slot);
            let rate = transactions as f64 / took.as_secs_f64();
            print!("ours: {transactions} transactions, {size} bytes of values, {took:.2?}, {rate:.0} a second");
            if !alone {
                copied(&slot);
                let them = theirs(way, &slot, upto);
                dropped(&slot);
                let ratio = them.as_secs_f64() / took.as_secs_f64();
                ratios.push(ratio);
                print!(
                    "; pg_recvlogical: {them:.2?}, {:.0} a second; ratio {ratio:.2}",
                    transactions as f64 / them.as_secs_f64()
                );
            }
            println!();
        }
        ratios.sort_by(f64::total_cmp);
        if let Some(median) = ratios.get(ROUNDS / 2) {
            println!("median ratio {median:.2}");
        }
    }
}
