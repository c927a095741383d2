//! What the file may say although this version cannot do it.

use std::sync::Arc;

use super::{Config, ConfigError, Engine, Mistake};

impl Config {
    /// Whether this version can do everything that the file asks for. `run` and `check` ask; showing and explaining
    /// a file do not.
    ///
    /// # Errors
    /// One mistake per feature that is not available.
    pub fn ready(&self) -> Result<(), ConfigError> {
        let mut missing = Vec::new();
        self.missing_in_data(&mut missing);
        if missing.is_empty() {
            return Ok(());
        }
        let mistakes = missing.into_iter().map(|(path, what, fix)| Mistake {
            code: "WS-CFG-009",
            what: format!("{what} not available in this version"),
            why: format!("`{path}` asks for it"),
            fix: fix.to_string(),
            span: self.span_of(&path),
        });
        Err(ConfigError::new(mistakes.collect(), Arc::clone(&self.file)))
    }

    fn missing_in_data(&self, missing: &mut Vec<(String, &'static str, &'static str)>) {
        let mut add = |path: String, what, fix| missing.push((path, what, fix));
        for (name, log) in &self.log {
            if log.engine == Engine::Kafka {
                add(format!("log.{name}.engine"), "the engine kafka is", "use the engine \"segments\"");
            }
        }
        for (name, rule) in &self.table {
            if !rule.columns.is_empty() {
                add(format!("table.{name}.columns"), "owners of single columns are", "give the table an owner");
            }
            if rule.lane.as_ref().is_some_and(|lane| lane != "main") {
                add(format!("table.{name}.lane"), "a lane of your own is", "remove `lane`");
            }
        }
        for name in self.lane.keys() {
            add(format!("lane.{name}"), "a lane of your own is", "remove the section");
        }
    }
}
