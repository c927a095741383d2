//! Links on real sockets.

mod exchange;
mod faults;
mod host;
mod hostile;
