//! Local commits into the log: a thread of its own reads the database, because that blocks.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::shared::Shared;
use crate::log::{Append, AppendError, Capture, CaptureFailure, CaptureTrouble, Captured, Draft, Log, Polled};
use crate::model::{CodecError, Cursor, LinkId, TableDef, TableName, limits};
use crate::stream::OnRefused;

/// Between attempts after an error that may pass.
const RETRY_DELAY: Duration = Duration::from_millis(200);
/// An error that stays is reported this often.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// What others ask of the capturing thread.
#[derive(Debug)]
pub enum CaptureCommand {
    /// Log the table as replaced, so that who follows it copies it afresh.
    Rescan(TableName),
}

/// Runs capture until the node stops.
pub struct Capturing {
    /// The node.
    pub shared: Arc<Shared>,
    /// The database's changes.
    pub capture: Box<dyn Capture>,
    /// Commands.
    pub commands: mpsc::Receiver<CaptureCommand>,
    /// The runtime on which the log appends.
    pub runtime: Handle,
    /// Called when table definitions changed.
    pub tables_changed: Box<dyn Fn() + Send>,
}

impl Capturing {
    /// Starts the thread.
    pub fn start(self) -> std::io::Result<std::thread::JoinHandle<()>> {
        std::thread::Builder::new().name("capture".into()).spawn(move || self.run())
    }

    fn run(mut self) {
        let mut reported: Option<Instant> = None;
        let mut moved = Instant::now();
        while !self.shared.stop.is_cancelled() {
            while let Ok(CaptureCommand::Rescan(table)) = self.commands.try_recv() {
                self.capture.request_rescan(&table);
            }
            if self.shared.capture.borrow().paused {
                std::thread::sleep(RETRY_DELAY);
                continue;
            }
            match self.capture.poll() {
                Ok(Polled::Captured(captured)) => {
                    moved = Instant::now();
                    let current = captured.current;
                    match self.log(captured) {
                        Ok(()) => self.going_on(&mut reported, current),
                        Err(why) => self.waiting(why, &mut reported),
                    }
                }
                Ok(polled) => {
                    // While there is something that the log does not take, waiting for more is no news.
                    if matches!(polled, Polled::Current) {
                        self.going_on(&mut reported, true);
                    }
                    self.capture.wait(moved.elapsed() > limits::CAPTURE_QUIET_AFTER);
                }
                Err(error) if matches!(error.kind, CaptureTrouble::Locked | CaptureTrouble::Retry) => {
                    let todo =
                        "see that the database can be reached and read; nothing is lost, capture goes on by itself";
                    self.waiting(format!("error[WS-CAPTURE-002]: {error} / do: {todo}"), &mut reported);
                }
                Err(error) => return self.stopped(&error),
            }
        }
    }

    fn stopped(&self, error: &CaptureFailure) {
        let replaced = error.kind == CaptureTrouble::Operator;
        let todo = match replaced {
            true => {
                "stop the node; then put back the database that was there, or, to accept it as it is now, run `watershed source drop \
                 database --yes`; and start it again"
            }
            false => "mend the cause and start the node again; what was not captured waits in the database",
        };
        tracing::error!("error[WS-CAPTURE-001]: local changes are not captured any more: {error} / do: {todo}");
        self.shared.capture.send_modify(|state| {
            state.error = Some(format!("{error} / do: {todo}"));
            state.stopped = true;
            state.replaced = replaced;
        });
    }

    /// Changes stay in the database for now: says so, and waits a little.
    fn waiting(&self, why: String, reported: &mut Option<Instant>) {
        if reported.is_none_or(|at| at.elapsed() > REPORT_INTERVAL) {
            tracing::error!("{why}");
            *reported = Some(Instant::now());
        }
        self.shared.capture.send_modify(|state| state.error = Some(why));
        std::thread::sleep(RETRY_DELAY);
    }

    /// `current`: everything that was committed before the poll is logged.
    fn going_on(&self, reported: &mut Option<Instant>, current: bool) {
        if reported.take().is_some() {
            tracing::info!("capture goes on");
        }
        self.shared.capture.send_modify(|state| {
            state.polls += u64::from(current);
            state.error = None;
        });
    }

    /// Appends; what cannot be appended now stays in the database, and comes again.
    fn log(&mut self, captured: Captured) -> Result<(), String> {
        let Captured { drafts, tables, upto, changes, recreated, dropped, current: _ } = captured;
        for table in recreated.iter().chain(&dropped) {
            tracing::warn!(%table, "table {table} was created, rebuilt or dropped; who follows it copies it afresh");
        }
        let definitions_changed = tables
            .iter()
            .any(|table| self.shared.tables.borrow().iter().all(|known| known.fingerprint != table.fingerprint));
        if definitions_changed || !recreated.is_empty() || !dropped.is_empty() {
            (self.tables_changed)();
        }
        let drafts = match self.guarded(drafts, &tables) {
            Ok(drafts) => drafts,
            Err(error) => {
                // Going on would move the cursor past what was not logged.
                self.capture.retry();
                return Err(format!(
                    "error[WS-CAPTURE-003]: local changes wait in the database: who owns them cannot be told: {error} / do: correct \
                     owner_by in the configuration, and restart the node or send it SIGHUP"
                ));
            }
        };
        let count = drafts.len() as u64;
        let append = Append { from: LinkId::LOCAL, tables, drafts, upto: Some(upto.clone()) };
        let mut logging = Logging::begin(&self.runtime, self.shared.log.clone(), append);
        let logged = Pin::new(&mut logging);
        self.capture.read_ahead(logged);
        match self.runtime.block_on(logging.ended()) {
            Ok(_) => {
                self.shared.captured_upto(&upto);
                self.shared.counters.captured.add(count);
                self.shared.counters.captured_changes.add(changes);
                if let Err(error) = self.capture.release(&upto) {
                    tracing::debug!("captured changes are removed later: {error}");
                }
            }
            Err(error) => {
                self.capture.retry();
                return Err(format!(
                    "error[WS-LOG-003]: local changes wait in the database: {error} / do: make room or mend the disk; capture goes on by itself"
                ));
            }
        }
        Ok(())
    }

    /// Without what others own. A transaction of which nothing is left is left out; the cursor passes over it.
    fn guarded(&self, drafts: Vec<Draft>, tables: &[Arc<TableDef>]) -> Result<Vec<Draft>, CodecError> {
        let shared = self.shared.clone();
        let told: OnRefused = Arc::new(move |refused| shared.refused(&refused));
        let catalog = self.shared.log.catalog();
        let mut kept = Vec::with_capacity(drafts.len());
        for draft in drafts {
            let draft = self.shared.policy.ownership.guard(draft, tables, &catalog, &told)?;
            if !matches!(&draft, Draft::Local { changes, .. } if changes.is_empty()) {
                kept.push(draft);
            }
        }
        Ok(kept)
    }
}

/// An append under way. One at a time: what is read ahead waits until it is known whether what comes before it is logged.
struct Logging {
    append: JoinHandle<Result<Cursor, AppendError>>,
    ended: Option<Result<Cursor, AppendError>>,
}

impl Logging {
    fn begin(runtime: &Handle, log: Arc<dyn Log>, append: Append) -> Logging {
        Logging { append: runtime.spawn(async move { log.append(append).await }), ended: None }
    }

    async fn ended(mut self) -> Result<Cursor, AppendError> {
        (&mut self).await;
        self.ended.unwrap_or(Err(AppendError::Closed))
    }
}

impl Future for Logging {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.ended.is_none() {
            let ended = ready!(Pin::new(&mut self.append).poll(context));
            self.ended = Some(ended.unwrap_or_else(|error| Err(AppendError::Failed(error.to_string()))));
        }
        Poll::Ready(())
    }
}
