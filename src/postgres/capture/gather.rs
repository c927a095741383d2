//! From the messages of the stream to whole transactions; no I/O but the files of large ones.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use super::encode::Before;
use super::failure::{self, Failed};
use super::relations::Known;
use super::side::Filled;
use super::work::{Done, Ids, Work};
use crate::model::{Op, TableDef, TableName, limits};
use crate::postgres::apply::SECOND_ORIGIN;
use crate::postgres::replication::pgoutput::{
    Begin, Commit, LogicalMessage, Message, Old, Relation, Truncate, Tuple, TupleValue,
};
use crate::postgres::replication::{Data, Lsn};

/// Messages of applications: ids of their transaction.
const PREFIX: &str = "watershed";
/// Messages of ours: tables whose rows changed unseen, a name a line.
pub(super) const PREFIX_COPIED: &str = "watershed.copied";
/// Messages of ours: the place of a copy's snapshot, its causation id and the table's name in a line each.
pub(crate) const PREFIX_CUT: &str = "watershed.cut";

/// What stands around the changes of an entry has less.
const ENVELOPE_BYTES_MAX: usize = 128 << 10;

/// What has to be asked of the database before the stream is read further.
pub(super) enum Need {
    /// Nothing.
    Nothing,
    /// The definition of a table: then call [`Gather::define`].
    Definition(Relation),
    /// Values that were not sent with an update: then call [`Gather::moved`].
    Values(Moved),
    /// The definitions of tables by their names: then call [`Gather::said`].
    Definitions(Op, Vec<TableName>),
}

/// An update without all of its values, that changes the key or whose row somebody looks at.
pub(super) struct Moved {
    pub known: Known,
    pub new: Tuple,
    /// The key before, where it is another one.
    pub old: Option<Tuple>,
    /// The transaction, which has committed; `None`: it is streamed, and nobody can see yet what it has written.
    pub xid: Option<u32>,
}

/// The messages of one stream on their way.
pub(super) struct Gather {
    node: Box<str>,
    /// The name of our replication origin.
    origin: String,
    dir: Arc<Path>,
    open: Work,
    open_xid: u32,
    is_open: bool,
    streams: HashMap<u32, (Work, BTreeMap<u32, Known>)>,
    /// The transaction whose part is being sent, and its subtransaction.
    part: Option<(u32, Option<u32>)>,
    relations: BTreeMap<u32, Known>,
    /// Names of types as the stream tells them.
    pub types: HashMap<u32, String>,
    pub done: Done,
    /// Tables that were announced as replaced.
    pub recreated: Vec<TableName>,
    /// Tables that were truncated since somebody asked, and by which transaction.
    pub truncated: Vec<(TableName, u32)>,
    /// Everything that committed before it is in `done`, or was given.
    pub position: Lsn,
}

impl Gather {
    /// For a stream that starts there.
    pub fn new(node: Box<str>, origin: String, dir: PathBuf, position: Lsn) -> Gather {
        Gather {
            node,
            origin,
            dir: dir.into(),
            open: Work::default(),
            open_xid: 0,
            is_open: false,
            streams: HashMap::new(),
            part: None,
            relations: BTreeMap::new(),
            types: HashMap::new(),
            done: Done::default(),
            recreated: Vec::new(),
            truncated: Vec::new(),
            position,
        }
    }

    /// Takes the next message.
    pub fn take(&mut self, data: Data) -> Result<Need, Failed> {
        if let (Some(subxid), Some((_, at))) = (data.xid, &mut self.part) {
            *at = Some(subxid);
        }
        match data.message {
            Message::Insert { relation, new } => self.change(relation, Op::Insert, Some(&new), Before::Unknown)?,
            Message::Update { relation, old, new } => return self.update(relation, old, new),
            Message::Delete { relation, old } => self.change(relation, Op::Delete, None, before(&old))?,
            Message::Begin(Begin { time, xid, .. }) => {
                self.open_xid = xid;
                self.open.restart(time);
                self.is_open = true;
            }
            Message::Commit(Commit { end, .. }) => {
                self.is_open = false;
                let mut work = std::mem::take(&mut self.open);
                let ended = self.end(&mut work, end);
                self.open = work;
                ended?;
            }
            Message::Origin(origin) => {
                let is_ours = origin.name.strip_suffix(SECOND_ORIGIN).unwrap_or(&origin.name) == self.origin;
                self.work(None)?.is_ours = is_ours;
            }
            Message::Relation(relation) => return Ok(Need::Definition(relation)),
            Message::Type { id, schema, name } => {
                self.types.insert(id, format!("{}.{}", &*schema, &*name));
            }
            Message::Truncate(Truncate { relations, .. }) => {
                for relation in relations {
                    self.whole(relation, Op::Truncate)?;
                }
            }
            Message::Logical(message) => return self.logical(&message),
            Message::StreamStart { xid, .. } => {
                self.streams.entry(xid).or_insert_with(|| (Work::streamed(), BTreeMap::new()));
                self.part = Some((xid, None));
            }
            Message::StreamStop => self.part = None,
            Message::StreamCommit { xid, commit } => self.stream_commit(xid, commit)?,
            Message::StreamAbort { xid, subxid } => self.stream_abort(xid, subxid)?,
        }
        Ok(Need::Nothing)
    }

    /// The transaction that the message belongs to, at its subtransaction.
    fn work(&mut self, relation: Option<u32>) -> Result<&mut Work, Failed> {
        let Some((xid, subxid)) = self.part else {
            return match self.is_open {
                true => Ok(&mut self.open),
                false => Err(failure::stream(format!("a change (table {relation:?}) stands in no transaction"))),
            };
        };
        let (work, _) = self.streams.get_mut(&xid).ok_or_else(|| failure::stream(format!("{xid} has not begun")))?;
        if let Some(subxid) = subxid
            && !work.is_ours
        {
            work.within(subxid, &self.dir).map_err(failure::spool)?;
        }
        Ok(work)
    }

    fn known(&self, relation: u32) -> Result<Known, Failed> {
        let of_part = self.part.and_then(|(xid, _)| self.streams.get(&xid)?.1.get(&relation));
        let known = of_part.or_else(|| self.relations.get(&relation));
        known.cloned().ok_or_else(|| failure::stream(format!("table {relation} was not described before its change")))
    }

    /// The transaction that a change belongs to, at its subtransaction; the change's table; the folder of large ones.
    fn place(&mut self, relation: u32) -> Result<(&mut Work, &Known, &Path), Failed> {
        let Gather { relations, streams, open, is_open, part, dir, .. } = self;
        let unknown = || failure::stream(format!("table {relation} was not described before its change"));
        let Some((xid, subxid)) = *part else {
            if !*is_open {
                return Err(failure::stream(format!("a change of table {relation} stands in no transaction")));
            }
            return Ok((open, relations.get(&relation).ok_or_else(unknown)?, dir));
        };
        let (work, own) = streams.get_mut(&xid).ok_or_else(|| failure::stream(format!("{xid} has not begun")))?;
        if let Some(subxid) = subxid
            && !work.is_ours
        {
            work.within(subxid, dir).map_err(failure::spool)?;
        }
        let known = own.get(&relation).or_else(|| relations.get(&relation)).ok_or_else(unknown)?;
        Ok((work, known, dir))
    }

    fn change(&mut self, relation: u32, op: Op, new: Option<&Tuple>, before: Before<'_>) -> Result<(), Failed> {
        let old = match before {
            Before::Key(old) | Before::Whole(old) => Some(old),
            Before::Unknown => None,
        };
        let (work, known, dir) = self.place(relation)?;
        // The server does not always tell the origin of what it sends before its commit.
        work.is_ours |= known.is_mark;
        if work.is_ours || !known.is_wanted {
            return Ok(());
        }
        let mut size = 0;
        for tuple in new.iter().chain(old.iter()) {
            let (found, columns) = (tuple.columns(), known.def.columns.len());
            if found != columns {
                return Err(failure::stream(format!("a row of {} has {found} columns, not {columns}", known.def.name)));
            }
            size += tuple.size();
        }
        work.make_room(size, dir).map_err(failure::spool)?;
        let bytes = work.change(known, op, new, before);
        fits(known, bytes)?;
        work.settle(dir).map_err(failure::spool)
    }

    fn update(&mut self, relation: u32, old: Option<Old>, new: Tuple) -> Result<Need, Failed> {
        let is_told = matches!(old, Some(Old::Row(_)));
        if !is_told && new.values().any(|value| value == TupleValue::Unchanged) {
            let known = self.known(relation)?;
            let xid = if self.part.is_none() { Some(self.open_xid) } else { None };
            let is_needed = old.is_some() || known.needs(&new);
            if known.is_wanted && is_needed && !self.work(Some(relation))?.is_ours {
                let old = old.and_then(|old| if let Old::Key(key) = old { Some(key) } else { None });
                return Ok(Need::Values(Moved { known, new, old, xid }));
            }
        }
        self.change(relation, Op::Update, Some(&new), old.as_ref().map_or(Before::Unknown, before))?;
        Ok(Need::Nothing)
    }

    /// An update with the values that were asked for.
    pub fn moved(&mut self, known: &Known, filled: &Filled) -> Result<(), Failed> {
        let dir = Arc::clone(&self.dir);
        let is_streamed = self.part.is_some();
        let work = self.work(None)?;
        let Filled { new, old, is_whole, is_locked } = filled;
        let size = new.iter().chain(old.iter().flatten()).map(|value| value.text.len()).sum();
        work.make_room(size, &dir).map_err(failure::spool)?;
        let is_blind = known.needed.is_some() && (*is_locked || !is_whole);
        let bytes = match is_blind {
            false => work.rows(known, Op::Update, Some(new), old.as_ref()),
            // Whoever looks at a value that is not there could not go on. The table is announced behind it, and what made the row go
            // stands there, too; only that its old key is gone is said by nothing else.
            true => old.as_ref().map_or(0, |old| work.rows(known, Op::Delete, None, Some(old))),
        };
        fits(known, bytes)?;
        // Without its values the row cannot be given to those who have not got it.
        if is_streamed || *is_locked || is_blind {
            work.lacks(&known.def);
        }
        work.settle(&dir).map_err(failure::spool)
    }

    fn whole(&mut self, relation: u32, op: Op) -> Result<(), Failed> {
        let known = self.known(relation)?;
        let work = self.work(Some(relation))?;
        if known.is_wanted && !work.is_ours {
            work.whole(&known.def, op);
            let xid = self.part.map_or(self.open_xid, |(xid, _)| xid);
            self.truncated.push((known.def.name.clone(), xid));
        }
        Ok(())
    }

    /// What is known of a table from here on.
    pub fn define(&mut self, relation: u32, known: Known) {
        let part = self.part.and_then(|(xid, _)| self.streams.get_mut(&xid));
        let relations = part.map_or(&mut self.relations, |(_, relations)| relations);
        relations.insert(relation, known);
    }

    /// What a message of ours says of tables: their rows changed unseen before this place, or they were cut here.
    pub fn said(&mut self, op: Op, tables: &[Arc<TableDef>]) -> Result<(), Failed> {
        let work = self.work(None)?;
        for table in tables {
            work.whole(table, op);
        }
        if op == Op::Copied {
            self.recreated.extend(tables.iter().map(|table| table.name.clone()));
        }
        Ok(())
    }

    fn logical(&mut self, message: &LogicalMessage) -> Result<Need, Failed> {
        if !message.transactional {
            return Ok(Need::Nothing);
        }
        let text = String::from_utf8_lossy(&message.content);
        match &*message.prefix {
            PREFIX_COPIED => {
                return Ok(Need::Definitions(Op::Copied, text.lines().filter_map(|name| name.parse().ok()).collect()));
            }
            PREFIX_CUT => {
                let Some((id, table)) = text.split_once('\n') else { return Ok(Need::Nothing) };
                self.work(None)?.say(Ids { subxid: None, correlation: None, causation: Some(id.into()) });
                return Ok(Need::Definitions(Op::Cut, table.parse().into_iter().collect()));
            }
            PREFIX => {
                let subxid = self.part.and_then(|(_, subxid)| subxid);
                match ids(&text, subxid) {
                    Some(ids) => self.work(None)?.say(ids),
                    None => {
                        tracing::warn!("a message with the prefix watershed gives no ids: {:.80}", text.escape_debug())
                    }
                }
            }
            _ => {}
        }
        Ok(Need::Nothing)
    }

    fn stream_commit(&mut self, xid: u32, commit: Commit) -> Result<(), Failed> {
        let Some((mut work, relations)) = self.streams.remove(&xid) else {
            return Err(failure::stream(format!("transaction {xid} ends and has not begun")));
        };
        // Only now the server takes what it told within the transaction as told.
        self.relations.extend(relations);
        work.time = commit.time;
        self.end(&mut work, commit.end)
    }

    fn stream_abort(&mut self, xid: u32, subxid: u32) -> Result<(), Failed> {
        match self.streams.get_mut(&xid) {
            Some((work, _)) if subxid != xid => work.undo(subxid).map_err(failure::spool),
            _ => {
                self.streams.remove(&xid);
                Ok(())
            }
        }
    }

    fn end(&mut self, work: &mut Work, end: Lsn) -> Result<(), Failed> {
        if !work.is_ours {
            // A row that moved without all of its values may be lost to a copy that is under way: it is made again.
            for table in work.take_lacking() {
                work.whole(&table, Op::Copied);
                self.recreated.push(table.name.clone());
            }
            self.done.add(work, &self.node).map_err(failure::spool)?;
        }
        self.position = self.position.max(end);
        Ok(())
    }
}

/// Refuses what no log takes, in whatever entry it stands.
fn fits(known: &Known, bytes: usize) -> Result<(), Failed> {
    match bytes > limits::ENTRY_BYTES_MAX - ENVELOPE_BYTES_MAX {
        true => Err(failure::too_large(&known.def.name, bytes)),
        false => Ok(()),
    }
}

fn before(old: &Old) -> Before<'_> {
    match old {
        Old::Key(key) => Before::Key(key),
        Old::Row(row) => Before::Whole(row),
    }
}

/// The ids of a message: `{"correlation": …, "causation": …}`, or the correlation id alone.
fn ids(text: &str, subxid: Option<u32>) -> Option<Ids> {
    #[derive(Deserialize)]
    struct Given {
        correlation: Option<Box<str>>,
        causation: Option<Box<str>>,
    }
    let fits = |id: &str| !id.is_empty() && id.len() <= limits::NAME_BYTES_MAX;
    let Given { correlation, causation } = match text.starts_with('{') {
        true => serde_json::from_str(text).ok()?,
        false => Given { correlation: Some(text.into()), causation: None },
    };
    let all_fit = correlation.iter().chain(&causation).all(|id| fits(id));
    all_fit.then_some(Ids { subxid, correlation, causation })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_a_text_or_an_object() {
        let given = |text: &str| ids(text, None).map(|ids| (ids.correlation, ids.causation));
        assert_eq!(given("order 7"), Some((Some("order 7".into()), None)));
        assert_eq!(given(r#"{"correlation":"a","causation":"b","x":1}"#), Some((Some("a".into()), Some("b".into()))));
        assert_eq!(given(r#"{"causation":"b"}"#), Some((None, Some("b".into()))));
        for bad in ["", "{", r#"{"correlation":7}"#, &"x".repeat(256)] {
            assert_eq!(given(bad), None, "{bad}");
        }
    }
}
