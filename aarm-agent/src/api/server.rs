//! Serves the API: who is asking, what they may ask, and how long it may take.
//!
//! Every connection is identified by the kernel: user and process of the peer. Promises: a process inside a
//! session changes nothing; users other than root see only what is theirs. Must never: decide anything about
//! sessions itself; it asks the core.

use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use aarm_common::ABI_VERSION;
use aarm_common::limits::RING_BYTES;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Extension, Path as UrlPath, RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde::de::DeserializeOwned;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{broadcast, mpsc, oneshot};

use super::types::*;
use crate::daemon::archive;
use crate::daemon::batch::Batch;
use crate::daemon::config::Config;
use crate::daemon::core::{Choice, Command, RegisterError, Registration};
use crate::daemon::policies::{self, PolicyError};
use crate::daemon::witnesses::Board;
use crate::daemon::writer::Progress;
use crate::kernel::KernelError;
use crate::metrics::Metrics;
use crate::tcp::Serving;

/// A request must have been sent within this.
const REQUEST_TIME: Duration = Duration::from_secs(10);
/// An answer other than a stream is there within this.
const ANSWER_TIME: Duration = Duration::from_secs(60);
/// A receipt that somebody waits for is durable within this: less than clients wait, so that they hear why.
const DURABLE_TIME: Duration = Duration::from_secs(45);
/// How often it is looked whether there is room for it.
const DURABLE_LOOK: Duration = Duration::from_millis(500);
/// Most bytes of a signed answer.
const ENVELOPE_MAX: usize = 16 << 10;
/// Streams at once.
pub const STREAMS: usize = 64;

/// What requests are served from.
pub struct Api {
    /// To the core.
    pub core: mpsc::Sender<Command>,
    /// Receipts that became durable.
    pub durable: broadcast::Sender<Arc<Batch>>,
    /// The log's progress.
    pub progress: Arc<Progress>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Settings.
    pub config: Config,
    /// The log's name and key.
    pub origin: String,
    /// Verifier key.
    pub key: String,
    /// Kernel release.
    pub kernel: String,
    /// When the daemon started.
    pub started: String,
    /// Kernel state was taken over.
    pub adopted: bool,
    /// What witnesses have said of the log.
    pub witnesses: Arc<Board>,
    /// What is archived of it, if it is.
    pub archive: Option<Arc<archive::Board>>,
    /// Streams that may still be opened.
    pub streams: Arc<tokio::sync::Semaphore>,
}

/// Who is asking.
#[derive(Clone)]
pub struct Peer {
    /// User.
    pub uid: u32,
    gid: u32,
    groups: Arc<[u32]>,
    pid: u32,
    pidfd: Arc<OwnedFd>,
}

impl Peer {
    /// Its number.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The process itself, whatever has its number.
    pub fn pidfd(&self) -> std::io::Result<OwnedFd> {
        self.pidfd.try_clone()
    }

    /// Groups, when it connected.
    pub fn groups(&self) -> Vec<u32> {
        self.groups.to_vec()
    }

    /// Identifies the other end.
    fn of(stream: &UnixStream) -> std::io::Result<Self> {
        let c = stream.peer_cred()?;
        let pid = c.pid().ok_or_else(|| std::io::Error::other("the peer has no process id here"))?;
        let pidfd = peer_pidfd(stream)
            // By number, on kernels before that: the peer holds the connection open, and so its number.
            .or_else(|_| crate::kernel::pidfd(pid as u32))?;
        let groups = peer_groups(stream, c.gid())?.into();
        Ok(Self { uid: c.uid(), gid: c.gid(), groups, pid: pid as u32, pidfd: Arc::new(pidfd) })
    }
}

/// The peer's groups, when it connected.
fn peer_groups(stream: &UnixStream, gid: u32) -> std::io::Result<Vec<u32>> {
    const GROUPS_MAX: usize = 65_536;
    const SO_PEERGROUPS: libc::c_int = 59;
    let mut groups = vec![0u32; 64];
    loop {
        let mut length = size_of_val(&groups[..]) as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes.
        let failed = unsafe {
            let socket = std::os::fd::AsRawFd::as_raw_fd(stream);
            libc::getsockopt(socket, libc::SOL_SOCKET, SO_PEERGROUPS, groups.as_mut_ptr().cast(), &mut length)
                != 0
        };
        let error = std::io::Error::last_os_error();
        let n = length as usize / size_of::<u32>();
        match (failed, error.raw_os_error()) {
            (false, _) => {
                groups.truncate(n);
                groups.push(gid);
                return Ok(groups);
            }
            (true, Some(libc::ERANGE)) if n > groups.len() && n <= GROUPS_MAX => groups.resize(n, 0),
            _ => return Err(error),
        }
    }
}

/// The peer's pidfd from the socket itself (Linux 6.5).
fn peer_pidfd(stream: &UnixStream) -> std::io::Result<OwnedFd> {
    const SO_PEERPIDFD: libc::c_int = 77;
    let mut fd: libc::c_int = -1;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the value has room for a descriptor, which is ours if the call succeeds.
    unsafe {
        let socket = std::os::fd::AsRawFd::as_raw_fd(stream);
        if libc::getsockopt(socket, libc::SOL_SOCKET, SO_PEERPIDFD, (&raw mut fd).cast(), &mut length) != 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// A refusal.
pub struct Refusal(StatusCode, ErrorBody);

impl Refusal {
    /// With a code, what is wrong, and what to do.
    pub fn new(status: StatusCode, code: ErrorCode, message: impl Into<String>, help: Option<&str>) -> Self {
        let error = ApiError { code, message: message.into(), help: help.map(str::to_owned) };
        Self(status, ErrorBody { error, diagnostics: Vec::new() })
    }

    /// The daemon is at fault.
    pub fn internal(message: impl std::fmt::Display) -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            ErrorCode::Internal,
            message.to_string(),
            Some("see the daemon's log"),
        )
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(self.1)).into_response()
    }
}

impl From<PolicyError> for Refusal {
    fn from(e: PolicyError) -> Self {
        match e {
            PolicyError::Invalid(diagnostics) => {
                let message = format!("{} errors in the policy", diagnostics.len());
                let error = ApiError {
                    code: ErrorCode::PolicyInvalid,
                    message,
                    help: Some("the policies in force stay as they were".into()),
                };
                Self(StatusCode::UNPROCESSABLE_ENTITY, ErrorBody { error, diagnostics })
            }
            e @ PolicyError::NoSlot => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unavailable, e.to_string(), None)
            }
            e @ PolicyError::NoReceipt(_) => no_room(e),
            e => Self::internal(e),
        }
    }
}

impl From<RegisterError> for Refusal {
    fn from(e: RegisterError) -> Self {
        let unknown = |e: &RegisterError| {
            Self::new(
                StatusCode::NOT_FOUND,
                ErrorCode::UnknownPolicy,
                e.to_string(),
                Some("`aarm policy list` shows what is loaded"),
            )
        };
        match e {
            RegisterError::UnknownPolicy(_) | RegisterError::NoDefault => unknown(&e),
            e @ RegisterError::NoReceipt(_) => no_room(e),
            RegisterError::Policy(e) => e.into(),
            RegisterError::Kernel(KernelError::InSession) => in_session(),
            RegisterError::Kernel(e @ KernelError::NoFreeSession) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unavailable, e.to_string(), None)
            }
            RegisterError::Kernel(e) => Self::internal(e),
        }
    }
}

fn no_room(e: impl std::fmt::Display) -> Refusal {
    Refusal::new(
        StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::Unavailable,
        e.to_string(),
        Some("make room on that file system and try again; `aarm status` tells when the log takes receipts"),
    )
}

fn in_session() -> Refusal {
    Refusal::new(
        StatusCode::FORBIDDEN,
        ErrorCode::InSession,
        "the caller is in a session already, and cannot begin another",
        Some("run the command directly: it is supervised as its parent is"),
    )
}

/// A result of a handler.
pub type Answer<T> = Result<T, Refusal>;

impl Api {
    /// Asks the core.
    pub async fn ask<T>(&self, make: impl FnOnce(oneshot::Sender<T>) -> Command) -> Answer<T> {
        let (answer, answered) = oneshot::channel();
        let gone = |_| Refusal::internal("the daemon is shutting down");
        self.core.send(make(answer)).await.map_err(|_| gone(()))?;
        match tokio::time::timeout(ANSWER_TIME, answered).await {
            Ok(Ok(t)) => Ok(t),
            Ok(Err(_)) => Err(gone(())),
            Err(_) => Err(Refusal::new(
                StatusCode::REQUEST_TIMEOUT,
                ErrorCode::Timeout,
                "the daemon does not answer",
                None,
            )),
        }
    }

    /// Waits for a receipt to be durable, but not for room on the disk.
    pub async fn durable(&self, mut told: oneshot::Receiver<()>) -> bool {
        let began = tokio::time::Instant::now();
        while began.elapsed() < DURABLE_TIME {
            match tokio::time::timeout(DURABLE_LOOK, &mut told).await {
                Ok(told) => return told.is_ok(),
                Err(_) if self.progress.blocked.load(Ordering::Acquire) => return false,
                Err(_) => {}
            }
        }
        false
    }

    /// Refuses a peer that is inside a session: what changes anything is for those outside.
    pub async fn outside(&self, peer: &Peer) -> Answer<()> {
        let pidfd = peer.pidfd().map_err(Refusal::internal)?;
        match self.ask(|a| Command::SessionOf(pidfd, a)).await? {
            Ok(None) => Ok(()),
            Ok(Some(_)) => Err(Refusal::new(
                StatusCode::FORBIDDEN,
                ErrorCode::Forbidden,
                "a process inside a session may not change anything",
                None,
            )),
            // A process that is gone asks for nothing.
            Err(e) => Err(Refusal::internal(e)),
        }
    }
}

/// Refuses a peer that is not root.
pub fn root(peer: &Peer) -> Answer<()> {
    if peer.uid == 0 {
        return Ok(());
    }
    Err(Refusal::new(StatusCode::FORBIDDEN, ErrorCode::Forbidden, "only root may do this", Some("use sudo")))
}

/// A body, strictly.
fn body<T: DeserializeOwned + Default>(bytes: &[u8]) -> Answer<T> {
    if bytes.is_empty() {
        return Ok(T::default());
    }
    strict(bytes)
}

/// A body, strictly, which must be there.
pub fn strict<T: DeserializeOwned>(bytes: &[u8]) -> Answer<T> {
    let bad = |why: &dyn std::fmt::Display| {
        Refusal::new(StatusCode::BAD_REQUEST, ErrorCode::BadRequest, format!("request body: {why}"), None)
    };
    let found = serde_json::from_slice(bytes).map_err(|e| bad(&e))?;
    // A list of the members' values would be taken for them.
    match bytes.trim_ascii_start().first() {
        Some(b'{') => Ok(found),
        _ => Err(bad(&"it is no object")),
    }
}

/// A query, strictly.
pub fn query<T: DeserializeOwned>(raw: Option<String>) -> Answer<T> {
    serde_urlencoded::from_str(raw.as_deref().unwrap_or("")).map_err(|e| {
        Refusal::new(StatusCode::BAD_REQUEST, ErrorCode::BadRequest, format!("query: {e}"), None)
    })
}

async fn status(State(api): State<Arc<Api>>) -> Answer<Json<Status>> {
    let n = api.ask(Command::Numbers).await?;
    let full = api.progress.full.load(Ordering::Acquire);
    Ok(Json(Status {
        version: env!("CARGO_PKG_VERSION").into(),
        abi: ABI_VERSION,
        pid: std::process::id(),
        started: api.started.clone(),
        adopted: api.adopted,
        ready: api.metrics.ready(),
        problem: full.then(|| format!("no room for receipts in {}: make room", api.config.log.display())),
        kernel: api.kernel.clone(),
        sessions: n.sessions,
        policies: n.policies,
        default_policy: n.default_policy,
        user_policies: api.config.run.user_policies,
        log: LogStatus {
            dir: api.config.log.display().to_string(),
            origin: api.origin.clone(),
            key: api.key.clone(),
            size: api.progress.durable.load(Ordering::Acquire),
            signed: api.progress.signed.load(Ordering::Acquire),
            witnesses: api.witnesses.all(),
            archive: api.archive.as_ref().map(|board| board.status()),
        },
        ring: RingStatus { fill: n.fill, size: RING_BYTES.into(), received: n.received, lost: n.lost },
        counters: n.counters.into_iter().map(|(name, v)| (name.to_owned(), v)).collect(),
    }))
}

async fn register(
    State(api): State<Arc<Api>>,
    Extension(peer): Extension<Peer>,
    bytes: Bytes,
) -> Answer<Response> {
    let r: RegisterRequest = body(&bytes)?;
    let bad = |m: &str| Refusal::new(StatusCode::BAD_REQUEST, ErrorCode::BadRequest, m, None);
    if r.intent.as_ref().is_some_and(|t| t.len() > TEXT_MAX) {
        return Err(bad("an intent has at most 4,096 bytes"));
    }
    if r.human.as_ref().is_some_and(|t| t.len() > HUMAN_MAX) {
        return Err(bad("a human's name has at most 256 bytes"));
    }
    let policy = match (r.policy, r.policy_text) {
        (Some(_), Some(_)) => return Err(bad("give either policy or policy_text")),
        (Some(name), None) => Choice::Named(name),
        (None, Some(text)) => {
            if peer.uid != 0 && !api.config.run.user_policies {
                return Err(Refusal::new(
                    StatusCode::FORBIDDEN,
                    ErrorCode::Forbidden,
                    "only root may bring a policy file",
                    Some(
                        "name a loaded policy (`aarm policy list`), or have run.user_policies set in agent.yaml",
                    ),
                ));
            }
            Choice::Text(r.policy_file.unwrap_or_else(|| "-".into()), text)
        }
        (None, None) => Choice::Default,
    };
    let pidfd = peer.pidfd.try_clone().map_err(Refusal::internal)?;
    match api.ask(|a| Command::SessionOf(pidfd, a)).await? {
        Ok(None) => {}
        Ok(Some(_)) => return Err(in_session()),
        Err(e) => return Err(Refusal::internal(e)),
    }
    // The kernel binds one task; another thread of the same process would stay outside.
    let threads = std::fs::read_dir(format!("/proc/{}/task", peer.pid)).map_err(Refusal::internal)?.count();
    if threads != 1 {
        return Err(Refusal::new(
            StatusCode::CONFLICT,
            ErrorCode::MultiThreaded,
            format!(
                "the caller has {threads} threads: only a process with one can be put into a session as a whole"
            ),
            None,
        ));
    }
    let pidfd = peer.pidfd.try_clone().map_err(Refusal::internal)?;
    let registration = Registration {
        pidfd,
        pid: peer.pid,
        uid: peer.uid,
        gid: peer.gid,
        policy,
        intent: r.intent.unwrap_or_default(),
        human: r.human.unwrap_or_default(),
    };
    let registered = api.ask(|a| Command::Register(registration, a)).await??;
    // The session is open on paper before its first action.
    if !api.durable(registered.durable).await {
        let dir = api.config.log.display();
        return Err(no_room(format!("the session's first receipt could not be made durable in {dir}")));
    }
    let answer = RegisterResponse {
        session: format!("{:016x}", registered.id),
        uuid: registered.uuid,
        policy: registered.policy,
    };
    Ok((StatusCode::CREATED, Json(answer)).into_response())
}

async fn sessions(
    State(api): State<Arc<Api>>,
    Extension(peer): Extension<Peer>,
    RawQuery(raw): RawQuery,
) -> Answer<Json<SessionList>> {
    let q: SessionQuery = query(raw)?;
    let mut sessions = api.ask(|a| Command::Sessions(q.ended, a)).await?;
    sessions.retain(|s| peer.uid == 0 || s.uid == peer.uid);
    Ok(Json(SessionList { sessions }))
}

async fn session(
    State(api): State<Arc<Api>>,
    Extension(peer): Extension<Peer>,
    UrlPath(id): UrlPath<String>,
) -> Answer<Json<SessionInfo>> {
    let found = api.ask(|a| Command::Session(id.clone(), a)).await?;
    match found.filter(|s| peer.uid == 0 || s.uid == peer.uid) {
        Some(s) => Ok(Json(s)),
        None => Err(Refusal::new(
            StatusCode::NOT_FOUND,
            ErrorCode::NotFound,
            format!("no session {id}"),
            Some("`aarm sessions --all` lists them"),
        )),
    }
}

async fn list_policies(State(api): State<Arc<Api>>) -> Answer<Json<PolicyList>> {
    let policies = api.ask(Command::Policies).await?;
    Ok(Json(PolicyList { dir: api.config.policies.display().to_string(), policies }))
}

async fn reload(
    State(api): State<Arc<Api>>,
    Extension(peer): Extension<Peer>,
) -> Answer<Json<ReloadResponse>> {
    root(&peer)?;
    api.outside(&peer).await?;
    Ok(Json(api.ask(Command::Reload).await??))
}

async fn check(bytes: Bytes) -> Answer<Json<CheckResponse>> {
    let r: CheckRequest = strict(&bytes)?;
    let file = r.policy_file.unwrap_or_else(|| "-".into());
    let checked = tokio::task::spawn_blocking(move || policies::check(&file, r.policy_text.as_bytes())).await;
    let (policy, rules) = checked.map_err(Refusal::internal)??;
    Ok(Json(CheckResponse { policy, rules }))
}

async fn not_found() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, ErrorCode::NotFound, "no such path", None)
}

async fn no_method() -> Refusal {
    Refusal::new(
        StatusCode::METHOD_NOT_ALLOWED,
        ErrorCode::MethodNotAllowed,
        "this path has no such method",
        None,
    )
}

/// All routes.
pub fn router(api: Arc<Api>) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/sessions", get(sessions).post(register))
        .route("/v1/sessions/{id}", get(session))
        .route("/v1/approvals", get(super::approvals::list))
        .route("/v1/approvals/{id}", get(super::approvals::show).post(super::approvals::answer))
        .route("/v1/answers", post(super::signed::answer))
        .route("/v1/feed", post(super::feed::say))
        .route("/v1/redirects", get(super::redirects::original))
        .route("/v1/redacted/{session}", delete(super::redacted::erase))
        .route("/v1/watch", get(super::streams::watch))
        .route("/v1/receipts", get(super::streams::receipts))
        .route("/v1/policies", get(list_policies))
        .route("/v1/policies/reload", post(reload))
        .route("/v1/policies/check", post(check))
        .fallback(not_found)
        .method_not_allowed_fallback(no_method)
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .with_state(api)
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Something else is there.
    #[error("{0} exists and is not a socket: remove it, or choose another socket.path")]
    Taken(PathBuf),
    /// Somebody listens there.
    #[error("{0} is in use by another program")]
    InUse(PathBuf),
    /// It cannot be made.
    #[error("cannot listen on {path}: {source}")]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Makes the socket. One that nobody listens on any more is replaced.
pub fn bind(path: &Path, mode: u32) -> Result<UnixListener, SocketError> {
    let io = |source| SocketError::Io { path: path.to_path_buf(), source };
    if let Ok(meta) = std::fs::symlink_metadata(path) {
        if !meta.file_type().is_socket() {
            return Err(SocketError::Taken(path.to_path_buf()));
        }
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(SocketError::InUse(path.to_path_buf()));
        }
        std::fs::remove_file(path).map_err(io)?;
    }
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(io)?;
    }
    let listener = UnixListener::bind(path).map_err(io)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(io)?;
    Ok(listener)
}

/// How signed answers are taken over TCP.
pub const ANSWERS: Serving = Serving { connections: 32, request: REQUEST_TIME, answer: DURABLE_TIME };

/// What is served there: signed answers, and nothing else.
pub fn answers(api: Arc<Api>) -> Router {
    Router::new()
        .route("/v1/answers", post(super::signed::answer))
        .fallback(not_found)
        .method_not_allowed_fallback(no_method)
        .layer(DefaultBodyLimit::max(ENVELOPE_MAX))
        .with_state(api)
}

/// Serves until the task is dropped.
pub async fn serve(listener: UnixListener, api: Arc<Api>) {
    let slots = Arc::new(tokio::sync::Semaphore::new(api.config.socket.max_connections as usize));
    let app = router(api);
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let peer = match Peer::of(&stream) {
            Ok(peer) => peer,
            Err(error) => {
                tracing::debug!(%error, "a peer that cannot be identified");
                continue;
            }
        };
        let service = hyper_util::service::TowerToHyperService::new(app.clone().layer(Extension(peer)));
        tokio::spawn(async move {
            let _slot = slot;
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(hyper_util::rt::TokioTimer::new())
                .header_read_timeout(REQUEST_TIME)
                .serve_connection(hyper_util::rt::TokioIo::new(stream), service);
            // A peer that goes away is no error of ours.
            let _ = connection.await;
        });
    }
}
