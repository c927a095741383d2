//! The `watershed` command.

/// Entries are allocated by one thread and freed by another all the time; glibc's allocator keeps an arena for every
/// thread then, and a node that catches up would hold three times the memory.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    watershed::cli::main()
}
