//! Members of a tree that changes, against a fake of the server.

use super::super::{DiscoveryContext, DiscoveryState, Reporter, SourceId, UPDATES_MAX, Update};
use super::*;
use config::{Discovery, Env};
use std::sync::Mutex;
use tokio::net::TcpListener;
use tokio::sync::{broadcast, mpsc, watch};

const PATIENCE: Duration = Duration::from_secs(60);

/// A server: its nodes with their data, and events for all sessions.
struct Fake {
    nodes: Mutex<BTreeMap<String, Vec<u8>>>,
    events: broadcast::Sender<(i32, String)>,
    /// Bytes that each new connection gets instead of answers.
    lie: Mutex<Option<Vec<u8>>>,
}

impl Fake {
    async fn start(nodes: &[(&str, &str)]) -> (Arc<Fake>, u16, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let nodes = nodes.iter().map(|(path, data)| ((*path).to_owned(), data.as_bytes().to_vec())).collect();
        let fake = Arc::new(Fake { nodes: Mutex::new(nodes), events: broadcast::channel(64).0, lie: Mutex::default() });
        let serving = fake.clone();
        let task = tokio::spawn(async move {
            let mut sessions = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                sessions.spawn(serving.clone().serve(stream));
            }
        });
        (fake, port, task)
    }

    async fn serve(self: Arc<Fake>, mut stream: TcpStream) {
        let lie = self.lie.lock().unwrap().clone();
        if let Some(lie) = lie {
            let _ = stream.write_all(&lie).await;
            return;
        }
        let mut events = self.events.subscribe();
        let _connect = frame_of(&mut stream).await;
        let answer =
            [&0i32.to_be_bytes()[..], &6000i32.to_be_bytes(), &[0; 8], &16i32.to_be_bytes(), &[0; 16]].concat();
        send(&mut stream, &answer).await;
        let (mut reader, mut stream) = stream.into_split();
        let (requests, mut inbox) = mpsc::channel(64);
        tokio::spawn(async move {
            while let Some(request) = frame_of(&mut reader).await {
                if requests.send(request).await.is_err() {
                    return;
                }
            }
        });
        loop {
            tokio::select! {
                request = inbox.recv() => {
                    let Some(request) = request else { return };
                    let answer = self.answer(&request);
                    send(&mut stream, &answer).await;
                }
                event = events.recv() => {
                    let Ok((kind, path)) = event else { return };
                    if kind == 0 { return }
                    let body = [&(-1i32).to_be_bytes()[..], &(-1i64).to_be_bytes(), &0i32.to_be_bytes(),
                        &kind.to_be_bytes(), &3i32.to_be_bytes(), &text(&path)].concat();
                    send(&mut stream, &body).await;
                }
            }
        }
    }

    fn answer(&self, request: &[u8]) -> Vec<u8> {
        let int = |at: usize| i32::from_be_bytes(request[at..at + 4].try_into().unwrap());
        let head = |error: i32| [&int(0).to_be_bytes()[..], &7i64.to_be_bytes(), &error.to_be_bytes()].concat();
        if int(4) == 11 {
            return head(0);
        }
        let path = String::from_utf8(request[12..request.len() - 1].to_vec()).unwrap();
        let nodes = self.nodes.lock().unwrap();
        let Some(data) = nodes.get(&path) else { return head(-101) };
        if int(4) == 4 {
            return [head(0), (data.len() as u32).to_be_bytes().to_vec(), data.clone(), vec![0; 68]].concat();
        }
        let below = format!("{}/", path.trim_end_matches('/'));
        let names: Vec<&str> = nodes
            .keys()
            .filter_map(|node| node.strip_prefix(&below))
            .filter(|name| !name.contains('/') && !name.is_empty())
            .collect();
        let mut body = [head(0), (names.len() as u32).to_be_bytes().to_vec()].concat();
        names.iter().for_each(|name| body.extend(text(name)));
        body.extend([0; 68]);
        body
    }

    fn set(&self, path: &str, data: &str) {
        self.nodes.lock().unwrap().insert(path.to_owned(), data.as_bytes().to_vec());
    }

    fn tell(&self, kind: i32, path: &str) {
        let _ = self.events.send((kind, path.to_owned()));
    }
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes()[..], text.as_bytes()].concat()
}

async fn frame_of(stream: &mut (impl AsyncReadExt + Unpin)) -> Option<Vec<u8>> {
    let length = stream.read_u32().await.ok()?;
    let mut body = vec![0; length as usize];
    stream.read_exact(&mut body).await.ok()?;
    Some(body)
}

async fn send(stream: &mut (impl AsyncWriteExt + Unpin), body: &[u8]) {
    let _ = stream.write_all(&[&(body.len() as u32).to_be_bytes()[..], body].concat()).await;
}

struct Followed {
    state: watch::Receiver<DiscoveryState>,
    tasks: [tokio::task::JoinHandle<()>; 2],
}

impl Followed {
    fn start(port: u16, paths: &str) -> Followed {
        let yaml = format!(
            "scrape_configs: [{{job_name: j, nerve_sd_configs: [{{servers: ['127.0.0.1:{port}'], paths: [{paths}]}}]}}]"
        );
        let config = config::parse_config("prometheus.yml".as_ref(), &yaml, &Env::process()).unwrap();
        let discovery = config.scrape_configs[0].discoveries[0].clone();
        let Discovery::Mechanism(settings) = &discovery else { panic!() };
        let (updates, mut inbox) = mpsc::channel::<Update>(UPDATES_MAX);
        let report = Reporter {
            source: SourceId(0),
            kind: settings.kind,
            updates,
            found: DiscoveryState::default(),
            failures_in_row: 0,
            keep: DiscoveryContext::default().keeper,
            discovery: discovery.clone(),
        };
        let (sender, state) = watch::channel(DiscoveryState::default());
        let collect = tokio::spawn(async move {
            while let Some(update) = inbox.recv().await {
                sender.send_replace(update.found);
            }
        });
        Followed { state, tasks: [tokio::spawn(follow(settings.clone(), report)), collect] }
    }

    async fn wait(&mut self, want: &[&str], error: &str) -> DiscoveryState {
        let is_so = |state: &DiscoveryState| {
            let got: Vec<&str> =
                state.groups.iter().map(|group| group.targets[0].get("__address__").unwrap()).collect();
            let errors = state.errors.join(" ");
            got == want && if error.is_empty() { errors.is_empty() } else { errors.contains(error) }
        };
        let found =
            tokio::time::timeout(PATIENCE, self.state.wait_for(is_so)).await.map(|state| state.unwrap().clone());
        found.unwrap_or_else(|_| panic!("{want:?} {error:?}: {:?}", self.state.borrow()))
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

fn member(host: &str) -> String {
    format!(r#"{{"host": "{host}", "port": 80, "name": "m"}}"#)
}

#[tokio::test]
async fn members_come_change_and_go() {
    let (one, two) = (member("h1"), member("h2"));
    let (fake, port, _task) =
        Fake::start(&[("/s", ""), ("/s/web", "inner"), ("/s/web/1", &one), ("/s/web/2", &two), ("/other", "")]).await;
    let mut followed = Followed::start(port, "/s, /other/");
    let first = followed.wait(&["h1:80", "h2:80"], "").await;
    fake.set("/s/web/1", &member("h9"));
    fake.tell(3, "/s/web/1");
    let state = followed.wait(&["h9:80", "h2:80"], "").await;
    assert!(Arc::ptr_eq(&state.groups[1], &first.groups[1]), "a member that has not changed is the same one");
    fake.set("/s/db", "");
    fake.set("/s/db/1", &member("h3"));
    fake.tell(4, "/s");
    followed.wait(&["h3:80", "h9:80", "h2:80"], "").await;
    fake.nodes.lock().unwrap().remove("/s/web/2");
    fake.tell(2, "/s/web/2");
    fake.tell(4, "/s/web");
    followed.wait(&["h3:80", "h9:80"], "").await;
    // The session is lost; meanwhile a member has gone.
    fake.nodes.lock().unwrap().remove("/s/db/1");
    fake.tell(0, "");
    followed.wait(&["h3:80", "h9:80"], "closed").await;
    followed.wait(&["h9:80"], "").await;
}

#[tokio::test]
async fn a_path_that_does_not_exist_and_servers_that_lie_are_errors() {
    let (_fake, port, _task) = Fake::start(&[("/s", "")]).await;
    let mut followed = Followed::start(port, "/s, /none");
    followed.wait(&[], "path \"/none\" does not exist").await;
    let (fake, port, _task) = Fake::start(&[("/s", &member("h"))]).await;
    let mut followed = Followed::start(port, "/s");
    followed.wait(&["h:80"], "").await;
    *fake.lie.lock().unwrap() = Some(u32::MAX.to_be_bytes().to_vec());
    fake.tell(0, "");
    followed.wait(&["h:80"], "closed").await;
    followed.wait(&["h:80"], "is larger than").await;
}

#[track_caller]
fn check(kind: &str, data: &str, want: Option<&str>) {
    let labels = target(kind, "/p/m", data.as_bytes()).unwrap();
    let shown = |labels: Labels| {
        let one = |(name, value): (&str, &str)| {
            let name = name.strip_prefix("__meta_").unwrap_or(name);
            format!("{name}={value}")
        };
        labels.iter().map(one).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(labels.map(shown).as_deref(), want, "{data}");
}

#[test]
fn members_become_targets() {
    check(
        "serverset",
        r#"{"serviceEndpoint": {"host": "10.9.0.1", "port": 31000}, "status": "ALIVE", "shard": 0,
            "additionalEndpoints": {"aux-1": {"host": "10.9.0.1", "port": 31001}}}"#,
        Some(
            "__address__=10.9.0.1:31000 serverset_endpoint_host=10.9.0.1 serverset_endpoint_host_aux_1=10.9.0.1 \
             serverset_endpoint_port=31000 serverset_endpoint_port_aux_1=31001 serverset_path=/p/m \
             serverset_shard=0 serverset_status=ALIVE",
        ),
    );
    check(
        "nerve",
        r#"{"host": "fd00::9", "port": 80, "name": "web-1"}"#,
        Some(
            "__address__=[fd00::9]:80 nerve_endpoint_host=fd00::9 nerve_endpoint_name=web-1 nerve_endpoint_port=80 nerve_path=/p/m",
        ),
    );
    for none in ["", "x", "[]", "null", r#"{"serviceEndpoint": {"host": "#, r#"{"status": {}}"#] {
        check("serverset", none, None);
    }
}
