//! Signatures with an RSA key, for assertions and for requests that are signed.

use ring::rand::SystemRandom;
use ring::signature::{self, RsaKeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;

/// The hash of a signature.
#[derive(Clone, Copy, Debug)]
pub enum RsaDigest {
    Sha256,
    Sha384,
    Sha512,
}

/// A private key that can sign.
pub struct RsaKey(RsaKeyPair);

impl RsaKey {
    /// Reads a key in PEM, PKCS#1 or PKCS#8, without a pass phrase.
    pub fn from_pem(pem: &[u8]) -> Result<RsaKey, &'static str> {
        let key = match PrivateKeyDer::from_pem_slice(pem) {
            Ok(PrivateKeyDer::Pkcs8(der)) => RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()),
            Ok(PrivateKeyDer::Pkcs1(der)) => RsaKeyPair::from_der(der.secret_pkcs1_der()),
            _ => return Err("no private key in PEM found; write one without a pass phrase"),
        };
        key.map(RsaKey).map_err(|_| "no RSA key that can sign: it must have 2048 to 8192 bits")
    }

    /// Returns the signature of a text by PKCS#1 v1.5.
    pub fn sign(&self, digest: RsaDigest, text: &[u8]) -> Result<Vec<u8>, &'static str> {
        let padding: &'static dyn signature::RsaEncoding = match digest {
            RsaDigest::Sha256 => &signature::RSA_PKCS1_SHA256,
            RsaDigest::Sha384 => &signature::RSA_PKCS1_SHA384,
            RsaDigest::Sha512 => &signature::RSA_PKCS1_SHA512,
        };
        let mut signature = vec![0; self.0.public().modulus_len()];
        self.0.sign(padding, &SystemRandom::new(), text, &mut signature).map_err(|_| "signing failed")?;
        Ok(signature)
    }
}
