//! Whole transactions, known by the stamps of `events load` (and of the original's test loader).

use std::collections::HashMap;

use serde::Deserialize;

use crate::model::{EventTime, limits};
use crate::view::StoredEvent;

/// An event's stamp.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stamp {
    program_id: String,
    db_operation_id: String,
    /// From 1.
    db_operation_event_num: u64,
    db_operation_event_count: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stamped {
    testing_stats: Stamp,
}

/// Checks that the events of stamped transactions are whole and in order.
#[derive(Debug)]
pub(super) struct Groups {
    /// Whether ids of several transactions may be mixed, as they are when a sequence gives them.
    mixed: bool,
    /// The last event of each transaction that is not whole yet.
    open: HashMap<(String, String), Last>,
}

#[derive(Debug)]
struct Last {
    id: i64,
    time: EventTime,
    number: u64,
    count: u64,
}

impl Groups {
    pub(super) fn new(mixed: bool) -> Groups {
        Groups { mixed, open: HashMap::new() }
    }

    /// Takes the next event, and says what is wrong with it or with those before.
    pub(super) fn take(&mut self, event: &StoredEvent) -> Vec<(i64, String)> {
        let Ok(Stamped { testing_stats: stamp }) = serde_json::from_slice(&event.json) else {
            let mut wrong = if self.mixed { Vec::new() } else { self.end() };
            wrong.push((event.id, "no stamp (testingStats)".to_string()));
            return wrong;
        };
        let (number, count) = (stamp.db_operation_event_num, stamp.db_operation_event_count);
        let key = (stamp.program_id, stamp.db_operation_id);
        let mut wrong = Vec::new();
        match self.open.remove(&key) {
            Some(last) => {
                if number != last.number + 1 || count != last.count {
                    let why = format!(
                        "event {number} of {count} of its transaction follows {} of {}",
                        last.number, last.count
                    );
                    wrong.push((event.id, why));
                }
                if event.time != last.time {
                    wrong.push((event.id, "another time than the rest of its transaction".to_string()));
                }
                if !self.mixed && last.id.checked_add(1) != Some(event.id) {
                    wrong.push((event.id, format!("its transaction goes on after a gap, from id {}", last.id)));
                }
            }
            None => {
                if !self.mixed || self.open.len() >= limits::EVENTS_GROUPS_OPEN_MAX {
                    wrong = self.end();
                }
                if number != 1 {
                    wrong.push((event.id, format!("its transaction begins with event {number} of {count}")));
                }
            }
        }
        if number < count {
            self.open.insert(key, Last { id: event.id, time: event.time, number, count });
        }
        wrong
    }

    /// Says which transactions are not whole.
    pub(super) fn end(&mut self) -> Vec<(i64, String)> {
        let last =
            |last: Last| (last.id, format!("its transaction ends after event {} of {}", last.number, last.count));
        let mut wrong: Vec<_> = self.open.drain().map(|(_, open)| last(open)).collect();
        wrong.sort();
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: i64, time: i64, operation: &str, number: u64, count: u64) -> StoredEvent {
        let json = format!(
            r#"{{"testingStats":{{"programId":"p","dbOperationNum":1,"dbOperationId":"{operation}","dbOperationEventNum":{number},"dbOperationEventCount":{count}}}}}"#
        );
        StoredEvent { id, time: EventTime(time), json: json.as_bytes().into() }
    }

    fn wrong(events: &[StoredEvent]) -> Vec<i64> {
        let mut groups = Groups::new(false);
        let mut found: Vec<i64> = events.iter().flat_map(|event| groups.take(event)).map(|(id, _)| id).collect();
        found.extend(groups.end().iter().map(|(id, _)| *id));
        found
    }

    #[test]
    fn whole_groups_are_right_and_torn_ones_are_found() {
        let whole = [event(1, 5, "x", 1, 2), event(2, 5, "x", 2, 2), event(3, 4, "y", 1, 1)];
        assert_eq!(wrong(&whole), [0_i64; 0]);
        assert_eq!(wrong(&whole[..1]), [1], "the end is missing");
        assert_eq!(wrong(&whole[1..]), [2], "the beginning is missing");
        assert_eq!(wrong(&[event(1, 5, "x", 1, 2), event(2, 6, "x", 2, 2)]), [2], "two times");
        assert_eq!(wrong(&[event(1, 5, "x", 1, 2), event(3, 5, "x", 2, 2)]), [3], "an id between");
        assert_eq!(wrong(&[event(1, 5, "x", 1, 3), event(2, 5, "x", 3, 3)]), [2], "one is missing");
        assert_eq!(wrong(&[event(1, 5, "x", 2, 1)]), [1], "too many");
        let unstamped = StoredEvent { id: 2, time: EventTime(5), json: (*b"{}").into() };
        assert_eq!(wrong(&[event(1, 5, "x", 1, 2), unstamped]), [1, 2]);
    }

    #[test]
    fn mixed_transactions_are_right_where_ids_come_from_a_sequence() {
        let mixed = [event(1, 5, "x", 1, 2), event(2, 4, "y", 1, 2), event(4, 5, "x", 2, 2), event(7, 4, "y", 2, 2)];
        let mut groups = Groups::new(true);
        assert!(mixed.iter().all(|event| groups.take(event).is_empty()));
        assert_eq!(groups.end(), []);
        assert!(!wrong(&mixed).is_empty());
    }
}
