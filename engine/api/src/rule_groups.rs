//! Rules: `/api/v1/rules` and `/api/v1/alerts`.

use crate::answer::{ApiError, ApiResult, Data, NEVER, bulk, rfc3339};
use crate::params::Params;
use crate::state::State;
use crate::v1::LabelMap;
use axum::extract;
use axum::response::{IntoResponse, Response};
use promql::parse_selector;
use rules::{AlertView, GroupView, RuleKind, RuleView};
use serde_json::{Map, Value, json};
use series::{Labels, Matcher};
use std::time::Duration;

type S = extract::State<State>;

/// Which rules are wanted.
#[derive(Default)]
struct Filter<'a> {
    alerting: Option<bool>,
    names: Vec<&'a str>,
    groups: Vec<&'a str>,
    files: Vec<&'a str>,
    /// Any of these.
    selectors: Vec<Vec<Matcher>>,
    without_alerts: bool,
}

impl<'a> Filter<'a> {
    fn of(params: &'a Params) -> Result<Filter<'a>, ApiError> {
        let list = |name: &'static str| params.all(name).filter(|value| !value.is_empty()).collect::<Vec<_>>();
        let alerting = match params.get("type").unwrap_or("").to_lowercase().as_str() {
            "" => None,
            "alert" => Some(true),
            "record" => Some(false),
            other => return Err(invalid("type", &format!("not supported value {other:?}"))),
        };
        let mut selectors = Vec::new();
        for text in params.all("match[]") {
            selectors.push(parse_selector(text).map_err(|error| invalid("match[]", &error.to_string()))?);
        }
        let without_alerts = match params.get("exclude_alerts").unwrap_or("") {
            "" | "false" | "0" | "f" | "F" | "FALSE" | "False" => false,
            "true" | "1" | "t" | "T" | "TRUE" | "True" => true,
            other => {
                let text =
                    format!("error converting exclude_alerts: strconv.ParseBool: parsing {other:?}: invalid syntax");
                return Err(invalid("exclude_alerts", &text));
            }
        };
        let (names, groups, files) = (list("rule_name[]"), list("rule_group[]"), list("file[]"));
        Ok(Filter { alerting, names, groups, files, selectors, without_alerts })
    }

    fn wants_group(&self, group: &GroupView) -> bool {
        let file = group.file.display().to_string();
        (self.groups.is_empty() || self.groups.contains(&group.name.as_str()))
            && (self.files.is_empty() || self.files.contains(&file.as_str()))
    }

    fn wants(&self, rule: &RuleView) -> bool {
        let is_alerting = matches!(rule.kind, RuleKind::Alerting { .. });
        let satisfies = |matchers: &Vec<Matcher>| matchers.iter().all(|matcher| matcher.matches_labels(&rule.labels));
        self.alerting.is_none_or(|wanted| wanted == is_alerting)
            && (self.names.is_empty() || self.names.contains(&rule.name.as_str()))
            && (self.selectors.is_empty() || self.selectors.iter().any(satisfies))
    }
}

fn invalid(name: &str, text: &str) -> ApiError {
    ApiError::bad_data(format!("invalid parameter {name:?}: {text}"))
}

/// What names a group between two pages of a list.
fn token(group: &GroupView) -> String {
    let (file, name) = (group.file.display().to_string(), group.name.as_str());
    format!("{:016x}", Labels::from_pairs([("file", file.as_str()), ("name", name)]).hash64())
}

pub async fn rules(state: S, params: Params) -> Result<Response, ApiError> {
    bulk(move || groups(&state, &params).map(IntoResponse::into_response)).await
}

fn groups(state: &State, params: &Params) -> ApiResult<Value> {
    let filter = Filter::of(params)?;
    let limit = match params.get("group_limit") {
        None | Some("") => None,
        Some(text) => match text.parse::<i64>() {
            Ok(limit) if limit > 0 => Some(limit as usize),
            Ok(_) => return Err(invalid("group_limit", "group_limit needs to be greater than 0")),
            Err(_) => return Err(invalid("group_limit", "group_limit needs to be a valid number")),
        },
    };
    let from = params.get("group_next_token").filter(|token| !token.is_empty());
    if from.is_some() && limit.is_none() {
        let text = "group_limit needs to be present in order to paginate over the groups";
        return Err(invalid("group_next_token", text));
    }
    let snapshot = state.parts.rules.snapshot();
    let mut groups = snapshot.groups.as_slice();
    if let Some(from) = from {
        let Some(at) = groups.iter().position(|group| token(group) == from) else {
            let text = format!("invalid group_next_token '{from}'. were rule groups changed?");
            return Err(invalid("group_next_token", &text));
        };
        groups = &groups[at..];
    }
    let mut found = Vec::new();
    let mut next = None;
    for group in groups.iter().filter(|group| filter.wants_group(group)) {
        let rules: Vec<Value> =
            group.rules.iter().filter(|rule| filter.wants(rule)).map(|rule| one(rule, &filter)).collect();
        if rules.is_empty() && !group.rules.is_empty() {
            continue;
        }
        if limit.is_some_and(|limit| found.len() == limit) {
            next = Some(token(group));
            break;
        }
        found.push(json!({
            "name": group.name,
            "file": group.file.display().to_string(),
            "rules": rules,
            "interval": whole_or_part(group.interval),
            "limit": group.limit,
            "evaluationTime": group.evaluation_time.as_secs_f64(),
            "lastEvaluation": time(group.last_evaluation),
        }));
    }
    let mut data = Map::from_iter([("groups".to_owned(), Value::from(found))]);
    data.extend(next.map(|next| ("groupNextToken".to_owned(), Value::from(next))));
    Ok(Data(Value::Object(data)))
}

/// `/api/v1/ringscrape/rules/evaluations`: the newest evaluations of the group of this `file` and `name`, oldest first:
/// Unix milliseconds and seconds.
pub async fn evaluations(state: S, params: Params) -> ApiResult<Value> {
    let (file, name) = (params.get("file").unwrap_or(""), params.get("name").unwrap_or(""));
    let snapshot = state.parts.rules.snapshot();
    let found = snapshot.groups.iter().find(|group| group.name == name && group.file.display().to_string() == file);
    let Some(group) = found else { return Err(ApiError::not_found(format!("no rule group {name:?} in {file:?}"))) };
    let all = group.evaluations.iter().map(|one| json!([one.at_ms, one.took.as_secs_f64()]));
    Ok(Data(json!({
        "interval": group.interval.as_secs_f64(),
        "missed": group.counters.missed,
        "evaluations": all.collect::<Vec<_>>(),
    })))
}

/// Seconds, without a point where there is no part of one.
fn whole_or_part(duration: Duration) -> Value {
    if duration.subsec_nanos() == 0 { json!(duration.as_secs()) } else { json!(duration.as_secs_f64()) }
}

fn time(ms: Option<i64>) -> String {
    ms.map_or_else(|| NEVER.to_owned(), rfc3339)
}

fn object(labels: &Labels) -> Value {
    json!(LabelMap::from(labels))
}

fn one(rule: &RuleView, filter: &Filter) -> Value {
    let mut out = json!({
        "name": rule.name,
        "query": rule.query,
        "health": rule.health.as_str(),
        "evaluationTime": rule.evaluation_time.as_secs_f64(),
        "lastEvaluation": time(rule.last_evaluation),
    });
    let fields = out.as_object_mut().expect("made as one");
    let mut put = |name: &str, value: Value| fields.insert(name.to_owned(), value);
    if let Some(error) = &rule.last_error {
        put("lastError", json!(error));
    }
    match &rule.kind {
        RuleKind::Recording => {
            put("type", json!("recording"));
            if !rule.labels.is_empty() {
                put("labels", object(&rule.labels));
            }
        }
        RuleKind::Alerting { state, hold, keep_firing, annotations, alerts } => {
            let is_known = rule.last_evaluation.is_some();
            put("type", json!("alerting"));
            put("state", json!(if is_known { state.as_str() } else { "unknown" }));
            put("duration", whole_or_part(*hold));
            put("keepFiringFor", whole_or_part(*keep_firing));
            put("labels", object(&rule.labels));
            put("annotations", object(annotations));
            let shown = if filter.without_alerts { &[] } else { alerts.as_slice() };
            put("alerts", shown.iter().map(alert).collect());
        }
    }
    out
}

fn alert(alert: &AlertView) -> Value {
    let mut out = json!({
        "labels": object(&alert.labels),
        "annotations": object(&alert.annotations),
        "state": alert.state.as_str(),
        "activeAt": rfc3339(alert.active_at),
        "value": exponent(alert.value),
    });
    if let Some(since) = alert.keep_firing_since {
        out["keepFiringSince"] = json!(rfc3339(since));
    }
    out
}

/// As Go's `strconv.FormatFloat(v, 'e', -1, 64)`.
fn exponent(value: f64) -> String {
    if !value.is_finite() {
        return if value.is_nan() {
            "NaN"
        } else if value > 0.0 {
            "+Inf"
        } else {
            "-Inf"
        }
        .to_owned();
    }
    let text = format!("{value:e}");
    let (digits, exponent) = text.split_once('e').expect("LowerExp writes an exponent");
    let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |rest| ('-', rest));
    format!("{digits}e{sign}{exponent:0>2}")
}

/// What is pending or firing.
pub async fn alerts(state: S) -> Result<Response, ApiError> {
    bulk(move || active_alerts(&state).map(IntoResponse::into_response)).await
}

fn active_alerts(state: &State) -> ApiResult<Value> {
    let snapshot = state.parts.rules.snapshot();
    let rules = snapshot.groups.iter().flat_map(|group| &group.rules);
    let active = rules.flat_map(|rule| match &rule.kind {
        RuleKind::Alerting { alerts, .. } => alerts.as_slice(),
        RuleKind::Recording => &[],
    });
    Ok(Data(json!({"alerts": active.map(alert).collect::<Vec<_>>()})))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_seconds_have_no_point() {
        let text = |ms| whole_or_part(Duration::from_millis(ms)).to_string();
        assert_eq!((text(60_000), text(0), text(200)), ("60".into(), "0".into(), "0.2".into()));
    }

    #[test]
    fn values_of_alerts_have_an_exponent() {
        for (value, want) in
            [(1.0, "1e+00"), (0.0, "0e+00"), (-0.015, "-1.5e-02"), (1e100, "1e+100"), (f64::NAN, "NaN")]
        {
            assert_eq!(exponent(value), want);
        }
    }
}
