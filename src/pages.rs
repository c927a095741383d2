//! The project's pages, so that rustdoc checks them.

#[doc = include_str!("../README.md")]
mod readme {}
#[doc = include_str!("../ARCHITECTURE.md")]
mod architecture {}
#[doc = include_str!("../CHANGELOG.md")]
mod changes {}
#[doc = include_str!("../docs/CLI.md")]
mod command_line {}
#[doc = include_str!("../docs/ERRORS.md")]
mod errors {}
#[doc = include_str!("../docs/CONFIGURATION.md")]
mod configuration {}
#[doc = include_str!("../docs/EVENTS.md")]
mod events {}
#[doc = include_str!("../docs/FORMAT.md")]
mod format {}
#[doc = include_str!("../docs/HTTP.md")]
mod http {}
#[doc = include_str!("../docs/OPERATIONS.md")]
mod operations {}
#[doc = include_str!("../docs/POSTGRES.md")]
mod postgres {}
#[doc = include_str!("../docs/PROTOCOL.md")]
mod protocol {}
#[doc = include_str!("../docs/TYPES.md")]
mod types {}
