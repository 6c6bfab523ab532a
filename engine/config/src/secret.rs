//! A value that nobody shall read by accident.

use std::fmt;

/// What stands for a secret wherever one would be shown.
pub(crate) const HIDDEN: &str = "<secret>";

/// A password, token or key. It cannot be displayed; `Debug` and the effective YAML show `<secret>`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides a text.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The secret itself, for the one who sends it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}
