//! Requests of `object_store` by our own HTTP client, so that there is one TLS, one way to dial and one set of bounds.

use async_trait::async_trait;
use bytes::Bytes;
use client::{Client, ClientOptions, ErrorKind, Request, Url};
use config::{HttpConfig, ObjectStorageHttp};
use http::header::ACCEPT_ENCODING;
use http::{HeaderValue, StatusCode};
use http_body_util::BodyExt;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
};
use std::time::Duration;

/// How long a request may take: a part of 16 MiB at half a megabit a second.
const REQUEST_WITHIN: Duration = Duration::from_secs(300);
/// Longest response; the shipper asks for sizes and small objects only.
const RESPONSE_BYTES_MAX: usize = 16 << 20;

/// Makes connections for a bucket.
#[derive(Debug)]
pub struct Connector {
    settings: HttpConfig,
}

impl Connector {
    pub fn new(settings: &ObjectStorageHttp) -> Connector {
        let mut tls_config = settings.tls_config.clone();
        tls_config.insecure_skip_verify |= settings.insecure_skip_verify;
        // A redirected request would have the wrong signature. Go's client takes proxies from the environment.
        let http =
            HttpConfig { tls_config, follow_redirects: false, proxy_from_environment: true, ..HttpConfig::default() };
        Connector { settings: http }
    }
}

impl HttpConnector for Connector {
    fn connect(&self, _: &object_store::ClientOptions) -> object_store::Result<HttpClient> {
        let options = ClientOptions {
            timeout: REQUEST_WITHIN,
            body_bytes_max: RESPONSE_BYTES_MAX,
            idle_per_host_max: 2,
            ..ClientOptions::default()
        };
        let client = Client::new(&self.settings, options)
            .map_err(|error| object_store::Error::Generic { store: "http", source: error.into() })?;
        Ok(HttpClient::new(Service(client)))
    }
}

struct Service(Client);

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Service")
    }
}

fn unusable(error: impl std::error::Error + Send + Sync + 'static) -> HttpError {
    HttpError::new(HttpErrorKind::Unknown, error)
}

#[async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (head, body) = request.into_parts();
        let body: Bytes = body.collect().await?.to_bytes();
        let url = Url::parse(&head.uri.to_string()).map_err(unusable)?;
        let mut headers = head.headers;
        // Sizes are those of objects as they are stored.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let request = Request { method: head.method, url, headers, body, timeout: None };
        let response = self.0.send(request).await.map_err(|error| {
            let kind = match error.kind {
                ErrorKind::Connect | ErrorKind::Tls => HttpErrorKind::Connect,
                ErrorKind::Timeout => HttpErrorKind::Timeout,
                ErrorKind::Protocol => HttpErrorKind::Interrupted,
                ErrorKind::TooLarge => HttpErrorKind::Decode,
                ErrorKind::Settings | ErrorKind::Token => HttpErrorKind::Unknown,
            };
            HttpError::new(kind, error)
        })?;
        let mut answer = http::Response::new(HttpResponseBody::from(response.body));
        *answer.status_mut() = StatusCode::from_u16(response.status.as_u16()).map_err(unusable)?;
        *answer.headers_mut() = response.headers;
        Ok(answer)
    }
}
