//! Which proxy a request goes through, if any: `proxy_url`, `no_proxy` and the environment, by Go's rules.

use std::net::IpAddr;
use url::Url;

/// The proxies of one client.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Proxies {
    http: Option<Url>,
    https: Option<Url>,
    exceptions: Vec<Exception>,
    /// Go never sends requests for this machine through a proxy that has exceptions or comes from the environment.
    spares_loopback: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum Exception {
    Everything,
    Network {
        network: IpAddr,
        prefix_bits: u8,
    },
    Address {
        address: IpAddr,
        port: Option<u16>,
    },
    /// `.domain`, and the domain itself if `with_itself`.
    Domain {
        suffix: String,
        with_itself: bool,
        port: Option<u16>,
    },
}

impl Proxies {
    /// As the settings say. `env` gives variables of the environment.
    pub fn new(
        url: Option<&Url>,
        no_proxy: &str,
        from_environment: bool,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Proxies, String> {
        if !from_environment {
            let exceptions = exceptions(no_proxy);
            let spares_loopback = !no_proxy.is_empty();
            return Ok(Proxies { http: url.cloned(), https: url.cloned(), exceptions, spares_loopback });
        }
        let variable = |upper: &str| env(upper).or_else(|| env(&upper.to_ascii_lowercase())).unwrap_or_default();
        let proxy = |name: &str| {
            let text = variable(name);
            if text.is_empty() {
                return Ok(None);
            }
            let has_scheme = text.contains("://");
            let url = Url::parse(&if has_scheme { text } else { format!("http://{text}") });
            url.map(Some).map_err(|_| format!("the environment's {name} is not the URL of a proxy"))
        };
        let no_proxy = variable("NO_PROXY");
        Ok(Proxies {
            http: proxy("HTTP_PROXY")?,
            https: proxy("HTTPS_PROXY")?,
            exceptions: exceptions(&no_proxy),
            spares_loopback: true,
        })
    }

    /// The proxy for a request.
    pub fn of(&self, is_https: bool, host: &str, port: u16) -> Option<&Url> {
        let proxy = if is_https { self.https.as_ref()? } else { self.http.as_ref()? };
        let host = host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.').to_ascii_lowercase();
        let address: Option<IpAddr> = host.parse().ok();
        let is_loopback = host == "localhost" || address.is_some_and(|address| address.is_loopback());
        if self.spares_loopback && is_loopback {
            return None;
        }
        let spared = self.exceptions.iter().any(|exception| exception.holds(&host, address, port));
        (!spared).then_some(proxy)
    }
}

impl Exception {
    fn holds(&self, host: &str, address: Option<IpAddr>, port: u16) -> bool {
        match self {
            Exception::Everything => true,
            Exception::Network { network, prefix_bits } => match (address, network) {
                (Some(IpAddr::V4(address)), IpAddr::V4(network)) => {
                    let mask = u32::MAX.checked_shl(32 - u32::from(*prefix_bits)).unwrap_or(0);
                    address.to_bits() & mask == network.to_bits() & mask
                }
                (Some(IpAddr::V6(address)), IpAddr::V6(network)) => {
                    let mask = u128::MAX.checked_shl(128 - u32::from(*prefix_bits)).unwrap_or(0);
                    address.to_bits() & mask == network.to_bits() & mask
                }
                _ => false,
            },
            Exception::Address { address: spared, port: only } => {
                address == Some(*spared) && only.is_none_or(|only| only == port)
            }
            Exception::Domain { suffix, with_itself, port: only } => {
                let within = host.ends_with(suffix.as_str()) || (*with_itself && host == &suffix[1..]);
                within && only.is_none_or(|only| only == port)
            }
        }
    }
}

fn exceptions(text: &str) -> Vec<Exception> {
    text.split(',').filter_map(|item| exception(&item.trim().to_ascii_lowercase())).collect()
}

fn exception(item: &str) -> Option<Exception> {
    if item.is_empty() {
        return None;
    }
    if item == "*" {
        return Some(Exception::Everything);
    }
    if let Some((network, bits)) = item.split_once('/') {
        let network: IpAddr = network.parse().ok()?;
        let bits_max = if network.is_ipv4() { 32 } else { 128 };
        let prefix_bits = bits.parse().ok().filter(|bits| *bits <= bits_max)?;
        return Some(Exception::Network { network, prefix_bits });
    }
    let unbracketed = |host: &str| host.trim_start_matches('[').trim_end_matches(']').to_owned();
    if let Ok(address) = unbracketed(item).parse() {
        return Some(Exception::Address { address, port: None });
    }
    let (host, port) = match item.rsplit_once(':') {
        Some((host, port)) => (host, Some(port.parse().ok()?)),
        None => (item, None),
    };
    if let Ok(address) = unbracketed(host).parse() {
        return Some(Exception::Address { address, port });
    }
    let host = host.strip_prefix('*').unwrap_or(host);
    let with_itself = !host.starts_with('.');
    let suffix = if with_itself { format!(".{host}") } else { host.to_owned() };
    Some(Exception::Domain { suffix, with_itself, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(no_proxy: &str, host: &str, port: u16, is_proxied: bool) {
        let url = Url::parse("http://proxy:3128").unwrap();
        let proxies = Proxies::new(Some(&url), no_proxy, false, |_| None).unwrap();
        assert_eq!(proxies.of(true, host, port).is_some(), is_proxied, "{no_proxy:?} {host}:{port}");
    }

    #[test]
    fn exceptions_are_those_of_go() {
        check("", "localhost", 80, true);
        check("x", "localhost", 80, false);
        check("x", "127.0.0.1", 80, false);
        check("*", "a.example", 80, false);
        check("example.com", "example.com", 80, false);
        check("example.com", "a.example.com", 80, false);
        check("example.com", "anexample.com", 80, true);
        check(".example.com", "example.com", 80, true);
        check(".example.com", "a.example.com", 80, false);
        check("*.example.com", "a.EXAMPLE.com", 80, false);
        check("example.com:81", "example.com", 80, true);
        check("example.com:80", "example.com", 80, false);
        check("10.0.0.0/8, x", "10.9.8.7", 80, false);
        check("10.0.0.0/8", "11.9.8.7", 80, true);
        check("0.0.0.0/0", "11.9.8.7", 80, false);
        check("fd00::/8", "[fd00::1]", 80, false);
        check("10.0.0.1:81", "10.0.0.1", 80, true);
        check("10.0.0.1", "10.0.0.1", 80, false);
    }

    #[test]
    fn environment_is_asked_only_where_the_settings_say_so() {
        let env = |name: &str| match name {
            "https_proxy" => Some("secure:1".to_owned()),
            "HTTP_PROXY" => Some("http://plain:2".to_owned()),
            "NO_PROXY" => Some("spared".to_owned()),
            _ => None,
        };
        let none = Proxies::new(None, "", false, env).unwrap();
        assert_eq!(none.of(true, "h", 1), None);
        let proxies = Proxies::new(None, "", true, env).unwrap();
        assert_eq!(proxies.of(true, "h", 1).unwrap().as_str(), "http://secure:1/");
        assert_eq!(proxies.of(false, "h", 1).unwrap().as_str(), "http://plain:2/");
        assert_eq!(proxies.of(false, "spared", 1), None);
        let bad = |name: &str| (name == "HTTP_PROXY").then(|| "http://user:hush@:x".to_owned());
        assert!(!Proxies::new(None, "", true, bad).unwrap_err().contains("hush"));
    }
}
