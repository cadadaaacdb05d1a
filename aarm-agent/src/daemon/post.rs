//! Asking, and telling, others over HTTP: a POST, signed if there is a secret.
//!
//! Must never: follow a redirection, which would send what was meant for one to another.

use std::io;
use std::path::{Path, PathBuf};

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode, Uri, header};
use hyper_util::client::legacy::Client;

use crate::https::{self, Https, Reach};

/// The header with the signature: `t=SECONDS,v1=HEX`, where HEX is HMAC-SHA256 of `SECONDS.BODY`.
pub const SIGNATURE: &str = "aarm-signature";

/// Why nothing came of it.
#[derive(Debug, thiserror::Error)]
pub enum PostError {
    /// The address is none.
    #[error("`{0}` is no http:// or https:// address")]
    Address(String),
    /// Nobody can be known.
    #[error(transparent)]
    Certificates(#[from] https::CertificatesError),
    /// The secret cannot be used.
    #[error("secret {path}: {why}")]
    Secret {
        /// Its file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The other side was not reached.
    #[error("{0}")]
    Unreached(String),
    /// It answered with an error.
    #[error("it answered {0}")]
    Status(StatusCode),
    /// It said too much, or stopped in between.
    #[error("its answer: {0}")]
    Body(String),
}

/// An answer, whatever it says.
pub struct Reply {
    /// Status.
    pub status: StatusCode,
    /// What came with it.
    pub body: Vec<u8>,
}

/// Sends.
#[derive(Clone)]
pub struct Poster {
    client: Client<Https, Full<Bytes>>,
}

/// Longest secret, in bytes, and the shortest that is one.
const SECRET_MAX: u64 = 4096;
const SECRET_MIN: u64 = 16;

/// The secret in a file, without the end of its line.
pub fn secret(path: &Path) -> Result<Vec<u8>, PostError> {
    let failed = |why: String| PostError::Secret { path: path.to_path_buf(), why };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|e| failed(e.to_string()))?;
    io::Read::read_to_end(&mut io::Read::take(file, SECRET_MAX + 1), &mut bytes)
        .map_err(|e| failed(e.to_string()))?;
    bytes.truncate(bytes.trim_ascii_end().len());
    match bytes.len() as u64 {
        SECRET_MIN..=SECRET_MAX => Ok(bytes),
        n => Err(failed(format!("it has {n} bytes; from {SECRET_MIN} to {SECRET_MAX} are needed"))),
    }
}

/// Whether text is an address that can be posted to.
pub fn address(text: &str) -> Result<Uri, PostError> {
    let bad = || PostError::Address(text.to_owned());
    let uri: Uri = text.parse().map_err(|_| bad())?;
    let http = matches!(uri.scheme_str(), Some("http" | "https"));
    if http && uri.host().is_some_and(|host| !host.is_empty()) { Ok(uri) } else { Err(bad()) }
}

impl Poster {
    /// One for this address.
    pub fn to(address: &Uri) -> Result<Self, PostError> {
        let reach = if address.scheme_str() == Some("https") { Reach::Https } else { Reach::Http };
        Ok(Self { client: https::client(reach)? })
    }

    /// Posts JSON; the answer, of at most `max` bytes, if it is none of an error.
    pub async fn post(
        &self,
        address: &Uri,
        body: Vec<u8>,
        secret: Option<&[u8]>,
        max: usize,
    ) -> Result<Vec<u8>, PostError> {
        let reply = self.send(address, body, "application/json", secret, max).await?;
        if reply.status.is_success() { Ok(reply.body) } else { Err(PostError::Status(reply.status)) }
    }

    /// Posts something of a type; the answer, of at most `max` bytes, whatever its status.
    pub async fn send(
        &self,
        address: &Uri,
        body: Vec<u8>,
        kind: &'static str,
        secret: Option<&[u8]>,
        max: usize,
    ) -> Result<Reply, PostError> {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(address.clone())
            .header(header::CONTENT_TYPE, kind)
            .header(header::USER_AGENT, https::USER_AGENT);
        if let Some(secret) = secret {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            request = request.header(SIGNATURE, signature(secret, now.as_secs(), &body));
        }
        let request =
            request.body(Full::new(Bytes::from(body))).map_err(|e| PostError::Unreached(e.to_string()))?;
        let response =
            self.client.request(request).await.map_err(|e| PostError::Unreached(https::why(&e)))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), max).collect().await;
        body.map(|b| Reply { status, body: b.to_bytes().to_vec() })
            .map_err(|e| PostError::Body(e.to_string()))
    }
}

/// The value of [`SIGNATURE`].
pub fn signature(secret: &[u8], seconds: u64, body: &[u8]) -> String {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
    let mut context = ring::hmac::Context::with_key(&key);
    context.update(format!("{seconds}.").as_bytes());
    context.update(body);
    let hex: String = context.sign().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("t={seconds},v1={hex}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for good in ["http://127.0.0.1:8080/x", "https://hooks.example.org/a?b=c", "http://[::1]/"] {
            assert!(address(good).is_ok(), "{good}");
        }
        for bad in ["", "ftp://a/", "/x", "http://", "127.0.0.1:80", "http:///x", "file:///etc/passwd"] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_address_needs_neither_certificates_nor_resolvers() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/x", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            use std::io::{Read, Write};
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            let mut byte = [0u8; 1];
            while !request.ends_with(b"{\"a\":1}") {
                stream.read_exact(&mut byte).unwrap();
                request.push(byte[0]);
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok").unwrap();
            String::from_utf8(request).unwrap()
        });
        let to = address(&url).unwrap();
        let secret = b"0123456789abcdef";
        let post = async { Poster::to(&to)?.post(&to, b"{\"a\":1}".to_vec(), Some(secret), 10).await };
        assert_eq!(runtime.block_on(post).unwrap(), b"ok");
        let request = server.join().unwrap();
        assert!(
            request.starts_with("POST /x HTTP/1.1\r\n") && request.contains("aarm-signature: t="),
            "{request}"
        );
    }

    #[test]
    fn signatures_are_hmac_sha256_of_time_and_body() {
        // printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac secret
        assert_eq!(
            signature(b"secret", 1_700_000_000, b"{\"a\":1}"),
            "t=1700000000,v1=49f24e537407743fa4a0242bb63b94b9a47ee99cbbe071ccd8a22550ae411686"
        );
    }
}
