//! Whether copying may begin: everything that stands against it, at once.
//!
//! Nothing is written. Two tables that contradict each other (the destination is ahead of the source, has other events,
//! or has a gap) are [`Trouble::Operator`]: which of them is right is not for a program to say. A database that is not
//! what the configuration takes it for is [`Trouble::Invalid`].

use std::collections::BTreeMap;

use crate::model::{limits, same_json};
use crate::view::{EventIds, EventsError, EventsFacts, EventsTable, StoredEvent, Trouble};

/// Characters of an event that an error shows.
const SHOWN_CHARS: usize = 200;

fn error(code: &'static str, trouble: Trouble, what: String, why: String, fix: &str) -> EventsError {
    EventsError { code, trouble, what, why, fix: fix.into() }
}

/// What stands against copying from a table.
pub(super) fn source(name: &str, facts: &EventsFacts) -> Vec<EventsError> {
    let mut errors = keyless(name, facts);
    if !facts.missing_objects.is_empty() {
        let what = format!("{name} is no source of events");
        let why = format!("it has no {}", facts.missing_objects.join(", "));
        let fix = "name the source, or make the objects: `watershed events init --role source`";
        errors.push(error("WS-EVENTS-031", Trouble::Invalid, what, why, fix));
    }
    if facts.ids != Some(EventIds::Sequence) {
        errors.extend(gap(name, facts, "restore it from a copy: events are missing, or some were never appended"));
    }
    errors
}

fn keyless(name: &str, facts: &EventsFacts) -> Vec<EventsError> {
    if facts.has_key {
        return Vec::new();
    }
    let what = format!("{name}: ids of the table events are not unique");
    let why = "there is no primary key on id, so an event could be there twice".to_string();
    vec![error("WS-EVENTS-032", Trouble::Invalid, what, why, "ALTER TABLE events ADD PRIMARY KEY (id)")]
}

/// Ids from the table `id` are consecutive from 1: as many events as the greatest id, or some are missing.
fn gap(name: &str, facts: &EventsFacts, fix: &str) -> Option<EventsError> {
    let first = facts.first.as_ref().map_or(1, |event| event.id);
    if facts.count == facts.max_id && (facts.count == 0 || first == 1) {
        return None;
    }
    let what = format!("{name}: there is a gap in the ids");
    let why = format!("{} events with ids from {first} to {}, which should be 1, 2, 3, …", facts.count, facts.max_id);
    Some(error("WS-EVENTS-033", Trouble::Operator, what, why, fix))
}

/// What stands against copying to a table. `source` must have been asked after `facts`, as events are added meanwhile.
pub(super) fn destination(name: &str, facts: &EventsFacts, from: &str, source: &EventsFacts) -> Vec<EventsError> {
    let mut errors = keyless(name, facts);
    if !facts.source_objects.is_empty() {
        let what = format!("{name} is a source of events, not a destination");
        let why = format!("it has {}", facts.source_objects.join(", "));
        let fix = "name another database, or make one: `watershed events init --role destination`";
        errors.push(error("WS-EVENTS-034", Trouble::Invalid, what, why, fix));
    }
    if let Some(why) = &facts.insert_refused {
        let what = format!("{name} cannot be written");
        let fix = "as the owner of the table: GRANT SELECT, INSERT ON events TO …; or name another server";
        errors.push(error("WS-EVENTS-035", Trouble::Invalid, what, why.clone(), fix));
    }
    errors.extend(first(name, facts, from, source));
    if facts.max_id > source.max_id || facts.count > source.count {
        let what = format!("{name} is ahead of {from}");
        let why = format!(
            "it has {} events up to id {}, the source {} up to id {}: the source was restored, or is another one",
            facts.count, facts.max_id, source.count, source.max_id
        );
        let fix =
            "see which of them is right: `watershed events diff`; then restore the source, or empty the destination";
        errors.push(error("WS-EVENTS-036", Trouble::Operator, what, why, fix));
    }
    if source.ids != Some(EventIds::Sequence) {
        errors.extend(gap(name, facts, "empty the destination, so that it is copied anew"));
    }
    errors
}

/// The first events must be the same ones.
fn first(name: &str, facts: &EventsFacts, from: &str, source: &EventsFacts) -> Option<EventsError> {
    let ours = facts.first.as_ref()?;
    // An empty source is told of by its counts.
    let theirs = source.first.as_ref()?;
    // Where ids come from a sequence, a lower one may have been committed later.
    if same(ours, theirs) || (source.ids == Some(EventIds::Sequence) && theirs.id < ours.id) {
        return None;
    }
    let what = format!("{name} has other events than {from}");
    let why = format!("its first event is {}, the source's is {}", shown(ours), shown(theirs));
    let fix = "these are not a source and its copy: name the right databases, or empty the destination";
    Some(error("WS-EVENTS-037", Trouble::Operator, what, why, fix))
}

fn shown(event: &StoredEvent) -> String {
    let json = String::from_utf8_lossy(&event.json);
    let mut text: String = json.chars().take(SHOWN_CHARS).collect();
    if text.len() < json.len() {
        text.push('…');
    }
    format!("({}, {}, {text})", event.id, event.time)
}

/// Whether two events are one. Databases write the same JSON differently.
fn same(one: &StoredEvent, other: &StoredEvent) -> bool {
    one.id == other.id && one.time == other.time && same_json(&one.json, &other.json)
}

/// Which databases are named twice, by what they are. Names must be in the order of the configuration, the source first.
pub(super) fn doubles<'a>(named: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<EventsError> {
    let mut known: BTreeMap<&str, &str> = BTreeMap::new();
    let mut errors = Vec::new();
    for (name, identity) in named {
        match known.get(identity) {
            Some(earlier) => errors.push(double(name, earlier)),
            None => drop(known.insert(identity, name)),
        }
    }
    errors
}

/// Two names lead to one database.
pub(super) fn double(name: &str, earlier: &str) -> EventsError {
    let what = format!("{name} and {earlier} are the same database");
    let why = "source and destinations must be different databases".to_string();
    error("WS-EVENTS-038", Trouble::Invalid, what, why, "name another database, or remove one of them")
}

/// Compares a sample of events: all, or a thousand at random.
///
/// # Errors
/// A table could not be read; or the tables differ.
pub(super) async fn probe(
    source: &mut dyn EventsTable,
    destination: &mut dyn EventsTable,
    last: i64,
) -> Result<(), EventsError> {
    let mut bytes = 0;
    for ids in sample(last).chunks(limits::EVENTS_PROBE_CHUNK) {
        bytes += compare(source, destination, ids).await?;
        if bytes > limits::EVENTS_PROBE_BYTES_MAX {
            break;
        }
    }
    Ok(())
}

/// Whether the source has every event of the destination with one of these ids; returns how many bytes were looked at.
///
/// # Errors
/// A table could not be read; or the tables differ.
pub(super) async fn compare(
    source: &mut dyn EventsTable,
    destination: &mut dyn EventsTable,
    ids: &[i64],
) -> Result<usize, EventsError> {
    let copied = destination.events(ids).await?;
    let original = source.events(ids).await?;
    for event in &copied {
        let found = original.iter().find(|other| other.id == event.id);
        if !found.is_some_and(|other| same(event, other)) {
            let theirs = found.map_or_else(|| "nothing".to_string(), shown);
            let what = format!("{} has other events than {}", destination.name(), source.name());
            let why = format!("it has {}, the source has {theirs}", shown(event));
            let fix = "see all differences: `watershed events diff`; then empty the destination, or restore the source";
            return Err(error("WS-EVENTS-039", Trouble::Operator, what, why, fix));
        }
    }
    Ok(copied.iter().map(|event| event.json.len()).sum())
}

/// Ids from 1 to `last`: all, or some at random.
fn sample(last: i64) -> Vec<i64> {
    let count = usize::try_from(last).unwrap_or(0);
    let amount = count.min(limits::EVENTS_PROBE_IDS);
    rand::seq::index::sample(&mut rand::rng(), count, amount).into_iter().map(|index| index as i64 + 1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::EventTime;

    fn event(id: i64, json: &str) -> StoredEvent {
        StoredEvent { id, time: EventTime(5), json: json.as_bytes().into() }
    }

    fn table(count: i64) -> EventsFacts {
        let first = (count > 0).then(|| event(1, "1"));
        EventsFacts { count, max_id: count, first, has_key: true, ids: Some(EventIds::Table), ..EventsFacts::default() }
    }

    fn codes(errors: &[EventsError]) -> Vec<&'static str> {
        errors.iter().map(|error| error.code).collect()
    }

    #[test]
    fn a_copy_may_go_on_where_it_is_a_beginning_of_its_source() {
        for (copied, there) in [(0, 0), (0, 5), (3, 5), (5, 5)] {
            assert_eq!(destination("d", &table(copied), "s", &table(there)), []);
            assert_eq!(source("s", &table(there)), []);
        }
    }

    #[test]
    fn everything_that_is_wrong_is_told() {
        let other = EventsFacts {
            has_key: false,
            source_objects: vec!["id".into()],
            insert_refused: Some("no".into()),
            first: Some(event(2, "2")),
            count: 7,
            max_id: 8,
            ..table(7)
        };
        let wanted = ["032", "034", "035", "037", "036", "033"].map(|number| format!("WS-EVENTS-{number}"));
        assert_eq!(codes(&destination("d", &other, "s", &table(5))), wanted);
        assert_eq!(codes(&destination("d", &table(1), "s", &table(0))), ["WS-EVENTS-036"]);
        let missing = EventsFacts { missing_objects: vec!["id".into()], ids: None, ..table(5) };
        assert_eq!(codes(&source("s", &missing)), ["WS-EVENTS-031"]);
    }

    #[test]
    fn ids_of_a_sequence_may_have_gaps() {
        let gaps = EventsFacts { ids: Some(EventIds::Sequence), max_id: 9, ..table(5) };
        assert_eq!(source("s", &gaps), []);
        let copied = EventsFacts { max_id: 7, ..table(4) };
        assert_eq!(destination("d", &copied, "s", &gaps), []);
        assert_eq!(codes(&destination("d", &copied, "s", &table(9))), ["WS-EVENTS-033"]);
    }

    #[test]
    fn a_sample_has_every_id_once_and_none_beyond() {
        assert_eq!(sample(0), [0_i64; 0]);
        let mut few = sample(7);
        few.sort_unstable();
        assert_eq!(few, [1, 2, 3, 4, 5, 6, 7]);
        let mut many = sample(1 << 40);
        many.sort_unstable();
        many.dedup();
        assert_eq!(many.len(), limits::EVENTS_PROBE_IDS);
        assert!(many.iter().all(|id| (1..=1 << 40).contains(id)));
    }

    #[test]
    fn the_same_json_written_differently_is_the_same() {
        assert!(same(&event(1, r#"{"a": 1, "b": [2]}"#), &event(1, r#"{"b":[2],"a":1}"#)));
        assert!(!same(&event(1, r#"{"a": 1}"#), &event(1, r#"{"a": 2}"#)));
        assert!(!same(&event(1, "1"), &event(2, "1")));
    }
}
