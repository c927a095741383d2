//! `watershed events load`

use clap::Args;

use super::{ExitError, Global};

/// Append realistic events with many loaders
#[derive(Debug, Args)]
pub(super) struct Load {}

impl Load {
    pub(super) fn run(self, _global: &Global) -> Result<(), ExitError> {
        Err(ExitError::not_connected("events load"))
    }
}
