//! `watershed events diff`

use clap::Args;

use super::{ExitError, Global};

/// Compare two events tables
#[derive(Debug, Args)]
pub(super) struct Diff {}

impl Diff {
    pub(super) fn run(self, _global: &Global) -> Result<(), ExitError> {
        Err(ExitError::not_connected("events diff"))
    }
}
