//! `watershed config`

use clap::{Args, Subcommand};
use serde_json::Value as Json;

use super::{Exit, ExitError, Global, output};
use crate::node::config::{self, describe, known_keys, nearest};

/// The configuration: as it is, and as it may be
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  watershed config show
  watershed config explain
  watershed config explain send.parent.filter
  watershed config schema > watershed.schema.json")]
pub(super) struct ConfigCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// What is in effect: file, environment and defaults, without secrets
    Show,
    /// The JSON schema of the file
    Schema,
    /// What a section or a key means
    Explain {
        /// Dotted, as in node.listen; all sections without it
        #[arg(default_value = "")]
        key: String,
    },
}

impl ConfigCommand {
    pub(super) fn run(self, global: &Global) -> Result<(), ExitError> {
        match self.action {
            Action::Show => show(global),
            Action::Schema => {
                let schema = config::schema();
                output::line(&serde_json::to_string_pretty(&schema).unwrap_or_else(|_| schema.to_string()))
            }
            Action::Explain { key } => explain(global.json, &key),
        }
    }
}

fn show(global: &Global) -> Result<(), ExitError> {
    let config = global.config()?;
    let failed = |error: String| {
        ExitError::new("WS-CLI-018", Exit::Failure, "the configuration cannot be shown", error, "report this")
    };
    if global.json {
        let shown = serde_json::to_value(&config).map_err(|error| failed(error.to_string()))?;
        return output::object(serde_json::json!({ "config": shown }));
    }
    let overrides = config::Overrides::from_environment();
    for (key, from) in overrides.names() {
        output::line(&format!("# {key} comes from {from}"))?;
    }
    output::line(&toml::to_string(&config).map_err(|error| failed(error.to_string()))?)
}

fn explain(as_json: bool, key: &str) -> Result<(), ExitError> {
    let schema = config::schema();
    let Some((found, description)) = describe(key, &schema) else {
        let (above, last) = key.rsplit_once('.').unwrap_or(("", key));
        let known = describe(above, &schema).map(|(found, _)| known_keys(found)).unwrap_or_default();
        let fix = match nearest(last, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "`watershed config explain` lists the sections".to_string(),
        };
        let why = format!("{} knows {}", if above.is_empty() { "the file" } else { above }, known.join(", "));
        return Err(ExitError::new("WS-CLI-019", Exit::Usage, format!("there is no key `{key}`"), why, fix));
    };
    if as_json {
        return output::object(serde_json::json!({ "key": key, "description": description, "accepts": found }));
    }
    if let Some(description) = description {
        output::line(&format!("{key}: {}\n", description.replace('\n', " ")))?;
    }
    let rows = rows(key, found, &schema);
    if rows.is_empty() {
        output::line(&format!("takes {}", kind(found)))
    } else {
        output::line(&output::table(&["KEY", "TAKES", "MEANING"], &rows))
    }
}

fn rows(path: &str, section: &Json, schema: &Json) -> Vec<Vec<String>> {
    let section = if section["type"] == "array" { config::resolve(&section["items"], schema) } else { section };
    let named = section.get("additionalProperties").is_some_and(Json::is_object);
    let keys = if named { vec!["NAME"] } else { known_keys(section) };
    let row = |key: &str| {
        let full = if path.is_empty() { key.to_string() } else { format!("{path}.{key}") };
        let (found, description) = describe(&full, schema)?;
        let required = section["required"].as_array().is_some_and(|all| all.iter().any(|one| one == key));
        let takes = format!("{}{}", kind(found), if required { ", required" } else { "" });
        Some(vec![key.to_string(), takes, description.unwrap_or("").replace('\n', " ")])
    };
    keys.into_iter().filter_map(row).collect()
}

fn kind(schema: &Json) -> String {
    let variants = schema["enum"].as_array().cloned().or_else(|| {
        let each = schema["oneOf"].as_array()?.iter().filter(|one| one.get("const").is_some());
        Some(each.map(|one| one["const"].clone()).collect())
    });
    if let Some(all) = variants {
        return all.iter().map(Json::to_string).collect::<Vec<_>>().join(" | ");
    }
    let first = schema["type"].as_str().or_else(|| schema["type"][0].as_str()).unwrap_or("text or list");
    match (first, schema["format"].as_str()) {
        ("string", Some(format)) => format.to_string(),
        ("string", None) => "text".into(),
        ("boolean", _) => "true | false".into(),
        ("integer", _) => "number".into(),
        ("array", _) => "list".into(),
        ("object", _) => "section".into(),
        (other, _) => other.into(),
    }
}
