//! What operators ask of a running node.

use thiserror::Error;

use super::capture::CaptureCommand;
use super::database::{Command, Database};
use super::running::Node;
use crate::model::{LinkId, TableName};
use crate::peer::{Control, Refusal};
use crate::view::{CopyScope, Lane, LaneState, ViewError};

/// An order that cannot be carried out.
#[derive(Debug, Error)]
pub enum OrderError {
    /// Nothing of that name.
    #[error("there is no {0}: `watershed source ls` and `watershed peer ls` show what there is")]
    Unknown(String),
    /// Not in its present state.
    #[error("{0}")]
    State(String),
    /// The database.
    #[error(transparent)]
    View(#[from] ViewError),
    /// The data folder.
    #[error("the data folder cannot be written: {0}")]
    Io(#[from] std::io::Error),
}

/// What can be done to a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Stop for now: the database's capture, or a table.
    Pause,
    /// Go on.
    Resume,
    /// Try a parked table's failing entry again.
    Retry,
    /// Pass over a parked table's failing entry.
    Skip,
    /// Copy a table afresh from the peers that it follows; or have those who follow it from here copy it.
    Resync,
    /// Forget a peer.
    Drop,
}

impl Order {
    /// The order of that name.
    pub fn parse(text: &str) -> Option<Order> {
        Some(match text {
            "pause" => Order::Pause,
            "resume" => Order::Resume,
            "retry" => Order::Retry,
            "skip" => Order::Skip,
            "resync" => Order::Resync,
            "drop" => Order::Drop,
            _ => return None,
        })
    }
}

impl Node {
    /// Carries out an order on `database`, a table, a copy's table (`COPY/TABLE`), or (drop) a peer; says what was done.
    pub async fn order(&self, name: &str, order: Order) -> Result<String, OrderError> {
        if name == "database" && self.shared.database.is_some() {
            return self.order_database(order);
        }
        if self.shared.book.get(name).is_some() {
            return match order {
                Order::Drop => self.drop_peer(name).await,
                Order::Pause => self.pause_peer(name, true).await,
                Order::Resume => self.pause_peer(name, false).await,
                _ => Err(OrderError::State(format!("{name} is a peer: it can be paused, resumed and dropped"))),
            };
        }
        if let Some((copy, table)) = name.split_once('/')
            && let Some(database) = self.shared.copies_of.get(copy)
        {
            return self.order_copied(copy, database, table, order).await;
        }
        let table: TableName = name.parse().map_err(|_| OrderError::Unknown(format!("source {name:?}")))?;
        self.order_table(table, order).await
    }

    fn order_database(&self, order: Order) -> Result<String, OrderError> {
        let pause = |paused| -> Result<(), OrderError> {
            self.folder.pause_capture(paused)?;
            self.shared.capture.send_modify(|state| state.paused = paused);
            Ok(())
        };
        match order {
            Order::Pause => pause(true)?,
            Order::Resume => pause(false)?,
            Order::Drop => {
                let why =
                    "stop the node first: `watershed source drop database --yes` then removes what it installed".into();
                return Err(OrderError::State(why));
            }
            _ => return Err(OrderError::State("name a table: `watershed source retry|skip|resync TABLE`".into())),
        }
        Ok(format!(
            "capture of the database is {}",
            if order == Order::Pause { "paused; changes wait in it" } else { "running" }
        ))
    }

    async fn order_table(&self, table: TableName, order: Order) -> Result<String, OrderError> {
        let unknown = || OrderError::Unknown(format!("table {table}"));
        let database = self.shared.database.as_ref().ok_or_else(unknown)?;
        let lane = database.lane(&table);
        let captured = self.shared.tables.borrow().iter().any(|def| def.name == table);
        let known = captured || self.shared.received_tables().contains(&table);
        if lane.is_none() && !known {
            return Err(unknown());
        }
        match order {
            Order::Resync => self.resync(table).await,
            Order::Drop => {
                Err(OrderError::State("a table cannot be dropped here: take it out of the selection".into()))
            }
            _ => order_lane(database, table, order).await,
        }
    }

    /// An order on a table of `[copy.NAME]`.
    async fn order_copied(
        &self,
        copy: &str,
        database: &Database,
        table: &str,
        order: Order,
    ) -> Result<String, OrderError> {
        if order == Order::Drop && table.is_empty() {
            let why =
                format!("stop the node first: `watershed source drop {copy}/ --yes` then has the copy begin afresh");
            return Err(OrderError::State(why));
        }
        let unknown = || OrderError::Unknown(format!("table {table} in the copy {copy}"));
        let table: TableName = table.parse().map_err(|_| unknown())?;
        let own = LinkId(self.shared.log.id());
        let lane = database.lane(&table);
        let follows =
            database.state.borrow().follows.get(&own).is_some_and(|all| all.iter().any(|(name, _)| *name == table));
        if lane.is_none() && !follows {
            return Err(unknown());
        }
        match (order, lane) {
            (Order::Drop, _) => {
                let why = format!("a copy's table cannot be dropped: take it out of the tables of [copy.{copy}]");
                Err(OrderError::State(why))
            }
            (Order::Resync, lane) => {
                // A copy that is under way begins again; what is being replayed is copied once it has been.
                database.ask(|reply| Command::Announced(own, table.clone(), reply)).await?;
                match lane {
                    Some(Lane { state: LaneState::Parked { .. }, .. }) => {
                        database.ask(|reply| Command::BeginCopy(table.clone(), own, CopyScope::All, reply)).await?;
                    }
                    Some(lane @ Lane { state: LaneState::Paused, .. }) => {
                        database.ask(|reply| Command::SetLane(table.clone(), Some(lane.resumed()), reply)).await?;
                    }
                    _ => {}
                }
                Ok(format!("table {copy}/{table} is copied afresh from the node's database"))
            }
            (order, _) => order_lane(database, table, order).await,
        }
    }

    /// Copies the table afresh from every peer that offers it; where nobody does, this node is its source, and those who
    /// follow it copy it from here.
    async fn resync(&self, table: TableName) -> Result<String, OrderError> {
        let Some(database) = &self.shared.database else { return Err(OrderError::Unknown(format!("table {table}"))) };
        let peers = self.senders(&table, database);
        for (link, _) in &peers {
            database.ask(|reply| Command::Announced(*link, table.clone(), reply)).await?;
        }
        if peers.is_empty() {
            if database.lane(&table).is_some() {
                let why = format!("nobody sends table {table} to this node: retry, skip or resume it");
                return Err(OrderError::State(why));
            }
            let sent =
                self.capture_commands.as_ref().is_some_and(|to| to.send(CaptureCommand::Rescan(table.clone())).is_ok());
            if !sent {
                return Err(OrderError::State("capture does not run".into()));
            }
            return Ok(format!("everybody who follows table {table} from here copies it afresh"));
        }
        let from = peers[0].0;
        let away = !self.shared.links().contains_key(&from);
        let owned = self.shared.policy.ownership.of(&table).is_some();
        let scope = if owned { CopyScope::All } else { CopyScope::UpsertOnly };
        match database.lane(&table) {
            None if !away => {}
            None => database.ask(|reply| Command::BeginCopy(table.clone(), from, scope, reply)).await?,
            Some(Lane { state: LaneState::Parked { .. }, .. }) => {
                database.ask(|reply| Command::BeginCopy(table.clone(), from, scope, reply)).await?;
            }
            // First what it has missed, so that the copy begins where the other tables are.
            Some(lane @ Lane { state: LaneState::Paused, .. }) => {
                database.ask(|reply| Command::SetLane(table.clone(), Some(lane.resumed()), reply)).await?;
            }
            // It begins again, or once it has been replayed.
            Some(_) => {}
        }
        self.shared.copy_wake.notify_one();
        let names: Vec<_> = peers.into_iter().map(|(_, name)| name).collect();
        Ok(format!("table {table} is copied afresh from {}", names.join(", ")))
    }

    /// Who sends the table: the peers that offer it now, and those away that it follows.
    fn senders(&self, table: &TableName, database: &Database) -> Vec<(LinkId, String)> {
        let links = self.shared.links();
        let offering = links.iter().filter(|(_, link)| link.offered().any(|name| name == *table));
        let mut senders: Vec<(LinkId, String)> = offering.map(|(id, link)| (*id, link.node.name.to_string())).collect();
        for (link, tables) in &database.state.borrow().follows {
            let away = !links.contains_key(link) && tables.iter().any(|(name, _)| name == table);
            if let Some(name) = self.shared.book.name_of(link.0).filter(|_| away) {
                senders.push((*link, name));
            }
        }
        senders
    }

    /// Pauses or resumes the link with a peer.
    pub async fn pause_peer(&self, name: &str, paused: bool) -> Result<String, OrderError> {
        if !self.shared.book.pause(name, paused)? {
            return Err(OrderError::Unknown(format!("peer {name:?}")));
        }
        if paused {
            self.close(name, "paused by its operator").await;
            return Ok(format!("the link with {name} is paused; what it needs waits in the log"));
        }
        self.shared.refusals().remove(name);
        Ok(format!("the link with {name} may stand again"))
    }

    async fn drop_peer(&self, name: &str) -> Result<String, OrderError> {
        self.close(name, "dropped by its operator").await;
        self.shared.book.forget(name)?;
        self.shared.refusals().remove(name);
        self.shared.update_below();
        self.shared.copy_wake.notify_one();
        Ok(format!(
            "{name} is forgotten: it keeps nothing of the log any more, and whoever links under that name copies afresh"
        ))
    }

    async fn close(&self, name: &str, why: &str) {
        let handle = {
            let links = self.shared.links();
            links.values().find(|link| &*link.node.name == name).map(|link| link.handle.clone())
        };
        if let Some(handle) = handle {
            let refusal = Refusal { code: "WS-NODE-005".into(), message: why.into(), retryable: true };
            handle.send(Control::Close(refusal)).await;
        }
    }
}

/// Stops a table, or has it go on.
async fn order_lane(database: &Database, table: TableName, order: Order) -> Result<String, OrderError> {
    let shown = format!("{}{table}", database.prefix);
    let lane = database.lane(&table);
    let set = |lane: Lane| database.ask(|reply| Command::SetLane(table.clone(), Some(lane), reply));
    match (order, lane) {
        (Order::Retry, Some(lane)) if matches!(lane.state, LaneState::Parked { .. }) => {
            set(lane.resumed()).await?;
            Ok(format!("table {shown} is tried again"))
        }
        (Order::Skip, Some(lane)) if matches!(lane.state, LaneState::Parked { .. }) => {
            database.ask(|reply| Command::Skip(table.clone(), reply)).await?;
            Ok(format!("the failing entry is passed over for table {shown}; `watershed diff` shows what differs now"))
        }
        (Order::Pause, None) => {
            let after = database.state.borrow().applied.map(|applied| applied.position).unwrap_or_default();
            set(Lane { table: table.clone(), after, state: LaneState::Paused }).await?;
            Ok(format!("table {shown} is paused; its changes wait in the log"))
        }
        (Order::Resume, Some(lane)) if lane.state == LaneState::Paused => {
            set(lane.resumed()).await?;
            Ok(format!("table {shown} goes on"))
        }
        (Order::Pause | Order::Resume, lane) => {
            let is = if lane.is_some() { "in a lane already" } else { "not paused" };
            Err(OrderError::State(format!("table {shown} is {is}")))
        }
        _ => Err(OrderError::State(format!("table {shown} is not parked"))),
    }
}
