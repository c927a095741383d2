//! `watershed events replicate`

use clap::Args;

use super::{ExitError, Global};

/// Copy events to the destinations, and go on
#[derive(Debug, Args)]
pub(super) struct Replicate {}

impl Replicate {
    pub(super) fn run(self, _global: &Global) -> Result<(), ExitError> {
        Err(ExitError::not_connected("events replicate"))
    }
}
