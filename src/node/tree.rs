//! The tree as one node sees it.

use serde::Serialize;

use super::shared::Shared;

/// `/v1/tree`: from the root down to us, and everything below us.
#[derive(Debug, Serialize)]
pub struct Tree {
    /// Of this shape.
    pub schema: u32,
    /// The node asked.
    pub node: String,
    /// From the root (first) down to the node asked (last).
    pub path: Vec<TreeNode>,
    /// Everything below the node asked.
    pub below: Vec<TreeNode>,
}

/// A node in the tree.
#[derive(Debug, Serialize)]
pub struct TreeNode {
    /// Its label.
    pub name: String,
    /// Its log.
    pub log: String,
    /// Its parent's label.
    pub parent: Option<String>,
}

impl Tree {
    /// Takes it now.
    pub fn of(shared: &Shared) -> Tree {
        let path = shared.path.borrow();
        let mut nodes: Vec<TreeNode> = path
            .iter()
            .enumerate()
            .map(|(i, node)| TreeNode {
                name: node.name.to_string(),
                log: node.log.to_string(),
                parent: path.get(i + 1).map(|parent| parent.name.to_string()),
            })
            .collect();
        nodes.reverse();
        let below = shared.below.borrow();
        let below = below.iter().filter(|below| !below.away).map(|below| TreeNode {
            name: below.node.name.to_string(),
            log: below.node.log.to_string(),
            parent: Some(below.parent.to_string()),
        });
        Tree { schema: 1, node: shared.name.to_string(), path: nodes, below: below.collect() }
    }
}
