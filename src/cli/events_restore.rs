//! `watershed events restore`

use clap::Args;

use super::{ExitError, Global};

/// Rebuild a source from a destination
#[derive(Debug, Args)]
pub(super) struct Restore {}

impl Restore {
    pub(super) fn run(self, _global: &Global) -> Result<(), ExitError> {
        Err(ExitError::not_connected("events restore"))
    }
}
