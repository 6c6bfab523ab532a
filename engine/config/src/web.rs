//! The file of `--web.config.file`: TLS, basic authentication and headers of what we serve.
//!
//! See Prometheus' manual, "HTTPS and authentication".

use crate::decode::{Context, Fields, Value, choices, section};
use crate::errors::ConfigErrors;
use crate::yaml::parse;
use crate::{Secret, TlsVersion};
use relabel::NameScheme;
use std::path::{Path, PathBuf};

/// Headers that may be set, each with the values that it may have; none stands for any.
const HEADERS: [(&str, &[&str]); 5] = [
    ("Content-Security-Policy", &[]),
    ("X-Frame-Options", &["deny", "sameorigin"]),
    ("X-Content-Type-Options", &["nosniff"]),
    ("X-XSS-Protection", &[]),
    ("Strict-Transport-Security", &[]),
];

section! {
    /// How we serve.
    pub struct WebConfig in "the web configuration" {
        /// TLS of connections to us. Default: none.
        tls_server_config: Option<TlsServerConfig> = None,
        /// What is said about HTTP.
        http_server_config: HttpServerConfig = HttpServerConfig::default(),
        /// Who is let in, each with the bcrypt hash of a password. Default: everybody.
        basic_auth_users: Vec<(String, Secret)> = Vec::new(),
    }
}

section! {
    /// TLS of a server; files are read again when they change.
    pub struct TlsServerConfig in "tls_server_config", check = TlsServerConfig::check {
        /// Our certificate in PEM, with those between it and an authority.
        cert: String = String::new(),
        /// The certificate, read from here. One of the two is required.
        cert_file: Option<PathBuf> = None,
        /// Our key in PEM.
        key: Option<Secret> = None,
        /// The key, read from here. One of the two is required.
        key_file: Option<PathBuf> = None,
        /// Default NoClientCert.
        client_auth_type: ClientAuth = ClientAuth::None,
        /// Authorities of clients in PEM.
        client_ca: String = String::new(),
        /// The authorities, read from here. At most one of the two.
        client_ca_file: Option<PathBuf> = None,
        /// Names of which a client's certificate must have one. Refused: they are not looked at.
        client_allowed_sans: Vec<String> = Vec::new(),
        /// Default TLS12.
        min_version: TlsVersion = TlsVersion::Tls12,
        /// Default TLS13.
        max_version: TlsVersion = TlsVersion::Tls13,
        /// Those of TLS 1.2 that may be used, by their names. Default: all that are known.
        cipher_suites: Vec<String> = Vec::new(),
        /// Whether our order of them counts. Default true.
        prefer_server_cipher_suites: bool = true,
        /// Curves that may be used, by Go's names. Default: all that are known.
        curve_preferences: Vec<String> = Vec::new(),
    }
}

section! {
    /// HTTP of a server.
    pub struct HttpServerConfig in "http_server_config", check = HttpServerConfig::check {
        /// Accepted; HTTP/2 is not spoken. Default true.
        http2: bool = true,
        /// Headers of each answer.
        headers: Vec<(String, String)> = Vec::new(),
    }
}

choices! {
    /// What is asked of a client's certificate.
    pub enum ClientAuth {
        None = "NoClientCert",
        Request = "RequestClientCert",
        RequireOld = "RequireClientCert",
        RequireAny = "RequireAnyClientCert",
        VerifyIfGiven = "VerifyClientCertIfGiven",
        RequireAndVerify = "RequireAndVerifyClientCert",
    }
}

impl TlsServerConfig {
    fn check(&mut self, fields: &mut Fields) {
        match (self.cert.is_empty(), &self.cert_file) {
            (true, None) => fields.refuse("cert_file", "missing one of cert or cert_file; name the certificate"),
            (false, Some(_)) => fields.refuse("cert_file", "both cert and cert_file are given; keep one"),
            _ => {}
        }
        match (&self.key, &self.key_file) {
            (None, None) => fields.refuse("key_file", "missing one of key or key_file; name the key"),
            (Some(_), Some(_)) => fields.refuse("key_file", "both key and key_file are given; keep one"),
            _ => {}
        }
        let has_authorities = !self.client_ca.is_empty() || self.client_ca_file.is_some();
        if !self.client_ca.is_empty() && self.client_ca_file.is_some() {
            fields.refuse("client_ca_file", "both client_ca and client_ca_file are given; keep one");
        }
        let verifies = matches!(self.client_auth_type, ClientAuth::VerifyIfGiven | ClientAuth::RequireAndVerify);
        if has_authorities && self.client_auth_type == ClientAuth::None {
            fields.refuse(
                fields.last_of(&["client_ca", "client_ca_file"]),
                "client CAs are given and clients are asked for no certificate; set client_auth_type",
            );
        }
        if verifies && !has_authorities {
            fields.refuse("client_auth_type", "no authority to verify client certificates by; set client_ca_file");
        }
        // To take the field and look at nothing would let more clients in than the file says.
        if !self.client_allowed_sans.is_empty() {
            fields.refuse(
                "client_allowed_sans",
                "names of client certificates are not looked at by this build; give such clients an authority of their \
                 own, or leave it to a proxy",
            );
        }
        if self.min_version > self.max_version {
            fields.refuse("max_version", &format!("it is below min_version {}; raise it", self.min_version));
        }
    }
}

impl HttpServerConfig {
    fn check(&mut self, fields: &mut Fields) {
        for (name, value) in &mut self.headers {
            let Some((known, values)) = HEADERS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)) else {
                let names = HEADERS.map(|(name, _)| name).join(", ");
                fields.refuse("headers", &format!("HTTP header {name:?} cannot be configured; these can: {names}"));
                continue;
            };
            let is_text = value.bytes().all(|byte| (b' '..=b'~').contains(&byte));
            let is_allowed = value.is_empty() || values.is_empty() || values.iter().any(|one| one == value);
            if !is_text || !is_allowed {
                let wanted = if values.is_empty() { "visible ASCII".to_owned() } else { values.join(" or ") };
                fields.refuse("headers", &format!("invalid value for {known}: {value:?}; write {wanted}"));
            }
        }
        self.headers.retain(|(_, value)| !value.is_empty());
    }
}

/// Reads a web configuration.
pub fn load_web(path: &Path) -> Result<WebConfig, ConfigErrors> {
    parse_web(path, &crate::load::read(path)?)
}

/// The same for a text that is at hand, as if `path` held it.
pub fn parse_web(path: &Path, text: &str) -> Result<WebConfig, ConfigErrors> {
    let file = std::path::absolute(path)
        .map_err(|error| ConfigErrors::unreadable(path.to_owned(), format!("cannot be found: {error}")))?;
    let cx = Context::new(path, file.parent().unwrap_or(Path::new("/")), NameScheme::Utf8);
    let web = match parse(text) {
        Ok(node) => WebConfig::read(&node, &cx),
        Err((mark, message)) => {
            cx.refuse(mark, message);
            None
        }
    };
    let errors = cx.into_errors();
    web.filter(|_| errors.is_empty()).ok_or(ConfigErrors(errors))
}
