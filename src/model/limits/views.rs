//! Limits of views.

use std::time::Duration;

/// Partitions of one log that a view may have cursors of.
pub const VIEW_PARTITIONS_MAX: usize = 65_536;
/// Positions between two digests of a machine's state: the multiples of it, so that all replicas agree on them.
pub const MACHINE_DIGEST_EVERY: u64 = 1_000;
/// Such digests that are kept.
pub const MACHINE_DIGESTS_MAX: usize = 256;
/// Such digests that travel in one heartbeat, per machine.
pub const MACHINE_DIGESTS_SENT_MAX: usize = 24;
/// Transactions that are applied to a machine before those who read it get their turn.
pub const MACHINE_APPLY_MAX: usize = 512;
/// One state of a `reduce` view, as JSON.
pub const REDUCE_STATE_BYTES_MAX: usize = 1 << 20;
/// What a reader of a view may show that it has seen: cursors of all partitions of a log.
pub const VIEW_TOKEN_BYTES_MAX: usize = 8 << 10;
/// Readers that wait for one view.
pub const VIEW_WAITERS_MAX: usize = 100_000;
/// How long a reader waits for a view that does not say.
pub const VIEW_WAIT_DEFAULT: Duration = Duration::from_secs(2);
/// How long a reader may wait for a view.
pub const VIEW_WAIT_MAX: Duration = Duration::from_secs(300);
/// A question to a view is broken off after this.
pub const VIEW_ASK_TIME_MAX: Duration = Duration::from_secs(5);
/// Rows of one answer of a view.
pub const VIEW_ANSWER_ROWS_MAX: usize = 10_000;
/// Values of one answer of a view.
pub const VIEW_ANSWER_BYTES_MAX: usize = 8 << 20;
/// A view that has not moved for so long, while its log has more, has stalled.
pub const VIEW_STALL_AFTER: Duration = Duration::from_secs(5);
/// Between two looks at how views are doing.
pub const VIEW_LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// A view that is being built and lacks more entries than this tells readers so at once.
pub const VIEW_NEAR_ENTRIES: u64 = 10_000;
/// Of its time a view that is rebuilt beside the one that answers works so many hundredths.
pub const VIEW_REBUILD_SHARE: u32 = 50;
/// A rebuilt view that lacks no more entries than this takes its place: what it replaces stands still, and it reads the rest.
pub const VIEW_SWITCH_ENTRIES: u64 = 1_000;
/// How long a rebuilt view may take to reach the one that it replaces, which stands still meanwhile.
pub const VIEW_SWITCH_WAIT: Duration = Duration::from_secs(5);
/// Of the entry at which a view has failed, so much is shown.
pub const VIEW_ENTRY_SHOWN_BYTES: usize = 4 << 10;
/// The file with a view's definition.
pub const VIEW_SQL_BYTES_MAX: u64 = 1 << 20;
/// Changes of a view's rows that are kept for whoever reads them.
pub const VIEW_CHANGES_KEPT: u64 = 100_000;
/// Changes of a view's rows that are read at once.
pub const VIEW_CHANGES_AT_ONCE: usize = 500;
/// Views of a node.
pub const VIEWS_MAX: usize = 256;
/// Orders that wait at a view.
pub const VIEW_ORDERS_MAX: usize = 16;
/// Statements of such a definition.
pub const VIEW_STATEMENTS_MAX: usize = 1_000;
/// Different parameters of one of its statements.
pub const VIEW_PARAMETERS_MAX: usize = 500;
/// Questions to one SQL view that are being answered; further ones wait.
pub const VIEW_READERS_MAX: usize = 4;
/// A question's text.
pub const VIEW_QUESTION_BYTES_MAX: usize = 100_000;
/// Parameters of a question.
pub const VIEW_QUESTION_PARAMETERS_MAX: usize = 1_000;
/// One value that a question makes or reads, in bytes.
pub const VIEW_VALUE_BYTES_MAX: usize = 4 << 20;
/// Columns of an answer, unless a table of the view has more.
pub const VIEW_COLUMNS_MAX: usize = 64;
/// Of a statement or an entry, what an error shows, in bytes.
pub const VIEW_SHOWN_BYTES: usize = 2_000;
/// Between two attempts at a lock on a view's file.
pub const VIEW_LOCK_PAUSE: Duration = Duration::from_millis(5);
/// Lists and maps within each other in a state of a `reduce` view.
pub const REDUCE_STATE_DEPTH_MAX: usize = 64;
/// Statements of a view that are sent to PostgreSQL at once; of its latest rows, so many are in memory.
pub const VIEW_SENT_STATEMENTS: usize = 1_000;
/// The same in bytes of their values.
pub const VIEW_SENT_BYTES: usize = 4 << 20;
/// A batch of so many entries is applied to a view in SQLite while the next one is read.
pub const VIEW_FLOWN_ENTRIES: usize = 512;
/// What one transaction changes in a view that is published: beyond that it waits in a file, in bytes.
pub const VIEW_OUT_MEMORY_BYTES: usize = 8 << 20;
/// What is read at once of what waits to be published, in bytes, about.
pub const VIEW_OUT_BYTES_AT_ONCE: usize = 4 << 20;
/// Pieces of a view's rows that wait to be taken by its log, each of about half a part.
pub const VIEW_OUT_PIECES: usize = 4;
/// Transactions that wait to be published; a view with more waits, until its log takes them.
pub const VIEW_OUT_WAITING_MAX: u64 = 50_000;
/// Digests of one view that are summed up at a time.
pub const VIEW_DIGESTS_MAX: usize = 2;
/// So long a partition stands at the place of a digest until the others have come to theirs, and the snapshot is taken.
pub const VIEW_STAND_MAX: Duration = Duration::from_secs(2);
/// After a view has stood it goes on for so many times as long before it stands again.
pub const VIEW_STAND_REST: u32 = 4;
