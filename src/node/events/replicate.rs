//! One stream per destination, each on its own.
