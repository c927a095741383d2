//! `[copy.NAME]`: another database that follows the node's log in the same process. Its tables come from the node's own
//! database, chunk by chunk, and follow the log from then on.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::copies::begin_again;
use super::database::{Applying, Command, Database, Finished, Guard, Replaced, Whose};
use super::running::{handle, join_log};
use super::serving::{doing, settled, wait_applied};
use super::settings::{CopySettings, Exit, NodeError, Settings};
use super::shared::Shared;
use super::store::Store;
use crate::model::{Batch, Cursor, Fingerprint, LinkId, Logged, Op, Row, TableDef, TableName, limits, scan_ops};
use crate::stream::{Destination, Sieve, Sieved};
use crate::view::{CopyChunk, CopyScope, Lane, LaneState, LaneView, RowGuard, TableReader, View, ViewError};

/// Between attempts to open the database, and between looks for tables to copy when nothing was said.
const PAUSE: Duration = Duration::from_secs(1);
/// Progress of a long copy is logged this often.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// A copy that is about to be followed.
pub(super) struct Standby {
    settings: CopySettings,
    database: Arc<Database>,
    commands: mpsc::Receiver<Command>,
}

/// What is shown of each copy, and what runs it.
pub(super) fn handles(settings: &Settings) -> (BTreeMap<String, Arc<Database>>, Vec<Standby>) {
    let (mut shown, mut standbys) = (BTreeMap::new(), Vec::new());
    for copy in &settings.copies {
        let (commands, receiver) = mpsc::channel(limits::DATABASE_COMMANDS_MAX);
        let database = Arc::new(handle(&copy.database.store, commands, format!("{}/", copy.name)));
        shown.insert(copy.name.clone(), database.clone());
        standbys.push(Standby { settings: copy.clone(), database, commands: receiver });
    }
    (shown, standbys)
}

impl Standby {
    /// Runs until the node stops. A database that is not there holds up nobody else: it is tried again.
    pub(super) async fn run(self, shared: Arc<Shared>) {
        let Standby { settings, database, commands } = self;
        let mut told = None;
        let view = loop {
            let error = match open(&settings, &shared).await {
                Ok(view) => break view,
                Err(error) => error.to_string(),
            };
            if told.as_ref() != Some(&error) {
                tracing::error!("copy {}: {error}; it is tried again", settings.name);
            }
            database.state.send_modify(|state| state.error = Some(error.clone()));
            told = Some(error);
            tokio::select! {
                _ = shared.stop.cancelled() => return,
                _ = tokio::time::sleep(PAUSE) => {}
            }
        };
        let replaced = Replaced::default();
        let view = Box::new(Announced::new(view, &settings, &shared, replaced.clone()));
        let applying = Applying::new(shared.clone(), database.clone(), Whose::Copys, view, commands, replaced);
        shared.tasks.spawn(applying.run());
        let copying = Copying { settings, database, shared: shared.clone() };
        tokio::select! {
            _ = shared.stop.cancelled() => {}
            () = copying.run() => {}
        }
    }
}

async fn open(settings: &CopySettings, shared: &Shared) -> Result<Box<dyn LaneView>, NodeError> {
    let (database, log, dir) = (&settings.database, shared.log.id(), shared.data_dir.clone());
    if let Some(own) = &shared.database {
        refuse_own(&settings.name, &own.store, &database.store).await?;
    }
    let mut view = database.store.applier(database, log, dir, Some(&settings.name)).await?;
    if let Ok(Some(cursor)) = view.cursor().await
        && let Err(error) = shared.log.check(cursor)
    {
        let (name, found) = (&settings.name, cursor.log);
        return Err(NodeError::new(
            "WS-NODE-028",
            Exit::Operator,
            match found == log {
                true => format!("the copy {name} is ahead of this node's log: it has applied {cursor}; {error}"),
                false => format!("the copy {name} follows the log {found}, and this node's is {log}"),
            },
            "the data folder was restored or begun anew, or the database is another node's",
            format!(
                "put the data folder back, or correct [copy.{name}] url; or, with the node stopped, run `watershed source drop \
                 {name}/ --yes`: what the copy noted of the log goes, its rows stay, and the next start copies all tables afresh"
            ),
        ));
    }
    join_log(&mut *view, &shared.log).await?;
    Ok(view)
}

/// A copy is another database than the node's own, however either is named: what is applied to it would be captured again, and
/// older values would be written over newer ones.
///
/// # Errors
/// It is the node's own, or one of them cannot be reached.
pub(super) async fn refuse_own(name: &str, own: &Store, copy: &Store) -> Result<(), NodeError> {
    let unreached = |why: String| {
        let fix = "see that both can be reached; it is tried again";
        NodeError::new(
            "WS-NODE-033",
            Exit::Unreachable,
            why,
            "it is not known whether it is the node's own database",
            fix,
        )
    };
    let (before, copy) = (own.identity().await.map_err(unreached)?, copy.identity().await.map_err(unreached)?);
    if before != own.identity().await.map_err(unreached)? {
        return Err(unreached("the node's own database was started again or replaced meanwhile".to_owned()));
    }
    if before.is_none() || before != copy {
        return Ok(());
    }
    let what = format!("[copy.{name}] is the node's own database under another name");
    let why = "what is applied to it would be captured again, and older values would be written over newer ones";
    Err(NodeError::new("WS-NODE-032", Exit::Configuration, what, why, "name another database"))
}

/// Copies tables that do not follow yet.
struct Copying {
    settings: CopySettings,
    database: Arc<Database>,
    shared: Arc<Shared>,
}

impl Copying {
    async fn run(self) {
        let mut tables = self.shared.tables.subscribe();
        let mut state = self.database.state.subscribe();
        let mut told: HashMap<TableName, (Instant, String)> = HashMap::new();
        self.shared.tasks.spawn(super::copies::build_leftover(self.shared.clone(), self.database.clone()));
        loop {
            // A table that cannot be copied now holds up no other.
            let waits = |table: &TableName| told.get(table).is_some_and(|(since, _)| since.elapsed() < PAUSE);
            if let Some((table, begun)) = self.wanted(waits) {
                let Err(why) = self.copy(&table, begun).await else { continue };
                let (name, table) = (&self.settings.name, table.name.clone());
                let before = told.insert(table.clone(), (Instant::now(), why.clone()));
                if before.is_none_or(|(_, before)| before != why) {
                    tracing::warn!("copy {name}: the copy of {table} waits: {why}; it goes on by itself");
                }
                continue;
            }
            tokio::select! {
                changed = tables.changed() => if changed.is_err() { return },
                changed = state.changed() => if changed.is_err() { return },
                _ = tokio::time::sleep(PAUSE) => {}
            }
        }
    }

    fn own(&self) -> LinkId {
        LinkId(self.shared.log.id())
    }

    /// The next table to copy, and after which key the copy goes on if it has begun.
    fn wanted(&self, waits: impl Fn(&TableName) -> bool) -> Option<(Arc<TableDef>, Option<Option<Row>>)> {
        let tables = self.shared.tables.borrow().clone();
        let state = self.database.state.borrow();
        state.applied?;
        let follows = state.follows.get(&self.own()).map(Vec::as_slice).unwrap_or_default();
        tables.into_iter().filter(|table| self.settings.tables.matches(&table.name)).find_map(|table| {
            if follows.iter().any(|(name, _)| *name == table.name) || waits(&table.name) {
                return None;
            }
            match state.lanes.iter().find(|lane| lane.table == table.name).map(|lane| &lane.state) {
                None | Some(LaneState::Parked { before: None, .. }) => Some((table, None)),
                Some(LaneState::Copying { done, .. }) => Some((table, Some(done.clone()))),
                Some(_) => None,
            }
        })
    }

    fn progress(&self, table: &TableName, rows: u64, left: u64, started: Instant) {
        let rate = rows as f64 / started.elapsed().as_secs_f64();
        let seconds = left as f64 / rate.max(1.0);
        tracing::info!(
            "copy {}: {table}: {rows} rows, {rate:.0} rows/s, about {seconds:.0} s left",
            self.settings.name
        );
    }

    /// A chunk could not be written: where that is the table's trouble, it is parked. Gives the words.
    async fn failed(&self, table: &TableName, error: ViewError) -> String {
        let lane = self.database.lane(table).filter(|_| matches!(error, ViewError::Table { .. }));
        if let Some(lane) = lane {
            let parked = lane.clone().parked(lane.after.next(), format!("its copy cannot be written: {error}"));
            if let Err(error) = self.database.ask(|reply| Command::SetLane(table.clone(), Some(parked), reply)).await {
                tracing::warn!("copy {}: {error}", self.settings.name);
            }
        }
        error.to_string()
    }

    /// Copies one table; the error is words for people.
    async fn copy(&self, table: &Arc<TableDef>, begun: Option<Option<Row>>) -> Result<(), String> {
        let (shared, name) = (&self.shared, &table.name);
        let own = shared.database.as_ref().ok_or("the node has no database")?;
        if let Some(lane) = own.lane(name) {
            return Err(format!("the table is not whole in the node's database: it {}", doing(&lane.state)));
        }
        let words = |error: ViewError| error.to_string();
        if begun.is_none() {
            self.database
                .ask(|reply| Command::BeginCopy(name.clone(), self.own(), CopyScope::All, reply))
                .await
                .map_err(words)?;
            tracing::info!("copy {}: copying {name} from {}", self.settings.name, own.url);
        }
        let lane = self.database.lane(name).ok_or("its lane is gone")?;
        // A chunk is never older than what has been applied here.
        wait_applied(shared, lane.after).await?;
        let announcements = self.database.ask(|reply| Command::Announcements(self.own(), name.clone(), reply)).await;
        let announcements = announcements.map_err(words)?;
        let mut reader = own.store.reader(&shared.data_dir).await?;
        let (started, mut told, mut rows) = (Instant::now(), Instant::now(), 0_u64);
        // What has come of a table without a key is of another snapshot.
        let begun = begun.flatten().filter(|_| !table.key_columns().is_empty());
        if begun.is_none() {
            begin_again(&self.database, name, self.own()).await;
        }
        let mut chunk = read(&mut *reader, name, begun).await?;
        let cut = loop {
            let (count, after, left) = (chunk.chunk.count() as u64, chunk.chunk.upto.clone(), chunk.left);
            let cut = (chunk.cut.clone(), chunk.cursor);
            let guard: Guard = Box::new(|_, _| false);
            let write =
                self.database.ask(|reply| Command::CopyChunk(Box::new(chunk.chunk), CopyScope::All, guard, reply));
            // The next one is read while this one is written.
            let next = async {
                match after.clone() {
                    Some(after) => read(&mut *reader, name, Some(after)).await.map(Some),
                    None => Ok(None),
                }
            };
            let (written, next) = tokio::join!(write, next);
            if let Err(error) = written {
                return Err(self.failed(name, error).await);
            }
            rows += count;
            if told.elapsed() > PROGRESS_INTERVAL {
                told = Instant::now();
                self.progress(name, rows, left, started);
            }
            match next? {
                Some(next) => chunk = next,
                None => break cut,
            }
        };
        tracing::info!("copy {}: copied {rows} rows of {name} in {:.1?}", self.settings.name, started.elapsed());
        super::copies::build_indexes(shared, &self.database, name).await;
        let settled = Some(settled(shared).await?);
        let under = table.fingerprint;
        let cut = match cut {
            (Some(cut), cursor) => Some(super::cuts::check(shared, name, cursor, &cut, None).await?),
            (None, _) => None,
        };
        if let Some(cut) = cut {
            super::copies::wait_main(shared, &self.database, cut).await?;
        }
        let finished = Finished { table: name.clone(), from: self.own(), under, settled, announcements, cut };
        self.database.ask(|reply| Command::FinishCopy(Box::new(finished), reply)).await.map_err(words)
    }
}

/// A chunk on its way.
struct Read {
    /// Rows behind it, estimated.
    left: u64,
    cursor: Option<Cursor>,
    cut: Option<Box<str>>,
    chunk: CopyChunk,
}

async fn read(reader: &mut dyn TableReader, table: &TableName, after: Option<Row>) -> Result<Read, String> {
    let bytes = limits::COPY_CHUNK_BYTES_MAX;
    let rows = if after.is_some() { limits::COPY_CHUNK_ROWS_MAX } else { limits::COPY_CHUNK_ROWS };
    let chunk = reader.read_lines(table, after.as_ref(), rows, bytes).await?;
    let (left, cursor, cut) = (chunk.left_estimate, chunk.cursor, chunk.cut);
    let chunk = CopyChunk { table: chunk.def, after, upto: chunk.upto, rows: chunk.rows, lines: chunk.lines };
    Ok(Read { left, cursor, cut, chunk })
}

/// A view that forgets that it follows a table when the log says that the table's content was replaced, before its cursor
/// passes over that; and tells whom it is part of.
struct Announced {
    view: Box<dyn LaneView>,
    own: LinkId,
    replaced: Replaced,
    /// Lets through what the copy is to have.
    sieve: Sieve,
}

impl Announced {
    fn new(view: Box<dyn LaneView>, settings: &CopySettings, shared: &Shared, replaced: Replaced) -> Announced {
        let own = LinkId(shared.log.id());
        let to = Destination { node: settings.name.as_str().into(), link: own };
        Announced { view, own, replaced, sieve: Sieve::new(to, settings.tables.clone(), Vec::new()) }
    }

    /// What the copy is to have (law 7). What was written at the node's own database came from elsewhere here, and is applied.
    fn foreign(&self, batch: &Batch) -> Result<Batch, ViewError> {
        let mut entries = Vec::with_capacity(batch.entries.len());
        for logged in &batch.entries {
            let from = if logged.from.is_local() { self.own } else { logged.from };
            let sieved = self.sieve.entry(&logged.entry, &batch.catalog);
            match sieved.map_err(|error| ViewError::Failed(format!("the entry at {}: {error}", logged.position)))? {
                Sieved::Nothing => {}
                Sieved::Whole => entries.push(Logged { from, ..logged.clone() }),
                Sieved::Narrowed(entry, _) => entries.push(Logged { from, entry: *entry, ..logged.clone() }),
            }
        }
        Ok(Batch { entries, ..batch.clone() })
    }

    async fn look(&mut self, batch: &Batch) -> Result<(), ViewError> {
        let at = self.view.cursor().await?.map(|cursor| cursor.position).unwrap_or_default();
        for logged in batch.entries.iter().filter(|logged| logged.position > at) {
            let ops = scan_ops(logged.entry.changes_bytes()).map_err(|error| ViewError::Failed(error.to_string()))?;
            for (index, _) in ops.into_iter().filter(|(_, op)| *op == Op::Copied) {
                let table = logged.entry.header().tables.get(index).and_then(|table| batch.catalog.get(*table));
                let Some(table) = table else { continue };
                self.view.set_followed(self.own, &table.name, None).await?;
                let lane = self.view.lanes().into_iter().find(|lane| lane.table == table.name);
                if let Some(Lane { after, state: LaneState::Copying { from, received, .. }, .. }) = lane {
                    let state = LaneState::Copying { from, done: None, rows: 0, received };
                    self.view.set_lane(&table.name, Some(Lane { table: table.name.clone(), after, state })).await?;
                }
                self.replaced.lock().unwrap_or_else(PoisonError::into_inner).push(table.name.clone());
            }
        }
        Ok(())
    }
}

#[async_trait]
impl View for Announced {
    async fn cursor(&mut self) -> Result<Option<Cursor>, ViewError> {
        self.view.cursor().await
    }

    async fn apply(&mut self, batch: &Batch) -> Result<(), ViewError> {
        self.look(batch).await?;
        let batch = self.foreign(batch)?;
        self.view.apply(&batch).await
    }

    async fn flush(&mut self) -> Result<(), ViewError> {
        self.view.flush().await
    }

    async fn caught_up(&mut self) -> Result<(), ViewError> {
        self.view.caught_up().await
    }
}

#[async_trait]
impl LaneView for Announced {
    fn lanes(&self) -> Vec<Lane> {
        self.view.lanes()
    }

    async fn set_lane(&mut self, table: &TableName, lane: Option<Lane>) -> Result<(), ViewError> {
        self.view.set_lane(table, lane).await
    }

    async fn apply_lane(&mut self, table: &TableName, batch: &Batch) -> Result<(), ViewError> {
        let batch = self.foreign(batch)?;
        self.view.apply_lane(table, &batch).await
    }

    async fn copy_chunk(&mut self, chunk: &CopyChunk, scope: &CopyScope, mine: RowGuard<'_>) -> Result<(), ViewError> {
        self.view.copy_chunk(chunk, scope, mine).await
    }

    async fn followed(&mut self, from: LinkId) -> Result<Vec<(TableName, Fingerprint)>, ViewError> {
        self.view.followed(from).await
    }

    async fn set_followed(
        &mut self,
        from: LinkId,
        table: &TableName,
        under: Option<Fingerprint>,
    ) -> Result<(), ViewError> {
        self.view.set_followed(from, table, under).await
    }

    fn torn(&self) -> u64 {
        self.view.torn()
    }

    async fn reset(&mut self, cursor: Option<Cursor>, lanes: Vec<Lane>) -> Result<(), ViewError> {
        self.view.reset(cursor, lanes).await
    }
}
