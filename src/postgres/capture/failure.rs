//! What keeps capture from going on, in words: what happened, why, and what to do.

use std::fmt::Display;
use std::io;

use crate::log::{CaptureFailure, CaptureTrouble};
use crate::model::{LogId, TableName, limits};
use crate::postgres::PgError;
use crate::postgres::replication::ReplicationError;

/// What to do about what may pass.
const REACH: &str =
    "see that the server runs and can be reached, and that user and password are right; it is tried again";
/// What to do about what stays.
const LACKS: &str =
    "see the server's words and its log; `watershed check` names what the user lacks; then start the node again";
const BROKE: &str = "the stream of changes broke, or cannot be begun";

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

/// The node's half of the witness cannot be written or read.
pub(super) fn witness(error: io::Error) -> Failed {
    again(
        "WS-PGCAPTURE-041",
        "what the node and the database have in common cannot be read, or not be begun, in the node's data folder (capture.witness)",
        error,
        "see to its permissions and its disk; it is tried again",
    )
}

/// A transaction has been sent, and others do not see it yet.
pub(super) fn unseen(xid: u32) -> Failed {
    again(
        "WS-PGCAPTURE-042",
        "an update whose unchanged values have to be read is not to be seen yet",
        format!(
            "transaction {xid} is committed on the server's disk, and the server still waits for its synchronous standby"
        ),
        "see that the standbys of synchronous_standby_names run; what comes after it waits, and is tried again",
    )
}

/// What came is not what the protocol has there.
pub(super) fn stream(why: impl Display) -> Failed {
    broken(
        "WS-PGCAPTURE-021",
        "the server's stream of changes cannot be read",
        why,
        "report it, with the server's version",
    )
}

/// A row that no log takes.
pub(super) fn too_large(table: &TableName, bytes: usize) -> Failed {
    broken(
        "WS-PGCAPTURE-022",
        format!("a row of the table {table} has {bytes} bytes"),
        format!("an entry of a log has at most {} bytes", limits::ENTRY_BYTES_MAX),
        "take the table out of the selection ([database] capture, [send]) and start the node again",
    )
}

/// The database was asked and did not answer as it should.
pub(super) fn asked(error: &PgError) -> Failed {
    let (code, what) = ("WS-PGCAPTURE-023", "the database cannot be asked");
    match is_passing(error) {
        true => again(code, what, error.words(), REACH),
        false => broken(code, what, error.words(), LACKS),
    }
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
        // undefined_object: the slot; the next attempt looks whose doing that is, and says so
        "42704" if error.server().is_some_and(|error| error.message.contains("replication slot")) => {
            again("WS-PGCAPTURE-026", BROKE, error, "nothing yet: it is looked at again")
        }
        // undefined_object: a publication as it was when the change was made
        "42704" => broken(
            "WS-PGCAPTURE-025",
            error,
            "the node's publication was dropped while the node was not looking: the server cannot tell any more which \
             changes are to be sent",
            "begin afresh: stop the node, run `watershed source drop database --yes`, and start it again",
        ),
        _ if passing => again("WS-PGCAPTURE-026", BROKE, error, REACH),
        _ => broken("WS-PGCAPTURE-026", BROKE, error, LACKS),
    }
}

/// It has not begun, for a reason of this process's own.
pub(super) fn not_begun(why: impl Display) -> Failed {
    again("WS-PGCAPTURE-026", BROKE, why, REACH)
}

/// The server or the user lacks something.
pub(super) fn not_ready(refusals: &[String]) -> Failed {
    failed(CaptureTrouble::Failed, refusals.join("\n"))
}

/// Another node captures the database.
pub(super) fn other_log(found: &str, ours: LogId) -> Failed {
    operator(
        "WS-PGCAPTURE-038",
        format!("the database is captured by another log: {found}, not {ours}"),
        "another node captures it, or this node's data folder was replaced",
        "put back the data folder that was there; or, if no other node uses the database, run `watershed source drop database \
         --yes` and start again",
    )
}

/// Somebody else reads from the slot.
pub(super) fn in_use(slot: &str, who: &str) -> Failed {
    again(
        "WS-PGCAPTURE-028",
        format!("the replication slot {slot} is in use: {who}"),
        "an earlier run whose end the server has not noticed, or a second node with a copy of this node's data folder",
        "nothing, if it was an earlier run: it is tried again; else stop the other one",
    )
}

/// Making the slot takes too long.
pub(super) fn slot_waits(slot: &str, who: &str) -> Failed {
    again(
        "WS-PGCAPTURE-029",
        format!("the replication slot {slot} is not made yet"),
        format!("a slot begins when all transactions have ended that run when it is made: {who}"),
        "end them: COMMIT, ROLLBACK, or SELECT pg_terminate_backend(PROCESS); it is tried again",
    )
}

/// The slot was dropped, so that the source's disk does not fill.
pub(super) fn slot_dropped(slot: &str, why: &str) -> Failed {
    again(
        "WS-PGCAPTURE-039",
        format!("the replication slot {slot} was dropped"),
        why,
        "make room for the node's log; then a new slot is made, and whoever follows the tables copies them afresh",
    )
}
