//! An object store as S3 is, as far as archives need it, on this machine; it breaks off, and gives back something else, where it is told to.
//! Those of others are the same to who puts and gets what is small.

use std::collections::{BTreeMap, HashMap};
use std::io::Error;
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;

/// What it has and does.
#[derive(Default)]
pub struct State {
    /// Objects by their paths, which begin with the bucket.
    pub objects: BTreeMap<String, Vec<u8>>,
    /// Uploads in parts that were neither completed nor aborted.
    pub uploads: HashMap<String, BTreeMap<u32, Vec<u8>>>,
    /// What was put whole, in this order.
    pub puts: Vec<String>,
    /// After so many requests that put something, all break off in the middle.
    pub breaks_after: Option<usize>,
    /// What is put under a path that ends so is something else afterwards.
    pub spoils: Option<String>,
    /// Anybody may read.
    pub is_public: bool,
    /// Requests.
    pub requests: usize,
}

/// The server, and a way to what it has.
pub struct S3 {
    /// `http://ADDRESS:PORT`.
    pub endpoint: String,
    state: Arc<Mutex<State>>,
    _runtime: tokio::runtime::Runtime,
}

impl S3 {
    /// Serves until it is dropped.
    pub fn serve() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                let service = hyper::service::service_fn(move |request| answer(Arc::clone(&state), request));
                let serving = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                tokio::spawn(serving);
            }
        });
        Self { endpoint, state, _runtime: runtime }
    }

    /// What it has.
    pub fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

type Answer = Response<Full<Bytes>>;

fn say(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer
}

fn tagged(mut answer: Answer, content: &[u8]) -> Answer {
    let tag = format!("\"{:08x}\"", crc32fast::hash(content));
    answer.headers_mut().insert(header::ETAG, tag.parse().unwrap());
    answer
}

/// An error: the connection ends.
async fn answer(state: Arc<Mutex<State>>, request: Request<Incoming>) -> Result<Answer, Error> {
    let (head, mut body) = request.into_parts();
    let path = head.uri.path().trim_start_matches('/').to_owned();
    let query: HashMap<String, String> =
        serde_urlencoded::from_str(head.uri.query().unwrap_or_default()).map_err(Error::other)?;
    let is_read = matches!(head.method, Method::GET | Method::HEAD);
    let signed = head.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let who = ["AWS4-HMAC-SHA256 Credential=who/", "Bearer who", "SharedKey who:"];
    let signed = signed.is_some_and(|value| who.iter().any(|begin| value.starts_with(begin)));
    let breaks = {
        let mut s = state.lock().unwrap();
        s.requests += 1;
        let may = signed || is_read && s.is_public;
        if !may {
            return Ok(say(StatusCode::FORBIDDEN, "<Error><Code>AccessDenied</Code></Error>"));
        }
        match &mut s.breaks_after {
            Some(0) => head.method == Method::PUT,
            Some(left) if head.method == Method::PUT => {
                *left -= 1;
                false
            }
            _ => false,
        }
    };
    if breaks {
        let _ = body.frame().await;
        return Err(Error::other("it breaks off"));
    }
    let content = body.collect().await.map_err(Error::other)?.to_bytes().to_vec();
    let mut s = state.lock().unwrap();
    Ok(match (head.method, query.get("uploadId")) {
        (Method::GET, _) => get(&s, &path, head.headers.get(header::RANGE)),
        (Method::PUT, Some(upload)) => {
            let part = query["partNumber"].parse().map_err(Error::other)?;
            let Some(parts) = s.uploads.get_mut(upload) else { return Ok(say(StatusCode::NOT_FOUND, "")) };
            let answer = tagged(say(StatusCode::OK, ""), &content);
            parts.insert(part, content);
            answer
        }
        (Method::PUT, None) => put(&mut s, path, content),
        (Method::POST, None) if query.contains_key("uploads") => {
            let upload = format!("upload-{}", s.requests);
            s.uploads.insert(upload.clone(), BTreeMap::new());
            let xml = format!(
                "<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
            );
            say(StatusCode::OK, xml)
        }
        (Method::POST, Some(upload)) => {
            let Some(parts) = s.uploads.remove(upload) else { return Ok(say(StatusCode::NOT_FOUND, "")) };
            put(&mut s, path, parts.into_values().collect::<Vec<_>>().concat());
            let xml = "<CompleteMultipartUploadResult><ETag>\"x\"</ETag></CompleteMultipartUploadResult>";
            say(StatusCode::OK, xml)
        }
        (Method::DELETE, Some(upload)) => {
            s.uploads.remove(upload);
            say(StatusCode::NO_CONTENT, "")
        }
        // Several at once, by their names in XML.
        (Method::POST, None) if query.contains_key("delete") => {
            let text = String::from_utf8_lossy(&content).into_owned();
            for key in text.split("<Key>").skip(1).filter_map(|rest| rest.split("</Key>").next()) {
                s.objects.remove(&format!("{path}/{key}"));
            }
            say(StatusCode::OK, "<DeleteResult></DeleteResult>")
        }
        (method, _) => say(StatusCode::NOT_IMPLEMENTED, format!("{method} {path} {query:?}")),
    })
}

fn put(s: &mut State, path: String, mut content: Vec<u8>) -> Answer {
    let answer = tagged(say(StatusCode::OK, ""), &content);
    if s.spoils.as_ref().is_some_and(|end| path.ends_with(end)) {
        let middle = content.len() / 2;
        content[middle] ^= 1;
    }
    s.puts.push(path.clone());
    s.objects.insert(path, content);
    answer
}

fn get(s: &State, path: &str, range: Option<&header::HeaderValue>) -> Answer {
    let Some(content) = s.objects.get(path) else {
        return say(StatusCode::NOT_FOUND, "<Error><Code>NoSuchKey</Code></Error>");
    };
    let range = range.and_then(|range| range.to_str().ok()?.strip_prefix("bytes=")?.split_once('-'));
    let mut answer = match range {
        None => say(StatusCode::OK, content.clone()),
        Some((from, to)) => {
            let from: usize = from.parse().unwrap_or_default();
            let to = to.parse().map_or(content.len(), |to: usize| content.len().min(to + 1));
            let mut part = say(StatusCode::PARTIAL_CONTENT, content[from..to].to_vec());
            let place = format!("bytes {from}-{}/{}", to - 1, content.len());
            part.headers_mut().insert(header::CONTENT_RANGE, place.parse().unwrap());
            part
        }
    };
    let modified = header::HeaderValue::from_static("Thu, 01 Jan 2026 00:00:00 GMT");
    answer.headers_mut().insert(header::LAST_MODIFIED, modified);
    tagged(answer, content)
}
