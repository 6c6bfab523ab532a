//! The functions of the language.

pub(crate) mod dispatch;
mod histogram;
mod label;
mod rate;
pub(crate) mod time;
