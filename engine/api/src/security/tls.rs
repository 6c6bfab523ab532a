//! `tls_server_config` to what rustls needs.
//!
//! Invariants:
//!   * only ring computes; nothing depends on a provider installed for the whole process
//!   * a file that cannot be used is an error that names it and never its contents

use client::tls::{certificates, private_key};
use client::{Error, ErrorKind, files};
use config::{ClientAuth, TlsServerConfig, TlsVersion};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, NamedGroup, RootCertStore, ServerConfig, SignatureScheme};
use std::path::PathBuf;
use std::sync::Arc;

/// Go's names of curves.
const CURVES: [(&str, NamedGroup); 5] = [
    ("CurveP256", NamedGroup::secp256r1),
    ("CurveP384", NamedGroup::secp384r1),
    ("CurveP521", NamedGroup::secp521r1),
    ("X25519", NamedGroup::X25519),
    ("X25519MLKEM768", NamedGroup::X25519MLKEM768),
];

/// PEM as the settings and their files have it now.
#[derive(PartialEq)]
pub(crate) struct Pem {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl Pem {
    /// Reads the files that the settings name.
    pub fn read(tls: &TlsServerConfig) -> Result<Pem, Error> {
        let one_of = |inline: &str, file: &Option<PathBuf>| match file {
            Some(file) => files::read(file),
            None => Ok(inline.as_bytes().to_vec()),
        };
        let client_ca = one_of(&tls.client_ca, &tls.client_ca_file)?;
        Ok(Pem {
            cert: one_of(&tls.cert, &tls.cert_file)?,
            key: one_of(tls.key.as_ref().map_or("", |key| key.reveal()), &tls.key_file)?,
            client_ca: Some(client_ca).filter(|pem| !pem.is_empty()),
        })
    }
}

fn settings(text: String) -> Error {
    Error::new(ErrorKind::Settings, text)
}

fn named(field: &str, file: &Option<PathBuf>) -> String {
    file.as_ref().map_or_else(|| format!("tls_server_config.{field}"), |file| file.display().to_string())
}

/// What rustls needs for these settings.
pub(crate) fn server_config(tls: &TlsServerConfig, pem: &Pem) -> Result<Arc<ServerConfig>, Error> {
    let mut provider = rustls::crypto::ring::default_provider();
    limit(&mut provider, tls)?;
    let provider = Arc::new(provider);
    let versions: Vec<_> = [(TlsVersion::Tls12, &rustls::version::TLS12), (TlsVersion::Tls13, &rustls::version::TLS13)]
        .into_iter()
        .filter(|(version, _)| (tls.min_version..=tls.max_version).contains(version))
        .map(|(_, version)| version)
        .collect();
    if versions.is_empty() {
        return Err(settings(format!(
            "tls_server_config.max_version {} is not spoken any more; raise it to TLS12 or TLS13",
            tls.max_version
        )));
    }
    let cert_name = named("cert", &tls.cert_file);
    let chain = certificates(&pem.cert, &cert_name)?;
    let key_name = named("key", &tls.key_file);
    let key = private_key(&pem.key, &key_name)?;
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&versions)
        .map_err(|error| settings(format!("tls_server_config: {error}")))?
        .with_client_cert_verifier(verifier(tls, pem, provider)?)
        .with_single_cert(chain, key)
        .map_err(|error| settings(format!("{cert_name} and {key_name}: {error}")))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.ignore_client_order = tls.prefer_server_cipher_suites;
    Ok(Arc::new(config))
}

/// Leaves the cipher suites and curves that are listed. Others than ours may be among them, as long as one is left.
fn limit(provider: &mut CryptoProvider, tls: &TlsServerConfig) -> Result<(), Error> {
    if !tls.cipher_suites.is_empty() {
        let name = |suite: &rustls::SupportedCipherSuite| format!("{:?}", suite.suite());
        let listed = |suite: &rustls::SupportedCipherSuite| tls.cipher_suites.contains(&name(suite));
        // Those of TLS 1.3 cannot be chosen, as in Go.
        provider.cipher_suites.retain(|suite| suite.tls13().is_some() || listed(suite));
        let place = |suite: &rustls::SupportedCipherSuite| {
            tls.cipher_suites.iter().position(|listed| *listed == name(suite)).unwrap_or(0)
        };
        provider.cipher_suites.sort_by_key(|suite| (suite.tls13().is_none(), place(suite)));
        let tls12 = tls.min_version <= TlsVersion::Tls12;
        if tls12
            && tls.max_version < TlsVersion::Tls13
            && provider.cipher_suites.iter().all(|one| one.tls13().is_some())
        {
            return Err(settings(format!(
                "tls_server_config.cipher_suites: none of {} is spoken",
                tls.cipher_suites.join(", ")
            )));
        }
    }
    if !tls.curve_preferences.is_empty() {
        let mut wanted = Vec::new();
        for curve in &tls.curve_preferences {
            let known = CURVES.iter().find(|(name, _)| name == curve);
            let Some((_, group)) = known else {
                let names = CURVES.map(|(name, _)| name).join(", ");
                return Err(settings(format!(
                    "tls_server_config.curve_preferences: unknown curve {curve:?}; known are {names}"
                )));
            };
            wanted.extend(provider.kx_groups.iter().copied().filter(|one| one.name() == *group));
        }
        if wanted.is_empty() {
            return Err(settings("tls_server_config.curve_preferences: none of these is spoken; add X25519".into()));
        }
        provider.kx_groups = wanted;
    }
    Ok(())
}

fn verifier(
    tls: &TlsServerConfig,
    pem: &Pem,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    let optional = match tls.client_auth_type {
        ClientAuth::None => return Ok(WebPkiClientVerifier::no_client_auth()),
        ClientAuth::Request | ClientAuth::RequireOld | ClientAuth::RequireAny => {
            let mandatory = tls.client_auth_type != ClientAuth::Request;
            return Ok(Arc::new(AnyClient { mandatory, algorithms: provider.signature_verification_algorithms }));
        }
        ClientAuth::VerifyIfGiven => true,
        ClientAuth::RequireAndVerify => false,
    };
    let name = named("client_ca", &tls.client_ca_file);
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem.client_ca.as_deref().unwrap_or_default(), &name)? {
        roots.add(certificate).map_err(|error| settings(format!("{name}: {error}")))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = if optional { builder.allow_unauthenticated() } else { builder };
    builder.build().map_err(|error| settings(format!("{name}: {error}")))
}

/// Takes whatever certificate a client shows, if its key has signed the handshake.
#[derive(Debug)]
struct AnyClient {
    mandatory: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for AnyClient {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer,
        _: &[CertificateDer],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
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
