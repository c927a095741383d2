//! Carries out a definition: for every change of an entry the statements that are for it, in order.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use super::rows::{About, Cell, Rows, Seen, Slot, key_form, pick};
use super::sql::{Definition, Parameter, Statement};
use super::{ViewError, Work};
use crate::model::{
    Catalog, Change, Cursor, Entry, EntryHeader, FeedRow, FeedRows, Fingerprint, Kind, Op, Position, Row, TableDef,
    TableName, Value, limits,
};

/// What a store does for a program, in the transaction that it has open.
pub(crate) trait Effects {
    /// Carries out a statement, by its number.
    fn run(&mut self, statement: usize, slots: &[Slot], seen: &Seen<'_>) -> Result<(), ViewError>;
    /// The latest row with that key, with its definition.
    fn latest(&mut self, table: &TableName, key: &[u8]) -> Result<Option<(Arc<TableDef>, Row)>, ViewError>;
    /// Remembers a row as the latest with its key.
    fn keep(&mut self, def: &Arc<TableDef>, key: &[u8], row: &Row) -> Result<(), ViewError>;
    /// There is no row with that key any more; of all keys, if there is none.
    fn forget(&mut self, table: &TableName, key: Option<&[u8]>) -> Result<(), ViewError>;
}

/// A statement with where its parameters are found.
pub(super) struct Bound {
    pub statement: usize,
    pub slots: Vec<Slot>,
}

/// What is done for one operation.
#[derive(Default)]
pub(super) struct Handled {
    pub members: Vec<Box<str>>,
    /// A statement asks for the key, or for the row as a whole.
    pub whole: bool,
    pub bound: Vec<Bound>,
}

/// What is done for the changes of a table, by one version of its definition.
pub(super) struct Plan {
    def: Arc<TableDef>,
    keys: Vec<usize>,
    pub is_feed: bool,
    /// Whether the latest rows are kept.
    keeps: bool,
    /// By [`Op`]: insert, update, delete, truncate.
    handled: [Handled; 4],
}

impl Plan {
    pub fn handled(&self, op: Op) -> &Handled {
        static NOTHING: Handled = Handled { members: Vec::new(), whole: false, bound: Vec::new() };
        self.handled.get(op as usize - 1).unwrap_or(&NOTHING)
    }
}

/// The statements of a definition, by number: 0 and on, in the order of the file.
pub(crate) struct Script {
    pub definition: Arc<Definition>,
    /// Handlers and statements in them.
    statements: Vec<(usize, usize)>,
}

impl Script {
    /// How many statements there are.
    pub fn count(&self) -> usize {
        self.statements.len()
    }

    /// A statement by its number.
    pub fn statement(&self, number: usize) -> &Statement {
        let (handler, statement) = self.statements[number];
        &self.definition.handlers[handler].statements[statement]
    }

    /// A statement could not be carried out.
    pub fn failed(&self, number: usize, position: Position, why: impl Into<String>) -> ViewError {
        let statement = self.statement(number);
        ViewError::Statement {
            position,
            file: self.definition.file.clone(),
            line: statement.place.line,
            statement: shown(&statement.text),
            why: why.into(),
        }
    }
}

/// A definition, prepared for the tables that its log names.
pub(crate) struct Program {
    pub script: Arc<Script>,
    plans: HashMap<Fingerprint, Option<Arc<Plan>>>,
}

impl Program {
    pub fn new(definition: Arc<Definition>) -> Program {
        let handlers = definition.handlers.iter().enumerate();
        let statements = handlers.flat_map(|(h, handler)| (0..handler.statements.len()).map(move |s| (h, s))).collect();
        Program { script: Arc::new(Script { definition, statements }), plans: HashMap::new() }
    }

    /// Carries out what an entry, or one part of it, asks for. `cells` is room that is used again.
    pub fn entry<'b>(
        &mut self,
        position: Position,
        entry: &'b Entry,
        catalogs: &[Arc<Catalog>],
        cells: &mut Vec<Cell<'b>>,
        effects: &mut impl Effects,
    ) -> Result<(), ViewError> {
        let glance = entry.glance();
        let about = About::new(position, entry);
        if glance.tables == 1 {
            self.plan(glance.table, position, catalogs)?;
            let plans = self.plans.get(&glance.table).map(std::slice::from_ref).unwrap_or_default();
            return Walk { about: &about, plans }.entry(entry, cells, effects);
        }
        let mut plans: Vec<Option<Arc<Plan>>> = Vec::with_capacity(glance.tables);
        for &fingerprint in &entry.header().tables {
            self.plan(fingerprint, position, catalogs)?;
            plans.push(self.plans.get(&fingerprint).cloned().flatten());
        }
        Walk { about: &about, plans: &plans }.entry(entry, cells, effects)
    }

    /// The keys whose latest rows [`Program::entry`] may ask for.
    #[cfg(feature = "postgres")]
    pub fn keys(
        &mut self,
        position: Position,
        entry: &Entry,
        catalogs: &[Arc<Catalog>],
    ) -> Result<Vec<(TableName, Vec<u8>)>, ViewError> {
        let mut plans: Vec<Option<Arc<Plan>>> = Vec::new();
        for &fingerprint in &entry.header().tables {
            self.plan(fingerprint, position, catalogs)?;
            plans.push(self.plans.get(&fingerprint).cloned().flatten().filter(|plan| plan.keeps));
        }
        if plans.iter().all(Option::is_none) {
            return Ok(Vec::new());
        }
        let mut keys = Vec::new();
        for change in entry.changes().map_err(|error| unreadable(position, error))? {
            let Some(Some(plan)) = plans.get(change.table) else { continue };
            let old = change.old_resolved();
            let rows = change.row.iter().chain(&old).filter(|row| row.len() == plan.def.columns.len());
            keys.extend(rows.map(|row| (plan.def.name.clone(), key_form(&plan.def, &plan.keys, row))));
        }
        Ok(keys)
    }

    /// What is done for a table; `None` where nothing is.
    pub(super) fn planned(
        &mut self,
        fingerprint: Fingerprint,
        position: Position,
        catalogs: &[Arc<Catalog>],
    ) -> Result<Option<Arc<Plan>>, ViewError> {
        self.plan(fingerprint, position, catalogs)?;
        Ok(self.plans.get(&fingerprint).cloned().flatten())
    }

    /// Makes what is done for a table, where that is not known yet.
    fn plan(
        &mut self,
        fingerprint: Fingerprint,
        position: Position,
        catalogs: &[Arc<Catalog>],
    ) -> Result<(), ViewError> {
        if self.plans.contains_key(&fingerprint) {
            return Ok(());
        }
        let def = catalogs.iter().find_map(|catalog| catalog.get(fingerprint));
        let def =
            def.ok_or_else(|| unreadable(position, format!("the table {fingerprint} is not defined in this log")))?;
        let plan = match self.script.definition.handlers.iter().any(|handler| handler.table == def.name) {
            true => Some(Arc::new(self.make(&def, position, catalogs)?)),
            false => None,
        };
        self.plans.insert(fingerprint, plan);
        Ok(())
    }

    fn make(&self, def: &Arc<TableDef>, position: Position, catalogs: &[Arc<Catalog>]) -> Result<Plan, ViewError> {
        let is_feed = def.is_feed();
        let mut handled: [Handled; 4] = Default::default();
        for number in 0..self.script.count() {
            let handler = &self.script.definition.handlers[self.script.statements[number].0];
            if handler.table != def.name {
                continue;
            }
            let of_op = &mut handled[handler.op as usize - 1];
            let statement = self.script.statement(number);
            let mut slots = Vec::with_capacity(statement.parameters.len());
            for parameter in &statement.parameters {
                let slot = match is_feed {
                    true => feed_slot(parameter, &mut of_op.members),
                    false => {
                        table_slot(parameter, def, catalogs).map_err(|why| self.script.failed(number, position, why))?
                    }
                };
                slots.push(slot);
            }
            of_op.whole |= slots.iter().any(|slot| matches!(slot, Slot::Key | Slot::Json));
            of_op.bound.push(Bound { statement: number, slots });
        }
        let keys = def.key_columns();
        let keeps = !is_feed && !keys.is_empty() && self.script.definition.needs_old(&def.name);
        Ok(Plan { def: def.clone(), keys, is_feed, keeps, handled })
    }
}

fn alone(parameter: &Parameter) -> Slot {
    match parameter {
        Parameter::Key => Slot::Key,
        Parameter::Position => Slot::Position,
        Parameter::Time => Slot::Time,
        Parameter::Origin => Slot::Origin,
        Parameter::Node => Slot::Node,
        Parameter::Correlation => Slot::Correlation,
        Parameter::Json => Slot::Json,
        Parameter::Row(_) | Parameter::Old(_) => Slot::Absent,
    }
}

fn feed_slot(parameter: &Parameter, members: &mut Vec<Box<str>>) -> Slot {
    let Parameter::Row(name) = parameter else { return alone(parameter) };
    let known = members.iter().position(|member| member == name);
    Slot::Member(known.unwrap_or_else(|| {
        members.push(name.clone());
        members.len() - 1
    }))
}

/// A column that the table has in another version only is NULL; one that it never had is a mistake.
fn table_slot(parameter: &Parameter, def: &TableDef, catalogs: &[Arc<Catalog>]) -> Result<Slot, String> {
    let (Parameter::Row(name) | Parameter::Old(name)) = parameter else { return Ok(alone(parameter)) };
    if let Some(at) = def.column(name) {
        return Ok(if matches!(parameter, Parameter::Row(_)) { Slot::Column(at) } else { Slot::Old(at) });
    }
    let had = |known: &Arc<TableDef>| known.name == def.name && known.column(name).is_some();
    if catalogs.iter().any(|catalog| catalog.all().iter().any(had)) {
        return Ok(Slot::Absent);
    }
    let columns: Vec<&str> = def.columns.iter().map(|column| &*column.name).collect();
    Err(format!("`{parameter}`: table {} has no such column; it has {}", def.name, columns.join(", ")))
}

pub(super) fn unreadable(position: Position, why: impl ToString) -> ViewError {
    ViewError::Entry { position, why: why.to_string() }
}

/// The beginning of a text, for people.
pub(crate) fn shown(text: &str) -> String {
    let mut end = text.len().min(limits::VIEW_SHOWN_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    if end < text.len() { format!("{}…", &text[..end]) } else { text.to_owned() }
}

/// The changes of one entry.
struct Walk<'w> {
    about: &'w About<'w>,
    plans: &'w [Option<Arc<Plan>>],
}

impl<'w> Walk<'w> {
    fn entry<'b>(
        &self,
        entry: &'b Entry,
        cells: &mut Vec<Cell<'b>>,
        effects: &mut impl Effects,
    ) -> Result<(), ViewError> {
        if self.plans.iter().all(Option::is_none) {
            return Ok(());
        }
        if self.plans.iter().all(|plan| plan.as_ref().is_none_or(|plan| plan.is_feed)) {
            let mut rows = FeedRows::new(entry.changes_slice());
            if rows.is_one() {
                if let Some(Some(row)) = rows.next() {
                    return self.appended(&row, cells, effects);
                }
            } else if let Some(rows) = rows.collect::<Option<Vec<FeedRow<'_>>>>() {
                return rows.iter().try_for_each(|row| self.appended(row, cells, effects));
            }
        }
        let changes = entry.changes().map_err(|error| self.unreadable(error))?;
        changes.iter().try_for_each(|change| self.change(change, effects))
    }

    fn unreadable(&self, why: impl ToString) -> ViewError {
        unreadable(self.about.position, why)
    }

    fn plan(&self, table: usize) -> Result<Option<&'w Plan>, ViewError> {
        let plan = self.plans.get(table).map(|plan| plan.as_deref());
        plan.ok_or_else(|| self.unreadable(format!("it has {} tables, and names number {table}", self.plans.len())))
    }

    fn run(&self, handled: &Handled, rows: Rows<'_>, effects: &mut impl Effects) -> Result<(), ViewError> {
        let seen = Seen { about: self.about, rows };
        handled.bound.iter().try_for_each(|bound| effects.run(bound.statement, &bound.slots, &seen))
    }

    fn appended<'a>(
        &self,
        row: &FeedRow<'a>,
        cells: &mut Vec<Cell<'a>>,
        effects: &mut impl Effects,
    ) -> Result<(), ViewError> {
        let Some(plan) = self.plan(row.table)? else { return Ok(()) };
        let handled = plan.handled(Op::Insert);
        if handled.bound.is_empty() {
            return Ok(());
        }
        pick(&handled.members, row.row, cells).map_err(|why| self.unreadable(why))?;
        self.run(handled, Rows::Feed { key: row.key, json: row.row, members: cells }, effects)
    }

    fn change(&self, change: &Change, effects: &mut impl Effects) -> Result<(), ViewError> {
        let Some(plan) = self.plan(change.table)? else { return Ok(()) };
        let widths = change.row.iter().chain(&change.old).map(Vec::len);
        if let Some(width) = widths.into_iter().find(|&width| width != plan.def.columns.len()) {
            let (table, columns) = (&plan.def.name, plan.def.columns.len());
            return Err(self.unreadable(format!("a row of {width} values in {table}, which has {columns} columns")));
        }
        match change.op {
            Op::Cut => Ok(()),
            Op::Copied => Err(ViewError::Replaced { table: plan.def.name.clone(), position: self.about.position }),
            _ if plan.is_feed => {
                let Some([key, row]) = change.row.as_deref() else {
                    return Err(self.unreadable(format!("{} of a feed's row", change.op.name())));
                };
                let text = |text| std::str::from_utf8(text).map_err(|error| self.unreadable(error));
                let key = if key.kind == Kind::Null { None } else { Some(text(&key.text)?) };
                self.appended(&FeedRow { table: change.table, key, row: text(&row.text)? }, &mut Vec::new(), effects)
            }
            Op::Truncate => {
                if plan.keeps {
                    effects.forget(&plan.def.name, None)?;
                }
                self.table(plan, Op::Truncate, None, None, effects)
            }
            Op::Delete => self.delete(plan, change, effects),
            Op::Insert | Op::Update => self.write(plan, change, effects),
        }
    }

    fn table(
        &self,
        plan: &Plan,
        op: Op,
        row: Option<&Row>,
        old: Option<&Row>,
        effects: &mut impl Effects,
    ) -> Result<(), ViewError> {
        self.run(plan.handled(op), Rows::Table { def: &plan.def, keys: &plan.keys, row, old }, effects)
    }

    /// The row with the key of `like` as it was last seen, in the columns of this version of the table.
    fn latest(&self, plan: &Plan, like: &Row, effects: &mut impl Effects) -> Result<Option<Row>, ViewError> {
        let Some((def, row)) = effects.latest(&plan.def.name, &key_form(&plan.def, &plan.keys, like))? else {
            return Ok(None);
        };
        if def.fingerprint == plan.def.fingerprint {
            return Ok(Some(row));
        }
        let of = |name: &str| def.column(name).and_then(|at| row.get(at).cloned());
        let columns = plan.def.columns.iter();
        Ok(Some(columns.map(|column| of(&column.name).unwrap_or(Value::NULL)).collect()))
    }

    fn delete(&self, plan: &Plan, change: &Change, effects: &mut impl Effects) -> Result<(), ViewError> {
        let Some(old) = change.old.as_ref() else { return Err(self.unreadable("a delete without its row")) };
        if !plan.keeps {
            return self.table(plan, Op::Delete, None, Some(old), effects);
        }
        // What the source has not sent whole, and was never here, is no row of this view.
        let Some(old) = self.whole(plan, old, old, effects)? else { return Ok(()) };
        effects.forget(&plan.def.name, Some(&key_form(&plan.def, &plan.keys, &old)))?;
        self.table(plan, Op::Delete, None, Some(&old), effects)
    }

    /// `row` if it is whole, else what is known of the row with the key of `like`, with what `row` has of it.
    fn whole<'r>(
        &self,
        plan: &Plan,
        row: &'r Row,
        like: &Row,
        effects: &mut impl Effects,
    ) -> Result<Option<Cow<'r, Row>>, ViewError> {
        if is_whole(row) {
            return Ok(Some(Cow::Borrowed(row)));
        }
        let Some(latest) = self.latest(plan, like, effects)? else { return Ok(None) };
        Ok(Some(Cow::Owned(filled(row, &latest))))
    }

    fn write(&self, plan: &Plan, change: &Change, effects: &mut impl Effects) -> Result<(), ViewError> {
        let Some(row) = change.row.as_ref() else { return Err(self.unreadable("a write without its row")) };
        let old = change.old_resolved();
        if !plan.keeps {
            let row = match &old {
                Some(old) if !is_whole(row) => Cow::Owned(filled(row, old)),
                _ => Cow::Borrowed(row),
            };
            return self.table(plan, change.op, Some(&row), old.as_ref(), effects);
        }
        let before = match &old {
            Some(old) if change.op == Op::Update => self.whole(plan, old, old, effects)?.map(Cow::into_owned),
            _ => self.latest(plan, row, effects)?,
        };
        // As a table takes it: what is there is changed, and what is not there is added.
        let op = if before.is_some() { Op::Update } else { Op::Insert };
        let row = match &before {
            Some(before) => Cow::Owned(filled(row, before)),
            None => Cow::Borrowed(row),
        };
        if !is_whole(&row) {
            let table = &plan.def.name;
            return Err(self.unreadable(format!("a row of {table} was not sent whole, and was never seen here")));
        }
        let key = key_form(&plan.def, &plan.keys, &row);
        if let Some(before) = &before {
            let gone = key_form(&plan.def, &plan.keys, before);
            if gone != key {
                effects.forget(&plan.def.name, Some(&gone))?;
            }
        }
        effects.keep(&plan.def, &key, &row)?;
        self.table(plan, op, Some(&row), before.as_ref(), effects)
    }
}

fn is_whole(row: &Row) -> bool {
    !row.iter().any(|value| matches!(value.kind, Kind::Unchanged | Kind::Same))
}

/// The row, with the other's values where it has none of its own.
fn filled(row: &Row, other: &Row) -> Row {
    let fill = |(value, other): (&Value, &Value)| match value.kind {
        Kind::Unchanged | Kind::Same => other.clone(),
        _ => value.clone(),
    };
    row.iter().zip(other).map(fill).collect()
}

/// Of work that failed with `stop` and was rolled back: how much of it stands before the entry at which the view stops, and the
/// cursor after that; `None` where there is nothing to apply before it.
pub(crate) fn stands_before(
    stop: &ViewError,
    work: &[Work<'_>],
    upto: Cursor,
    held: Option<Cursor>,
) -> Option<(usize, Cursor)> {
    let at = match stop {
        // Nobody can have it passed over, and yet the view cannot be followed from there on.
        ViewError::Replaced { position, .. } => *position,
        stop => stop.stops_at()?,
    };
    let end = work.iter().position(|item| item.position() >= at).unwrap_or(0);
    let before = match work.get(end) {
        Some(Work::Whole(logged)) => cursor_before(at, logged.entry.header(), upto),
        _ => Cursor { position: Position(at.0.saturating_sub(1)), ..upto },
    };
    let after = held.map_or(Position::ZERO, |held| held.position);
    // Rows of tables come as one transaction before which there is nothing: a cursor there would be without them.
    let stood = end > 0 || after > Position::ZERO;
    (stood && before.position > after).then_some((end, before))
}

/// The cursor before an entry, of which the entry's own tells the epoch if it was first logged there.
fn cursor_before(position: Position, header: &EntryHeader, upto: Cursor) -> Cursor {
    let epoch = header.origin.filter(|origin| origin.log == upto.log).map_or(upto.epoch, |origin| origin.epoch);
    Cursor { epoch, position: Position(position.0.saturating_sub(1)), ..upto }
}
