//! A bank's ledger on three nodes: a state machine over a feed of transfers, replicated by mirroring the feed.
//!
//! Transfers are appended at one node, over HTTP. Every node applies the same transfers in the same order, by the same rules: nobody's
//! balance falls below zero. So all of them have the same balances, which their digests prove; and whoever shows the cursor of
//! their own transfer reads it at any of the three.
//!
//! `cargo run --example ledger`

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value as Json, json};
use watershed::http;
use watershed::model::Cursor;
use watershed::node::feeds::{FeedSpec, MirrorFrom, MirrorSettings};
use watershed::node::views::{Asked, ViewSettings};
use watershed::node::{Exit, LogSettings, Node, NodeError, Parent, Policy, SendPolicy, Settings};
use watershed::view::machine::{Machine, MachineBuilds, Rows, Select, Transaction};
use watershed::view::{AskError, Bounds, Question, Token, ViewError};

type Anything = Box<dyn std::error::Error + Send + Sync>;

/// What may be appended.
#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "lowercase")]
enum Command {
    Deposit { to: String, amount: u64 },
    Transfer { from: String, to: String, amount: u64 },
}

/// Balances, and how many commands the rules did not allow.
#[derive(Clone, Default)]
struct Ledger {
    balances: BTreeMap<String, u64>,
    refused: u64,
}

impl Ledger {
    /// A command is carried out whole or not at all, and by the same rules everywhere: what is refused here is refused at
    /// every replica.
    fn carry_out(&mut self, command: Command) -> Option<()> {
        let (from, to, amount) = match command {
            Command::Deposit { to, amount } => (None, to, amount),
            Command::Transfer { from, to, amount } => (Some(from), to, amount),
        };
        let left = match &from {
            Some(from) => Some(self.balances.get(from)?.checked_sub(amount)?),
            None => None,
        };
        if from.as_ref() == Some(&to) {
            return Some(());
        }
        let raised = self.balances.get(&to).unwrap_or(&0).checked_add(amount)?;
        self.balances.extend(from.zip(left));
        self.balances.insert(to, raised);
        Some(())
    }
}

impl Machine for Ledger {
    fn definition(&self) -> String {
        // Goes up when the rules change: then every replica carries out all commands again.
        "ledger 1".into()
    }

    fn apply(&mut self, transaction: &Transaction<'_>) -> Result<(), ViewError> {
        transaction.rows(|change| {
            let command = serde_json::from_str(change.row.unwrap_or_default()).ok();
            if command.and_then(|command| self.carry_out(command)).is_none() {
                self.refused += 1;
            }
            Ok(())
        })
    }

    fn save(&self, out: &mut dyn Write) -> io::Result<()> {
        Ok(serde_json::to_writer(out, &(&self.balances, self.refused))?)
    }

    fn load(&mut self, state: &mut dyn Read) -> io::Result<()> {
        (self.balances, self.refused) = serde_json::from_reader(state)?;
        Ok(())
    }

    fn ask(&self, question: &Question, bounds: &Bounds) -> Result<Rows, AskError> {
        let select = Select::of(question)?;
        if select.table != "balances" {
            return Err(select.no_table(&["balances"]));
        }
        let wanted = select.value_of(&["key", "account"])?;
        let mut rows = Rows::new(&["account", "balance"], bounds);
        for (account, balance) in
            self.balances.iter().filter(|(account, _)| wanted.is_none_or(|wanted| wanted == *account))
        {
            rows.push(vec![json!(account), json!(balance)])?;
        }
        select.found(rows)
    }

    fn rows(&self) -> u64 {
        self.balances.len() as u64
    }
}

/// The machine as a view of a node: followed, asked, saved and compared with its replicas as any other.
fn ledger_view(data_dir: &Path) -> ViewSettings {
    let folder = data_dir.join("views");
    let make = move || {
        let builds = MachineBuilds::open(&folder, "balances", Vec::new(), true, Ledger::default);
        let failed = |error| {
            NodeError::new("LEDGER-1", Exit::Failure, error, "its states are kept there", "look at the data folder")
        };
        builds.map(|builds| Arc::new(builds) as _).map_err(failed)
    };
    ViewSettings {
        log: "ledger".into(),
        kind: "ledger".into(),
        store: "memory".into(),
        tables: None,
        publish: None,
        make: Arc::new(make),
        persist_every: Some(Duration::from_secs(10)),
    }
}

/// A node in a folder of its own: with the feed, or with a mirror of its parent's.
async fn node(dir: &Path, name: &str, parent: Option<SocketAddr>) -> Result<(Arc<Node>, SocketAddr), Anything> {
    let data_dir = dir.join(name);
    let mirror = MirrorSettings {
        from: MirrorFrom::Peer { node: "hq".into(), log: "ledger".into() },
        spec: FeedSpec { append: false, mirror: Some("peer:hq/ledger".into()), ..FeedSpec::default() },
    };
    let (feeds, mirrors) = match parent {
        None => (BTreeMap::from([("ledger".to_string(), FeedSpec::default())]), BTreeMap::new()),
        Some(_) => (BTreeMap::new(), BTreeMap::from([("ledger".to_string(), mirror)])),
    };
    let children = SendPolicy { logs: vec!["ledger".into()], ..SendPolicy::default() };
    let parent = parent.map(|address| Parent {
        retry_first: Duration::from_millis(100),
        retry_max: Duration::from_secs(1),
        ..Parent::at(&address.to_string())
    });
    let listen: SocketAddr = ([127, 0, 0, 1], 0).into();
    let node = Node::start(Settings {
        name: name.into(),
        listen,
        parent,
        database: None,
        copies: Vec::new(),
        policy: Policy { children, ..Policy::default() },
        log: LogSettings { segment_bytes: 1 << 20, ..LogSettings::default() },
        append_main: false,
        feeds,
        mirrors,
        views: BTreeMap::from([("balances".to_string(), ledger_view(&data_dir))]),
        data_dir,
        tokens: Vec::new(),
        tls: None,
        cors: Vec::new(),
    })
    .await?;
    let node = Arc::new(node);
    let address = http::serve(node.clone(), listen).await?;
    Ok((node, address))
}

/// Appends commands over HTTP, each a transaction; gives the cursor of the last.
fn append(address: SocketAddr, commands: Vec<Json>) -> Result<Cursor, Anything> {
    let agent = ureq::Agent::new_with_defaults();
    let mut last = None;
    for command in commands {
        let body = json!({"key": command["to"], "row": command}).to_string();
        let mut answer = agent.post(format!("http://{address}/v1/logs/ledger/entries")).send(body)?;
        let answer: Json = serde_json::from_str(&answer.body_mut().read_to_string()?)?;
        last = answer["cursor"].as_str().map(str::to_string);
    }
    Ok(last.ok_or("nothing was appended")?.parse()?)
}

fn commands() -> Vec<Json> {
    let accounts = ["ann", "ben", "cleo", "dan"];
    let mut all: Vec<Json> = accounts.iter().map(|to| json!({"do": "deposit", "to": to, "amount": 100})).collect();
    for number in 0..200_usize {
        let (from, to) = (accounts[number % 4], accounts[(number * 7 + 1) % 4]);
        // Now and then more than anybody has.
        let amount = if number % 10 == 0 { 1_000 } else { number * 13 % 60 };
        all.push(json!({"do": "transfer", "from": from, "to": to, "amount": amount}));
    }
    all.push(json!("no command"));
    all
}

#[tokio::main]
pub async fn main() -> Result<(), Anything> {
    let dir = tempfile::tempdir()?;
    let (hq, address) = node(dir.path(), "hq", None).await?;
    let (north, _) = node(dir.path(), "north", Some(address)).await?;
    let (south, _) = node(dir.path(), "south", Some(address)).await?;

    let last = tokio::task::spawn_blocking(move || append(address, commands())).await??;

    // At every node: wait until the last command has been carried out there, then look.
    let asked = Asked { tokens: vec![Token::Cursors(vec![last])], timeout: Duration::from_secs(60), stale: false };
    let question = Question::Sql { sql: "select * from balances".into(), params: Json::Null };
    let bounds = Bounds { time: Duration::from_secs(1), rows: 1_000, bytes: 1 << 20 };
    let mut seen = Vec::new();
    for node in [&hq, &north, &south] {
        let view = node.shared.views.get("balances").ok_or("the view is there")?;
        let balances = view.ask(&node.shared, &asked, &question, &bounds).await?.what.rows;
        let digest = view.digest(&node.shared, &asked).await?.what.digest;
        println!("{}: {}", node.shared.name, Json::from(balances.clone()));
        seen.push((balances, digest));
    }
    assert!(seen.windows(2).all(|two| two[0] == two[1]), "three replicas, one state");
    let total: u64 = seen[0].0.iter().filter_map(|row| row[1].as_u64()).sum();
    assert_eq!(total, 400, "nothing is made and nothing is lost");

    for node in [south, north, hq] {
        node.stop().await;
    }
    Ok(())
}
