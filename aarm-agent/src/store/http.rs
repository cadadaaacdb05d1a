//! How object stores are spoken to: with the client that all others are spoken to with.
//!
//! Promises: a server that says nothing any more, or too much where little is expected, ends in an error. Must never: send over HTTP what is for HTTPS.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::{Method, header};
use hyper_util::client::legacy::Client;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse,
    HttpResponseBody, HttpService,
};
use object_store::{ClientConfigKey, ClientOptions, HeaderValue};
use tokio::time::{Instant, Sleep};

use crate::https::{self, Https, Reach};

/// How long an answer may take to begin, and each part of it to follow.
const TIME: Duration = Duration::from_secs(30);
/// Bytes of a request that are sent in a second at least: it may take longer than that.
const SLOWEST: usize = 64 << 10;
/// Most bytes of an answer that has no content of ours.
const ANSWER_MAX: usize = 1 << 20;

/// Makes clients for stores.
#[derive(Debug)]
pub struct Connector;

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let plain = options.get_config_value(&ClientConfigKey::AllowHttp).as_deref() == Some("true");
        let client = match plain {
            // Where HTTP will do, nothing may be there to trust others by.
            true => https::client(Reach::Both).or_else(|_| https::client(Reach::Http)),
            false => https::client(Reach::Https),
        };
        let client = client.map_err(|e| object_store::Error::Generic { store: "HTTP", source: e.into() })?;
        Ok(HttpClient::new(Service { client }))
    }
}

#[derive(Debug)]
struct Service {
    client: Client<Https, HttpRequestBody>,
}

impl HttpService for Service {
    fn call<'s, 'f>(
        &'s self,
        mut request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'f>>
    where
        's: 'f,
        Self: 'f,
    {
        request.headers_mut().insert(header::USER_AGENT, HeaderValue::from_static(https::USER_AGENT));
        let is_get = request.method() == Method::GET;
        let seconds = request.body().content_length() / SLOWEST;
        let asked = self.client.request(request);
        Box::pin(async move {
            let answer = tokio::time::timeout(TIME + Duration::from_secs(seconds as u64), asked).await;
            let answer = answer.map_err(|_| silent())?.map_err(|e| {
                let kind = if e.is_connect() { HttpErrorKind::Connect } else { HttpErrorKind::Request };
                HttpError::new(kind, io::Error::other(https::why(&e)))
            })?;
            let has_content = is_get && answer.status().is_success();
            Ok(answer.map(|body| {
                let body = Patient { body, until: None };
                if has_content {
                    return HttpResponseBody::new(body);
                }
                let too_long = |e| HttpError::new(HttpErrorKind::Decode, io::Error::other(e));
                HttpResponseBody::new(Limited::new(body, ANSWER_MAX).map_err(too_long))
            }))
        })
    }
}

fn silent() -> HttpError {
    let why = format!("nothing came for {} s", TIME.as_secs());
    HttpError::new(HttpErrorKind::Timeout, io::Error::new(io::ErrorKind::TimedOut, why))
}

/// A body whose parts are not waited for for ever.
struct Patient {
    body: Incoming,
    /// Until when the next part is waited for, if it is.
    until: Option<Pin<Box<Sleep>>>,
}

impl Body for Patient {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        if let Poll::Ready(part) = Pin::new(&mut self.body).poll_frame(cx) {
            self.until = None;
            let broken = |e| HttpError::new(HttpErrorKind::Interrupted, e);
            return Poll::Ready(part.map(|part| part.map_err(broken)));
        }
        let until =
            self.until.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + TIME)));
        ready!(until.as_mut().poll(cx));
        Poll::Ready(Some(Err(silent())))
    }
}
