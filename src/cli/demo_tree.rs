//! The demo's tree: three nodes in one process, sample data, and a line for every change.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, params};
use serde_json::{Map, Value as Json, json};
use tokio::sync::mpsc;

use super::node_run::start;
use super::{ExitError, output};
use crate::log::Limit;
use crate::model::{Change, Kind, LogId, Op, Position, TableDef, Timestamp};
use crate::node::Node;
use crate::node::config::{Config, Overrides};

/// The nodes; the first is the root.
const NODES: [&str; 3] = ["hq", "north", "south"];
/// Between the demo's own changes.
const PACE: Duration = Duration::from_millis(700);
/// A change that has not reached every node by then is shown without the rest.
const PATIENCE: Duration = Duration::from_secs(5);
/// Sightings of changes waiting to be printed.
const SIGHTINGS_MAX: usize = 4_096;

const SCHEMA: &str = "
pragma journal_mode = wal;
create table if not exists products (id integer primary key, name text not null, price real not null);
create table if not exists orders (
  id text primary key not null, site text not null, product integer not null, quantity integer not null, state text not null);
";
const SEED: &str = "
insert or ignore into products values (1, 'rope', 12.5), (2, 'lantern', 29.9), (3, 'compass', 45.0), (4, 'chart', 18.75);
";
const OWNERS: &str =
    "# A row has one writing node.\n[table.products]\nowner = \"hq\"\n\n[table.orders]\nowner_by = \"row.site\"\n";

/// A node of the demo.
struct Site {
    name: &'static str,
    config: PathBuf,
    database: PathBuf,
    node: Arc<Node>,
}

/// A change, seen at one node.
struct Sighting {
    at: &'static str,
    log: LogId,
    position: Position,
    node: Box<str>,
    committed: Timestamp,
    changes: Vec<(Arc<TableDef>, Change)>,
    seen: Timestamp,
}

/// Runs the demo in a folder until `stop` resolves.
pub(super) async fn run(dir: &Path, json: bool, stop: impl Future<Output = ()>) -> Result<(), ExitError> {
    let begun = Instant::now();
    let sites = sites(dir).await?;
    if !json {
        introduce(&sites, begun.elapsed())?;
    }
    let (seen, mut sightings) = mpsc::channel(SIGHTINGS_MAX);
    let mut tasks = Vec::new();
    for site in &sites {
        tasks.push(tokio::spawn(watch(site.name, site.node.clone(), seen.clone())));
    }
    let databases: Vec<PathBuf> = sites.iter().map(|site| site.database.clone()).collect();
    let (done, ending) = std::sync::mpsc::channel();
    let changing = std::thread::spawn(move || make_changes(&databases, &ending));
    let printed = print(&mut sightings, json, stop).await;
    drop(done);
    let made = tokio::task::spawn_blocking(move || changing.join()).await;
    for task in tasks {
        task.abort();
    }
    for site in sites.iter().rev() {
        site.node.stop().await;
    }
    if let Ok(Ok(Err(error))) = made {
        tracing::warn!("the demo's own changes ended: {error}");
    }
    printed
}

fn port() -> std::io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

async fn sites(dir: &Path) -> Result<Vec<Site>, ExitError> {
    let mut sites: Vec<Site> = Vec::new();
    let mut root = 0;
    for name in NODES {
        let folder = dir.join(name);
        fs::create_dir_all(&folder)?;
        let (config, database) = (folder.join("watershed.toml"), folder.join("shop.db"));
        let listen = port()?;
        fs::write(&config, configuration(name, listen, root))?;
        if name == NODES[0] {
            root = listen;
        }
        let seeded = Connection::open(&database).and_then(|connection| {
            connection.execute_batch(SCHEMA)?;
            if name == NODES[0] { connection.execute_batch(SEED) } else { Ok(()) }
        });
        seeded.map_err(std::io::Error::other)?;
        let node = start(&Config::load(&config, &Overrides::default())?).await?;
        sites.push(Site { name, config, database, node });
    }
    Ok(sites)
}

fn configuration(name: &str, listen: u16, root: u16) -> String {
    let node = format!("[node]\nname = \"{name}\"\ndata_dir = \"data\"\nlisten = \"127.0.0.1:{listen}\"\n\n");
    let database = "[database]\nurl = \"sqlite:shop.db\"\n\n";
    if name == NODES[0] {
        let send = "# Everything goes down, nobody gets their own changes back.\n[send.children]\ntables = [\"products\", \"orders\"]\n\n";
        return format!("{node}{database}{send}{OWNERS}");
    }
    let parent = format!("[parent]\nurl = \"127.0.0.1:{root}\"\nretry = {{ first = \"0.1s\", max = \"2s\" }}\n\n");
    format!("{node}{parent}{database}[send.parent]\ntables = [\"orders\"]\n\n{OWNERS}")
}

fn introduce(sites: &[Site], took: Duration) -> Result<(), ExitError> {
    let program = program();
    let path = |index: usize| sites[index].database.display();
    let config = |index: usize| sites[index].config.display();
    output::line(&format!(
        "Three nodes run, {took:.1?} after the start:  north → hq ← south   (products go down, orders go up and down)\n\
         \n\
         Change something yourself, in another terminal:\n  \
           sqlite3 -cmd '.timeout 5000' {} \"insert into orders values ('mine-' || strftime('%s'), 'north', 2, 5, 'new')\"\n  \
           sqlite3 -cmd '.timeout 5000' {} \"update products set price = price + 1 where id = 1\"\n  \
           sqlite3 {} \"select * from orders\"\n\
         or look around:\n  \
           {program} status -c {}\n  \
           {program} peer ls --tree -c {}\n  \
           {program} diff {} {}\n\
         \n\
         Each line is a change, and the milliseconds until it could be read at each other node. Ctrl-C ends the demo.\n",
        path(1),
        path(0),
        path(2),
        config(0),
        config(0),
        config(0),
        config(2),
    ))
}

/// What to type to run this program again: its name, or where it is when it is not on the path.
fn program() -> String {
    let Ok(here) = std::env::current_exe() else { return "watershed".into() };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join("watershed")).find(|file| file.is_file());
    match found {
        Some(file) if file.canonicalize().ok() == here.canonicalize().ok() => "watershed".into(),
        _ => here.display().to_string(),
    }
}

/// Reports every transaction of a node's log once its database has it.
async fn watch(name: &'static str, node: Arc<Node>, seen: mpsc::Sender<Sighting>) {
    let shared = node.shared.clone();
    let Some(database) = &shared.database else { return };
    let mut applied = database.state.subscribe();
    let mut from = (*shared.log.tail().borrow()).into();
    loop {
        let reached = |from: Position| {
            move |state: &crate::node::ApplyState| state.applied.is_some_and(|applied| applied.position > from)
        };
        if applied.wait_for(reached(position_of(from))).await.is_err() {
            return;
        }
        let now = Timestamp::now();
        let Ok(batch) = shared.log.read(from, Limit::default()).await else { return };
        let upto = shared.database.as_ref().and_then(|database| database.state.borrow().applied).map(|at| at.position);
        for logged in batch.entries.iter().filter(|logged| Some(logged.position) <= upto) {
            let header = logged.entry.header();
            let (Some(origin), Ok(changes)) = (header.origin, logged.entry.changes()) else { continue };
            let tables = |change: Change| {
                let table = batch.catalog.get(*header.tables.get(change.table)?)?;
                (!matches!(change.op, Op::Copied | Op::Cut)).then_some((table, change))
            };
            let changes: Vec<_> = changes.into_iter().filter_map(tables).collect();
            let (node, committed) = (header.node.clone(), header.time);
            let sighting =
                Sighting { at: name, log: origin.log, position: origin.position, node, committed, changes, seen: now };
            if seen.send(sighting).await.is_err() {
                return;
            }
        }
        from = match upto {
            Some(upto) if upto < batch.upto.position => upto.into(),
            _ => batch.next,
        };
    }
}

fn position_of(from: crate::model::ReadFrom) -> Position {
    from.after
}

/// A change on its way.
struct Waiting {
    first: Sighting,
    arrived: BTreeMap<&'static str, f64>,
    /// At its own node, too, its transaction has been seen.
    left: bool,
    since: Instant,
}

async fn print(
    sightings: &mut mpsc::Receiver<Sighting>,
    json: bool,
    stop: impl Future<Output = ()>,
) -> Result<(), ExitError> {
    tokio::pin!(stop);
    let mut waiting: BTreeMap<(LogId, Position), Waiting> = BTreeMap::new();
    let mut tick = tokio::time::interval(Duration::from_millis(200));
    loop {
        let sighting = tokio::select! {
            _ = &mut stop => return Ok(()),
            _ = tick.tick() => None,
            sighting = sightings.recv() => match sighting {
                Some(sighting) => Some(sighting),
                None => return Ok(()),
            },
        };
        if let Some(sighting) = sighting.filter(|sighting| !sighting.changes.is_empty()) {
            let key = (sighting.log, sighting.position);
            let took = (sighting.seen.0 - sighting.committed.0).max(0) as f64 / 1e3;
            let (at, local) = (sighting.at, *sighting.at == *sighting.node);
            let entry = waiting.entry(key).or_insert_with(|| Waiting {
                first: sighting,
                arrived: BTreeMap::new(),
                left: false,
                since: Instant::now(),
            });
            match local {
                true => entry.left = true,
                false => drop(entry.arrived.insert(at, took)),
            }
        }
        let everywhere = |waiting: &Waiting| waiting.left && waiting.arrived.len() == NODES.len() - 1;
        let ready = |waiting: &Waiting| everywhere(waiting) || waiting.since.elapsed() > PATIENCE;
        let keys: Vec<_> = waiting.iter().filter(|(_, waiting)| ready(waiting)).map(|(key, _)| *key).collect();
        for key in keys {
            if let Some(waiting) = waiting.remove(&key) {
                show(&waiting, json)?;
            }
        }
    }
}

fn show(waiting: &Waiting, as_json: bool) -> Result<(), ExitError> {
    let first = &waiting.first;
    for (table, change) in &first.changes {
        let key: Vec<String> = key_of(table, change);
        if as_json {
            let arrived: Map<String, Json> =
                waiting.arrived.iter().map(|(name, ms)| ((*name).to_owned(), json!(ms))).collect();
            output::object(json!({
                "time": first.committed.to_string(), "node": first.node, "table": table.name.as_str(), "op": change.op.name(),
                "key": key.join(","), "arrived_ms": arrived,
            }))?;
            continue;
        }
        let clock = local_time(first.committed);
        let arrived: Vec<String> = waiting.arrived.iter().map(|(name, ms)| format!("{name} {ms:.1} ms")).collect();
        let (op, name, key) = (change.op.name(), table.name.as_str(), key.join(","));
        output::line(&format!(
            "{clock}  {:<6} {op:<7} {:<22} →  {}",
            first.node,
            format!("{name} {key}"),
            arrived.join("   ")
        ))?;
    }
    Ok(())
}

fn local_time(time: Timestamp) -> String {
    let utc = jiff::Timestamp::from_microsecond(time.0).unwrap_or_default();
    utc.to_zoned(jiff::tz::TimeZone::system()).strftime("%H:%M:%S%.3f").to_string()
}

fn key_of(table: &TableDef, change: &Change) -> Vec<String> {
    let row = change.row.clone().or_else(|| change.old_resolved()).unwrap_or_default();
    let text = |index: usize| {
        row.get(index)
            .filter(|value| value.kind != Kind::Null)
            .map(|value| String::from_utf8_lossy(&value.text).into_owned())
    };
    table.key_columns().into_iter().filter_map(text).collect()
}

/// Orders at the branches, prices at head office, until told to end.
fn make_changes(databases: &[PathBuf], ending: &std::sync::mpsc::Receiver<()>) -> rusqlite::Result<()> {
    use std::sync::mpsc::RecvTimeoutError::Timeout;
    let open = |path: &PathBuf| {
        let connection = Connection::open(path)?;
        connection.busy_timeout(PATIENCE)?;
        Ok::<_, rusqlite::Error>(connection)
    };
    let connections = databases.iter().map(open).collect::<rusqlite::Result<Vec<_>>>()?;
    let run = rand::random::<u16>();
    let mut count = 0_u32;
    while let Err(Timeout) = ending.recv_timeout(PACE) {
        count += 1;
        let (product, quantity) = (i64::from(rand::random::<u8>() % 4 + 1), i64::from(rand::random::<u8>() % 9 + 1));
        let site = NODES[1 + (count as usize) % 2];
        let branch = &connections[1 + (count as usize) % 2];
        match count % 5 {
            4 => {
                let sql = "update orders set state = 'shipped' where id = (select id from orders where site = ? and state = 'new' limit 1)";
                branch.execute(sql, [site])?;
            }
            0 => {
                connections[0].execute("update products set price = round(price * 1.01, 2) where id = ?", [product])?;
            }
            _ => {
                let id = format!("{site}-{run:04x}-{count}");
                branch
                    .execute("insert into orders values (?, ?, ?, ?, 'new')", params![id, site, product, quantity])?;
            }
        }
    }
    Ok(())
}
