//! Mechanisms that call a service for a list again and again.
//!
//! A mechanism is a description: a function that calls (`Session` bounds and counts its requests), and tables of labels
//! (`Label`). What all have in common is here: the rhythm, errors, the last valid list, and groups that stay the same `Arc`
//! while their target does not change. Each mechanism has its fixture in `fixtures`: requests, answers and targets.
//!
//! Invariants:
//!   * a refresh gives a whole list or an error; parts that may be left out are told beside the list
//!   * targets are sorted, so that the order of an answer is no change
//!   * a refresh that takes longer than [`REFRESH_WITHIN`] is an error

mod aws;
mod azure;
mod clock;
mod clouds;
mod dockerswarm;
mod eureka;
mod gce;
mod hetzner;
mod jwt;
mod kuma;
mod linode;
mod marathon;
mod nomad;
mod oci;
mod openstack;
mod outscale;
mod ovhcloud;
mod puppetdb;
pub mod row;
mod scaleway;
mod session;
mod sigv4;
mod stackit;
mod triton;
mod uyuni;
mod xml;

#[cfg(test)]
mod tests;

use super::{Group, ReceiverClosed, Reporter};
use ahash::HashMap;
use client::Url;
use config::MechanismConfig;
use series::Labels;
use session::Session;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Time of a whole refresh with all its requests.
const REFRESH_WITHIN: Duration = Duration::from_secs(600);

/// The result of a refresh: the targets, or nothing if the list is unchanged.
type Refreshed = Result<Option<Vec<Labels>>, String>;
type Refreshing<'a> = Pin<Box<dyn Future<Output = Refreshed> + Send + 'a>>;

/// A mechanism: its name, and how a list is obtained.
struct Mechanism {
    kind: &'static str,
    refresh: for<'a> fn(&'a Session) -> Refreshing<'a>,
}

/// Makes an entry of [`MECHANISMS`] of a module with a function `targets`, which returns all targets.
macro_rules! mechanism {
    ($kind:literal, $targets:path) => {
        Mechanism { kind: $kind, refresh: |session| Box::pin(async move { $targets(session).await.map(Some) }) }
    };
}

const MECHANISMS: &[Mechanism] = &[
    mechanism!("azure", azure::targets),
    mechanism!("digitalocean", clouds::digitalocean),
    mechanism!("dockerswarm", dockerswarm::targets),
    mechanism!("ec2", aws::ec2::targets),
    mechanism!("ecs", aws::ecs::targets),
    mechanism!("elasticache", aws::elasticache::targets),
    mechanism!("eureka", eureka::targets),
    mechanism!("gce", gce::targets),
    mechanism!("hetzner", hetzner::targets),
    mechanism!("ionos", clouds::ionos),
    Mechanism { kind: "kuma", refresh: |session| Box::pin(kuma::targets(session)) },
    mechanism!("lightsail", aws::lightsail::targets),
    Mechanism { kind: "linode", refresh: |session| Box::pin(linode::targets(session)) },
    mechanism!("marathon", marathon::targets),
    mechanism!("msk", aws::msk::targets),
    mechanism!("nomad", nomad::targets),
    mechanism!("oci", oci::targets),
    mechanism!("openstack", openstack::targets),
    mechanism!("outscale", outscale::targets),
    mechanism!("ovhcloud", ovhcloud::targets),
    mechanism!("puppetdb", puppetdb::targets),
    mechanism!("rds", aws::rds::targets),
    mechanism!("scaleway", scaleway::targets),
    mechanism!("stackit", stackit::targets),
    mechanism!("triton", triton::targets),
    mechanism!("uyuni", uyuni::targets),
    mechanism!("vultr", clouds::vultr),
];

/// Reports the lists of the service until it is dropped.
pub async fn follow(settings: MechanismConfig, report: Reporter) {
    follow_at(settings, report, None).await;
}

/// Does the same; all requests go to the server `instead`, if there is one.
async fn follow_at(settings: MechanismConfig, mut report: Reporter, instead: Option<Url>) {
    let interval = settings.refresh_interval();
    let kind = settings.mechanism();
    // A long poll takes as long as its section says.
    let within = REFRESH_WITHIN.max(settings.duration("fetch_timeout") + REFRESH_WITHIN / 10);
    let Some(mechanism) = MECHANISMS.iter().find(|mechanism| mechanism.kind == kind) else {
        let _ = report.failed(format!("there is no mechanism {kind}")).await;
        return;
    };
    let session = match Session::new(settings.clone(), socket_of(&settings), instead) {
        Ok(session) => session,
        Err(error) => {
            let _ = report.failed(error).await;
            return;
        }
    };
    loop {
        let since = Instant::now();
        session.begin();
        let refreshed = tokio::time::timeout(within, (mechanism.refresh)(&session)).await;
        let refreshed = refreshed.unwrap_or_else(|_| Err(format!("a refresh takes longer than {within:?}")));
        report.attempted(since);
        report.count_requests(session.requests() as u64);
        report.count_cache_hits(session.take_cache_hits());
        let told = match refreshed {
            Ok(Some(targets)) => {
                let warnings = session.warnings().into_iter().map(|text| format!("{kind}: {text}")).collect();
                report.good(groups(targets, &report.groups()), warnings).await
            }
            Ok(None) => report.unchanged().await,
            Err(error) => report.failed(session.redacted(error)).await,
        };
        if let Err(ReceiverClosed) = told {
            return;
        }
        report.pause(interval).await;
    }
}

/// A Unix socket, where the section names one.
fn socket_of(settings: &MechanismConfig) -> Option<PathBuf> {
    settings.text("host").strip_prefix("unix://").map(PathBuf::from)
}

/// Returns a group per target, sorted; that of a target which was there before is the same one.
fn groups(mut targets: Vec<Labels>, before: &[Arc<Group>]) -> Vec<Arc<Group>> {
    targets.sort();
    let known: HashMap<&Labels, &Arc<Group>> = before
        .iter()
        .filter_map(|group| match group.targets.as_slice() {
            [target] => Some((target, group)),
            _ => None,
        })
        .collect();
    let group = |target: Labels| match known.get(&target) {
        Some(group) => (*group).clone(),
        None => Arc::new(Group { targets: vec![target], labels: Labels::empty() }),
    };
    targets.into_iter().map(group).collect()
}
