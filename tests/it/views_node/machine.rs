//! Machines of programs in a node: one that panics, one that is built again.

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use serde_json::{Value as Json, json};
use watershed::node::views::ViewSettings;
use watershed::node::{Exit, NodeError};
use watershed::view::machine::{Machine, MachineBuilds, Rows, Select, Transaction};
use watershed::view::{AskError, Bounds, Question, ViewError};

use super::bed::Bed;

/// What its rules are, over runs of a node.
#[derive(Default)]
struct Rules {
    version: AtomicU64,
    /// A number on which it panics.
    panics_on: AtomicU64,
    /// A number that it refuses by a version above 1.
    refuses: AtomicU64,
    /// How many transactions were given to one of a version above 1.
    applied: AtomicU64,
}

struct Adder {
    sum: u64,
    version: u64,
    rules: Arc<Rules>,
}

impl Machine for Adder {
    fn definition(&self) -> String {
        format!("adder {}", self.version)
    }

    fn apply(&mut self, transaction: &Transaction<'_>) -> Result<(), ViewError> {
        let mut sum = self.sum;
        self.rules.applied.fetch_add(u64::from(self.version > 1), SeqCst);
        transaction.rows(|change| {
            let number: u64 = change.row.and_then(|row| row.parse().ok()).unwrap_or_default();
            assert_ne!(number, self.rules.panics_on.load(SeqCst), "a number that nobody likes");
            if self.version > 1 && number == self.rules.refuses.load(SeqCst) {
                return Err(transaction.refuse(&change.table.name, "not this one"));
            }
            sum += number * self.version;
            Ok(())
        })?;
        self.sum = sum;
        Ok(())
    }

    fn save(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&self.sum.to_le_bytes())
    }

    fn load(&mut self, state: &mut dyn Read) -> io::Result<()> {
        let mut bytes = [0; 8];
        state.read_exact(&mut bytes)?;
        self.sum = u64::from_le_bytes(bytes);
        Ok(())
    }

    fn ask(&self, question: &Question, bounds: &Bounds) -> Result<Rows, AskError> {
        Select::of(question)?;
        let mut rows = Rows::new(&["sum"], bounds);
        rows.push(vec![Json::from(self.sum)])?;
        Ok(rows)
    }

    fn rows(&self) -> u64 {
        1
    }
}

fn rules() -> Arc<Rules> {
    let rules = Rules::default();
    rules.version.store(1, SeqCst);
    rules.panics_on.store(u64::MAX, SeqCst);
    Arc::new(rules)
}

async fn up(dir: &Path, rules: &Arc<Rules>) -> Bed {
    up_with(dir, rules, 1).await
}

async fn up_with(dir: &Path, rules: &Arc<Rules>, partitions: u32) -> Bed {
    let (folder, rules) = (dir.join("hub.data/views"), rules.clone());
    let make = move || {
        let (rules, version) = (rules.clone(), rules.version.load(SeqCst));
        let earlier = rules.clone();
        let new = move || Adder { sum: 0, version, rules: rules.clone() };
        let builds = MachineBuilds::open(&folder, "totals", Vec::new(), false, new);
        let failed = |error| NodeError::new("WS-TEST", Exit::Failure, error, "a test", "look");
        let known = move |text: &str| {
            let version = text.strip_prefix("adder ")?.parse().ok()?;
            Some((Adder { sum: 0, version, rules: earlier.clone() }, Vec::new()))
        };
        builds.map(|builds| Arc::new(builds.knowing_earlier(known)) as _).map_err(failed)
    };
    let view = ViewSettings {
        log: "orders".into(),
        kind: "adder".into(),
        store: "memory".into(),
        tables: None,
        make: Arc::new(make),
        persist_every: Some(Duration::from_millis(50)),
        publish: None,
    };
    Bed::with(dir, view, partitions).await
}

async fn sum(bed: &Bed, query: &str) -> (u16, Json) {
    let (status, answer) = bed.ask("select * from sums", query, &[]).await;
    (status, answer["rows"][0][0].clone())
}

async fn take_up(bed: &Bed) {
    bed.node.shared.views.take_up().await.expect("it is good");
}

fn has_failed(status: &Json) -> bool {
    status["state"] == "failed" && status["failure"]["position"] == 6 && status["position"] == 5
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_panics_answers_what_it_had_and_goes_on_when_its_rules_are_mended() {
    let (dir, rules) = (tempfile::tempdir().expect("a folder"), rules());
    let bed = up(dir.path(), &rules).await;
    for n in 1..=5 {
        bed.append("orders", n).await;
    }
    assert_eq!(sum(&bed, "?after=latest").await, (200, json!(15)));
    rules.panics_on.store(13, SeqCst);
    let token = bed.append("orders", 13).await;
    bed.append("orders", 7).await;
    let shown = bed.until("it has failed", has_failed).await;
    let why = shown["failure"]["error"].as_str().unwrap_or_default();
    assert!(
        why.contains("panicked") && why.contains("nobody likes") && why.matches("position").count() == 1,
        "{shown}"
    );
    assert_eq!(bed.sum(&format!("?after={token}&timeout=30s")).await.1["reason"], "view_failed");
    assert_eq!(sum(&bed, "?on_timeout=stale&timeout=20s").await, (200, json!(15)), "what is before the entry answers");
    // Told again it tries again, and stops there again.
    take_up(&bed).await;
    bed.until("it has failed again", has_failed).await;
    assert_eq!(sum(&bed, "?on_timeout=stale&timeout=20s").await, (200, json!(15)));
    rules.panics_on.store(u64::MAX, SeqCst);
    take_up(&bed).await;
    // Until it tries again, who asks is told that it has stopped.
    bed.until("it goes on", |status| status["state"] == "current").await;
    assert_eq!(sum(&bed, "?after=latest&timeout=60s").await, (200, json!(35)));
    bed.down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_on_which_a_machine_panics_is_passed_over_also_by_a_state_that_goes_back_and_a_build() {
    let (dir, rules) = (tempfile::tempdir().expect("a folder"), rules());
    let bed = up(dir.path(), &rules).await;
    for n in [1, 2, 3, 4, 5] {
        bed.append("orders", n).await;
    }
    assert_eq!(sum(&bed, "?after=latest").await, (200, json!(15)));
    bed.down().await;
    let saved = dir.path().join("hub.data/views/totals.state");
    let before = std::fs::read(&saved).expect("a saved state");
    rules.panics_on.store(13, SeqCst);
    let bed = up(dir.path(), &rules).await;
    for n in [13, 7] {
        bed.append("orders", n).await;
    }
    bed.until("it has failed", has_failed).await;
    let (status, done) = bed.order("/v1/views/totals/skip", "{\"position\":6}").await;
    assert_eq!(status, 200, "{done}");
    assert_eq!(sum(&bed, "?after=latest&timeout=60s").await, (200, json!(22)));
    bed.down().await;
    // As after a crash before it was saved.
    std::fs::write(&saved, before).expect("put back");
    let bed = up(dir.path(), &rules).await;
    assert_eq!(sum(&bed, "?after=latest&timeout=60s").await, (200, json!(22)));
    let (status, done) = bed.order("/v1/views/totals/rebuild", "").await;
    assert_eq!(status, 200, "{done}");
    bed.until("it is built afresh", |status| status["building"].is_null()).await;
    assert_eq!(sum(&bed, "?after=latest&timeout=60s").await, (200, json!(22)));
    // A build that panics is not what answers.
    rules.version.store(2, SeqCst);
    rules.panics_on.store(4, SeqCst);
    take_up(&bed).await;
    bed.until("its build has failed", |status| status["building"]["failure"]["position"] == 4).await;
    assert_eq!(sum(&bed, "?after=latest").await, (200, json!(22)));
    let (status, done) = bed.order("/v1/views/totals/skip", "{\"position\":4}").await;
    assert_eq!(status, 200, "{done}");
    bed.until("it is switched", |status| status["building"].is_null()).await;
    assert_eq!(sum(&bed, "?after=latest&timeout=60s").await, (200, json!(2 * (22 - 4))));
    bed.down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_panics_in_two_partitions_stops_in_both_and_goes_on_behind_both() {
    let (dir, rules) = (tempfile::tempdir().expect("a folder"), rules());
    let bed = up_with(dir.path(), &rules, 2).await;
    rules.panics_on.store(13, SeqCst);
    for partition in [0, 1] {
        for number in [1, 13, 2] {
            bed.append_to(partition, number).await;
        }
    }
    bed.until("it has failed in both", |status| {
        let at = |part: usize| status["parts"][part]["position"] == 1;
        status["state"] == "failed" && at(0) && at(1)
    })
    .await;
    for _ in 0..2 {
        let shown = bed.until("it has failed", |status| status["failure"]["position"] == 2).await;
        let partition = shown["failure"]["partition"].as_u64().expect("a partition");
        let body = json!({ "position": 2, "partition": partition }).to_string();
        let (status, done) = bed.order("/v1/views/totals/skip", &body).await;
        assert_eq!(status, 200, "it stands still where it has stopped: {done}");
        bed.until("that one goes on", |status| status["parts"][partition as usize]["position"] == 3).await;
    }
    assert_eq!(sum(&bed, "?after=latest&timeout=60s").await, (200, json!(6)));
    bed.down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_built_of_a_machine_is_gone_on_with_after_a_restart() {
    let (dir, rules) = (tempfile::tempdir().expect("a folder"), rules());
    let bed = up(dir.path(), &rules).await;
    for n in 1..=50 {
        bed.append("orders", n).await;
    }
    assert_eq!(sum(&bed, "?after=latest").await, (200, json!(1_275)));
    rules.refuses.store(40, SeqCst);
    rules.version.store(2, SeqCst);
    take_up(&bed).await;
    bed.until("its build has failed", |status| status["building"]["failure"]["position"] == 40).await;
    let views = dir.path().join("hub.data/views");
    let builds = || {
        let files = std::fs::read_dir(&views).expect("a folder").map(|file| file.expect("a file").file_name());
        files.filter(|name| name.to_string_lossy().contains(".building-")).count()
    };
    bed.until("it has been saved", |_| builds() == 1).await;
    bed.down().await;
    assert!(rules.applied.swap(0, SeqCst) >= 40);
    let bed = up(dir.path(), &rules).await;
    bed.until("its build has failed", |status| status["building"]["failure"]["position"] == 40).await;
    let applied = rules.applied.load(SeqCst);
    assert!((1..40).contains(&applied), "it began with what was saved: {applied}");
    bed.down().await;
    // What nobody wants any more goes.
    rules.version.store(1, SeqCst);
    let bed = up(dir.path(), &rules).await;
    assert_eq!(sum(&bed, "?after=latest").await, (200, json!(1_275)));
    bed.until("it is gone", |_| builds() == 0).await;
    bed.down().await;
}
