//! A server for one test: plain or TLS, one answer per request, decided by a closure that sees the whole request.
#![allow(dead_code, reason = "each test program uses its part")]

use std::sync::{Arc, Mutex};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

type Answer = Arc<dyn Fn(&str) -> Vec<u8> + Send + Sync>;

pub struct Server {
    pub port: u16,
    /// Every request as it came, head and body.
    pub seen: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub async fn plain(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Server {
        Server::start(None, Arc::new(answer)).await
    }

    pub async fn tls(config: rustls::ServerConfig, answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Server {
        Server::start(Some(TlsAcceptor::from(Arc::new(config))), Arc::new(answer)).await
    }

    async fn start(tls: Option<TlsAcceptor>, answer: Answer) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let notes = seen.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, answer, notes) = (tls.clone(), answer.clone(), notes.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, answer, notes).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, answer, notes).await;
                            }
                        }
                    }
                });
            }
        });
        Server { port, seen }
    }

    pub fn url(&self, path: &str) -> url::Url {
        format!("http://127.0.0.1:{}{path}", self.port).parse().unwrap()
    }

    pub fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    pub fn last(&self) -> String {
        self.seen.lock().unwrap().last().cloned().unwrap_or_default()
    }
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: Answer, notes: Arc<Mutex<Vec<String>>>) {
    while let Some(request) = request(&mut stream).await {
        notes.lock().unwrap().push(request.clone());
        if let Some(rest) = request.strip_prefix("CONNECT ") {
            let to = rest.split(' ').next().unwrap();
            let bytes = answer(&request);
            stream.write_all(&bytes).await.unwrap();
            if bytes.starts_with(b"HTTP/1.1 200") {
                let mut behind = TcpStream::connect(to).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut behind).await;
            }
            return;
        }
        let bytes = answer(&request);
        if bytes.is_empty() {
            // Never answers.
            std::future::pending::<()>().await;
        }
        if stream.write_all(&bytes).await.is_err() || !String::from_utf8_lossy(&bytes).contains("Content-Length") {
            return;
        }
    }
}

async fn request(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(bytes).unwrap();
    let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).await.ok()?;
    Some(head + &String::from_utf8(body).unwrap())
}

pub fn ok(body: &str) -> Vec<u8> {
    answer("200 OK", "", body.as_bytes())
}

pub fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}
