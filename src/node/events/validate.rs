//! Whether copying may begin: everything that stands against it, at once.
