//! The sending side of first copies: chunks of a table in key order, each from one short snapshot.
