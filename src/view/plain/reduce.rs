//! `reduce`: a state that every row changes, by an expression in CEL; one state, or one for each value of another expression.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read, Write};

use cel::Value;
use serde_json::Value as Json;

use super::super::cel::{CelExpression, cel_json, json_of};
use super::super::machine::{RowChange, Rows, Select, Transaction, put};
use super::super::{AskError, Bounds, Question, ViewError};
use super::settings::ReduceSettings;
use crate::model::limits;

/// States by key.
#[derive(Debug)]
pub(super) struct Reduce {
    init: Value,
    step: CelExpression,
    by: Option<CelExpression>,
    states: HashMap<Box<str>, Value>,
}

/// What a row's expressions see, beside `state`.
const ROW_NAMES: [&str; 7] = ["row", "old", "key", "table", "op", "position", "time"];
const COLUMNS: [&str; 2] = ["key", "state"];

impl Reduce {
    /// Compiles its expressions.
    ///
    /// # Errors
    /// Words: which one is wrong, and why.
    pub(super) fn new(settings: &ReduceSettings) -> Result<Reduce, String> {
        let names: Vec<&str> = ["state"].into_iter().chain(ROW_NAMES).collect();
        let init = CelExpression::new(&settings.init, &[]).and_then(|init| init.value(|_| Value::Null));
        let init = init.and_then(checked).map_err(|why| format!("init: {why}"))?;
        let step = CelExpression::new(&settings.step, &names).map_err(|why| format!("step: {why}"))?;
        let by = settings.by.as_deref().map(|by| CelExpression::new(by, &ROW_NAMES)).transpose();
        Ok(Reduce { init, step, by: by.map_err(|why| format!("by: {why}"))?, states: HashMap::new() })
    }

    pub(super) fn apply(&mut self, transaction: &Transaction<'_>) -> Result<(), ViewError> {
        // Nothing of a transaction that fails is kept.
        let mut changed: BTreeMap<Box<str>, Value> = BTreeMap::new();
        transaction.rows(|change| {
            self.change(transaction, &change, &mut changed).map_err(|why| transaction.refuse(&change.table.name, why))
        })?;
        for (key, state) in changed {
            match state {
                Value::Null => drop(self.states.remove(&key)),
                state => drop(self.states.insert(key, state)),
            }
        }
        Ok(())
    }

    fn change(
        &self,
        transaction: &Transaction<'_>,
        change: &RowChange<'_>,
        changed: &mut BTreeMap<Box<str>, Value>,
    ) -> Result<(), String> {
        let uses = |name: &str| self.step.uses(name) || self.by.as_ref().is_some_and(|by| by.uses(name));
        let read = |name: &str, text: Option<&str>| match text.filter(|_| uses(name)) {
            Some(text) => serde_json::from_str(text).map(|json| cel_json(&json)).map_err(|error| error.to_string()),
            None => Ok(Value::Null),
        };
        let (row, old) = (read("row", change.row)?, read("old", change.old)?);
        let of = |name: &str| match name {
            "row" => row.clone(),
            "old" => old.clone(),
            "key" => change.key.map_or(Value::Null, Value::from),
            "table" => change.table.name.as_str().into(),
            "op" => change.op.name().into(),
            "position" => Value::Int(transaction.position().0 as i64),
            _ => Value::Int(transaction.header().time.0),
        };
        let key = match &self.by {
            None => Box::from(""),
            Some(by) => match key_text(by.value(of)?)? {
                Some(key) => key,
                None => return Ok(()),
            },
        };
        let before = changed.get(&key).or_else(|| self.states.get(&key)).filter(|state| !matches!(state, Value::Null));
        let before = before.unwrap_or(&self.init).clone();
        let after = self.step.value(|name| if name == "state" { before.clone() } else { of(name) })?;
        changed.insert(key, checked(after)?);
        Ok(())
    }

    pub(super) fn rows(&self) -> u64 {
        self.states.len() as u64
    }

    pub(super) fn ask(&self, question: &Question, bounds: &Bounds) -> Result<Rows, AskError> {
        let select = Select::of(question)?;
        if select.table != "states" {
            return Err(select.no_table(&["states"]));
        }
        let key = select.value_of(&["key"])?;
        let mut rows = Rows::new(&COLUMNS, bounds);
        let mut push = |key: &str, state: &Value| {
            let state = json_of(state).map_err(AskError::Failed)?;
            rows.push(vec![Json::from(key), state])
        };
        let most = select.limit.unwrap_or(usize::MAX);
        match key {
            Some(key) => self.states.get(key).into_iter().take(most).try_for_each(|state| push(key, state))?,
            None => self.states.iter().take(most).try_for_each(|(key, state)| push(key, state))?,
        }
        select.found(rows)
    }

    pub(super) fn save(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut all: Vec<_> = self.states.iter().collect();
        all.sort_unstable_by_key(|(key, _)| *key);
        put::number(out, all.len() as u64)?;
        for (key, state) in all {
            put::text(out, key)?;
            put::text(out, &json_of(state).map_err(io::Error::other)?.to_string())?;
        }
        Ok(())
    }

    pub(super) fn load(&mut self, from: &mut dyn Read) -> io::Result<()> {
        self.states.clear();
        for _ in 0..put::read_number(from)? {
            let key = put::read_text(from)?;
            let state: Json = serde_json::from_str(&put::read_text(from)?)?;
            self.states.insert(key.into(), cel_json(&state));
        }
        Ok(())
    }
}

/// A state that is the same when it is saved and read again, and not too large.
fn checked(state: Value) -> Result<Value, String> {
    // The usual ones need no look at their JSON.
    match state {
        Value::Int(_) | Value::Bool(_) | Value::Null => return Ok(state),
        Value::Float(number) if number.is_finite() => return Ok(state),
        _ => {}
    }
    let json = json_of(&state)?;
    if !is_shallow(&json, limits::REDUCE_STATE_DEPTH_MAX) {
        return Err(format!("a state of more than {} levels", limits::REDUCE_STATE_DEPTH_MAX));
    }
    let bytes = json.to_string().len();
    match bytes > limits::REDUCE_STATE_BYTES_MAX {
        true => Err(format!("a state of {bytes} bytes is larger than {}", limits::REDUCE_STATE_BYTES_MAX)),
        false => Ok(cel_json(&json)),
    }
}

fn is_shallow(json: &Json, levels: usize) -> bool {
    match json {
        Json::Array(all) => levels > 0 && all.iter().all(|one| is_shallow(one, levels - 1)),
        Json::Object(all) => levels > 0 && all.values().all(|one| is_shallow(one, levels - 1)),
        _ => true,
    }
}

/// The key that a state has; `None`: the row changes none.
fn key_text(value: Value) -> Result<Option<Box<str>>, String> {
    match json_of(&value)? {
        Json::Null => Ok(None),
        Json::String(text) => Ok(Some(text.into())),
        Json::Array(_) | Json::Object(_) => Err("`by` gives neither a text nor a number".into()),
        other => Ok(Some(other.to_string().into())),
    }
}
