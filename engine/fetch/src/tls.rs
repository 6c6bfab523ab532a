//! One target's TLS: which certificates and session its next handshake uses, and what went wrong in the last.
//!
//! Invariants:
//!   * a session is used again only under the settings that it was made with
//!   * our certificate is shown to the target's own host only

use super::ConnectOptions;
use rustls::client::{
    ClientSessionStore, ResolvesClientCert, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;
use rustls::{AlertDescription, CertificateError, ClientConfig, InvalidMessage, NamedGroup, SignatureScheme};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The settings of a target's own connections, with room for one session.
#[derive(Default)]
pub struct Tls {
    made_of: Option<Arc<ClientConfig>>,
    own: Option<Arc<ClientConfig>>,
}

impl Tls {
    /// For a connection to the target itself.
    pub fn at_home(&mut self, ways: &ConnectOptions) -> Result<Arc<ClientConfig>, String> {
        let base = base(ways)?;
        if let (Some(made_of), Some(own)) = (&self.made_of, &self.own)
            && Arc::ptr_eq(made_of, base)
        {
            return Ok(own.clone());
        }
        let mut own = ClientConfig::clone(base);
        own.resumption = Resumption::store(Arc::new(LastSession::default()));
        let own = Arc::new(own);
        self.made_of = Some(base.clone());
        self.own = Some(own.clone());
        Ok(own)
    }
}

/// For a connection to a proxy or to where a redirect leads: no session, no certificate of ours.
pub fn elsewhere(ways: &ConnectOptions) -> Result<Arc<ClientConfig>, String> {
    let mut config = ClientConfig::clone(base(ways)?);
    config.resumption = Resumption::disabled();
    config.client_auth_cert_resolver = Arc::new(Anonymous);
    Ok(Arc::new(config))
}

fn base(ways: &ConnectOptions) -> Result<&Arc<ClientConfig>, String> {
    match &ways.tls {
        Some(Ok(config)) => Ok(config),
        Some(Err(text)) => Err(text.clone()),
        None => Err("the certificates are not read yet".into()),
    }
}

#[derive(Debug)]
struct Anonymous;

impl ResolvesClientCert for Anonymous {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

/// The newest session of one server. rustls' own store has room for 256 servers by name, and fleets are told apart by
/// port, or share one `server_name`.
#[derive(Debug, Default)]
struct LastSession(Mutex<Session>);

#[derive(Debug, Default)]
struct Session {
    group: Option<NamedGroup>,
    tls12: Option<Tls12ClientSessionValue>,
    tls13: Option<Tls13ClientSessionValue>,
}

impl LastSession {
    /// Never waited for: the core that owns the target is the only one that asks.
    fn get(&self) -> MutexGuard<'_, Session> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientSessionStore for LastSession {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.get().group = Some(group);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.get().group
    }

    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.get().tls12 = Some(value);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.get().tls12.clone()
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.get().tls12 = None;
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.get().tls13 = Some(value);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.get().tls13.take()
    }
}

/// What is wrong with a connection in TLS, in the words of Go where operators know them. `None` if TLS is not to blame.
pub fn words(error: &io::Error) -> Option<String> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(match error {
        rustls::Error::InvalidCertificate(why) => {
            format!("tls: failed to verify certificate: x509: {}", certificate_words(why))
        }
        rustls::Error::AlertReceived(alert) => format!("remote error: tls: {}", alert_words(*alert)),
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "tls: first record does not look like a TLS handshake".into()
        }
        other => format!("tls: {other}"),
    })
}

fn certificate_words(error: &CertificateError) -> String {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "certificate has expired or is not yet valid: it has expired".into()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "certificate has expired or is not yet valid: it is not valid yet".into()
        }
        CertificateError::UnknownIssuer => "certificate signed by unknown authority".into(),
        CertificateError::NotValidForName => "certificate is not valid for the name that was asked for".into(),
        CertificateError::NotValidForNameContext { expected, presented } => {
            // `DnsName("a")`, as the library shows what it found.
            let names: Vec<&str> = presented.iter().map(|name| name.split('"').nth(1).unwrap_or(name)).collect();
            let names = if names.is_empty() { "no name".to_owned() } else { names.join(", ") };
            format!("certificate is valid for {names}, not {}", expected.to_str())
        }
        CertificateError::Revoked => "certificate is revoked".into(),
        other => other.to_string(),
    }
}

fn alert_words(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::BadCertificate => "bad certificate".into(),
        AlertDescription::CertificateRequired => "certificate required".into(),
        AlertDescription::CertificateExpired => "expired certificate".into(),
        AlertDescription::CertificateRevoked => "revoked certificate".into(),
        AlertDescription::CertificateUnknown => "unknown certificate".into(),
        AlertDescription::UnknownCA => "unknown certificate authority".into(),
        AlertDescription::HandshakeFailure => "handshake failure".into(),
        AlertDescription::ProtocolVersion => "protocol version not supported".into(),
        AlertDescription::UnrecognisedName => "unrecognized name".into(),
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(error: rustls::Error, want: &str) {
        assert_eq!(words(&io::Error::other(error)).as_deref(), Some(want));
    }

    #[test]
    fn words_are_those_of_go() {
        let bad = |error| rustls::Error::InvalidCertificate(error);
        check(
            bad(CertificateError::UnknownIssuer),
            "tls: failed to verify certificate: x509: certificate signed by unknown authority",
        );
        let presented = vec!["DnsName(\"a.example\")".to_owned(), "IpAddress(10.0.0.1)".to_owned()];
        let expected = ServerName::try_from("b.example").unwrap();
        check(
            bad(CertificateError::NotValidForNameContext { expected, presented }),
            "tls: failed to verify certificate: x509: certificate is valid for a.example, IpAddress(10.0.0.1), not b.example",
        );
        check(
            rustls::Error::AlertReceived(AlertDescription::CertificateRequired),
            "remote error: tls: certificate required",
        );
    }

    #[test]
    fn settings_of_a_target_live_as_long_as_those_of_its_job() {
        let config = || client::tls::client_config(&Default::default(), &Default::default()).map(Arc::new).unwrap();
        let mut ways = ConnectOptions { tls: Some(Ok(config())), ..ConnectOptions::default() };
        let mut tls = Tls::default();
        let first = tls.at_home(&ways).unwrap();
        assert!(Arc::ptr_eq(&first, &tls.at_home(&ways).unwrap()));
        ways.tls = Some(Ok(config()));
        assert!(!Arc::ptr_eq(&first, &tls.at_home(&ways).unwrap()));
        assert!(!elsewhere(&ways).unwrap().client_auth_cert_resolver.has_certs());
    }
}
