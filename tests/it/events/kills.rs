//! Everything is killed at random while events are appended, copied and looked at.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use watershed::testing::postgres::Cluster;

use super::process::Site;

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

/// `WATERSHED_KILLS` processes and servers are killed while `WATERSHED_EVENTS` events are appended by eight loaders.
#[test]
fn killed_at_random_source_destination_and_replicator_lose_tear_and_double_nothing() {
    let (kills, wanted) = (number("WATERSHED_KILLS", 6), number("WATERSHED_EVENTS", 6_000));
    let (mut source, mut destination) = (Cluster::start(), Cluster::start());
    let (from, to) = (source.database(), destination.database());
    for (url, role) in [(&from, "source"), (&to, "destination")] {
        assert!(events(&["init", "--url", url, "--role", role]).output().expect("it starts").status.success());
    }
    let loaders = ["load", "--forever", "--retry", "--json", "--loaders", "8", "--url", &from];
    let mut load = events(&loaders).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    let site = Site::new(&from, &[&to]);
    let mut running = Some(site.start(&[]));
    let done = Arc::new(AtomicBool::new(false));
    let sampling = std::thread::spawn({
        let (done, to) = (Arc::clone(&done), to.clone());
        move || {
            let mut samples = 0;
            while !done.load(Ordering::Relaxed) {
                let output = Command::new("psql").args(["-XAtqc", WHOLE, &to]).output().expect("psql starts");
                if output.status.success() {
                    let seen = String::from_utf8_lossy(&output.stdout).into_owned();
                    assert!(seen.ends_with("|t\n"), "half a transaction was seen: {seen}");
                    samples += u64::from(seen.starts_with('1'));
                }
            }
            samples
        }
    });
    for kill in 1..=kills {
        // Something has to arrive between two kills, and the kills are spread over all events.
        let (before, share) = (count(&destination, &to), wanted * kill / (kills + 1));
        let deadline = Instant::now() + Duration::from_secs(300);
        while count(&destination, &to) <= before || count(&source, &from) < share {
            assert!(Instant::now() < deadline, "after {} kills nothing arrives", kill - 1);
            std::thread::sleep(Duration::from_millis(rand::random_range(1..40)));
        }
        match rand::random_range(0..4) {
            0 => {
                source.kill();
                source.restart();
            }
            1 => {
                destination.kill();
                destination.restart();
            }
            2 => {
                // ^C, and on.
                let mut stopped = running.take().expect("it runs");
                stopped.signal("-INT");
                assert_eq!(stopped.ends(), 0, "{}", stopped.said());
                running = Some(site.start(&[]));
            }
            _ => {
                drop(running.take());
                running = Some(site.start(&[]));
            }
        }
    }
    let deadline = Instant::now() + Duration::from_secs(600);
    while count(&source, &from) < wanted {
        assert!(Instant::now() < deadline, "{} of {wanted} events", count(&source, &from));
        std::thread::sleep(Duration::from_millis(20));
    }
    let interrupted = Command::new("kill").args(["-INT", &load.id().to_string()]).status().expect("kill runs");
    assert!(interrupted.success());
    assert!(load.wait().expect("it ends").success());
    let digest = source.sql(&from, DIGEST);
    let deadline = Instant::now() + Duration::from_secs(120);
    while destination.try_sql(&to, DIGEST).as_ref() != Ok(&digest) {
        assert!(Instant::now() < deadline, "{digest} at the source, then {:?}", destination.try_sql(&to, DIGEST));
        std::thread::sleep(Duration::from_millis(50));
    }
    done.store(true, Ordering::Relaxed);
    let samples = sampling.join().expect("no half transaction was seen");
    assert!(samples > kills, "{samples} samples");
    drop(running);
    let compared = events(&["diff", &from, &to, "--all", "--validate-tables"]).output().expect("it starts");
    let said = String::from_utf8_lossy(&compared.stdout).into_owned() + &String::from_utf8_lossy(&compared.stderr);
    assert_eq!(compared.status.code(), Some(0), "{said}");
    println!("{kills} kills, {} events, {samples} samples: {said}", count(&source, &from));
}
