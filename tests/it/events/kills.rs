//! Everything is killed at random while events are appended, copied and looked at.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use watershed::testing::postgres::Cluster;

use super::process::{Running, Site};

const DIGEST: &str = "select count(*), sum(hashtextextended(id || ts::text || event::text, 0)::numeric) from events";
/// The last event of a table is the last of its transaction, as the loader has numbered them.
const WHOLE: &str = "select count(*), coalesce(bool_and((s->>'dbOperationEventNum')::int = (s->>'dbOperationEventCount')::int), true) \
     from (select event->'testingStats' s from events order by id desc limit 1) last";

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

fn events(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_watershed"));
    command.arg("events").args(arguments).stdin(Stdio::null());
    command
}

fn count(cluster: &Cluster, url: &str) -> u64 {
    let text = cluster.try_sql(url, "select coalesce(max(id), 0) from events").unwrap_or_default();
    text.trim().parse().unwrap_or_default()
}

/// What is killed.
struct Ground {
    source: Cluster,
    destination: Cluster,
    from: String,
    to: String,
    site: Site,
    running: Option<Running>,
}

impl Ground {
    fn new() -> Ground {
        let (source, destination) = (Cluster::start(), Cluster::start());
        let (from, to) = (source.database(), destination.database());
        for (url, role) in [(&from, "source"), (&to, "destination")] {
            assert!(events(&["init", "--url", url, "--role", role]).output().expect("it starts").status.success());
        }
        let site = Site::new(&from, &[&to]);
        let running = Some(site.start(&[]));
        Ground { source, destination, from, to, site, running }
    }

    /// Kills one of the three, or stops the replicator by ^C; it is there again afterwards.
    fn strike(&mut self) {
        match rand::random_range(0..4) {
            0 => {
                self.source.kill();
                self.source.restart();
            }
            1 => {
                self.destination.kill();
                self.destination.restart();
            }
            2 => {
                let mut stopped = self.running.take().expect("it runs");
                stopped.signal("-INT");
                assert_eq!(stopped.ends(), 0, "{}", stopped.said());
                self.running = Some(self.site.start(&[]));
            }
            _ => {
                drop(self.running.take());
                self.running = Some(self.site.start(&[]));
            }
        }
    }

    /// Waits for something of this tree, not for a time.
    #[track_caller]
    fn wait(&self, what: &str, seconds: u64, done: impl Fn(&Ground) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        while !done(self) {
            let (at, of) = (count(&self.destination, &self.to), count(&self.source, &self.from));
            assert!(Instant::now() < deadline, "not in time: {what}; {at} of {of} events have arrived");
            std::thread::sleep(Duration::from_millis(rand::random_range(1..40)));
        }
    }
}

/// Looks at the destination all the time, until it is told to stop; returns how often.
fn sample(to: &str, done: &AtomicBool) -> u64 {
    let mut samples = 0;
    while !done.load(Ordering::Relaxed) {
        let output = Command::new("psql").args(["-XAtqc", WHOLE, to]).output().expect("psql starts");
        if output.status.success() {
            let seen = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(seen.ends_with("|t\n"), "half a transaction was seen: {seen}");
            samples += u64::from(seen.starts_with('1'));
        }
    }
    samples
}

/// `WATERSHED_KILLS` times something is killed while `WATERSHED_EVENTS` events are appended by eight loaders.
#[test]
fn killed_at_random_source_destination_and_replicator_lose_tear_and_double_nothing() {
    let (kills, wanted) = (number("WATERSHED_KILLS", 6), number("WATERSHED_EVENTS", 6_000));
    let mut ground = Ground::new();
    let loaders = ["load", "--forever", "--retry", "--json", "--loaders", "8", "--url", &ground.from];
    let mut load = events(&loaders).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    let done = Arc::new(AtomicBool::new(false));
    let sampling = std::thread::spawn({
        let (done, to) = (Arc::clone(&done), ground.to.clone());
        move || sample(&to, &done)
    });
    for kill in 1..=kills {
        // Something has to arrive between two kills, and the kills are spread over all events.
        let (before, share) = (count(&ground.destination, &ground.to), wanted * kill / (kills + 1));
        let arrives = |ground: &Ground| {
            count(&ground.destination, &ground.to) > before && count(&ground.source, &ground.from) >= share
        };
        ground.wait("something arrives after a kill", 300, arrives);
        ground.strike();
    }
    ground.wait("all are appended", 600, |ground| count(&ground.source, &ground.from) >= wanted);
    let interrupted = Command::new("kill").args(["-INT", &load.id().to_string()]).status().expect("kill runs");
    assert!(interrupted.success());
    assert!(load.wait().expect("it ends").success());
    let digest = ground.source.sql(&ground.from, DIGEST);
    ground.wait("both are equal", 120, |ground| ground.destination.try_sql(&ground.to, DIGEST).as_ref() == Ok(&digest));
    done.store(true, Ordering::Relaxed);
    let samples = sampling.join().expect("no half transaction was seen");
    assert!(samples > 0, "nobody has looked");
    drop(ground.running.take());
    let compared = events(&["diff", &ground.from, &ground.to, "--all", "--validate-tables"]).output();
    let compared = compared.expect("it starts");
    let said = String::from_utf8_lossy(&compared.stdout).into_owned() + &String::from_utf8_lossy(&compared.stderr);
    assert_eq!(compared.status.code(), Some(0), "{said}");
    println!("{kills} kills, {} events, {samples} samples: {said}", count(&ground.source, &ground.from));
}
