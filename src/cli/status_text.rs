//! A node's answers as text: problems first, then what is measured, aligned.

use serde_json::Value as Json;

use super::output::table;
use crate::model::Timestamp;

/// So many positions are told in one line.
const PASSED_OVER_TOLD: usize = 5;

/// `status`.
pub(super) fn status(answer: &Json) -> String {
    let ready = if answer["ready"] == true { "ready" } else { "NOT READY" };
    let up = since(&answer["started"]).map(|up| format!(", up {up}")).unwrap_or_default();
    let mut text = format!("{}  {ready}{up}, watershed {}\n", word(&answer["node"]), word(&answer["version"]));
    let problems = list(&answer["problems"]);
    if !problems.is_empty() {
        text.push_str("\nPROBLEMS\n");
        problems.iter().for_each(|problem| text.push_str(&format!("  ! {}\n", sentence(problem))));
    }
    text.push('\n');
    text.push_str(&database(&answer["database"], &answer["log"]));
    for copy in list(&answer["copies"]) {
        text.push_str(&database_copy(copy));
    }
    text.push_str(&log(&answer["log"]));
    let mut section = |title: &str, rows: Option<String>| {
        if let Some(rows) = rows {
            text.push_str(&format!("\n{title}\n{}\n", indented(&rows)));
        }
    };
    section("LINKS", links(&answer["links"]));
    section("MIRRORS", mirrors(&answer["mirrors"]));
    section("VIEWS", views(&answer["views"]));
    section("TABLES THAT DO NOT MOVE WITH THE OTHERS", lanes(&answer["tables"]));
    section("OTHER NODES' LOGS, AS FAR AS THEY HAVE COME HERE", heads(&answer["heads"]));
    let counters = &answer["counters"];
    let refused = match counters["refused_writes"].as_u64() {
        Some(0) | None => String::new(),
        Some(count) => format!(", {count} REFUSED (written by a node that does not own the row)"),
    };
    text.push_str(&format!(
        "\nSince the start: {} transactions captured, {} received, {} rows copied{refused}\n",
        word(&counters["captured"]),
        word(&counters["received"]),
        word(&counters["copied_rows"]),
    ));
    text
}

/// `peer ls`: `None` where there is none.
pub(super) fn links(links: &Json) -> Option<String> {
    let row = |link: &Json| {
        let state = match link["retry_ms"].as_f64() {
            Some(ms) if ms > 0.0 => format!("{}, again in {}", word(&link["state"]), milliseconds(ms)),
            _ => word(&link["state"]),
        };
        let lag = link["lag_ms"].as_f64().map_or_else(|| "-".into(), milliseconds);
        let (received, sent) = (word(&link["received"]), word(&link["acknowledged"]));
        let tail = [lag, word(&link["behind"]), received, sent, detail(&link["error"])];
        [word(&link["name"]), word(&link["role"]), state].into_iter().chain(tail).collect()
    };
    rows(links, &["NAME", "ROLE", "STATE", "LAG", "BEHIND", "RECEIVED", "ACKED", ""], row)
}

fn mirrors(mirrors: &Json) -> Option<String> {
    let row = |mirror: &Json| {
        let state = match mirror["retry_ms"].as_f64() {
            Some(ms) if ms > 0.0 => format!("{}, again in {}", word(&mirror["state"]), milliseconds(ms)),
            _ => word(&mirror["state"]),
        };
        let lag = mirror["lag_ms"].as_f64().map_or_else(|| "-".into(), milliseconds);
        vec![word(&mirror["name"]), word(&mirror["of"]), state, lag, word(&mirror["behind"]), detail(&mirror["error"])]
    };
    rows(mirrors, &["LOG", "OF", "STATE", "LAG", "BEHIND", ""], row)
}

/// `view ls`: `None` where there is none.
pub(super) fn views(views: &Json) -> Option<String> {
    let row = |view: &Json| {
        let mut line =
            ["name", "log", "state", "position", "behind", "definition"].map(|key| word(&view[key])).to_vec();
        let notes = [view_next(view), passed_over(view)];
        line.push(notes.into_iter().filter(|note| !note.is_empty()).collect::<Vec<_>>().join("; "));
        line
    };
    rows(views, &["NAME", "LOG", "STATE", "POSITION", "BEHIND", "DEFINITION", ""], row)
}

/// Where entries stand that a view passes over by order.
fn passed_over(view: &Json) -> String {
    let all = list(&view["passed_over"]);
    let told: Vec<String> = all.iter().take(PASSED_OVER_TOLD).map(|one| word(&one["position"])).collect();
    let more = all.len().saturating_sub(told.len());
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    if told.is_empty() { String::new() } else { format!("passed over {}{more}", told.join(", ")) }
}

/// Why a view does not go on; else what is to take its place.
fn view_next(view: &Json) -> String {
    let (failure, building) = (&view["failure"], &view["building"]);
    if failure.is_object() {
        return format!("stopped at {}: {}{}", failure["position"], detail(&failure["error"]), skip(failure));
    }
    if !building.is_object() {
        return detail(&view["error"]);
    }
    let of = word(&building["definition"]);
    match (&building["failure"], building["seconds_left"].as_f64()) {
        (failure @ Json::Object(_), _) => {
            let (at, why) = (&failure["position"], detail(&failure["error"]));
            format!("building {of}: stopped at {at}: {why}{}", skip(failure))
        }
        (_, Some(left)) => format!("building {of}: {} left, about {}", building["left"], milliseconds(left * 1e3)),
        (_, None) => format!("building {of}: {} left", building["left"]),
    }
}

/// The command that has an entry passed over.
fn skip(failure: &Json) -> String {
    failure["skip"].as_str().map(|command| format!(" ({command})")).unwrap_or_default()
}

/// `source ls`.
pub(super) fn sources(sources: &Json) -> String {
    let row = |source: &Json| {
        let failed = source["failed_at"].as_u64().map(|at| format!("at {at}: ")).unwrap_or_default();
        let copied = source["rows"].as_u64().map(|rows| format!("{rows} rows so far ")).unwrap_or_default();
        let what = format!("{copied}{failed}{}", detail(&source["error"]));
        ["name", "kind", "state", "position"].map(|key| word(&source[key])).into_iter().chain([what]).collect()
    };
    let sources = rows(sources, &["NAME", "KIND", "STATE", "POSITION", ""], row);
    sources.unwrap_or_else(|| "There is nothing to read or apply: the node has no database and no peers.".into())
}

/// `log ls`.
pub(super) fn logs(logs: &Json) -> String {
    let row = |log: &Json| {
        let size = log["bytes"].as_u64().map_or_else(|| "-".into(), size);
        let pins: Vec<String> = list(&log["pins"]).into_iter().map(pin).collect();
        let state = log["state"].as_str().map_or_else(|| "running".into(), str::to_owned);
        let state = log["mirror"].as_str().map_or(state.clone(), |of| format!("{state} {of}"));
        vec![
            word(&log["name"]),
            state,
            word(&log["oldest"]),
            word(&log["tail"]),
            size,
            word(&log["id"]),
            pins.join(", "),
        ]
    };
    let header = ["NAME", "STATE", "OLDEST", "TAIL", "SIZE", "ID", "NEEDED BY (HAS GOT)"];
    rows(logs, &header, row).unwrap_or_else(|| "There are no logs.".into())
}

fn database_copy(copy: &Json) -> String {
    let state = described(&copy["state"], &copy["error"]);
    let tables: Vec<String> = list(&copy["tables"]).into_iter().map(|table| format!("\n    {}", word(table))).collect();
    format!(
        "copy      {}: {}\n  {state}: at {}, {} behind{}\n",
        word(&copy["name"]),
        word(&copy["url"]),
        word(&copy["applied"]),
        word(&copy["behind"]),
        tables.concat()
    )
}

fn database(database: &Json, log: &Json) -> String {
    if database.is_null() {
        return "database  none: this node is only a log\n".into();
    }
    let capture = described(&database["capture"], &database["capture_error"]);
    let apply = described(&database["apply"], &database["apply_error"]);
    let tables: Vec<String> = list(&database["tables"]).into_iter().map(word).collect();
    let tables = if tables.is_empty() { "no tables".into() } else { tables.join(", ") };
    format!(
        "database  {}\n  capture {capture}: {tables}\n  apply   {apply}: at {} of {}, {} behind\n",
        word(&database["url"]),
        word(&database["applied"]),
        word(&log["tail"]),
        word(&database["behind"]),
    )
}

fn log(log: &Json) -> String {
    let (oldest, tail) = (log["oldest"].as_u64().unwrap_or_default(), log["tail"].as_u64().unwrap_or_default());
    let held = if tail < oldest { "empty".into() } else { format!("{oldest} to {tail}") };
    let mut text = format!("log       {held}, {}", size(log["bytes"].as_u64().unwrap_or_default()));
    let late = |item: &&Json| item["position"].as_u64().is_some_and(|position| position < tail);
    let pins: Vec<String> = list(&log["pins"]).into_iter().filter(late).map(pin).collect();
    if !pins.is_empty() {
        text.push_str(&format!("; waits for {}", pins.join(", ")));
    }
    text.push('\n');
    text
}

fn pin(pin: &Json) -> String {
    format!("{} ({})", word(&pin["who"]), word(&pin["position"]))
}

fn lanes(tables: &Json) -> Option<String> {
    let row = |lane: &Json| {
        let since = since(&lane["since"]).unwrap_or_else(|| "-".into());
        let failed = lane["position"].as_u64().map(|at| format!("at {at}: ")).unwrap_or_default();
        let error = format!("{failed}{}", detail(&lane["error"]));
        vec![word(&lane["name"]), word(&lane["state"]), since, word(&lane["after"]), word(&lane["rows"]), error]
    };
    rows(tables, &["NAME", "STATE", "FOR", "APPLIED", "ROWS COPIED", ""], row)
}

fn heads(heads: &Json) -> Option<String> {
    let row = |head: &Json| {
        let position = word(&head["cursor"]).rsplit('-').next().unwrap_or_default().to_owned();
        vec![word(&head["node"]), position, head["age_ms"].as_f64().map_or_else(|| "-".into(), milliseconds)]
    };
    rows(heads, &["NODE", "POSITION", "AGE"], row)
}

fn rows(items: &Json, header: &[&str], row: impl Fn(&Json) -> Vec<String>) -> Option<String> {
    let rows: Vec<Vec<String>> = list(items).into_iter().map(row).collect();
    (!rows.is_empty()).then(|| table(header, &rows))
}

fn list(items: &Json) -> Vec<&Json> {
    items.as_array().map(|items| items.iter().collect()).unwrap_or_default()
}

fn word(value: &Json) -> String {
    match value {
        Json::Null => "-".into(),
        Json::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A state, and why it is not what it should be.
fn described(state: &Json, error: &Json) -> String {
    match error.as_str() {
        Some(error) => format!("{} ({error})", word(state)),
        None => word(state),
    }
}

/// A problem with its reason and its remedy on lines of their own.
fn sentence(problem: &Json) -> String {
    word(problem).replace(" / why: ", "\n      why: ").replace(" / do: ", "\n      do: ")
}

/// An error in a table's last column: what happened; the reason and the remedy stand among the problems.
fn detail(error: &Json) -> String {
    let text = error.as_str().unwrap_or_default();
    text.split(" / ").next().unwrap_or_default().replace('\n', " ")
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

/// From that time until now.
fn since(time: &Json) -> Option<String> {
    let then: jiff::Timestamp = time.as_str()?.parse().ok()?;
    Some(milliseconds((Timestamp::now().0 - then.as_microsecond()).max(0) as f64 / 1e3))
}

fn milliseconds(ms: f64) -> String {
    let seconds = ms / 1e3;
    match seconds {
        s if s < 1.0 => format!("{ms:.1} ms"),
        s if s < 60.0 => format!("{s:.1} s"),
        s if s < 3_600.0 => format!("{}m {:02}s", s as u64 / 60, s as u64 % 60),
        s if s < 172_800.0 => format!("{}h {:02}m", s as u64 / 3_600, s as u64 / 60 % 60),
        s => format!("{} days", s as u64 / 86_400),
    }
}

fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = units[0];
    for next in &units[1..] {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    format!("{value:.1} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn problems_stand_before_everything_else() {
        let text = status(&json!({
            "node": "b7", "version": "1", "ready": true, "problems": ["table a is parked / why: w / do: d"],
            "log": { "oldest": 1, "tail": 9, "bytes": 2048, "pins": [{ "who": "child x", "position": 3 }] },
            "links": [{ "name": "hq", "role": "parent", "state": "connected", "lag_ms": 1.25, "behind": 0 }],
        }));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "b7  ready, watershed 1");
        assert_eq!(lines[2..6], ["PROBLEMS", "  ! table a is parked", "      why: w", "      do: d"]);
        assert!(text.contains("log       1 to 9, 2.0 KiB; waits for child x (3)\n"), "{text}");
        assert!(text.contains("  hq    parent  connected  1.2 ms  0"), "{text}");
    }

    #[test]
    fn what_a_view_passes_over_is_told() {
        let view = |positions: &[u64]| {
            let over: Vec<Json> = positions.iter().map(|position| json!({ "position": position })).collect();
            json!([{ "name": "v", "log": "a", "state": "current", "position": 9, "behind": 0, "definition": "d", "passed_over": over }])
        };
        let last =
            |positions| views(&view(positions)).expect("a table").lines().last().map(str::to_owned).expect("a line");
        assert!(last(&[]).ends_with("  d"), "{}", last(&[]));
        assert!(last(&[17]).ends_with("  d           passed over 17"), "{}", last(&[17]));
        assert!(last(&[1, 2, 3, 4, 5, 6, 7]).ends_with("passed over 1, 2, 3, 4, 5 and 2 more"));
    }

    #[test]
    fn times_and_sizes_are_short() {
        assert_eq!([0.4, 1_500.0, 125_000.0, 7_260_000.0].map(milliseconds), ["0.4 ms", "1.5 s", "2m 05s", "2h 01m"]);
        assert_eq!([5, 2048, 3 << 30].map(size), ["5 B", "2.0 KiB", "3.0 GiB"]);
    }
}
