//! What a query needs: times, selects, and aggregations that the owners of samples can carry out.

pub(crate) mod grid;
pub(crate) mod planner;
pub(crate) mod pushdown;
pub(crate) mod select;
