//! Sections of the mechanisms that ask a service for a list again and again: their fields, defaults and checks as data.
//!
//! Invariants:
//!   * a section that was read has a value for each field of its table
//!   * what the file may not say is refused with the text of Prometheus; the label tables and requests are in `targets`

mod checks;
mod fields;

use crate::Secret;
use crate::decode::{Context, Fields, Section, Tree, section, write_field};
use crate::http::{HttpConfig, TlsConfig};
use crate::units::parse_duration;
use crate::yaml::{Kind, Node};
pub(crate) use fields::SECTIONS;
use std::path::{Path, PathBuf};
use std::time::Duration;

section! {
    /// Limits what a service sends, in its own terms.
    pub struct SdFilter in "filters", null_element = SdFilter::default {
        /// What is filtered by.
        name: String = String::new(),
        /// Any of these will do.
        values: Vec<String> = Vec::new(),
    }
}

/// One section of a mechanism whose fields are described by a table.
#[derive(Clone, Debug, PartialEq)]
pub struct MechanismConfig {
    /// Its name, such as `nomad`.
    pub kind: &'static str,
    /// All fields of the mechanism, in the order of its table.
    fields: Vec<(&'static str, FieldValue)>,
    /// Settings of its HTTP client, where it has one.
    pub http: HttpConfig,
}

/// The value of a field.
#[derive(Clone, Debug, PartialEq)]
enum FieldValue {
    Text(String),
    /// A path that is relative to the folder of the file.
    Path(Option<PathBuf>),
    Number(u64),
    Flag(bool),
    Duration(Duration),
    Secret(Option<Secret>),
    Texts(Vec<String>),
    Filters(Vec<SdFilter>),
    Tls(TlsConfig),
}

/// The type of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FieldType {
    Text,
    Path,
    Number,
    Flag,
    Duration,
    Secret,
    Texts,
    Filters,
    Tls,
}

/// A field: its name, its type, and its default as a file would have it; empty means the empty value.
pub(crate) type Field = (&'static str, FieldType, &'static str);

/// A section of a job.
pub(crate) struct MechanismSection {
    /// The name of the mechanism.
    pub kind: &'static str,
    /// The name of the section.
    pub name: &'static str,
    /// Whether settings of an HTTP client stand beside the fields.
    pub has_http: bool,
    pub fields: &'static [Field],
    /// What the file may not say.
    pub check: fn(&MechanismConfig, &Fields),
}

impl FieldValue {
    fn default_of(field: &Field) -> FieldValue {
        let (_, kind, default) = field;
        match kind {
            FieldType::Text => FieldValue::Text((*default).to_owned()),
            FieldType::Path => FieldValue::Path(None),
            FieldType::Number => FieldValue::Number(default.parse().unwrap_or_default()),
            FieldType::Flag => FieldValue::Flag(*default == "true"),
            FieldType::Duration => FieldValue::Duration(parse_duration(default).unwrap_or_default()),
            FieldType::Secret => FieldValue::Secret(None),
            FieldType::Texts => FieldValue::Texts(Vec::new()),
            FieldType::Filters => FieldValue::Filters(Vec::new()),
            FieldType::Tls => FieldValue::Tls(TlsConfig::default()),
        }
    }

    fn take(field: &Field, fields: &mut Fields) -> Option<FieldValue> {
        let (name, kind, _) = *field;
        match kind {
            FieldType::Text => fields.take(name).map(FieldValue::Text),
            FieldType::Path => fields.take(name).map(FieldValue::Path),
            FieldType::Number => fields.take(name).map(FieldValue::Number),
            FieldType::Flag => fields.take(name).map(FieldValue::Flag),
            FieldType::Duration => fields.take(name).map(FieldValue::Duration),
            FieldType::Secret => fields.take(name).map(FieldValue::Secret),
            FieldType::Texts => fields.take(name).map(FieldValue::Texts),
            FieldType::Filters => fields.take(name).map(FieldValue::Filters),
            FieldType::Tls => fields.take(name).map(FieldValue::Tls),
        }
    }

    fn write(&self, out: &mut Vec<(String, Tree)>, name: &str, default: &FieldValue) {
        match (self, default) {
            (FieldValue::Text(value), FieldValue::Text(default)) => write_field(out, name, value, default),
            (FieldValue::Path(value), FieldValue::Path(default)) => write_field(out, name, value, default),
            (FieldValue::Number(value), FieldValue::Number(default)) => write_field(out, name, value, default),
            (FieldValue::Flag(value), FieldValue::Flag(default)) => write_field(out, name, value, default),
            (FieldValue::Duration(value), FieldValue::Duration(default)) => write_field(out, name, value, default),
            (FieldValue::Secret(value), FieldValue::Secret(default)) => write_field(out, name, value, default),
            (FieldValue::Texts(value), FieldValue::Texts(default)) => write_field(out, name, value, default),
            (FieldValue::Filters(value), FieldValue::Filters(default)) => write_field(out, name, value, default),
            (FieldValue::Tls(value), FieldValue::Tls(default)) => write_field(out, name, value, default),
            _ => {}
        }
    }
}

impl MechanismConfig {
    /// Reads a section. Returns `None` after an error that leaves nothing to check.
    pub(crate) fn read(section: &MechanismSection, node: &Node, cx: &Context) -> Option<MechanismConfig> {
        if matches!(node.kind, Kind::Null) {
            cx.refuse(node.mark, "empty or null item in a list; remove the dash or write the item");
            return None;
        }
        let mut fields = Fields::of(node, cx, section.name)?;
        let value = |field: &Field, fields: &mut Fields| {
            FieldValue::take(field, fields).unwrap_or_else(|| FieldValue::default_of(field))
        };
        let values = section.fields.iter().map(|field| (field.0, value(field, &mut fields))).collect();
        let mut config = MechanismConfig { kind: section.kind, fields: values, http: HttpConfig::default() };
        if section.has_http {
            config.http.read_fields(&mut fields);
        }
        (section.check)(&config, &fields);
        checks::refresh_interval(&config, &fields);
        fields.finish(section.name);
        Some(config)
    }

    pub(crate) fn write(&self) -> Tree {
        let mut out = Vec::new();
        let Some(section) = SECTIONS.iter().find(|section| section.kind == self.kind) else { return Tree::Map(out) };
        for (field, (name, value)) in section.fields.iter().zip(&self.fields) {
            value.write(&mut out, name, &FieldValue::default_of(field));
        }
        if section.has_http {
            self.http.write_fields(&mut out);
        }
        Tree::Map(out)
    }

    fn field(&self, name: &str) -> Option<&FieldValue> {
        self.fields.iter().find(|(field, _)| *field == name).map(|(_, value)| value)
    }

    /// Returns the text of a field; a field that the mechanism does not have is empty.
    pub fn text(&self, name: &str) -> &str {
        match self.field(name) {
            Some(FieldValue::Text(text)) => text,
            _ => "",
        }
    }

    /// Returns the path of a field, absolute.
    pub fn path(&self, name: &str) -> Option<&Path> {
        match self.field(name) {
            Some(FieldValue::Path(path)) => path.as_deref(),
            _ => None,
        }
    }

    /// Returns the number of a field; 0 if the mechanism does not have it.
    pub fn number(&self, name: &str) -> u64 {
        match self.field(name) {
            Some(FieldValue::Number(number)) => *number,
            _ => 0,
        }
    }

    /// Returns whether a field is true.
    pub fn flag(&self, name: &str) -> bool {
        matches!(self.field(name), Some(FieldValue::Flag(true)))
    }

    /// Returns the duration of a field; zero if the mechanism does not have it.
    pub fn duration(&self, name: &str) -> Duration {
        match self.field(name) {
            Some(FieldValue::Duration(duration)) => *duration,
            _ => Duration::ZERO,
        }
    }

    /// Returns the secret of a field, unless it is absent or empty.
    pub fn secret(&self, name: &str) -> Option<&Secret> {
        match self.field(name) {
            Some(FieldValue::Secret(secret)) => secret.as_ref().filter(|secret| !secret.reveal().is_empty()),
            _ => None,
        }
    }

    /// Returns all secrets of the section that stand in the file, so that messages can be searched for them.
    pub fn secrets(&self) -> Vec<&str> {
        let own = self.fields.iter().filter_map(|(name, _)| self.secret(name));
        let basic = self.http.basic_auth.iter().filter_map(|basic| basic.password.as_ref());
        let bearer = self.http.authorization.iter().filter_map(|bearer| bearer.credentials.as_ref());
        let oauth2 = self.http.oauth2.iter().filter_map(|oauth2| oauth2.client_secret.as_ref());
        let headers = self.http.http_headers.iter().flat_map(|(_, values)| &values.secrets);
        own.chain(basic).chain(bearer).chain(oauth2).chain(headers).map(Secret::reveal).collect()
    }

    /// Returns the texts of a field.
    pub fn texts(&self, name: &str) -> &[String] {
        match self.field(name) {
            Some(FieldValue::Texts(texts)) => texts,
            _ => &[],
        }
    }

    /// Returns the filters of a field.
    pub fn filters(&self, name: &str) -> &[SdFilter] {
        match self.field(name) {
            Some(FieldValue::Filters(filters)) => filters,
            _ => &[],
        }
    }

    /// Returns the settings of the HTTP client; a mechanism without them may have `tls_config` alone.
    pub fn client(&self) -> HttpConfig {
        match self.field("tls_config") {
            Some(FieldValue::Tls(tls)) => HttpConfig { tls_config: tls.clone(), ..HttpConfig::default() },
            _ => self.http.clone(),
        }
    }

    /// Returns the time between two refreshes.
    pub fn refresh_interval(&self) -> Duration {
        self.duration("refresh_interval")
    }

    /// Returns the mechanism that carries the section out: `aws` names it by its role.
    pub fn mechanism(&self) -> &'static str {
        if self.kind != "aws" {
            return self.kind;
        }
        checks::AWS_ROLES.iter().find(|role| **role == self.text("role")).copied().unwrap_or(self.kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_values_of_their_types() {
        for section in SECTIONS {
            assert_eq!(section.name, format!("{}_sd_configs", section.kind));
            for field in section.fields {
                let (name, kind, default) = field;
                let is_good = match kind {
                    FieldType::Text => true,
                    FieldType::Number => default.is_empty() || default.parse::<u64>().is_ok(),
                    FieldType::Duration => parse_duration(default).is_ok_and(|duration| !duration.is_zero()),
                    FieldType::Flag => ["", "true", "false"].contains(default),
                    _ => default.is_empty(),
                };
                assert!(is_good, "{}: {name}: {default}", section.kind);
            }
            let count = |name: &str| section.fields.iter().filter(|field| field.0 == name).count();
            assert!(section.fields.iter().all(|field| count(field.0) == 1), "{}", section.kind);
        }
    }
}
