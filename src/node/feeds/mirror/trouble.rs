//! Why a mirror does not go on.

use std::fmt;

use crate::model::{Cursor, Position};
use crate::peer::feed_code;

/// Why a mirror does not go on, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Greppable.
    pub code: &'static str,
    /// What happened.
    pub what: String,
    /// Why.
    pub why: &'static str,
    /// What to do.
    pub advice: String,
    /// Trying again may help without an operator.
    pub retryable: bool,
    /// What comes next has been trimmed at the original.
    pub trimmed: bool,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error[{}]: {} / why: {} / do: {}", self.code, self.what, self.why, self.advice)
    }
}

fn trouble(code: &'static str, retryable: bool, what: String, why: &'static str, advice: impl Into<String>) -> Trouble {
    Trouble { code, what, why, advice: advice.into(), retryable, trimmed: false }
}

/// The original cannot be reached, or the connection broke.
pub(super) fn unreachable(what: String) -> Trouble {
    trouble(
        "WS-MIRROR-001",
        true,
        what,
        "the network or the node of the original is away",
        "nothing: it is tried again, and goes on where it was",
    )
}

/// What comes is not what was agreed on.
pub(super) fn unreadable(what: String) -> Trouble {
    let advice = "run the same version at both ends; what answers there may not be Watershed; nothing of it was stored";
    trouble("WS-MIRROR-002", false, what, "what came is not what a feed's raw stream has", advice)
}

/// The original lets nobody in.
pub(super) fn forbidden(what: String) -> Trouble {
    let advice = "give this node a token with the right read:LOG there, and name it by token_env or token_file";
    trouble("WS-MIRROR-003", false, what, "the node of the original does not let this one read", advice)
}

/// There is no such feed.
pub(super) fn missing(what: String) -> Trouble {
    let advice = "correct `mirror`, or make the log there; over a link, list it there under `logs` of [send.…]";
    trouble("WS-MIRROR-004", false, what, "the original is not there, or may not leave there", advice)
}

/// The original has trimmed what comes next.
pub(super) fn trimmed(what: String) -> Trouble {
    let why =
        "retention there removed it while this mirror was away; going on would leave a hole, so nothing is stored";
    let advice = "stop this node, move the log's folder (feeds/NAME in its data folder) away, and start it: the mirror begins anew with \
                  the oldest that is left there; keep the folder for what only it has; a longer `retain` or a consumer at the original \
                  keeps it from happening again";
    Trouble { trimmed: true, ..trouble("WS-MIRROR-005", false, what, why, advice) }
}

/// The original is another log now.
pub(super) fn parted(what: String) -> Trouble {
    let why = "it was re-created, restored from a backup, or this mirror or another one was promoted: the two have different entries at \
               the same positions, or will have";
    let advice = "decide which of the two is right; to follow the original, stop this node, move the log's folder (feeds/NAME in its data \
                  folder) away, and start it: the mirror begins anew; to follow a promoted one, name that in `mirror`";
    trouble("WS-MIRROR-006", false, what, why, advice)
}

/// The original is at a place where it cannot be.
pub(super) fn parted_at(here: Cursor, there: &dyn fmt::Display) -> Trouble {
    parted(format!("this mirror has {here}, and at the original {there}"))
}

/// A peer does not answer a request, and says why by a code.
pub(super) fn refused(code: &str, what: String) -> Trouble {
    match code {
        feed_code::NOT_SENT | feed_code::NO_PARTITION => missing(what),
        feed_code::CURSOR => parted(what),
        feed_code::TRIMMED => trimmed(what),
        _ => unreachable(what),
    }
}

/// It cannot be stored here.
pub(super) fn unwritable(what: &dyn fmt::Display) -> Trouble {
    let advice = "make room or mend the disk; the mirror goes on by itself";
    trouble(
        "WS-MIRROR-007",
        true,
        format!("what came cannot be stored: {what}"),
        "this node's disk is full or fails",
        advice,
    )
}

/// The original has another number of partitions.
pub(super) fn partitions(here: usize, there: usize) -> Trouble {
    parted(format!("this mirror has {here} partitions, the original {there}"))
}

/// A gap, or something that is there already.
pub(super) fn out_of_order(expected: Position, came: Position) -> Trouble {
    unreadable(format!("position {came} came where {expected} is next"))
}

/// Nothing comes.
pub(super) fn silent(seconds: u64) -> Trouble {
    unreachable(format!("nothing came from the original for {seconds} s"))
}
