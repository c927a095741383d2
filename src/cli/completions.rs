//! `watershed completions`

use clap::Args;
use clap_complete::Shell;

use super::{ExitError, output};

/// Completions for a shell
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  watershed completions bash > /etc/bash_completion.d/watershed
  watershed completions zsh > ~/.zfunc/_watershed")]
pub(super) struct Completions {
    /// For this one
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self) -> Result<(), ExitError> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut super::command(), "watershed", &mut script);
        output::line(&String::from_utf8_lossy(&script))
    }
}
