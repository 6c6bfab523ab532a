//! Environment variables, as an argument so that tests can set them, and their expansion in external labels.

use std::collections::BTreeMap;

/// The variables that `external_labels` may name.
#[derive(Clone, Debug, Default)]
pub struct Env(BTreeMap<String, String>);

impl Env {
    /// The variables of this process. Bytes that are not UTF-8 are replaced.
    pub fn process() -> Env {
        let lossy = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
        Env(std::env::vars_os().map(|(name, value)| (lossy(name), lossy(value))).collect())
    }

    /// These variables and no other.
    pub fn from_pairs<N: Into<String>, V: Into<String>>(pairs: impl IntoIterator<Item = (N, V)>) -> Env {
        Env(pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }

    /// Replaces `$VAR` and `${VAR}`; an unknown variable is empty, `$$` is a dollar sign. A dollar sign that starts no
    /// name stays.
    pub(crate) fn expand(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            let (name, length) = variable(rest);
            match name {
                Some("$") => out.push('$'),
                Some(name) => out.push_str(self.0.get(name).map_or("", String::as_str)),
                None if length == 0 => out.push('$'),
                // A broken `${` is swallowed, as Go's os.Expand does.
                None => {}
            }
            rest = &rest[length..];
        }
        out.push_str(rest);
        out
    }
}

/// The name at the start of what follows a dollar sign, and how many bytes it takes.
fn variable(text: &str) -> (Option<&str>, usize) {
    let is_special = |b: u8| b"*#$@!?-0123456789".contains(&b);
    match text.as_bytes() {
        [b'{', ..] => match text.find('}') {
            Some(1) => (None, 2),
            Some(end) => (Some(&text[1..end]), end + 1),
            None => (None, 1),
        },
        [first, ..] if is_special(*first) => (Some(&text[..1]), 1),
        bytes => {
            let length = bytes.iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count();
            ((length > 0).then(|| &text[..length]), length)
        }
    }
}
