//! `tls_config` to what rustls needs.
//!
//! Invariants:
//!   * only ring computes; nothing depends on a provider installed for the whole process
//!   * a certificate or key that cannot be read is an error that names the file and never its contents
//!   * only `insecure_skip_verify` accepts a certificate that does not verify; one that is trusted itself does

use crate::files;
use crate::{Error, ErrorKind};
use config::{TlsConfig, TlsVersion};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme, SupportedProtocolVersion,
};
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// PEM as the settings and their files have it now; equal bytes need no new handshake state.
#[derive(Clone, Default, PartialEq)]
pub struct Pem {
    ca: Option<Vec<u8>>,
    cert: Option<Vec<u8>>,
    key: Option<Vec<u8>>,
}

impl Pem {
    /// Reads the files that the settings name.
    pub fn read(tls: &TlsConfig) -> Result<Pem, Error> {
        let one_of = |inline: &str, file: &Option<std::path::PathBuf>| match file {
            Some(file) => files::read(file).map(Some),
            None if inline.is_empty() => Ok(None),
            None => Ok(Some(inline.as_bytes().to_vec())),
        };
        let key = tls.key.as_ref().map_or("", |key| key.reveal());
        Ok(Pem {
            ca: one_of(&tls.ca, &tls.ca_file)?,
            cert: one_of(&tls.cert, &tls.cert_file)?,
            key: one_of(key, &tls.key_file)?,
        })
    }
}

/// Whether the settings name files, so that they may change.
pub fn has_files(tls: &TlsConfig) -> bool {
    [&tls.ca_file, &tls.cert_file, &tls.key_file].iter().any(|file| file.is_some())
}

/// What rustls needs for these settings. ALPN is left to the caller.
pub fn client_config(tls: &TlsConfig, pem: &Pem) -> Result<ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&versions(tls)?)
        .map_err(|error| settings(format!("tls_config: {error}")))?;
    let algorithms = provider.signature_verification_algorithms;
    let accepts = if tls.insecure_skip_verify {
        Accepts::Any
    } else {
        let trusted = match &pem.ca {
            Some(ca) => certificates(ca, &named("ca_file", &tls.ca_file))?,
            None => Vec::new(),
        };
        let roots = if pem.ca.is_some() { roots(tls, &trusted)? } else { system_roots() };
        let strict = WebPkiServerVerifier::builder_with_provider(roots, provider)
            .build()
            .map_err(|error| settings(format!("tls_config: {error}")))?;
        Accepts::Verified { strict, trusted }
    };
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(Verifier { algorithms, accepts }));
    let (Some(cert), Some(key)) = (&pem.cert, &pem.key) else { return Ok(builder.with_no_client_auth()) };
    let cert_name = named("cert_file", &tls.cert_file);
    let chain = certificates(cert, &cert_name)?;
    let key_name = named("key_file", &tls.key_file);
    let key = private_key(key, &key_name)?;
    builder.with_client_auth_cert(chain, key).map_err(|error| settings(format!("{cert_name} and {key_name}: {error}")))
}

/// The name to expect in the certificate and to ask for.
pub fn server_name(tls: &TlsConfig, host: &str) -> Result<ServerName<'static>, Error> {
    let name = if tls.server_name.is_empty() { host } else { &tls.server_name };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    ServerName::try_from(name.to_owned())
        .map_err(|_| settings(format!("{name:?} is no name that a certificate could have; set tls_config.server_name")))
}

/// What a failed handshake was about.
pub fn handshake_error(error: &std::io::Error) -> Error {
    let text = match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(error) => format!("TLS: {error}"),
        None => format!("TLS handshake: {error}"),
    };
    Error::new(ErrorKind::Tls, text)
}

fn versions(tls: &TlsConfig) -> Result<Vec<&'static SupportedProtocolVersion>, Error> {
    let min = tls.min_version.unwrap_or(TlsVersion::Tls12);
    let max = tls.max_version.unwrap_or(TlsVersion::Tls13);
    let known = [(TlsVersion::Tls12, &rustls::version::TLS12), (TlsVersion::Tls13, &rustls::version::TLS13)];
    let wanted: Vec<_> =
        known.into_iter().filter(|(version, _)| (min..=max).contains(version)).map(|(_, version)| version).collect();
    if wanted.is_empty() {
        return Err(settings(format!(
            "tls_config.max_version {max} is not spoken any more; raise it to TLS12 or TLS13"
        )));
    }
    Ok(wanted)
}

fn roots(tls: &TlsConfig, trusted: &[CertificateDer<'static>]) -> Result<Arc<RootCertStore>, Error> {
    let name = named("ca_file", &tls.ca_file);
    let mut store = RootCertStore::empty();
    for certificate in trusted {
        store.add(certificate.clone()).map_err(|error| settings(format!("{name}: {error}")))?;
    }
    Ok(Arc::new(store))
}

/// The authorities of the system, read once.
fn system_roots() -> Arc<RootCertStore> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let read = || {
        let found = rustls_native_certs::load_native_certs();
        let mut store = RootCertStore::empty();
        let (taken, _) = store.add_parsable_certificates(found.certs);
        if taken == 0 {
            tracing::warn!("the system has no certificate authorities; https needs tls_config.ca_file");
        }
        Arc::new(store)
    };
    ROOTS.get_or_init(read).clone()
}

/// The certificates in PEM, at least one. `name` says in errors where they stand.
pub fn certificates(pem: &[u8], name: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match read {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(settings(format!("{name}: no certificate in PEM found"))),
        Err(error) => Err(settings(format!("{name}: {error}"))),
    }
}

/// The private key in PEM. `name` says in errors where it stands.
pub fn private_key(pem: &[u8], name: &str) -> Result<PrivateKeyDer<'static>, Error> {
    PrivateKeyDer::from_pem_slice(pem)
        .map_err(|_| settings(format!("{name}: no private key in PEM found; write one without a pass phrase")))
}

fn named(field: &str, file: &Option<impl AsRef<Path>>) -> String {
    match file {
        Some(file) => file.as_ref().display().to_string(),
        None => format!("tls_config.{}", field.trim_end_matches("_file")),
    }
}

fn settings(text: String) -> Error {
    Error::new(ErrorKind::Settings, text)
}

/// Decides on a server's certificate. Its key must have signed the handshake, whatever is accepted.
#[derive(Debug)]
struct Verifier {
    algorithms: WebPkiSupportedAlgorithms,
    accepts: Accepts,
}

#[derive(Debug)]
enum Accepts {
    /// For `insecure_skip_verify`.
    Any,
    /// What rustls verifies, and a server that shows the very certificate that the settings trust: one that signed itself,
    /// as `openssl req -x509` makes them, is marked as an authority, and rustls takes no authority for a server. Name and
    /// dates must be right all the same.
    Verified { strict: Arc<WebPkiServerVerifier>, trusted: Vec<CertificateDer<'static>> },
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer,
        chain: &[CertificateDer],
        name: &ServerName,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Accepts::Verified { strict, trusted } = &self.accepts else { return Ok(ServerCertVerified::assertion()) };
        match strict.verify_server_cert(certificate, chain, name, ocsp, now) {
            // Dates are checked before this is.
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(other)))
                if other.to_string().contains("CaUsedAsEndEntity") && trusted.contains(certificate) =>
            {
                verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
