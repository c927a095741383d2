//! Two nodes in one process, each with a SQLite database: a row travels from one to the other.
//!
//! `cargo run --example two_nodes`

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;
use watershed::http;
use watershed::node::{DatabaseSettings, LogSettings, Node, Parent, Policy, SendPolicy, Settings, Store};
use watershed::stream::Selection;

type Anything = Box<dyn std::error::Error>;

/// A node in a folder of its own. `sends` says which tables its children are sent; without it, nothing leaves.
async fn node(
    dir: &Path,
    name: &str,
    parent: Option<SocketAddr>,
    sends: &[&str],
) -> Result<(Arc<Node>, SocketAddr), Anything> {
    let path = dir.join(format!("{name}.db"));
    let schema = "pragma journal_mode = wal; create table orders (id integer primary key, note text);";
    Connection::open(&path)?.execute_batch(schema)?;
    let children = SendPolicy { selection: Selection::new(sends)?, ..SendPolicy::default() };
    let parent = parent.map(|address| Parent {
        retry_first: Duration::from_millis(100),
        retry_max: Duration::from_secs(1),
        ..Parent::at(&address.to_string())
    });
    let listen: SocketAddr = ([127, 0, 0, 1], 0).into();
    let node = Node::start(Settings {
        name: name.into(),
        data_dir: dir.join(format!("{name}.data")),
        listen,
        parent,
        copies: Vec::new(),
        database: Some(DatabaseSettings::new(Store::Sqlite(path))),
        policy: Policy { children, ..Policy::default() },
        log: LogSettings { segment_bytes: 1 << 20, ..LogSettings::default() },
        append_main: false,
        feeds: Default::default(),
        mirrors: Default::default(),
        views: Default::default(),
        tokens: Vec::new(),
        tls: None,
        cors: Vec::new(),
    })
    .await?;
    let node = Arc::new(node);
    // Links and readers come in over HTTP; port 0 takes any that is free.
    let address = http::serve(node.clone(), listen).await?;
    Ok((node, address))
}

#[tokio::main]
pub async fn main() -> Result<(), Anything> {
    let dir = tempfile::tempdir()?;
    let (hq, address) = node(dir.path(), "hq", None, &["orders"]).await?;
    let (branch, _) = node(dir.path(), "branch", Some(address), &[]).await?;

    // Any program may write; it needs to know nothing of Watershed.
    let writer = Connection::open(dir.path().join("hq.db"))?;
    writer.busy_timeout(Duration::from_secs(5))?;
    writer.execute("insert into orders values (1, 'rope')", [])?;

    let reader = Connection::open(dir.path().join("branch.db"))?;
    let read = || reader.query_row("select note from orders where id = 1", [], |row| row.get::<_, String>(0));
    let arrived = tokio::time::timeout(Duration::from_secs(60), async {
        loop {
            match read() {
                Ok(note) => return note,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    });
    println!("the branch has: {}", arrived.await?);

    branch.stop().await;
    hq.stop().await;
    Ok(())
}
