//! Streams: the one loop that moves transactions from a source to a view, and what decides which of them move.

mod expression;
mod filter;
mod follow;
mod ownership;
mod selection;
mod sieve;

pub use expression::{Expression, ExpressionError, Scope};
pub use filter::{CelFilter, CelRule, Destination, Filter, FilterError, Verdict};
pub use follow::{FollowError, Follower, Step, follow};
pub use ownership::{OnRefused, Owner, Ownership, Refused};
pub use selection::{Selection, SelectionError};
pub use sieve::{Sieve, SieveError, Sieved};
