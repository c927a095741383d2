//! The laws of the tree: nobody dials itself, nobody is its own ancestor, names on a path are unique.

use super::host::{Hello, NodeRef, Refusal, Role};
use super::refusal::{code, out_of_order, refusal};
use crate::model::limits;

/// What a hello must keep; asked at both ends. Only the parent's path counts: what a child says of its own may be from
/// before it dialled.
pub(super) fn check_hello(role: Role, me: &NodeRef, path: &[NodeRef], hello: &Hello) -> Result<(), Refusal> {
    if hello.node.log == me.log {
        let what = format!("node {:?} has dialled itself (log {})", me.name, me.log);
        let why = "the parent's URL leads back to this node, or its data folder is a copy";
        return Err(refusal(
            code::SELF,
            false,
            what,
            why,
            "correct [parent] url; give a copied node a data folder of its own",
        ));
    }
    if hello.node.name == me.name {
        return Err(name_taken(&me.name));
    }
    match role {
        Role::Child => check_path(me, &hello.node, &hello.path),
        Role::Parent => check_own_path(&hello.node, path),
    }
}

/// The path that our parent announces.
pub(super) fn check_path(me: &NodeRef, parent: &NodeRef, path: &[NodeRef]) -> Result<(), Refusal> {
    if path.first() != Some(parent) {
        return Err(out_of_order(format!("the path announced by {:?} does not start with it", parent.name)));
    }
    if path.iter().any(|node| node.log == me.log) {
        return Err(cycle(&me.name, path));
    }
    if path.len() >= limits::PATH_NODES_MAX {
        let what = format!("the path to the root has {} nodes, at most {}", path.len() + 1, limits::PATH_NODES_MAX);
        return Err(refusal(code::TOO_LARGE, false, what, "paths are bounded", "make the tree flatter"));
    }
    let twice = |i: usize| path[i].name == me.name || path[..i].iter().any(|node| node.name == path[i].name);
    match (0..path.len()).find(|&i| twice(i)) {
        Some(i) => Err(name_taken(&path[i].name)),
        None => Ok(()),
    }
}

/// Our own path, as the parent of `child`.
pub(super) fn check_own_path(child: &NodeRef, path: &[NodeRef]) -> Result<(), Refusal> {
    if path.iter().any(|node| node.log == child.log) {
        return Err(cycle(&child.name, path));
    }
    match path.iter().find(|node| node.name == child.name) {
        Some(node) => Err(name_taken(&node.name)),
        None => Ok(()),
    }
}

fn cycle(name: &str, path: &[NodeRef]) -> Refusal {
    let names: Vec<&str> = path.iter().map(|node| &*node.name).collect();
    let what = format!("node {name:?} would be its own ancestor: {name} → {}", names.join(" → "));
    let why = "links form a tree; changes would run in a circle";
    refusal(code::CYCLE, false, what, why, "change [parent] url at one of these nodes, or remove it")
}

fn name_taken(name: &str) -> Refusal {
    let what = format!("two nodes on the path to the root are named {name:?}");
    refusal(code::NAME_TAKEN, false, what, "names are unique in a tree", "rename one of them ([node] name)")
}
