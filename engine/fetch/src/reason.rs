//! At which step a scrape failed.

/// At which step a scrape failed. The short names are label values of our metrics and part of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    Dns,
    Connect,
    /// The deadline passed before the response head was complete.
    HeaderTimeout,
    /// The deadline passed within the body.
    BodyTimeout,
    /// The response head is not HTTP, too large, or says something impossible.
    Protocol,
    Status,
    Redirect,
    ContentType,
    /// The connection broke within the body, or its length or chunking was wrong.
    Body,
    BodySize,
    /// The body does not unpack.
    Decode,
    Parse,
    SampleLimit,
    LabelLimit,
    /// A native histogram has too many buckets at any resolution.
    BucketLimit,
    /// More samples than safe mode allows.
    SafeMode,
    /// Relabelling left a sample without a valid name.
    Name,
    TargetLimit,
    /// A setting that cannot be carried out, such as a header that is none.
    Unsupported,
    /// The handshake, or a certificate.
    Tls,
    /// The proxy cannot be reached, or refuses.
    Proxy,
    /// A file with a secret or a certificate cannot be read, or there is no token.
    Credentials,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Dns => "dns",
            Reason::Connect => "connect",
            Reason::HeaderTimeout => "header_timeout",
            Reason::BodyTimeout => "body_timeout",
            Reason::Protocol => "protocol",
            Reason::Status => "status",
            Reason::Redirect => "redirect",
            Reason::ContentType => "content_type",
            Reason::Body => "body",
            Reason::BodySize => "body_size",
            Reason::Decode => "decode",
            Reason::Parse => "parse",
            Reason::SampleLimit => "sample_limit",
            Reason::LabelLimit => "label_limit",
            Reason::BucketLimit => "bucket_limit",
            Reason::SafeMode => "safe_mode",
            Reason::Name => "name",
            Reason::TargetLimit => "target_limit",
            Reason::Unsupported => "unsupported",
            Reason::Tls => "tls",
            Reason::Proxy => "proxy",
            Reason::Credentials => "credentials",
        }
    }
}
