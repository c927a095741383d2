//! The builds of one view: what answers, and what is to take its place.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use tokio_postgres::Client;

use super::check;
use super::meta::{self, Found, Meta, quoted};
use super::notes::{self, Notes};
use super::session::{self, Trouble};
use super::store::PgViewStore;
use crate::model::{Cursor, Fingerprint, TableDef};
use crate::postgres::{Endpoint, Session};
use crate::view::sql::{Definition, Dialect};
use crate::view::{Look, Program, ViewBuilds, ViewError, ViewStore};

/// The longest name that leaves room for what is put behind it; a schema's name has 63 bytes at most.
const NAME_BYTES_MAX: usize = 48;

/// What [`PgViews`] is opened with.
#[derive(Clone, Debug)]
pub struct PgViewOptions {
    /// The view's name, and that of its schema.
    pub name: String,
    /// What is wanted.
    pub definition: Arc<Definition>,
    /// The database, and who writes and asks there.
    pub endpoint: Endpoint,
    /// Where files of large transactions are put.
    pub spool_dir: PathBuf,
    /// What changes in the view's tables is kept for a while.
    pub changes: bool,
    /// What changes in the view's tables is kept until it has been published.
    pub publish: bool,
}

/// A SQL view in PostgreSQL.
#[derive(Clone, Debug)]
pub struct PgViews {
    pub(super) options: PgViewOptions,
}

impl PgViews {
    /// Looks at nothing yet.
    ///
    /// # Errors
    /// The name is too long for a schema, or one of the server's own.
    pub fn new(options: PgViewOptions) -> Result<PgViews, ViewError> {
        let name = &options.name;
        let is_taken =
            ["public", "information_schema", "watershed"].contains(&name.as_str()) || name.starts_with("pg_");
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains('\0') || is_taken {
            let why = format!(
                "a view in PostgreSQL cannot be named {name:?}: its schema bears its name (1 to {NAME_BYTES_MAX} bytes)"
            );
            return Err(ViewError::Failed(why));
        }
        Ok(PgViews { options })
    }

    fn building(&self) -> String {
        format!("{}__building", self.options.name)
    }

    fn replaced(&self) -> String {
        format!("{}__replaced", self.options.name)
    }

    pub(super) fn told(&self, trouble: Trouble) -> ViewError {
        trouble.told(&self.options.endpoint, "keeping a view")
    }

    /// Opens the build in a schema; where there is none it is made. `kept` says whether one of an earlier definition is gone on
    /// with.
    async fn open(&self, schema: &str, kept: bool) -> Result<PgViewStore, ViewError> {
        let session = session::open(&self.options.endpoint, schema).await?;
        let opened = self.opened(&session, schema, kept).await;
        let (meta, definition, prepared) = opened.map_err(|trouble| self.told(trouble))?;
        let notes = self.noted(&session, schema, kept, &definition).await.map_err(|trouble| self.told(trouble))?;
        let mark = match notes {
            Some(_) => Some(Notes::mark(&session.client).await.map_err(|error| self.told(error.into()))?),
            None => None,
        };
        definition.tell_kept(&self.options.name);
        let folder = self.options.spool_dir.clone();
        Ok(PgViewStore::new(session, schema.to_owned(), folder, &meta, definition, (prepared, notes, mark)))
    }

    async fn opened(
        &self,
        session: &Session,
        schema: &str,
        kept: bool,
    ) -> Result<(Meta, Arc<Definition>, Vec<check::Prepared>), Trouble> {
        let client = &session.client;
        client.batch_execute("BEGIN").await?;
        alone(client, &self.options.name).await?;
        let wanted = self.wanted();
        let (meta, definition) = match meta::found(client, schema).await? {
            Found::Nothing => {
                let meta = self.fresh();
                client.batch_execute(&format!("CREATE SCHEMA {}", quoted(schema))).await?;
                meta::install(client, &meta).await?;
                check::set_up(client, &self.options.definition).await?;
                (meta, self.options.definition.clone())
            }
            Found::View(meta) if meta.name != self.options.name => {
                return Err(Trouble::failed(format!("schema {schema} has the view {:?}", meta.name)));
            }
            Found::View(meta) if meta.fingerprint == wanted => (meta, self.options.definition.clone()),
            Found::View(meta) if kept => {
                let definition = Definition::parse(&meta.file, &meta.definition, Dialect::Postgres);
                let definition = Arc::new(definition.map_err(ViewError::from)?);
                (meta, definition)
            }
            Found::View(_) => return Err(Trouble::failed(format!("schema {schema} is a build of another definition"))),
            Found::Foreign => {
                return Err(Trouble::failed(format!(
                    "schema {schema} is somebody else's: a view's schema bears its name, and is replaced when it is built anew"
                )));
            }
        };
        let program = Program::new(definition.clone());
        let prepared = check::prepare(client, &program.script).await?;
        if meta.fingerprint == wanted {
            // What cannot be told is refused before it takes the place of what answers.
            self.tells(client, schema).await?;
        }
        client.batch_execute("COMMIT").await?;
        Ok((meta, definition, prepared))
    }

    /// Whether what changes in the tables of a schema can be told, where somebody is to be told.
    pub(super) async fn tells(&self, client: &Client, schema: &str) -> Result<(), Trouble> {
        if self.options.changes || self.options.publish {
            self.options.definition.only_changes_rows().map_err(ViewError::from)?;
            notes::tables(client, schema).await?;
        }
        Ok(())
    }

    /// Has noted what changes, if somebody is told; what is being built changes for nobody.
    async fn noted(
        &self,
        session: &Session,
        schema: &str,
        kept: bool,
        definition: &Definition,
    ) -> Result<Option<Notes>, Trouble> {
        if !kept {
            return Ok(None);
        }
        let client = &session.client;
        let (changes, publish) = (self.options.changes, self.options.publish);
        client.batch_execute("BEGIN").await?;
        alone(client, &self.options.name).await?;
        // One of an earlier definition of which not everything could be told answers, and tells nothing.
        let notes = match (changes || publish) && definition.only_changes_rows().is_ok() {
            true => Some(Notes::install(client, schema, changes, publish).await?),
            false => Notes::remove(client, schema).await.map(|()| None)?,
        };
        client.batch_execute("COMMIT").await?;
        Ok(notes)
    }

    fn fresh(&self) -> Meta {
        Meta {
            name: self.options.name.clone(),
            fingerprint: self.wanted(),
            build: rand::random::<i64>(),
            file: self.options.definition.file.clone(),
            definition: self.options.definition.text.clone(),
        }
    }

    /// Removes a build that is the view's; all of it or nothing.
    async fn remove(&self, client: &Client, schema: &str) -> Result<(), Trouble> {
        match meta::found(client, schema).await? {
            Found::View(meta) if meta.name == self.options.name => {
                client.batch_execute(&format!("DROP SCHEMA {} CASCADE", quoted(schema))).await?;
                Ok(())
            }
            Found::Nothing => Ok(()),
            _ => Err(Trouble::failed(format!("schema {schema} is somebody else's"))),
        }
    }

    async fn tidied(&self, afresh: bool) -> Result<(), ViewError> {
        let session = session::connect(&self.options.endpoint).await?;
        let client = &session.client;
        let work = async {
            self.remove(client, &self.replaced()).await?;
            let building = self.building();
            match meta::found(client, &building).await? {
                Found::View(meta) if afresh || meta.fingerprint != self.wanted() => {
                    self.remove(client, &building).await
                }
                _ => Ok(()),
            }
        };
        work.await.map_err(|trouble| self.told(trouble))
    }

    async fn renamed(&self, client: &Client) -> Result<(), Trouble> {
        let (name, building, replaced) = (&self.options.name, self.building(), self.replaced());
        self.remove(client, &replaced).await?;
        client.batch_execute("BEGIN").await?;
        alone(client, name).await?;
        match meta::found(client, &building).await? {
            Found::View(meta) if meta.fingerprint == self.wanted() => {}
            Found::View(_) => {
                return Err(Trouble::failed(format!("schema {building} is a build of another definition")));
            }
            Found::Nothing => return Err(Trouble::failed(format!("there is no build in schema {building}"))),
            Found::Foreign => return Err(Trouble::failed(format!("schema {building} is somebody else's"))),
        }
        let is_there = match meta::found(client, name).await? {
            Found::Nothing => false,
            Found::View(_) => true,
            Found::Foreign => return Err(Trouble::failed(format!("schema {name} is somebody else's"))),
        };
        if is_there {
            self.inherit(client, &building).await?;
            client.batch_execute(&format!("ALTER SCHEMA {} RENAME TO {}", quoted(name), quoted(&replaced))).await?;
        }
        client.batch_execute(&format!("ALTER SCHEMA {} RENAME TO {}; COMMIT", quoted(&building), quoted(name))).await?;
        Ok(())
    }

    /// What was ever passed over stays known. A build that has not come as far as what it would replace is refused.
    async fn inherit(&self, client: &Client, building: &str) -> Result<(), Trouble> {
        let (from, to) = (quoted(&self.options.name), quoted(building));
        // Nobody writes to either until it is done.
        let lock = |schema: &str| format!("SELECT 1 FROM {schema}.watershed_view FOR UPDATE");
        client.batch_execute(&format!("{}; {}", lock(&from), lock(&to))).await?;
        let reached = meta::cursors(client, building).await?;
        for Cursor { log, position, .. } in meta::cursors(client, &self.options.name).await? {
            let at = reached.iter().find(|reached| reached.log == log);
            // A log of which a build has never heard that knows of another is none of the view's any more.
            if at.is_none() && !reached.is_empty() {
                continue;
            }
            let at = at.map_or(0, |reached| reached.position.0);
            if at < position.0 {
                let why = format!("the build has come to {at} of the log {log}, and what answers to {position}");
                return Err(Trouble::failed(why));
            }
        }
        let sql = format!(
            "INSERT INTO {to}.watershed_view_passed SELECT * FROM {from}.watershed_view_passed ON CONFLICT DO NOTHING"
        );
        client.batch_execute(&sql).await?;
        Ok(())
    }
}

/// Until the transaction ends nobody else opens or replaces a build of that view.
async fn alone(client: &Client, name: &str) -> Result<(), Trouble> {
    let sql = "SELECT pg_advisory_xact_lock(hashtextextended('watershed view ' || $1, 0))";
    client.execute(sql, &[&name]).await?;
    Ok(())
}

#[async_trait]
impl ViewBuilds for PgViews {
    fn wanted(&self) -> Fingerprint {
        self.options.definition.fingerprint("postgres")
    }

    async fn live(&self) -> Result<Arc<dyn ViewStore>, ViewError> {
        Ok(Arc::new(self.open(&self.options.name, true).await?))
    }

    async fn build(&self, afresh: bool) -> Result<Arc<dyn ViewStore>, ViewError> {
        self.tidied(afresh).await?;
        Ok(Arc::new(self.open(&self.building(), false).await?))
    }

    async fn look(&self, known: &[Arc<TableDef>]) -> Result<Look, ViewError> {
        let looked = self.looked().await?;
        Ok(Look { warnings: self.options.definition.unknown_columns(known), ..looked })
    }

    async fn switch(&self) -> Result<Arc<dyn ViewStore>, ViewError> {
        let session = session::connect(&self.options.endpoint).await?;
        self.renamed(&session.client).await.map_err(|trouble| self.told(trouble))?;
        // It is of no more use, but whoever reads it may hold it for a moment: then it goes with the next build.
        if let Err(trouble) = self.remove(&session.client, &self.replaced()).await {
            tracing::debug!("the replaced build of {}: {}", self.options.name, self.told(trouble));
        }
        self.live().await
    }

    async fn drop_build(&self) -> Result<(), ViewError> {
        self.tidied(true).await
    }
}
