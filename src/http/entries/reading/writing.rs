//! How entries, and what is said beside them, are written to a reader.

use std::sync::Arc;

use axum::body::Bytes;

use super::{Form, Part, ReadError, Reading};
use crate::log::Log;
use crate::model::{Catalog, Cursor, LinkId, Logged, Position};
use crate::node::entry_json::write_entry;
use crate::node::feeds::joined;

impl Reading {
    pub(super) fn write(
        &self,
        out: &mut String,
        logged: &Logged,
        log: &Arc<dyn Log>,
        number: usize,
        catalog: &Catalog,
    ) {
        let seen = Position(logged.position.0 - u64::from(logged.entry.header().more));
        let cursor = log.cursor_at(seen);
        let from = match logged.from {
            LinkId::LOCAL => None,
            LinkId(log) => {
                let view = || self.feed.view_of().map(|view| format!("view {view}"));
                Some(self.node.shared.book.name_of(log).or_else(view).unwrap_or_else(|| log.to_string()))
            }
        };
        if self.form == Form::Events {
            out.push_str("id: ");
            self.put_place(out, cursor);
            out.push_str("\ndata: ");
        }
        let start = out.len();
        if let Err(error) = write_entry(out, logged, cursor, from.as_deref(), catalog) {
            let why = serde_json::Value::from(error.to_string());
            out.push_str(&format!("{{\"position\":{},\"cursor\":\"{cursor}\",\"error\":{why}}}", logged.position));
        }
        if self.feed.partitions.len() > 1 && out[start..].starts_with('{') {
            out.insert_str(start + 1, &format!("\"partition\":{number},"));
        }
        out.push_str(if self.form == Form::Events { "\n\n" } else { "\n" });
    }

    /// Where the reader is after an entry: a cursor for each part.
    pub(super) fn put_place(&self, out: &mut String, cursor: Cursor) {
        if self.parts.len() == 1 {
            return cursor.put(out);
        }
        let at = |part: &Part| if part.log.id() == cursor.log { cursor } else { part.log.cursor_at(part.from.after) };
        out.push_str(&joined(&self.parts.iter().map(at).collect::<Vec<_>>()));
    }

    /// An event that is no entry, with the tail.
    pub(super) fn note(&self, name: &str) -> Option<Bytes> {
        let tail: u64 = self.parts.iter().map(|part| part.tail.borrow().0).sum();
        // Where the reader is, also behind what is not for it.
        let here = self.here();
        Some(match self.form {
            Form::Messages => format!("{{\"event\":\"{name}\",\"tail\":{tail},\"cursor\":\"{here}\"}}\n").into(),
            _ => format!("id: {here}\nevent: {name}\ndata: {{\"tail\":{tail},\"cursor\":\"{here}\"}}\n\n").into(),
        })
    }

    pub(super) fn fail(&self, out: &mut String, failed: &ReadError) {
        let message = match failed {
            ReadError::Source(failed) => failed.to_string(),
            ReadError::Withheld(position) => format!("the filter for readers fails at position {position}"),
        };
        let body = serde_json::json!({ "code": "WS-HTTP-022", "message": message });
        match self.form {
            Form::Events => out.push_str(&format!("event: error\ndata: {body}\n\n")),
            _ => out.push_str(&format!("{body}\n")),
        }
    }
}
