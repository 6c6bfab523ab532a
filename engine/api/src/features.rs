//! `/api/v1/features`: what this build can do and what is switched on, under Prometheus' names.
//!
//! Invariants:
//!   * every name of Prometheus is there; it is true only for what works here

use crate::answer::{ApiResult, Data};
use crate::state::State;
use axum::extract;
use remote::otlp::DeltaHandling;
use serde_json::{Map, Value, json};

/// Operators and aggregations, those behind a flag last.
const OPERATORS: [&str; 33] = [
    "!=",
    "!~",
    "%",
    "*",
    "+",
    "-",
    "/",
    "<",
    "<=",
    "==",
    "=~",
    ">",
    ">=",
    "@",
    "^",
    "and",
    "atan2",
    "avg",
    "bottomk",
    "count",
    "count_values",
    "group",
    "max",
    "min",
    "or",
    "quantile",
    "stddev",
    "stdvar",
    "sum",
    "topk",
    "unless",
    "limit_ratio",
    "limitk",
];
const OPERATORS_EXPERIMENTAL: usize = 2;

/// Discovery mechanisms.
#[rustfmt::skip]
const PROVIDERS: [&str; 33] = [
    "aws", "azure", "consul", "digitalocean", "dns", "docker", "dockerswarm", "ec2", "ecs",
    "eureka", "file", "gce", "hetzner", "http", "ionos", "kubernetes", "kuma", "lightsail",
    "linode", "marathon", "msk", "nerve", "nomad", "openstack", "ovhcloud", "puppetdb", "scaleway",
    "serverset", "stackit", "static", "triton", "uyuni", "vultr",
];

const TEMPLATE_FUNCTIONS: [&str; 29] = [
    "args",
    "externalURL",
    "first",
    "graphLink",
    "humanize",
    "humanize1024",
    "humanizeDuration",
    "humanizePercentage",
    "humanizeTimestamp",
    "label",
    "match",
    "now",
    "parseDuration",
    "pathPrefix",
    "query",
    "reReplaceAll",
    "safeHtml",
    "sortByLabel",
    "stripDomain",
    "stripPort",
    "strvalue",
    "tableLink",
    "title",
    "toDuration",
    "toLower",
    "toTime",
    "toUpper",
    "urlQueryEscape",
    "value",
];

fn all<'a>(names: impl IntoIterator<Item = &'a str>, on: bool) -> impl Iterator<Item = (String, Value)> {
    names.into_iter().map(move |name| (name.to_owned(), Value::Bool(on)))
}

pub(crate) async fn features(state: extract::State<State>) -> ApiResult<Value> {
    let parts = &state.parts;
    let plan = &parts.query.settings().plan;
    let experimental = plan.parse.experimental_functions;
    let is_agent = parts.shards.agent().is_some();
    let flag = |name: &str| parts.flags.get(name).map_or("", String::as_str);
    let is_enabled = |feature: &str| flag("enable-feature").split(',').any(|enabled| enabled == feature);
    let functions: Map<String, Value> = promql::all_functions()
        .iter()
        .map(|function| (function.name.to_owned(), json!(!function.experimental || experimental)))
        .collect();
    let (usual, flagged) = OPERATORS.split_at(OPERATORS.len() - OPERATORS_EXPERIMENTAL);
    let operators: Map<String, Value> =
        all(usual.iter().copied(), true).chain(all(flagged.iter().copied(), experimental)).collect();
    let providers: Map<String, Value> = all(PROVIDERS, true).collect();
    let templates: Map<String, Value> = all(TEMPLATE_FUNCTIONS, true).collect();
    let features = parts.remote.features;
    let (fill, ranges) = (plan.parse.fill_modifiers, plan.parse.extended_range_selectors);
    Ok(Data(json!({
        "api": {
            "admin": parts.enable_admin_api, "exclude_alerts": true, "label_values_match": true,
            "lifecycle": parts.enable_lifecycle, "openapi_3.1": false, "openapi_3.2": false,
            "otlp_write_receiver": parts.remote.otlp_receiver, "query_stats": true, "query_warnings": true,
            "remote_write_receiver": parts.remote.receiver, "search": false, "time_range_labels": true,
            "time_range_series": true,
        },
        "otlp_receiver": {
            "delta_conversion": parts.remote.otlp_deltas == DeltaHandling::Accumulate,
            "native_delta_ingestion": parts.remote.otlp_deltas == DeltaHandling::Store,
        },
        "prometheus": {
            "agent_mode": is_agent, "auto_reload_config": flag("config.auto-reload") == "true", "server_mode": !is_agent,
            "stringlabels": false,
        },
        "promql": {
            "anchored": ranges, "at_modifier": true, "bool": true, "by": true,
            "delayed_name_removal": plan.delayed_name_removal, "duration_expr": true, "fill": fill, "fill_left": fill,
            "fill_right": fill, "group_left": true, "group_right": true, "ignoring": true, "negative_offset": true,
            "offset": true, "on": true, "per_query_lookback_delta": true, "per_step_stats": false, "smoothed": ranges,
            "subqueries": true, "type_and_unit_labels": features.labels_types, "without": true,
        },
        "promql_functions": functions,
        "promql_operators": operators,
        "rules": {
            "concurrent_rule_eval": is_enabled("concurrent-rule-eval"), "keep_firing_for": true, "query_offset": true,
        },
        "scrape": {
            "extra_scrape_metrics": true, "start_timestamp_zero_ingestion": parts.remote.features.injects_zeros, "type_and_unit_labels": features.labels_types,
        },
        "service_discovery_providers": providers,
        "templating_functions": templates,
        "tsdb": {
            "delayed_compaction": false, "exemplar_storage": is_enabled("exemplar-storage"), "isolation": true, "native_histograms": true,
            "use_uncached_io": false,
        },
        "ui": {"ui_v2": false, "ui_v3": false},
    })))
}
