//! Random operations on storage that loses, tears, fails and fills, against a model.

use std::sync::Arc;

use futures_util::FutureExt;
use proptest::prelude::*;
use watershed::log::segments::{SegmentLog, SegmentOptions};
use watershed::log::{AppendError, Log};
use watershed::model::{LinkId, LogId, Position};
use watershed::testing::log_conformance::{append, arrival, large, local, read_all, texts};
use watershed::testing::log_storage::{Fault, FaultyStorage};

#[derive(Clone, Debug)]
enum Operation {
    Append { drafts: usize, bytes: usize },
    Large { parts: usize, bytes: usize },
    Cursor,
    Read { from: u64 },
    Trim { upto: u64 },
    Reopen,
    Crash { seed: u64 },
    Fail { fault: Fault, seed: u64 },
    Full { room: u64 },
    Room,
}

fn operation() -> impl Strategy<Value = Operation> {
    let fault = prop_oneof![Just(Fault::Sync), Just(Fault::ShortWrite)];
    prop_oneof![
        6 => (1..5usize, 0..700usize).prop_map(|(drafts, bytes)| Operation::Append { drafts, bytes }),
        2 => (1..6usize, 0..2_500usize).prop_map(|(parts, bytes)| Operation::Large { parts, bytes }),
        1 => Just(Operation::Cursor),
        2 => (0..60u64).prop_map(|from| Operation::Read { from }),
        1 => (0..60u64).prop_map(|upto| Operation::Trim { upto }),
        1 => Just(Operation::Reopen),
        3 => any::<u64>().prop_map(|seed| Operation::Crash { seed }),
        2 => (fault, any::<u64>()).prop_map(|(fault, seed)| Operation::Fail { fault, seed }),
        1 => (0..6_000u64).prop_map(|room| Operation::Full { room }),
        2 => Just(Operation::Room),
    ]
}

/// What the log must hold.
struct Model {
    storage: FaultyStorage,
    log: Option<SegmentLog>,
    /// The first text of each position.
    texts: Vec<String>,
    /// An append that failed may still be found after a crash, if the log could not take it back before: the first one, while
    /// the log could not be recovered, or a later one, that came after it had been. Texts and cursor of each.
    maybe: Vec<(Vec<String>, Option<u64>)>,
    cursor: u64,
    appends: u64,
}

impl Model {
    fn new() -> Model {
        let mut model =
            Model { storage: FaultyStorage::new(), log: None, texts: vec![], maybe: vec![], cursor: 0, appends: 0 };
        model.open();
        model
    }

    fn log(&self) -> &SegmentLog {
        self.log.as_ref().expect("it is open")
    }

    /// Opens the folder; faults that strike while opening are waited out.
    fn open(&mut self) {
        let options = SegmentOptions {
            segment_bytes: 4 << 10,
            storage: Some(Arc::new(self.storage.clone())),
            ..SegmentOptions::new("memory")
        };
        let mut last = None;
        for _ in 0..20 {
            match SegmentLog::open(options.clone()) {
                Ok(log) => {
                    self.log = Some(log);
                    return self.settle();
                }
                Err(watershed::log::segments::OpenError::Io(error)) => last = Some(error),
                Err(error) => panic!("{error}"),
            }
        }
        panic!("the log does not open: {last:?}");
    }

    /// After opening: what was in doubt is there or not, as a whole.
    fn settle(&mut self) {
        let tail = self.log().info().tail.0 as usize;
        let stored = self.stored_cursor();
        let maybe = std::mem::take(&mut self.maybe);
        // Each text has the number of its append in it, so what is found says which one it is; `check` compares them.
        let found = self.found(self.texts.len() as u64);
        if let Some((texts, _)) = maybe.iter().find(|(texts, _)| !texts.is_empty() && *texts == found) {
            self.texts.extend(texts.iter().cloned());
        }
        assert_eq!(tail, self.texts.len(), "what was acknowledged is there, and nothing else");
        let in_doubt = maybe.iter().any(|(_, cursor)| *cursor == Some(stored));
        assert!(stored == self.cursor || in_doubt, "the cursor is {stored}");
        self.cursor = stored;
    }

    /// The first texts of the entries after a position.
    fn found(&self, after: u64) -> Vec<String> {
        let all = read_all(self.log(), Position(after).into()).now_or_never().expect("a read does not wait");
        let firsts: Vec<_> =
            all.expect("readable").into_iter().filter(|logged| logged.entry.header().part == 0).collect();
        texts(&firsts)
    }

    fn stored_cursor(&self) -> u64 {
        let stored = self.log().source_cursor(LinkId(LogId(5)));
        stored.map_or(0, |cursor| String::from_utf8_lossy(&cursor.0).len() as u64)
    }

    async fn check(&self, from: u64) {
        let log = self.log();
        let info = log.info();
        assert_eq!(info.tail.0 as usize, self.texts.len());
        assert_eq!(self.stored_cursor(), self.cursor);
        let from = from.clamp(info.oldest.0 - 1, info.tail.0);
        let all = read_all(log, Position(from).into()).await.expect("readable");
        let firsts: Vec<_> = all.into_iter().filter(|logged| logged.entry.header().part == 0).collect();
        assert_eq!(texts(&firsts), self.texts[from as usize..]);
    }

    fn answered(
        &mut self,
        result: Result<watershed::model::Cursor, AppendError>,
        texts: Vec<String>,
        cursor: Option<u64>,
    ) {
        match result {
            Ok(at) => {
                self.texts.extend(texts);
                self.maybe.clear();
                self.cursor = cursor.unwrap_or(self.cursor);
                assert_eq!(at.position.0 as usize, self.texts.len());
            }
            Err(AppendError::Failed(_)) => {
                self.maybe.push((texts, cursor));
            }
            Err(AppendError::DiskFull { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }

    async fn run(&mut self, operation: Operation) {
        self.appends += 1;
        match operation {
            Operation::Append { drafts, bytes } => {
                let names: Vec<String> =
                    (0..drafts).map(|i| format!("{} {i} {}", self.appends, "y".repeat(bytes))).collect();
                let result = self.log().append(append(names.iter().map(|name| local(name)).collect())).await;
                self.answered(result, names, None);
            }
            Operation::Large { parts, bytes } => {
                let result = self.log().append(append(vec![large(parts, bytes, None)])).await;
                self.answered(result, vec!["x".repeat(bytes)], None);
            }
            Operation::Cursor => {
                let next = self.cursor + 1;
                let text: &'static str = &"cccccccccccccccccccccccccccccccccccccccccccccccccccccc"[..next as usize];
                let result = self.log().append(arrival(5, vec![], Some(text))).await;
                self.answered(result, vec![], Some(next));
            }
            Operation::Read { from } => self.check(from).await,
            Operation::Trim { upto } => self.log().trim(Position(upto)).await.expect("trimmed"),
            Operation::Reopen => {
                self.log = None;
                self.open();
            }
            Operation::Crash { seed } => {
                let found = self.storage.crash(seed);
                self.log = None;
                self.storage = found;
                self.open();
            }
            Operation::Fail { fault, seed } => self.storage.inject(fault, seed),
            Operation::Full { room } => self.storage.set_room(Some(room)),
            Operation::Room => self.storage.set_room(None),
        }
        self.check(0).await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn what_was_acknowledged_survives_any_faults(operations in prop::collection::vec(operation(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let mut model = Model::new();
            for operation in operations {
                model.run(operation).await;
            }
        });
    }
}
