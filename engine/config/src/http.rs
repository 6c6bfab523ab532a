//! How we speak HTTP to targets, discovery services and remote ends: credentials, TLS, proxy, headers.

use crate::Secret;
use crate::decode::{Fields, Tree, choices, section};
use std::path::PathBuf;
use url::Url;

/// Headers that `http_headers` and `headers` may not set, because the client sets them. Lower case.
const RESERVED_HEADERS: [&str; 18] = [
    "authorization",
    "host",
    "content-encoding",
    "content-length",
    "content-type",
    "user-agent",
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "www-authenticate",
    "accept-encoding",
    "x-prometheus-remote-write-version",
    "x-prometheus-remote-read-version",
    "x-prometheus-scrape-timeout-seconds",
    "x-amz-date",
    "x-amz-security-token",
    "x-amz-content-sha256",
];

section! {
    /// Settings of an HTTP client. They stand in the section that uses the client, not in one of their own.
    pub struct HttpConfig in "http_config", check = HttpConfig::check {
        /// User and password sent with each request. At most one of this, `authorization` and `oauth2`.
        basic_auth: Option<BasicAuth> = None,
        /// An Authorization header sent with each request.
        authorization: Option<Authorization> = None,
        /// Where to fetch a token to send with each request.
        oauth2: Option<OAuth2> = None,
        /// Whether redirects are followed. Default true.
        follow_redirects: bool = true,
        /// Whether HTTP/2 may be used. Default true.
        enable_http2: bool = true,
        /// TLS of the connections. Default: system's roots, TLS 1.2 or newer.
        tls_config: TlsConfig = TlsConfig::default(),
        /// The proxy to connect through. Default: none.
        proxy_url: Option<Url> = None,
        /// Hosts to reach without the proxy, separated by commas.
        no_proxy: String = String::new(),
        /// Whether HTTP_PROXY, HTTPS_PROXY and NO_PROXY hold. Default false.
        proxy_from_environment: bool = false,
        /// Headers for the proxy's CONNECT, by name.
        proxy_connect_header: Vec<(String, Vec<Secret>)> = Vec::new(),
        /// Headers added to each request, by name.
        http_headers: Vec<(String, HeaderValues)> = Vec::new(),
    }
}

section! {
    /// User name and password; files are read on each use.
    pub struct BasicAuth in "basic_auth", check = BasicAuth::check {
        /// Default: none.
        username: String = String::new(),
        /// The name, read from here. At most one of the two.
        username_file: Option<PathBuf> = None,
        /// Default: none.
        password: Option<Secret> = None,
        /// The password, read from here. At most one of the two.
        password_file: Option<PathBuf> = None,
    }
}

section! {
    /// `Authorization: <type> <credentials>`; the file is read on each use.
    pub struct Authorization in "authorization", check = Authorization::check {
        /// Default Bearer. `basic` is not allowed: that is what `basic_auth` is for.
        r#type: String = "Bearer".to_owned(),
        /// What follows the type. Default: none.
        credentials: Option<Secret> = None,
        /// The credentials, read from here. At most one of the two.
        credentials_file: Option<PathBuf> = None,
    }
}

section! {
    /// How to fetch a token by OAuth 2.0.
    pub struct OAuth2 in "oauth2", check = OAuth2::check {
        /// Required.
        client_id: String = String::new(),
        /// Default client_credentials.
        grant_type: Option<GrantType> = None,
        /// Proves the client, for `client_credentials`.
        client_secret: Option<Secret> = None,
        /// The secret, read from here. At most one of the two.
        client_secret_file: Option<PathBuf> = None,
        /// The key that signs the assertion, for `jwt-bearer`.
        client_certificate_key: Option<Secret> = None,
        /// The key, read from here. At most one of the two.
        client_certificate_key_file: Option<PathBuf> = None,
        /// Names the key in the assertion.
        client_certificate_key_id: String = String::new(),
        /// Default RS256.
        signature_algorithm: Option<SignatureAlgorithm> = None,
        /// Default: `client_id`.
        iss: String = String::new(),
        /// Default: `token_url`.
        audience: String = String::new(),
        /// More claims of the assertion. Default: none.
        claims: Vec<(String, Tree)> = Vec::new(),
        /// What to ask for. Default: none.
        scopes: Vec<String> = Vec::new(),
        /// Where tokens come from. Required.
        token_url: String = String::new(),
        /// Parameters added to the request for a token. Default: none.
        endpoint_params: Vec<(String, String)> = Vec::new(),
        /// TLS of the connection to the token service.
        tls_config: TlsConfig = TlsConfig::default(),
        /// The proxy to reach it through. Default: none.
        proxy_url: Option<Url> = None,
        /// Hosts to reach without the proxy, separated by commas.
        no_proxy: String = String::new(),
        /// Whether HTTP_PROXY, HTTPS_PROXY and NO_PROXY hold. Default false.
        proxy_from_environment: bool = false,
        /// Headers for the proxy's CONNECT, by name.
        proxy_connect_header: Vec<(String, Vec<Secret>)> = Vec::new(),
    }
}

section! {
    /// TLS of a client; files are read again when they change.
    pub struct TlsConfig in "tls_config", check = TlsConfig::check {
        /// Authorities in PEM. Default: those of the system.
        ca: String = String::new(),
        /// The authorities, read from here. At most one of the two.
        ca_file: Option<PathBuf> = None,
        /// Our certificate in PEM.
        cert: String = String::new(),
        /// The certificate, read from here. At most one of the two.
        cert_file: Option<PathBuf> = None,
        /// Our key in PEM.
        key: Option<Secret> = None,
        /// The key, read from here. At most one of the two.
        key_file: Option<PathBuf> = None,
        /// The name to expect in the certificate. Default: the host of the URL.
        server_name: String = String::new(),
        /// Whether any certificate will do. Default false.
        insecure_skip_verify: bool = false,
        /// Default TLS12.
        min_version: Option<TlsVersion> = None,
        /// Default TLS13.
        max_version: Option<TlsVersion> = None,
    }
}

section! {
    /// The values of one header: in plain text, hidden, or each in a file.
    pub struct HeaderValues in "http_headers" {
        /// Shown to people.
        values: Vec<String> = Vec::new(),
        /// Not shown.
        secrets: Vec<Secret> = Vec::new(),
        /// Each holds one value.
        files: Vec<PathBuf> = Vec::new(),
    }
}

choices! {
    /// How a client proves itself to the token service.
    pub enum GrantType {
        ClientCredentials = "client_credentials",
        JwtBearer = "urn:ietf:params:oauth:grant-type:jwt-bearer",
    }
}

choices! {
    /// How an assertion is signed.
    pub enum SignatureAlgorithm {
        Rs256 = "RS256",
        Rs384 = "RS384",
        Rs512 = "RS512",
    }
}

choices! {
    /// A version of TLS.
    pub enum TlsVersion {
        Tls10 = "TLS10",
        Tls11 = "TLS11",
        Tls12 = "TLS12",
        Tls13 = "TLS13",
    }
}

impl HttpConfig {
    /// The defaults where HTTP/2 must be asked for.
    pub(crate) fn without_http2() -> HttpConfig {
        HttpConfig { enable_http2: false, ..HttpConfig::default() }
    }

    /// How many ways of proving who we are there are.
    pub(crate) fn auth_count(&self) -> usize {
        [self.basic_auth.is_some(), self.authorization.is_some(), self.oauth2.is_some()]
            .into_iter()
            .filter(|given| *given)
            .count()
    }

    fn check(&mut self, fields: &mut Fields) {
        self.accept_bearer_token(fields);
        if self.auth_count() > 1 {
            let names = ["oauth2", "authorization", "basic_auth"];
            fields.refuse(
                fields.last_of(&names),
                "at most one of basic_auth, authorization & oauth2 must be configured; keep one",
            );
        }
        check_proxy(
            fields,
            self.proxy_url.as_ref(),
            &self.no_proxy,
            self.proxy_from_environment,
            !self.proxy_connect_header.is_empty(),
        );
        for (name, _) in &self.http_headers {
            check_header(fields, "http_headers", name);
        }
    }

    /// `bearer_token` and `bearer_token_file`, the old spelling of `authorization`.
    fn accept_bearer_token(&mut self, fields: &mut Fields) {
        let token = fields.take::<Option<Secret>>("bearer_token").flatten();
        let file = fields.take::<Option<PathBuf>>("bearer_token_file").flatten();
        if token.is_none() && file.is_none() {
            return;
        }
        let names = ["bearer_token_file", "bearer_token"];
        if token.is_some() && file.is_some() {
            fields.refuse(
                fields.last_of(&names),
                "at most one of bearer_token & bearer_token_file must be configured; keep one",
            );
        } else if self.auth_count() > 0 {
            fields.refuse(
                fields.last_of(&names),
                "at most one of basic_auth, authorization, oauth2, bearer_token & bearer_token_file must be configured; \
                 keep one",
            );
        } else {
            self.authorization =
                Some(Authorization { credentials: token, credentials_file: file, ..Authorization::default() });
        }
    }
}

impl BasicAuth {
    fn check(&mut self, fields: &mut Fields) {
        if !self.username.is_empty() && self.username_file.is_some() {
            fields.refuse("username_file", "at most one of username & username_file must be configured; keep one");
        }
        if self.password.is_some() && self.password_file.is_some() {
            fields.refuse("password_file", "at most one of password & password_file must be configured; keep one");
        }
    }
}

impl Authorization {
    fn check(&mut self, fields: &mut Fields) {
        self.r#type = self.r#type.trim().to_owned();
        if self.r#type.is_empty() {
            self.r#type = "Bearer".to_owned();
        }
        if self.r#type.eq_ignore_ascii_case("basic") {
            fields.refuse("type", "authorization type cannot be set to \"basic\", use \"basic_auth\" instead");
        }
        if self.credentials.is_some() && self.credentials_file.is_some() {
            fields.refuse(
                "credentials_file",
                "at most one of authorization credentials & credentials_file must be configured; keep one",
            );
        }
    }
}

impl OAuth2 {
    fn check(&mut self, fields: &mut Fields) {
        if self.client_id.is_empty() {
            fields.refuse("client_id", "oauth2 client_id must be configured; name the client");
        }
        if self.token_url.is_empty() {
            fields.refuse("token_url", "oauth2 token_url must be configured; say where tokens come from");
        }
        let jwt = self.grant_type == Some(GrantType::JwtBearer);
        if self.client_secret.is_some() && self.client_secret_file.is_some() {
            fields.refuse(
                "client_secret_file",
                "at most one of oauth2 client_secret & client_secret_file must be configured; keep one",
            );
        }
        if self.client_certificate_key.is_some() && self.client_certificate_key_file.is_some() {
            fields.refuse(
                "client_certificate_key_file",
                "at most one of oauth2 client_certificate_key & client_certificate_key_file must be configured; keep one",
            );
        }
        if jwt && self.client_certificate_key.is_none() && self.client_certificate_key_file.is_none() {
            fields.refuse(
                "grant_type",
                "grant type jwt-bearer needs one of client_certificate_key & client_certificate_key_file; add one",
            );
        }
        check_proxy(
            fields,
            self.proxy_url.as_ref(),
            &self.no_proxy,
            self.proxy_from_environment,
            !self.proxy_connect_header.is_empty(),
        );
    }
}

impl TlsConfig {
    fn check(&mut self, fields: &mut Fields) {
        let has_cert = !self.cert.is_empty() || self.cert_file.is_some();
        let has_key = self.key.is_some() || self.key_file.is_some();
        if !self.ca.is_empty() && self.ca_file.is_some() {
            fields.refuse("ca_file", "at most one of ca & ca_file must be configured; keep one");
        }
        if !self.cert.is_empty() && self.cert_file.is_some() {
            fields.refuse("cert_file", "at most one of cert & cert_file must be configured; keep one");
        }
        if self.key.is_some() && self.key_file.is_some() {
            fields.refuse("key_file", "at most one of key & key_file must be configured; keep one");
        }
        if has_cert && !has_key {
            fields.refuse(
                fields.last_of(&["cert", "cert_file"]),
                "exactly one of key or key_file must be configured when a client certificate is configured; add the key",
            );
        }
        if has_key && !has_cert {
            fields.refuse(
                fields.last_of(&["key", "key_file"]),
                "exactly one of cert or cert_file must be configured when a client key is configured; add the certificate",
            );
        }
        if let (Some(min), Some(max)) = (self.min_version, self.max_version)
            && min > max
        {
            fields.refuse(
                "max_version",
                &format!("tls_config.max_version must be greater than or equal to min_version {min}; raise it"),
            );
        }
    }
}

/// Refuses a header that the client sets itself.
pub(crate) fn check_header(fields: &mut Fields, field: &'static str, name: &str) {
    let is_name =
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b));
    if !is_name {
        fields.refuse(field, &format!("{name:?} is not a valid header name; use letters, digits and hyphens"));
        return;
    }
    let message = match name.to_ascii_lowercase().as_str() {
        "authorization" => "authorization header must be changed via the basic_auth, authorization or oauth2 parameter",
        reserved if RESERVED_HEADERS.contains(&reserved) => "it is a reserved header, set by the client; remove it",
        _ => return,
    };
    fields.refuse(field, &format!("setting header {name:?} is not allowed: {message}"));
}

fn check_proxy(fields: &mut Fields, url: Option<&Url>, no_proxy: &str, from_environment: bool, has_header: bool) {
    if from_environment && url.is_some() {
        fields.refuse(
            "proxy_from_environment",
            "if proxy_from_environment is configured, proxy_url must not be configured",
        );
    }
    if from_environment && !no_proxy.is_empty() {
        fields.refuse(
            "proxy_from_environment",
            "if proxy_from_environment is configured, no_proxy must not be configured",
        );
    }
    if !no_proxy.is_empty() && url.is_none() && !from_environment {
        fields.refuse("no_proxy", "if no_proxy is configured, proxy_url must also be configured");
    }
    if has_header && url.is_none() && !from_environment {
        fields.refuse(
            "proxy_connect_header",
            "if proxy_connect_header is configured, proxy_url or proxy_from_environment must also be configured",
        );
    }
}
