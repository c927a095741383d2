//! Tables as SQL.
