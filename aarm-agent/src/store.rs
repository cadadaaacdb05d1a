//! Where archives are kept: object stores, directories, and web servers, which can be read only.
//!
//! Owns what a URL means. Credentials, endpoints and regions are the environment's to say, by the names that `object_store` knows. Whoever uses a
//! store waits for it: a runtime of its own does the work. Must never: be used by a task of another runtime; tell why something is not there
//! from what is not known to be.

mod http;

use std::future::Future;
use std::io::{self, Read};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aarm_receipt::archive;
use aarm_receipt::source::Source;
use hyper::body::Bytes;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ClientOptions, ObjectStore, ObjectStoreExt, RetryConfig};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio_stream::{Stream, StreamExt};

use self::http::Connector;

/// Bytes that are put at once; what is larger is put in parts of so many.
const PART: usize = 8 << 20;
/// Requests at once.
const AT_ONCE: usize = 32;
/// How often a request is made that fails in a way that may pass, and until when it is begun again.
const RETRIES: usize = 3;
const RETRY: Duration = Duration::from_secs(60);

/// Why there is no store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The URL is none.
    #[error("`{url}`: {what}")]
    Url {
        /// The URL.
        url: String,
        /// What it should be.
        what: &'static str,
    },
    /// It cannot be made out of what the environment says.
    #[error("{url}: {why}")]
    Open {
        /// The URL.
        url: String,
        /// Why.
        why: String,
    },
}

/// What a URL is for one log: the log's name is where `{origin}` is.
pub fn of_log(url: &str, origin: &str) -> String {
    url.replace("{origin}", origin)
}

/// Whether a store that this URL names could be written to.
pub fn can_be_written(url: &str) -> Result<(), StoreError> {
    Place::parse(url)?.is_writable()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    S3,
    Gcs,
    Azure,
    Directory,
    Web,
}

/// A URL, taken apart.
struct Place<'a> {
    url: &'a str,
    kind: Kind,
    /// Bucket, container or server.
    host: &'a str,
    path: &'a str,
}

impl<'a> Place<'a> {
    fn parse(url: &'a str) -> Result<Self, StoreError> {
        let wrong = |what| StoreError::Url { url: url.to_owned(), what };
        let (scheme, rest) = url.split_once("://").ok_or_else(|| wrong("no URL"))?;
        let kind = match scheme {
            "s3" => Kind::S3,
            "gs" => Kind::Gcs,
            "az" => Kind::Azure,
            "file" => Kind::Directory,
            "http" | "https" => Kind::Web,
            _ => return Err(wrong("it begins with s3://, gs://, az://, file://, http:// or https://")),
        };
        let rest = rest.trim_end_matches('/');
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        if url.chars().any(|c| c.is_whitespace() || c.is_control() || "?#@\\".contains(c)) {
            return Err(wrong(
                "it has a place and nothing else: what opens it is for the environment to say",
            ));
        }
        match (kind, host.is_empty()) {
            (Kind::Directory, true) if !path.is_empty() => {}
            (Kind::Directory, _) => return Err(wrong("a directory is file:///PATH")),
            (_, true) => return Err(wrong("it names no bucket, container or server")),
            (_, false) => {}
        }
        Ok(Self { url: url.trim_end_matches('/'), kind, host, path })
    }

    fn is_writable(&self) -> Result<(), StoreError> {
        let what = "it can be read only; s3://, gs://, az:// and file:// can be written to";
        match self.kind {
            Kind::Web => Err(StoreError::Url { url: self.url.to_owned(), what }),
            _ => Ok(()),
        }
    }

    fn directory(&self) -> PathBuf {
        format!("/{}", self.path).into()
    }

    fn open(&self) -> object_store::Result<Arc<dyn ObjectStore>> {
        let retry = RetryConfig { max_retries: RETRIES, retry_timeout: RETRY, ..RetryConfig::default() };
        Ok(match self.kind {
            Kind::S3 => Arc::new(
                AmazonS3Builder::from_env()
                    .with_bucket_name(self.host)
                    .with_retry(retry)
                    .with_http_connector(Connector)
                    .build()?,
            ),
            Kind::Gcs => Arc::new(
                GoogleCloudStorageBuilder::from_env()
                    .with_bucket_name(self.host)
                    .with_retry(retry)
                    .with_http_connector(Connector)
                    .build()?,
            ),
            Kind::Azure => Arc::new(
                MicrosoftAzureBuilder::from_env()
                    .with_container_name(self.host)
                    .with_retry(retry)
                    .with_http_connector(Connector)
                    .build()?,
            ),
            Kind::Web => Arc::new(
                HttpBuilder::new()
                    .with_url(self.url)
                    .with_client_options(ClientOptions::new().with_allow_http(true))
                    .with_retry(retry)
                    .with_http_connector(Connector)
                    .build()?,
            ),
            // What is archived may be pruned where it came from.
            Kind::Directory => Arc::new(LocalFileSystem::new_with_prefix(self.directory())?.with_fsync(true)),
        })
    }
}

/// An archive's place.
pub struct Store {
    url: String,
    objects: Arc<dyn ObjectStore>,
    /// What the names of all objects begin with.
    prefix: Path,
    runtime: Arc<Runtime>,
    failure: Failure,
}

/// The first thing that was not known, and why.
type Failure = Arc<Mutex<Option<String>>>;

impl Store {
    /// One that is read. Whether it is there shows when it is.
    pub fn open(url: &str) -> Result<Self, StoreError> {
        let place = Place::parse(url)?;
        let failed = |why: String| StoreError::Open { url: place.url.to_owned(), why };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("aarm-store")
            .enable_all()
            .build()
            .map_err(|e| failed(e.to_string()))?;
        if place.kind == Kind::Directory {
            std::fs::metadata(place.directory()).map_err(|e| failed(e.to_string()))?;
        }
        let objects = place.open().map_err(|e| failed(e.to_string()))?;
        let prefix = match place.kind {
            // It is the store's own.
            Kind::Directory | Kind::Web => Path::default(),
            _ => Path::from_url_path(place.path).map_err(|e| failed(e.to_string()))?,
        };
        let url = place.url.to_owned();
        Ok(Self { url, objects, prefix, runtime: Arc::new(runtime), failure: Failure::default() })
    }

    /// One that is written, too. A directory is made if it is not there.
    pub fn create(url: &str) -> Result<Self, StoreError> {
        let place = Place::parse(url)?;
        place.is_writable()?;
        if place.kind == Kind::Directory {
            let failed = |e: io::Error| StoreError::Open { url: url.to_owned(), why: e.to_string() };
            std::fs::create_dir_all(place.directory()).map_err(failed)?;
        }
        Self::open(url)
    }

    fn place(&self, name: &str) -> io::Result<Path> {
        let path = Path::parse(name).map_err(io::Error::other)?;
        Ok(self.prefix.parts().chain(path.parts()).collect())
    }

    fn wait<T>(&self, work: impl Future<Output = object_store::Result<T>>) -> io::Result<T> {
        self.runtime.block_on(work).map_err(|e| failed(&self.failure, e))
    }

    /// Does things at once; what came of each.
    fn wait_all<T: Send + 'static>(
        &self,
        work: impl Iterator<Item = impl Future<Output = T> + Send + 'static>,
    ) -> Vec<T> {
        let slots = Arc::new(Semaphore::new(AT_ONCE));
        let tasks: Vec<_> = work
            .map(|one| {
                let slots = Arc::clone(&slots);
                self.runtime.spawn(async move {
                    let _slot = slots.acquire().await;
                    one.await
                })
            })
            .collect();
        self.runtime.block_on(async {
            let mut done = Vec::with_capacity(tasks.len());
            for task in tasks {
                done.push(task.await.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic())));
            }
            done
        })
    }
}

impl Source for Store {
    fn names(&self, below: &str) -> io::Result<Vec<String>> {
        archive::names(self, below)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn Read + Send>> {
        let place = self.place(name)?;
        let parts = self.wait(async { Ok(self.objects.get(&place).await?.into_stream()) })?;
        let (runtime, failure) = (Arc::clone(&self.runtime), Arc::clone(&self.failure));
        Ok(Box::new(Parts { parts, part: Bytes::new(), runtime, failure }))
    }

    fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() { self.url.clone().into() } else { format!("{}/{name}", self.url).into() }
    }

    fn read_all(&self, names: &[String], max: usize) -> Vec<io::Result<Vec<u8>>> {
        self.wait_all(names.iter().map(|name| {
            let (place, objects) = (self.place(name), Arc::clone(&self.objects));
            let failure = Arc::clone(&self.failure);
            async move {
                let mut found = Vec::new();
                let mut parts = objects.get(&place?).await.map_err(|e| failed(&failure, e))?.into_stream();
                while let Some(part) = parts.next().await {
                    found.extend_from_slice(&part.map_err(|e| failed(&failure, e))?);
                    if found.len() > max {
                        return Err(io::ErrorKind::FileTooLarge.into());
                    }
                }
                Ok(found)
            }
        }))
    }

    fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl archive::Store for Store {
    fn put(&self, name: &str, from: &mut dyn Read) -> io::Result<()> {
        let place = self.place(name)?;
        let mut part = next_part(from)?;
        if part.len() < PART {
            return self.wait(self.objects.put(&place, part.into())).map(drop);
        }
        let mut upload = self.wait(self.objects.put_multipart(&place))?;
        let mut sent = Ok(());
        while sent.is_ok() && !part.is_empty() {
            sent = self.wait(upload.put_part(std::mem::take(&mut part).into()));
            sent = sent.and_then(|()| next_part(from).map(|next| part = next));
        }
        let put = sent.and_then(|()| self.wait(upload.complete()).map(drop));
        if put.is_err() {
            // Where that fails too, the store's own rules take away what it has of it.
            let _ = self.runtime.block_on(upload.abort());
        }
        put
    }

    fn put_all(&self, files: &[(String, Vec<u8>)]) -> io::Result<()> {
        let put = self.wait_all(files.iter().map(|(name, content)| {
            let (place, objects) = (self.place(name), Arc::clone(&self.objects));
            let (content, failure) = (content.clone(), Arc::clone(&self.failure));
            async move { objects.put(&place?, content.into()).await.map_err(|e| failed(&failure, e)) }
        }));
        put.into_iter().try_for_each(|put| put.map(drop))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let place = self.place(name)?;
        match self.wait(self.objects.delete(&place)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }
}

/// As much as is put at once.
fn next_part(from: &mut dyn Read) -> io::Result<Vec<u8>> {
    let mut part = Vec::new();
    from.take(PART as u64).read_to_end(&mut part)?;
    Ok(part)
}

/// An object that is read as it comes.
struct Parts {
    parts: Pin<Box<dyn Stream<Item = object_store::Result<Bytes>> + Send>>,
    /// The rest of the last one.
    part: Bytes,
    runtime: Arc<Runtime>,
    failure: Failure,
}

impl Read for Parts {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        while self.part.is_empty() {
            match self.runtime.block_on(self.parts.next()) {
                Some(part) => self.part = part.map_err(|e| failed(&self.failure, e))?,
                None => return Ok(0),
            }
        }
        let n = to.len().min(self.part.len());
        to[..n].copy_from_slice(&self.part.split_to(n));
        Ok(n)
    }
}

/// What an error is to who reads files.
fn failed(failure: &Failure, e: object_store::Error) -> io::Error {
    use object_store::Error::{NotFound, PermissionDenied, Unauthenticated};
    let kind = match e {
        NotFound { .. } => return io::Error::new(io::ErrorKind::NotFound, "it is not there"),
        PermissionDenied { .. } | Unauthenticated { .. } => io::ErrorKind::PermissionDenied,
        _ => io::ErrorKind::Other,
    };
    let why = e.to_string();
    failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| why.clone());
    io::Error::new(kind, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_place_and_nothing_else() {
        for (url, host, path) in [
            ("s3://bucket/a/b", "bucket", "a/b"),
            ("s3://bucket", "bucket", ""),
            ("gs://bucket/", "bucket", ""),
            ("az://container/a/", "container", "a"),
            ("file:///mnt/a", "", "mnt/a"),
            ("https://web.example:8443/a", "web.example:8443", "a"),
        ] {
            let place = Place::parse(url).unwrap();
            assert_eq!((place.host, place.path), (host, path), "{url}");
            assert_eq!(can_be_written(url).is_ok(), !url.starts_with("http"), "{url}");
        }
        for url in [
            "",
            "/mnt/a",
            "s3:bucket",
            "s3://",
            "s3:///a",
            "ftp://a/b",
            "file://host/a",
            "file:///",
            "s3://key:secret@bucket/a",
            "https://web.example/a?token=x",
            "s3://bucket/a b",
            "s3://bucket/a\n",
        ] {
            assert!(matches!(Store::open(url), Err(StoreError::Url { .. })), "{url}");
        }
    }

    #[test]
    fn what_is_put_comes_back_and_what_is_not_there_is_told_from_what_failed() {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("file://{}/a/b/", dir.path().display());
        assert!(matches!(Store::open(&url), Err(StoreError::Open { .. })), "it is not made by who reads");
        let store = Store::create(&url).unwrap();
        use archive::Store as _;
        // More than is put at once, and exactly as much.
        for n in [0, 1, PART - 1, PART, PART + 1, 2 * PART + 7] {
            let content: Vec<u8> = (0..n).map(|i| (i * 7 % 251) as u8).collect();
            store.put("x/y", &mut content.as_slice()).unwrap();
            assert!(store.read("x/y", n).unwrap() == content, "{n}");
            assert!(std::fs::read(dir.path().join("a/b/x/y")).unwrap() == content, "{n}");
            assert_eq!(store.read("x/y", n.saturating_sub(1)).is_ok(), n == 0);
        }
        let files: Vec<_> = (0..300).map(|n| (format!("many/{n}"), vec![n as u8; 9])).collect();
        store.put_all(&files).unwrap();
        let mut names: Vec<_> = files.iter().map(|(name, _)| name.clone()).collect();
        names.push("many/none".into());
        let found = store.read_all(&names, 9);
        assert!(files.iter().zip(&found).all(|((_, content), found)| found.as_ref().unwrap() == content));
        assert_eq!(found[300].as_ref().unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(store.read_all(&names[..1], 8)[0].is_err());
        // Half of something is nothing.
        struct Broken(usize);
        impl Read for Broken {
            fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
                self.0 = self.0.checked_sub(1).ok_or_else(|| io::Error::other("broken"))?;
                to.fill(7);
                Ok(to.len())
            }
        }
        assert!(store.put("half", &mut Broken(1000)).is_err());
        assert!(store.open("half").is_err_and(|e| e.kind() == io::ErrorKind::NotFound));
        store.remove("x/y").unwrap();
        store.remove("x/y").unwrap();
        assert_eq!(store.failure(), None);
        std::fs::write(dir.path().join("file"), "").unwrap();
        std::os::unix::fs::symlink("loop", dir.path().join("a/b/loop")).unwrap();
        assert!(store.read("loop", 1).is_err());
        assert!(store.failure().is_some(), "what is there and cannot be read");
    }
}
