//! The look at the database every second: tables that came and went, what the slot keeps, tables to be announced.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_postgres::Client;

use super::failure::{self, Failed};
use super::gather::Need;
use super::install::{self, Reconciled};
use super::partitions::{self, Occasion};
use super::relations::{Known, Versions, define, name_of};
use super::side::Side;
use super::{Link, PgCaptureOptions, Tables, continuity, shapes};
use crate::model::{TableDef, TableName, limits};
use crate::postgres::replication::pgoutput::Relation;
use crate::postgres::replication::{Lsn, ReplicationClient};
use crate::postgres::tables::tables;

/// Changes whenever a table, an index, a column that is published, a publication or its members do. Vacuum and analyze update in
/// place; temporary tables are nobody's business.
const FINGERPRINT: &str = "select concat_ws('/', \
    (select concat(count(*), '.', sum(hashint8(oid::int8 * 4294967296 + xmin::text::int8))) from pg_class \
        where relkind in ('r', 'p', 'i', 'I') and oid >= 16384 and relpersistence <> 't'), \
    (select concat(count(*), '.', sum(hashint8(attrelid::int8 * 4294967296 + xmin::text::int8))) from pg_attribute \
        where attnum > 0 and attrelid in (select r.prrelid from pg_publication_rel r \
            join pg_publication p on p.oid = r.prpubid where p.pubname like 'watershed\\_%')), \
    (select concat(count(*), '.', sum(hashint8(oid::int8 * 4294967296 + xmin::text::int8))) from pg_publication), \
    (select concat(count(*), '.', sum(hashint8(oid::int8 * 4294967296 + xmin::text::int8))) from pg_publication_rel), \
    (select concat(count(*), '.', sum(hashint8(oid::int8 * 4294967296 + xmin::text::int8))) from pg_namespace))";

/// Truncations that are remembered: with older ones a partitioned table is announced once too often.
const TRUNCATED_MAX: usize = 1_000;

/// After a longer time a partition may have been truncated and counted since.
const RECENT: Duration = Duration::from_secs(5);

/// Tables whose partitions are to be looked at once the stream has come so far.
struct Leaves {
    lsn: Lsn,
    tables: Tables,
    /// The look before was a moment ago.
    is_running: bool,
}

/// What is known of the database beside the stream.
#[derive(Default)]
pub(super) struct Look {
    versions: Versions,
    tables: Tables,
    captured: BTreeSet<TableName>,
    /// Wanted tables that cannot be captured: said once.
    refused: BTreeSet<TableName>,
    fingerprint: String,
    looked: Option<Instant>,
    /// Tables whose truncation came last, and the transactions that did it.
    truncated: VecDeque<(TableName, u32)>,
    leaves: Option<Leaves>,
    /// Tables to be announced as replaced.
    pub rescans: Vec<TableName>,
    /// Captured tables that are gone.
    pub dropped: Vec<TableName>,
}

impl Look {
    /// Brings the publications in line with the tables, whatever was known.
    pub async fn reconcile(
        &mut self,
        options: &PgCaptureOptions,
        name: &str,
        side: &mut Side,
        has_begun: bool,
    ) -> Result<(), Failed> {
        let found =
            side.ask("reading the catalog", async |client| client.query_one(FINGERPRINT, &[]).await?.try_get(0));
        let found: String = found.await?;
        let captures = &options.captured;
        let doing = "publishing its tables";
        let reconciled =
            side.ask(doing, async |client| install::reconcile(client, name, captures, has_begun).await).await?;
        let captured = reconciled.tables.iter().filter(|table| reconciled.captured.contains(&table.def.name));
        let captured: Tables = captured.cloned().collect();
        let doing = "looking at what became of its tables";
        let are_all = !reconciled.is_unfinished;
        let following = async |client: &mut Client| shapes::follow(client, &captured, has_begun, are_all).await;
        let is_unfinished = side.ask(doing, following).await?;
        let is_running = self.looked.is_some_and(|looked| looked.elapsed() < RECENT);
        self.note(reconciled, found);
        match has_begun && captured.iter().any(|table| table.is_partitioned) {
            // What the stream tells is no surprise; so it has to be read up to here first.
            true => self.leaves = Some(Leaves { lsn: side.log_end().await?, tables: captured, is_running }),
            false => {
                self.leaves = None;
                self.follow_leaves(side, &captured, has_begun, is_running).await?;
            }
        }
        if is_unfinished {
            self.fingerprint.clear();
        }
        Ok(())
    }

    async fn follow_leaves(
        &mut self,
        side: &mut Side,
        tables: &Tables,
        has_begun: bool,
        is_running: bool,
    ) -> Result<(), Failed> {
        let truncated = &self.truncated;
        let occasion = Occasion { has_begun, is_running, truncated };
        let doing = "looking at partitions";
        if !side.ask(doing, async |client| partitions::follow(client, tables, occasion).await).await? {
            // Somebody has locked one: the next look sees.
            self.fingerprint.clear();
        }
        Ok(())
    }

    fn note(&mut self, reconciled: Reconciled, fingerprint: String) {
        let Reconciled { tables, captured, refused, is_unfinished } = reconciled;
        self.versions.note(&tables);
        self.tables = tables;
        let captured: BTreeSet<TableName> = captured.into_iter().collect();
        if !is_unfinished {
            self.dropped.extend(self.captured.difference(&captured).cloned());
            self.captured = captured;
            // Our own changes to the publications are in the next one: it is compared once more.
            self.fingerprint = fingerprint;
        }
        for (table, why) in refused {
            if self.refused.insert(table) {
                tracing::error!("{why}");
            }
        }
    }

    /// Looks, when it is time. Gives back why the slot has to be dropped.
    pub async fn see(
        &mut self,
        options: &PgCaptureOptions,
        name: &str,
        link: &mut Link,
        is_stuck: bool,
    ) -> Result<Option<String>, Failed> {
        if !self.rescans.is_empty() {
            let tables: Vec<&TableName> = self.rescans.iter().filter(|table| self.captured.contains(*table)).collect();
            let doing = "announcing tables";
            link.side.ask(doing, async |client| install::announce_copied(client, &tables).await).await?;
            self.rescans.clear();
        }
        self.truncated.extend(link.gather.truncated.drain(..));
        let surplus = self.truncated.len().saturating_sub(TRUNCATED_MAX);
        self.truncated.drain(..surplus);
        let has_come = |leaves: &mut Leaves| link.next.is_none() && link.stream.sent_upto() >= leaves.lsn;
        if let Some(Leaves { tables, is_running, .. }) = self.leaves.take_if(has_come) {
            self.follow_leaves(&mut link.side, &tables, true, is_running).await?;
        }
        if self.looked.is_some_and(|looked| looked.elapsed() < limits::CAPTURE_LOOK_INTERVAL) {
            return Ok(None);
        }
        let asked =
            link.side.ask("reading the catalog", async |client| client.query_one(FINGERPRINT, &[]).await?.try_get(0));
        let fingerprint: String = asked.await?;
        if fingerprint != self.fingerprint {
            self.reconcile(options, name, &mut link.side, true).await?;
        }
        self.looked = Some(Instant::now());
        let Some(max) = options.slot_retain_max.filter(|_| is_stuck) else { return Ok(None) };
        let slot = link.side.ask("looking at the slot", async |client| continuity::slot(client, name).await).await?;
        let retained = slot.map_or(0, |slot| slot.retained);
        Ok((retained > max).then(|| {
            format!("because the node's log could not be written and the server had to keep {retained} bytes for it, more than \
                     slot_retain_max ({max})")
        }))
    }

    /// Asks what the stream needs to go on.
    pub async fn answer(&mut self, need: Need, options: &PgCaptureOptions, link: &mut Link) -> Result<(), Failed> {
        match need {
            Need::Nothing => Ok(()),
            Need::Definition(relation) => {
                let known = self.define(&relation, options, link).await?;
                link.gather.define(relation.id, known);
                Ok(())
            }
            Need::Values(moved) => {
                let filled = link.side.fill(&moved).await?;
                link.gather.moved(&moved.known, &filled)
            }
            Need::Definitions(op, names) => {
                let is_known = |name: &&TableName| self.tables.iter().any(|table| table.def.name == **name);
                if !names.iter().all(|name| is_known(&name)) {
                    self.refresh(&mut link.side).await?;
                }
                let defs = self.tables.iter().filter(|table| names.contains(&table.def.name));
                let defs: Vec<Arc<TableDef>> = defs.map(|table| Arc::clone(&table.def)).collect();
                link.gather.said(op, &defs)
            }
        }
    }

    async fn define(
        &mut self,
        relation: &Relation,
        options: &PgCaptureOptions,
        link: &mut Link,
    ) -> Result<Known, Failed> {
        let key: Arc<[bool]> = relation.columns.iter().map(|column| column.key).collect();
        let is_mark = (&*relation.schema, &*relation.name) == ("watershed", "cursor");
        let name = name_of(relation).filter(|name| !is_mark && (options.captured)(name));
        let Some(name) = name else {
            let nameless = "unselected".parse().map_err(failure::stream)?;
            let (def, needed) = (Arc::new(TableDef::new(nameless, vec![])), None);
            return Ok(Known { def, key, needed, is_wanted: false, is_mark });
        };
        if self.versions.find(relation, &name).is_none() {
            self.refresh(&mut link.side).await?;
        }
        let def = match self.versions.find(relation, &name) {
            Some(table) => Arc::clone(&table.def),
            None => {
                let newest = self.versions.newest(relation.id);
                let types = &link.gather.types;
                let doing = "asking for the names of types";
                let defined =
                    link.side.ask(doing, async |client| define(client, relation, name, newest, types).await).await?;
                Arc::new(defined)
            }
        };
        let needed = options.needed.as_ref().and_then(|needed| needed(&def)).map(Into::into);
        Ok(Known { def, key, needed, is_wanted: true, is_mark })
    }

    async fn refresh(&mut self, side: &mut Side) -> Result<(), Failed> {
        let found = side.ask("reading the catalog", async |client| tables(client).await).await?;
        self.tables = found.tables.into_iter().map(Arc::new).collect();
        self.versions.note(&self.tables);
        Ok(())
    }
}

/// Drops the slot, and notes why first, so that a later run begins afresh by itself.
pub(super) async fn drop_slot(options: &PgCaptureOptions, name: &str, why: &str) -> Result<(), Failed> {
    let mut side = Side::open(&options.endpoint).await?;
    side.ask("noting why the slot is dropped", async |client| install::note_dropped(client, why).await).await?;
    let client = ReplicationClient::connect(&options.endpoint, limits::CAPTURE_CONNECT_TIMEOUT).await;
    let mut client = client.map_err(|error| failure::streamed(&error))?;
    let dropping = tokio::time::timeout(limits::CAPTURE_ASK_TIMEOUT, client.drop_slot(name, true)).await;
    match dropping {
        Ok(dropped) => dropped.map(drop).map_err(|error| failure::streamed(&error)),
        Err(_) => Err(failure::in_use(name, "its last reader has not let go of it")),
    }
}
