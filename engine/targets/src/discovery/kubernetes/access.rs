//! Access to the API server: from within a cluster, by a kubeconfig, or by the settings.
//!
//! Credentials by a command are kept until they expire or the server refuses them; then the command runs again.

use super::exec::ExecCommand;
use client::{Client, ClientOptions, Url};
use config::{Authorization, BasicAuth, HeaderValues, HttpConfig, KubernetesSdConfig, Secret, Tree};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// Folder of a pod's service account.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Number of objects in a page of a list.
const PAGE_BYTES_MAX: usize = 256 << 20;
const PAGE_WITHIN: Duration = Duration::from_secs(60);

/// Shortest time between two runs of a command for credentials.
const COMMAND_EVERY: Duration = Duration::from_secs(10);

/// The API server, and the namespace of this pod.
pub struct Access {
    pub server: Url,
    pub own_namespace: String,
    settings: KubernetesSdConfig,
    current: Mutex<Current>,
    /// Whether the server has refused the credentials.
    is_refused: AtomicBool,
}

/// The client with its credentials.
struct Current {
    client: Client,
    /// Whether a command gives the credentials, and until when they hold.
    has_command: bool,
    holds_until: Option<Instant>,
    since: Instant,
}

impl Access {
    /// Returns a client with credentials that hold.
    pub async fn client(&self) -> Result<Client, String> {
        let mut current = self.current.lock().await;
        let is_refused = self.is_refused.load(Ordering::Relaxed) && current.since.elapsed() > COMMAND_EVERY;
        let is_over = current.holds_until.is_some_and(|until| Instant::now() >= until);
        if current.has_command && (is_refused || is_over) {
            let settings = self.settings.clone();
            let reached = tokio::task::spawn_blocking(move || reach(&settings)).await;
            let fresh = reached.map_err(|panic| panic.to_string())??;
            *current = fresh.current.into_inner();
            self.is_refused.store(false, Ordering::Relaxed);
        }
        Ok(current.client.clone())
    }

    /// Notes that the server has answered 401.
    pub fn refused(&self) {
        self.is_refused.store(true, Ordering::Relaxed);
    }
}

/// Where the server is and how it is spoken to.
#[derive(Debug)]
struct ServerAccess {
    http: HttpConfig,
    server: Url,
    own_namespace: String,
    command: Option<ExecCommand>,
}

/// Reads the files that the settings refer to, and runs the command that they name. Blocks.
pub fn reach(settings: &KubernetesSdConfig) -> Result<Access, String> {
    let ServerAccess { mut http, server, own_namespace, command } =
        match (&settings.api_server, &settings.kubeconfig_file) {
            (Some(server), _) => ServerAccess {
                http: settings.http.clone(),
                server: server.clone(),
                own_namespace: String::new(),
                command: None,
            },
            (None, Some(file)) => kubeconfig(file)?,
            (None, None) => in_cluster(Path::new(ACCOUNT), |name| std::env::var(name).ok())?,
        };
    let mut holds_until = None;
    if let Some(command) = &command {
        let found = command.run()?;
        holds_until = found.holds_until;
        if !found.token.is_empty() {
            let credentials = Some(Secret::new(found.token));
            http.authorization = Some(Authorization { credentials, ..Authorization::default() });
        }
        if !found.certificate.is_empty() && !found.key.is_empty() {
            http.tls_config.cert = found.certificate;
            http.tls_config.key = Some(Secret::new(found.key));
        }
    }
    let options = ClientOptions { timeout: PAGE_WITHIN, body_bytes_max: PAGE_BYTES_MAX, ..ClientOptions::default() };
    let client = Client::new(&http, options).map_err(|error| error.text)?;
    let current = Current { client, has_command: command.is_some(), holds_until, since: Instant::now() };
    Ok(Access {
        server,
        own_namespace,
        settings: settings.clone(),
        current: Mutex::new(current),
        is_refused: AtomicBool::new(false),
    })
}

/// `account` is the folder of the pod's account; `env` returns variables of the environment.
fn in_cluster(account: &Path, env: impl Fn(&str) -> Option<String>) -> Result<ServerAccess, String> {
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
    Ok(ServerAccess { http, server, own_namespace: namespace.trim().to_owned(), command: None })
}

fn kubeconfig(file: &Path) -> Result<ServerAccess, String> {
    let bytes = client::files::read(file).map_err(|error| error.text)?;
    let text = String::from_utf8(bytes).map_err(|_| format!("{}: not UTF-8", file.display()))?;
    read_kubeconfig(&text, file.parent().unwrap_or(Path::new("/")))
        .map_err(|error| format!("{}: {error}", file.display()))
}

/// `folder` is the base of relative file names.
fn read_kubeconfig(text: &str, folder: &Path) -> Result<ServerAccess, String> {
    let tree = config::parse_yaml(text)?;
    let context = item(&tree, "contexts", scalar(&tree, "current-context"), "context")?;
    let cluster = item(&tree, "clusters", scalar(context, "cluster"), "cluster")?;
    let no_user = Tree::Map(Vec::new());
    let user = match scalar(context, "user") {
        "" => &no_user,
        name => item(&tree, "users", name, "user")?,
    };
    if field(user, "auth-provider").is_some() {
        return Err("users: \"auth-provider\" is no longer a part of Kubernetes; use exec".to_owned());
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
    // As in Kubernetes' own client, a token that stands there makes the command superfluous.
    let command = match field(user, "exec") {
        Some(exec) if http.authorization.is_none() && http.basic_auth.is_none() => {
            Some(ExecCommand::read(exec, cluster, folder)?)
        }
        _ => None,
    };
    http.http_headers = impersonation(user)?;
    Ok(ServerAccess { http, server, own_namespace: scalar(context, "namespace").to_owned(), command })
}

/// Returns the headers with which the server acts as somebody else.
fn impersonation(user: &Tree) -> Result<Vec<(String, HeaderValues)>, String> {
    let mut headers: Vec<(String, HeaderValues)> = Vec::new();
    let mut add = |name: String, values: Vec<String>| {
        if !values.is_empty() {
            headers.push((name, HeaderValues { values, ..HeaderValues::default() }));
        }
    };
    let one = |name: &str| match scalar(user, name) {
        "" => Vec::new(),
        text => vec![text.to_owned()],
    };
    let texts = |tree: &Tree| match tree {
        Tree::List(items) => items
            .iter()
            .filter_map(|item| match item {
                Tree::Text(text) | Tree::Plain(text) => Some(text.clone()),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    };
    add("Impersonate-User".to_owned(), one("as"));
    add("Impersonate-Uid".to_owned(), one("as-uid"));
    add("Impersonate-Group".to_owned(), field(user, "as-groups").map(texts).unwrap_or_default());
    if let Some(Tree::Map(extra)) = field(user, "as-user-extra") {
        for (name, values) in extra {
            // The name is a part of a header's name: what may not stand there is encoded.
            let name = percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC);
            add(format!("Impersonate-Extra-{name}"), texts(values));
        }
    }
    if !headers.is_empty() && scalar(user, "as").is_empty() {
        return Err("users: as-groups, as-uid and as-user-extra need \"as\"".to_owned());
    }
    Ok(headers)
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
        let ServerAccess { http, server, own_namespace, command } = read_kubeconfig(FILE, Path::new("/etc/k")).unwrap();
        assert_eq!((server.as_str(), own_namespace.as_str()), ("https://k:6443/", "mine"));
        assert!(command.is_none() && http.http_headers.is_empty());
        let tls = &http.tls_config;
        assert_eq!(tls.ca_file.as_deref(), Some(Path::new("/etc/k/ca.pem")));
        assert_eq!((tls.server_name.as_str(), tls.cert.as_str()), ("api", "cert"));
        assert_eq!(tls.key.as_ref().unwrap().reveal(), "key");
        assert_eq!(http.authorization.unwrap().credentials.unwrap().reveal(), "hush");
    }

    #[test]
    fn somebody_else_may_be_named() {
        let text = FILE.replace(
            "token: hush",
            "token: hush, as: me, as-uid: '7', as-groups: [a, b], as-user-extra: {'x/y': [1, z]}",
        );
        let http = read_kubeconfig(&text, Path::new("/")).unwrap().http;
        let headers: Vec<String> =
            http.http_headers.iter().map(|(name, values)| format!("{name}: {}", values.values.join(" "))).collect();
        let want =
            ["Impersonate-User: me", "Impersonate-Uid: 7", "Impersonate-Group: a b", "Impersonate-Extra-x%2Fy: 1 z"];
        assert_eq!(headers, want);
    }

    #[tokio::test]
    async fn credentials_of_a_command_are_renewed() {
        let folder = tempfile::tempdir().unwrap();
        let script = "n=$(cat n 2>/dev/null || echo 0); n=$((n+1)); echo $n > n; \
                      echo '{\"kind\": \"ExecCredential\", \"status\": {\"token\": \"t'$n'\", \"expirationTimestamp\": \"2020-01-01T00:00:00Z\"}}'";
        let command = serde_json::to_string(&format!("cd {}; {script}", folder.path().display())).unwrap();
        let exec =
            format!("exec: {{apiVersion: client.authentication.k8s.io/v1, command: sh, args: ['-c', {command}]}}");
        let file = folder.path().join("kubeconfig");
        let text = FILE
            .replace("token: hush", &exec)
            .replace(", client-certificate-data: Y2VydA==, client-key-data: a2V5", "");
        std::fs::write(&file, text.replace(", certificate-authority: ca.pem", "")).unwrap();
        let settings = KubernetesSdConfig { kubeconfig_file: Some(file), ..KubernetesSdConfig::default() };
        let access = reach(&settings).unwrap();
        let runs = || std::fs::read_to_string(folder.path().join("n")).unwrap().trim().to_owned();
        assert_eq!(runs(), "1");
        access.client().await.unwrap();
        assert_eq!(runs(), "2", "they have expired");
        access.current.lock().await.holds_until = None;
        access.refused();
        access.client().await.unwrap();
        assert_eq!(runs(), "2", "a command does not run again at once");
        access.current.lock().await.since -= COMMAND_EVERY * 2;
        access.client().await.unwrap();
        assert_eq!(runs(), "3", "they were refused");
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
        let ServerAccess { http, server, own_namespace, .. } = in_cluster(folder.path(), env("fd00::1")).unwrap();
        assert_eq!((server.as_str(), own_namespace.as_str()), ("https://[fd00::1]:6443/", "mine"));
        let token = http.authorization.and_then(|authorization| authorization.credentials_file);
        assert_eq!(token, Some(folder.path().join("token")), "read at each request: it is replaced every hour");
        assert_eq!(http.tls_config.ca_file, Some(folder.path().join("ca.crt")));
        assert!(in_cluster(folder.path(), env("")).unwrap_err().contains("KUBERNETES_SERVICE_HOST is not set"));
        assert_eq!(in_cluster(Path::new("/nowhere"), env("10.0.0.1")).unwrap().own_namespace, "");
    }

    #[test]
    fn bad_kubeconfigs_say_what_is_wrong() {
        for (from, to, want) in [
            ("current-context: c", "current-context: z", "contexts has no \"z\""),
            ("https://k:6443", "", "server"),
            ("Y2VydA==", "no base64", "client-certificate-data"),
            ("token: hush", "exec: {command: aws}", "apiVersion"),
            ("token: hush", "auth-provider: {name: gcp}", "auth-provider"),
            ("token: hush", "as-groups: [g]", "need \"as\""),
            ("users:", "users: [", "not YAML"),
        ] {
            let error = read_kubeconfig(&FILE.replace(from, to), Path::new("/")).unwrap_err();
            assert!(error.contains(want), "{error}");
        }
    }
}
