//! The client of the daemon's API: HTTP/1.1 with JSON over the unix socket.
//!
//! Promises: every wait has a limit, every answer has a size limit, and no thread is started (`aarm run`
//! registers with it in a process that must have one).

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request, Response, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::exit::CliError;
use crate::api::types::{ErrorBody, StreamLine};

/// Longest wait for a connection.
const CONNECT_SECONDS: u64 = 5;
/// Longest wait for an answer to begin and, unless it is a stream, to end.
const ANSWER_SECONDS: u64 = 60;
/// Most bytes of an answer that is not a stream.
const ANSWER_MAX: usize = 64 << 20;
/// Most bytes of one line of a stream: a receipt has at most 65,535, JSON in JSON at most doubles it.
const LINE_MAX: usize = 256 << 10;

/// Runs one conversation with the daemon on this thread.
pub fn block_on<T>(work: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| CliError::System { what: "start the event loop", source })?
        .block_on(work)
}

/// One connection to the daemon.
pub struct Client {
    socket: PathBuf,
    sender: SendRequest<Full<Bytes>>,
}

impl Client {
    /// Connects.
    pub async fn connect(socket: &Path) -> Result<Self, CliError> {
        let no_daemon = |source| CliError::NoDaemon { socket: socket.to_owned(), source };
        let stream = timeout(Duration::from_secs(CONNECT_SECONDS), UnixStream::connect(socket))
            .await
            .map_err(|_| CliError::Timeout { socket: socket.to_owned(), seconds: CONNECT_SECONDS })?
            .map_err(no_daemon)?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|e| no_daemon(io::Error::other(e)))?;
        // Its errors reach whoever waits for an answer.
        tokio::spawn(connection);
        Ok(Self { socket: socket.to_owned(), sender })
    }

    /// `GET` of something whole.
    pub async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, CliError> {
        let response = self.send(Method::GET, path.to_owned(), None).await?;
        self.whole(response).await
    }

    /// `GET` with a query.
    pub async fn query<T: DeserializeOwned>(
        &mut self,
        path: &str,
        query: &impl Serialize,
    ) -> Result<T, CliError> {
        let target = self.target(path, query)?;
        let response = self.send(Method::GET, target, None).await?;
        self.whole(response).await
    }

    /// `POST`.
    pub async fn post<T: DeserializeOwned>(
        &mut self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, CliError> {
        let body = serde_json::to_vec(body).map_err(|e| self.protocol(format!("{e}")))?;
        let response = self.send(Method::POST, path.to_owned(), Some(body)).await?;
        self.whole(response).await
    }

    /// `DELETE`.
    pub async fn delete<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, CliError> {
        let response = self.send(Method::DELETE, path.to_owned(), None).await?;
        self.whole(response).await
    }

    /// `GET` of a stream.
    pub async fn stream(mut self, path: &str, query: &impl Serialize) -> Result<Lines, CliError> {
        let target = self.target(path, query)?;
        let response = self.send(Method::GET, target, None).await?;
        if !response.status().is_success() {
            return Err(self.refusal(response).await);
        }
        Ok(Lines { body: response.into_body(), buffer: Vec::new(), searched: 0, client: self })
    }

    fn target(&self, path: &str, query: &impl Serialize) -> Result<String, CliError> {
        let query = serde_urlencoded::to_string(query).map_err(|e| self.protocol(format!("{e}")))?;
        Ok(if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") })
    }

    async fn send(
        &mut self,
        method: Method,
        target: String,
        body: Option<Vec<u8>>,
    ) -> Result<Response<Incoming>, CliError> {
        let request = Request::builder()
            .method(method)
            .uri(target)
            .header(header::HOST, "aarm")
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, concat!("aarm/", env!("CARGO_PKG_VERSION")));
        let request = match &body {
            Some(_) => request.header(header::CONTENT_TYPE, "application/json"),
            None => request,
        };
        let request = request
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(|e| self.protocol(format!("{e}")))?;
        match timeout(Duration::from_secs(ANSWER_SECONDS), self.sender.send_request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(e)) => Err(self.protocol(format!("{e}"))),
            Err(_) => Err(self.timeout()),
        }
    }

    async fn bytes(&self, response: Response<Incoming>) -> Result<Bytes, CliError> {
        let body = Limited::new(response.into_body(), ANSWER_MAX);
        match timeout(Duration::from_secs(ANSWER_SECONDS), body.collect()).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(e)) => Err(self.protocol(format!("{e}"))),
            Err(_) => Err(self.timeout()),
        }
    }

    async fn whole<T: DeserializeOwned>(&self, response: Response<Incoming>) -> Result<T, CliError> {
        if !response.status().is_success() {
            return Err(self.refusal(response).await);
        }
        let bytes = self.bytes(response).await?;
        serde_json::from_slice(&bytes).map_err(|e| self.protocol(format!("{e}")))
    }

    /// What an answer that is not 2xx says.
    async fn refusal(&self, response: Response<Incoming>) -> CliError {
        let status = response.status();
        let bytes = match self.bytes(response).await {
            Ok(bytes) => bytes,
            Err(e) => return e,
        };
        match serde_json::from_slice::<ErrorBody>(&bytes) {
            Ok(body) => CliError::Refused { body: Box::new(body) },
            Err(_) => self.protocol(format!("status {status} without an explanation")),
        }
    }

    fn protocol(&self, what: String) -> CliError {
        CliError::Protocol { socket: self.socket.clone(), what }
    }

    fn timeout(&self) -> CliError {
        CliError::Timeout { socket: self.socket.clone(), seconds: ANSWER_SECONDS }
    }
}

/// The lines of a stream.
pub struct Lines {
    body: Incoming,
    buffer: Vec<u8>,
    /// Bytes of `buffer` known to hold no line break.
    searched: usize,
    client: Client,
}

impl Lines {
    /// The next line; `None` at the end. Dropping the future loses nothing: what arrived stays buffered.
    pub async fn next(&mut self) -> Result<Option<StreamLine>, CliError> {
        loop {
            if let Some(at) = self.buffer[self.searched..].iter().position(|b| *b == b'\n') {
                let end = self.searched + at;
                let line = serde_json::from_slice(&self.buffer[..end]);
                self.buffer.drain(..=end);
                self.searched = 0;
                return line.map(Some).map_err(|e| self.client.protocol(format!("in a stream: {e}")));
            }
            self.searched = self.buffer.len();
            if self.buffer.len() > LINE_MAX {
                return Err(self
                    .client
                    .protocol(format!("a line of a stream is longer than {LINE_MAX} bytes")));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(e)) => return Err(self.client.protocol(format!("the stream broke off: {e}"))),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(self.client.protocol("the stream ended inside a line".into())),
            }
        }
    }

    /// Whether a whole line is waiting already.
    pub fn ready(&self) -> bool {
        self.buffer[self.searched..].contains(&b'\n')
    }
}
