//! What is sent by remote write: its part of the page `/status`.

use crate::state::State;
use maud::{Markup, html};
use remote_write::{EndpointStats, KindStats, Stats};
use std::sync::atomic::{AtomicU64, Ordering};

type OfKind = fn(&KindStats) -> &AtomicU64;

/// Of samples, histograms and exemplars together.
fn total(stats: &Stats, of: OfKind) -> u64 {
    [&stats.samples, &stats.histograms, &stats.exemplars].iter().map(|kind| of(kind).load(Ordering::Relaxed)).sum()
}

/// Every endpoint, with what waits for it and why.
pub fn section(state: &State) -> Markup {
    let endpoints = state.parts.remote_write.stats();
    let lag = |stats: &Stats| match stats.lag() {
        None => "nothing was accepted yet".to_owned(),
        Some(lag) => format!("{:.1} s, {} kB", lag.as_secs_f64(), stats.lag_bytes.load(Ordering::Relaxed) / 1000),
    };
    let lost = |stats: &Stats| {
        let losses = stats.losses().filter(|(_, count)| *count > 0);
        let losses: Vec<String> =
            losses.map(|(reason, count)| format!("{count} {}", reason.replace('_', " "))).collect();
        if losses.is_empty() { "0".to_owned() } else { losses.join(", ") }
    };
    html! {
        @if !endpoints.is_empty() {
            h2 { "Remote write" }
            div.scroll { table {
                thead { tr {
                    th { "Name" } th { "URL" } th { "Behind" } th { "Pending" } th { "Per second" } th { "Sent" } th { "Retried" }
                    th { "Lost" } th { "Not sent" } th { "Last error" }
                } }
                tbody {
                    @for EndpointStats { name, url, stats, .. } in &endpoints { tr {
                        td { (name) } td { (url) } td { (lag(stats)) } td { (total(stats, |kind| &kind.pending)) }
                        td { (stats.rate.load(Ordering::Relaxed)) }
                        td { (total(stats, |kind| &kind.sent)) } td { (total(stats, |kind| &kind.retried)) } td { (lost(stats)) }
                        td { (total(stats, |kind| &kind.dropped_by_rules) + total(stats, |kind| &kind.dropped_too_old)) }
                        td { (stats.last_error().unwrap_or_default()) }
                    } }
                }
            } }
        }
    }
}
