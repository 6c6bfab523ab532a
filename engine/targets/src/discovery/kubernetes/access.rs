//! Access to the API server: from within a cluster, by a kubeconfig, or by the settings.
//!
//! Parts of a kubeconfig that are not implemented (commands that fetch credentials, impersonation) are an error.

use client::{Client, ClientOptions, Url};
use config::{Authorization, BasicAuth, HttpConfig, KubernetesSdConfig, Secret, Tree};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Folder of a pod's service account.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Number of objects in a page of a list.
const PAGE_BYTES_MAX: usize = 256 << 20;
const PAGE_WITHIN: Duration = Duration::from_secs(60);

/// The API server, and the namespace of this pod.
#[derive(Clone)]
pub struct Access {
    pub client: Client,
    pub server: Url,
    pub own_namespace: String,
}

/// Reads the files that the settings refer to.
pub fn reach(settings: &KubernetesSdConfig) -> Result<Access, String> {
    let (http, server, own_namespace) = match (&settings.api_server, &settings.kubeconfig_file) {
        (Some(server), _) => (settings.http.clone(), server.clone(), String::new()),
        (None, Some(file)) => kubeconfig(file)?,
        (None, None) => in_cluster(Path::new(ACCOUNT), |name| std::env::var(name).ok())?,
    };
    let options = ClientOptions { timeout: PAGE_WITHIN, body_bytes_max: PAGE_BYTES_MAX, ..ClientOptions::default() };
    let client = Client::new(&http, options).map_err(|error| error.text)?;
    Ok(Access { client, server, own_namespace })
}

/// `account` is the folder of the pod's account; `env` returns variables of the environment.
fn in_cluster(account: &Path, env: impl Fn(&str) -> Option<String>) -> Result<(HttpConfig, Url, String), String> {
    let variable = |name: &str| {
        let absent = || format!("{name} is not set: this is no pod of a cluster; set api_server or kubeconfig_file");
        env(name).filter(|value| !value.is_empty()).ok_or_else(absent)
    };
    let (host, port) = (variable("KUBERNETES_SERVICE_HOST")?, variable("KUBERNETES_SERVICE_PORT")?);
    let server = Url::parse(&format!("https://{}", super::super::host_port(&host, port)))
        .map_err(|error| format!("KUBERNETES_SERVICE_HOST makes no URL: {error}"))?;
    let mut http = HttpConfig {
        authorization: Some(Authorization {
            credentials_file: Some(account.join("token")),
            ..Authorization::default()
        }),
        ..HttpConfig::default()
    };
    http.tls_config.ca_file = Some(account.join("ca.crt"));
    let namespace = std::fs::read_to_string(account.join("namespace")).unwrap_or_default();
    Ok((http, server, namespace.trim().to_owned()))
}

fn kubeconfig(file: &Path) -> Result<(HttpConfig, Url, String), String> {
    let bytes = client::files::read(file).map_err(|error| error.text)?;
    let text = String::from_utf8(bytes).map_err(|_| format!("{}: not UTF-8", file.display()))?;
    read_kubeconfig(&text, file.parent().unwrap_or(Path::new("/")))
        .map_err(|error| format!("{}: {error}", file.display()))
}

/// `folder` is the base of relative file names.
fn read_kubeconfig(text: &str, folder: &Path) -> Result<(HttpConfig, Url, String), String> {
    let tree = config::parse_yaml(text)?;
    let context = item(&tree, "contexts", scalar(&tree, "current-context"), "context")?;
    let cluster = item(&tree, "clusters", scalar(context, "cluster"), "cluster")?;
    let no_user = Tree::Map(Vec::new());
    let user = match scalar(context, "user") {
        "" => &no_user,
        name => item(&tree, "users", name, "user")?,
    };
    for unknown in ["exec", "auth-provider", "as"] {
        if field(user, unknown).is_some() {
            return Err(format!("users: {unknown:?} is not carried out; use a token or a certificate"));
        }
    }
    let path = |map: &Tree, name| match scalar(map, name) {
        "" => None,
        text => Some(folder.join(text)),
    };
    let pem = |map: &Tree, name: &str| match scalar(map, name) {
        "" => Ok(String::new()),
        text => decoded(text).ok_or_else(|| format!("{name} is not base64 of a PEM")),
    };
    let server = Url::parse(scalar(cluster, "server")).map_err(|error| format!("clusters: server: {error}"))?;
    let mut http = HttpConfig::default();
    let tls = &mut http.tls_config;
    let or_file = |inline: &str, file: Option<PathBuf>| if inline.is_empty() { file } else { None };
    tls.ca = pem(cluster, "certificate-authority-data")?;
    tls.ca_file = or_file(&tls.ca, path(cluster, "certificate-authority"));
    tls.server_name = scalar(cluster, "tls-server-name").to_owned();
    tls.insecure_skip_verify = scalar(cluster, "insecure-skip-tls-verify") == "true";
    tls.cert = pem(user, "client-certificate-data")?;
    tls.cert_file = or_file(&tls.cert, path(user, "client-certificate"));
    let key = pem(user, "client-key-data")?;
    tls.key_file = or_file(&key, path(user, "client-key"));
    tls.key = (!key.is_empty()).then(|| Secret::new(key));
    if let proxy @ 1.. = scalar(cluster, "proxy-url").len() {
        let text = &scalar(cluster, "proxy-url")[..proxy];
        http.proxy_url = Some(Url::parse(text).map_err(|error| format!("clusters: proxy-url: {error}"))?);
    }
    let (token, token_file) = (scalar(user, "token"), path(user, "tokenFile"));
    if token_file.is_some() || !token.is_empty() {
        // As in Kubernetes' own client, the file wins.
        let credentials = (token_file.is_none()).then(|| Secret::new(token));
        http.authorization =
            Some(Authorization { credentials, credentials_file: token_file, ..Authorization::default() });
    } else if !scalar(user, "username").is_empty() {
        let password = Some(Secret::new(scalar(user, "password")));
        let username = scalar(user, "username").to_owned();
        http.basic_auth = Some(BasicAuth { username, password, ..BasicAuth::default() });
    }
    Ok((http, server, scalar(context, "namespace").to_owned()))
}

fn field<'a>(map: &'a Tree, name: &str) -> Option<&'a Tree> {
    match map {
        Tree::Map(fields) => fields.iter().find(|(key, _)| key == name).map(|(_, value)| value),
        _ => None,
    }
}

fn scalar<'a>(map: &'a Tree, name: &str) -> &'a str {
    match field(map, name) {
        Some(Tree::Text(text) | Tree::Plain(text)) => text,
        _ => "",
    }
}

/// Returns the item with a name in a list of named items.
fn item<'a>(tree: &'a Tree, list: &str, name: &str, what: &str) -> Result<&'a Tree, String> {
    let Some(Tree::List(items)) = field(tree, list) else { return Err(format!("{list} is missing")) };
    let found = items.iter().find(|item| scalar(item, "name") == name).and_then(|item| field(item, what));
    found.ok_or_else(|| format!("{list} has no {name:?}"))
}

fn decoded(base64: &str) -> Option<String> {
    use base64::Engine;
    let bytes = base64::engine::general_purpose::STANDARD.decode(base64.trim()).ok()?;
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "
current-context: c
contexts:
- {name: other, context: {cluster: x}}
- {name: c, context: {cluster: k, user: u, namespace: mine}}
clusters:
- name: k
  cluster: {server: 'https://k:6443', certificate-authority: ca.pem, tls-server-name: api}
users:
- name: u
  user: {token: hush, client-certificate-data: Y2VydA==, client-key-data: a2V5}
";

    #[test]
    fn kubeconfig_is_read() {
        let (http, server, namespace) = read_kubeconfig(FILE, Path::new("/etc/k")).unwrap();
        assert_eq!((server.as_str(), namespace.as_str()), ("https://k:6443/", "mine"));
        let tls = &http.tls_config;
        assert_eq!(tls.ca_file.as_deref(), Some(Path::new("/etc/k/ca.pem")));
        assert_eq!((tls.server_name.as_str(), tls.cert.as_str()), ("api", "cert"));
        assert_eq!(tls.key.as_ref().unwrap().reveal(), "key");
        assert_eq!(http.authorization.unwrap().credentials.unwrap().reveal(), "hush");
    }

    #[test]
    fn a_pod_uses_its_account() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("namespace"), "mine\n").unwrap();
        let env = |host: &'static str| {
            move |name: &str| match name {
                "KUBERNETES_SERVICE_HOST" => Some(host.to_owned()),
                "KUBERNETES_SERVICE_PORT" => Some("6443".to_owned()),
                _ => None,
            }
        };
        let (http, server, namespace) = in_cluster(folder.path(), env("fd00::1")).unwrap();
        assert_eq!((server.as_str(), namespace.as_str()), ("https://[fd00::1]:6443/", "mine"));
        let token = http.authorization.and_then(|authorization| authorization.credentials_file);
        assert_eq!(token, Some(folder.path().join("token")), "read at each request: it is replaced every hour");
        assert_eq!(http.tls_config.ca_file, Some(folder.path().join("ca.crt")));
        assert!(in_cluster(folder.path(), env("")).unwrap_err().contains("KUBERNETES_SERVICE_HOST is not set"));
        assert_eq!(in_cluster(Path::new("/nowhere"), env("10.0.0.1")).unwrap().2, "");
    }

    #[test]
    fn bad_kubeconfigs_say_what_is_wrong() {
        for (from, to, want) in [
            ("current-context: c", "current-context: z", "contexts has no \"z\""),
            ("https://k:6443", "", "server"),
            ("Y2VydA==", "no base64", "client-certificate-data"),
            ("token: hush", "exec: {command: aws}", "\"exec\" is not carried out"),
            ("users:", "users: [", "not YAML"),
        ] {
            let error = read_kubeconfig(&FILE.replace(from, to), Path::new("/")).unwrap_err();
            assert!(error.contains(want), "{error}");
        }
    }
}
