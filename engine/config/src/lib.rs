//! Reads prometheus.yml strictly into values that can run, or returns errors with file, line and advice.
//!
//! Every field of Prometheus 3.14 is known with its name, default and rules, whether or not this build implements
//! it; [`Config::unsupported_settings`] lists those that it does not. It knows nothing of targets, shards or the network: what is
//! read here is the same on every machine with the same files and environment.
//!
//! Invariants:
//!   * [`load`] returns a complete configuration or errors, never a part
//!   * no text is left that would have to be parsed again: durations, sizes, URLs, rules and labels are values
//!   * a secret is accessible only through [`Secret::reveal`]
//!
//! How it is read: `yaml` builds nodes with source locations, `decode` reads them by the sections that `types`, `job`, `http`,
//! `discovery`, `mechanisms` and `sections` declare, `load` puts the files together.

mod decode;
mod discovery;
mod effective;
mod env;
mod errors;
mod federation;
mod fleet;
mod glob;
mod http;
mod job;
mod lint;
mod load;
mod mechanisms;
mod object_storage;
mod rule_tests;
mod rules;
mod secret;
mod sections;
mod selector;
mod text;
mod tree;
mod types;
mod units;
mod values;
mod web;
mod yaml;

pub use discovery::*;
pub use env::Env;
pub use errors::{ConfigError, ConfigErrors};
pub use federation::{Federation, Selector};
pub use fleet::{Fleet, FleetMode};
pub use glob::{glob, is_valid_pattern};
pub use http::{
    Authorization, BasicAuth, GrantType, HeaderValues, HttpConfig, OAuth2, SignatureAlgorithm, TlsConfig, TlsVersion,
};
pub use load::{load, load_for_agent, parse_config, parse_yaml};
pub use mechanisms::{MechanismConfig, SdFilter};
pub use object_storage::*;
pub use relabel::NameScheme;
pub use rule_tests::{
    AlertTest, ExpectedAlert, ExpectedSample, ExprTest, InputSeries, RuleTest, RuleTests, load_rule_tests,
};
pub use rules::{RuleFile, RuleGroup, RuleSpec, load_rules, parse_rules, refusals};
pub use secret::Secret;
pub use sections::*;
pub use text::{TextError, decode_text};
pub use tree::Tree;
pub use types::{Config, EscapingScheme, Global, INTERVAL_DEFAULT, ScrapeConfig, ScrapeProtocol, TIMEOUT_DEFAULT};
pub use units::{Size, UnitError, format_duration, format_size, parse_duration, parse_size};
pub use web::{ClientAuth, HttpServerConfig, TlsServerConfig, WebConfig, load_web, parse_web};
pub use yaml::SourceLocation;
