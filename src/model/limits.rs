//! Every limit, in one place. Reaching one is a clear error, never a silent cut.

use std::time::Duration;

/// Names of tables, columns and nodes.
pub const NAME_BYTES_MAX: usize = 255;
/// Columns of a table.
pub const COLUMNS_MAX: usize = 1600;
/// Tables named by one entry.
pub const ENTRY_TABLES_MAX: usize = 10_000;
/// A source's cursor, as stored in a log.
pub const SOURCE_CURSOR_BYTES_MAX: usize = 1024;
/// Changes of one entry part, encoded: a larger transaction travels in parts of about this size.
pub const PART_BYTES_TARGET: usize = 1 << 20;
/// An entry part may exceed the target by one row; a row may have this many bytes.
pub const ENTRY_BYTES_MAX: usize = 64 << 20;
/// A batch in a log: one group commit writes at most this much at once (an entry may be larger alone).
pub const BATCH_BYTES_MAX: usize = 8 << 20;
/// What one read of a log returns at most, one entry aside.
pub const READ_BYTES_MAX: usize = 1 << 20;
/// Entries that one read of a log returns at most.
pub const READ_ENTRIES_MAX: usize = 10_000;
/// Appends waiting for the group commit; further ones wait for room.
pub const APPEND_QUEUE_MAX: usize = 4_096;
/// A segment file, preallocated.
pub const SEGMENT_BYTES_DEFAULT: u64 = 32 << 20;
/// A WebSocket message between nodes.
pub const FRAME_BYTES_MAX: usize = ENTRY_BYTES_MAX + (1 << 20);
/// Bytes that a sender may have under way on a link before the receiver has made them durable.
pub const LINK_CREDIT_BYTES: u64 = 8 << 20;
/// Nodes on a path to the root.
pub const PATH_NODES_MAX: usize = 64;
/// Nodes announced below a child.
pub const SUBTREE_NODES_MAX: usize = 10_000;
/// Between heartbeats on a link.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);
/// A link from which nothing came for this long is given up.
pub const LINK_SILENCE_MAX: Duration = Duration::from_secs(15);
/// A peer that dialled must have said hello by then.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Rows of one chunk of a first copy.
pub const COPY_CHUNK_ROWS: usize = 2_000;
/// Bytes of one chunk of a first copy, one row aside.
pub const COPY_CHUNK_BYTES: usize = 1 << 20;
/// A filter expression's text.
pub const FILTER_BYTES_MAX: usize = 8 << 10;
/// A configuration file.
pub const CONFIG_BYTES_MAX: u64 = 1 << 20;
/// How long a database lock is waited for before the attempt is reported and repeated.
pub const DATABASE_BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two looks at a SQLite database's `data_version`.
pub const CAPTURE_POLL_INTERVAL: Duration = Duration::from_millis(1);
/// Prepared statements that an applying connection keeps.
pub const APPLY_STATEMENTS_MAX: usize = 256;
/// Differing rows that a comparison remembers and looks at again.
pub const DIFF_RECHECK_MAX: usize = 10_000;
/// Epochs that a log lists, one for every opening; beyond it the oldest are forgotten, empty ones first.
pub const LOG_EPOCHS_MAX: usize = 4_096;
/// Epochs that a log remembers of each origin.
pub const ORIGIN_EPOCHS_MAX: usize = 1_024;
/// Rows of the change table that one short read transaction takes, so that no writer waits for long.
pub const CAPTURE_READ_ROWS_MAX: usize = 10_000;
/// Bytes of rows that one short read transaction of the change table takes, one row aside.
pub const CAPTURE_READ_BYTES_MAX: u64 = 8 << 20;
/// Rows that one write transaction removes from the change table.
pub const CAPTURE_TRIM_ROWS_MAX: i64 = 10_000;
/// How long captured rows stay in the change table at least, unless there are [`CAPTURE_TRIM_ROWS_MAX`] of them.
pub const CAPTURE_TRIM_INTERVAL: Duration = Duration::from_secs(1);
/// How long one attempt to look at the database waits for a lock.
pub const CAPTURE_BUSY_TIMEOUT: Duration = Duration::from_millis(250);
/// Between two looks at whether the database's file is still the same.
pub const CAPTURE_FILE_INTERVAL: Duration = Duration::from_secs(1);
/// Rows per table that may be waiting to be known as replaced; a statement has at most one per unique key.
pub const CAPTURE_RIVALS_MAX: usize = 64;
