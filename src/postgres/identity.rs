//! Which database a connection leads to, however it was named.

use tokio_postgres::{Error, GenericClient};

use super::{Endpoint, PgError};
use crate::model::limits;

/// Whether `pg_control_system` may be called by everybody, so that its answer does not depend on who asks.
const CONTROL_IS_PUBLIC: &str = "select has_function_privilege('public', 'pg_catalog.pg_control_system()', 'execute')";
/// The identifier alone is not enough: a cluster restored from another's base backup has the same one. The instant at
/// which the server started is the same for everybody who is connected to it, however they came.
const IDENTITY: &str = "select '/' || extract(epoch from pg_postmaster_start_time())::text || '/' || d.oid || '/' || \
                        d.datname from pg_database d where d.datname = current_database()";
const SYSTEM: &str = "select system_identifier::text from pg_control_system()";

/// The same for all connections to one database until its server is started again, and another for every other database.
pub(crate) async fn identity(client: &impl GenericClient) -> Result<String, Error> {
    let system: String = match client.query_one(CONTROL_IS_PUBLIC, &[]).await?.try_get(0)? {
        true => client.query_one(SYSTEM, &[]).await?.try_get(0)?,
        false => String::new(),
    };
    let database: String = client.query_one(IDENTITY, &[]).await?.try_get(0)?;
    Ok(format!("postgres:{system}{database}"))
}

/// Of the database that an endpoint leads to: two endpoints lead to one if theirs are equal.
///
/// # Errors
/// The server cannot be reached, or refuses.
pub async fn identity_of(endpoint: &Endpoint) -> Result<String, PgError> {
    let session = endpoint.connect(limits::DATABASE_CONNECT_TIMEOUT).await?;
    identity(&session.client).await.map_err(|error| endpoint.failed("asking which database it is", error))
}
