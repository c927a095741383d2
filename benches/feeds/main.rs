//! Feeds over HTTP beside NATS JetStream on the same disk, in one run: durable single appends, batches, many readers of one feed,
//! and one reader that catches up.
//!
//! `cargo bench --bench feeds` runs everything; `-- --only single,batch --runs 1` some of it. The load comes from one thread
//! of this process, the same for both servers. JetStream's part needs `nats-server` (for `sync_interval: always` 2.10 or
//! later); `--nats-server PATH` names another one than that of the path.

mod load;
mod nats;
mod node;
mod readers;

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use serde_json::{Value, json};

use self::load::Load;
use self::nats::{FileSync, Nats};
use self::node::Node;

/// Feeds over HTTP beside NATS JetStream.
#[derive(Debug, Parser)]
struct Options {
    /// How often each case is run; medians are shown.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Only these cases: single, batch, readers, catchup.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// One JSON object instead of lines.
    #[arg(long)]
    json: bool,
    /// How long each rate is measured, in seconds, after half a second.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Connections that append.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Readers of server-sent events.
    #[arg(long, default_value_t = 1_000)]
    readers: usize,
    /// Entries that one reader catches up with.
    #[arg(long, default_value_t = 1_000_000)]
    entries: u64,
    /// Connections that publish to JetStream without waiting for each answer.
    #[arg(long, default_value_t = 4)]
    publishers: usize,
    /// Answers that each of them has outstanding at most.
    #[arg(long, default_value_t = 4_000)]
    window: usize,
    /// The server to compare with.
    #[arg(long, default_value = "nats-server")]
    nats_server: PathBuf,
    /// A folder on the disk that is measured.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// `cargo bench` says so.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Bytes of an event.
const EVENT_BYTES: usize = 200;
/// Events of one call, where they are appended in batches.
const BATCH: usize = 100;

/// What one run of a case has shown.
struct Outcome {
    case: &'static str,
    ours: f64,
    theirs: Option<f64>,
    more: Value,
}

/// What a case must reach: the least ratio, or the least rate.
fn goal(case: &str) -> (&'static str, fn(&Summary) -> bool) {
    match case {
        "single" => ("at least 3 times JetStream's", |one| one.ratio.is_some_and(|ratio| ratio >= 3.0)),
        "batch" => ("at least as many", |one| one.ratio.is_some_and(|ratio| ratio >= 1.0)),
        "readers" => ("under 64 KiB per reader", |one| one.kib.is_some_and(|kib| kib < 64.0)),
        _ => ("at least 500,000 entries/s", |one| one.ours >= 500_000.0),
    }
}

/// The medians of a case's runs.
struct Summary {
    case: &'static str,
    ours: f64,
    theirs: Option<f64>,
    ratio: Option<f64>,
    kib: Option<f64>,
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

impl Summary {
    fn of(case: &'static str, runs: &[Outcome]) -> Option<Summary> {
        let of = |value: fn(&Outcome) -> Option<f64>| {
            median(runs.iter().filter(|run| run.case == case).filter_map(value).collect())
        };
        Some(Summary {
            case,
            ours: of(|run| Some(run.ours))?,
            theirs: of(|run| run.theirs),
            ratio: of(|run| Some(run.ours / run.theirs?)),
            kib: of(|run| run.more["kib_per_reader"].as_f64()),
        })
    }

    fn line(&self) -> String {
        let (goal, reached) = goal(self.case);
        let theirs = self.theirs.map_or(String::new(), |theirs| format!(", JetStream {}/s", grouped(theirs)));
        let ratio = self.ratio.map_or(String::new(), |ratio| format!(", ratio {ratio:.2}"));
        let kib = self.kib.map_or(String::new(), |kib| format!(", {kib:.1} KiB of memory per reader"));
        let told = if reached(self) { "reached" } else { "MISSED" };
        format!("{}: Watershed {}/s{theirs}{ratio}{kib} (goal: {goal}: {told})", self.case, grouped(self.ours))
    }

    fn json(&self) -> Value {
        let (goal, reached) = goal(self.case);
        json!({ "case": self.case, "watershed": self.ours, "jetstream": self.theirs, "ratio": self.ratio,
                "kib_per_reader": self.kib, "goal": goal, "reached": reached(self) })
    }
}

/// 1234567 as 1,234,567.
fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

impl Options {
    fn load(&self) -> Load {
        Load {
            connections: self.connections,
            warm: Duration::from_millis(500),
            time: Duration::from_secs_f64(self.seconds),
        }
    }

    fn ground(&self) -> tempfile::TempDir {
        let builder = tempfile::Builder::new();
        let made = match &self.dir {
            Some(dir) => tempfile::tempdir_in(dir),
            None => builder.tempdir_in(env!("CARGO_TARGET_TMPDIR")),
        };
        made.expect("a folder")
    }

    /// Appends that are durable when they are answered, one event each.
    async fn single(&self) -> Outcome {
        let ground = self.ground();
        let ours = Node::start(ground.path()).append(&self.load(), 1).await;
        let theirs = Nats::start(&self.nats_server, ground.path(), FileSync::Always);
        let theirs = theirs.publish_and_wait(&self.load()).await;
        Outcome { case: "single", ours, theirs: Some(theirs), more: Value::Null }
    }

    /// Durable appends of many events each, beside events that are on their way to the disk when they are answered.
    async fn batch(&self) -> Outcome {
        let ground = self.ground();
        let ours = Node::start(ground.path()).append(&self.load(), BATCH).await;
        let theirs = Nats::start(&self.nats_server, ground.path(), FileSync::Default);
        let load = Load { connections: self.publishers, ..self.load() };
        let theirs = theirs.publish_on(&load, self.window).await;
        Outcome { case: "batch", ours, theirs: Some(theirs), more: Value::Null }
    }

    async fn readers(&self) -> Outcome {
        let ground = self.ground();
        let found = readers::run(&Node::start(ground.path()), self.readers, &self.load()).await;
        let more = json!({ "kib_per_reader": found.kib_per_reader, "idle_kib_per_reader": found.idle_kib_per_reader,
            "appended_per_second": found.appended, "behind_ms": found.behind.as_secs_f64() * 1e3 });
        Outcome { case: "readers", ours: found.delivered, theirs: None, more }
    }

    async fn catch_up(&self) -> Outcome {
        let ground = self.ground();
        let ours = Node::filled(ground.path(), self.entries).catch_up(self.entries).await;
        Outcome { case: "catchup", ours, theirs: None, more: Value::Null }
    }
}

fn main() {
    let options = Options::parse();
    let cases: Vec<&'static str> = ["single", "batch", "readers", "catchup"]
        .into_iter()
        .filter(|case| options.only.is_empty() || options.only.iter().any(|one| one == case))
        .collect();
    assert!(!cases.is_empty(), "--only takes single, batch, readers, catchup");
    // Every reader is a connection, here and at the node.
    node::open_many_files();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut outcomes = Vec::new();
    for run in 1..=options.runs {
        for case in &cases {
            let outcome = tokio::task::LocalSet::new().block_on(&runtime, async {
                match *case {
                    "single" => options.single().await,
                    "batch" => options.batch().await,
                    "readers" => options.readers().await,
                    _ => options.catch_up().await,
                }
            });
            let theirs = outcome.theirs.map_or(String::new(), |theirs| format!(", JetStream {}/s", grouped(theirs)));
            let more = if outcome.more.is_null() { String::new() } else { format!(" {}", outcome.more) };
            eprintln!("run {run}, {case}: Watershed {}/s{theirs}{more}", grouped(outcome.ours));
            outcomes.push(outcome);
        }
    }
    let summaries: Vec<Summary> = cases.iter().filter_map(|case| Summary::of(case, &outcomes)).collect();
    if options.json {
        let runs: Vec<Value> = outcomes
            .iter()
            .map(|run| json!({ "case": run.case, "watershed": run.ours, "jetstream": run.theirs, "more": run.more }))
            .collect();
        let cases: Vec<Value> = summaries.iter().map(Summary::json).collect();
        println!(
            "{}",
            json!({ "schema": 1, "nats_server": nats::version(&options.nats_server), "cases": cases, "runs": runs })
        );
    } else {
        summaries.iter().for_each(|summary| println!("{}", summary.line()));
    }
}
