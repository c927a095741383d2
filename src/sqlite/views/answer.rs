//! Parameters of questions from JSON, and rows of answers into it.

use std::collections::BTreeSet;
use std::time::Instant;

use rusqlite::Statement;
use rusqlite::types::{Null, ValueRef};
use serde_json::Value as Json;

use super::ask::{Rows, Trouble};
use crate::view::{AskError, Bounds};

/// Binds an array to `?` in order, or an object to `:name`, `@name` or `$name`; each must be there, and no other.
pub(super) fn bind(statement: &mut Statement<'_>, given: &Json) -> Result<(), Trouble> {
    let invalid = |why: String| Trouble::Said(AskError::Invalid(why));
    let expected = statement.parameter_count();
    match given {
        Json::Null if expected == 0 => Ok(()),
        Json::Array(values) => {
            if values.len() != expected {
                return Err(invalid(format!(
                    "the statement has {expected} parameters, and {} were given",
                    values.len()
                )));
            }
            values.iter().enumerate().try_for_each(|(index, value)| bind_one(statement, index + 1, value))
        }
        Json::Object(values) => {
            let mut bound = BTreeSet::new();
            for index in 1..=expected {
                let name = statement.parameter_name(index).map(|name| name[1..].to_owned());
                let name =
                    name.ok_or_else(|| invalid("`?` takes its values from an array, not from an object".into()))?;
                let value = values.get(&name);
                let value = value.ok_or_else(|| invalid(format!("the parameter {name} was not given")))?;
                bind_one(statement, index, value)?;
                bound.insert(name);
            }
            match bound.len() == values.len() {
                true => Ok(()),
                false => {
                    let (given, has) = (values.len(), bound.len());
                    Err(invalid(format!("{given} parameters were given, and the statement has {has}")))
                }
            }
        }
        Json::Null => Err(invalid(format!("the statement has {expected} parameters, and none were given"))),
        _ => Err(invalid("params is an array or an object".into())),
    }
}

fn bind_one(statement: &mut Statement<'_>, index: usize, value: &Json) -> Result<(), Trouble> {
    match value {
        Json::Null => statement.raw_bind_parameter(index, Null)?,
        Json::Bool(value) => statement.raw_bind_parameter(index, i64::from(*value))?,
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => statement.raw_bind_parameter(index, whole)?,
            (None, Some(real)) => statement.raw_bind_parameter(index, real)?,
            (None, None) => statement.raw_bind_parameter(index, number.to_string())?,
        },
        Json::String(text) => statement.raw_bind_parameter(index, text.as_str())?,
        nested => statement.raw_bind_parameter(index, nested.to_string())?,
    }
    Ok(())
}

/// All rows, unless there are too many, they are too large, or it takes too long.
pub(super) fn read(statement: &mut Statement<'_>, bounds: Bounds, deadline: Instant) -> Result<Rows, Trouble> {
    let columns: Vec<String> = statement.column_names().map(str::to_owned).collect();
    let mut bytes: usize = columns.iter().map(String::len).sum();
    let mut answer = Vec::new();
    let mut rows = statement.raw_query();
    while let Some(row) = rows.next()? {
        if answer.len() == bounds.rows {
            return Err(AskError::Large { what: "rows", most: bounds.rows }.into());
        }
        if Instant::now() >= deadline {
            return Err(AskError::Slow(bounds.time).into());
        }
        let mut values = Vec::with_capacity(columns.len());
        for index in 0..columns.len() {
            let value = row.get_ref(index)?;
            bytes = bytes.saturating_add(size(value));
            if bytes > bounds.bytes {
                return Err(AskError::Large { what: "bytes", most: bounds.bytes }.into());
            }
            values.push(json(value));
        }
        answer.push(values);
    }
    Ok((columns, answer))
}

/// About as many bytes as it has in an answer.
fn size(value: ValueRef<'_>) -> usize {
    match value {
        ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => 8,
        ValueRef::Text(text) => text.len() + 2,
        ValueRef::Blob(bytes) => 2 * bytes.len() + 4,
    }
}

/// Bytes become `\x…`, and what is no number of JSON becomes text.
fn json(value: ValueRef<'_>) -> Json {
    match value {
        ValueRef::Null => Json::Null,
        ValueRef::Integer(whole) => whole.into(),
        ValueRef::Real(real) => match serde_json::Number::from_f64(real) {
            Some(number) => Json::Number(number),
            None => crate::sqlite::types::real_text(real).into(),
        },
        ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned().into(),
        ValueRef::Blob(bytes) => {
            let mut text = String::with_capacity(2 + 2 * bytes.len());
            text.push_str("\\x");
            bytes.iter().for_each(|byte| text.push_str(&format!("{byte:02x}")));
            text.into()
        }
    }
}
