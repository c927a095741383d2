//! A source rebuilt from a destination.

use tokio_util::sync::CancellationToken;

use super::compare::{CompareOptions, Findings, Tables, compare};
use super::findings::Finding;
use super::pages::Pages;
use super::{Comparison, Endpoint};
use crate::model::limits;
use crate::postgres::events::PgEventsRestore;
use crate::sqlite::events::SqliteEventsRestore;
use crate::view::{EventIds, EventsError, EventsFacts, EventsRestore, EventsTable, StoredEvent, Trouble};

/// What a restore does, as it does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestoreStep {
    /// What the source has already is compared.
    ComparingPrefix,
    /// Events are copied.
    Copying,
    /// The whole is compared.
    Verifying,
}

/// Is told how far a restore is.
pub trait RestoreProgress: Send {
    /// Everything up to `id` of `last` is done in this step.
    fn at(&mut self, step: RestoreStep, id: i64, last: i64);
}

/// What was restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Events that were copied; those that were there before do not count.
    pub copied: u64,
    /// Events that the source has.
    pub count: i64,
    /// The last of them.
    pub last: i64,
    /// The id that the next event gets.
    pub next: i64,
}

/// Restores the source `to` from the copy `from`; `None` when it was stopped, and then nothing was changed or the copy is
/// whole but not verified, and running it again ends it.
///
/// What `to` has already must be the beginning of what `from` has. The copying is one transaction. Then both are
/// compared, and only then does the source go on, after the last id: it never gives an id that the copy has.
///
/// # Errors
/// Either cannot be reached or read; `to` is no source, or has other events; `from` has gaps where ids are consecutive,
/// or is still written to.
pub async fn restore(
    from: &Endpoint,
    to: &Endpoint,
    progress: &mut dyn RestoreProgress,
    stop: &CancellationToken,
) -> Result<Option<Restored>, EventsError> {
    let limit = limits::EVENTS_CONNECT_TIMEOUT;
    let (mut copy, mut source) = tokio::try_join!(from.table(limit), to.table(limit))?;
    let (of_copy, of_source) = tokio::try_join!(copy.facts(), source.facts())?;
    let ids = may_begin(from, to, &of_copy, &of_source)?;
    if of_source.count > 0 {
        let step = RestoreStep::ComparingPrefix;
        match agree(&mut *copy, &mut *source, of_source.max_id, (step, progress), stop).await? {
            Agreed::Stopped => return Ok(None),
            Agreed::Not(finding) => return Err(other_events(to, &finding)),
            Agreed::Yes => {}
        }
    }
    let last = of_copy.max_id;
    let mut writer: Box<dyn EventsRestore> = match to {
        Endpoint::Postgres(to) => Box::new(PgEventsRestore::open(to, ids, limit).await?),
        Endpoint::Sqlite(path) => Box::new(SqliteEventsRestore::open(path)?),
    };
    let mut copied = 0;
    if of_source.max_id < last {
        match fill(&mut *copy, &mut *writer, (of_source.max_id, last), progress, stop).await? {
            Some(count) => copied = count,
            None => return Ok(None),
        }
    }
    match agree(&mut *copy, &mut *source, last, (RestoreStep::Verifying, progress), stop).await? {
        Agreed::Stopped => return Ok(None),
        Agreed::Not(finding) => return Err(not_verified(to, &finding)),
        Agreed::Yes => {}
    }
    let more = copy.range(last.saturating_add(1), i64::MAX, 1).await?;
    if let Some(event) = more.first() {
        return Err(still_written(from, event.id, last));
    }
    let next = writer.open_after(last).await?;
    Ok(Some(Restored { copied, count: of_copy.count, last, next }))
}

/// Copies `after..=last`, in one transaction. `None` when it was stopped.
async fn fill(
    copy: &mut dyn EventsTable,
    writer: &mut dyn EventsRestore,
    (after, last): (i64, i64),
    progress: &mut dyn RestoreProgress,
    stop: &CancellationToken,
) -> Result<Option<u64>, EventsError> {
    writer.begin(after, last).await?;
    let (mut pages, mut copied) = (Pages::new(after.saturating_add(1), last), 0);
    loop {
        pages.fill(copy).await?;
        let events: Vec<StoredEvent> = std::iter::from_fn(|| pages.take()).collect();
        let Some(id) = events.last().map(|event| event.id) else { break };
        copied += events.len() as u64;
        writer.put(events).await?;
        progress.at(RestoreStep::Copying, id, last);
        if stop.is_cancelled() {
            return Ok(None);
        }
    }
    writer.commit().await?;
    Ok(Some(copied))
}

/// How ids are given at the source, if it may be filled from that copy.
fn may_begin(
    from: &Endpoint,
    to: &Endpoint,
    of_copy: &EventsFacts,
    of_source: &EventsFacts,
) -> Result<EventIds, EventsError> {
    let refused = |code, trouble, what: String, why: String, fix: &str| {
        Err(EventsError { code, trouble, what, why, fix: fix.to_string() })
    };
    if of_copy.identity == of_source.identity {
        let why = "a table cannot be restored from itself".to_string();
        return refused(
            "WS-EVENTS-150",
            Trouble::Invalid,
            format!("{from} and {to} are the same table"),
            why,
            "name two",
        );
    }
    let Some(ids) = of_source.ids.filter(|_| of_source.insert_refused.is_none()) else {
        let why = match &of_source.insert_refused {
            Some(why) => why.clone(),
            None => format!("it lacks {}", of_source.missing_objects.join(", ")),
        };
        let fix = "make it one: `watershed events init --role source`";
        return refused("WS-EVENTS-151", Trouble::Invalid, format!("{to} is no source that can be filled"), why, fix);
    };
    if of_copy.count == 0 {
        let why = "it has no events".to_string();
        return refused(
            "WS-EVENTS-152",
            Trouble::Operator,
            format!("{from}: there is nothing to restore"),
            why,
            "name another copy",
        );
    }
    let whole = of_copy.count == of_copy.max_id && of_copy.first.as_ref().is_some_and(|event| event.id == 1);
    if ids == EventIds::Table && !whole {
        let why = format!("it has {} events, and its greatest id is {}", of_copy.count, of_copy.max_id);
        let what = format!("{from}: ids are not consecutive from 1, as a source with the table id has them");
        let fix = "name a copy that is whole (`watershed events diff` compares two), or a source whose ids come from a sequence";
        return refused("WS-EVENTS-153", Trouble::Operator, what, why, fix);
    }
    if of_source.max_id > of_copy.max_id {
        let what = format!("{to} has events that {from} does not have");
        let why = format!("its greatest id is {}, that of the copy {}", of_source.max_id, of_copy.max_id);
        let fix = "restore into a new source, from the copy that has most";
        return refused("WS-EVENTS-154", Trouble::Operator, what, why, fix);
    }
    Ok(ids)
}

/// Whether two tables are the same up to an id.
enum Agreed {
    Yes,
    Not(Box<Finding>),
    Stopped,
}

/// Keeps the first finding.
struct First<'a> {
    step: RestoreStep,
    progress: &'a mut dyn RestoreProgress,
    finding: Option<Finding>,
}

impl Findings for First<'_> {
    fn found(&mut self, finding: &Finding) {
        self.finding.get_or_insert_with(|| finding.clone());
    }

    fn compared(&mut self, id: i64, last: i64) {
        self.progress.at(self.step, id, last);
    }
}

async fn agree(
    copy: &mut dyn EventsTable,
    source: &mut dyn EventsTable,
    last: i64,
    (step, progress): (RestoreStep, &mut dyn RestoreProgress),
    stop: &CancellationToken,
) -> Result<Agreed, EventsError> {
    let mut first = First { step, progress, finding: None };
    // What the copy has after `last` is the rest that is to be copied.
    let options =
        CompareOptions { findings_max: Some(1), last: Some(last), differences_only: true, ..CompareOptions::default() };
    let tables = Tables { a: copy, b: source };
    let Comparison { interrupted, .. } = compare(tables, options, &mut first, stop).await?;
    Ok(match first.finding {
        Some(finding) => Agreed::Not(Box::new(finding)),
        None if interrupted => Agreed::Stopped,
        None => Agreed::Yes,
    })
}

fn other_events(to: &Endpoint, finding: &Finding) -> EventsError {
    EventsError {
        code: "WS-EVENTS-155",
        trouble: Trouble::Operator,
        what: format!("{to} has other events than the copy (a is the copy, b the source)"),
        why: finding.to_string(),
        fix: "restore into a new source; `watershed events diff` shows what differs".into(),
    }
}

fn not_verified(to: &Endpoint, finding: &Finding) -> EventsError {
    EventsError {
        code: "WS-EVENTS-156",
        trouble: Trouble::Operator,
        what: format!("{to} was filled, and is not the same as the copy (a is the copy, b the source)"),
        why: finding.to_string(),
        fix: "do not append to it; look for what writes to either, and restore into a new source".into(),
    }
}

fn still_written(from: &Endpoint, id: i64, last: i64) -> EventsError {
    EventsError {
        code: "WS-EVENTS-157",
        trouble: Trouble::Operator,
        what: format!("{from} is still written to"),
        why: format!("it was restored up to id {last}, and has {id} by now; the source does not go on yet"),
        fix: "end the replication to it, and run it again: it copies the rest".into(),
    }
}
