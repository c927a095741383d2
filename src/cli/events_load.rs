//! `watershed events load`

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use clap::builder::RangedU64ValueParser;
use serde_json::json;

use super::{Exit, ExitError, Global, events, finite, output};
use crate::model::limits;
use crate::node::events::{LoadOptions, Loaded, load};

/// Append realistic events with many loaders
///
/// People are created, renamed, moved and deleted, with filler between them: events of 250 to 400 bytes, stamped so that
/// `events diff --validate-tables` can tell whether every transaction arrived whole and in order. Each transaction goes
/// through the source's function insert_events (in a SQLite file: through one transaction of the same effect).
#[derive(Debug, Args)]
pub(super) struct Load {
    /// The source: postgres://USER@HOST:PORT/DATABASE or sqlite:PATH, made by `events init --role source`
    #[arg(long)]
    url: String,
    /// Loaders at once, each with its own connection
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = RangedU64ValueParser::<usize>::new().range(1..=limits::EVENTS_LOADERS_MAX as u64))]
    loaders: usize,
    /// Events in all, over all loaders
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=i64::MAX as u64))]
    count: u64,
    /// Go on until a signal comes
    #[arg(long, conflicts_with = "count")]
    forever: bool,
    /// Events of a transaction: a number, or a range of which each transaction draws one
    #[arg(long, value_name = "N|N..M", default_value = "1..20", value_parser = batch)]
    batch: RangeInclusive<u32>,
    /// Events per second at most, over all loaders
    #[arg(long, value_name = "EVENTS/S", value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
    /// The same number gives the same people and the same order in each loader; drawn when left out
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Connect again when the database goes away, and go on; a transaction whose commit was not acknowledged may be there
    /// besides those that are counted
    #[arg(long)]
    retry: bool,
}

/// Reads `N`, `N..M` or `N-M`, both ends included.
fn batch(text: &str) -> Result<RangeInclusive<u32>, String> {
    let (least, most) = text.split_once("..").or_else(|| text.split_once('-')).unwrap_or((text, text));
    let number = |text: &str| text.trim_start_matches('=').trim().parse::<u32>();
    let bad = || format!("write a number or a range like 1..20, from 1 to {}", limits::EVENTS_LOAD_BATCH_MAX);
    let (Ok(least), Ok(most)) = (number(least), number(most)) else { return Err(bad()) };
    match least >= 1 && least <= most && most <= limits::EVENTS_LOAD_BATCH_MAX {
        true => Ok(least..=most),
        false => Err(bad()),
    }
}

impl Load {
    pub(super) fn run(self, global: &Global) -> Result<(), ExitError> {
        let endpoint = events::endpoint(&self.url)?;
        let seed = self.seed.unwrap_or_else(rand::random);
        let options = LoadOptions {
            loaders: self.loaders,
            count: (!self.forever).then_some(self.count),
            batch: self.batch,
            rate: self.rate,
            seed,
            retry: self.retry,
            connect_timeout: limits::EVENTS_CONNECT_TIMEOUT,
        };
        let (loaded, count) = (Arc::new(Loaded::default()), options.count);
        let begun = Instant::now();
        let interrupted = finite::run(async |stop| {
            let bar = finite::bar(count, global.quiet);
            bar.set_message("events");
            let shown = Arc::clone(&loaded);
            let work = load(&endpoint, options, Arc::clone(&loaded), &stop);
            let show = async {
                loop {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    bar.set_position(shown.events());
                }
            };
            let result = tokio::select! {
                result = work => result,
                () = show => Ok(()),
            };
            bar.finish_and_clear();
            result?;
            Ok(stop.is_cancelled() && count.is_none_or(|count| loaded.events() < count))
        })?;
        summary(global, &loaded, begun.elapsed(), seed)?;
        // Without an end to reach, a signal is the end.
        if interrupted && !self.forever { Err(ExitError::quiet(Exit::Interrupted)) } else { Ok(()) }
    }
}

fn summary(global: &Global, loaded: &Loaded, elapsed: Duration, seed: u64) -> Result<(), ExitError> {
    let (events, transactions) = (loaded.events(), loaded.transactions());
    let seconds = elapsed.as_secs_f64().max(0.001);
    let rate = (events as f64 / seconds).round() as u64;
    if global.json {
        return output::object(json!({
            "events": events, "transactions": transactions, "seconds": (seconds * 1000.0).round() / 1000.0,
            "events_per_second": rate, "reconnects": loaded.reconnects(), "seed": seed,
        }));
    }
    let reconnects = match loaded.reconnects() {
        0 => String::new(),
        lost => format!("; connections were lost {lost} times"),
    };
    output::line(&format!(
        "{events} events in {transactions} transactions, {seconds:.1} s, {rate} events/s (seed {seed}){reconnects}"
    ))
}
