//! Applies a node's log to a PostgreSQL database: effects, cursor and lanes in one transaction.
