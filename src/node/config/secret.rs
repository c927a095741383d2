//! Secrets stand in files or in the environment, never in the configuration, and are never printed.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::{Config, ConfigError};
use crate::model::limits;

impl Config {
    /// Our token at the parent, if one is configured.
    ///
    /// # Errors
    /// The file or the variable is missing, empty, too long or not text.
    pub fn parent_token(&self) -> Result<Option<String>, ConfigError> {
        let Some(parent) = &self.parent else { return Ok(None) };
        let path = if parent.token_env.is_some() { "parent.token_env" } else { "parent.token_file" };
        secret(parent.token_env.as_deref(), parent.token_file.as_deref()).map_err(|why| {
            self.mistake_in(path, "the token for the parent cannot be read", &why, "put the token there, in one line")
        })
    }
}

/// A secret from the environment or from a file, where one is named.
///
/// # Errors
/// It is missing, empty, too long or not text; in words.
pub(in crate::node) fn secret(env: Option<&str>, file: Option<&Path>) -> Result<Option<String>, String> {
    match (env, file) {
        (Some(name), _) => from_environment(name).map(Some),
        (None, Some(file)) => from_file(file).map(Some),
        (None, None) => Ok(None),
    }
}

fn from_environment(name: &str) -> Result<String, String> {
    let value = std::env::var(name).map_err(|error| format!("{name}: {error}"))?;
    one_line(&value).ok_or_else(|| format!("{name} is empty"))
}

fn from_file(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let mut text = String::new();
    let file = File::open(path).map_err(|error| format!("{shown}: {error}"))?;
    let read = file.take(limits::SECRET_BYTES_MAX).read_to_string(&mut text);
    read.map_err(|error| format!("{shown}: {error}"))?;
    one_line(&text).ok_or_else(|| format!("{shown} is empty, or has several lines"))
}

fn one_line(text: &str) -> Option<String> {
    let text = text.trim();
    (!text.is_empty() && text.lines().count() == 1).then(|| text.to_string())
}
