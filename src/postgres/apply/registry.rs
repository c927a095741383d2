//! The destination tables seen so far, and the statements that write them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio_postgres::Client;

use super::ops::Codes;
use super::target::Target;
use crate::model::{Fingerprint, TableDef};
use crate::postgres::ddl::is_postgres;

/// Destinations by the definition that rows come with. What is seen of a table holds until a statement fails.
#[derive(Debug, Default)]
pub(super) struct Targets {
    tables: HashMap<Fingerprint, Result<Target, String>>,
    /// Statements for single rows.
    pub codes: Codes,
    /// Tables in which merged inserts have met rows that were there: their inserts overwrite.
    upserts: HashSet<Fingerprint>,
}

impl Targets {
    /// Looks at the destination of a definition, unless it was found before: one that was not there may be by now.
    /// `typed` tells whether its rows come from a database whose columns have one type each, if it knows.
    pub(super) async fn look(
        &mut self,
        client: &Client,
        def: &Arc<TableDef>,
        typed: impl FnOnce() -> Option<bool>,
    ) -> Result<(), tokio_postgres::Error> {
        if !matches!(self.tables.get(&def.fingerprint), Some(Ok(_))) {
            let exact = typed().unwrap_or_else(|| is_postgres(def));
            let mut target = Target::look(client, def, exact).await?;
            if let Ok(target) = &mut target {
                target.upsert = self.upserts.contains(&def.fingerprint);
            }
            self.tables.insert(def.fingerprint, target);
        }
        Ok(())
    }

    /// The destination of a definition that was looked at; the inner error says why there is none.
    pub(super) fn get(&mut self, fingerprint: Fingerprint) -> (&mut Codes, Result<&mut Target, String>) {
        let target = match self.tables.get_mut(&fingerprint) {
            Some(Ok(target)) => Ok(target),
            Some(Err(why)) => Err(why.clone()),
            None => Err("it was not looked at".to_owned()),
        };
        (&mut self.codes, target)
    }

    /// Whether the destination of a definition was looked at.
    pub(super) fn knows(&self, fingerprint: Fingerprint) -> bool {
        self.tables.contains_key(&fingerprint)
    }

    /// From now on inserts into the table of that name overwrite, also where they are merged.
    pub(super) fn overwrite(&mut self, table: &str) {
        let of = |target: &&Target| super::target::split(&target.def.name).1 == table;
        let found: Vec<_> = self.tables.values().flatten().filter(of).map(|target| target.def.fingerprint).collect();
        self.upserts.extend(found);
    }

    /// Forgets everything: the schema may have changed.
    pub(super) fn clear(&mut self) {
        self.tables.clear();
        self.codes.clear();
    }
}
