//! Files for `--web.config.file`: what loads and what is refused.

use config::{ClientAuth, TlsVersion, WebConfig, parse_web};
use std::path::Path;

fn load(text: &str) -> Result<WebConfig, String> {
    parse_web(Path::new("web/web.yml"), text).map_err(|errors| errors.to_string())
}

#[test]
fn everything_is_read() {
    assert_eq!(load("").unwrap(), WebConfig::default());
    let web = load(
        "tls_server_config:\n  cert_file: server.crt\n  key_file: /etc/server.key\n  client_auth_type: RequireAndVerifyClientCert\n  \
         client_ca_file: ca.pem\n  min_version: TLS13\n  cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]\n  \
         curve_preferences: [X25519]\nhttp_server_config:\n  http2: false\n  headers:\n    X-Frame-Options: deny\n    \
         X-XSS-Protection: ''\nbasic_auth_users:\n  ann: $2y$10$hash\n  bob: $2y$10$hash\n",
    )
    .unwrap();
    let tls = web.tls_server_config.unwrap();
    let absolute = std::path::absolute("web/server.crt").unwrap();
    assert_eq!(tls.cert_file, Some(absolute), "relative to the file");
    assert_eq!((tls.client_auth_type, tls.min_version), (ClientAuth::RequireAndVerify, TlsVersion::Tls13));
    assert_eq!(web.http_server_config.headers, [("X-Frame-Options".to_owned(), "deny".to_owned())]);
    let users: Vec<&str> = web.basic_auth_users.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(users, ["ann", "bob"]);
    assert!(!format!("{:?}", web.basic_auth_users).contains("hash"));
}

#[test]
fn mistakes_are_refused_with_their_place() {
    let cert = "cert_file: a, key_file: b";
    for (text, want) in [
        ("tls_server_config: {}", "web.yml:1:20: tls_server_config.cert_file: missing one of cert or cert_file"),
        ("tls_server_config: {cert_file: a}", "missing one of key or key_file"),
        ("tls_server_config: {cert_file: a, cert: b, key_file: c}", "both cert and cert_file"),
        (&format!("tls_server_config: {{{cert}, client_ca_file: c}}"), "set client_auth_type"),
        (&format!("tls_server_config: {{{cert}, client_auth_type: RequireAndVerifyClientCert}}"), "set client_ca_file"),
        (&format!("tls_server_config: {{{cert}, client_auth_type: Sometimes}}"), "client_auth_type"),
        (&format!("tls_server_config: {{{cert}, client_allowed_sans: [x]}}"), "not looked at by this build"),
        (&format!("tls_server_config: {{{cert}, min_version: TLS13, max_version: TLS12}}"), "raise it"),
        ("http_server_config: {headers: {X-Powered-By: us}}", "HTTP header \"X-Powered-By\" cannot be configured"),
        ("http_server_config: {headers: {X-Frame-Options: maybe}}", "write deny or sameorigin"),
        ("http_server_config: {headers: {Strict-Transport-Security: \"a\\nb\"}}", "write visible ASCII"),
        ("basic_auth_user: {ann: x}", "did you mean basic_auth_users?"),
        ("basic_auth_users: [ann]", "basic_auth_users"),
        ("a: [", "this is not YAML"),
    ] {
        let errors = load(text).expect_err(text);
        assert!(errors.contains(want), "{text}: {errors}");
    }
}
