//! Whether the server's slot goes on where the node's log has read to: never recreated, advanced, restored or failed over.

use tokio_postgres::{Client, Error};

use super::failure::{self, Failed};
use super::install::Noted;
use super::place::Place;
use crate::postgres::replication::Lsn;

/// What an operator does who goes on with the database as it is.
pub(super) const RECOPY: &str = "to go on with the database as it is now, stop the node, run `watershed source drop database --yes` and start \
                      it again: its tables are then copied afresh by whoever follows them";

/// A replication slot as the server shows it.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    database: String,
    plugin: String,
    /// What has been acknowledged.
    pub confirmed: Lsn,
    /// The server's log that it keeps, in bytes.
    pub retained: u64,
    status: String,
    active_pid: Option<i32>,
}

/// Reads a slot; `None` if there is none of that name.
pub(super) async fn slot(client: &Client, name: &str) -> Result<Option<Slot>, Error> {
    let sql = "select coalesce(database::text, ''), coalesce(plugin::text, ''), \
               coalesce(confirmed_flush_lsn, '0/0')::text, coalesce(wal_status, ''), active_pid, \
               greatest(coalesce(pg_current_wal_lsn() - restart_lsn, 0), 0)::int8 \
               from pg_replication_slots where slot_name = $1";
    let row = client.query_opt(sql, &[&name]).await?;
    row.map(|row| {
        Ok(Slot {
            database: row.try_get(0)?,
            plugin: row.try_get(1)?,
            confirmed: row.try_get::<_, &str>(2)?.parse().unwrap_or_default(),
            status: row.try_get(3)?,
            active_pid: row.try_get(4)?,
            retained: row.try_get::<_, i64>(5)?.unsigned_abs(),
        })
    })
    .transpose()
}

/// What to do with a slot.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Read on from there.
    From(Lsn),
    /// It was dropped by us, or making it was not completed: make another, and announce all tables as replaced.
    Afresh,
}

/// The server as it is found.
#[derive(Debug)]
pub(super) struct Found<'a> {
    /// Where the server's log ends.
    pub here: Place,
    pub database: &'a str,
    pub slot: Option<Slot>,
    pub noted: Option<Noted>,
}

/// Whether reading can go on at `place`, up to which the node's log has everything.
pub(super) fn check(place: &Place, found: &Found<'_>) -> Result<Verdict, Failed> {
    let Found { here, database, slot, noted } = found;
    if place.system != here.system {
        return Err(failure::operator(
            "WS-PGCAPTURE-030",
            format!(
                "this is another server than the one that the node's log has read: {} there, {} here",
                place.system, here.system
            ),
            "the cluster's system identifier differs: it was made anew, or [database] url leads elsewhere",
            format!("correct [database] url; or, {RECOPY}"),
        ));
    }
    if place.database != here.database {
        return Err(failure::operator(
            "WS-PGCAPTURE-031",
            format!("the database {database} is another than the one that the node's log has read"),
            format!(
                "its oid was {}, and is {}: it was dropped and made again, or [database] url names another",
                place.database, here.database
            ),
            format!("correct [database] url; or, {RECOPY}"),
        ));
    }
    if place.timeline != here.timeline {
        return Err(failure::operator(
            "WS-PGCAPTURE-032",
            format!(
                "the server is on timeline {}, and the node's log has read timeline {}",
                here.timeline, place.timeline
            ),
            "a standby was promoted, or the server was restored to a point in time: what the node has logged last may not be in \
             it, and what it has since may be missing in the log",
            format!("name the server that was there; or, {RECOPY}"),
        ));
    }
    if place.lsn > here.lsn {
        return Err(failure::operator(
            "WS-PGCAPTURE-033",
            format!("the node's log has read the server's log up to {}, and it ends at {}", place.lsn, here.lsn),
            "the server was restored from an older copy of its files, or lost what it had not flushed (fsync = off)",
            format!("put back the server that was there; or, {RECOPY}"),
        ));
    }
    let noted = noted.clone().unwrap_or_default();
    let Some(slot) = slot else { return no_slot(place, &noted) };
    judge_slot(place, slot, &noted, database)
}

fn no_slot(place: &Place, noted: &Noted) -> Result<Verdict, Failed> {
    if let Some(why) = &noted.dropped {
        tracing::warn!("the replication slot {} was dropped by this node, {why}: a new one is made", place.slot);
        return Ok(Verdict::Afresh);
    }
    Err(failure::operator(
        "WS-PGCAPTURE-034",
        format!("the replication slot {} is gone", place.slot),
        "somebody dropped it, or the server was restored or failed over without its slots: what was committed since is not \
         known",
        RECOPY,
    ))
}

fn judge_slot(place: &Place, slot: &Slot, noted: &Noted, database: &str) -> Result<Verdict, Failed> {
    let name = &place.slot;
    if slot.plugin != "pgoutput" || slot.database != *database {
        return Err(failure::operator(
            "WS-PGCAPTURE-035",
            format!(
                "the replication slot {name} is of the database {:?} and the plugin {:?}",
                slot.database, slot.plugin
            ),
            format!(
                "somebody made another one under its name: database {database:?} and plugin \"pgoutput\" are expected"
            ),
            format!("drop it: SELECT pg_drop_replication_slot('{name}'); and, {RECOPY}"),
        ));
    }
    if slot.status == "lost" {
        return Err(failure::operator(
            "WS-PGCAPTURE-036",
            format!("the replication slot {name} is invalidated: what it had to keep is removed"),
            "the node was away, or could not log, for longer than max_slot_wal_keep_size allows",
            format!("raise max_slot_wal_keep_size if the disk can spare it; and, {RECOPY}"),
        ));
    }
    let lsn = |text: &Option<String>| text.as_deref().and_then(|text| text.parse::<Lsn>().ok());
    let Some(began) = lsn(&noted.slot_lsn) else { return Ok(Verdict::Afresh) };
    if slot.confirmed <= place.lsn {
        return Ok(Verdict::From(place.lsn));
    }
    // Made by us for a log that could not be written at the time, or that was killed before it had the new place.
    if slot.confirmed == began && lsn(&noted.replaces).is_some_and(|replaced| replaced == place.lsn) {
        return Ok(Verdict::From(began));
    }
    Err(failure::operator(
        "WS-PGCAPTURE-037",
        format!(
            "the replication slot {name} is ahead: it stands at {}, and the node's log has read up to {}",
            slot.confirmed, place.lsn
        ),
        "somebody made it again or advanced it, or the node's data folder was restored from an older copy: what was committed \
         between is missing in the log",
        format!("put back the data folder that was there; or, {RECOPY}"),
    ))
}

/// Who uses a slot, in words.
pub(super) fn used_by(slot: &Slot) -> Option<String> {
    slot.active_pid.map(|pid| format!("the server's process {pid} (pg_stat_replication shows whose it is)"))
}
