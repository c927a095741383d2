//! The project's pages, so that rustdoc checks them.

#[doc = include_str!("../ARCHITECTURE.md")]
mod architecture {}
#[doc = include_str!("../README.md")]
mod readme {}
#[doc = include_str!("../CHANGELOG.md")]
mod changes {}
#[doc = include_str!("../docs/CLI.md")]
mod command_line {}
#[doc = include_str!("../docs/ERRORS.md")]
mod errors {}
#[doc = include_str!("../docs/CONFIGURATION.md")]
mod configuration {}
