//! Views of this node's logs: kept going, asked, rebuilt.

mod building;
mod digests;
mod following;
mod keeper;
mod log_there;
mod looks;
mod make;
mod orders;
mod part;
mod preflight;
mod progress;
mod publish;
mod quarantine;
mod record;
mod replicas;
mod settings;
mod status;
mod stops;
mod tokens;
mod viewed;

pub use digests::{Digested, Place};
pub(super) use make::configured;
pub use orders::OrderRefused;
pub use preflight::{ViewFound, look_at_views};
pub use publish::PublishStatus;
pub use record::PassedOver;
pub use replicas::Replicas;
pub use settings::{MakeBuilds, ViewSettings};
pub use status::{BuildStatus, FailureStatus, PartStatus, ViewStatus};
pub use viewed::{Asked, Told, Unanswered, Viewed};

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use self::keeper::Keeper;
use self::orders::Order;
use self::record::Record;
use super::settings::NodeError;
use super::shared::Shared;

/// The folder of what is noted about views.
pub(super) fn views_dir(data_dir: &Path) -> std::path::PathBuf {
    data_dir.join("views")
}

/// The views of a node, by name.
#[derive(Default)]
pub struct Views {
    all: BTreeMap<Box<str>, Arc<Viewed>>,
    /// Replicas of its machines elsewhere.
    pub replicas: Replicas,
}

impl Views {
    /// Reads definitions and what is noted about views; nothing is followed yet. Blocks.
    ///
    /// # Errors
    /// A definition is wrong, or what is noted cannot be read.
    pub fn open(data_dir: &Path, settings: BTreeMap<String, ViewSettings>) -> Result<Views, NodeError> {
        let mut all = BTreeMap::new();
        for (name, settings) in settings {
            let record = Record::open(&views_dir(data_dir), &name)?;
            let builds = (settings.make)()?;
            let name: Box<str> = name.into();
            all.insert(name.clone(), Arc::new(Viewed::new(name, settings, builds, record)));
        }
        Ok(Views { all, replicas: Replicas::default() })
    }

    /// Keeps them going until the node stops.
    pub(super) fn start(&self, shared: &Arc<Shared>) {
        for view in self.all.values() {
            if let Some(keeper) = Keeper::of(view, shared) {
                shared.tasks.spawn(keeper.run());
            }
        }
    }

    /// The one of that name.
    pub fn get(&self, name: &str) -> Option<&Arc<Viewed>> {
        self.all.get(name)
    }

    /// All of them, by name.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Viewed>> {
        self.all.values()
    }

    /// How all of them are doing.
    pub fn status(&self) -> Vec<ViewStatus> {
        self.all().map(|view| view.status()).collect()
    }

    /// What of them wants attention, as sentences.
    pub fn problems(&self) -> Vec<String> {
        self.status().iter().filter_map(ViewStatus::problem).collect()
    }

    /// Reads the definitions again; those that have changed are built, and what has failed is tried again. How many there
    /// are to build.
    ///
    /// # Errors
    /// A definition is wrong; then all stay as they are.
    pub async fn take_up(&self) -> Result<usize, NodeError> {
        let made = self.all().map(|view| Ok((view, (view.settings.make)()?)));
        let made: Vec<_> = made.collect::<Result<_, NodeError>>()?;
        let mut changed = 0;
        for (view, builds) in made {
            changed += usize::from(builds.wanted() != view.wanted());
            view.order(Order::TakeUp(builds)).await;
        }
        Ok(changed)
    }
}
