//! Values, their arithmetic, and what every node of an evaluation needs.

pub(crate) mod context;
mod extended;
pub(crate) mod math;
pub(crate) mod partial;
pub(crate) mod series;
mod starts;
pub(crate) mod value;
pub(crate) mod window;
