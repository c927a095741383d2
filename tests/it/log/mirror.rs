//! A log on disk that is a mirror: the ids, epochs and positions of its original, whatever happens to the process.

use std::sync::Arc;

use bytes::Bytes;
use watershed::log::segments::{OpenError, SegmentLog, SegmentOptions};
use watershed::log::{Append, AppendError, Draft, Limit, Log, MirrorStart, Source};
use watershed::model::{Cursor, Entry, EntryHeader, Epoch, Lamport, LinkId, LogId, Position};
use watershed::testing::log_storage::FaultyStorage;

const ID: LogId = LogId(77);

fn start(oldest: u64) -> MirrorStart {
    let epochs = [(1, 1), (2, 4), (3, 900)].map(|(epoch, first)| (Epoch(epoch), Position(first))).to_vec();
    MirrorStart { id: ID, epochs, oldest: Position(oldest), lamport: Lamport(50) }
}

fn options(storage: &FaultyStorage, start: Option<MirrorStart>) -> SegmentOptions {
    let storage: Arc<FaultyStorage> = Arc::new(storage.clone());
    SegmentOptions { segment_bytes: 4 << 10, storage: Some(storage), mirror: true, start, ..SegmentOptions::new("m") }
}

fn mirrored(position: u64, epoch: u64) -> Draft {
    let (position, epoch) = (Position(position), Epoch(epoch));
    let origin = Some(Cursor { log: ID, epoch, position });
    let header = EntryHeader { origin, lamport: Lamport(position.0 + 50), ..EntryHeader::default() };
    Draft::Mirrored { position, epoch, entry: Entry::new(header, Bytes::from(vec![7; 200])) }
}

fn append(drafts: Vec<Draft>) -> Append {
    Append { from: LinkId::LOCAL, tables: vec![], drafts, upto: None }
}

fn local() -> Draft {
    Draft::Local { header: EntryHeader::default(), changes: Bytes::new() }
}

#[tokio::test]
async fn epochs_and_positions_are_those_of_the_original_after_any_crash() {
    let mut storage = FaultyStorage::new();
    let mut log = SegmentLog::open(options(&storage, Some(start(3)))).expect("created");
    assert_eq!((log.info().oldest, log.info().tail, log.id()), (Position(3), Position(2), ID));
    assert_eq!(log.info().epochs, [(Epoch(1), Position(1))], "later epochs come with their entries");
    let epoch_of = |position: u64| 1 + u64::from(position >= 4) + u64::from(position >= 20) + u64::from(position >= 61);
    for round in 0..12 {
        let first = log.info().tail.0 + 1;
        let drafts = (first..first + 7).map(|position| mirrored(position, epoch_of(position))).collect();
        let at = log.append(append(drafts)).await.expect("appended");
        assert_eq!(at, Cursor { log: ID, epoch: Epoch(epoch_of(first + 6)), position: Position(first + 6) });
        let known = log.info().epochs;
        storage = storage.crash(round);
        log = SegmentLog::open(options(&storage, None)).expect("recovered");
        assert_eq!((log.info().epochs, log.info().tail), (known, at.position), "round {round}");
    }
    for position in 3..=log.info().tail.0 {
        assert_eq!(log.cursor_at(Position(position)).epoch, Epoch(epoch_of(position)), "{position}");
    }
    let read = log.read(Position(2).into(), Limit::default()).await.expect("read");
    let read: Vec<u64> = read.entries.iter().map(|logged| logged.position.0).collect();
    assert_eq!(read, (3..3 + read.len() as u64).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_does_not_continue_the_mirror_is_refused_as_a_whole() {
    let log = SegmentLog::open(options(&FaultyStorage::new(), Some(start(1)))).expect("created");
    log.append(append(vec![mirrored(1, 1), mirrored(2, 2)])).await.expect("appended");
    let no_origin = Entry::new(EntryHeader::default(), Bytes::new());
    let wrong: Vec<Vec<Draft>> = vec![
        vec![mirrored(4, 2)],
        vec![mirrored(2, 2)],
        vec![mirrored(3, 2), mirrored(5, 2)],
        vec![mirrored(3, 2), mirrored(4, 1)],
        vec![Draft::Mirrored { position: Position(3), epoch: Epoch(2), entry: no_origin.clone() }],
        vec![mirrored(3, 2), local()],
        vec![Draft::Relayed(no_origin)],
    ];
    for (number, drafts) in wrong.into_iter().enumerate() {
        let refused = log.append(append(drafts)).await.expect_err("refused");
        let known = matches!(refused, AppendError::Invalid(_) | AppendError::Moved { .. });
        assert!(known, "{number}: {refused}");
        assert_eq!(log.info().tail, Position(2), "{number}");
    }
    assert_eq!(log.append(append(vec![mirrored(3, 9)])).await.expect("appended").epoch, Epoch(9));
    let own =
        SegmentLog::open(SegmentOptions { mirror: false, ..options(&FaultyStorage::new(), None) }).expect("created");
    assert!(matches!(own.append(append(vec![mirrored(1, 1)])).await, Err(AppendError::Invalid(_))));
}

#[tokio::test]
async fn a_promoted_mirror_goes_on_in_an_epoch_of_its_own() {
    let storage = FaultyStorage::new();
    let log = SegmentLog::open(options(&storage, Some(start(1)))).expect("created");
    log.append(append(vec![mirrored(1, 1)])).await.expect("appended");
    log.promote().expect("promoted");
    assert_eq!(log.info().epochs.len(), 2);
    let epoch = log.info().epochs[1];
    assert!(matches!(log.append(append(vec![mirrored(2, 1)])).await, Err(AppendError::Invalid(_))));
    let (at, lamport) = log.append_stamped(append(vec![local()])).await.expect("appended");
    assert_eq!((at.position, at.epoch, lamport), (Position(2), epoch.0, Lamport(52)));
    // Whoever followed the original beyond that point cannot go on here.
    assert!(log.check(Cursor { epoch: Epoch(1), position: Position(2), log: ID }).is_err());
    log.check(Cursor { epoch: Epoch(1), position: Position(1), log: ID }).expect("the common history");
    let crashed = storage.crash(5);
    let again = SegmentLog::open(SegmentOptions { mirror: false, ..options(&crashed, None) }).expect("recovered");
    assert_eq!(again.cursor_at(Position(2)), at);
}

#[test]
fn a_mirror_that_is_not_there_is_not_made_up() {
    let opened = SegmentLog::open(options(&FaultyStorage::new(), None));
    assert!(matches!(opened, Err(OpenError::Missing(_))));
}

#[tokio::test]
async fn a_full_disk_stops_a_mirror_and_poisons_nothing() {
    let storage = FaultyStorage::new();
    let log = SegmentLog::open(options(&storage, Some(start(1)))).expect("created");
    storage.set_room(Some(0));
    let mut stopped = None;
    for position in 1..200 {
        if let Err(error) = log.append(append(vec![mirrored(position, position / 30 + 10)])).await {
            assert!(matches!(error, AppendError::DiskFull { .. }), "{error}");
            stopped = Some(position);
            break;
        }
    }
    let position = stopped.expect("the disk is full");
    assert_eq!(log.info().tail, Position(position - 1));
    storage.set_room(None);
    log.append(append(vec![mirrored(position, position / 30 + 10)])).await.expect("there is room again");
}
