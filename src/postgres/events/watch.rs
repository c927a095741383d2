//! What tells that there are new events: notifications, and a slow poll that covers a lost one.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio_postgres::{Notification, Statement};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::scan::Xid;
use crate::model::{Position, limits};
use crate::postgres::{Endpoint, PgError, Session};
use crate::view::EventIds;

/// The channel that the insert trigger notifies.
const CHANNEL: &str = "eventsinsert";

/// Keeps the tail while it lives.
pub(super) struct Watch {
    tail: watch::Receiver<Position>,
    broken: Arc<Mutex<Option<String>>>,
    _stop: DropGuard,
}

struct Look {
    session: Session,
    ids: EventIds,
    statement: Statement,
    tail: watch::Sender<Position>,
}

impl Watch {
    /// Listens, and only then looks for the first time: what is appended in between is seen by the look.
    pub(super) async fn start(endpoint: &Endpoint, ids: EventIds, limit: Duration) -> Result<Watch, PgError> {
        let session = endpoint.connect(limit).await?;
        let failed = |e| endpoint.failed("listening for events", e);
        // The greatest id is looked up in the index, also by a plan that was made while the table was empty.
        let listen = format!("SET enable_seqscan = off; SET enable_bitmapscan = off; LISTEN {CHANNEL}");
        session.client.batch_execute(&listen).await.map_err(failed)?;
        let statement = match ids {
            EventIds::Table => "SELECT coalesce((SELECT id FROM events ORDER BY id DESC LIMIT 1), 0), false",
            EventIds::Sequence => {
                "SELECT (SELECT transaction FROM event_transactions \
                         WHERE transaction < pg_snapshot_xmin(pg_current_snapshot()) \
                         ORDER BY transaction DESC LIMIT 1), \
                        EXISTS (SELECT FROM event_transactions \
                                WHERE transaction >= pg_snapshot_xmin(pg_current_snapshot()))"
            }
        };
        let statement = session.client.prepare(statement).await.map_err(failed)?;
        let (sender, tail) = watch::channel(Position::ZERO);
        let mut look = Look { session, ids, statement, tail: sender };
        let waits = look.once().await?;
        let broken = Arc::new(Mutex::new(None));
        let stop = CancellationToken::new();
        let (told, stopped) = (Arc::clone(&broken), stop.clone());
        tokio::spawn(async move {
            let ended = tokio::select! {
                ended = look.on(waits) => ended,
                _ = stopped.cancelled() => return,
            };
            let Err(error) = ended;
            *told.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(error.to_string());
            // Wakes who waits for the tail, to find what is broken.
            look.tail.send_modify(|_| {});
        });
        Ok(Watch { tail, broken, _stop: stop.drop_guard() })
    }

    pub(super) fn tail(&self) -> watch::Receiver<Position> {
        self.tail.clone()
    }

    /// Why no further notification will come.
    pub(super) fn broken(&self) -> Option<String> {
        self.broken.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }
}

impl Look {
    async fn on(&mut self, mut waits: bool) -> Result<std::convert::Infallible, PgError> {
        loop {
            let interval = if waits { limits::EVENTS_HORIZON_INTERVAL } else { limits::EVENTS_POLL_INTERVAL };
            match tokio::time::timeout(interval, self.session.notifications.recv()).await {
                Ok(Some(notification)) if self.ids == EventIds::Table && self.raise(&notification) => {}
                Ok(None) => {
                    return Err(self.session.endpoint().unexpected("listening for events", "the connection ended"));
                }
                Ok(Some(_)) | Err(_) => waits = self.once().await?,
            }
        }
    }

    /// Takes the tail from a notification, which comes after its transaction has committed.
    fn raise(&self, notification: &Notification) -> bool {
        let payload: Option<serde_json::Value> = serde_json::from_str(notification.payload()).ok();
        let id = payload.as_ref().and_then(|payload| payload.get("id")).and_then(serde_json::Value::as_u64);
        // An absurd number would have readers look in vain until the tail has come there.
        let Some(id) = id.filter(|id| i64::try_from(*id).is_ok()) else { return false };
        self.tail.send_if_modified(|tail| {
            let raised = tail.0 < id;
            tail.0 = tail.0.max(id);
            raised
        });
        true
    }

    /// Looks at the table; whether there are events that wait for older transactions to end.
    async fn once(&mut self) -> Result<bool, PgError> {
        let failed = |e| self.session.endpoint().failed("looking for events", e);
        let limit = limits::POSTGRES_SILENCE_MAX;
        let row = tokio::time::timeout(limit, self.session.client.query_one(&self.statement, &[])).await;
        // It reads one end of an index. A stream that waits for a server that has stopped would look current.
        let silent = |_| self.session.endpoint().unexpected("looking for events", format!("no answer for {limit:?}"));
        let row = row.map_err(silent)?.map_err(failed)?;
        let position = match self.ids {
            EventIds::Table => row.try_get::<_, i64>(0).map_err(failed)?.max(0) as u64,
            EventIds::Sequence => row.try_get::<_, Option<Xid>>(0).map_err(failed)?.map_or(0, |xid| xid.0),
        };
        self.tail.send_if_modified(|tail| {
            let changed = tail.0 != position;
            tail.0 = position;
            changed
        });
        row.try_get(1).map_err(failed)
    }
}
