//! One build of one definition, in its schema.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use async_trait::async_trait;
use tokio::sync::{Mutex, MutexGuard};
use tokio_postgres::Statement;

use super::ask;
use super::check::{self, Prepared};
use super::digest;
use super::meta;
use super::notes::Notes;
use super::part::Part;
use super::session::{self, Trouble};
use super::told::Tells;
use crate::model::{Cursor, Fingerprint, LogId, Position, limits};
use crate::postgres::{Endpoint, Session};
use crate::view::sql::Definition;
use crate::view::{
    Answer, AskError, Bounds, Hold, Program, Question, StateDigest, View, ViewChanges, ViewError, ViewOutbox, ViewStore,
};

/// A build of a SQL view in PostgreSQL.
pub struct PgViewStore {
    shared: Arc<Shared>,
}

/// What the followers and askers of a build have in common.
pub(super) struct Shared {
    pub endpoint: Endpoint,
    pub schema: String,
    /// Where files of large transactions are put.
    pub folder: PathBuf,
    pub fingerprint: Fingerprint,
    /// Drawn when the build began.
    pub build: i64,
    writer: Mutex<Writer>,
    /// One for each question that is being answered.
    pub places: tokio::sync::Semaphore,
    pub idle: std::sync::Mutex<Vec<Session>>,
    /// What is noted of changes, where somebody is told.
    pub notes: Option<Notes>,
    /// What stands elsewhere up to that number goes with the next commit.
    pub published: AtomicU64,
    /// The session by which they are told, while nobody uses it.
    pub telling: Mutex<Option<Session>>,
}

/// The session that writes.
pub(super) struct Writer {
    /// None when it was lost.
    session: Option<Session>,
    pub program: Program,
    pub prepared: Arc<Vec<Prepared>>,
    /// Says of which transaction what follows is, where somebody is told.
    pub mark: Option<Statement>,
}

impl Writer {
    /// The session is of no more use.
    pub(super) fn lose(&mut self) {
        self.session = None;
    }

    pub(super) fn client(&self) -> Result<&tokio_postgres::Client, Trouble> {
        let session = self.session.as_ref();
        session.map(|session| &session.client).ok_or_else(|| ViewError::Lost("the session was lost".into()).into())
    }
}

impl Shared {
    /// The session that writes; one that was lost is made again.
    pub(super) async fn writer(&self) -> Result<MutexGuard<'_, Writer>, ViewError> {
        let mut writer = self.writer.lock().await;
        if writer.session.as_ref().is_none_or(|session| session.client.is_closed()) {
            writer.session = None;
            let session = session::open(&self.endpoint, &self.schema).await?;
            let prepared = check::prepare(&session.client, &writer.program.script).await;
            writer.prepared = Arc::new(prepared.map_err(|trouble| self.told(trouble))?);
            writer.mark = self.mark(&session.client).await.map_err(|trouble| self.told(trouble))?;
            writer.session = Some(session);
        }
        Ok(writer)
    }

    async fn mark(&self, client: &tokio_postgres::Client) -> Result<Option<Statement>, Trouble> {
        match self.notes {
            Some(_) => Ok(Some(Notes::mark(client).await?)),
            None => Ok(None),
        }
    }

    pub(super) fn told(&self, trouble: Trouble) -> ViewError {
        trouble.told(&self.endpoint, "keeping a view")
    }

    /// The stored cursor of a log, if the schema still has this build.
    pub(super) async fn fence(&self, client: &tokio_postgres::Client, log: LogId) -> Result<Option<Cursor>, Trouble> {
        let (build, cursor) = meta::fence(client, log).await?;
        match build == self.build {
            true => Ok(cursor),
            false => {
                let why = format!("schema {}: another build of the view has taken its place", self.schema);
                Err(ViewError::Lost(why).into())
            }
        }
    }

    async fn pass_over(&self, at: Cursor) -> Result<(), ViewError> {
        let mut writer = self.writer().await?;
        let done = self.pass(&writer, at).await;
        if done.is_err() {
            writer.lose();
        }
        done.map_err(|trouble| self.told(trouble))
    }

    async fn pass(&self, writer: &Writer, at: Cursor) -> Result<(), Trouble> {
        let client = writer.client()?;
        client.batch_execute("BEGIN").await?;
        let held = self.fence(client, at.log).await?;
        let next = held.map_or(Position::ZERO, |held| held.position).next();
        if at.position != next {
            return Err(Trouble::failed(format!("the view's next entry is at {next}, not at {}", at.position)));
        }
        meta::set_passed(client, at).await?;
        meta::set_cursor(client, at).await?;
        client.batch_execute("COMMIT").await?;
        Ok(())
    }
}

impl PgViewStore {
    pub(super) fn new(
        session: Session,
        schema: String,
        folder: PathBuf,
        meta: &meta::Meta,
        definition: Arc<Definition>,
        (prepared, notes, mark): (Vec<Prepared>, Option<Notes>, Option<Statement>),
    ) -> PgViewStore {
        let shared = Shared {
            endpoint: session.endpoint().clone(),
            schema,
            folder,
            fingerprint: meta.fingerprint,
            build: meta.build,
            writer: Mutex::new(Writer {
                session: Some(session),
                program: Program::new(definition),
                prepared: Arc::new(prepared),
                mark,
            }),
            notes,
            published: AtomicU64::new(0),
            telling: Mutex::default(),
            places: tokio::sync::Semaphore::new(limits::VIEW_READERS_MAX),
            idle: std::sync::Mutex::default(),
        };
        PgViewStore { shared: Arc::new(shared) }
    }
}

impl std::fmt::Debug for PgViewStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Shared { schema, fingerprint, .. } = &*self.shared;
        f.debug_struct("PgViewStore").field("schema", schema).field("definition", fingerprint).finish_non_exhaustive()
    }
}

#[async_trait]
impl ViewStore for PgViewStore {
    fn definition(&self) -> Fingerprint {
        self.shared.fingerprint
    }

    async fn part(&self, log: LogId) -> Result<Box<dyn View>, ViewError> {
        Ok(Box::new(Part::new(self.shared.clone(), log)))
    }

    async fn cursors(&self) -> Result<Vec<Cursor>, ViewError> {
        let writer = self.shared.writer().await?;
        let read = async { meta::cursors(writer.client()?, &self.shared.schema).await };
        read.await.map_err(|trouble| self.shared.told(trouble))
    }

    async fn ask(&self, question: &Question, bounds: &Bounds) -> Result<Answer, AskError> {
        ask::ask(&self.shared, question, *bounds).await
    }

    async fn digest(&self) -> Result<StateDigest, ViewError> {
        digest::digest(&self.shared, Hold::none()).await
    }

    async fn digest_held(&self, hold: Hold) -> Result<StateDigest, ViewError> {
        digest::digest(&self.shared, hold).await
    }

    fn changes(&self) -> Option<Arc<dyn ViewChanges>> {
        let kept = self.shared.notes.as_ref().is_some_and(|notes| notes.changes);
        kept.then(|| Arc::new(Tells(self.shared.clone())) as Arc<dyn ViewChanges>)
    }

    fn outbox(&self) -> Option<Arc<dyn ViewOutbox>> {
        let kept = self.shared.notes.as_ref().is_some_and(|notes| notes.publish);
        kept.then(|| Arc::new(Tells(self.shared.clone())) as Arc<dyn ViewOutbox>)
    }

    async fn pass_over(&self, at: Cursor) -> Result<(), ViewError> {
        self.shared.pass_over(at).await
    }

    async fn passed(&self) -> Result<Vec<(Cursor, String)>, ViewError> {
        let writer = self.shared.writer().await?;
        let read = async { meta::passed(writer.client()?, &self.shared.schema).await };
        read.await.map_err(|trouble| self.shared.told(trouble))
    }
}
