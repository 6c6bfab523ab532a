//! What is sent by remote write: its part of the page `/status`.

use crate::state::State;
use maud::{Markup, html};
use remote_write::{EndpointStats, Stats};
use std::sync::atomic::{AtomicU64, Ordering};

/// Every endpoint, with what waits for it and why.
pub fn section(state: &State) -> Markup {
    let endpoints = state.parts.remote_write.stats();
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let behind = |stats: &Stats| {
        let newest = stats.newest_sent_ms.load(Ordering::Relaxed);
        let behind = stats.newest_read_ms.load(Ordering::Relaxed) - newest;
        if newest == 0 { "nothing was taken yet".to_owned() } else { format!("{:.1} s", behind as f64 / 1000.0) }
    };
    let error = |stats: &Stats| stats.last_error.lock().expect("no panic while held").clone().unwrap_or_default();
    html! {
        @if !endpoints.is_empty() {
            h2 { "Remote write" }
            div.scroll { table {
                thead { tr {
                    th { "Name" } th { "URL" } th { "Behind" } th { "Pending" } th { "Sent" } th { "Refused" } th { "Left out" } th { "Last error" }
                } }
                tbody {
                    @for EndpointStats { name, url, stats, .. } in &endpoints { tr {
                        td { (name) } td { (url) } td { (behind(stats)) } td { (count(&stats.pending)) }
                        td { (count(&stats.sent)) } td { (count(&stats.failed)) }
                        td { (count(&stats.dropped_by_rules) + count(&stats.dropped_too_old) + count(&stats.histograms_left_out)) }
                        td { (error(stats)) }
                    } }
                }
            } }
        }
    }
}
