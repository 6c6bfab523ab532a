//! A connection's bytes, plain or in TLS. Never blocks.

use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use mio::net::TcpStream;
use rustls::{ServerConfig, ServerConnection};

/// The name in the farm's certificate.
pub const NAME: &str = "farm";

pub enum Wire {
    Plain(TcpStream),
    Tls(Box<Tls>),
}

pub struct Tls {
    socket: TcpStream,
    connection: ServerConnection,
}

/// Settings with a certificate that is made now, and signed by itself; scrapers find it in the file.
pub fn settings(certificate_file: Option<&Path>) -> anyhow::Result<Arc<ServerConfig>> {
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).context("making a certificate")?;
    if let Some(file) = certificate_file {
        std::fs::write(file, made.cert.pem()).with_context(|| file.display().to_string())?;
    }
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let settings = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())?;
    Ok(Arc::new(settings))
}

impl Wire {
    pub fn new(socket: TcpStream, settings: Option<&Arc<ServerConfig>>) -> io::Result<Wire> {
        Ok(match settings {
            None => Wire::Plain(socket),
            Some(settings) => {
                let connection = ServerConnection::new(settings.clone()).map_err(io::Error::other)?;
                Wire::Tls(Box::new(Tls { socket, connection }))
            }
        })
    }

    pub fn socket(&self) -> &TcpStream {
        match self {
            Wire::Plain(socket) => socket,
            Wire::Tls(tls) => &tls.socket,
        }
    }

    /// Whether a read that did not fill its buffer has emptied the socket.
    pub fn reads_all_at_once(&self) -> bool {
        matches!(self, Wire::Plain(_))
    }

    /// Hands on what was written; `false`: the socket is full.
    pub fn hand_on(&mut self) -> io::Result<bool> {
        let Wire::Tls(tls) = self else { return Ok(true) };
        while tls.connection.wants_write() {
            match tls.connection.write_tls(&mut tls.socket) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(true)
    }

    /// Says that nothing more comes.
    pub fn send_close_notify(&mut self) {
        if let Wire::Tls(tls) = self {
            tls.connection.send_close_notify();
            _ = self.hand_on();
        }
    }
}

impl Read for Wire {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let tls = match self {
            Wire::Plain(socket) => return socket.read(out),
            Wire::Tls(tls) => tls,
        };
        loop {
            match tls.connection.reader().read(out) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                // Gone without a word.
                Err(e) if e.kind() == ErrorKind::UnexpectedEof => return Ok(0),
                other => return other,
            }
            if tls.connection.read_tls(&mut tls.socket)? == 0 {
                return Ok(0);
            }
            let understood = tls.connection.process_new_packets();
            // The handshake's answers, and why it failed.
            while tls.connection.wants_write() && tls.connection.write_tls(&mut tls.socket).is_ok_and(|sent| sent > 0) {
            }
            understood.map_err(io::Error::other)?;
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let tls = match self {
            Wire::Plain(socket) => return socket.write(bytes),
            Wire::Tls(tls) => tls,
        };
        let taken = tls.connection.writer().write(bytes)?;
        self.hand_on()?;
        if taken == 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(taken) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.hand_on().map(drop)
    }
}
