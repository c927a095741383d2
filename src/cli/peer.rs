//! `watershed peer`

use clap::{Args, Subcommand};
use serde_json::Value as Json;

use super::admin::escape;
use super::{ExitError, Global, output, status_text};
use crate::model::limits;

/// The nodes that this one is linked with
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  watershed peer ls
  watershed peer ls --tree
  watershed peer pause branch-7

`watershed status --help` explains the columns.")]
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
                if global.json {
                    return output::object(serde_json::json!({ "peers": status["links"] }));
                }
                return match status_text::links(&status["links"]) {
                    Some(text) => output::line(&text),
                    None => {
                        eprintln!("There are no peers: nobody has linked with this node, and it has no parent.");
                        Ok(())
                    }
                };
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
    output::line(&draw(&answer))
}

/// Draws `{node, path: [{name}], below: [{name, parent}]}`: the way from the root to the node asked, and what is below it.
fn draw(tree: &Json) -> String {
    let list = |key: &str| tree[key].as_array().map(Vec::as_slice).unwrap_or_default();
    let name = |node: &Json| node["name"].as_str().unwrap_or("?").to_string();
    let mut text = String::new();
    let mut indent = String::new();
    for (depth, node) in list("path").iter().enumerate() {
        let branch = if depth == 0 { "" } else { "└── " };
        let here = if node["name"] == tree["node"] { "  (this node)" } else { "" };
        text.push_str(&format!("{indent}{branch}{}{here}\n", name(node)));
        indent.push_str(if depth == 0 { "" } else { "    " });
    }
    let own = tree["node"].as_str().unwrap_or("?");
    draw_below(own, list("below"), &indent, limits::PATH_NODES_MAX, &mut text);
    text
}

fn draw_below(parent: &str, nodes: &[Json], indent: &str, depth_left: usize, text: &mut String) {
    let children: Vec<&Json> = nodes.iter().filter(|node| node["parent"] == parent).collect();
    if depth_left == 0 {
        return;
    }
    for (index, child) in children.iter().enumerate() {
        let last = index + 1 == children.len();
        let (branch, below) = if last { ("└── ", "    ") } else { ("├── ", "│   ") };
        let name = child["name"].as_str().unwrap_or("?");
        text.push_str(&format!("{indent}{branch}{name}\n"));
        draw_below(name, nodes, &format!("{indent}{below}"), depth_left - 1, text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_drawn_from_the_root_to_what_is_below() {
        let node = |name: &str, parent: &str| serde_json::json!({ "name": name, "log": "", "parent": parent });
        let tree = serde_json::json!({
            "node": "region", "path": [node("hq", ""), node("region", "hq")],
            "below": [node("b1", "region"), node("till", "b1"), node("b2", "region")],
        });
        let expected = "hq\n└── region  (this node)\n    ├── b1\n    │   └── till\n    └── b2\n";
        assert_eq!(draw(&tree), expected);
    }
}
