//! Every limit, in one place. Reaching one is a clear error, never a silent cut.

mod views;

pub use views::{
    MACHINE_APPLY_MAX, MACHINE_DIGEST_EVERY, MACHINE_DIGESTS_MAX, MACHINE_DIGESTS_SENT_MAX, REDUCE_STATE_BYTES_MAX,
    REDUCE_STATE_DEPTH_MAX, VIEW_ANSWER_BYTES_MAX, VIEW_ANSWER_ROWS_MAX, VIEW_ASK_TIME_MAX, VIEW_CHANGES_AT_ONCE,
    VIEW_CHANGES_KEPT, VIEW_COLUMNS_MAX, VIEW_DIGESTS_MAX, VIEW_ENTRY_SHOWN_BYTES, VIEW_FLOWN_ENTRIES, VIEW_LOCK_PAUSE,
    VIEW_LOOK_INTERVAL, VIEW_NEAR_ENTRIES, VIEW_ORDERS_MAX, VIEW_OUT_BYTES_AT_ONCE, VIEW_OUT_MEMORY_BYTES,
    VIEW_OUT_PIECES, VIEW_OUT_WAITING_MAX, VIEW_PARAMETERS_MAX, VIEW_PARTITIONS_MAX, VIEW_QUESTION_BYTES_MAX,
    VIEW_QUESTION_PARAMETERS_MAX, VIEW_READERS_MAX, VIEW_REBUILD_SHARE, VIEW_SENT_BYTES, VIEW_SENT_STATEMENTS,
    VIEW_SHOWN_BYTES, VIEW_SQL_BYTES_MAX, VIEW_STALL_AFTER, VIEW_STAND_MAX, VIEW_STAND_REST, VIEW_STATEMENTS_MAX,
    VIEW_SWITCH_ENTRIES, VIEW_SWITCH_WAIT, VIEW_TOKEN_BYTES_MAX, VIEW_VALUE_BYTES_MAX, VIEW_WAIT_DEFAULT,
    VIEW_WAIT_MAX, VIEW_WAITERS_MAX, VIEWS_MAX,
};

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
pub const LINK_CREDIT_BYTES: u64 = 4 << 20;
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
/// Rows of the first chunk of a first copy; the next ones may be larger.
pub const COPY_CHUNK_ROWS: usize = 2_000;
/// Bytes of the first chunk of a first copy, one row aside.
pub const COPY_CHUNK_BYTES: usize = 1 << 20;
/// A filter expression's text.
pub const FILTER_BYTES_MAX: usize = 8 << 10;
/// A configuration file.
pub const CONFIG_BYTES_MAX: u64 = 1 << 20;
/// How long a database lock is waited for before the attempt is reported and repeated.
pub const DATABASE_BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two looks at a SQLite database's `data_version`.
pub const CAPTURE_POLL_INTERVAL: Duration = Duration::from_micros(400);
/// Messages of first copies waiting to be handled; a peer that sends more is not waited for.
pub const COPY_MESSAGES_MAX: usize = 256;
/// Commands waiting at a database.
pub const DATABASE_COMMANDS_MAX: usize = 64;
/// A length of time in the configuration: 100 years.
pub const PERIOD_MAX: Duration = Duration::from_secs(100 * 365 * 86_400);
/// A file that holds a secret (a token).
pub const SECRET_BYTES_MAX: u64 = 16 << 10;
/// How long connecting to a node's admin API may take.
pub const ADMIN_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one answer of a node's admin API may take.
pub const ADMIN_TIMEOUT: Duration = Duration::from_secs(60);
/// One JSON answer of a node's admin API.
pub const ADMIN_ANSWER_BYTES_MAX: u64 = 16 << 20;
/// Files that a node may want open at once: below this `doctor` warns.
pub const OPEN_FILES_MIN: u64 = 1_024;
/// Epochs that a log lists, one for every opening; beyond it the oldest are forgotten, empty ones first.
pub const LOG_EPOCHS_MAX: usize = 4_096;
/// Epochs that a log remembers of each origin.
pub const ORIGIN_EPOCHS_MAX: usize = 1_024;
/// A message between nodes larger than this travels in fragments, so that pings, acknowledgements and control messages
/// pass between them and a slow link still shows that it is alive. Entries are gathered into messages of about this size.
pub const FRAGMENT_BYTES_MAX: usize = 128 << 10;
/// A WebSocket message on a link: a fragment and its envelope.
pub const LINK_FRAME_BYTES_MAX: usize = FRAGMENT_BYTES_MAX + 64;
/// What a message with entries costs of a link's credits at least; bounds how many may wait at the receiver.
pub const MESSAGE_CREDIT_BYTES_MIN: u64 = 1 << 10;
/// What a receiver gathers from a link into one append, one message aside.
pub const LINK_APPEND_BYTES_MAX: u64 = 2 << 20;
/// Heartbeats that may be under way in one direction; no further one is sent until an echo has come.
pub const HEARTBEATS_UNANSWERED_MAX: usize = 16;
/// Logs whose progress one heartbeat carries.
pub const HEADS_MAX: usize = SUBTREE_NODES_MAX;
/// Control messages (copies, offers) of a node that wait for a link; further ones wait for room.
pub const LINK_CONTROL_MAX: usize = 16;
/// Tables that one side of a link may offer, and definitions that may travel with one message.
pub const OFFERS_MAX: usize = 10_000;
/// Rows of one chunk of a first copy that a receiver accepts.
pub const COPY_CHUNK_ROWS_MAX: usize = 20 * COPY_CHUNK_ROWS;
/// The text of a failure that a peer sends.
pub const FAILURE_BYTES_MAX: usize = 4 << 10;
/// How long telling a peer why its link ends may take.
pub const FAREWELL_TIMEOUT: Duration = Duration::from_secs(2);
/// How long one attempt to reach the parent (name lookup, connection, WebSocket handshake) may take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// What a link's socket reads at once.
pub const LINK_READ_BUFFER_BYTES: usize = 16 << 10;
/// What a link's socket gathers before it writes without being flushed.
pub const LINK_WRITE_BUFFER_BYTES: usize = 64 << 10;
/// A segment's header: table definitions, origins and cursors.
pub const SEGMENT_HEADER_BYTES_MAX: usize = 256 << 20;
/// Entries of a log are put into batches of about this size, which are checked and read whole.
pub const LOG_BATCH_BYTES_TARGET: usize = 256 << 10;
/// Distance between two places in a segment's index.
pub const SEGMENT_INDEX_BYTES: u64 = 32 << 10;
/// When nothing has been appended for this long, the log notes that everything is durable.
pub const LOG_IDLE_MARK_DELAY: Duration = Duration::from_millis(50);
/// How long a group commit waits at most for the appenders that were in the last group.
pub const LOG_GROUP_DELAY_MAX: Duration = Duration::from_micros(200);
/// How long a log keeps what nobody needs.
pub const RETAIN_TIME_DEFAULT: Duration = Duration::from_secs(7 * 24 * 3600);
/// What a log takes on disk at most.
pub const RETAIN_BYTES_DEFAULT: u64 = 50 << 30;
/// Prepared statements that an applying connection keeps.
pub const APPLY_STATEMENTS_MAX: usize = 256;
/// Differing rows that a comparison remembers and looks at again.
pub const DIFF_RECHECK_MAX: usize = 10_000;
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
/// How long a node that stops waits for HTTP requests under way.
pub const HTTP_DRAIN_MAX: Duration = Duration::from_secs(2);
/// A database in which nothing has been written for this long is looked at less often.
pub const CAPTURE_QUIET_AFTER: Duration = Duration::from_secs(5);
/// Between two looks at a quiet database: an idle node costs about 1 % of a core.
pub const CAPTURE_QUIET_INTERVAL: Duration = Duration::from_millis(5);
/// Notifications of a PostgreSQL connection that wait to be seen; further ones say nothing new.
pub const NOTIFICATIONS_MAX: usize = 64;
/// Events that a stream which is nearly current asks for at once.
pub const EVENTS_SCAN_ROWS_FEW: u32 = 512;
/// Events that a stream which is behind reads from one snapshot: a few seconds' worth, so that the source's vacuum is
/// not held up for long.
pub const EVENTS_SCAN_ROWS_MANY: u32 = 250_000;
/// Between two looks at an events table whose notifications are silent: covers a lost one.
pub const EVENTS_POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Between two looks while events wait for older transactions to end.
pub const EVENTS_HORIZON_INTERVAL: Duration = Duration::from_millis(10);
/// What a stream of events reads at once, four times (two batches are written, one waits, one is read).
pub const EVENTS_BATCH_BYTES: usize = 3 << 20;
/// Up to so many events are written by one statement instead of COPY.
pub const EVENTS_FEW: usize = 64;
/// Up to so many bytes of events are written by one statement instead of COPY.
pub const EVENTS_FEW_BYTES: usize = 256 << 10;
/// What COPY sends at once.
pub const EVENTS_COPY_CHUNK_BYTES: usize = 64 << 10;
/// An empty table's secondary indexes are put off when a first batch has at least so many bytes of events.
pub const EVENTS_INDEXES_LATER_BYTES_MIN: usize = 256 << 10;
/// A node that was below and is away is elsewhere once its clock has been seen to go on above this often.
pub const ELSEWHERE_HEARD_MIN: u8 = 2;
/// A copy that is under way waits this long for a peer that is away, before the table is copied from another.
pub const COPY_ABSENT_MAX: Duration = Duration::from_secs(60);
/// Objects and lists within each other in a configuration.
pub const CONFIG_DEPTH_MAX: usize = 32;
/// Events that one write to a destination may have, at the least; the default, too.
pub const EVENTS_PER_WRITE_MIN: u32 = 10_000;
/// How long `events init` waits for a lock that somebody who appends or reads has.
pub const EVENTS_INIT_LOCK_TIMEOUT: Duration = Duration::from_secs(10);
/// Loaders of `events load`: each has a connection of its own.
pub const EVENTS_LOADERS_MAX: usize = 256;
/// Events of one transaction of `events load`.
pub const EVENTS_LOAD_BATCH_MAX: u32 = 10_000;
/// Between two attempts of a loader to connect again.
pub const EVENTS_LOAD_RETRY_DELAY: Duration = Duration::from_millis(200);
/// How long connecting to a database with events may take, unless the configuration says otherwise.
pub const EVENTS_CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Between attempts to open a database that is locked when the node starts.
pub const DATABASE_WAIT: Duration = Duration::from_secs(1);
/// Ids that are compared at random before events are copied.
pub const EVENTS_PROBE_IDS: usize = 1_000;
/// Events that such a comparison reads at once.
pub const EVENTS_PROBE_CHUNK: usize = 20;
/// After this many bytes of events it ends.
pub const EVENTS_PROBE_BYTES_MAX: usize = 16 << 20;
/// A destination that lacks something for longer than this is not current.
pub const EVENTS_CURRENT_LAG: Duration = Duration::from_secs(5);
/// Between two notes of how far the source was when.
pub const EVENTS_LAG_INTERVAL: Duration = Duration::from_secs(1);
/// Such notes; when there are more, the lag is measured less finely.
pub const EVENTS_LAG_SAMPLES: usize = 600;
/// How long streams that are told to stop may take for the batch that they write.
pub const EVENTS_DRAIN_MAX: Duration = Duration::from_secs(10);
/// Between two lines in the log about a destination.
pub const EVENTS_REPORT_INTERVAL: Duration = Duration::from_secs(60);
/// A PostgreSQL server that is not heard of for this long is given up.
pub const POSTGRES_SILENCE_MAX: Duration = Duration::from_secs(30);
/// What reading a range of events returns at most, one event aside.
pub const EVENTS_RANGE_BYTES: usize = 8 << 20;
/// Rows that reading a range of events asks for first, before it knows how large they are.
pub const EVENTS_RANGE_ROWS_FIRST: usize = 8;
/// Rows that a comparison of events reads at once from each side.
pub const EVENTS_COMPARE_ROWS: u32 = 5_000;
/// Ids of one chunk whose digests are compared; a sparse table's chunks grow.
pub const EVENTS_COMPARE_CHUNK: i64 = 1_000;
/// Chunks whose digests are asked for at once.
pub const EVENTS_COMPARE_CHUNKS: i64 = 100;
/// A comparison makes its chunks larger when a request covered fewer events than this, and smaller above 40 times that.
pub const EVENTS_COMPARE_FEW: u64 = 10_000;
/// Bytes of an event's text that a difference shows.
pub const EVENTS_SHOWN_BYTES: usize = 160;
/// After a comparison, missing events are looked for once more after this long, if either table grew meanwhile.
pub const EVENTS_RECHECK_DELAY: Duration = Duration::from_secs(1);
/// Transactions of mixed ids that a check of whole transactions has open at once.
pub const EVENTS_GROUPS_OPEN_MAX: usize = 10_000;
/// The same where many destinations share the process.
pub const EVENTS_BATCH_BYTES_MIN: usize = 512 << 10;
/// How long a lock is waited for that this process itself held: a child that it starts may have a copy for a moment.
pub const LOCK_OWN_WAIT_MAX: Duration = Duration::from_secs(2);
/// Between two attempts at such a lock.
pub const LOCK_OWN_WAIT: Duration = Duration::from_millis(5);
/// From this size on events are copied beside those before them, over a second connection, in bytes.
pub const EVENTS_BESIDE_BYTES_MIN: usize = 512 << 10;
/// What has been copied beside waits this long for what comes before it to be committed.
pub const EVENTS_BESIDE_WAIT_MAX: Duration = Duration::from_secs(10);
/// How long connecting to a node's database may take.
pub const DATABASE_CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// What is read at once from a server's transaction log.
pub const REPLICATION_READ_BYTES: usize = 128 << 10;
/// The longest message of a server, as PostgreSQL has it (`MaxAllocSize`).
pub const REPLICATION_MESSAGE_BYTES_MAX: usize = 1 << 30;
/// A server whose transaction log is streamed hears this often, at the least, that we are alive.
pub const REPLICATION_STATUS_INTERVAL: Duration = Duration::from_secs(10);
/// Between two acknowledgements to such a server.
pub const REPLICATION_ACKNOWLEDGE_INTERVAL: Duration = Duration::from_millis(100);
/// Such a server that says nothing for so long, although it is asked, is given up.
pub const REPLICATION_SILENCE_MAX: Duration = Duration::from_secs(120);
/// Rows that are counted for the progress of a first copy where no ANALYZE has; above it they are said to be so many.
pub const COPY_COUNT_ROWS_MAX: u64 = 100_000;
/// Bytes of encoded changes after which captured transactions of PostgreSQL are given to the log, one of them aside.
pub const CAPTURE_GIVE_BYTES: usize = 2 << 20;
/// Transactions after which they are.
pub const CAPTURE_GIVE_ENTRIES: usize = 10_000;
/// How long one wait for changes of PostgreSQL lasts at most.
pub const CAPTURE_STREAM_WAIT: Duration = Duration::from_millis(10);
/// The same in a quiet database.
pub const CAPTURE_STREAM_WAIT_QUIET: Duration = Duration::from_millis(50);
/// Between two looks at a PostgreSQL database's tables, publications and slot.
pub const CAPTURE_LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Where a stream brings nothing to log, its place is logged this often,
pub const CAPTURE_EMPTY_INTERVAL: Duration = Duration::from_secs(1);
/// or after so many bytes of the server's log.
pub const CAPTURE_EMPTY_BYTES: u64 = 16 << 20;
/// How long a connection for capture may take.
pub const CAPTURE_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one question to the captured database may take.
pub const CAPTURE_ASK_TIMEOUT: Duration = Duration::from_secs(30);
/// A new slot waits for the transactions that run; an attempt ends after this long.
pub const CAPTURE_SLOT_TIMEOUT: Duration = Duration::from_secs(60);
/// Writers of a table that is newly captured are held up for no longer than this, in milliseconds.
pub const CAPTURE_TABLE_LOCK_MS: u32 = 200;
/// Operations that one call of an applying PostgreSQL session carries out, in bytes.
pub const APPLY_CALL_BYTES: usize = 1 << 20;
/// Different statements in one such call.
pub const APPLY_CALL_KINDS: usize = 24;
/// Such calls under way, while the parts of a large transaction are applied.
pub const APPLY_CALLS_MAX: usize = 8;
/// Up to so many transactions at once are applied to PostgreSQL each in a transaction of its own.
pub const APPLY_LIVE_ENTRIES: usize = 128;
/// Rows that a copy looks at, at once, to remove those that its sender does not have.
pub const APPLY_REMOVE_ROWS: usize = 20_000;
/// Parts of a table whose sums are compared; a power of two.
pub const DIFF_BUCKETS: u32 = 16_384;
/// Rows that a comparison has in memory, of both sides together; of each its key.
pub const DIFF_OPEN_ROWS_MAX: u64 = 400_000;
/// Rows that one commit of a repair mends.
pub const DIFF_MEND_ROWS: usize = 500;
/// Up to so many bytes of transactions at once are applied to PostgreSQL each in a transaction of its own.
pub const APPLY_LIVE_BYTES: usize = 256 << 10;
/// Up to so many rows of a table's net effect are written one by one.
pub const APPLY_FEW_ROWS: usize = 4;
/// How long a slot is waited for whose last reader has gone a moment ago.
pub const CAPTURE_SLOT_FREE_MAX: Duration = Duration::from_secs(1);
/// With fewer ids of a node's range left, `check` says that it will be used up.
pub const IDS_LEFT_MIN: i64 = 1_000;
/// Transactions that are merged into one for PostgreSQL, in bytes, while the one before is carried out.
pub const APPLY_GATHER_BYTES: usize = 4 << 20;
/// How often a database is looked at while there is nothing to apply.
pub const DATABASE_LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long an applying PostgreSQL session may take to be set up, once it is connected.
pub const APPLY_OPEN_TIMEOUT: Duration = Duration::from_secs(30);
/// Partitions of a feed.
pub const FEED_PARTITIONS_MAX: u32 = 64;
/// A key of a feed's row.
pub const FEED_KEY_BYTES_MAX: usize = 1 << 10;
/// One row of a feed, as JSON.
pub const FEED_ROW_BYTES_MAX: usize = 1 << 20;
/// What one call appends to a feed, as it was sent.
pub const FEED_CALL_BYTES_MAX: usize = 8 << 20;
/// Rows of one such call.
pub const FEED_CALL_ROWS_MAX: usize = 100_000;
/// Objects and lists within each other in a row of a feed: what common parsers read.
pub const FEED_JSON_DEPTH_MAX: usize = 128;
/// An id that an application gives: correlation, causation, idempotency.
pub const FEED_ID_BYTES_MAX: usize = 255;
/// Calls under way at one feed, in bytes; further ones are asked to come again.
pub const FEED_ROOM_BYTES: usize = 64 << 20;
/// Positions of a partition, counted from its tail, whose idempotency keys are remembered.
pub const FEED_REQUESTS_WINDOW: u64 = 100_000;
/// Named consumers of a feed.
pub const FEED_CONSUMERS_MAX: usize = 10_000;
/// How long the body of a call may take to arrive.
pub const HTTP_BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Feeds of a node.
pub const FEEDS_MAX: usize = 1_000;
/// Bytes of one chunk of a first copy when chunks are quickly taken, one row aside.
pub const COPY_CHUNK_BYTES_MAX: usize = 4 << 20;
/// Tables that are copied at once.
pub const COPIES_MAX: usize = 3;
/// Tables that are served to peers at once.
pub const COPIES_SERVED_MAX: usize = 64;
/// A chunk of a first copy that has not come by then is asked for again.
pub const COPY_CHUNK_TIMEOUT: Duration = Duration::from_secs(30);
/// What serves a table to a peer ends when nothing has been asked of it for so long.
pub const COPY_SERVING_IDLE_MAX: Duration = Duration::from_secs(120);
/// The snapshot of a table without a key is given from its start again within this time.
pub const COPY_WHOLE_AGAIN_MAX: Duration = Duration::from_secs(60);
/// A server with so many bytes of its log to send is read from in large pieces, not transaction by transaction.
pub const CAPTURE_BEHIND_BYTES: u64 = 256 << 10;
/// Captured transactions of such a server are given to the log this often, or when there are enough of them.
pub const CAPTURE_GIVE_INTERVAL: Duration = Duration::from_millis(20);
/// Functions that an applying session of PostgreSQL makes for combinations of statements, before it is replaced.
pub const APPLY_FUNCTIONS_MAX: u32 = 128;
/// A message of a feed's raw stream: a read of the log, or one entry that is larger.
pub const FEED_FRAME_BYTES_MAX: usize = 32 << 20;
/// A mirror that has everything hears this often that it has.
pub const MIRROR_PING_INTERVAL: Duration = Duration::from_secs(1);
/// A source from which a mirror hears nothing for so long is given up, and asked again.
pub const MIRROR_SILENCE_MAX: Duration = Duration::from_secs(15);
/// How long reaching a mirror's source may take.
pub const MIRROR_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// What is read of a source's refusal, in bytes.
pub const MIRROR_REFUSAL_BYTES_MAX: usize = 64 << 10;
/// Bytes that a mirror appends at once, one message aside.
pub const MIRROR_APPEND_BYTES: usize = 1 << 20;
/// Requests of one peer for stretches of feeds that are being answered.
pub const FEED_REQUESTS_MAX: usize = 256;
/// Indexes of one table that travel with its definition.
pub const TABLE_INDEXES_MAX: usize = 64;
/// Columns of one index (PostgreSQL's own limit).
pub const INDEX_COLUMNS_MAX: usize = 32;
/// Of an index that columns do not tell all of, the words that people are shown.
pub const INDEX_TEXT_BYTES_MAX: usize = 1_000;
/// Connections that a node has open over HTTP, links and readers included; fewer where the process may open fewer files.
pub const HTTP_CONNECTIONS_MAX: usize = 20_000;
/// Of the files that the process may open, connections get so many of a hundred.
pub const HTTP_CONNECTIONS_SHARE: usize = 75;
/// TLS handshakes under way; who comes beyond them is turned away at once.
pub const HTTP_HANDSHAKES_MAX: usize = 2_000;
/// How long a TLS handshake may take.
pub const HTTP_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a request's head may take from its first byte to its last.
pub const HTTP_HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// The lines and headers of a request.
pub const HTTP_HEAD_BYTES_MAX: usize = 32 << 10;
/// What a connection has in memory of an answer that has not been taken, one piece aside.
pub const HTTP_BUFFER_BYTES_MAX: usize = 128 << 10;
/// A connection on which nobody asks for anything is closed after this.
pub const HTTP_IDLE_MAX: Duration = Duration::from_secs(75);
/// A connection that takes nothing of its answer for so long is cut off.
pub const HTTP_STALL_MAX: Duration = Duration::from_secs(30);
/// Connections beyond the limit that are told so; further ones are closed without a word.
pub const HTTP_TURNED_AWAY_MAX: usize = 256;
/// How long telling them may take.
pub const HTTP_TURNED_AWAY_TIMEOUT: Duration = Duration::from_secs(2);
/// A file with certificates.
pub const CERTIFICATES_BYTES_MAX: u64 = 1 << 20;
/// Origins that may use a node from a browser.
pub const CORS_ORIGINS_MAX: usize = 100;
/// The body of an order, or of a consumer's cursor.
pub const HTTP_ORDER_BYTES_MAX: usize = 64 << 10;
/// Once something was captured, the token that database and data folder have in common changes after this time.
pub const CAPTURE_WITNESS_INTERVAL: Duration = Duration::from_secs(5);
/// Names of columns that a captured table has no more, and its followers may have; of more the eldest are forgotten.
pub const CAPTURE_GONE_COLUMNS_MAX: usize = 4_000;
/// Rows of a table that somebody has locked are not asked for again before this time.
pub const CAPTURE_LOCKED_PAUSE: Duration = Duration::from_secs(10);
/// A lock on one table holds up the others for about so long; then that table is parked.
pub const APPLY_LOCK_PATIENCE: Duration = Duration::from_secs(15);
/// A table that is parked for a lock is tried again after this.
pub const APPLY_LOCKED_RETRY: Duration = Duration::from_secs(10);
/// With so many bytes to send a server is far behind,
pub const CAPTURE_FAR_BEHIND_BYTES: u64 = 8 << 20;
/// and what is captured is given to the log this often, or when there is enough of it: the larger the pieces, the less all
/// the work after it takes.
pub const CAPTURE_FAR_GIVE_INTERVAL: Duration = Duration::from_millis(100);
/// So many bytes of transactions that only add rows are copied beside those before them, over a second session.
pub const APPLY_WING_BYTES: usize = 1 << 20;
/// Different tables that one call to a feed may name.
pub const FEED_CALL_TABLES_MAX: usize = 1_000;

/// Bytes of changes that may have arrived while a snapshot of tables was taken, and are added to it.
pub const PRESENT_BYTES_MAX: usize = 64 << 20;
/// Writers of a SQLite database are held up no longer than that while a snapshot of its tables is begun.
pub const PRESENT_HOLD_MAX: Duration = Duration::from_secs(1);
/// Replicas of machines of which one heartbeat speaks.
pub const HEARTBEAT_REPLICAS_MAX: usize = 256;
/// Formatted entries that are kept for further readers of the same place, of all feeds of a node together.
pub const FEED_PIECES_BYTES_MAX: usize = 8 << 20;
/// Such pieces.
pub const FEED_PIECES_MAX: usize = 1_000;
/// What one piece of an answer to a reader has, about.
pub const FEED_PIECE_BYTES: usize = 64 << 10;
/// Readers that come from different places meet where a position is divisible by this, and share from there on.
pub const FEED_PIECE_ENTRIES: u64 = 64;
/// Readers that catch up and are read for in large pieces; others have pieces of the usual size.
pub const FEED_LARGE_READS_MAX: usize = 8;
/// What is looked through for a reader for whom nothing of it is, before it hears how far it has come.
pub const FEED_SCAN_BYTES_MAX: usize = 64 << 20;
/// Different tables that the rows of one partition of a feed may have.
pub const FEED_TABLES_MAX: usize = 20_000;
/// Answers with entries that wait until a peer takes them; what it asks for beyond them waits unread.
pub const FEED_ANSWERS_MAX: usize = 16;
