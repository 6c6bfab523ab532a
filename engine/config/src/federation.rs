//! The section `federation`: what others may ask of `/federate`, and how much. Not a section of Prometheus.

use crate::decode::{Context, Tree, Value, section};
use crate::yaml::Node;
use series::Matcher;

section! {
    /// Guards of `/federate`. Without the section it serves what Prometheus serves.
    pub struct Federation in "federation" {
        /// Series of one request beyond which it is refused. 0, the default: no limit.
        series_max: u64 = 0,
        /// Requests served at once; more are refused. 0, the default: no limit.
        concurrent_max: u64 = 0,
        /// Only series that one of these selects are ever served. Default: all.
        allow: Vec<Selector> = Vec::new(),
        /// Series that one of these selects are never served. Default: none.
        deny: Vec<Selector> = Vec::new(),
        /// Whether a request is refused that selects more than half of all series, or some of every metric name,
        /// however it is spelled. Default false.
        refuse_catch_all: bool = false,
        /// Whether each request is told in the log at level info instead of debug. Default false.
        log_requests: bool = false,
    }
}

/// A selector such as `{__name__=~"job:.*"}`, as text and as matchers that must all hold.
#[derive(Clone, Debug, PartialEq)]
pub struct Selector {
    pub text: String,
    pub matchers: Vec<Matcher>,
}

impl Value for Selector {
    fn read(node: &Node, cx: &Context) -> Option<Selector> {
        let text = String::read(node, cx)?;
        match promql::parse_selector(&text) {
            Ok(matchers) => Some(Selector { text, matchers }),
            Err(error) => {
                cx.refuse(node.mark, format!("not a selector: {error}; write it as '{{__name__=~\"job:.*\"}}'"));
                None
            }
        }
    }

    fn write(&self) -> Tree {
        Tree::Text(self.text.clone())
    }
}
