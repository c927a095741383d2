//! The certificate that a node shows, and its key.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::model::limits;

/// Only HTTP/1.1 is spoken.
const ALPN: &[u8] = b"http/1.1";

/// The certificate with which TLS is spoken; it may be exchanged while the node runs.
pub struct ServerTls {
    cert_file: PathBuf,
    key_file: PathBuf,
    current: RwLock<Shown>,
}

#[derive(Clone)]
struct Shown {
    config: Arc<ServerConfig>,
    certificate: CertificateDer<'static>,
}

impl std::fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerTls").field("cert_file", &self.cert_file).finish_non_exhaustive()
    }
}

impl ServerTls {
    /// From two PEM files: the chain, the node's own certificate first, and the key.
    ///
    /// # Errors
    /// A file cannot be read or is not what it should be, or the key is not the certificate's; in words.
    pub fn open(cert_file: &Path, key_file: &Path) -> Result<ServerTls, String> {
        let shown = read(cert_file, key_file)?;
        Ok(ServerTls { cert_file: cert_file.into(), key_file: key_file.into(), current: RwLock::new(shown) })
    }

    /// Reads both files again: handshakes from now on use what they have. Connections stay.
    ///
    /// # Errors
    /// As for [`ServerTls::open`]; then what was there stays.
    pub fn reload(&self) -> Result<(), String> {
        let shown = read(&self.cert_file, &self.key_file)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = shown;
        Ok(())
    }

    /// For the next handshake.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).config.clone()
    }

    /// The node's own certificate, as DER.
    pub fn certificate(&self) -> CertificateDer<'static> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).certificate.clone()
    }
}

fn read(cert_file: &Path, key_file: &Path) -> Result<Shown, String> {
    let (shown, pem) = (cert_file.display(), bytes(cert_file, limits::CERTIFICATES_BYTES_MAX)?);
    let chain: Result<Vec<CertificateDer<'static>>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let chain = chain.map_err(|error| format!("{shown}: {error}"))?;
    let certificate = chain.first().cloned().ok_or_else(|| format!("{shown}: there is no certificate in it"))?;
    let (shown_key, pem) = (key_file.display(), bytes(key_file, limits::SECRET_BYTES_MAX)?);
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| format!("{shown_key}: {error}"))?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let mut config = config
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| format!("{shown} and {shown_key} cannot be used: {error}"))?;
    config.alpn_protocols = vec![ALPN.into()];
    Ok(Shown { config: Arc::new(config), certificate })
}

fn bytes(path: &Path, max: u64) -> Result<Vec<u8>, String> {
    let shown = path.display();
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| format!("{shown}: {error}"))?;
    file.take(max + 1).read_to_end(&mut bytes).map_err(|error| format!("{shown}: {error}"))?;
    if bytes.len() as u64 > max {
        return Err(format!("{shown} has more than {max} bytes"));
    }
    Ok(bytes)
}
