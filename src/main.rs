//! The `watershed` command.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

/// How many arenas glibc's allocator may have (mallopt(3), `MALLOC_ARENA_MAX`; it reads it when a process starts).
const ARENAS: (&str, &str) = ("MALLOC_ARENA_MAX", "2");

fn main() -> ExitCode {
    bound_arenas();
    watershed::cli::main()
}

/// Entries are allocated by one thread and freed by another all the time. With an arena for every thread, as is glibc's
/// default, a node that catches up would hold three times the memory; so a node (or a replicator) starts itself once
/// more with fewer. Where that cannot be done it runs as it is.
fn bound_arenas() {
    let arguments: Vec<_> = std::env::args_os().collect();
    let Some((_, arguments)) = arguments.split_first() else { return };
    let long = arguments.iter().any(|argument| ["run", "demo", "replicate"].iter().any(|command| argument == command));
    if !long || std::env::var_os(ARENAS.0).is_some() {
        return;
    }
    if let Ok(program) = std::env::current_exe() {
        let mut again = Command::new(program);
        again.args(arguments).env(ARENAS.0, ARENAS.1);
        // `exec` returns only where it failed.
        let error = again.exec();
        eprintln!("it runs with the allocator's defaults: {error}");
    }
}
