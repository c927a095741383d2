//! The examples do what they say.

#[path = "../../examples/append_and_read.rs"]
mod append_and_read;
#[path = "../../examples/ledger.rs"]
mod ledger;
#[path = "../../examples/two_nodes.rs"]
mod two_nodes;
#[path = "../../examples/view.rs"]
mod view;

#[test]
fn a_log_survives_reopening() {
    append_and_read::main().expect("it runs");
}

#[test]
fn a_ledger_is_the_same_on_three_nodes() {
    ledger::main().expect("it runs");
}

#[test]
fn a_view_follows_a_log() {
    view::main().expect("it runs");
}

#[test]
fn a_row_travels_between_two_nodes() {
    two_nodes::main().expect("it runs");
}
