//! `watershed peer`

use clap::{Args, Subcommand};
use serde_json::Value as Json;

use super::admin::escape;
use super::{ExitError, Global, output};

/// The nodes that this one is linked with
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  watershed peer ls
  watershed peer ls --tree
  watershed peer pause branch-7")]
pub(super) struct Peer {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Parent and children
    Ls {
        /// The whole tree, as far as this node sees it
        #[arg(long)]
        tree: bool,
    },
    /// Close the link and keep it closed
    Pause {
        /// Its name
        name: String,
    },
    /// Open it again
    Resume {
        /// Its name
        name: String,
    },
}

impl Peer {
    pub(super) fn run(self, global: &Global) -> Result<(), ExitError> {
        let (verb, name) = match self.action {
            Action::Ls { tree: false } => {
                let status = global.admin()?.get("/v1/status")?;
                let peers = serde_json::json!({ "peers": status["peers"] });
                return output::listing(global.json, peers, "peers");
            }
            Action::Ls { tree: true } => return tree(global),
            Action::Pause { name } => ("pause", name),
            Action::Resume { name } => ("resume", name),
        };
        let answer = global.admin()?.post(&format!("/v1/peers/{}/{verb}", escape(&name)))?;
        output::done(global.json, answer, &format!("{verb}: {name}"))
    }
}

fn tree(global: &Global) -> Result<(), ExitError> {
    let answer = global.admin()?.get("/v1/tree")?;
    if global.json {
        return output::object(answer);
    }
    let root = answer.get("tree").or_else(|| answer.get("root")).unwrap_or(&answer);
    let mut text = String::new();
    draw(root, "", "", &mut text, 0);
    output::line(&text)
}

/// Draws a node `{name, state?, children: […]}` and what is below it.
fn draw(node: &Json, first: &str, rest: &str, text: &mut String, depth: usize) {
    let name = node["name"].as_str().unwrap_or("?");
    let state = node["state"].as_str().map(|state| format!("  {state}")).unwrap_or_default();
    text.push_str(&format!("{first}{name}{state}\n"));
    let children = node["children"].as_array().map(Vec::as_slice).unwrap_or_default();
    if depth >= crate::model::limits::PATH_NODES_MAX {
        return;
    }
    for (index, child) in children.iter().enumerate() {
        let last = index + 1 == children.len();
        let (branch, below) = if last { ("└── ", "    ") } else { ("├── ", "│   ") };
        draw(child, &format!("{rest}{branch}"), &format!("{rest}{below}"), text, depth + 1);
    }
}
