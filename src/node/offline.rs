//! What operators do to a node that does not run.

use super::book::Book;
use super::folder::{Folder, lock};
use super::settings::{Exit, NodeError, Settings};
use crate::log::Log;
use crate::log::segments::SegmentLog;
use crate::model::LinkId;

fn failed(error: impl ToString) -> NodeError {
    NodeError::new(
        "WS-NODE-016",
        Exit::Failure,
        error,
        "it could not be read or written",
        "mend that, and run it again",
    )
}

/// Removes everything of Watershed's from the database, and has the next start take the database as it is then: its tables
/// are announced as replaced, and copied afresh from whomever they follow.
pub async fn drop_database(settings: &Settings) -> Result<String, NodeError> {
    let Some(database) = &settings.database else {
        let why = "the configuration has no [database]";
        return Err(NodeError::new(
            "WS-NODE-017",
            Exit::Configuration,
            "there is no database to drop",
            why,
            "name a peer",
        ));
    };
    std::fs::create_dir_all(&settings.data_dir).map_err(failed)?;
    let _lock = lock(&settings.data_dir)?;
    let main = settings.data_dir.join("main");
    if main.is_dir() {
        let log = SegmentLog::open_read_only(&main).map_err(failed)?;
        Folder::drop_database(&settings.data_dir, log.source_cursor(LinkId::LOCAL).as_ref()).map_err(failed)?;
    }
    database.store.uninstall(None).await.map_err(failed)?;
    Ok(format!("everything of Watershed's is taken out of {}; the next `run` begins afresh with it", database.store))
}

/// Removes everything of Watershed's from a copy's database, whose rows stay: the next start copies its tables afresh.
pub async fn drop_copy(settings: &Settings, name: &str) -> Result<String, NodeError> {
    let Some(copy) = settings.copies.iter().find(|copy| copy.name == name) else {
        let known: Vec<String> = settings.copies.iter().map(|copy| format!("{}/", copy.name)).collect();
        let known = if known.is_empty() { "none is configured".to_owned() } else { known.join(", ") };
        return Err(NodeError::new(
            "WS-NODE-029",
            Exit::Configuration,
            format!("there is no copy {name:?}"),
            format!("the configuration has no [copy.{name}]"),
            format!("name a copy as its tables are named: {known}"),
        ));
    };
    std::fs::create_dir_all(&settings.data_dir).map_err(failed)?;
    let _lock = lock(&settings.data_dir)?;
    let store = &copy.database.store;
    if store.is_captured().await.map_err(failed)? {
        return Err(NodeError::new(
            "WS-NODE-030",
            Exit::Operator,
            format!("{store} is a node's own database"),
            "a node captures it: what Watershed has there is that node's",
            format!(
                "correct [copy.{name}] url; or run `watershed source drop database --yes` with the configuration of that node"
            ),
        ));
    }
    store.uninstall(Some(name)).await.map_err(failed)?;
    Ok(format!("everything of Watershed's is taken out of {store}; the next `run` copies its tables afresh"))
}

/// Forgets a peer: the log keeps nothing for it any more, and whoever links under that name copies afresh.
pub fn drop_peer(settings: &Settings, name: &str) -> Result<String, NodeError> {
    std::fs::create_dir_all(&settings.data_dir).map_err(failed)?;
    let _lock = lock(&settings.data_dir)?;
    match Book::open(&settings.data_dir).and_then(|book| book.forget(name)).map_err(failed)? {
        true => Ok(format!("{name} is forgotten; whoever links under that name copies afresh")),
        false => {
            let why = "no peer of that name has ever been linked";
            Err(NodeError::new(
                "WS-NODE-018",
                Exit::Failure,
                format!("there is no peer {name:?}"),
                why,
                "see `watershed peer ls`",
            ))
        }
    }
}
