//! CEL over JSON: values in and out, and expressions whose names are known. (Common Expression Language, <https://cel.dev>)

use std::collections::{BTreeSet, HashMap};

use cel::common::ast::{EntryExpr, Expr, IdedExpr};
use cel::objects::Key;
use cel::{Context, Program, Value};
use serde_json::Value as Json;

use crate::model::limits;

/// A JSON value as CEL sees it: whole numbers of 64 bits are integers.
pub(crate) fn cel_json(value: &Json) -> Value {
    match value {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => match number.as_i64() {
            Some(whole) => Value::Int(whole),
            None => Value::Float(number.as_f64().unwrap_or(f64::INFINITY)),
        },
        Json::String(text) => text.as_str().into(),
        Json::Array(list) => list.iter().map(cel_json).collect::<Vec<_>>().into(),
        Json::Object(members) => {
            let map: HashMap<Key, Value> =
                members.iter().map(|(name, value)| (Key::from(name.as_str()), cel_json(value))).collect();
            map.into()
        }
    }
}

/// A CEL value as JSON, where that gives the same value when it is read again.
///
/// # Errors
/// Words: it is of a kind that JSON does not have.
pub(crate) fn json_of(value: &Value) -> Result<Json, String> {
    Ok(match value {
        Value::Null => Json::Null,
        Value::Bool(value) => Json::Bool(*value),
        Value::Int(number) => Json::from(*number),
        Value::UInt(number) => {
            let number =
                i64::try_from(*number).map_err(|_| format!("{number} is more than 64 bits with a sign have"))?;
            Json::from(number)
        }
        Value::Float(number) => {
            let number = serde_json::Number::from_f64(*number).ok_or_else(|| format!("{number} is no JSON number"))?;
            Json::Number(number)
        }
        Value::String(text) => Json::String(text.to_string()),
        Value::List(list) => Json::Array(list.iter().map(json_of).collect::<Result<_, _>>()?),
        Value::Map(map) => {
            let member = |(key, value): (&Key, &Value)| match key {
                Key::String(name) => Ok((name.to_string(), json_of(value)?)),
                other => Err(format!("the key {other:?} of a map is not a text")),
            };
            // Sorted by name, whatever the map's order.
            Json::Object(map.map.iter().map(member).collect::<Result<_, String>>()?)
        }
        other => return Err(format!("{other:?} has no form in JSON")),
    })
}

/// A compiled expression over variables of known names.
pub(crate) struct CelExpression {
    source: Box<str>,
    program: Program,
    root: Context<'static, 'static>,
    uses: BTreeSet<String>,
}

impl std::fmt::Debug for CelExpression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.source.fmt(f)
    }
}

impl CelExpression {
    /// Compiles it.
    ///
    /// # Errors
    /// Words: it is no CEL, too long, or uses other names.
    pub(crate) fn new(source: &str, names: &[&str]) -> Result<CelExpression, String> {
        if source.len() > limits::FILTER_BYTES_MAX {
            return Err(format!("an expression of {} bytes is longer than {}", source.len(), limits::FILTER_BYTES_MAX));
        }
        let program = Program::compile(source).map_err(|error| format!("not a CEL expression: {error}"))?;
        let mut bound = BTreeSet::new();
        bind(program.expression(), &mut bound);
        let mut uses = BTreeSet::new();
        for name in program.references().variables() {
            if names.contains(&name) {
                uses.insert(name.to_string());
            } else if !bound.contains(name) {
                let hint = if names.is_empty() { "no names at all".into() } else { names.join(", ") };
                return Err(format!("unknown name {name:?}: it may use {hint}"));
            }
        }
        Ok(CelExpression { source: source.into(), program, root: Context::default(), uses })
    }

    /// Whether it uses that name.
    pub(crate) fn uses(&self, name: &str) -> bool {
        self.uses.contains(name)
    }

    /// Its value; `of` gives those of the names that it uses.
    ///
    /// # Errors
    /// What CEL says, with the expression.
    pub(crate) fn value(&self, of: impl Fn(&str) -> Value) -> Result<Value, String> {
        let mut context = self.root.new_inner_scope();
        for name in &self.uses {
            context.add_variable_from_value(name.as_str(), of(name));
        }
        self.program.execute(&context).map_err(|error| format!("{:?} fails: {error}", self.source))
    }
}

/// Collects the variables that macros bind.
fn bind(node: &IdedExpr, bound: &mut BTreeSet<String>) {
    match &node.expr {
        Expr::Select(select) => bind(&select.operand, bound),
        Expr::Call(call) => call.target.as_deref().into_iter().chain(&call.args).for_each(|part| bind(part, bound)),
        Expr::List(list) => list.elements.iter().for_each(|element| bind(element, bound)),
        Expr::Map(map) => {
            for entry in &map.entries {
                if let EntryExpr::MapEntry(entry) = &entry.expr {
                    bind(&entry.key, bound);
                    bind(&entry.value, bound);
                }
            }
        }
        Expr::Comprehension(inner) => {
            bound.extend([inner.iter_var.clone(), inner.accu_var.clone()]);
            bound.extend(inner.iter_var2.clone());
            for part in [&inner.iter_range, &inner.accu_init, &inner.loop_cond, &inner.loop_step, &inner.result] {
                bind(part, bound);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn value(source: &str, state: Json) -> Result<Json, String> {
        json_of(&CelExpression::new(source, &["state"])?.value(|_| cel_json(&state))?)
    }

    #[test]
    fn values_go_in_and_come_out() {
        let state = json!({"b": [1, 2.5, "x", null, true], "a": {"z": 1, "y": 2}});
        assert_eq!(value("state", state.clone()), Ok(state));
        assert_eq!(value("{'n': state.n + 1}", json!({"n": 1})), Ok(json!({"n": 2})));
        assert_eq!(value("[1, 2, 3].map(x, x * state)", json!(2)), Ok(json!([2, 4, 6])));
        assert_eq!(value("uint(3)", json!(0)), Ok(json!(3)));
    }

    #[test]
    fn what_json_cannot_say_is_an_error() {
        for source in ["b'x'", "{1: 2}", "1.0 / 0.0", "uint(18446744073709551615)", "state.no", "1 / 0"] {
            assert!(value(source, json!({})).is_err(), "{source}");
        }
    }

    #[test]
    fn mistakes_are_found_at_load() {
        assert!(CelExpression::new("state +", &["state"]).is_err_and(|why| why.contains("not a CEL")));
        assert!(CelExpression::new("stat", &["state"]).is_err_and(|why| why.contains("unknown name \"stat\"")));
        assert!(CelExpression::new(&" ".repeat(9_000), &[]).is_err_and(|why| why.contains("longer")));
        assert!(CelExpression::new("[1].all(x, x > 0)", &[]).is_ok(), "a macro's own variable is known");
    }
}
