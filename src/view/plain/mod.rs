//! Views that need no SQL, in memory: [`count`](CountSettings), [`latest`](LatestSettings), [`reduce`](ReduceSettings).

mod count;
mod keyed;
mod latest;
mod reduce;
mod settings;

pub use settings::{CountSettings, LatestSettings, PlainSettings, ReduceSettings};

use std::io::{self, Read, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use self::count::Count;
use self::latest::Latest;
use self::reduce::Reduce;
use super::machine::{Hashed, Machine, MachineBuilds, Rows, Transaction};
use super::{AskError, Bounds, Question, ViewError};
use crate::model::TableName;

/// One of them, as a machine.
#[derive(Debug)]
pub struct Plain {
    settings: PlainSettings,
    state: State,
}

#[derive(Debug)]
enum State {
    Count(Count),
    Latest(Latest),
    Reduce(Box<Reduce>),
}

impl Plain {
    /// With nothing in it.
    ///
    /// # Errors
    /// Words: what is wrong with its settings.
    pub fn new(settings: &PlainSettings) -> Result<Plain, String> {
        tables(settings)?;
        let state = match settings {
            PlainSettings::Count(settings) => State::Count(Count::new(settings)),
            PlainSettings::Latest(settings) => State::Latest(Latest::new(settings)),
            PlainSettings::Reduce(settings) => State::Reduce(Box::new(Reduce::new(settings)?)),
        };
        Ok(Plain { settings: settings.clone(), state })
    }

    /// Its builds, in a folder that is made when something is first kept in it.
    ///
    /// # Errors
    /// Its settings are wrong.
    pub fn builds(folder: &Path, name: &str, settings: PlainSettings) -> Result<MachineBuilds<Plain>, ViewError> {
        Plain::new(&settings).map_err(ViewError::Failed)?;
        let tables = tables(&settings).map_err(ViewError::Failed)?;
        let new = move || Plain::new(&settings).expect("these settings were tried before");
        let earlier = |text: &str| {
            let settings = PlainSettings::from_definition(text)?;
            Some((Plain::new(&settings).ok()?, self::tables(&settings).ok()?))
        };
        Ok(MachineBuilds::open(folder, name, tables, false, new)?.knowing_earlier(earlier))
    }
}

/// The tables that it looks at; none means all.
fn tables(settings: &PlainSettings) -> Result<Vec<TableName>, String> {
    settings.tables().iter().map(|table| table.parse::<TableName>().map_err(|error| error.to_string())).collect()
}

impl Machine for Plain {
    fn definition(&self) -> String {
        self.settings.definition()
    }

    #[inline]
    fn apply(&mut self, transaction: &Transaction<'_>) -> Result<(), ViewError> {
        match &mut self.state {
            State::Count(count) => count.apply(transaction),
            State::Latest(latest) => latest.apply(transaction),
            State::Reduce(reduce) => reduce.apply(transaction),
        }
    }

    fn save(&self, out: &mut dyn Write) -> io::Result<()> {
        match &self.state {
            State::Count(count) => count.save(out),
            State::Latest(latest) => latest.save(out),
            State::Reduce(reduce) => reduce.save(out),
        }
    }

    fn load(&mut self, state: &mut dyn Read) -> io::Result<()> {
        match &mut self.state {
            State::Count(count) => count.load(state),
            State::Latest(latest) => latest.load(state),
            State::Reduce(reduce) => reduce.load(state),
        }
    }

    fn ask(&self, question: &Question, bounds: &Bounds) -> Result<Rows, AskError> {
        match &self.state {
            State::Count(count) => count.ask(question, bounds),
            State::Latest(latest) => latest.ask(question, bounds),
            State::Reduce(reduce) => reduce.ask(question, bounds),
        }
    }

    fn rows(&self) -> u64 {
        match &self.state {
            State::Count(count) => count.rows(),
            State::Latest(latest) => latest.rows(),
            State::Reduce(reduce) => reduce.rows(),
        }
    }

    fn digest(&self) -> [u8; 32] {
        let mut hash = Hashed(Sha256::new());
        let saved = match &self.state {
            State::Count(count) => count.save(&mut hash),
            State::Latest(latest) => latest.save_sorted(&mut hash),
            State::Reduce(reduce) => reduce.save(&mut hash),
        };
        saved.expect("hashing does not fail");
        hash.0.finalize().into()
    }
}
