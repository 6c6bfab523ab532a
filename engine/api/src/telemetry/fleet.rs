//! Metrics of a member of a fleet.

use crate::metrics_writer::MetricsWriter;
use crate::state::State;

/// Only of a member of a fleet.
pub(super) fn fleet(writer: &mut MetricsWriter, state: &State) {
    let status = state.parts.fleet.status();
    if status.member.is_none() {
        return;
    }
    let set = state.target_set();
    let sum = |of: fn(&targets::Pool) -> usize| set.pools.iter().map(|pool| of(pool)).sum::<usize>() as f64;
    let members = status.division.as_ref().map_or(0, |division| division.view.members().len());
    let listed = status.division.as_ref().is_some_and(|division| division.me.is_some());
    let unreachable = status.peers.values().filter(|peer| peer.is_err()).count();
    let errors = status.findings.iter().filter(|finding| finding.is_error()).count();
    let warnings = status.findings.len() - errors;
    writer.gauge("ringscrape_fleet_members", "Members in the list.", members as f64);
    writer.gauge("ringscrape_fleet_listed", "Whether this member is in the list.", f64::from(u8::from(listed)));
    writer.gauge("ringscrape_fleet_members_unreachable", "Other members that did not answer.", unreachable as f64);
    writer.gauge("ringscrape_fleet_members_split", "Other members with another list.", status.split.len() as f64);
    writer.gauge("ringscrape_fleet_list_problems", "What is wrong with the list.", status.problems.len() as f64);
    writer.gauge("ringscrape_fleet_check_errors", "Members that cannot be told apart.", errors as f64);
    writer.gauge("ringscrape_fleet_check_warnings", "Members without external labels.", warnings as f64);
    writer.gauge("ringscrape_fleet_targets_leaving", "Targets on their way to others.", sum(|pool| pool.leaving.len()));
    writer.gauge("ringscrape_fleet_targets_others", "Targets of other members.", sum(|pool| pool.others_count));
    writer.counter("ringscrape_fleet_changes_total", "Lists that divide anew.", status.changes_total as f64);
    let handed_over = status.handed_over_total as f64;
    writer.counter("ringscrape_fleet_handed_over_total", "Targets let go to owners that scrape them.", handed_over);
    let expired = status.expired_total as f64;
    writer.counter("ringscrape_fleet_handover_expired_total", "Targets let go at the deadline.", expired);
}
