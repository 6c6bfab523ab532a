//! Listening addresses as Go reads them.

use std::io;
use std::net::{Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 1024;

/// Listens at `host:port`. Without a host, or with `0.0.0.0`, this is every address of the machine, IPv6 and IPv4, as in
/// Prometheus; a machine without IPv6 listens on IPv4. The socket does not block: it is for an async runtime.
///
/// # Errors
///
/// An address that is none, or that cannot be listened at.
pub fn bind(address: &str) -> io::Result<TcpListener> {
    let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidInput, text);
    let (host, port) = address
        .rsplit_once(':')
        .ok_or_else(|| invalid(format!("{address:?} has no port; it should look like 0.0.0.0:9090 or :9090")))?;
    if host.contains(':') && !host.starts_with('[') {
        return Err(invalid(format!("{address:?} has too many colons; an IPv6 address stands in brackets")));
    }
    if matches!(host, "" | "0.0.0.0" | "[::]") {
        let port: u16 = port.parse().map_err(|_| invalid(format!("{address:?}: {port:?} is not a port")))?;
        match listen(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)), true) {
            Ok(listener) => return Ok(listener),
            // The kernel has no IPv6: EAFNOSUPPORT or EADDRNOTAVAIL.
            Err(error) if matches!(error.raw_os_error(), Some(97 | 99)) => {}
            Err(error) => return Err(error),
        }
        return listen(SocketAddr::from(([0, 0, 0, 0], port)), false);
    }
    let mut last = invalid(format!("{address:?} has no address"));
    for address in address.to_socket_addrs()? {
        match listen(address, false) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn listen(address: SocketAddr, both_families: bool) -> io::Result<TcpListener> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!both_families)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    #[test]
    fn an_address_without_host_is_every_address() {
        for address in [":0", "0.0.0.0:0", "[::]:0"] {
            let listener = bind(address).unwrap();
            let local = listener.local_addr().unwrap();
            TcpStream::connect(("127.0.0.1", local.port())).unwrap();
            if local.is_ipv6() {
                TcpStream::connect(("::1", local.port())).unwrap();
            }
        }
    }

    #[test]
    fn a_host_is_that_host() {
        let listener = bind("127.0.0.1:0").unwrap();
        assert!(listener.local_addr().unwrap().ip().is_loopback());
        for (address, want) in [("9090", "no port"), ("::1:9090", "colons"), (":x", "not a port"), ("a:b:1", "colons")]
        {
            let error = bind(address).unwrap_err().to_string();
            assert!(error.contains(want), "{address}: {error}");
        }
        let taken = bind(&listener.local_addr().unwrap().to_string()).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
    }
}
