//! How a session begins: who we are, what is proved, how values are to be written.
//! (postgresql.org/docs/15/protocol-flow.html)

use bytes::BytesMut;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::frontend;
use tokio_postgres::config;

use super::connection::Connection;
use super::error::ReplicationError;
use super::wire::Fields;
use crate::postgres::Endpoint;

const DOING: &str = "connecting";

/// How values are written, so that they are read the same at any server. `search_path` has names of tables and types in
/// values (`regclass`) written with their schemas.
const SETTINGS: [(&str, &str); 8] = [
    ("client_encoding", "UTF8"),
    ("datestyle", "ISO"),
    ("intervalstyle", "postgres"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    ("timezone", "UTC"),
    ("search_path", "pg_catalog"),
    ("replication", "database"),
];

/// Who asks: as given, else as the system knows us.
fn user(endpoint: &Endpoint) -> Option<String> {
    let from_system = || ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    endpoint.config().get_user().map(str::to_string).or_else(from_system)
}

/// Begins a session in replication mode.
pub(super) async fn begin(connection: &mut Connection, endpoint: &Endpoint) -> Result<(), ReplicationError> {
    let config = endpoint.config();
    let user = user(endpoint).ok_or_else(|| authentication(connection, "no user is named"))?;
    let given = [
        ("user", Some(user.as_str())),
        ("database", config.get_dbname()),
        ("options", config.get_options()),
        ("application_name", config.get_application_name()),
    ];
    let given = given.iter().filter_map(|(name, value)| Some((*name, (*value)?)));
    let mut bytes = BytesMut::new();
    frontend::startup_message(given.chain(SETTINGS), &mut bytes)
        .map_err(|error| connection.unexpected(DOING, error.to_string()))?;
    connection.send(DOING, &bytes).await?;
    authenticate(connection, config, &user).await?;
    loop {
        match connection.receive(DOING).await? {
            // The key to cancel with, which is of no use here; and that the server is older than our protocol.
            (b'K' | b'v', _) => {}
            (b'Z', _) => return Ok(()),
            (b'E', content) => return Err(connection.refused(DOING, &content)),
            (tag, _) => return Err(connection.unexpected(DOING, format!("a message {:?} came", char::from(tag)))),
        }
    }
}

fn authentication(connection: &Connection, why: impl Into<String>) -> ReplicationError {
    ReplicationError::Authentication { url: connection.url.clone(), why: why.into() }
}

/// What the server asks for, and the rest of its message.
async fn asked(connection: &mut Connection) -> Result<(i32, Vec<u8>), ReplicationError> {
    match connection.receive(DOING).await? {
        (b'R', content) => {
            let mut fields = Fields(&content);
            let kind = fields.i32().ok_or_else(|| connection.unexpected(DOING, "a message ends too early"))?;
            Ok((kind, fields.0.to_vec()))
        }
        (b'E', content) => Err(connection.refused(DOING, &content)),
        (tag, _) => Err(connection.unexpected(DOING, format!("a message {:?} came", char::from(tag)))),
    }
}

/// Proves who we are. (The numbers: postgresql.org/docs/15/protocol-message-formats.html, `Authentication…`)
async fn authenticate(
    connection: &mut Connection,
    config: &tokio_postgres::Config,
    user: &str,
) -> Result<(), ReplicationError> {
    if config.get_channel_binding() == config::ChannelBinding::Require {
        return Err(authentication(connection, "channel_binding=require is not possible while replicating"));
    }
    let (kind, content) = asked(connection).await?;
    if kind == 0 {
        return Ok(());
    }
    let missing = || ReplicationError::NoPassword { url: connection.url.clone() };
    let password = config.get_password().ok_or_else(missing)?;
    match kind {
        3 => send_password(connection, password).await?,
        5 => {
            let salt = content.first_chunk::<4>();
            let salt = salt.ok_or_else(|| connection.unexpected(DOING, "a message ends too early"))?;
            send_password(connection, md5_hash(user.as_bytes(), password, *salt).as_bytes()).await?;
        }
        10 => scram(connection, password, &content).await?,
        7 | 9 => return Err(authentication(connection, "the server asks for GSSAPI or SSPI, which is not supported")),
        kind => {
            return Err(authentication(connection, format!("the server asks for method {kind}, which is not known")));
        }
    }
    match asked(connection).await? {
        (0, _) => Ok(()),
        (kind, _) => Err(authentication(connection, format!("the server goes on with {kind}"))),
    }
}

async fn send_password(connection: &mut Connection, password: &[u8]) -> Result<(), ReplicationError> {
    let mut bytes = BytesMut::new();
    frontend::password_message(password, &mut bytes)
        .map_err(|error| authentication(connection, format!("the password cannot be sent: {error}")))?;
    connection.send(DOING, &bytes).await
}

/// SCRAM-SHA-256: the server proves, too, that it knows the password. (RFC 5802, RFC 7677)
async fn scram(connection: &mut Connection, password: &[u8], methods: &[u8]) -> Result<(), ReplicationError> {
    if !methods.split(|byte| *byte == 0).any(|method| method == SCRAM_SHA_256.as_bytes()) {
        return Err(authentication(connection, "the server asks for a SASL method other than SCRAM-SHA-256"));
    }
    let mut exchange = ScramSha256::new(password, ChannelBinding::unsupported());
    let mut bytes = BytesMut::new();
    frontend::sasl_initial_response(SCRAM_SHA_256, exchange.message(), &mut bytes)
        .map_err(|error| authentication(connection, error.to_string()))?;
    connection.send(DOING, &bytes).await?;
    let challenge = match asked(connection).await? {
        (11, content) => content,
        (kind, _) => return Err(authentication(connection, format!("the server goes on with {kind}"))),
    };
    exchange.update(&challenge).map_err(|error| authentication(connection, error.to_string()))?;
    bytes.clear();
    frontend::sasl_response(exchange.message(), &mut bytes)
        .map_err(|error| authentication(connection, error.to_string()))?;
    connection.send(DOING, &bytes).await?;
    let proof = match asked(connection).await? {
        (12, content) => content,
        (kind, _) => return Err(authentication(connection, format!("the server goes on with {kind}"))),
    };
    exchange.finish(&proof).map_err(|error| authentication(connection, error.to_string()))
}
