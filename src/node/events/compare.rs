//! Two events tables compared.
//!
//! Digests of chunks of ids come first, computed by both databases at the same time; rows are read only where they
//! differ. Between databases of different kinds rows are read from the start, and JSON is compared by value.

use tokio_util::sync::CancellationToken;

use super::findings::{EventsSide, Finding};
use super::groups::Groups;
use super::pages::Pages;
use crate::model::limits;
use crate::view::{ChunkDigest, EventIds, EventsError, EventsFacts, EventsTable, Trouble};

/// How two tables are compared.
#[derive(Clone, Copy, Debug, Default)]
pub struct CompareOptions {
    /// Whether events after the last id of the other table are differences too.
    pub all: bool,
    /// End after so many findings.
    pub findings_max: Option<u64>,
    /// Compare up to this id (inclusive), however far the tables go.
    pub last: Option<i64>,
    /// Whether only differences count, and not what is wrong with both tables alike.
    pub differences_only: bool,
    /// Whether stamped transactions are checked to be whole and in order.
    pub groups: bool,
    /// How ids were given; `None`: as a source among the two says.
    pub ids: Option<EventIds>,
}

/// Takes what a comparison finds while it runs.
pub trait Findings: Send {
    /// Something was found.
    fn found(&mut self, finding: &Finding);
    /// Everything up to `id` of `last` was compared.
    fn compared(&mut self, id: i64, last: i64);
}

/// What was compared, and how it ended.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// The first table, as it was at the start.
    pub a: EventsFacts,
    /// The second table, as it was at the start.
    pub b: EventsFacts,
    /// The greatest id that was to be compared (inclusive).
    pub last: i64,
    /// Differences between the two.
    pub differences: u64,
    /// What is wrong with either.
    pub faults: u64,
    /// Whether it came to the end.
    pub complete: bool,
    /// Whether it was stopped.
    pub interrupted: bool,
}

impl Comparison {
    /// Whether nothing was found.
    pub fn is_equal(&self) -> bool {
        self.differences == 0 && self.faults == 0
    }
}

/// The two tables.
pub struct Tables<'a> {
    /// The first.
    pub a: &'a mut dyn EventsTable,
    /// The second.
    pub b: &'a mut dyn EventsTable,
}

/// Compares two tables, which may be appended to meanwhile. By default up to the smaller of their greatest ids, unless
/// one is empty. It holds no table in memory. When `stop` is cancelled it ends with what it has.
///
/// # Errors
/// A table cannot be read, or both are the same.
pub async fn compare<'a>(
    tables: Tables<'a>,
    options: CompareOptions,
    findings: &'a mut dyn Findings,
    stop: &'a CancellationToken,
) -> Result<Comparison, EventsError> {
    let (a, b) = tokio::try_join!(tables.a.facts(), tables.b.facts())?;
    if a.identity == b.identity {
        return Err(same_table(tables.a.name(), tables.b.name()));
    }
    let empty = a.max_id.min(b.max_id) == 0 || a.count.min(b.count) == 0;
    let last =
        options.last.unwrap_or(if options.all || empty { a.max_id.max(b.max_id) } else { a.max_id.min(b.max_id) });
    let given = [a.ids, b.ids];
    let ids = options.ids.or(given.into_iter().flatten().find(|ids| *ids == EventIds::Sequence));
    let ids = ids.or(given.into_iter().flatten().next());
    let firsts = [&a.first, &b.first].into_iter().flatten().map(|event| event.id).min();
    let first = firsts.unwrap_or(1).min(1);
    let stamped =
        !options.differences_only && [&a.first, &b.first].into_iter().flatten().any(|event| is_stamped(&event.json));
    let comparison = Comparison { a, b, last, differences: 0, faults: 0, complete: true, interrupted: false };
    let expected = (ids == Some(EventIds::Table) && !options.differences_only).then_some(1);
    let mut run = Run { tables, options, findings, stop, comparison, expected, stamped, missing: Vec::new() };
    run.keys(first).await?;
    run.by_chunks(first).await?;
    if options.groups {
        run.groups(EventsSide::A, ids).await?;
        run.groups(EventsSide::B, ids).await?;
    }
    run.look_again().await?;
    Ok(run.comparison)
}

fn is_stamped(json: &[u8]) -> bool {
    let name = b"\"testingStats\"";
    json.windows(name.len()).any(|part| part == name)
}

fn same_table(a: &str, b: &str) -> EventsError {
    EventsError {
        code: "WS-EVENTS-130",
        trouble: Trouble::Invalid,
        what: format!("{a} and {b} are the same table"),
        why: "a table is always equal to itself".into(),
        fix: "name two databases".into(),
    }
}

/// A comparison that runs.
struct Run<'a> {
    tables: Tables<'a>,
    options: CompareOptions,
    findings: &'a mut dyn Findings,
    stop: &'a CancellationToken,
    comparison: Comparison,
    /// The id that must come next, where ids are consecutive.
    expected: Option<i64>,
    stamped: bool,
    /// Events that were in one table only, to be looked for again: where ids come from a sequence, or while a copy is
    /// under way, they may have come meanwhile.
    missing: Vec<i64>,
}

impl Run<'_> {
    /// Whether it should go on.
    fn goes_on(&mut self) -> bool {
        let (of, pending) = (&mut self.comparison, self.missing.len() as u64);
        of.interrupted |= self.stop.is_cancelled();
        let full = self.options.findings_max.is_some_and(|max| of.differences + of.faults + pending >= max);
        of.complete &= !of.interrupted && !full;
        of.complete
    }

    fn found(&mut self, finding: Finding) {
        let of = &mut self.comparison;
        if self.options.findings_max.is_some_and(|max| of.differences + of.faults >= max) {
            of.complete = false;
            return;
        }
        match finding.is_difference() {
            true => of.differences += 1,
            false => of.faults += 1,
        }
        self.findings.found(&finding);
    }

    fn table(&mut self, side: EventsSide) -> &mut dyn EventsTable {
        match side {
            EventsSide::A => self.tables.a,
            EventsSide::B => self.tables.b,
        }
    }

    /// Finds ids that are there more than once in a table without a key on them.
    async fn keys(&mut self, first: i64) -> Result<(), EventsError> {
        let facts = [(EventsSide::A, &self.comparison.a), (EventsSide::B, &self.comparison.b)];
        let without = facts.map(|(side, facts)| (side, !facts.has_key, facts.max_id));
        for (side, _, last) in without.into_iter().filter(|(_, without, _)| *without) {
            let mut at = first;
            while at <= last && self.goes_on() {
                let end = last.min(at.saturating_add(i64::from(limits::EVENTS_COMPARE_ROWS) - 1));
                let ids = self.table(side).digests(at, end, 1).await?;
                ids.iter().filter(|id| id.count > 1).for_each(|id| self.found(Finding::Id { side, id: id.first }));
                let Some(next) = self.next_event(side, end, last, ids.is_empty()).await? else { break };
                at = next;
            }
        }
        Ok(())
    }

    /// The next id to look at after `end`: the next one, or, after an empty stretch, that of the next event.
    async fn next_event(
        &mut self,
        side: EventsSide,
        end: i64,
        last: i64,
        empty: bool,
    ) -> Result<Option<i64>, EventsError> {
        let Some(next) = end.checked_add(1).filter(|next| *next <= last) else { return Ok(None) };
        match empty {
            false => Ok(Some(next)),
            true => Ok(self.table(side).range(next, last, 1).await?.first().map(|event| event.id)),
        }
    }

    async fn by_chunks(&mut self, first: i64) -> Result<(), EventsError> {
        let (last, mut at, mut width) = (self.comparison.last, first, limits::EVENTS_COMPARE_CHUNK);
        let same_kind = self.tables.a.digest_kind() == self.tables.b.digest_kind();
        while at <= last && self.goes_on() {
            let end = last.min(at.saturating_add(width.saturating_mul(limits::EVENTS_COMPARE_CHUNKS) - 1));
            let seen = match same_kind {
                true => self.chunks(at, end, width).await?,
                false => self.rows(at, end).await?,
            };
            if self.stamped {
                self.times(at, end).await?;
            }
            self.findings.compared(end, last);
            let (a, b) = (
                self.next_event(EventsSide::A, end, last, seen == 0).await?,
                self.next_event(EventsSide::B, end, last, seen == 0).await?,
            );
            let Some(next) = a.into_iter().chain(b).min() else { break };
            at = next;
            width = match seen {
                few if few < limits::EVENTS_COMPARE_FEW => width.saturating_mul(4).min(1 << 40),
                many if many > 40 * limits::EVENTS_COMPARE_FEW => (width / 4).max(1),
                _ => width,
            };
        }
        Ok(())
    }

    /// Compares digests from `at` to `end`, and rows where they differ; returns how many rows there are.
    async fn chunks(&mut self, at: i64, end: i64, width: i64) -> Result<u64, EventsError> {
        let (a, b) = tokio::try_join!(self.tables.a.digests(at, end, width), self.tables.b.digests(at, end, width))?;
        let rows = |chunks: &[ChunkDigest]| chunks.iter().map(|chunk| chunk.count).sum::<u64>();
        let seen = rows(&a).max(rows(&b));
        let (mut a, mut b) = (a.into_iter().peekable(), b.into_iter().peekable());
        while let Some(first) = [a.peek(), b.peek()].into_iter().flatten().map(|chunk| chunk.first).min() {
            let (a, b) = (a.next_if(|chunk| chunk.first == first), b.next_if(|chunk| chunk.first == first));
            let Some(chunk) = a.or(b) else { break };
            let full = chunk.count == chunk.last.abs_diff(chunk.first) + 1;
            if a == b && (full || self.expected.is_none()) {
                self.expect(chunk.first, chunk.last);
            } else {
                self.rows(chunk.first, chunk.last).await?;
            }
            if !self.goes_on() {
                break;
            }
        }
        Ok(seen)
    }

    /// Events with these ids are there: those between them and what came before are not.
    fn expect(&mut self, first: i64, last: i64) {
        let Some(expected) = self.expected else { return };
        if first > expected {
            self.found(Finding::Gap { first: expected, last: first - 1 });
        }
        self.expected = Some(expected.max(last.saturating_add(1)));
    }

    /// Compares row by row; returns how many ids there are.
    async fn rows(&mut self, first: i64, last: i64) -> Result<u64, EventsError> {
        let (mut a, mut b, mut seen) = (Pages::new(first, last), Pages::new(first, last), 0_u64);
        loop {
            tokio::try_join!(a.fill(self.tables.a), b.fill(self.tables.b))?;
            let Some(id) = [a.head(), b.head()].into_iter().flatten().min() else { break };
            if !self.goes_on() {
                break;
            }
            seen += 1;
            let below = id < 1 && self.expected.is_some();
            self.expect(id, id);
            let (in_a, in_b) = (a.head() == Some(id), b.head() == Some(id));
            match (in_a.then(|| a.take()).flatten(), in_b.then(|| b.take()).flatten()) {
                _ if below => self.found(Finding::Id { side: if in_a { EventsSide::A } else { EventsSide::B }, id }),
                (Some(a), Some(b)) => {
                    if let Some(finding) = Finding::between(&a, &b) {
                        self.found(finding);
                    }
                }
                (Some(_), None) => self.missing(EventsSide::B, id),
                _ => self.missing(EventsSide::A, id),
            }
        }
        Ok(seen)
    }

    fn missing(&mut self, side: EventsSide, id: i64) {
        match self.missing.len() < limits::DIFF_RECHECK_MAX {
            true => self.missing.push(id),
            false => self.found(Finding::Missing { id, side }),
        }
    }

    /// Finds transactions with two times by their stamps.
    async fn times(&mut self, first: i64, last: i64) -> Result<(), EventsError> {
        let max = limits::EVENTS_COMPARE_ROWS;
        // From one before, so that no neighbours are divided.
        let first = first.saturating_sub(1);
        let (a, b) = tokio::try_join!(self.tables.a.torn(first, last, max), self.tables.b.torn(first, last, max))?;
        a.into_iter().for_each(|id| self.found(Finding::Time { side: EventsSide::A, id }));
        b.into_iter().for_each(|id| self.found(Finding::Time { side: EventsSide::B, id }));
        Ok(())
    }

    /// Checks that the stamped transactions of a table are whole and in order.
    async fn groups(&mut self, side: EventsSide, ids: Option<EventIds>) -> Result<(), EventsError> {
        let facts = if side == EventsSide::A { &self.comparison.a } else { &self.comparison.b };
        let Some(first) = facts.first.as_ref().map(|event| event.id) else { return Ok(()) };
        let last = facts.max_id;
        let (mut pages, mut groups) = (Pages::new(first, last), Groups::new(ids == Some(EventIds::Sequence)));
        loop {
            pages.fill(self.table(side)).await?;
            let Some(id) = pages.head() else { break };
            self.findings.compared(id, last);
            while let Some(event) = pages.take() {
                for (id, why) in groups.take(&event) {
                    self.found(Finding::Group { side, id, why: why.into() });
                }
            }
            if !self.goes_on() {
                return Ok(());
            }
        }
        for (id, why) in groups.end() {
            self.found(Finding::Group { side, id, why: why.into() });
        }
        Ok(())
    }

    /// Looks again at events that were missing on one side, later once more where a table has grown.
    async fn look_again(&mut self) -> Result<(), EventsError> {
        let ids = std::mem::take(&mut self.missing);
        let mut missing = self.read_again(ids).await?;
        if !missing.is_empty() && !self.stop.is_cancelled() {
            let after = |facts: &EventsFacts| facts.max_id.saturating_add(1);
            let (a, b) = (after(&self.comparison.a), after(&self.comparison.b));
            let (a, b) = tokio::try_join!(self.tables.a.range(a, i64::MAX, 1), self.tables.b.range(b, i64::MAX, 1))?;
            if !a.is_empty() || !b.is_empty() {
                tokio::time::sleep(limits::EVENTS_RECHECK_DELAY).await;
                let ids = missing.into_iter().map(|(id, _)| id).collect();
                missing = self.read_again(ids).await?;
            }
        }
        missing.into_iter().for_each(|(id, side)| self.found(Finding::Missing { id, side }));
        Ok(())
    }

    /// Reads events of both tables by id; returns those that are in one only.
    async fn read_again(&mut self, ids: Vec<i64>) -> Result<Vec<(i64, EventsSide)>, EventsError> {
        let mut missing = Vec::new();
        // A few at a time: each may be large.
        for ids in ids.chunks(limits::EVENTS_RANGE_ROWS_FIRST) {
            let (a, b) = tokio::try_join!(self.tables.a.events(ids), self.tables.b.events(ids))?;
            for id in ids {
                let of = |events: &[crate::view::StoredEvent]| events.iter().find(|event| event.id == *id).cloned();
                match (of(&a), of(&b)) {
                    (Some(a), Some(b)) => {
                        if let Some(finding) = Finding::between(&a, &b) {
                            self.found(finding);
                        }
                    }
                    (Some(_), None) => missing.push((*id, EventsSide::B)),
                    (None, Some(_)) => missing.push((*id, EventsSide::A)),
                    (None, None) => {}
                }
            }
        }
        Ok(missing)
    }
}
