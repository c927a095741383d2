//! The messages.

use std::fmt;
use std::ops::Deref;

use bytes::Bytes;

use super::Tuple;
use crate::model::Timestamp;
use crate::postgres::replication::Lsn;

/// A text of a message, shared with the block that was read with it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Text(Bytes);

impl Text {
    pub(super) fn new(bytes: Bytes) -> Option<Text> {
        std::str::from_utf8(&bytes).is_ok().then_some(Text(bytes))
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        std::str::from_utf8(&self.0).expect("it was UTF-8 when the message was read")
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

/// A message and the transaction that it belongs to, if that has not ended yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Between [`Message::StreamStart`] and [`Message::StreamStop`]: the transaction or subtransaction, which may still be
    /// aborted. Not for [`Message::Origin`].
    pub xid: Option<u32>,
    /// The message.
    pub message: Message,
}

/// What `pgoutput` sends, protocol versions 1 and 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A committed transaction begins: all of its changes follow, then its commit.
    Begin(Begin),
    /// It ends.
    Commit(Commit),
    /// Where the transaction was replicated from; follows the beginning.
    Origin(Origin),
    /// A table as it is from here on; comes before the first change in it, and whenever it has changed.
    Relation(Relation),
    /// The name of a column's type that is not built in.
    Type {
        /// The type's oid.
        id: u32,
        /// Its schema; empty: `pg_catalog`.
        schema: Text,
        /// Its name.
        name: Text,
    },
    /// A new row.
    Insert {
        /// The table, by its oid.
        relation: u32,
        /// The row.
        new: Tuple,
    },
    /// A changed row.
    Update {
        /// The table, by its oid.
        relation: u32,
        /// What it was: only its key if that has changed, or all of it if the replica identity is full.
        old: Option<Old>,
        /// What it is.
        new: Tuple,
    },
    /// A row that is no more.
    Delete {
        /// The table, by its oid.
        relation: u32,
        /// What it was.
        old: Old,
    },
    /// Tables emptied by one statement.
    Truncate(Truncate),
    /// What `pg_logical_emit_message` wrote.
    Logical(LogicalMessage),
    /// A part of a transaction that has not ended yet follows.
    StreamStart {
        /// The transaction.
        xid: u32,
        /// Whether it is the first part.
        first: bool,
    },
    /// The part has ended.
    StreamStop,
    /// A transaction that came in parts is committed.
    StreamCommit {
        /// The transaction.
        xid: u32,
        /// How.
        commit: Commit,
    },
    /// A transaction that came in parts, or a subtransaction of it, is undone.
    StreamAbort {
        /// The transaction.
        xid: u32,
        /// What is undone: the transaction itself, or a subtransaction of it, with those begun within (each is named).
        subxid: u32,
    },
}

/// A transaction's beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begin {
    /// Where its commit stands: [`Commit::lsn`].
    pub commit: Lsn,
    /// When it was committed.
    pub time: Timestamp,
    /// Its id.
    pub xid: u32,
}

/// A transaction's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Where the commit stands.
    pub lsn: Lsn,
    /// Behind it: what is acknowledged when the transaction is stored.
    pub end: Lsn,
    /// When it was committed.
    pub time: Timestamp,
}

/// Where a transaction was replicated from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The commit at that server, as whoever applied it says.
    pub lsn: Lsn,
    /// The origin's name.
    pub name: Text,
}

/// What an old row tells of a table's rows: `relreplident` of its `pg_class` row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// The primary key, if there is one.
    Default,
    /// Nothing.
    Nothing,
    /// All columns.
    Full,
    /// The columns of an index.
    Index,
}

/// A table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    /// Its oid.
    pub id: u32,
    /// Its schema; `pg_catalog` comes as an empty text.
    pub schema: Text,
    /// Its name.
    pub name: Text,
    /// What old rows tell.
    pub identity: Identity,
    /// Its columns, as rows have them.
    pub columns: Vec<RelationColumn>,
}

/// A table's column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelationColumn {
    /// Whether it is part of the key that old rows have.
    pub key: bool,
    /// Its name.
    pub name: Text,
    /// Its type's oid.
    pub type_id: u32,
    /// What its type is restricted to (`atttypmod`), or -1.
    pub modifier: i32,
}

/// What is said of a row before a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Old {
    /// Its key; the other values are null.
    Key(Tuple),
    /// All of it.
    Row(Tuple),
}

impl Old {
    /// The values.
    pub fn tuple(&self) -> &Tuple {
        match self {
            Old::Key(tuple) | Old::Row(tuple) => tuple,
        }
    }
}

/// Tables emptied by one statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Truncate {
    /// The tables, by their oids.
    pub relations: Vec<u32>,
    /// `CASCADE`
    pub cascade: bool,
    /// `RESTART IDENTITY`
    pub restart_identity: bool,
}

/// What `pg_logical_emit_message` wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogicalMessage {
    /// Whether it belongs to a transaction; else it comes at once, between transactions or within another.
    pub transactional: bool,
    /// Where it stands.
    pub lsn: Lsn,
    /// Whose it is.
    pub prefix: Text,
    /// Any bytes.
    pub content: Bytes,
}
