//! The builds of a machine's view: files of states, the one that answers and the one that is to take its place.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::Mutex;

use super::super::{Look, ViewBuilds, ViewError, ViewStore};
use super::{Machine, MachineOptions, MachineStore};
use crate::model::{Fingerprint, TableDef, TableName};

/// Makes machines of the wanted definition.
type New<M> = Arc<dyn Fn() -> M + Send + Sync>;
/// Makes a machine of an earlier definition from its text, where that can still be done.
type Earlier<M> = Arc<dyn Fn(&str) -> Option<(M, Vec<TableName>)> + Send + Sync>;

/// States of one view in a folder: `NAME.state` answers, `NAME.building-FINGERPRINT.state` is built.
pub struct MachineBuilds<M> {
    folder: PathBuf,
    /// As it stands in files' names.
    name: String,
    options: MachineOptions,
    new: New<M>,
    earlier: Option<Earlier<M>>,
    wanted: Fingerprint,
    stores: Mutex<Stores<M>>,
}

struct Stores<M> {
    live: Option<MachineStore<M>>,
    build: Option<MachineStore<M>>,
}

impl<M: Machine> MachineBuilds<M> {
    /// Of the view `name` in that folder, which is made when something is first kept in it.
    ///
    /// # Errors
    /// A machine cannot be made.
    pub fn open(
        folder: &Path,
        name: &str,
        tables: Vec<TableName>,
        compared: bool,
        new: impl Fn() -> M + Send + Sync + 'static,
    ) -> Result<MachineBuilds<M>, ViewError> {
        let options = MachineOptions { tables, compared, ..MachineOptions::in_memory(folder) };
        let wanted = MachineStore::open(&new, options.clone())?.definition();
        Ok(MachineBuilds {
            folder: folder.into(),
            name: in_a_file_name(name),
            options,
            new: Arc::new(new),
            earlier: None,
            wanted,
            stores: Mutex::new(Stores { live: None, build: None }),
        })
    }

    /// Has states of earlier definitions go on answering until the wanted one is built.
    pub fn knowing_earlier(
        self,
        earlier: impl Fn(&str) -> Option<(M, Vec<TableName>)> + Send + Sync + 'static,
    ) -> MachineBuilds<M> {
        MachineBuilds { earlier: Some(Arc::new(earlier)), ..self }
    }

    fn make_folder(&self) -> Result<(), ViewError> {
        let folder = self.folder.display();
        std::fs::create_dir_all(&self.folder)
            .map_err(|error| ViewError::Failed(format!("the folder {folder} cannot be made: {error}")))
    }

    fn live_path(&self) -> PathBuf {
        self.folder.join(format!("{}.state", self.name))
    }

    fn build_path(&self) -> PathBuf {
        self.folder.join(format!("{}.building-{}.state", self.name, self.wanted))
    }

    /// Removes files of builds, but the one of the wanted definition where that is to stay.
    fn remove_builds(&self, keep: bool) -> std::io::Result<()> {
        let (start, kept) = (format!("{}.building-", self.name), self.build_path());
        for entry in std::fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let is_build = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&start));
            if is_build && !(keep && path == kept) {
                std::fs::remove_file(&path)?;
            }
        }
        Ok(())
    }

    fn open_live(&self) -> Result<MachineStore<M>, ViewError> {
        self.make_folder()?;
        let path = self.live_path();
        let options = MachineOptions { path: Some(path.clone()), ..self.options.clone() };
        let there = MachineStore::<M>::look(&path)?.filter(|(definition, _)| *definition != self.wanted);
        let before = there.zip(self.earlier.as_ref());
        if let Some(((_, text), earlier)) = before
            && let Some((_, tables)) = earlier(&text)
        {
            let again = || earlier(&text).map_or_else(|| (self.new)(), |(machine, _)| machine);
            return MachineStore::open(again, MachineOptions { tables, ..options });
        }
        MachineStore::open(&*self.new, options)
    }
}

#[async_trait]
impl<M: Machine> ViewBuilds for MachineBuilds<M> {
    fn wanted(&self) -> Fingerprint {
        self.wanted
    }

    async fn live(&self) -> Result<Arc<dyn ViewStore>, ViewError> {
        let mut stores = self.stores.lock().await;
        let live = match &stores.live {
            Some(live) if !live.is_broken() => live.clone(),
            _ => tokio::task::block_in_place(|| self.open_live())?,
        };
        stores.live = Some(live.clone());
        Ok(Arc::new(live))
    }

    async fn build(&self, afresh: bool) -> Result<Arc<dyn ViewStore>, ViewError> {
        let mut stores = self.stores.lock().await;
        let known = stores.build.take().filter(|build| !afresh && !build.is_broken());
        let build = match known {
            Some(build) => build,
            None => tokio::task::block_in_place(|| {
                let failed =
                    |error| ViewError::Retry(format!("{} cannot be tidied up: {error}", self.folder.display()));
                self.make_folder()?;
                self.remove_builds(!afresh).map_err(failed)?;
                let options = MachineOptions { path: Some(self.build_path()), ..self.options.clone() };
                MachineStore::open(&*self.new, options)
            })?,
        };
        stores.build = Some(build.clone());
        Ok(Arc::new(build))
    }

    async fn look(&self, _known: &[Arc<TableDef>]) -> Result<Look, ViewError> {
        let found = tokio::task::block_in_place(|| MachineStore::<M>::look(&self.live_path()))?;
        Ok(Look { live: found.map(|(definition, _)| definition), ..Look::default() })
    }

    async fn switch(&self) -> Result<Arc<dyn ViewStore>, ViewError> {
        let mut stores = self.stores.lock().await;
        let build = stores.build.clone().ok_or_else(|| ViewError::Failed("there is no build to switch to".into()))?;
        build.move_to(self.live_path()).await?;
        // From here on it is what is found after a crash; its other file is only in the way.
        if let Err(error) = tokio::task::block_in_place(|| self.remove_builds(false)) {
            tracing::debug!("a build's file in {} stays for now: {error}", self.folder.display());
        }
        (stores.live, stores.build) = (Some(build.clone()), None);
        Ok(Arc::new(build))
    }

    async fn drop_build(&self) -> Result<(), ViewError> {
        let mut stores = self.stores.lock().await;
        stores.build = None;
        let removed = tokio::task::block_in_place(|| self.remove_builds(false));
        removed.map_err(|error| ViewError::Retry(format!("{} cannot be tidied up: {error}", self.folder.display())))
    }
}

/// Views are named by people; files are named by letters, digits, `-` and `_`.
fn in_a_file_name(name: &str) -> String {
    let mut out = String::new();
    for byte in name.bytes() {
        match byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_' {
            true => out.push(char::from(byte)),
            false => out.push_str(&format!("%{byte:02x}")),
        }
    }
    out
}
