//! Requests between members: two small ones over HTTP.
//!
//! `GET /api/v1/fleet/member` returns the identity of a member and its rules of division. `POST /api/v1/fleet/scraped` has ids
//! of targets and returns those that the member has scraped. Neither changes anything.
//!
//! Invariants:
//!   * a request has at most [`IDS_MAX`] ids, a response at most [`ANSWER_BYTES_MAX`]
//!   * a member that does not respond within [`ANSWER_WITHIN`] counts as unreachable until the next request

use crate::target::TargetId;
use client::{Client, ClientOptions, Request, Url, header};
use config::Fleet;
use fleet::Member;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// Largest number of ids in one request.
pub const IDS_MAX: usize = 10_000;
const ANSWER_BYTES_MAX: usize = 1 << 20;
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// Identity and state of a member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemberStatus {
    pub member: String,
    /// Equal for members that divide targets in the same way.
    pub fingerprint: String,
    pub external_labels: BTreeMap<String, String>,
    /// Number of targets that it scrapes, those in a handover included.
    pub targets: usize,
    pub leaving: usize,
}

/// Ids of targets, 16 hexadecimal digits each.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ids {
    pub targets: Vec<String>,
}

impl Ids {
    pub fn of(ids: impl IntoIterator<Item = TargetId>) -> Ids {
        Ids { targets: ids.into_iter().map(|id| format!("{:016x}", id.0)).collect() }
    }

    /// Returns those that are valid.
    pub fn ids(&self) -> impl Iterator<Item = TargetId> {
        self.targets.iter().filter_map(|text| u64::from_str_radix(text, 16).ok()).map(TargetId)
    }
}

#[derive(Deserialize)]
struct Envelope<T> {
    data: T,
}

/// Client for requests to other members.
pub struct Peers {
    client: Client,
    scheme: String,
}

impl Peers {
    pub fn new(settings: &Fleet) -> Result<Peers, String> {
        let options =
            ClientOptions { timeout: ANSWER_WITHIN, body_bytes_max: ANSWER_BYTES_MAX, ..ClientOptions::default() };
        let client = Client::new(&settings.http, options).map_err(|error| error.to_string())?;
        Ok(Peers { client, scheme: settings.scheme.clone() })
    }

    pub async fn about(&self, member: &Member) -> Result<MemberStatus, String> {
        self.request(Request::get(self.url(member, "member")?)).await
    }

    /// Returns which of these targets the member has scraped.
    pub async fn scraped(&self, member: &Member, ids: &[TargetId]) -> Result<Vec<TargetId>, String> {
        let mut scraped = Vec::new();
        for ids in ids.chunks(IDS_MAX) {
            let body = serde_json::to_vec(&Ids::of(ids.iter().copied())).map_err(|error| error.to_string())?;
            let request = Request::post(self.url(member, "scraped")?, body);
            let answer: Ids = self.request(request.header(header::CONTENT_TYPE, "application/json")).await?;
            scraped.extend(answer.ids());
        }
        Ok(scraped)
    }

    fn url(&self, member: &Member, what: &str) -> Result<Url, String> {
        let text = format!("{}://{}/api/v1/fleet/{what}", self.scheme, member.address);
        Url::parse(&text).map_err(|error| format!("{:?} is no address of a member: {error}", member.address))
    }

    async fn request<T: serde::de::DeserializeOwned>(&self, request: Request) -> Result<T, String> {
        let response = self.client.send(request).await.map_err(|error| error.to_string())?;
        if !response.status.is_success() {
            return Err(format!("answered {}", response.status));
        }
        let answer: Envelope<T> =
            serde_json::from_slice(&response.body).map_err(|error| format!("answered: {error}"))?;
        Ok(answer.data)
    }
}
