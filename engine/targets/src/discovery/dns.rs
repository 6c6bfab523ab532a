//! Targets from DNS records: A, AAAA, SRV, MX, NS.
//!
//! A name that cannot be resolved keeps its last valid records; a name that does not exist has none.

use super::{Group, ReceiverClosed, Reporter, host_port};
use config::{DnsSdConfig, DnsType};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};
use series::Labels;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Time for one query to one server.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Reports the records of the names until it is dropped.
pub async fn follow(settings: DnsSdConfig, servers: Vec<SocketAddr>, mut report: Reporter) {
    let name_of = |group: &Arc<Group>| Some(group.targets.first()?.get("__meta_dns_name")?.to_owned());
    let mut good: BTreeMap<String, Arc<Group>> =
        report.groups().iter().filter_map(|group| Some((name_of(group)?, group.clone()))).collect();
    good.retain(|name, _| settings.names.contains(name));
    loop {
        let mut errors = Vec::new();
        match resolver(&servers) {
            Ok(resolver) => {
                let mut lookups = JoinSet::new();
                for name in &settings.names {
                    let (resolver, name, settings) = (resolver.clone(), name.clone(), settings.clone());
                    lookups.spawn(async move {
                        let since = Instant::now();
                        let answer = look_up(&resolver, &name, &settings).await;
                        (name, since, answer)
                    });
                }
                while let Some(Ok((name, since, answer))) = lookups.join_next().await {
                    report.attempted(since);
                    match answer {
                        Ok(targets) => {
                            good.insert(name, Arc::new(Group { targets, labels: Labels::empty() }));
                        }
                        Err(error) => {
                            let kept = if good.contains_key(&name) { "; its last good records are in use" } else { "" };
                            errors.push(format!("{name}: {error}{kept}"));
                        }
                    }
                }
            }
            Err(error) => errors.push(error),
        }
        errors.sort();
        // If no name was resolved, only the errors are new.
        let told = if errors.len() >= settings.names.len() {
            report.failed(errors.join("; ")).await
        } else {
            errors.iter().for_each(|_| report.count_failure());
            report.good(good.values().cloned().collect(), errors).await
        };
        if let Err(ReceiverClosed) = told {
            return;
        }
        report.pause(settings.refresh_interval).await;
    }
}

/// Created for each refresh, so that a changed /etc/resolv.conf takes effect and no record comes from a cache.
fn resolver(servers: &[SocketAddr]) -> Result<TokioResolver, String> {
    let provider = TokioRuntimeProvider::default();
    let builder = if servers.is_empty() {
        TokioResolver::builder(provider).map_err(|error| format!("/etc/resolv.conf: {error}"))?
    } else {
        let connection = |mut connection: ConnectionConfig, port| {
            connection.port = port;
            connection
        };
        let server = |address: &SocketAddr| {
            let connections = vec![
                connection(ConnectionConfig::udp(), address.port()),
                connection(ConnectionConfig::tcp(), address.port()),
            ];
            NameServerConfig::new(address.ip(), true, connections)
        };
        let config = ResolverConfig::from_name_servers(servers.iter().map(server).collect());
        TokioResolver::builder_with_config(config, provider)
    };
    let mut builder = builder;
    let options = builder.options_mut();
    options.cache_size = 0;
    options.timeout = ANSWER_WITHIN;
    // Names in /etc/hosts are not DNS records.
    options.use_hosts_file = hickory_resolver::config::ResolveHosts::Never;
    builder.build().map_err(|error| error.to_string())
}

async fn look_up(resolver: &TokioResolver, name: &str, settings: &DnsSdConfig) -> Result<Vec<Labels>, String> {
    let kind = match settings.r#type {
        DnsType::Srv => RecordType::SRV,
        DnsType::A => RecordType::A,
        DnsType::Aaaa => RecordType::AAAA,
        DnsType::Mx => RecordType::MX,
        DnsType::Ns => RecordType::NS,
    };
    let answer = match resolver.lookup(name, kind).await {
        Ok(answer) => answer,
        Err(error) if error.is_no_records_found() || error.is_nx_domain() => return Ok(Vec::new()),
        Err(error) => return Err(error.to_string()),
    };
    let mut targets: Vec<Labels> =
        answer.answers().iter().filter_map(|record| target(name, settings.port, &record.data)).collect();
    // Servers return records in changing order.
    targets.sort();
    targets.dedup();
    Ok(targets)
}

/// Returns the target of a record, or none for a record that refers to others.
fn target(name: &str, port: u64, data: &RData) -> Option<Labels> {
    let unrooted = |name: &str| name.trim_end_matches('.').to_owned();
    let mut more: Vec<(&str, String)> = Vec::new();
    let address = match data {
        RData::A(address) => host_port(&address.to_string(), port),
        RData::AAAA(address) => host_port(&address.to_string(), port),
        RData::SRV(srv) => {
            let target = srv.target.to_string();
            let address = host_port(&unrooted(&target), srv.port);
            more.push(("__meta_dns_srv_record_target", target));
            more.push(("__meta_dns_srv_record_port", srv.port.to_string()));
            address
        }
        RData::MX(mx) => {
            let target = mx.exchange.to_string();
            let address = host_port(&unrooted(&target), port);
            more.push(("__meta_dns_mx_record_target", target));
            address
        }
        RData::NS(ns) => {
            let target = ns.0.to_string();
            let address = host_port(&unrooted(&target), port);
            more.push(("__meta_dns_ns_record_target", target));
            address
        }
        _ => return None,
    };
    more.push(("__address__", address));
    more.push(("__meta_dns_name", name.to_owned()));
    Some(Labels::from_pairs(more))
}
