//! What a target's task asks with: its request, made of the target and of the credentials of the moment.

use crate::Reason;
use crate::access::{Access, HttpSettings};
use crate::content_type;
use crate::resolver::Resolver;
use crate::{BodyLimit, Client, FetchError, Fetched, Fetcher, Opened, Request, RequestOptions};
use std::sync::Arc;
use std::time::Instant;
use targets::Target;

/// What a target's task asks with, made anew when its settings, its files or its token change.
pub struct TargetClient {
    client: Client,
    target: Arc<Target>,
    access: Arc<Access>,
    prepared: Arc<HttpSettings>,
    request: Result<Request, FetchError>,
}

impl TargetClient {
    pub fn new(target: Arc<Target>, access: Arc<Access>) -> TargetClient {
        let prepared = access.now();
        let request = build_request(&target, &prepared);
        TargetClient { client: Client::default(), target, access, prepared, request }
    }

    pub fn target(&self) -> &Arc<Target> {
        &self.target
    }

    /// Connections and handshakes so far.
    pub fn opened(&self) -> Opened {
        self.client.opened()
    }

    /// The target has other settings. The connection stays if they make it the same way.
    pub fn retarget(&mut self, target: Arc<Target>, access: Arc<Access>) {
        self.prepared = access.now();
        self.request = build_request(&target, &self.prepared);
        (self.target, self.access) = (target, access);
    }

    /// Takes what is known now.
    fn refresh(&mut self, prepared: Arc<HttpSettings>) {
        if !Arc::ptr_eq(&prepared, &self.prepared) {
            self.request = build_request(&self.target, &prepared);
            self.prepared = prepared;
        }
    }

    /// One scrape's fetch, with the credentials of the moment.
    pub async fn fetch(&mut self, fetcher: &Fetcher<Resolver>, deadline: Instant) -> Result<Fetched, FetchError> {
        let prepared = match self.prepared.headers {
            Some(_) => self.access.now(),
            None => self.access.ready().await,
        };
        self.refresh(prepared);
        let limit = BodyLimit::new(self.target.job.body_size_limit);
        match &self.request {
            Ok(request) => self.client.fetch(fetcher, request, limit, deadline).await,
            Err(error) => Err(error.clone()),
        }
    }

    /// The error of a fetch that was dropped at the deadline.
    pub fn timed_out(&self) -> FetchError {
        match &self.request {
            Ok(request) => self.client.timed_out(request),
            Err(error) => error.clone(),
        }
    }
}

/// The request of every scrape of a target, with the credentials of the moment.
pub fn build_request(target: &Target, prepared: &HttpSettings) -> Result<Request, FetchError> {
    let failed = |why: &str| {
        let text = format!("Get \"{}\": {why}", target.url);
        Err(FetchError { reason: Reason::Credentials, text })
    };
    let headers = match &prepared.headers {
        Some(Ok(headers)) => headers.clone(),
        Some(Err(why)) => return failed(why),
        None => return failed("context deadline exceeded: the credentials, or the token for them, have not come yet"),
    };
    let options = RequestOptions {
        timeout: target.timeout,
        accept: content_type::accept(&target.job),
        compression: target.job.enable_compression,
        follow_redirects: target.job.http.follow_redirects,
        headers,
        ways: prepared.ways.clone(),
    };
    Request::new(target.url.clone(), options)
}
