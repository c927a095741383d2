//! A database of its own on a server that all tests share, with a publication of everything and a slot.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use watershed::postgres::Endpoint;
use watershed::postgres::replication::pgoutput::{Identity, Message, Old, Tuple, TupleValue};
use watershed::postgres::replication::{
    Data, Event, Lsn, ReplicationClient, ReplicationError, ReplicationStream, StartOptions,
};
use watershed::testing::postgres::Cluster;

pub const LIMIT: Duration = Duration::from_secs(180);

/// What a server needs; large transactions are those of more than 64 kB.
pub const SETTINGS: [(&str, &str); 8] = [
    ("wal_level", "logical"),
    ("fsync", "off"),
    ("shared_buffers", "32MB"),
    ("max_wal_senders", "60"),
    ("max_replication_slots", "60"),
    ("logical_decoding_work_mem", "64kB"),
    ("wal_writer_delay", "10ms"),
    ("max_prepared_transactions", "10"),
];

static CLUSTER: LazyLock<Cluster> = LazyLock::new(|| Cluster::with(&SETTINGS));
static NAMES: AtomicU32 = AtomicU32::new(0);

pub const PARTS: StartOptions = StartOptions { streaming: true, messages: true, silence: LIMIT };
pub const WHOLE: StartOptions = StartOptions { streaming: false, messages: true, silence: LIMIT };

pub fn cluster() -> &'static Cluster {
    &CLUSTER
}

pub fn endpoint(url: &str) -> Endpoint {
    Endpoint::with_environment(url, "the server", &|_| None).unwrap()
}

/// A database with a slot, from which everything is streamed that is written after [`Bed::new`].
pub struct Bed {
    cluster: &'static Cluster,
    pub url: String,
    pub slot: String,
}

impl Drop for Bed {
    fn drop(&mut self) {
        // Others need the place; whoever streams from it ends first.
        let sql = format!(
            "select pg_terminate_backend(active_pid, 5000) from pg_replication_slots where slot_name = '{0}';
             select pg_drop_replication_slot('{0}')",
            self.slot
        );
        let _ = self.cluster.try_sql("postgres", &sql);
    }
}

impl Bed {
    /// With tables that are there before the slot is.
    pub async fn new(sql: &str) -> Bed {
        let cluster = tokio::task::spawn_blocking(cluster).await.unwrap();
        let bed = Bed { cluster, url: cluster.database(), slot: format!("s{}", NAMES.fetch_add(1, Ordering::Relaxed)) };
        bed.sql(sql);
        bed.sql("create publication \"The Pub's\" for all tables");
        bed.client().await.create_slot(&bed.slot).await.unwrap();
        bed
    }

    pub fn sql(&self, sql: &str) -> String {
        self.cluster.sql(&self.url, sql)
    }

    /// Each statement in a transaction of its own.
    pub fn each(&self, statements: &str) {
        statements.split(';').for_each(|statement| drop(self.sql(statement)));
    }

    pub async fn client(&self) -> ReplicationClient {
        ReplicationClient::connect(&endpoint(&self.url), LIMIT).await.unwrap()
    }

    pub async fn try_start(&self, from: Lsn, options: StartOptions) -> Result<ReplicationStream, ReplicationError> {
        self.client().await.start(&self.slot, from, "The Pub's", options).await
    }

    pub async fn start(&self, options: StartOptions) -> Heard {
        Heard::over(self.try_start(Lsn::NONE, options).await.unwrap())
    }

    /// Everything that was written until now, as texts.
    pub async fn everything(&self, options: StartOptions) -> Vec<String> {
        let mut heard = self.start(options).await;
        self.mark("end");
        heard.until("end").await
    }

    /// Writes what [`Heard::until`] waits for.
    pub fn mark(&self, name: &str) {
        self.sql(&format!("select pg_logical_emit_message(false, 'mark', '{name}')"));
    }
}

/// A stream, and the names of what it spoke of.
pub struct Heard {
    pub stream: ReplicationStream,
    names: Names,
    described: HashSet<String>,
}

impl Heard {
    pub fn over(stream: ReplicationStream) -> Heard {
        Heard { stream, names: Names::default(), described: HashSet::new() }
    }

    /// The next message.
    pub async fn data(&mut self) -> Data {
        loop {
            let next = tokio::time::timeout(LIMIT, self.stream.next()).await.expect("something comes in time");
            if let Event::Data(data) = next.unwrap() {
                return data;
            }
        }
    }

    /// The next message, as a text.
    pub async fn text(&mut self) -> String {
        let data = self.data().await;
        self.names.text(&data)
    }

    /// What comes before a mark, as texts.
    pub async fn until(&mut self, mark: &str) -> Vec<String> {
        let mut texts = Vec::new();
        loop {
            let data = self.data().await;
            if let Message::Logical(message) = &data.message
                && (&*message.prefix, &*message.content) == ("mark", mark.as_bytes())
            {
                return texts;
            }
            // A server describes a table again whenever it has forgotten that it did.
            let text = self.names.text(&data);
            let describes = matches!(data.message, Message::Relation(_) | Message::Type { .. });
            let described = text.rsplit(": ").next().unwrap_or_default().to_string();
            if !describes || self.described.insert(described) {
                texts.push(text);
            }
        }
    }
}

/// Tables by their oids, and transactions by when they were first heard of.
#[derive(Default)]
pub struct Names {
    tables: HashMap<u32, String>,
    transactions: Vec<u32>,
}

impl Names {
    fn table(&self, id: u32) -> &str {
        self.tables.get(&id).expect("a relation is described before it is used")
    }

    fn transaction(&mut self, xid: u32) -> usize {
        match self.transactions.iter().position(|known| *known == xid) {
            Some(at) => at + 1,
            None => {
                self.transactions.push(xid);
                self.transactions.len()
            }
        }
    }

    pub fn text(&mut self, data: &Data) -> String {
        let within = data.xid.map(|xid| format!("x{}: ", self.transaction(xid))).unwrap_or_default();
        within + &self.message(&data.message)
    }

    fn message(&mut self, message: &Message) -> String {
        match message {
            Message::Begin(_) => "begin".into(),
            Message::Commit(_) => "commit".into(),
            Message::Origin(origin) => format!("origin {} {}", &*origin.name, origin.lsn),
            Message::Relation(relation) => {
                let name = format!("{}.{}", &*relation.schema, &*relation.name);
                let columns: Vec<String> = relation
                    .columns
                    .iter()
                    .map(|column| format!("{}{}", if column.key { "*" } else { "" }, &*column.name))
                    .collect();
                let identity = match relation.identity {
                    Identity::Default => "default",
                    Identity::Nothing => "nothing",
                    Identity::Full => "full",
                    Identity::Index => "index",
                };
                self.tables.insert(relation.id, relation.name.to_string());
                format!("relation {name} {identity} {}", columns.join(","))
            }
            Message::Type { schema, name, .. } => format!("type {}.{}", &**schema, &**name),
            Message::Insert { relation, new } => format!("insert {} {}", self.table(*relation), row(new)),
            Message::Update { relation, old, new } => {
                let old = old.as_ref().map(|row| old_row(row) + " ").unwrap_or_default();
                format!("update {} {old}{}", self.table(*relation), row(new))
            }
            Message::Delete { relation, old } => format!("delete {} {}", self.table(*relation), old_row(old)),
            Message::Truncate(truncate) => {
                let tables: Vec<&str> = truncate.relations.iter().map(|id| self.table(*id)).collect();
                let cascade = if truncate.cascade { " cascade" } else { "" };
                let restart = if truncate.restart_identity { " restart" } else { "" };
                format!("truncate {}{cascade}{restart}", tables.join(","))
            }
            Message::Logical(message) => {
                let content = String::from_utf8_lossy(&message.content);
                format!("message {} {} {content}", message.transactional, &*message.prefix)
            }
            Message::StreamStart { xid, first } => format!("part of x{} {first}", self.transaction(*xid)),
            Message::StreamStop => "part ends".into(),
            Message::StreamCommit { xid, .. } => format!("commit x{}", self.transaction(*xid)),
            Message::StreamAbort { xid, subxid } => {
                format!("abort x{} of x{}", self.transaction(*subxid), self.transaction(*xid))
            }
        }
    }
}

fn old_row(old: &Old) -> String {
    match old {
        Old::Key(tuple) => format!("key {}", row(tuple)),
        Old::Row(tuple) => format!("old {}", row(tuple)),
    }
}

/// Long texts are shown by how long they are.
pub fn row(tuple: &Tuple) -> String {
    let value = |value| match value {
        TupleValue::Null => "NULL".into(),
        TupleValue::Unchanged => "UNCHANGED".into(),
        TupleValue::Text(text) if text.len() > 50 => format!("{} bytes", text.len()),
        TupleValue::Text(text) => String::from_utf8_lossy(text).into_owned(),
    };
    let values: Vec<String> = tuple.values().map(value).collect();
    assert_eq!(values.len(), tuple.columns());
    format!("({})", values.join("|"))
}
