//! A database by its URL, whichever kind it is.
