//! Keys: what the file may contain, by the schema of its structs; unknown ones are mistakes with a suggestion.

use std::ops::Range;

use schemars::generate::SchemaSettings;
use serde_json::Value as Json;
use toml::de::{DeTable, DeValue};

use super::{Config, Mistake};

/// The JSON schema of the file.
pub fn schema() -> Json {
    SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<Config>().to_value()
}

/// The nearest of some names, if one is near.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let near = known.into_iter().map(|other| (strsim::jaro_winkler(name, other), other));
    near.filter(|(score, _)| *score > 0.8).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, other)| other)
}

/// Follows references and skips `null` alternatives.
pub fn resolve<'a>(schema: &'a Json, root: &'a Json) -> &'a Json {
    if let Some(name) = schema["$ref"].as_str().and_then(|text| text.strip_prefix("#/$defs/")) {
        return resolve(&root["$defs"][name], root);
    }
    let alternatives = schema["anyOf"].as_array().or_else(|| schema["allOf"].as_array());
    match alternatives.and_then(|all| all.iter().find(|one| one["type"] != "null")) {
        Some(one) => resolve(one, root),
        None => schema,
    }
}

/// The schema at a dotted path, with the description that stands nearest to it.
pub fn describe<'a>(path: &str, root: &'a Json) -> Option<(&'a Json, Option<&'a str>)> {
    let mut at = root;
    let mut description = None;
    for key in path.split('.').filter(|key| !key.is_empty()) {
        let mut here = resolve(at, root);
        if here["type"] == "array" {
            here = resolve(&here["items"], root);
        }
        let property = here["properties"].get(key);
        at = property.or_else(|| here.get("additionalProperties").filter(|any| any.is_object()))?;
        let nearby = at["description"].as_str();
        description = nearby.or_else(|| resolve(at, root)["description"].as_str());
    }
    Some((resolve(at, root), description))
}

/// The names that may stand at a place.
pub fn known_keys(schema: &Json) -> Vec<&str> {
    schema["properties"].as_object().map(|all| all.keys().map(String::as_str).collect()).unwrap_or_default()
}

/// Takes the unknown keys out of a table, with a mistake for each.
pub(super) fn take_unknown(
    table: &mut DeTable<'_>,
    schema: &Json,
    root: &Json,
    path: &str,
    mistakes: &mut Vec<Mistake>,
) {
    let schema = resolve(schema, root);
    let known = known_keys(schema);
    let mut unknown = Vec::new();
    for (key, value) in table.iter_mut() {
        let name = key.get_ref();
        let full = if path.is_empty() { name.to_string() } else { format!("{path}.{name}") };
        match schema["properties"].get(&**name).or_else(|| schema.get("additionalProperties")) {
            Some(inner) if inner.is_object() => descend(value.get_mut(), inner, root, &full, mistakes),
            Some(Json::Bool(false)) => {
                let section = value.get_ref().is_table();
                mistakes.push(unknown_key(name, key.span(), path, &known, section));
                unknown.push(name.to_string());
            }
            _ => {}
        }
    }
    for name in unknown {
        table.remove(name.as_str());
    }
}

fn descend(value: &mut DeValue<'_>, schema: &Json, root: &Json, path: &str, mistakes: &mut Vec<Mistake>) {
    match value {
        DeValue::Table(table) => take_unknown(table, schema, root, path, mistakes),
        DeValue::Array(list) => {
            let items = &resolve(schema, root)["items"];
            for item in list.iter_mut() {
                if let DeValue::Table(table) = item.get_mut() {
                    take_unknown(table, items, root, path, mistakes);
                }
            }
        }
        _ => {}
    }
}

fn unknown_key(name: &str, span: Range<usize>, path: &str, known: &[&str], section: bool) -> Mistake {
    let place = if path.is_empty() { "the file".to_string() } else { format!("[{path}]") };
    let what = match (path.is_empty(), section) {
        (true, true) => format!("there is no section [{name}]"),
        _ => format!("`{name}` is not a key of {place}"),
    };
    let fix = match nearest(name, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("remove it; `watershed config explain {path}` lists the keys").replace("  ", " "),
    };
    Mistake { code: "WS-CFG-005", what, why: format!("{place} knows {}", known.join(", ")), fix, span: Some(span) }
}
