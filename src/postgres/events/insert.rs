//! Events appended through `insert_events`.
