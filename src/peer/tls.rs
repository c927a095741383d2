//! Whose certificates are accepted where a node is dialled.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use crate::model::limits;

/// TLS towards a node whose certificate was signed by one of those in `ca_file`, or is one of them itself; without a file,
/// by an authority that the system knows. Either way it is for the name that is dialled.
///
/// # Errors
/// The certificates cannot be read, or there are none; in words.
pub fn roots(ca_file: Option<&Path>) -> Result<ClientConfig, String> {
    let certificates = match ca_file {
        Some(path) => read(path)?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    let mut store = RootCertStore::empty();
    let (added, _) = store.add_parsable_certificates(certificates.clone());
    if added == 0 {
        return Err(match ca_file {
            Some(path) => format!("{}: there is no certificate in it", path.display()),
            None => "the system knows no authorities; name a ca_file".into(),
        });
    }
    let provider = Arc::new(ring::default_provider());
    let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider.clone()).build();
    let chain = chain.map_err(|error| error.to_string())?;
    let certificates = if ca_file.is_some() { certificates } else { Vec::new() };
    Named { certificates, chain: Some(chain), provider }.client()
}

fn read(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let shown = path.display();
    let mut pem = Vec::new();
    let file = File::open(path).map_err(|error| format!("{shown}: {error}"))?;
    file.take(limits::CERTIFICATES_BYTES_MAX).read_to_end(&mut pem).map_err(|error| format!("{shown}: {error}"))?;
    CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().map_err(|error| format!("{shown}: {error}"))
}

/// Accepts certificates that are named themselves, and those with a chain to who is known.
#[derive(Debug)]
pub struct Named {
    certificates: Vec<CertificateDer<'static>>,
    /// Without it the certificate is accepted under any name: it is the one.
    chain: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl Named {
    /// Only this certificate, under whatever name its node is dialled.
    pub fn only(certificate: CertificateDer<'static>) -> Named {
        Named { certificates: vec![certificate], chain: None, provider: Arc::new(ring::default_provider()) }
    }

    /// TLS that accepts these.
    ///
    /// # Errors
    /// The library refuses its own defaults; in words.
    pub fn client(self) -> Result<ClientConfig, String> {
        let config = ClientConfig::builder_with_provider(self.provider.clone()).with_safe_default_protocol_versions();
        let config = config.map_err(|error| error.to_string())?;
        Ok(config.dangerous().with_custom_certificate_verifier(Arc::new(self)).with_no_client_auth())
    }
}

impl ServerCertVerifier for Named {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let is_named = self.certificates.iter().any(|named| named == certificate);
        match &self.chain {
            Some(_) if is_named => {
                rustls::client::verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            Some(chain) => chain.verify_server_cert(certificate, between, name, ocsp, now),
            None if is_named => Ok(ServerCertVerified::assertion()),
            None => Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
