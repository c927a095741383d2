//! TLS towards the node of an original: as towards a parent.

use std::path::Path;
use std::sync::Arc;

use rustls::ClientConfig;

use crate::peer::roots;

/// How connections are made: the server's certificate must be for its name, and signed by an authority of that file (or be
/// in it), or of those that the system knows.
pub(super) fn client(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, String> {
    roots(ca_file).map(Arc::new).map_err(|why| format!("the certificates by which it is known: {why}"))
}
