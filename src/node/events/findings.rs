//! What a comparison of events tables finds.

use std::fmt;

use serde_json::{Value as Json, json};

use crate::model::{EventTime, limits, same_json};
use crate::view::StoredEvent;

/// One of two tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventsSide {
    /// The first.
    A,
    /// The second.
    B,
}

impl fmt::Display for EventsSide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == EventsSide::A { "a" } else { "b" })
    }
}

/// Two values that should be the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Both<T> {
    /// In the first table.
    pub a: T,
    /// In the second.
    pub b: T,
}

/// A difference between two tables, or what is wrong with one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// An event is in the other table only.
    Missing {
        /// Its id.
        id: i64,
        /// Where it is missing.
        side: EventsSide,
    },
    /// An event is in both, and not the same.
    Changed {
        /// Its id.
        id: i64,
        /// The times, where they differ.
        time: Option<Both<EventTime>>,
        /// The texts around the first place where they differ, if their values do.
        event: Option<Both<Box<str>>>,
    },
    /// Neither table has these ids, which should be consecutive.
    Gap {
        /// Inclusive.
        first: i64,
        /// Inclusive.
        last: i64,
    },
    /// There are several events with one id, or the id is below 1.
    Id {
        /// Where.
        side: EventsSide,
        /// The id.
        id: i64,
    },
    /// An event bears the stamp of the transaction of the one before it, and another time.
    Time {
        /// Where.
        side: EventsSide,
        /// The event's id.
        id: i64,
    },
    /// The events of a transaction are not whole, or not in order.
    Group {
        /// Where.
        side: EventsSide,
        /// The event at which it is seen.
        id: i64,
        /// What is wrong.
        why: Box<str>,
    },
}

impl Finding {
    /// What differs between two events of one id, if anything.
    pub(super) fn between(a: &StoredEvent, b: &StoredEvent) -> Option<Finding> {
        let time = (a.time != b.time).then_some(Both { a: a.time, b: b.time });
        let event = (!same_json(&a.json, &b.json)).then(|| around(&a.json, &b.json));
        (time.is_some() || event.is_some()).then_some(Finding::Changed { id: a.id, time, event })
    }

    /// Whether it is a difference, and not a fault of one table.
    pub fn is_difference(&self) -> bool {
        matches!(self, Finding::Missing { .. } | Finding::Changed { .. })
    }

    /// For programs: `finding` says which kind it is.
    pub fn to_json(&self) -> Json {
        match self {
            Finding::Missing { id, side } => json!({"finding": "missing", "id": id, "missing_in": side.to_string()}),
            Finding::Changed { id, time, event } => {
                let mut out = json!({"finding": "changed", "id": id});
                if let Some(Both { a, b }) = time {
                    out["time"] = json!({"a": a.to_string(), "b": b.to_string()});
                }
                if let Some(Both { a, b }) = event {
                    out["event"] = json!({"a": a, "b": b});
                }
                out
            }
            Finding::Gap { first, last } => json!({"finding": "gap", "first": first, "last": last}),
            Finding::Id { side, id } => json!({"finding": "id", "table": side.to_string(), "id": id}),
            Finding::Time { side, id } => json!({"finding": "time", "table": side.to_string(), "id": id}),
            Finding::Group { side, id, why } => {
                json!({"finding": "transaction", "table": side.to_string(), "id": id, "why": why})
            }
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::Missing { id, side } => write!(f, "id {id}: missing in {side}"),
            Finding::Changed { id, time, event } => {
                write!(f, "id {id}:")?;
                if let Some(Both { a, b }) = time {
                    write!(f, " time {a} in a, {b} in b")?;
                }
                if let Some(Both { a, b }) = event {
                    let mark = if time.is_some() { ";" } else { "" };
                    write!(f, "{mark} event\n  a {a}\n  b {b}")?;
                }
                Ok(())
            }
            Finding::Gap { first, last } if first == last => write!(f, "id {first}: missing in both"),
            Finding::Gap { first, last } => write!(f, "ids {first} to {last}: missing in both"),
            Finding::Id { side, id } => write!(f, "id {id}: more than once in {side}, or below 1"),
            Finding::Time { side, id } => {
                write!(f, "id {id}: another time in {side} than the event before, of the same transaction")
            }
            Finding::Group { side, id, why } => write!(f, "id {id}: {why} in {side}"),
        }
    }
}

/// Both texts from a little before the first place where they differ.
fn around(a: &[u8], b: &[u8]) -> Both<Box<str>> {
    let at = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let start = at.saturating_sub(limits::EVENTS_SHOWN_BYTES / 4);
    let cut = |text: &[u8]| -> Box<str> {
        let is_start = |at: usize| text.get(at).is_none_or(|byte| byte & 0xc0 != 0x80);
        let start = (0..=start.min(text.len())).rev().find(|at| is_start(*at)).unwrap_or(0);
        let end = (start + limits::EVENTS_SHOWN_BYTES).min(text.len());
        let end = (end..=text.len()).find(|at| is_start(*at)).unwrap_or(text.len());
        let part = String::from_utf8_lossy(&text[start..end]);
        let (before, after) = (if start > 0 { "…" } else { "" }, if end < text.len() { "…" } else { "" });
        format!("{before}{part}{after}").into()
    };
    Both { a: cut(a), b: cut(b) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_difference_shows_where_it_is() {
        let stored = |json: &str| StoredEvent { id: 7, time: EventTime(0), json: json.as_bytes().into() };
        let long = |n| format!("{{\"é\": \"{}{n}{}\"}}", "é".repeat(200), "x".repeat(300));
        let found = Finding::between(&stored(&long(1)), &stored(&long(2))).expect("they differ");
        let text = found.to_string();
        assert!(text.contains("a …") && text.contains("é1x") && text.contains("é2x"), "{text}");
        assert!(text.len() < 600, "{text}");
        assert_eq!(Finding::between(&stored("{\"a\":1}"), &stored("{ \"a\": 1 }")), None);
    }

    proptest! {
        #[test]
        fn any_texts_can_be_shown(a: Vec<u8>, b: Vec<u8>, same in "[é🦊a]{0,90}") {
            let _ = around(&[same.as_bytes(), &a].concat(), &[same.as_bytes(), &b].concat());
        }
    }
}
