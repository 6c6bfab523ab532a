//! TCP connections to a name with several addresses, as RFC 8305 ("happy eyeballs") has it: an address that swallows packets
//! holds a connection up for [`NEXT_AFTER`], not for the minutes of TCP's own attempts.
//!
//! Invariants:
//!   * IPv6 and IPv4 addresses take turns, beginning with the resolver's first choice
//!   * the first connection wins; the other attempts end with it
//!   * at most [`ADDRESSES_MAX`] addresses are tried

use crate::{Error, ErrorKind};
use ring::rand::SecureRandom;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// How long an attempt is alone before the next address is tried. RFC 8305 recommends it.
const NEXT_AFTER: Duration = Duration::from_millis(250);
/// Addresses of a name that are tried: a resolver may return hundreds.
const ADDRESSES_MAX: usize = 16;

/// Connects to a name or address.
pub async fn dial(host: &str, port: u16, random_address: bool) -> Result<TcpStream, Error> {
    let name = host.trim_start_matches('[').trim_end_matches(']');
    let addresses = tokio::net::lookup_host((name, port))
        .await
        .map_err(|error| Error::new(ErrorKind::Connect, format!("looking up {name:?}: {error}")))?;
    let mut addresses: Vec<SocketAddr> = addresses.collect();
    if random_address {
        let first = random_below(addresses.len());
        addresses.rotate_left(first);
    } else {
        addresses = interleave(&addresses);
    }
    addresses.truncate(ADDRESSES_MAX);
    let stream = connect_first(&addresses, NEXT_AFTER).await;
    let stream = stream.ok_or_else(|| Error::new(ErrorKind::Connect, format!("{name:?} has no address")))??;
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// A number below `count`; 0 for 0.
fn random_below(count: usize) -> usize {
    let mut bytes = [0; 8];
    // Without randomness the first address is as good as any.
    let _ = ring::rand::SystemRandom::new().fill(&mut bytes);
    u64::from_le_bytes(bytes).checked_rem(count as u64).unwrap_or(0) as usize
}

/// Addresses of both families in turn, in the order of each, beginning with the family of the first.
fn interleave(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut one, mut other) = (
        addresses.iter().filter(|a| a.is_ipv6() == first_is_v6),
        addresses.iter().filter(|a| a.is_ipv6() != first_is_v6),
    );
    let mut all = Vec::with_capacity(addresses.len());
    while all.len() < addresses.len() {
        all.extend(one.next());
        all.extend(other.next());
    }
    all
}

/// The first connection of attempts that begin one after the other: each when the one before failed, or after a while. The
/// last error if all fail, nothing without addresses.
async fn connect_first(addresses: &[SocketAddr], next_after: Duration) -> Option<Result<TcpStream, Error>> {
    let mut attempts = JoinSet::new();
    let mut addresses = addresses.iter().copied();
    let mut outcome = None;
    loop {
        let next = addresses.next();
        if let Some(address) = next {
            attempts.spawn(async move { (address, TcpStream::connect(address).await) });
        }
        let pause = async {
            match next {
                Some(_) => tokio::time::sleep(next_after).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ended = attempts.join_next() => match ended {
                Some(Ok((_, Ok(stream)))) => return Some(Ok(stream)),
                Some(Ok((address, Err(error)))) => {
                    let text = format!("connecting to {address}: {error}");
                    outcome = Some(Err(Error::new(ErrorKind::Connect, text)));
                }
                Some(Err(panic)) => outcome = Some(Err(Error::new(ErrorKind::Connect, panic.to_string()))),
                None => return outcome,
            },
            () = pause => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::{Domain, Socket, Type};
    use std::net::TcpListener;
    use std::time::Instant;

    /// An address where connections neither come about nor fail: a listener whose queue is full.
    struct Silent {
        address: SocketAddr,
        _listener: Socket,
        _waiting: Vec<Socket>,
    }

    impl Silent {
        fn new() -> Silent {
            let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            listener.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
            listener.listen(0).unwrap();
            let address = listener.local_addr().unwrap().as_socket().unwrap();
            let connect = |_| {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
                socket.set_nonblocking(true).unwrap();
                let _ = socket.connect(&address.into());
                socket
            };
            Silent { address, _waiting: (0..8).map(connect).collect(), _listener: listener }
        }
    }

    fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    #[tokio::test]
    async fn an_address_that_swallows_packets_does_not_hold_up_the_next() {
        let (silent, (_listener, good)) = (Silent::new(), listener());
        let begun = Instant::now();
        let stream = connect_first(&[silent.address, silent.address, good], Duration::from_millis(50)).await;
        assert_eq!(stream.unwrap().unwrap().peer_addr().unwrap(), good);
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(100) && took < Duration::from_secs(5), "{took:?}");
    }

    #[tokio::test]
    async fn an_address_that_refuses_is_followed_at_once() {
        let (listener, refusing) = listener();
        drop(listener);
        let (_listener, good) = self::listener();
        let stream = connect_first(&[refusing, good], Duration::from_secs(60)).await;
        assert_eq!(stream.unwrap().unwrap().peer_addr().unwrap(), good);
        let error = connect_first(&[refusing], NEXT_AFTER).await.unwrap().unwrap_err();
        assert!(error.text.starts_with(&format!("connecting to {refusing}: ")), "{error}");
        assert!(connect_first(&[], NEXT_AFTER).await.is_none());
    }

    #[test]
    fn families_take_turns() {
        let addresses = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<SocketAddr>>();
        let check = |all: &[&str], want: &[&str]| assert_eq!(interleave(&addresses(all)), addresses(want));
        check(&[], &[]);
        check(&["1.1.1.1:1", "2.2.2.2:1"], &["1.1.1.1:1", "2.2.2.2:1"]);
        check(
            &["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1", "2.2.2.2:1"],
            &["[::1]:1", "1.1.1.1:1", "[::2]:1", "2.2.2.2:1", "[::3]:1"],
        );
        check(&["1.1.1.1:1", "[::1]:1", "[::2]:1"], &["1.1.1.1:1", "[::1]:1", "[::2]:1"]);
    }
}
