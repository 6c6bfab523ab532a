//! What a plan needs to know of stored series.

use crate::plan::pushdown::Pushdown;
use series::Matcher;
use std::sync::Arc;

/// What has to be known of a set of series.
#[derive(Clone, Debug)]
pub struct Select {
    pub matchers: Vec<Matcher>,
    /// First and last millisecond.
    pub from: i64,
    pub to: i64,
    /// Only the newest sample at each time matters.
    pub is_instant: bool,
    /// Start times of the samples matter, too.
    pub wants_starts: bool,
    /// Only count and sum of histograms are needed.
    pub histogram_stats: bool,
    /// The aggregation that the series are needed for, if their owners can carry it out.
    pub pushdown: Option<Arc<Pushdown>>,
}
