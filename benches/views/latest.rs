//! `latest` in memory: entries a second.

use std::path::Path;

use tokio::runtime::Runtime;
use watershed::view::machine::{MachineOptions, MachineStore};
use watershed::view::plain::{LatestSettings, Plain, PlainSettings};

use crate::entries::{CUSTOMERS, catch_up, cpu_seconds, fill, median};

const ROUNDS: usize = 5;
/// Entries a second.
const GOAL: f64 = 1_500_000.0;

pub fn run(dir: &Path, runtime: &Runtime, entries: u64) {
    let log = fill(&dir.join("latest"), runtime, entries, CUSTOMERS);
    println!("`latest` over {entries} entries of about 200 bytes, {CUSTOMERS} keys (median of {ROUNDS} rounds):");
    for (indexes, name) in [(Vec::new(), "by key           "), (vec!["customer".to_string()], "with one index   ")] {
        let settings = PlainSettings::Latest(LatestSettings { indexes, ..LatestSettings::default() });
        let (mut rates, mut cpu_rates) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let new = || Plain::new(&settings).expect("good settings");
            let store = MachineStore::open(new, MachineOptions::in_memory(dir)).expect("opened");
            let cpu = cpu_seconds();
            rates.push(entries as f64 / catch_up(runtime, &store, &log).as_secs_f64());
            cpu_rates.push(entries as f64 / (cpu_seconds() - cpu));
        }
        let ((rate, low, high), (by_cpu, ..)) = (median(rates), median(cpu_rates));
        println!("  {name}{rate:>11.0} entries/s ({low:.0}..{high:.0})   ratio {:.2} of {GOAL:.0}", rate / GOAL);
        println!("    by processor time {by_cpu:>11.0} entries/s   ratio {:.2}", by_cpu / GOAL);
    }
}
