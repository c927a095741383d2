//! What the configuration says about who gets what, in the terms of the rooms below.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use crate::log::{CapturesTable, NeedsValues};
use crate::model::{LinkId, TableDef, TableName};
use crate::peer::Role;
use crate::stream::{CelFilter, Destination, Filter, Ownership, Selection, Sieve};

/// One `[send.…]` section.
#[derive(Clone, Debug, Default)]
pub struct SendPolicy {
    /// Its tables.
    pub selection: Selection,
    /// Its filters.
    pub filter: Arc<CelFilter>,
    /// Feeds that may be mirrored.
    pub logs: Vec<Box<str>>,
}

/// Selection, filters and ownership of a node.
#[derive(Debug, Default)]
pub struct Policy {
    /// `[send.parent]`.
    pub parent: SendPolicy,
    /// `[send.children]`.
    pub children: SendPolicy,
    /// `[send.child.NAME]`, which replaces `children` for that child.
    pub child: BTreeMap<String, SendPolicy>,
    /// `[send.feed]`: to readers of `main` over HTTP; without it to none of them.
    pub feed: Option<SendPolicy>,
    /// `[table.NAME] owner, owner_by`.
    pub ownership: Arc<Ownership>,
    /// `[table.NAME] conflicts = "may-diverge"`.
    pub may_diverge: HashSet<TableName>,
    /// Captured besides what is selected: `[database] capture`, and what copies have.
    pub capture: Selection,
    /// The tables with an owner, captured too.
    pub owned: Selection,
    /// The tables that views of main look at, captured too.
    pub viewed: Selection,
}

impl Policy {
    /// What is sent to that peer; `role` is ours on the link.
    pub fn send(&self, role: Role, peer: &str) -> &SendPolicy {
        match role {
            Role::Child => &self.parent,
            Role::Parent => self.child.get(peer).unwrap_or(&self.children),
        }
    }

    /// Selection and filters for that peer.
    pub fn sieve(&self, role: Role, peer: &str, link: LinkId) -> Sieve {
        let send = self.send(role, peer);
        let filters: Vec<Arc<dyn Filter>> = vec![send.filter.clone()];
        Sieve::new(Destination { node: peer.into(), link }, send.selection.clone(), filters)
    }

    /// Selection and filters for a reader of `main` over HTTP, by its token's name; `None`: it gets nothing.
    pub fn feed_sieve(&self, reader: &str) -> Option<Sieve> {
        let send = self.feed.as_ref()?;
        let to = Destination { node: reader.into(), link: LinkId::LOCAL };
        Some(Sieve::new(to, send.selection.clone(), vec![send.filter.clone()]))
    }

    /// All selections.
    pub fn selections(&self) -> impl Iterator<Item = &Selection> {
        let children = self.child.values().chain(&self.feed).map(|send| &send.selection);
        let own = [&self.capture, &self.owned, &self.viewed];
        [&self.parent.selection, &self.children.selection].into_iter().chain(own).chain(children)
    }

    /// Whether the table's local changes are captured: the union of what any selection or owner names.
    pub fn captures(&self, table: &TableName) -> bool {
        self.selections().any(|selection| selection.matches(table))
    }

    /// Whether no table's local changes will ever be captured.
    pub fn captures_nothing(&self) -> bool {
        self.selections().all(Selection::is_empty)
    }

    /// [`Policy::captures`] for those who outlive it.
    pub fn captures_table(&self) -> CapturesTable {
        let selections: Vec<Selection> = self.selections().cloned().collect();
        Arc::new(move |table| selections.iter().any(|selection| selection.matches(table)))
    }

    /// At which columns filters and owners look though they do not change; `None` where there is nothing that looks. A row that
    /// enters a filter has to be whole.
    pub fn needed_values(&self) -> Option<NeedsValues> {
        let sends = [&self.parent, &self.children].into_iter().chain(self.child.values()).chain(&self.feed);
        let sends: Vec<SendPolicy> = sends.filter(|send| send.filter.has_conditions()).cloned().collect();
        let ownership = self.ownership.clone();
        if sends.is_empty() && !ownership.has_expressions() {
            return None;
        }
        Some(Arc::new(move |table: &TableDef| {
            let is_filtered =
                sends.iter().any(|send| send.selection.matches(&table.name) && send.filter.looks_at(&table.name));
            let needed =
                table.columns.iter().map(|column| is_filtered || ownership.looks_at(&table.name, &column.name));
            let needed: Vec<bool> = needed.collect();
            needed.contains(&true).then_some(needed)
        }))
    }

    /// Whether something that wants the table's changes names it, rather than a star matching it. An owner says only whose
    /// they are.
    pub fn names(&self, table: &TableName) -> bool {
        let owned = &self.owned;
        self.selections().any(|selection| !std::ptr::eq(selection, owned) && selection.names(table))
    }
}
