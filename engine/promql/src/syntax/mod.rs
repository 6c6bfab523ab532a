//! The text of a query and its tree.

pub(crate) mod ast;
pub(crate) mod error;
pub(crate) mod lex;
pub(crate) mod parse;
pub(crate) mod print;
pub(crate) mod signature;
