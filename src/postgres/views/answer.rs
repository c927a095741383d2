//! Parameters of questions from JSON, and values of answers into it.

use serde_json::Value as Json;
use tokio_postgres::types::Type;

use super::text::AsText;
use crate::view::AskError;
use crate::view::sql::Scanned;

/// A question with numbers for its parameters, and their values.
///
/// # Errors
/// The parameters are not those that it names.
pub(super) fn numbered(scanned: &Scanned, given: &Json) -> Result<(String, Vec<AsText>), AskError> {
    let invalid = |why: String| AskError::Invalid(why);
    let values = match given {
        Json::Null => return plain(scanned).map(|sql| (sql, Vec::new())),
        Json::Array(values) => return plain(scanned).map(|sql| (sql, values.iter().map(text).collect())),
        Json::Object(values) => values,
        _ => return Err(invalid("params is an array or an object".into())),
    };
    let mut names: Vec<&str> = Vec::new();
    let (mut sql, mut end) = (String::with_capacity(scanned.sql.len()), 0);
    for (range, name) in &scanned.parameters {
        let known = names.iter().position(|known| known == name);
        let number = known.unwrap_or_else(|| {
            names.push(name);
            names.len() - 1
        });
        sql.push_str(&scanned.sql[end..range.start]);
        sql.push_str(&format!("${}", number + 1));
        end = range.end;
    }
    sql.push_str(&scanned.sql[end..]);
    let mut bound = Vec::with_capacity(names.len());
    for name in &names {
        let value = values.get(*name).ok_or_else(|| invalid(format!("the parameter {name} was not given")))?;
        bound.push(text(value));
    }
    match names.len() == values.len() {
        true => Ok((sql, bound)),
        false => Err(invalid(format!("{} parameters were given, and the statement has {}", values.len(), names.len()))),
    }
}

fn plain(scanned: &Scanned) -> Result<String, AskError> {
    match scanned.parameters.first() {
        None => Ok(scanned.sql.clone()),
        Some((_, name)) => Err(AskError::Invalid(format!(
            "the parameter {name} was not given: `:name` takes its values from an object"
        ))),
    }
}

fn text(value: &Json) -> AsText {
    AsText(match value {
        Json::Null => None,
        Json::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    })
}

/// A value of that type as JSON: numbers that keep their digits, objects and lists, and the rest as text.
pub(super) fn json(text: Option<&str>, of: &Type) -> Json {
    let Some(text) = text else { return Json::Null };
    match *of {
        Type::BOOL => Json::Bool(text == "true" || text == "t"),
        Type::INT2 | Type::INT4 | Type::INT8 | Type::OID => {
            text.parse::<i64>().map_or_else(|_| text.into(), Json::from)
        }
        Type::FLOAT4 | Type::FLOAT8 => real(text).unwrap_or_else(|| text.into()),
        Type::NUMERIC => {
            let digits = text.bytes().filter(u8::is_ascii_digit).count();
            match text.parse::<i64>() {
                Ok(whole) => whole.into(),
                // A double keeps so many digits, whatever they are.
                Err(_) if digits <= 15 => real(text).unwrap_or_else(|| text.into()),
                Err(_) => text.into(),
            }
        }
        Type::JSON | Type::JSONB => serde_json::from_str(text).unwrap_or_else(|_| text.into()),
        _ => text.into(),
    }
}

fn real(text: &str) -> Option<Json> {
    serde_json::Number::from_f64(text.parse().ok()?).map(Json::Number)
}
