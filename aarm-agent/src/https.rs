//! HTTP to others: how they are reached, and who is believed to be who he is.
//!
//! Names are looked up by ourselves, as `/etc/resolv.conf` and `/etc/hosts` say: the binary is static, and the C library's lookups would
//! load modules of another one. Must never: follow a redirection.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hickory_resolver::TokioResolver;
use hyper::body::Body;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::TokioExecutor;

/// What we call ourselves.
pub const USER_AGENT: &str = concat!("aarm-agent/", env!("CARGO_PKG_VERSION"));

/// How connections are made.
pub type Https = HttpsConnector<HttpConnector<Names>>;

/// Looks names up for the client, as this host's settings say. They are read when there is a name to look up: an address needs none.
#[derive(Clone)]
pub struct Names;

impl Names {
    async fn look_up(name: &str) -> Result<Vec<SocketAddr>, Box<dyn std::error::Error + Send + Sync>> {
        let resolver = TokioResolver::builder_tokio()?.build()?;
        let found = resolver.lookup_ip(name).await?;
        Ok(found.iter().map(|ip| SocketAddr::new(ip, 0)).collect())
    }
}

impl tower::Service<Name> for Names {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, io::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        Box::pin(
            async move { Self::look_up(name.as_str()).await.map(Vec::into_iter).map_err(io::Error::other) },
        )
    }
}

/// Who is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Addresses of HTTP: a host without certificates can do that.
    Http,
    /// Addresses of HTTPS, by the certificates that this host trusts.
    Https,
    /// Both.
    Both,
}

/// The certificates that this host trusts cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("this host's certificates: {0}")]
pub struct CertificatesError(String);

/// A client.
pub fn client<B>(reach: Reach) -> Result<Client<Https, B>, CertificatesError>
where
    B: Body + Send,
    B::Data: Send,
{
    let mut http = HttpConnector::new_with_resolver(Names);
    http.enforce_http(false);
    let provider = rustls::crypto::ring::default_provider();
    let builder = HttpsConnectorBuilder::new();
    let builder = if reach == Reach::Http {
        let nobody = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .map_err(|e| CertificatesError(e.to_string()))?
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        builder.with_tls_config(nobody)
    } else {
        builder.with_provider_and_native_roots(provider).map_err(|e| CertificatesError(e.to_string()))?
    };
    let builder = if reach == Reach::Https { builder.https_only() } else { builder.https_or_http() };
    Ok(Client::builder(TokioExecutor::new()).build(builder.enable_http1().wrap_connector(http)))
}

/// What went wrong, and what that came from.
pub fn why(e: &dyn std::error::Error) -> String {
    let mut why = e.to_string();
    let mut source = e.source();
    while let Some(e) = source {
        why = format!("{why}: {e}");
        source = e.source();
    }
    why
}
