//! The tables of a database: their definitions, their identities, and what stands against capturing them.
