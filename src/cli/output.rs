//! Printing: data on stdout, everything else on stderr.

use std::io::{IsTerminal, Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::{Map, Value as Json};

use super::exit::{Exit, ExitError};

/// Writes text and a newline to stdout.
pub(super) fn line(text: &str) -> Result<(), ExitError> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    if !text.ends_with('\n') {
        out.write_all(b"\n")?;
    }
    Ok(out.flush()?)
}

/// A time as it came; on a terminal in local time, to the millisecond.
pub(super) fn time(text: &str) -> String {
    match text.parse::<jiff::Timestamp>() {
        Ok(time) if std::io::stdout().is_terminal() => {
            time.to_zoned(jiff::tz::TimeZone::system()).strftime("%F %H:%M:%S%.3f").to_string()
        }
        _ => text.to_owned(),
    }
}

/// Writes over what the terminal shows, without flicker.
pub(super) fn screen(text: &str) -> Result<(), ExitError> {
    let lines = text.lines().map(|line| format!("{line}\x1b[K\n")).collect::<String>();
    line(&format!("\x1b[H{lines}\x1b[J"))
}

/// Writes an object in one line, with `"schema":1`.
pub(super) fn object(mut fields: Json) -> Result<(), ExitError> {
    if let Json::Object(fields) = &mut fields {
        fields.entry("schema").or_insert(1.into());
    }
    line(&fields.to_string())
}

/// A table without lines, fit for the eye and for `awk`.
pub(super) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header);
    table.add_rows(rows);
    let lines = table.lines().map(|line| line.trim_end().trim_start_matches(' ').to_string());
    lines.collect::<Vec<_>>().join("\n")
}

/// Keys that come first in tables, in this order; the others follow by name.
const FIRST: [&str; 12] =
    ["name", "table", "role", "state", "position", "tail", "oldest", "sent", "received", "lag", "lag_ms", "epoch"];

fn ordered<'a>(keys: impl Iterator<Item = &'a String>) -> Vec<&'a str> {
    let mut keys: Vec<&str> = keys.map(String::as_str).collect();
    let rank = |key: &str| FIRST.iter().position(|first| *first == key).unwrap_or(FIRST.len());
    keys.sort_by_key(|key| (rank(key), *key));
    keys.dedup();
    keys
}

fn scalar(value: &Json) -> String {
    match value {
        Json::Null => "-".into(),
        Json::Number(number) if number.is_f64() => format!("{:.1}", number.as_f64().unwrap_or_default()),
        Json::String(text) => text.replace('\n', " "),
        Json::Array(list) => list.iter().map(scalar).collect::<Vec<_>>().join(", "),
        Json::Object(fields) => ordered(fields.keys())
            .iter()
            .map(|key| format!("{key}={}", scalar(&fields[*key])))
            .collect::<Vec<_>>()
            .join(" "),
        other => other.to_string(),
    }
}

/// An answer of a node for people: plain fields first, then a table per list.
pub(super) fn answer(answer: &Json) -> String {
    let Json::Object(fields) = answer else { return scalar(answer) };
    let mut text = String::new();
    let is_list = |value: &Json| value.as_array().is_some_and(|list| list.iter().any(Json::is_object));
    for key in ordered(fields.keys()).into_iter().filter(|key| *key != "schema" && !is_list(&fields[*key])) {
        text.push_str(&format!("{key:<12} {}\n", scalar(&fields[key])));
    }
    for (key, value) in fields.iter().filter(|(_, value)| is_list(value)) {
        text.push_str(&format!("\n{}\n{}\n", key.to_uppercase(), list(value)));
    }
    text.trim_start_matches('\n').to_string()
}

/// A list of objects as a table with the union of their keys.
pub(super) fn list(value: &Json) -> String {
    let items: Vec<&Map<String, Json>> = value.as_array().into_iter().flatten().filter_map(Json::as_object).collect();
    let keys: std::collections::BTreeSet<&String> = items.iter().flat_map(|item| item.keys()).collect();
    let keys = ordered(keys.into_iter());
    let rows = items.iter().map(|item| keys.iter().map(|key| item.get(*key).map_or("-".into(), scalar)).collect());
    table(&keys, &rows.collect::<Vec<_>>())
}

/// Asks before something that cannot be undone.
pub(super) fn confirm(yes: bool, what: &str) -> Result<(), ExitError> {
    if yes {
        return Ok(());
    }
    let refused = |why: &str| {
        ExitError::new("WS-CLI-003", Exit::Usage, format!("not confirmed: {what}"), why, "give --yes if you mean it")
    };
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Err(refused("this cannot be undone, and there is no terminal to ask at"));
    }
    eprint!("This will {what}. Type yes to go on: ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    if answer.trim() == "yes" { Ok(()) } else { Err(refused("the answer was not yes")) }
}

/// Prints that an action was done.
pub(super) fn done(as_json: bool, answer: Json, what: &str) -> Result<(), ExitError> {
    if as_json {
        return object(answer);
    }
    let said = answer["message"].as_str().unwrap_or("done");
    eprintln!("{what}: {said}");
    Ok(())
}
