//! The objects of an events table: made, and made again without harm.
