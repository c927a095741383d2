//! Secrets stand in files or in the environment, never in the configuration, and are never printed.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::{Config, ConfigError};
use crate::model::limits;

impl Config {
    /// A digest of the file and of what the files and variables have that it names, but for the node's certificate: where it
    /// is the same, nothing but that can be new.
    pub fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        let mut add = |part: &[u8]| {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        };
        add(self.file.text.as_bytes());
        let tokens = self.node.tokens.iter().map(|token| (&token.token_env, &token.token_file));
        let parent = self.parent.iter().map(|parent| (&parent.token_env, &parent.token_file));
        let mirrors = self.log.values().map(|log| (&log.token_env, &log.token_file));
        let views = self.view.values().map(|view| (&view.token_env, &view.token_file));
        for (env, file) in tokens.chain(parent).chain(mirrors).chain(views) {
            // One that cannot be read is refused elsewhere.
            add(secret(env.as_deref(), file.as_deref()).ok().flatten().unwrap_or_default().as_bytes());
        }
        let authorities = self.parent.iter().filter_map(|parent| parent.ca_file.as_ref());
        let authorities = authorities.chain(self.view.values().filter_map(|view| view.ca_file.as_ref()));
        for path in authorities.chain(self.log.values().filter_map(|log| log.ca_file.as_ref())) {
            add(&std::fs::read(path).unwrap_or_default());
        }
        digest.finalize().into()
    }

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
