//! What keeps capture from going on, in words: what happened, why, and what to do.

use std::fmt::Display;
use std::io;

use crate::log::{CaptureFailure, CaptureTrouble};
use crate::model::TableName;
use crate::postgres::PgError;
use crate::postgres::replication::ReplicationError;

/// A failure under way.
pub(super) type Failed = CaptureFailure;

fn failed(kind: CaptureTrouble, what: String) -> Failed {
    CaptureFailure { what, kind }
}

/// An operator has to decide.
pub(super) fn operator(code: &str, what: impl Display, why: impl Display, todo: impl Display) -> Failed {
    failed(CaptureTrouble::Operator, format!("error[{code}]: {what} / why: {why} / do: {todo}"))
}

/// It must be mended first.
pub(super) fn broken(code: &str, what: impl Display, why: impl Display, todo: impl Display) -> Failed {
    failed(CaptureTrouble::Failed, format!("error[{code}]: {what} / why: {why} / do: {todo}"))
}

/// It is tried again.
pub(super) fn again(code: &str, what: impl Display, why: impl Display, todo: impl Display) -> Failed {
    failed(CaptureTrouble::Retry, format!("error[{code}]: {what} / why: {why} / do: {todo}"))
}

/// The file of a large transaction cannot be written or read.
pub(super) fn spool(error: io::Error) -> Failed {
    again(
        "WS-PGCAPTURE-020",
        "a large transaction cannot be kept on the node's disk",
        error,
        "make room in the node's data folder; it is read again",
    )
}

/// What came is not what the protocol has there.
pub(super) fn stream(why: impl Display) -> Failed {
    broken("WS-PGCAPTURE-021", "the server's stream of changes cannot be read", why, "report it, with the server's version")
}

/// A row that no log takes.
pub(super) fn too_large(table: &TableName, bytes: usize) -> Failed {
    broken(
        "WS-PGCAPTURE-022",
        format!("a row of the table {table} has {bytes} bytes"),
        format!("an entry of a log has at most {} bytes", crate::model::limits::ENTRY_BYTES_MAX),
        "take the table out of the selection ([database] capture, [send]) and start the node again",
    )
}

/// The database was asked and did not answer as it should.
pub(super) fn asked(error: &PgError) -> Failed {
    let words = error.words();
    let kind = match is_passing(error) {
        true => CaptureTrouble::Retry,
        false => CaptureTrouble::Failed,
    };
    failed(kind, format!("error[WS-PGCAPTURE-023]: the database cannot be asked: {words}"))
}

/// A password may be wrong for as long as it is being changed, so that whoever mends it need not start the node again.
fn is_passing(error: &PgError) -> bool {
    let code = error.db().map(|db| db.code().code().to_string()).unwrap_or_default();
    error.is_retryable() || matches!(&*code, "28P01" | "28000" | "3D000") || matches!(error, PgError::NoPassword { .. })
}

/// The stream broke, or cannot be begun.
pub(super) fn streamed(error: &ReplicationError) -> Failed {
    let code = error.code().map(|code| code.code().to_string()).unwrap_or_default();
    let passing = error.is_retryable()
        || matches!(&*code, "28P01" | "28000" | "3D000")
        || matches!(error, ReplicationError::NoPassword { .. } | ReplicationError::Authentication { .. });
    match &*code {
        // object_in_use
        "55006" => again(
            "WS-PGCAPTURE-024",
            error,
            "another process reads from this node's slot: an earlier run whose end the server has not noticed, or a second \
             node with a copy of this node's data folder",
            "nothing, if it was an earlier run; else stop the other one",
        ),
        // undefined_object: the slot, or a publication as it was when the change was made
        "42704" => broken(
            "WS-PGCAPTURE-025",
            error,
            "the node's publication was dropped while the node was not looking: the server cannot tell any more which \
             changes are to be sent",
            "begin afresh: stop the node, run `watershed source drop database --yes`, and start it again",
        ),
        _ if passing => failed(CaptureTrouble::Retry, format!("error[WS-PGCAPTURE-026]: {error}")),
        _ => failed(CaptureTrouble::Failed, format!("error[WS-PGCAPTURE-026]: {error}")),
    }
}
