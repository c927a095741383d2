//! Net effects as statements that write many rows.

use std::fmt::Write as _;

use tokio_postgres::types::Type;

use super::array::Array;
use super::copying::{CopyText, copy_statement};
use super::link::{Call, Link};
use super::merge::{Fate, Net};
use super::ops::{Codes, Encoder, Ops, put_value};
use super::raw::{Cell, Head};
use super::shape::{MISSING, Mode};
use super::target::{Class, Target};
use crate::model::{Fingerprint, Kind, Op, limits};

/// A statement that writes many rows of a table: what it is for, and the columns that have a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Bulk {
    table: Fingerprint,
    /// Removes rows; else it updates them.
    removes: bool,
    present: Vec<bool>,
}

/// Rows for such a statement, column by column.
struct Columns {
    bulk: Bulk,
    fields: Vec<usize>,
    arrays: Vec<Array>,
}

/// A function that is not yet known at the server.
pub(super) struct Unknown {
    pub bulk: Bulk,
    /// Its parameters, as they are declared.
    pub params: String,
    pub count: usize,
    pub body: String,
}

/// What tables' net effects take, in this order; removals come before what may need their place.
pub(super) struct Effects {
    /// Few removals.
    pub first: Ops,
    /// Which functions are called, with the arrays.
    calls: Vec<(Bulk, Vec<Array>)>,
    /// Few updates and inserts.
    pub last: Ops,
    /// Rows that come by COPY, with its statement.
    pub copies: Vec<(String, Vec<u8>)>,
    pub unknown: Vec<Unknown>,
}

/// The element type of a column's array, and its name.
fn element(class: Class) -> (Type, &'static str) {
    match class {
        Class::Integer(2) => (Type::INT2, "int2"),
        Class::Integer(4) => (Type::INT4, "int4"),
        Class::Integer(_) => (Type::INT8, "int8"),
        _ => (Type::TEXT, "text"),
    }
}

fn put(array: &mut Array, target: &Target, i: usize, cell: Cell<'_>) -> Option<()> {
    let field = &target.columns[i];
    let Class::Integer(width) = field.class else { return put_value(array, field, cell).ok() };
    if cell.kind == Kind::Null {
        array.null();
        return Some(());
    }
    let number: i64 = std::str::from_utf8(cell.text).ok()?.parse().ok()?;
    match width {
        2 => array.put(&i16::try_from(number).ok()?.to_be_bytes()),
        4 => array.put(&i32::try_from(number).ok()?.to_be_bytes()),
        _ => array.put(&number.to_be_bytes()),
    }
    Some(())
}

/// Rows as the key's index has them, about: neighbours are found on the same pages. Where rows may stand in each other's
/// way the order in which they came is the better one.
fn in_key_order(target: &Target, rows: &mut [&[Cell<'_>]]) {
    match target.key.as_slice() {
        [only] if matches!(target.columns[*only].class, Class::Integer(_)) => {
            let number = |row: &&[Cell<'_>]| std::str::from_utf8(row[*only].text).ok()?.parse::<i64>().ok();
            rows.sort_by_cached_key(number);
        }
        key => rows.sort_by(|a, b| key.iter().map(|&i| a[i].text).cmp(key.iter().map(|&i| b[i].text))),
    }
}

impl Columns {
    fn of(target: &Target, removes: bool, present: Vec<bool>) -> Columns {
        let fields: Vec<usize> = match removes {
            true => target.key.clone(),
            // The key first, by which the rows are found.
            false => {
                let others = target.written.iter().copied().filter(|i| present[*i] && !target.key.contains(i));
                target.key.iter().copied().chain(others).collect()
            }
        };
        let arrays = fields.iter().map(|&i| Array::of(element(target.columns[i].class).0.oid())).collect();
        Columns { bulk: Bulk { table: target.def.fingerprint, removes, present }, fields, arrays }
    }

    fn row(&mut self, target: &Target, row: &[Cell<'_>]) -> Option<()> {
        for (array, &i) in self.arrays.iter_mut().zip(&self.fields) {
            put(array, target, i, row[i])?;
        }
        Some(())
    }

    /// The function's parameters, and the rows that they are.
    fn from(&self, target: &Target) -> (String, String) {
        let types: Vec<String> = self
            .fields
            .iter()
            .enumerate()
            .map(|(n, &i)| format!("ws__a{n} {}[]", element(target.columns[i].class).1))
            .collect();
        let arrays: Vec<String> = (0..self.fields.len()).map(|n| format!("ws__a{n}")).collect();
        let names: Vec<String> = (0..self.fields.len()).map(|n| format!("ws__{n}")).collect();
        (types.join(", "), format!("unnest({}) AS ws__d({})", arrays.join(", "), names.join(", ")))
    }

    fn value(&self, target: &Target, n: usize) -> String {
        let field = &target.columns[self.fields[n]];
        match field.class {
            Class::Integer(_) => format!("ws__d.ws__{n}"),
            _ => format!("ws__d.ws__{n}::{}", field.cast),
        }
    }

    /// The function's parameters and its body.
    fn function(&self, target: &Target) -> (String, String) {
        let (types, from) = self.from(target);
        let keys = target.key.len();
        let same: Vec<String> = (0..keys)
            .map(|n| format!("ws__t.{} = {}", target.columns[self.fields[n]].name, self.value(target, n)))
            .collect();
        let same = same.join(" AND ");
        let mut body = String::from("#variable_conflict use_column\nDECLARE ws__n int8; BEGIN ");
        if self.bulk.removes {
            let _ = write!(body, "DELETE FROM {} AS ws__t USING {from} WHERE {same}; END", target.own_rows);
            return (types, body);
        }
        let sets: Vec<String> = (keys..self.fields.len())
            .filter(|&n| !target.columns[self.fields[n]].always)
            .map(|n| format!("{} = {}", target.columns[self.fields[n]].name, self.value(target, n)))
            .collect();
        // Only a key: then it is only seen whether the row is there.
        let sets = if sets.is_empty() {
            format!("{0} = ws__t.{0}", target.columns[self.fields[0]].name)
        } else {
            sets.join(", ")
        };
        let _ = write!(
            body,
            "UPDATE {} AS ws__t SET {sets} FROM {from} WHERE {same}; GET DIAGNOSTICS ws__n = ROW_COUNT; IF ws__n <> cardinality(ws__a0) THEN ",
            target.own_rows
        );
        let whole = self.fields.len() == target.written.len();
        if whole && target.arbiter {
            let names: Vec<&str> = self.fields.iter().map(|&i| target.columns[i].name.as_str()).collect();
            let values: Vec<String> = (0..self.fields.len()).map(|n| self.value(target, n)).collect();
            let _ = write!(
                body,
                "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {from}{};",
                target.rel,
                names.join(", "),
                values.join(", "),
                target.on_conflict(&self.fields)
            );
        } else {
            let _ = write!(body, "RAISE EXCEPTION 'a row to update is missing' USING ERRCODE = '{MISSING}';");
        }
        body.push_str(" END IF; END");
        (types, body)
    }
}

impl Effects {
    pub(super) fn new() -> Effects {
        let (first, last) = (Ops::new(), Ops::new());
        Effects { first, calls: Vec::new(), last, copies: Vec::new(), unknown: Vec::new() }
    }

    /// Adds what a table's net effect takes; `None` if it has to be done in order after all.
    pub(super) fn add(&mut self, link: &Link, codes: &mut Codes, target: &mut Target, net: &Net<'_>) -> Option<()> {
        self.remove(link, codes, target, net)?;
        let few = |count: usize| count <= limits::APPLY_FEW_ROWS;
        let with = |fate: Fate| net.rows().filter(move |(row, _)| row.fate == fate);
        let mut changed: Vec<&[Cell<'_>]> = with(Fate::Changed).map(|(_, cells)| cells).collect();
        if target.others.is_empty() {
            in_key_order(target, &mut changed);
        }
        let (few_changed, few_new) = (few(changed.len()), few(with(Fate::New).count()));
        let mut single = Encoder { codes, ops: &mut self.last, mode: Mode::Strict };
        let mut updates: Vec<Columns> = Vec::new();
        let mut latest = 0;
        for cells in changed {
            if few_changed {
                single.update_by(target, cells, cells, false).ok()?;
                continue;
            }
            let same =
                |columns: &Columns| columns.bulk.present.iter().zip(cells).all(|(p, cell)| *p != cell.is_unchanged());
            if !updates.get(latest).is_some_and(same) {
                latest = updates.iter().position(same).unwrap_or(updates.len());
                if latest == updates.len() {
                    let present = cells.iter().map(|cell| !cell.is_unchanged()).collect();
                    updates.push(Columns::of(target, false, present));
                }
            }
            updates[latest].row(target, cells)?;
        }
        let mut text = CopyText::default();
        for (_, cells) in with(Fate::New) {
            match few_new || target.upsert {
                true => single.put(target, cells).ok()?,
                false => text.row(target, &target.written, cells).ok()?,
            }
        }
        if text.rows > 0 {
            self.copies.push((copy_statement(target, &target.written), text.bytes));
        }
        updates.into_iter().for_each(|columns| self.call(link, target, columns));
        Some(())
    }

    fn remove(&mut self, link: &Link, codes: &mut Codes, target: &mut Target, net: &Net<'_>) -> Option<()> {
        let mut single = Encoder { codes, ops: &mut self.first, mode: Mode::Strict };
        if net.truncated {
            let head = Head { table: 0, op: Op::Truncate, has_row: false, has_old: false };
            return single.change(target, head, &mut [], &mut []).ok();
        }
        let gone = net.rows().filter(|(row, _)| row.removed || row.fate == Fate::Gone);
        let mut gone: Vec<&[Cell<'_>]> = gone.map(|(_, cells)| cells).collect();
        if gone.len() <= limits::APPLY_FEW_ROWS {
            return gone.into_iter().try_for_each(|cells| single.delete(target, cells)).ok();
        }
        in_key_order(target, &mut gone);
        let mut columns = Columns::of(target, true, Vec::new());
        gone.into_iter().try_for_each(|cells| columns.row(target, cells))?;
        self.call(link, target, columns);
        Some(())
    }

    fn call(&mut self, link: &Link, target: &Target, columns: Columns) {
        let known = link.bulk(&columns.bulk).is_some() || self.unknown.iter().any(|known| known.bulk == columns.bulk);
        if !known {
            let (params, body) = columns.function(target);
            self.unknown.push(Unknown { bulk: columns.bulk.clone(), params, count: columns.fields.len(), body });
        }
        self.calls.push((columns.bulk, columns.arrays));
    }

    /// The calls of functions, which must be known by now.
    pub(super) fn take_calls(&mut self, link: &Link) -> Option<Vec<Call>> {
        let calls = std::mem::take(&mut self.calls).into_iter().map(|(bulk, arrays)| {
            let statement = link.bulk(&bulk)?.clone();
            Some(Call { statement, params: arrays.into_iter().map(Array::finish).collect() })
        });
        calls.collect()
    }
}
