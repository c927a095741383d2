//! The `watershed` command.

fn main() -> std::process::ExitCode {
    watershed::cli::main()
}
