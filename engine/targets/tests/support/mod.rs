//! Services that discovery asks, for tests: each answers as the test says at the moment.
#![allow(dead_code, reason = "each test program uses its part")]

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// One request: its path, its parameters and its whole head.
pub struct Ask {
    pub path: String,
    pub params: BTreeMap<String, String>,
    pub head: String,
}

impl Ask {
    pub fn param(&self, name: &str) -> &str {
        self.params.get(name).map_or("", String::as_str)
    }

    pub fn header(&self, name: &str) -> &str {
        self.head
            .lines()
            .find_map(|line| line.split_once(": ").filter(|(key, _)| key.eq_ignore_ascii_case(name)))
            .map_or("", |(_, value)| value)
    }
}

pub type Answering = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A server whose every connection serves one request.
pub struct Server {
    pub port: u16,
    /// Heads of all requests.
    pub seen: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    pub async fn start(answer: impl Fn(Ask, TcpStream) -> Answering + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let notes = seen.clone();
        let answer = Arc::new(answer);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let (answer, notes) = (answer.clone(), notes.clone());
                connections.spawn(async move {
                    let Some(ask) = read(&mut stream).await else { return };
                    notes.lock().unwrap().push(ask.head.clone());
                    answer(ask, stream).await;
                });
            }
        });
        Server { port, seen, task }
    }

    pub fn count(&self, part: &str) -> usize {
        self.seen.lock().unwrap().iter().filter(|head| head.contains(part)).count()
    }

    pub fn last(&self, part: &str) -> String {
        self.seen.lock().unwrap().iter().rev().find(|head| head.contains(part)).cloned().unwrap_or_default()
    }
}

impl Drop for Server {
    /// Ends its connections, too.
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Option<Ask> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(bytes).ok()?;
    let target = head.split(' ').nth(1)?.to_owned();
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let plain = |text: &str| {
        let mut out = Vec::new();
        let mut bytes = text.bytes();
        while let Some(byte) = bytes.next() {
            out.push(match byte {
                b'+' => b' ',
                b'%' => {
                    let digits = [bytes.next().unwrap_or(b'0'), bytes.next().unwrap_or(b'0')];
                    u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
                }
                byte => byte,
            });
        }
        String::from_utf8(out).unwrap()
    };
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let params = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(k, v)| (plain(k), plain(v)));
    Some(Ask { path: plain(path), params: params.collect(), head })
}

pub async fn reply(stream: &mut (impl AsyncWrite + Unpin), status: &str, headers: &str, body: &[u8]) {
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n");
    let _ = stream.write_all(&[head.as_bytes(), body].concat()).await;
    let _ = stream.shutdown().await;
}

pub const JSON: &str = "Content-Type: application/json\r\n";

/// What a service of lists does now.
#[derive(Clone)]
pub enum Mood {
    List(String),
    Status(&'static str),
    /// A body of this type.
    Body(&'static str, String),
    /// Half of the body that it promises.
    Cut,
    /// Nothing, for ever.
    Silent,
}

/// A service for http_sd_configs. A list has its length as its ETag.
pub async fn list_service(mood: watch::Receiver<Mood>) -> Server {
    Server::start(move |ask, mut stream| {
        let mood = mood.borrow().clone();
        Box::pin(async move {
            match mood {
                Mood::List(list) => {
                    let tag = format!("\"{}\"", list.len());
                    if ask.header("if-none-match") == tag {
                        return reply(&mut stream, "304 Not Modified", "", b"").await;
                    }
                    reply(&mut stream, "200 OK", &format!("{JSON}ETag: {tag}\r\n"), list.as_bytes()).await;
                }
                Mood::Status(status) => reply(&mut stream, status, "", b"no").await,
                Mood::Body(kind, body) => {
                    reply(&mut stream, "200 OK", &format!("Content-Type: {kind}\r\n"), body.as_bytes()).await;
                }
                Mood::Cut => {
                    let head = format!("HTTP/1.1 200 OK\r\n{JSON}Content-Length: 100\r\n\r\n[{{\"targets\"");
                    let _ = stream.write_all(head.as_bytes()).await;
                }
                Mood::Silent => std::future::pending().await,
            }
        })
    })
    .await
}

/// A Consul: its index, the instances of each service, and what is wrong with it.
#[derive(Clone, Default)]
pub struct Catalogue {
    pub index: u64,
    /// Name, tags, and the answer of the health service.
    pub services: BTreeMap<String, (Vec<String>, String)>,
    /// Instead of any answer.
    pub fault: Option<&'static str>,
    /// A service that answers with this status.
    pub faulty: Option<(&'static str, &'static str)>,
}

impl Catalogue {
    /// Has a service with these addresses; the index moves.
    pub fn set(&mut self, name: &str, tags: &[&str], addresses: &[&str]) {
        self.index += 1;
        let entry = |address: &&str| {
            let (host, port) = address.rsplit_once(':').unwrap();
            format!(
                r#"{{"Node": {{"Node": "n", "Address": "{host}", "Datacenter": "dc1"}},
                "Service": {{"ID": "{name}-1", "Service": "{name}", "Tags": {tags:?}, "Port": {port}}}, "Checks": []}}"#
            )
        };
        let entries = addresses.iter().map(entry).collect::<Vec<_>>().join(",");
        let tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
        self.services.insert(name.to_owned(), (tags, format!("[{entries}]")));
    }
}

/// A Consul that holds a query until its index has moved on.
pub async fn consul(catalogue: watch::Receiver<Catalogue>) -> Server {
    Server::start(move |ask, mut stream| {
        let mut catalogue = catalogue.clone();
        Box::pin(async move {
            if ask.path == "/v1/agent/self" {
                return reply(&mut stream, "200 OK", JSON, br#"{"Config": {"Datacenter": "dc1"}}"#).await;
            }
            let seen: u64 = ask.param("index").parse().unwrap_or(0);
            let moved = catalogue.wait_for(|now| seen == 0 || now.index != seen || now.fault.is_some());
            let Ok(now) = tokio::time::timeout(Duration::from_secs(60), moved).await.unwrap().map(|now| now.clone())
            else {
                return;
            };
            if let Some(fault) = now.fault {
                return reply(&mut stream, fault, "", b"").await;
            }
            let body = match ask.path.strip_prefix("/v1/health/service/") {
                Some(name) if now.faulty.is_some_and(|(faulty, _)| faulty == name) => {
                    let status = now.faulty.map_or("", |(_, status)| status);
                    return reply(&mut stream, status, "", b"no").await;
                }
                Some(name) => now.services.get(name).map_or("[]".to_owned(), |(_, entries)| entries.clone()),
                None => {
                    let services = now.services.iter().map(|(name, (tags, _))| format!("{name:?}: {tags:?}"));
                    format!("{{{}}}", services.collect::<Vec<_>>().join(","))
                }
            };
            let index = format!("{JSON}X-Consul-Index: {}\r\n", now.index);
            reply(&mut stream, "200 OK", &index, body.as_bytes()).await;
        })
    })
    .await
}

/// dnsmasq on a port of its own, with these records as its options have them.
pub struct Dnsmasq {
    child: Child,
    pub address: SocketAddr,
}

impl Dnsmasq {
    /// Returns once it answers.
    pub fn start(records: &[&str]) -> Dnsmasq {
        // An address of its own, so that no other test's port is in the way.
        let socket = UdpSocket::bind("127.0.0.7:0").unwrap();
        let address = socket.local_addr().unwrap();
        drop(socket);
        let child = Command::new("dnsmasq")
            .args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--no-daemon"])
            .args(["--bind-interfaces", "--user=root", "--pid-file", "--cache-size=0", "--local=/test/"])
            .arg(format!("--listen-address={}", address.ip()))
            .arg(format!("--port={}", address.port()))
            .args(records)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("dnsmasq is installed: make test-deps");
        let dnsmasq = Dnsmasq { child, address };
        let probe = UdpSocket::bind("127.0.0.1:0").unwrap();
        probe.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let query = b"\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01x\x04test\x00\x00\x01\x00\x01";
        for _ in 0..150 {
            let _ = probe.send_to(query, address);
            if probe.recv(&mut [0; 512]).is_ok() {
                return dnsmasq;
            }
        }
        panic!("dnsmasq does not answer");
    }

    pub fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        self.stop();
    }
}
