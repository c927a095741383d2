//! Sessions that write to a view's schema, and what their errors mean.

use tokio_postgres::Client;
use tokio_postgres::error::DbError;

use super::meta::quoted;
use crate::model::limits;
use crate::postgres::{Endpoint, PgError, Session};
use crate::view::ViewError;

/// What went wrong in a transaction.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The driver's, or the server's.
    Server(tokio_postgres::Error),
    /// Ours.
    View(ViewError),
}

impl From<tokio_postgres::Error> for Trouble {
    fn from(error: tokio_postgres::Error) -> Trouble {
        Trouble::Server(error)
    }
}

impl From<ViewError> for Trouble {
    fn from(error: ViewError) -> Trouble {
        Trouble::View(error)
    }
}

impl Trouble {
    pub(super) fn failed(why: String) -> Trouble {
        Trouble::View(ViewError::Failed(why))
    }

    /// For whoever follows.
    pub(super) fn told(self, endpoint: &Endpoint, doing: &str) -> ViewError {
        match self {
            Trouble::View(error) => error,
            Trouble::Server(error) => {
                let closed = error.is_closed() || error.as_db_error().is_none();
                let error = endpoint.failed(doing, error);
                match (closed, error.is_retryable()) {
                    (true, _) => ViewError::Lost(error.words()),
                    (false, true) => ViewError::Retry(error.words()),
                    (false, false) => ViewError::Failed(error.words()),
                }
            }
        }
    }
}

/// Whether an error tells of the server, not of the statement.
pub(super) fn is_of_the_store(error: &tokio_postgres::Error) -> bool {
    let Some(error) = error.as_db_error() else { return error.is_closed() };
    let class = error.code().code().get(..2).unwrap_or_default();
    // 25: the transaction is no transaction any more.
    matches!(class, "08" | "25" | "40" | "53" | "57" | "58" | "XX") || error.code().code() == "55P03"
}

/// The server's words about a statement.
pub(super) fn words(error: &DbError) -> String {
    let detail = error.detail().map(|detail| format!(" ({detail})")).unwrap_or_default();
    format!("{}{detail}", error.message())
}

/// A session in whose search path the view's schema is alone.
pub(super) async fn open(endpoint: &Endpoint, schema: &str) -> Result<Session, ViewError> {
    let session = connect(endpoint).await?;
    search(&session.client, schema)
        .await
        .map_err(|error| Trouble::from(error).told(endpoint, "setting up a session"))?;
    Ok(session)
}

/// A session with settings of which nothing but what is applied depends on the server's.
pub(super) async fn connect(endpoint: &Endpoint) -> Result<Session, ViewError> {
    let session = endpoint.connect(limits::DATABASE_CONNECT_TIMEOUT).await.map_err(lost)?;
    let settings = "SET extra_float_digits = 1; SET datestyle = 'ISO, MDY'; SET intervalstyle = 'postgres'; SET timezone = 'UTC';
                    SET bytea_output = 'hex'; SET standard_conforming_strings = on; SET lock_timeout = '5s'; SET client_min_messages = warning";
    let set = session.client.batch_execute(settings).await;
    set.map_err(|error| Trouble::from(error).told(endpoint, "setting up a session"))?;
    Ok(session)
}

pub(super) async fn search(client: &Client, schema: &str) -> Result<(), tokio_postgres::Error> {
    client.batch_execute(&format!("SET search_path = {}", quoted(schema))).await
}

/// A server that cannot be reached now may be later.
fn lost(error: PgError) -> ViewError {
    match error.is_retryable() {
        true => ViewError::Lost(error.words()),
        false => ViewError::Failed(error.words()),
    }
}
