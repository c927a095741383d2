//! `watershed man`

use clap::Args;

use super::{ExitError, output};

/// The manual page, as roff
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  watershed man | man -l -
  watershed man > /usr/local/share/man/man1/watershed.1")]
pub(super) struct Man {}

impl Man {
    pub(super) fn run(self) -> Result<(), ExitError> {
        let mut page = Vec::new();
        clap_mangen::Man::new(super::command()).render(&mut page)?;
        output::line(&String::from_utf8_lossy(&page))
    }
}
