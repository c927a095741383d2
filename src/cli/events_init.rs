//! `watershed events init`

use clap::Args;

use super::{ExitError, Global};

/// Make the objects of an events table
#[derive(Debug, Args)]
pub(super) struct Init {}

impl Init {
    pub(super) fn run(self, _global: &Global) -> Result<(), ExitError> {
        Err(ExitError::not_connected("events init"))
    }
}
