//! Values only: positions, tables, values, changes, entries and their bytes. No I/O, no tokio.

mod batch;
mod canonical;
mod catalog;
mod change;
mod codec;
mod entries;
mod entry;
mod envelope;
mod event;
mod feed;
mod index;
mod json;
pub mod limits;
mod position;
mod table;
mod value;
mod value_json;

pub use batch::{Batch, Logged, ReadFrom};
pub use canonical::{ValueClass, put_canonical};
pub use catalog::Catalog;
pub use change::{Change, Op};
pub use codec::{CodecError, decode_changes, decode_table, encode_changes, encode_table, scan_ops};
pub use entries::EventEntries;
pub use entry::{Entry, EntryHeader};
pub use envelope::{Glance, put_entry};
pub use event::{Event, EventTime, EventTimeError, count_events, events_table, put_event, scan_events};
pub use feed::{FeedRow, FeedRows, feed_table, put_feed_row};
pub use index::{IndexColumn, TableIndex};
pub use json::same_json;
pub use position::{Cursor, CursorError, Epoch, Lamport, LinkId, LogId, Origin, Position, SourceCursor, Timestamp};
pub use table::{Column, Fingerprint, TableDef, TableName, TableNameError};
pub use value::{Kind, Row, Value};
pub use value_json::{put_json_text, put_json_value};
