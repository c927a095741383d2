//! Machines of programs: digests at agreed positions, panics, large states.

use std::io::{self, Read, Write};

use serde_json::Value as Json;
use watershed::log::{Limit, Log, Source};
use watershed::model::{Position, limits};
use watershed::view::machine::{KeptDigests, Machine, MachineOptions, MachineStore, Rows, Select, Transaction};
use watershed::view::{AskError, Bounds, Question, ViewError, ViewStore};

use super::{append, catch_up, feed, memory, row, rows};

/// Adds up numbers; a replica of it may be wrong from some position on.
#[derive(Default)]
struct Adder {
    sum: i64,
    wrong_at: Option<u64>,
}

impl Machine for Adder {
    fn definition(&self) -> String {
        "adder 1".into()
    }

    fn apply(&mut self, transaction: &Transaction<'_>) -> Result<(), ViewError> {
        if self.wrong_at == Some(transaction.position().0) {
            self.sum += 1;
        }
        let mut sum = self.sum;
        transaction.rows(|change| {
            let text = change.row.unwrap_or_default();
            assert!(text != "\"panic\"", "a rule that nobody thought of");
            sum += text.parse::<i64>().map_err(|error| transaction.refuse(&change.table.name, error))?;
            Ok(())
        })?;
        self.sum = sum;
        Ok(())
    }

    fn save(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&self.sum.to_le_bytes())
    }

    fn load(&mut self, state: &mut dyn Read) -> io::Result<()> {
        let mut bytes = [0; 8];
        state.read_exact(&mut bytes)?;
        self.sum = i64::from_le_bytes(bytes);
        Ok(())
    }

    fn ask(&self, question: &Question, bounds: &Bounds) -> Result<Rows, AskError> {
        Select::of(question)?;
        let mut rows = Rows::new(&["sum"], bounds);
        rows.push(vec![Json::from(self.sum)])?;
        Ok(rows)
    }

    fn rows(&self) -> u64 {
        1
    }
}

const EVERY: usize = limits::MACHINE_DIGEST_EVERY as usize;

async fn numbers(log: &dyn Log, count: usize) {
    let table = feed("numbers");
    for number in 0..count {
        append(log, &table, rows(&[(None, &(number % 7).to_string())])).await;
    }
}

fn replica(folder: &std::path::Path, name: &str, wrong_at: Option<u64>) -> MachineStore<Adder> {
    let path = Some(folder.join(name));
    let options = MachineOptions { path, compared: true, ..MachineOptions::in_memory(folder) };
    MachineStore::open(move || Adder { wrong_at, ..Adder::default() }, options).expect("opened")
}

fn kept(store: &MachineStore<Adder>) -> KeptDigests {
    store.kept_digests().expect("it is compared")
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_agree_on_positions_and_one_that_parts_is_found_where_it_parted() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = memory();
    numbers(&log, 5 * EVERY + 10).await;
    let right = replica(folder.path(), "right", None);
    catch_up(&right, &log).await.expect("applied");
    let positions: Vec<u64> = kept(&right).all().map(|(position, _)| position.0).collect();
    assert_eq!(positions, (1..=5).map(|n| n * EVERY as u64).collect::<Vec<_>>());

    // In other batches, with a restart between them.
    let other = replica(folder.path(), "other", None);
    catch_up(&other, &log).await.expect("applied");
    other.persist().await.expect("durable");
    drop(other);
    numbers(&log, EVERY).await;
    let other = replica(folder.path(), "other", None);
    catch_up(&other, &log).await.expect("applied");
    catch_up(&right, &log).await.expect("applied");
    assert_eq!(kept(&other), kept(&right));
    assert_eq!(kept(&right).compare(&kept(&other).sample()), None);

    // One at a time, so that batches end where digests are taken.
    let slow = replica(folder.path(), "slow", None);
    let mut view = slow.part(log.id()).await.expect("a part");
    for after in 0..2 * EVERY as u64 {
        let one = Limit { entries: 1, ..Limit::default() };
        view.apply(&log.read(Position(after).into(), one).await.expect("readable")).await.expect("applied");
    }
    let two: Vec<_> = kept(&right).all().take(2).collect();
    assert_eq!(kept(&slow).all().collect::<Vec<_>>(), two);

    let wrong = replica(folder.path(), "wrong", Some(3 * EVERY as u64 + 1));
    catch_up(&wrong, &log).await.expect("applied");
    let parted = kept(&right).compare(&kept(&wrong).sample()).expect("they differ");
    assert_eq!((parted.alike, parted.differ), (Some(Position(3 * EVERY as u64)), Position(4 * EVERY as u64)));
}

#[tokio::test]
async fn a_machine_that_panics_gives_no_answers_until_it_is_opened_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = memory();
    numbers(&log, 10).await;
    let store = replica(folder.path(), "a", None);
    catch_up(&store, &log).await.expect("applied");
    store.persist().await.expect("durable");
    numbers(&log, 3).await;
    append(&log, &feed("numbers"), rows(&[(None, "\"panic\"")])).await;
    let failed = catch_up(&store, &log).await.expect_err("it panics");
    assert!(failed.to_string().contains("at position 14: the machine panicked: a rule"), "{failed}");
    assert!(store.is_broken());
    assert!(matches!(row(&store, "t", "k").await, Err(AskError::Failed(_))));
    assert!(store.persist().await.is_err(), "what it left is not saved");
    assert!(catch_up(&store, &log).await.is_err());
    drop(store);
    let again = replica(folder.path(), "a", None);
    assert_eq!(again.cursors().await.expect("cursors"), [log.cursor_at(Position(10))]);
    assert!(row(&again, "t", "k").await.is_ok());
}

#[tokio::test]
async fn what_a_machine_refuses_stops_it_at_that_position() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = memory();
    numbers(&log, 2).await;
    append(&log, &feed("numbers"), rows(&[(None, "5"), (None, "\"x\"")])).await;
    let store = replica(folder.path(), "a", None);
    let failed = catch_up(&store, &log).await.expect_err("it is no number");
    assert!(matches!(failed, ViewError::Table { position: Position(3), .. }), "{failed}");
    assert_eq!(store.with(|adder| adder.sum), 1, "nothing of the transaction is kept");
    assert_eq!(store.cursors().await.expect("cursors"), [log.cursor_at(Position(2))]);
}
