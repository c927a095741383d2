//! What operators have had a view pass over: noted before it happens, and shown for ever; and what of it each build passes
//! over.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::quarantine::Quarantine;
use crate::model::{Cursor, Fingerprint, Timestamp};
use crate::node::feeds::write_durably;
use crate::node::settings::{Exit, NodeError};

/// An entry that a view passes over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassedOver {
    /// Of the log.
    pub partition: usize,
    /// Where the entry stands, as a cursor.
    pub cursor: String,
    /// Its position.
    pub position: u64,
    /// When that was ordered (RFC 3339).
    pub time: String,
    /// The definition that failed on it.
    pub definition: String,
    /// What it failed with.
    pub error: String,
    /// When it was ordered that builds from then on take it (RFC 3339).
    #[serde(default)]
    pub taken_back: Option<String>,
    /// What answers now passes over it.
    #[serde(default, skip_deserializing)]
    pub in_effect: bool,
}

/// A build, and the entries that it passes over, as cursors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Passes {
    /// None: it has not been noted yet.
    definition: Option<String>,
    over: Vec<String>,
}

impl Passes {
    fn cursors(&self) -> Vec<Cursor> {
        self.over.iter().filter_map(|cursor| cursor.parse().ok()).collect()
    }
}

/// All that is noted of a view, in one file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Noted {
    /// Oldest first; none is ever removed.
    passed_over: Vec<PassedOver>,
    /// What answers.
    live: Passes,
    /// What was built last beside it, until that takes its place.
    building: Option<Passes>,
}

/// The note of one view.
#[derive(Debug)]
pub(super) struct Record {
    /// Whether the view is known to be wrong.
    pub quarantine: Quarantine,
    path: PathBuf,
    noted: Mutex<Noted>,
}

impl PassedOver {
    /// Now.
    pub(super) fn new(partition: usize, cursor: Cursor, definition: Fingerprint, error: String) -> PassedOver {
        PassedOver {
            partition,
            cursor: cursor.to_string(),
            position: cursor.position.0,
            time: Timestamp::now().to_string(),
            definition: definition.to_string(),
            error,
            taken_back: None,
            in_effect: false,
        }
    }
}

/// The note as it stands in its file.
#[derive(Deserialize)]
#[serde(untagged)]
enum Form {
    Noted(Noted),
    /// Without what builds pass over: what answers has gone over all of them.
    List(Vec<PassedOver>),
}

impl From<Form> for Noted {
    fn from(form: Form) -> Noted {
        match form {
            Form::Noted(noted) => noted,
            Form::List(passed_over) => {
                let over = passed_over.iter().map(|one| one.cursor.clone()).collect();
                Noted { passed_over, live: Passes { definition: None, over }, building: None }
            }
        }
    }
}

impl Noted {
    /// What a build that begins now passes over.
    fn all(&self) -> Vec<String> {
        let mut over: Vec<String> = Vec::new();
        for one in self.passed_over.iter().filter(|one| one.taken_back.is_none()) {
            if !over.contains(&one.cursor) {
                over.push(one.cursor.clone());
            }
        }
        over
    }
}

impl Record {
    /// Reads what is noted. Blocks.
    pub(super) fn open(dir: &Path, name: &str) -> Result<Record, NodeError> {
        let path = dir.join(format!("{name}.passed.json"));
        let failed = |error: &dyn std::fmt::Display| {
            NodeError::new(
                "WS-VIEW-030",
                Exit::Operator,
                format!("{} cannot be read: {error}", path.display()),
                "it says what operators have had the view pass over",
                "put it back from a backup; or remove it, and build the view afresh: `watershed view rebuild NAME`",
            )
        };
        let noted = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice::<Form>(&bytes).map_err(|error| failed(&error))?.into(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Noted::default(),
            Err(error) => return Err(failed(&error)),
        };
        Ok(Record { quarantine: Quarantine::open(dir, name), path, noted: Mutex::new(noted) })
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of them, oldest first.
    pub(super) fn all(&self) -> Vec<PassedOver> {
        let noted = self.noted();
        let shown = |one: &PassedOver| PassedOver { in_effect: noted.live.over.contains(&one.cursor), ..one.clone() };
        noted.passed_over.iter().map(shown).collect()
    }

    /// What answers passes over these.
    pub(super) fn over_live(&self) -> Vec<Cursor> {
        self.noted().live.cursors()
    }

    /// A build is known to have been taken up with these; `None`: it is another one, or nobody knows.
    pub(super) fn over_building(&self, definition: Fingerprint) -> Option<Vec<Cursor>> {
        let noted = self.noted();
        match &noted.building {
            Some(building) if building.definition == Some(definition.to_string()) => Some(building.cursors()),
            _ if noted.passed_over.is_empty() => Some(Vec::new()),
            _ => None,
        }
    }

    /// A build begins with nothing, and passes over these. Blocks.
    pub(super) fn begins(&self, definition: Fingerprint) -> std::io::Result<Vec<Cursor>> {
        self.change(|noted| {
            noted.building = Some(Passes { definition: Some(definition.to_string()), over: noted.all() });
        })?;
        Ok(self.over_building(definition).unwrap_or_default())
    }

    /// What answers is of that definition: a build of it has taken the place of another one. A build of the same definition is
    /// one of which nothing is known any more. Blocks.
    pub(super) fn answers(&self, definition: Fingerprint) -> std::io::Result<()> {
        let definition = Some(definition.to_string());
        self.change(|noted| {
            let building = noted.building.take_if(|building| building.definition == definition);
            match (building, noted.live.definition == definition) {
                (Some(building), false) => noted.live = building,
                (_, true) => {}
                (None, false) => noted.live.definition = definition,
            }
        })
    }

    /// The build has taken the place of what answered. Blocks.
    pub(super) fn switched(&self) -> std::io::Result<()> {
        self.change(|noted| {
            if let Some(building) = noted.building.take() {
                noted.live = building;
            }
        })
    }

    /// Notes that what answers, what is built, or both pass over an entry; durable on return, and nothing has changed on an
    /// error. Blocks.
    pub(super) fn add(&self, one: PassedOver, live: bool, building: bool) -> std::io::Result<()> {
        self.change(|noted| {
            let passes = [live.then_some(&mut noted.live), noted.building.as_mut().filter(|_| building)];
            for passes in passes.into_iter().flatten() {
                if !passes.over.contains(&one.cursor) {
                    passes.over.push(one.cursor.clone());
                }
            }
            // What is built has taken the entry, or nobody knows: the next build begins with nothing.
            if !building {
                noted.building = None;
            }
            noted.passed_over.push(one);
        })
    }

    /// Builds that begin from now on take what was passed over before; what is being built begins again. Blocks.
    pub(super) fn take_back(&self) -> std::io::Result<()> {
        let now = Timestamp::now().to_string();
        self.change(|noted| {
            let standing = noted.passed_over.iter_mut().filter(|one| one.taken_back.is_none());
            standing.for_each(|one| one.taken_back = Some(now.clone()));
            noted.building = None;
        })
    }

    /// What answers passes over what was ordered to be taken: it is to be built anew.
    pub(super) fn is_taken_back(&self) -> bool {
        let noted = self.noted();
        let all = noted.all();
        noted.live.over.iter().any(|cursor| !all.contains(cursor))
    }

    /// Durable on return; nothing has changed on an error.
    fn change(&self, change: impl FnOnce(&mut Noted)) -> std::io::Result<()> {
        let mut noted = self.noted();
        let mut changed = noted.clone();
        change(&mut changed);
        // Of a view of which nothing was ever passed over there is nothing to tell.
        if changed != *noted && !changed.passed_over.is_empty() {
            if let Some(folder) = self.path.parent() {
                std::fs::create_dir_all(folder)?;
            }
            write_durably(&self.path, &serde_json::to_vec(&changed).map_err(std::io::Error::other)?)?;
        }
        *noted = changed;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Epoch, LogId, Position};

    const OLD: Fingerprint = Fingerprint(1);
    const NEW: Fingerprint = Fingerprint(2);

    fn at(position: u64) -> Cursor {
        Cursor { log: LogId(7), epoch: Epoch(1), position: Position(position) }
    }

    fn one(position: u64) -> PassedOver {
        PassedOver::new(0, at(position), OLD, "why".into())
    }

    /// As after a crash.
    fn again(dir: &Path) -> Record {
        Record::open(dir, "v").expect("readable")
    }

    #[test]
    fn what_is_noted_is_passed_over_by_every_later_build_until_it_is_taken_back() {
        let dir = tempfile::tempdir().expect("a folder");
        let record = again(dir.path());
        record.answers(OLD).expect("noted");
        record.add(one(3), true, false).expect("noted");
        let record = again(dir.path());
        assert_eq!(record.over_live(), [at(3)]);
        assert_eq!(record.begins(NEW).expect("noted"), [at(3)]);
        record.add(one(5), false, true).expect("noted");
        let record = again(dir.path());
        assert_eq!(record.over_building(NEW), Some(vec![at(3), at(5)]));
        assert_eq!((record.over_live(), record.over_building(OLD)), (vec![at(3)], None));
        let shown: Vec<bool> = record.all().iter().map(|one| one.in_effect).collect();
        assert_eq!(shown, [true, false], "what answers took the other one");
        record.switched().expect("noted");
        let record = again(dir.path());
        assert_eq!(record.over_live(), [at(3), at(5)]);
        record.take_back().expect("noted");
        let record = again(dir.path());
        assert!(record.is_taken_back() && record.over_live() == [at(3), at(5)]);
        assert_eq!(record.begins(NEW).expect("noted"), []);
        record.add(one(9), false, true).expect("noted");
        assert_eq!(again(dir.path()).over_building(NEW), Some(vec![at(9)]));
        record.take_back().expect("noted");
        assert_eq!(again(dir.path()).over_building(NEW), None, "what was built without it is not gone on with");
        assert_eq!(record.begins(NEW).expect("noted"), []);
        record.switched().expect("noted");
        let record = again(dir.path());
        assert!(!record.is_taken_back() && record.over_live().is_empty());
        let all = record.all();
        assert!(all.len() == 3 && all.iter().all(|one| one.taken_back.is_some() && !one.in_effect), "{all:?}");
    }

    #[test]
    fn a_crash_between_a_switch_and_its_note_is_found_out() {
        let dir = tempfile::tempdir().expect("a folder");
        let record = again(dir.path());
        record.answers(OLD).expect("noted");
        record.begins(NEW).expect("noted");
        record.add(one(4), false, true).expect("noted");
        let record = again(dir.path());
        record.answers(NEW).expect("noted");
        assert_eq!(record.over_live(), [at(4)]);
        // And one before it: what answers is as it was, and what is built goes on.
        let dir = tempfile::tempdir().expect("a folder");
        let record = again(dir.path());
        record.answers(OLD).expect("noted");
        record.begins(NEW).expect("noted");
        record.add(one(4), false, true).expect("noted");
        let record = again(dir.path());
        record.answers(OLD).expect("noted");
        assert_eq!((record.over_live(), record.over_building(NEW)), (vec![], Some(vec![at(4)])));
    }

    #[test]
    fn a_build_that_has_taken_an_entry_is_not_gone_on_with() {
        let dir = tempfile::tempdir().expect("a folder");
        let record = again(dir.path());
        record.answers(OLD).expect("noted");
        assert_eq!(record.begins(NEW).expect("noted"), []);
        record.add(one(17), true, false).expect("noted");
        assert_eq!(again(dir.path()).over_building(NEW), None);
        assert_eq!(record.begins(NEW).expect("noted"), [at(17)]);
    }

    #[test]
    fn a_list_without_builds_is_what_answers_passes_over() {
        let dir = tempfile::tempdir().expect("a folder");
        let cursor = at(3);
        let list = format!(
            "[{{\"partition\":0,\"cursor\":\"{cursor}\",\"position\":3,\"time\":\"2026-01-01T00:00:00Z\",\
             \"definition\":\"0000000000000001\",\"error\":\"why\"}}]"
        );
        std::fs::write(dir.path().join("v.passed.json"), list).expect("written");
        let record = again(dir.path());
        record.answers(OLD).expect("noted");
        assert_eq!((record.over_live(), record.all().len(), record.is_taken_back()), (vec![cursor], 1, false));
        assert_eq!(record.begins(NEW).expect("noted"), [cursor]);
        assert_eq!(again(dir.path()).over_live(), [cursor]);
    }

    #[test]
    fn what_cannot_be_noted_has_not_happened() {
        let dir = tempfile::tempdir().expect("a folder");
        let record = again(dir.path());
        record.add(one(1), true, false).expect("noted");
        // A folder stands where the note is written.
        std::fs::create_dir(dir.path().join("v.passed.new")).expect("a folder");
        record.add(one(2), true, false).expect_err("it cannot be written");
        assert_eq!((record.over_live(), record.all().len()), (vec![at(1)], 1));
        assert_eq!(again(dir.path()).over_live(), [at(1)]);
    }

    #[test]
    fn foreign_bytes_are_refused() {
        for bytes in
            ["", "7", "[7]", "{", "{\"passed_over\":7}", "\u{0}\u{1}", "{\"passed_over\":[{}],\"live\":{\"over\":[]}}"]
        {
            let dir = tempfile::tempdir().expect("a folder");
            std::fs::write(dir.path().join("v.passed.json"), bytes).expect("written");
            let error = Record::open(dir.path(), "v").expect_err(bytes);
            assert!(error.to_string().contains("WS-VIEW-030"), "{error}");
        }
    }
}
