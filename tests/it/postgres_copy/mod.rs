//! Chunks of first copies out of PostgreSQL, and tables made for them.

mod chunks;
mod copies;
mod indexes;
pub mod types;

use std::sync::LazyLock;

use watershed::model::{Kind, Row, TableName, Value};
use watershed::postgres::{Endpoint, PgReader};
use watershed::testing::postgres::Cluster;
use watershed::view::{Chunk, TableReader};

/// One server for all tests of this folder; each test has a database of its own. Every receiver leaves an origin.
static CLUSTER: LazyLock<Cluster> = LazyLock::new(|| {
    let settings = [("fsync", "off"), ("shared_buffers", "32MB"), ("max_connections", "200")];
    Cluster::with(&[&settings[..], &[("max_replication_slots", "200")]].concat())
});

struct Database {
    url: String,
}

impl Database {
    fn new(schema: &str) -> Database {
        let database = Database { url: CLUSTER.database() };
        database.sql(schema);
        database
    }

    fn sql(&self, statements: &str) -> String {
        CLUSTER.sql(&self.url, statements)
    }

    async fn reader(&self) -> PgReader {
        PgReader::open(&Endpoint::from_url(&self.url).expect("a URL")).await.expect("connects")
    }
}

fn name(table: &str) -> TableName {
    table.parse().expect("a name")
}

fn typed(text: &str) -> Value {
    Value::new(Kind::Typed, text.to_string())
}

/// All chunks of a table, and that each goes on where the last ended.
async fn read_all(reader: &mut PgReader, table: &str, rows_max: usize, bytes_max: usize) -> Vec<Chunk> {
    let mut chunks: Vec<Chunk> = Vec::new();
    loop {
        let after = chunks.last().and_then(|chunk| chunk.upto.clone());
        let chunk = reader.read_chunk(&name(table), after.as_ref(), rows_max, bytes_max).await.expect("a chunk");
        assert!(chunk.rows.len() <= rows_max);
        let is_end = chunk.upto.is_none();
        chunks.push(chunk);
        if is_end {
            return chunks;
        }
        assert!(chunks.len() < 10_000, "the copy never ends");
    }
}

fn rows(chunks: &[Chunk]) -> Vec<Row> {
    chunks.iter().flat_map(|chunk| chunk.rows.clone()).collect()
}
