//! Rows of feeds, read before the store is asked: on another thread than the one that carries out the statements.

use std::ops::Range;
use std::sync::Arc;

use super::ViewError;
use super::program::{Effects, Handled, Plan, Program, unreadable};
use super::rows::{About, Cell, Rows, Seen, pick};
use crate::model::{Batch, Catalog, Entry, FeedRows, Fingerprint, Logged, Op, Position};

/// Where a text stands in the encoded changes of its entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    at: u32,
    len: u32,
}

impl Span {
    /// `text` is a part of `changes`.
    fn of(changes: &[u8], text: &str) -> Span {
        let at = text.as_ptr() as usize - changes.as_ptr() as usize;
        Span { at: at as u32, len: text.len() as u32 }
    }

    fn text(self, changes: &[u8]) -> Option<&str> {
        let bytes = changes.get(self.at as usize..(self.at as usize).checked_add(self.len as usize)?)?;
        std::str::from_utf8(bytes).ok()
    }
}

/// A [`Cell`] that borrows nothing.
#[derive(Clone, Debug, PartialEq)]
enum Held {
    Null,
    Boolean(bool),
    Number(Span),
    Text(Span),
    /// It was written with escapes.
    Unescaped(Box<str>),
    Json(Span),
}

impl Held {
    /// `None`: a cell that rows of feeds do not have.
    fn of(changes: &[u8], cell: &Cell<'_>) -> Option<Held> {
        use std::borrow::Cow::{Borrowed, Owned};
        Some(match cell {
            Cell::Null => Held::Null,
            Cell::Boolean(value) => Held::Boolean(*value),
            Cell::Number(text) => Held::Number(Span::of(changes, text)),
            Cell::Text(Borrowed(text)) => Held::Text(Span::of(changes, text)),
            Cell::Text(Owned(text)) => Held::Unescaped(text.as_str().into()),
            Cell::Json(Borrowed(text)) => Held::Json(Span::of(changes, text)),
            Cell::Json(Owned(_)) | Cell::Integer(_) | Cell::Value(..) => return None,
        })
    }

    fn cell<'a>(&'a self, changes: &'a [u8]) -> Option<Cell<'a>> {
        Some(match self {
            Held::Null => Cell::Null,
            Held::Boolean(value) => Cell::Boolean(*value),
            Held::Number(span) => Cell::Number(span.text(changes)?),
            Held::Text(span) => Cell::Text(span.text(changes)?.into()),
            Held::Unescaped(text) => Cell::Text((&**text).into()),
            Held::Json(span) => Cell::Json(span.text(changes)?.into()),
        })
    }
}

#[derive(Debug)]
struct Row {
    key: Option<Span>,
    row: Span,
    /// Where its cells begin.
    cells: u32,
}

/// What was read of one entry.
#[derive(Debug)]
struct Of {
    plan: u32,
    rows: Range<u32>,
}

/// Rows of the entries of one batch, with the members that a definition asks for.
#[derive(Default)]
pub(crate) struct Ready {
    plans: Vec<(Fingerprint, Option<Arc<Plan>>)>,
    /// One for every entry of the batch; `None` where it is to be read as it comes.
    entries: Vec<Option<Of>>,
    rows: Vec<Row>,
    cells: Vec<Held>,
}

impl Ready {
    /// Nothing was read; room is kept.
    pub fn clear(&mut self) {
        self.plans.clear();
        self.entries.clear();
        self.rows.clear();
        self.cells.clear();
    }

    fn entry<'b>(
        &mut self,
        program: &mut Program,
        logged: &'b Logged,
        catalogs: &[Arc<Catalog>],
        cells: &mut Vec<Cell<'b>>,
    ) -> Option<Of> {
        let glance = logged.entry.glance();
        if glance.tables != 1 || glance.part > 0 || glance.more {
            return None;
        }
        if self.plans.last().is_none_or(|(of, _)| *of != glance.table) {
            let plan = program.planned(glance.table, logged.position, catalogs).ok()?;
            self.plans.push((glance.table, plan));
        }
        let number = self.plans.len() - 1;
        let plan = self.plans[number].1.clone();
        let (rows, held) = (self.rows.len(), self.cells.len());
        let read = match plan {
            Some(plan) => self.rows_of(&plan, logged.entry.changes_slice(), cells),
            None => Some(()),
        };
        if read.is_none() {
            self.rows.truncate(rows);
            self.cells.truncate(held);
        }
        read.map(|()| Of { plan: number as u32, rows: rows as u32..self.rows.len() as u32 })
    }

    fn rows_of<'b>(&mut self, plan: &Plan, changes: &'b [u8], cells: &mut Vec<Cell<'b>>) -> Option<()> {
        let handled = plan.handled(Op::Insert);
        if !plan.is_feed || handled.bound.is_empty() {
            return None;
        }
        for row in FeedRows::new(changes) {
            let row = row.filter(|row| row.table == 0)?;
            pick(&handled.members, row.row, cells).ok()?;
            let begin = self.cells.len() as u32;
            for cell in cells.iter() {
                self.cells.push(Held::of(changes, cell)?);
            }
            let key = row.key.map(|key| Span::of(changes, key));
            self.rows.push(Row { key, row: Span::of(changes, row.row), cells: begin });
        }
        Some(())
    }
}

impl Program {
    /// Reads the rows of a batch. What cannot be read is left to [`Program::carry`], which says why.
    pub fn read(&mut self, batch: &Batch, ready: &mut Ready) {
        ready.clear();
        let (catalogs, mut cells) = (std::slice::from_ref(&batch.catalog), Vec::new());
        for logged in &batch.entries {
            let read = ready.entry(self, logged, catalogs, &mut cells);
            ready.entries.push(read);
        }
    }

    /// As [`Program::entry`], with what was read of the batch's entry of that number.
    pub fn carry<'b>(
        &mut self,
        (number, logged): (usize, &'b Logged),
        ready: &'b Ready,
        catalogs: &[Arc<Catalog>],
        cells: &mut Vec<Cell<'b>>,
        effects: &mut impl Effects,
    ) -> Result<(), ViewError> {
        let Some(Some(of)) = ready.entries.get(number) else {
            return self.entry(logged.position, &logged.entry, catalogs, cells, effects);
        };
        let Some(Some(plan)) = ready.plans.get(of.plan as usize).map(|(_, plan)| plan) else { return Ok(()) };
        let handled = plan.handled(Op::Insert);
        let about = About::new(logged.position, &logged.entry);
        for row in &ready.rows[of.rows.start as usize..of.rows.end as usize] {
            let seen = row.seen(ready, handled, &logged.entry, cells);
            let (key, json) = seen.ok_or_else(|| unreadable(logged.position, "its bytes have changed"))?;
            let seen = Seen { about: &about, rows: Rows::Feed { key, json, members: cells } };
            handled.bound.iter().try_for_each(|bound| effects.run(bound.statement, &bound.slots, &seen))?;
        }
        Ok(())
    }
}

impl Row {
    /// Puts its cells where a statement finds them; its key and its text, where one asks for them.
    fn seen<'b>(
        &self,
        ready: &'b Ready,
        handled: &Handled,
        entry: &'b Entry,
        cells: &mut Vec<Cell<'b>>,
    ) -> Option<(Option<&'b str>, &'b str)> {
        let changes = entry.changes_slice();
        let from = self.cells as usize;
        cells.clear();
        for held in ready.cells.get(from..from + handled.members.len())? {
            cells.push(held.cell(changes)?);
        }
        if !handled.whole {
            return Some((None, ""));
        }
        let key = match self.key {
            Some(key) => Some(key.text(changes)?),
            None => None,
        };
        Some((key, self.row.text(changes)?))
    }
}

/// The number of a batch's entry, going on from the last one that was found.
pub(crate) fn number_of(batch: &Batch, position: Position, from: usize) -> usize {
    let rest = batch.entries.get(from..).unwrap_or_default();
    from + rest.iter().position(|logged| logged.position == position).unwrap_or(rest.len())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::super::rows::Slot;
    use super::super::sql::{Definition, Dialect};
    use super::*;
    use crate::model::{
        Cursor, EntryHeader, Epoch, FeedRow, LinkId, LogId, Row as TableRow, TableDef, TableName, feed_table,
        put_feed_row,
    };

    const DEFINITION: &str = "-- on insert orders
insert into seen values (:row.a, :row.b, :position);
insert into whole values (:key, :json, :row.b);
";

    /// Notes what it is asked to do.
    #[derive(Default)]
    struct Noted(Vec<String>);

    impl Effects for Noted {
        fn run(&mut self, statement: usize, slots: &[Slot], seen: &Seen<'_>) -> Result<(), ViewError> {
            let cells: Vec<String> = slots.iter().map(|slot| format!("{:?}", seen.cell(*slot))).collect();
            self.0.push(format!("{} {statement} {}", seen.about.position, cells.join(", ")));
            Ok(())
        }

        fn latest(&mut self, _: &TableName, _: &[u8]) -> Result<Option<(Arc<TableDef>, TableRow)>, ViewError> {
            Ok(None)
        }

        fn keep(&mut self, _: &Arc<TableDef>, _: &[u8], _: &TableRow) -> Result<(), ViewError> {
            Ok(())
        }

        fn forget(&mut self, _: &TableName, _: Option<&[u8]>) -> Result<(), ViewError> {
            Ok(())
        }
    }

    fn program() -> Program {
        Program::new(Arc::new(Definition::parse("seen.sql", DEFINITION, Dialect::Sqlite).expect("a good definition")))
    }

    /// Of which table, key, text.
    type Given<'a> = (usize, Option<&'a str>, &'a str);

    /// A batch with these rows; one list is one entry.
    fn batch(entries: &[Vec<Given<'_>>]) -> Batch {
        let tables = ["orders", "others"].map(|name| Arc::new(feed_table(name.parse().expect("a name"))));
        let catalog = Arc::new(Catalog::default());
        for table in &tables {
            catalog.add(table.clone());
        }
        let entry = |(number, rows): (usize, &Vec<Given<'_>>)| {
            let named: Vec<usize> = match rows.iter().all(|row| row.0 == rows[0].0) {
                true => vec![rows[0].0],
                false => vec![0, 1],
            };
            let mut changes = Vec::new();
            for (table, key, row) in rows {
                let table = named.iter().position(|named| named == table).expect("it is named");
                put_feed_row(&mut changes, &FeedRow { table, key: *key, row });
            }
            let tables = named.iter().map(|&table| tables[table].fingerprint).collect();
            let entry = Entry::new(EntryHeader { tables, ..EntryHeader::default() }, Bytes::from(changes));
            Logged { position: Position(number as u64 + 1), from: LinkId::LOCAL, entry }
        };
        let entries: Vec<Logged> = entries.iter().enumerate().map(entry).collect();
        let position = Position(entries.len() as u64);
        Batch { entries, upto: Cursor { log: LogId(1), epoch: Epoch(1), position }, next: position.into(), catalog }
    }

    /// What is done for a batch, with what was read of it, and as it comes.
    fn both(batch: &Batch) -> [Vec<Result<Vec<String>, String>>; 2] {
        let (mut reader, mut ready) = (program(), Ready::default());
        reader.read(batch, &mut ready);
        [ready, Ready::default()].map(|ready| {
            let (mut program, mut number) = (program(), 0);
            let done = batch.entries.iter().map(|logged| {
                let (mut noted, mut cells) = (Noted::default(), Vec::new());
                number = number_of(batch, logged.position, number);
                let catalogs = std::slice::from_ref(&batch.catalog);
                let done = program.carry((number, logged), &ready, catalogs, &mut cells, &mut noted);
                done.map(|()| noted.0).map_err(|error| error.to_string())
            });
            done.collect()
        })
    }

    #[test]
    fn what_was_read_before_is_what_is_read_as_it_comes() {
        let rows = batch(&[
            vec![(0, Some("k"), r#"{"a":1.50,"b":"x\u00e9\n","c":[1]}"#)],
            vec![(0, None, r#"{"b":{"deep":[1,"]"]}}"#), (0, Some("é"), r#"{"a":true,"b":null,"a":"é"}"#)],
            vec![(1, Some("other"), r#"{"a":2}"#)],
            vec![(1, Some("other"), r#"{"a":3}"#), (0, Some("k"), r#"{"a":4}"#)],
            vec![(0, Some("k"), "[1,2]")],
            vec![(0, Some("k"), r#"{"a":"not closed}"#)],
            vec![(0, Some("k"), r#"{"a":5}"#)],
        ]);
        let [before, as_it_comes] = both(&rows);
        assert_eq!(before, as_it_comes);
        let of = |entry: usize| before[entry].as_ref().map(Vec::len);
        assert_eq!([0, 1, 2, 3, 4, 6].map(of), [2, 4, 0, 2, 2, 2].map(Ok));
        assert!(before[5].as_ref().is_err_and(|why| why.contains("not JSON")), "{:?}", before[5]);
        // And it was read before, where it could be.
        let (mut reader, mut ready) = (program(), Ready::default());
        reader.read(&rows, &mut ready);
        let read: Vec<bool> = ready.entries.iter().map(Option::is_some).collect();
        assert_eq!(read, [true, true, true, false, true, false, true]);
    }

    proptest! {
        #[test]
        fn any_rows_are_taken_alike(rows in prop::collection::vec((0..2usize, any::<Option<String>>(),
            "(\\{(\"[ab]\":(-?[0-9]{1,3}|\"[a-z\\\\\"é]{0,4}\"|true|null|\\[1\\]),){0,3}\"z\":0\\}|\\PC{0,20})"), 1..8)) {
            let entries: Vec<_> = rows.iter().map(|(table, key, row)| vec![(*table, key.as_deref(), &**row)]).collect();
            let [before, as_it_comes] = both(&batch(&entries));
            prop_assert_eq!(before, as_it_comes);
            let together: Vec<_> = entries.into_iter().flatten().collect();
            let [before, as_it_comes] = both(&batch(&[together]));
            prop_assert_eq!(before, as_it_comes);
        }
    }
}
