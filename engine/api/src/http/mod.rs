//! The HTTP server below the routes: listeners, connections, bodies, compression, and who may ask.
//!
//! Not for: paths and what they answer.

mod body;
mod compress;
mod connections;
mod listen;
mod metrics;
mod origin;
mod request_line;
mod serve;
mod stream;

pub use connections::ConnectionLimits;
pub use listen::bind;
pub use serve::{ListenerRole, Server};

pub(crate) use body::{BodyBuffer, buffer_body};
pub(crate) use compress::{ContentEncoding, compress, preferred_encoding};
pub(crate) use connections::Connections;
pub(crate) use metrics::{HttpMetrics, record};
pub(crate) use origin::{allowed_origin, is_cross_origin};
