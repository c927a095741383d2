//! Connections are made, and reading begins where it ended.

use std::time::{Duration, Instant};

use super::continuity::{self, Found, Verdict};
use super::failure::{self, Failed};
use super::gather::Gather;
use super::install::{self, Noted};
use super::look::Look;
use super::place::Place;
use super::side::Side;
use super::{Link, PgCaptureOptions, witness};
use crate::model::limits;
use crate::postgres::replication::{Lsn, ReplicationClient, StartOptions};
use crate::postgres::tables::refusals;

/// Both connections, and the server as it is found.
struct Met {
    side: Side,
    client: ReplicationClient,
    /// Where the server's log ends.
    here: Place,
    database: String,
    noted: Option<Noted>,
}

async fn meet(options: &PgCaptureOptions, name: &str) -> Result<Met, Failed> {
    let mut side = Side::open(&options.endpoint).await?;
    let client = ReplicationClient::connect(&options.endpoint, limits::CAPTURE_CONNECT_TIMEOUT).await;
    let mut client = client.map_err(|error| failure::streamed(&error))?;
    let found = client.identify().await.map_err(|error| failure::streamed(&error))?;
    let sql = "select oid from pg_database where datname = current_database()";
    let asked = side.ask("asking which database it is", async |client| client.query_one(sql, &[]).await?.try_get(0));
    let database: u32 = asked.await?;
    let noted = side.ask("making the schema watershed", async |client| install::noted(client).await).await?;
    if let Some(noted) = noted.as_ref().filter(|noted| noted.log != options.log.to_string()) {
        return Err(failure::other_log(&noted.log, options.log));
    }
    let here =
        Place { system: found.system, timeline: found.timeline, database, slot: name.to_string(), lsn: found.flushed };
    Ok(Met { side, client, here, database: found.database, noted })
}

/// The first connection of a run.
pub(super) async fn open(
    options: &PgCaptureOptions,
    name: &str,
    resume: Option<Place>,
    look: &mut Look,
) -> Result<(Place, Link), Failed> {
    let mut side = Side::open(&options.endpoint).await?;
    let refused = side.ask("looking at the server", async |client| refusals(client).await).await?;
    if !refused.is_empty() {
        return Err(failure::not_ready(&refused));
    }
    drop(side);
    let Some(resume) = resume else {
        let met = meet(options, name).await?;
        // The log has lost its place, or was never begun: who follows these tables copies them afresh.
        let announce = met.noted.is_some();
        return begin(options, name, met, None, announce, look).await;
    };
    again(options, name, &resume, false, look).await
}

/// Goes on at a place; with `afresh` at a new one.
pub(super) async fn again(
    options: &PgCaptureOptions,
    name: &str,
    place: &Place,
    afresh: bool,
    look: &mut Look,
) -> Result<(Place, Link), Failed> {
    let mut met = meet(options, name).await?;
    let deadline = Instant::now() + limits::CAPTURE_SLOT_FREE_MAX;
    let slot = loop {
        let slot = met.side.ask("looking at the slot", async |client| continuity::slot(client, name).await).await?;
        match slot.as_ref().and_then(continuity::used_by) {
            // The server takes a moment to notice that the last reader has gone.
            Some(_) if Instant::now() < deadline => tokio::time::sleep(limits::CAPTURE_STREAM_WAIT).await,
            Some(user) => return Err(failure::in_use(name, &format!("{user} reads from it"))),
            None => break slot,
        }
    };
    let found = Found { here: met.here.clone(), database: &met.database, slot, noted: met.noted.clone() };
    match continuity::check(place, &found)? {
        Verdict::From(lsn) if !afresh => {
            witness::check(&mut met.side, &options.spool_dir).await?;
            witness::renew(&mut met.side, &options.spool_dir).await?;
            look.reconcile(options, name, &mut met.side, true).await?;
            start(options, name, met, lsn).await
        }
        _ => begin(options, name, met, Some(place.lsn), true, look).await,
    }
}

/// Makes a new slot.
async fn begin(
    options: &PgCaptureOptions,
    name: &str,
    mut met: Met,
    replaces: Option<Lsn>,
    announce: bool,
    look: &mut Look,
) -> Result<(Place, Link), Failed> {
    let (log, replaces) = (options.log, replaces.map(|lsn| lsn.to_string()));
    let doing = "noting that a slot is made";
    met.side.ask(doing, async |client| install::note_beginning(client, log, replaces.as_deref()).await).await?;
    met.client.drop_slot(name, false).await.map_err(|error| failure::streamed(&error))?;
    // What is published now is published from the slot's first transaction on.
    look.reconcile(options, name, &mut met.side, false).await?;
    let created = tokio::time::timeout(limits::CAPTURE_SLOT_TIMEOUT, met.client.create_slot(name)).await;
    let created = match created {
        Ok(created) => created.map_err(|error| failure::streamed(&error))?,
        Err(_) => return Err(slot_waits(&mut met.side, name).await),
    };
    let lsn = created.consistent;
    let text = lsn.to_string();
    let doing = "noting where the slot began";
    met.side.ask(doing, async |client| install::note_begun(client, name, &text, announce).await).await?;
    if !witness::renew(&mut met.side, &options.spool_dir).await? {
        // What the folder has may be of another slot: with that alone the server would not be known again.
        return Err(failure::witness(std::io::Error::other("it cannot be written")));
    }
    start(options, name, met, lsn).await
}

/// A slot cannot be made while a transaction runs that began before.
async fn slot_waits(side: &mut Side, name: &str) -> Failed {
    let sql = "select coalesce(string_agg(format('process %s (%s, since %s)', pid, state, xact_start), ', ' order by xact_start), \
               'prepared or of other databases') from pg_stat_activity where backend_xid is not null and pid <> pg_backend_pid()";
    let asked = side.ask("looking who holds the slot up", async |client| client.query_one(sql, &[]).await?.try_get(0));
    let who: Result<String, Failed> = asked.await;
    who.map_or_else(|error| error, |who| failure::slot_waits(name, &who))
}

async fn start(options: &PgCaptureOptions, name: &str, met: Met, lsn: Lsn) -> Result<(Place, Link), Failed> {
    let Met { side, client, here, .. } = met;
    let publications = format!("{name},{}", install::inserts_name(name));
    // What did not change of a row can be read only once its transaction has committed.
    let streaming = options.needed.is_none();
    let wanted = StartOptions { streaming, messages: true, ..StartOptions::default() };
    let slot = name.to_string();
    // The server hears that we are alive though the thread that reads may be busy.
    let starting = options.runtime.spawn(async move { client.start(&slot, lsn, &publications, wanted).await });
    let limit: Duration = limits::CAPTURE_ASK_TIMEOUT;
    let started =
        tokio::time::timeout(limit, starting).await.map_err(|_| failure::in_use(name, "it does not start"))?;
    let stream = started.map_err(failure::not_begun)?.map_err(|error| failure::streamed(&error))?;
    stream.acknowledge(lsn);
    let gather = Gather::new(options.node.clone(), name.to_string(), options.spool_dir.clone(), lsn);
    Ok((here.at(lsn), Link { side, stream, gather, next: None }))
}
