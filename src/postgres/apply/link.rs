//! The one session that applies: its settings, its replication origin, and the loops that it runs at the server.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error, Statement};

use super::array::{Array, Raw};
use super::bulk::{Bulk, Unknown};
use super::ops::{Codes, Ops};
use super::session::{has_room, origin, own_name, refusal, settings};
use super::target::literal;
use super::{PgApplierOptions, store};
use crate::model::{Cursor, LogId, limits};
use crate::postgres::{Endpoint, Session};
use crate::view::{EventsError, ViewError};

/// The error that moving the cursor raises when it is not where it is expected; its detail is the cursor found.
const FENCED: &str = "WS001";

/// Locks the cursor's row and compares it, then sets it; a cursor to set that is NULL leaves it. The row is written in any
/// case, before anything else: that is how capture knows our transactions, also where the server streams them before their end.
const MOVE: &str = "
CREATE FUNCTION pg_temp.ws_move(ws__from text, ws__to text) RETURNS void LANGUAGE plpgsql AS '
DECLARE ws__found text;
BEGIN
  SELECT c.cursor INTO ws__found FROM watershed.cursor c FOR UPDATE;
  IF ws__found IS DISTINCT FROM ws__from THEN
    RAISE EXCEPTION ''the cursor was moved by somebody else'' USING ERRCODE = ''WS001'', DETAIL = coalesce(ws__found, '''');
  END IF;
  UPDATE watershed.cursor c SET cursor = coalesce(ws__to, c.cursor);
  IF NOT FOUND THEN
    INSERT INTO watershed.cursor (cursor) VALUES (coalesce(ws__to, ''''));
    IF ws__to IS NULL THEN DELETE FROM watershed.cursor; END IF;
  END IF;
END'";

/// Why something did not come about; whatever was under way is rolled back.
#[derive(Debug)]
pub(super) enum Fail {
    /// What was written does not fit where it was to be written.
    Table(Box<Error>),
    /// Everything failed.
    View(ViewError),
}

impl From<ViewError> for Fail {
    fn from(error: ViewError) -> Fail {
        Fail::View(error)
    }
}

/// A function of this session: it carries out operations whose codes are among `kinds`.
struct Loop {
    /// Ascending.
    kinds: Vec<u32>,
    statement: Statement,
}

/// A call of such a function, or another statement with its parameters.
pub(super) struct Call {
    pub statement: Statement,
    pub params: Vec<Raw>,
}

/// The session.
pub(super) struct Link {
    pub session: Arc<Session>,
    log: LogId,
    mover: Statement,
    loops: Vec<Loop>,
    bulks: HashMap<Bulk, Statement>,
    /// Functions made so far: their names are never used again.
    made: u32,
    /// A lock has been waited for in vain.
    waited: Arc<AtomicBool>,
}

/// A connection failed, or a statement did; sorted by whose trouble it is.
pub(super) fn sort(endpoint: &Endpoint, doing: &str, error: Error, log: LogId) -> Fail {
    let Some(db) = error.as_db_error() else {
        return Fail::View(ViewError::Retry(endpoint.failed(doing, error).words()));
    };
    let code = db.code().code();
    if code == FENCED {
        let cursor = |text: Option<&str>| text.and_then(|text| text.parse::<Cursor>().ok());
        let found = cursor(db.detail());
        tracing::debug!(%log, "the cursor was moved");
        return Fail::View(ViewError::Fenced { expected: None, found });
    }
    let again = matches!(&code[..2], "08" | "40" | "53" | "57" | "58") || code == "55P03" || code == "25006";
    match again {
        true => Fail::View(ViewError::Retry(endpoint.failed(doing, error).words())),
        false => Fail::Table(Box::new(error)),
    }
}

/// An error where there is no table to blame.
pub(super) fn view_error(endpoint: &Endpoint, doing: &str, error: Error, log: LogId) -> ViewError {
    match sort(endpoint, doing, error, log) {
        Fail::View(error) => error,
        Fail::Table(error) => ViewError::Failed(endpoint.failed(doing, *error).words()),
    }
}

/// Sends everything at once, in order, and waits for all the answers.
async fn pipelined(futures: Vec<Sent<'_>>) -> Vec<Answer> {
    let mut under_way: Vec<(Option<Sent<'_>>, Option<Answer>)> =
        futures.into_iter().map(|future| (Some(future), None)).collect();
    // Answers come in order: once everything is sent only the first that is missing is asked for.
    let (mut sent, mut first) = (false, 0);
    std::future::poll_fn(|context| {
        let mut at = first;
        while let Some((future, answer)) = under_way.get_mut(at) {
            at += 1;
            let polled = future.as_mut().map(|waiting| waiting.as_mut().poll(context));
            match polled {
                Some(Poll::Ready(value)) => (*future, *answer) = (None, Some(value)),
                Some(Poll::Pending) if sent => return Poll::Pending,
                _ => {}
            }
            if sent {
                first = at;
            }
        }
        sent = true;
        match under_way.iter().all(|(_, answer)| answer.is_some()) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
    under_way.into_iter().filter_map(|(_, answer)| answer).collect()
}

type Answer = Result<u64, Error>;

/// A statement that goes out when it is first polled.
type Sent<'a> = Pin<Box<dyn Future<Output = Answer> + Send + 'a>>;

impl Link {
    /// Connects and makes the session ours.
    pub(super) async fn open(options: &PgApplierOptions) -> Result<Link, ViewError> {
        Link::connect(options, false).await
    }

    /// A session beside that one, with an origin of its own.
    pub(super) async fn open_second(options: &PgApplierOptions) -> Result<Link, ViewError> {
        Link::connect(options, true).await
    }

    async fn connect(options: &PgApplierOptions, second: bool) -> Result<Link, ViewError> {
        let endpoint = &options.endpoint;
        let session = match endpoint.connect(limits::CONNECT_TIMEOUT).await {
            Ok(session) => session,
            Err(error) if error.is_retryable() => return Err(ViewError::Retry(error.words())),
            Err(error) if error.is_mended_there() => {
                return Err(ViewError::Retry(EventsError::from(error).to_string()));
            }
            Err(error) => return Err(error.into()),
        };
        let set_up = tokio::time::timeout(limits::APPLY_OPEN_TIMEOUT, Link::set_up(options, second, &session)).await;
        let late = |_| ViewError::Retry(format!("{}: the server does not answer", endpoint.name()));
        let mover = set_up.map_err(late)??;
        Ok(Link {
            session: Arc::new(session),
            log: options.log,
            mover,
            loops: Vec::new(),
            bulks: HashMap::new(),
            made: 0,
            waited: Arc::default(),
        })
    }

    async fn set_up(options: &PgApplierOptions, second: bool, session: &Session) -> Result<Statement, ViewError> {
        let client = &session.client;
        let fail = |doing: &str, error| refusal(options, doing, error);
        let settings = settings(options.fire_triggers, second);
        client.batch_execute(&settings).await.map_err(|e| fail("setting up the applying session", e))?;
        if second && !has_room(client, &own_name(options, second)).await.map_err(|e| fail("counting origins", e))? {
            return Err(ViewError::Failed(
                "the server has few places for replication origins, which others need".into(),
            ));
        }
        origin(client, &own_name(options, second)).await.map_err(|e| fail("setting up the replication origin", e))?;
        if !second {
            store::install(client).await.map_err(|e| fail("making Watershed's tables", e))?;
        }
        client.batch_execute(MOVE).await.map_err(|e| fail("making a temporary function", e))?;
        let mover = client.prepare("SELECT pg_temp.ws_move($1, $2)").await;
        mover.map_err(|e| fail("preparing", e))
    }

    /// Whether it has made so many functions that a new session is cheaper.
    pub(super) fn is_worn(&self) -> bool {
        self.made > limits::APPLY_FUNCTIONS_MAX
    }

    /// Gives the origin back, so that the next session can have it at once.
    pub(super) async fn end(self) {
        // A session that has broken has given it back.
        let _ = self.client().batch_execute("SELECT pg_catalog.pg_replication_origin_session_reset()").await;
    }

    pub(super) fn client(&self) -> &Client {
        &self.session.client
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        self.session.endpoint()
    }

    /// Whether a lock has been waited for in vain since this was asked last.
    pub(super) fn has_waited(&self) -> bool {
        self.waited.swap(false, Ordering::Relaxed)
    }

    pub(super) fn sort(&self, doing: &str, error: Error) -> Fail {
        if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) {
            self.waited.store(true, Ordering::Relaxed);
        }
        sort(self.endpoint(), doing, error, self.log)
    }

    pub(super) fn view_error(&self, doing: &str, error: Error) -> ViewError {
        view_error(self.endpoint(), doing, error, self.log)
    }

    /// Whether the connection is gone.
    pub(super) fn is_closed(&self) -> bool {
        self.client().is_closed()
    }

    /// Begins a transaction: the cursor is locked, compared, and set. After an error none is open.
    pub(super) async fn begin(&self, from: Option<Cursor>, to: Option<Cursor>, sync: bool) -> Result<(), Fail> {
        let begin = if sync { "BEGIN; SET LOCAL synchronous_commit = on" } else { "BEGIN" };
        let (from, to) = (store::text(from), store::text(to));
        let moved = async { self.client().execute(&self.mover, &[&from, &to]).await };
        let begun = async { self.client().batch_execute(begin).await.map(|()| 0) };
        let done = self.answers(vec![Box::pin(begun), Box::pin(moved)]).await;
        if done.is_err() {
            self.roll_back().await;
        }
        done
    }

    /// Begins a transaction that leaves the cursor for later.
    pub(super) async fn open_transaction(&self) -> Result<(), Fail> {
        self.client().batch_execute("BEGIN").await.map_err(|e| self.sort("beginning", e))
    }

    /// Compares the cursor and sets it.
    pub(super) async fn move_cursor(&self, from: Option<Cursor>, to: Cursor) -> Result<(), Fail> {
        let (from, to) = (store::text(from), Some(to.to_string()));
        let moved = self.client().execute(&self.mover, &[&from, &to]).await;
        moved.map(drop).map_err(|e| self.sort("moving the cursor", e))
    }

    pub(super) async fn commit(&self) -> Result<(), Fail> {
        // A COMMIT of a transaction that has failed answers as a ROLLBACK does; so nobody gets here after a failure.
        self.client().batch_execute("COMMIT").await.map_err(|e| self.sort("committing", e))
    }

    /// Whatever is under way is given up.
    pub(super) async fn roll_back(&self) {
        if let Err(error) = self.client().batch_execute("ROLLBACK").await {
            tracing::debug!("rolling back: {error}");
        }
    }

    /// Carries out calls, sent at once; in a transaction that is open.
    pub(super) async fn calls(&self, calls: &[Call]) -> Result<(), Fail> {
        self.answers(calls.iter().map(|call| self.call(call)).collect()).await
    }

    fn call<'a>(&'a self, call: &'a Call) -> Sent<'a> {
        Box::pin(async move {
            let params = call.params.iter().map(|raw| raw as &(dyn tokio_postgres::types::ToSql + Sync));
            self.client().execute_raw(&call.statement, params).await
        })
    }

    async fn answers(&self, sent: Vec<Sent<'_>>) -> Result<(), Fail> {
        let mut failed = None;
        for answer in pipelined(sent).await {
            if let Err(error) = answer {
                // What comes after the first error is only told that the transaction is aborted.
                failed.get_or_insert(error);
            }
        }
        match failed {
            None => Ok(()),
            Some(error) => Err(self.sort("applying", error)),
        }
    }

    /// A whole transaction, sent at once: the cursor is compared and set, the calls are carried out, all is committed.
    pub(super) async fn transaction(&self, from: Option<Cursor>, to: Cursor, calls: &[Call]) -> Result<(), Fail> {
        self.sent(from, to, calls, true).await
    }

    /// The same without its end.
    pub(super) async fn begun(&self, from: Option<Cursor>, to: Cursor, calls: &[Call]) -> Result<(), Fail> {
        self.sent(from, to, calls, false).await
    }

    async fn sent(&self, from: Option<Cursor>, to: Cursor, calls: &[Call], commits: bool) -> Result<(), Fail> {
        let (from, to) = (store::text(from), Some(to.to_string()));
        let mut sent: Vec<Sent<'_>> = vec![
            Box::pin(async { self.client().batch_execute("BEGIN").await.map(|()| 0) }),
            Box::pin(async { self.client().execute(&self.mover, &[&from, &to]).await }),
        ];
        sent.extend(calls.iter().map(|call| self.call(call)));
        if commits {
            sent.push(Box::pin(async { self.client().batch_execute("COMMIT").await.map(|()| 0) }));
        }
        self.answers(sent).await
    }

    /// Whether a loop for those operations is known at the server.
    pub(super) fn has_loop(&self, kinds: &[u32]) -> bool {
        self.loops.iter().any(|known| kinds.iter().all(|kind| known.kinds.binary_search(kind).is_ok()))
    }

    /// Calls that are a transaction each, sent at once. Gives how many were committed, in order, and what the next one
    /// failed of.
    pub(super) async fn singly(&self, calls: &[Call]) -> (usize, Option<Fail>) {
        let mut done = 0;
        for answer in pipelined(calls.iter().map(|call| self.call(call)).collect()).await {
            match answer {
                Ok(_) => done += 1,
                Err(error) => return (done, Some(self.sort("applying", error))),
            }
        }
        (done, None)
    }

    /// The call that carries out the operations; `moves`: it compares and sets the cursor, too.
    pub(super) async fn looped(
        &mut self,
        codes: &Codes,
        ops: Ops,
        moves: Option<(Option<Cursor>, Cursor)>,
    ) -> Result<Call, Fail> {
        let mut kinds = ops.kinds;
        kinds.sort_unstable();
        let known =
            self.loops.iter().position(|known| kinds.iter().all(|kind| known.kinds.binary_search(kind).is_ok()));
        let at = match known {
            Some(at) => at,
            None => {
                let statement = self.make_loop(codes, &kinds).await.map_err(|e| self.sort("preparing", e))?;
                self.loops.push(Loop { kinds, statement });
                self.loops.len() - 1
            }
        };
        let mut numbers = Array::of(tokio_postgres::types::Type::INT4.oid());
        for code in &ops.codes {
            numbers.put(&(*code as i32).to_be_bytes());
        }
        let (from, to) = match moves {
            Some((from, to)) => (store::text(from), Some(to.to_string())),
            None => (None, None),
        };
        let params = vec![Raw::text(from), Raw::text(to), numbers.finish(), ops.values.finish()];
        Ok(Call { statement: self.loops[at].statement.clone(), params })
    }

    async fn make_loop(&mut self, codes: &Codes, kinds: &[u32]) -> Result<Statement, Error> {
        self.made += 1;
        let mut body = String::from(
            "#variable_conflict use_column
            DECLARE ws__p int4 := 0; ws__c int4;
            BEGIN
            IF ws__to IS NOT NULL THEN PERFORM pg_temp.ws_move(ws__from, ws__to); END IF;
            FOREACH ws__c IN ARRAY ws__k LOOP\n",
        );
        for (n, &kind) in kinds.iter().enumerate() {
            let code = &codes[kind as usize];
            let word = if n == 0 { "IF" } else { "ELSIF" };
            let _ = writeln!(body, "{word} ws__c = {kind} THEN {} ws__p := ws__p + {};", code.piece, code.params);
        }
        let end = if kinds.is_empty() { "END LOOP; END" } else { "END IF; END LOOP; END" };
        body.push_str(end);
        let made = self.made;
        let sql = format!(
            "CREATE FUNCTION pg_temp.ws_loop{made}(ws__from text, ws__to text, ws__k int4[], ws__v text[]) RETURNS void LANGUAGE plpgsql AS {}",
            literal(&body)
        );
        self.client().batch_execute(&sql).await?;
        self.client().prepare(&format!("SELECT pg_temp.ws_loop{made}($1, $2, $3, $4)")).await
    }

    /// The call of a function that writes many rows.
    pub(super) fn bulk(&self, bulk: &Bulk) -> Option<&Statement> {
        self.bulks.get(bulk)
    }

    /// Makes functions that write many rows.
    pub(super) async fn make_bulks(&mut self, unknown: Vec<Unknown>) -> Result<(), Fail> {
        for Unknown { bulk, params, count, body } in unknown {
            self.made += 1;
            let made = self.made;
            let sql = format!(
                "CREATE FUNCTION pg_temp.ws_bulk{made}({params}) RETURNS void LANGUAGE plpgsql AS {}",
                literal(&body)
            );
            let places: Vec<String> = (1..=count).map(|n| format!("${n}")).collect();
            let call = format!("SELECT pg_temp.ws_bulk{made}({})", places.join(", "));
            let made = async {
                self.client().batch_execute(&sql).await?;
                self.client().prepare(&call).await
            };
            let statement = made.await.map_err(|e| self.sort("preparing", e))?;
            self.bulks.insert(bulk, statement);
        }
        Ok(())
    }

    /// The same session, for a transaction that is carried out beside.
    pub(super) fn beside(&self) -> Link {
        Link {
            session: self.session.clone(),
            log: self.log,
            mover: self.mover.clone(),
            loops: Vec::new(),
            bulks: HashMap::new(),
            made: 0,
            waited: self.waited.clone(),
        }
    }

    /// Forgets the functions: after a rollback some may be gone, after a change of tables some are wrong.
    pub(super) fn forget_loops(&mut self) {
        self.loops.clear();
        self.bulks.clear();
    }
}
