//! Errors of a configuration: location, cause and advice.

use std::fmt;
use std::path::PathBuf;

/// Largest number of errors that one load collects.
pub(crate) const ERRORS_MAX: usize = 20;

/// An error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file, as the caller named it.
    pub file: PathBuf,
    /// From 1; 0 if the file could not be read at all.
    pub line: usize,
    /// In characters, from 1; 0 if the file could not be read at all.
    pub column: usize,
    /// The field, such as `scrape_configs[2].scrape_timeout`; empty for the file as a whole.
    pub path: String,
    /// Cause and advice.
    pub message: String,
}

/// All errors of one load, up to a bound; never empty. Displays one line for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub(crate) Vec<ConfigError>);

impl ConfigErrors {
    /// In the order of files and lines.
    pub fn iter(&self) -> std::slice::Iter<'_, ConfigError> {
        self.0.iter()
    }

    pub(crate) fn unreadable(file: PathBuf, message: String) -> ConfigErrors {
        ConfigErrors(vec![ConfigError { file, line: 0, column: 0, path: String::new(), message }])
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        if !self.path.is_empty() {
            write!(f, ": {}", self.path)?;
        }
        write!(f, ": {}", self.message)
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

impl std::error::Error for ConfigErrors {}
