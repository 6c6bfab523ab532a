//! The fleet: what members ask each other, and what this one knows of all.
//!
//! Invariants:
//!   * nothing here changes anything; a question has at most [`IDS_MAX`] ids
//!   * where the section `fleet` has credentials, those who ask have to show the same

use crate::answer::{ApiError, ApiResult, Data};
use crate::state::State;
use axum::body::Bytes;
use axum::extract;
use axum::http::{HeaderMap, StatusCode, header};
use config::{Fleet, Secret};
use serde::Serialize;
use std::collections::HashSet;
use std::path::Path;
use targets::{IDS_MAX, Ids, MemberStatus, about};

type S = extract::State<State>;

/// Refuses who does not show what the section says that members show.
fn allow(state: &State, headers: &HeaderMap) -> Result<(), ApiError> {
    let running = state.running();
    let Some(fleet) = &running.config.fleet else {
        return Err(ApiError::not_found(
            "this process is no member of a fleet; its configuration has no section fleet",
        ));
    };
    let refused = |text: String| ApiError { status: StatusCode::UNAUTHORIZED, ..ApiError::bad_data(text) };
    let Some(want) = expected(fleet).map_err(refused)? else { return Ok(()) };
    let got = headers.get(header::AUTHORIZATION).map(|value| value.as_bytes()).unwrap_or_default();
    if is_equal(got, want.as_bytes()) {
        return Ok(());
    }
    Err(refused(
        "members of this fleet show the credentials of their section fleet; these are missing or others".into(),
    ))
}

/// The header that a member sends by the same section; `None`: it has no credentials that can be compared.
fn expected(fleet: &Fleet) -> Result<Option<String>, String> {
    let one_of = |given: Option<&Secret>, file: Option<&Path>| match (given, file) {
        (Some(secret), _) => Ok(secret.reveal().to_owned()),
        (None, Some(file)) => std::fs::read_to_string(file)
            .map(|text| text.trim().to_owned())
            .map_err(|error| format!("{}: {error}", file.display())),
        (None, None) => Ok(String::new()),
    };
    if let Some(basic) = &fleet.http.basic_auth {
        let user = match &basic.username_file {
            Some(file) => one_of(None, Some(file))?,
            None => basic.username.clone(),
        };
        let password = one_of(basic.password.as_ref(), basic.password_file.as_deref())?;
        return Ok(Some(basic_header(&user, &password)));
    }
    if let Some(authorization) = &fleet.http.authorization {
        let credentials = one_of(authorization.credentials.as_ref(), authorization.credentials_file.as_deref())?;
        return Ok(Some(format!("{} {credentials}", authorization.r#type)));
    }
    Ok(None)
}

fn basic_header(user: &str, password: &str) -> String {
    use base64::Engine;
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")))
}

/// Takes as long for a wrong text as for the right one of that length.
fn is_equal(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
}

/// `GET /api/v1/fleet/member`
pub async fn member(state: S, headers: HeaderMap) -> ApiResult<MemberStatus> {
    allow(&state, &headers)?;
    let labels = &state.running().config.global.external_labels;
    Ok(Data(about(&state.parts.fleet.status(), labels, &state.parts.targets)))
}

/// `POST /api/v1/fleet/scraped`: of these targets, those that have been scraped here.
pub async fn scraped(state: S, headers: HeaderMap, body: Bytes) -> ApiResult<Ids> {
    allow(&state, &headers)?;
    let question: Ids = serde_json::from_slice(&body)
        .map_err(|error| ApiError::bad_data(format!("want {{\"targets\": [\"0123456789abcdef\", ..]}}: {error}")))?;
    if question.targets.len() > IDS_MAX {
        return Err(ApiError::bad_data(format!("at most {IDS_MAX} targets in one question")));
    }
    let asked: HashSet<_> = question.ids().collect();
    let statuses = state.parts.shards.statuses().await?;
    // A target that this member is itself about to let go does not count: its owner is another one.
    let set = state.target_set();
    let leaving: HashSet<_> = set.pools.iter().flat_map(|pool| &pool.leaving).map(|leaving| leaving.id).collect();
    let is_scraped = |status: &&shard::TargetStatus| {
        status.scrapes > 0 && asked.contains(&status.id) && !leaving.contains(&status.id)
    };
    Ok(Data(Ids::of(statuses.iter().filter(is_scraped).map(|status| status.id))))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Overview {
    member: Option<String>,
    fingerprint: String,
    members: Vec<Row>,
    problems: Vec<String>,
    findings: Vec<String>,
    split: Vec<String>,
    active: usize,
    leaving: usize,
    others: usize,
    handed_over_total: u64,
    expired_total: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    name: String,
    address: String,
    zone: String,
    weight: f64,
    /// Targets, as it last said.
    targets: Option<usize>,
    leaving: Option<usize>,
    divides_alike: Option<bool>,
    error: Option<String>,
}

/// `GET /api/v1/status/fleet`
pub async fn overview(state: S) -> ApiResult<Overview> {
    Ok(Data(look(&state)))
}

fn look(state: &State) -> Overview {
    let status = state.parts.fleet.status();
    let set = state.target_set();
    let own = about(&status, &state.running().config.global.external_labels, &state.parts.targets);
    let members = status.division.iter().flat_map(|division| division.view.members());
    let row = |member: &fleet::Member| {
        let peer =
            if member.name == own.member { Some(Ok(&own)) } else { status.peers.get(&member.name).map(Result::as_ref) };
        let about = peer.and_then(Result::ok);
        Row {
            name: member.name.clone(),
            address: member.address.clone(),
            zone: member.zone.clone(),
            weight: member.weight,
            targets: about.map(|about| about.targets),
            leaving: about.map(|about| about.leaving),
            divides_alike: about.map(|about| about.fingerprint == own.fingerprint),
            error: peer.and_then(Result::err).cloned(),
        }
    };
    Overview {
        members: members.map(row).collect(),
        member: status.member.clone(),
        fingerprint: status.fingerprint(),
        problems: status.problems.clone(),
        findings: status.findings.iter().map(ToString::to_string).collect(),
        split: status.split.clone(),
        active: own.targets,
        leaving: own.leaving,
        others: set.pools.iter().map(|pool| pool.others_count).sum(),
        handed_over_total: status.handed_over_total,
        expired_total: status.expired_total,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_show_what_the_section_says() {
        let header = |extra: &str| {
            let yaml = format!("fleet:\n  member: a\n  static_configs: [{{targets: ['x:1']}}]\n{extra}");
            let config = config::parse_config("p.yml".as_ref(), &yaml, &config::Env::process()).unwrap();
            expected(&config.fleet.unwrap())
        };
        assert_eq!(header(""), Ok(None));
        let basic = header("  basic_auth: {username: u, password: p}\n");
        assert_eq!(basic, Ok(Some("Basic dTpw".to_owned())));
        assert_eq!(header("  authorization: {credentials: s3}\n"), Ok(Some("Bearer s3".to_owned())));
        assert!(header("  authorization: {credentials_file: /does/not/exist}\n").is_err());
        assert!(is_equal(b"ab", b"ab") && !is_equal(b"ab", b"ac") && !is_equal(b"", b"a"));
    }
}
