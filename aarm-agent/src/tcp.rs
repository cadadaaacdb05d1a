//! Serving a few requests over TCP: what the daemon tells scrapers, and what approvers bring from elsewhere.
//!
//! Every connection has one request, an end, and a place among so many. Must never: know what is asked.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// How an endpoint is served.
#[derive(Clone, Copy, Debug)]
pub struct Serving {
    /// Connections at once.
    pub connections: usize,
    /// Time within which a request must have been sent.
    pub request: Duration,
    /// Time that its answer may take after that.
    pub answer: Duration,
}

/// Time after which it is tried again to take a connection, where that failed.
const PAUSE: Duration = Duration::from_millis(100);

/// Binds an endpoint.
pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Serves until the task is dropped.
pub async fn serve(listener: TcpListener, app: Router, how: Serving) {
    let slots = Arc::new(Semaphore::new(how.connections));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(app.clone());
        tokio::spawn(async move {
            let _slot = slot;
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(how.request)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            let _ = tokio::time::timeout(how.request + how.answer, connection).await;
        });
    }
}
