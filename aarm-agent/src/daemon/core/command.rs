//! What the core can be asked, and its answers.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use tokio::sync::oneshot;

use crate::api::approvals::{AnswerRequest, Approval};
use crate::api::feed::Said;
use crate::api::redirects::Original;
use crate::api::types::{PolicyInfo, PolicyLabel, ReloadResponse, SessionInfo};
use crate::daemon::holds::{AnswerError, Answerer};
use crate::daemon::policies::PolicyError;
use crate::daemon::program::Read;
use crate::daemon::resolve::Attempted;
use crate::kernel::KernelError;

/// A new session, as asked for.
#[derive(Debug)]
pub struct Registration {
    /// The process, which must have one thread.
    pub pidfd: OwnedFd,
    /// Its id.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// The policy.
    pub policy: Choice,
    /// What it is for.
    pub intent: String,
    /// On whose behalf.
    pub human: String,
}

/// Which policy a session gets.
#[derive(Debug)]
pub enum Choice {
    /// The default one.
    Default,
    /// A loaded one.
    Named(String),
    /// One of its own: name for diagnostics, text.
    Text(String, String),
}

/// Why a session was not begun.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// No such policy.
    #[error("no policy `{0}` is loaded")]
    UnknownPolicy(String),
    /// None named, and no default.
    #[error("no policy was named, and there is no default one")]
    NoDefault,
    /// Its first receipt would not become durable.
    #[error("the receipt log in {} has no room: a session that cannot be recorded is not begun", .0.display())]
    NoReceipt(PathBuf),
    /// The policy has errors, or there is no room for it.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The kernel refused.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

/// The answer to a registration.
#[derive(Debug)]
pub struct Registered {
    /// Kernel session id.
    pub id: u64,
    /// UUID.
    pub uuid: String,
    /// Policy.
    pub policy: PolicyLabel,
    /// Told when its first receipt is durable.
    pub durable: oneshot::Receiver<()>,
}

/// What the core can be asked.
pub enum Command {
    /// Begin a session.
    Register(Registration, oneshot::Sender<Result<Registered, RegisterError>>),
    /// Whether a process is in a session.
    SessionOf(OwnedFd, oneshot::Sender<Result<Option<u64>, KernelError>>),
    /// List sessions: with ended ones?
    Sessions(bool, oneshot::Sender<Vec<SessionInfo>>),
    /// One session by hexadecimal id or UUID, with its processes.
    Session(String, oneshot::Sender<Option<SessionInfo>>),
    /// What waits, as far as somebody may see it: the JSON of a list.
    Approvals(Answerer, oneshot::Sender<Vec<u8>>),
    /// An answer to what waits.
    Answer(String, Answerer, AnswerRequest, oneshot::Sender<Result<Answering, AnswerError>>),
    /// Where the socket with this inode number was to be connected, and where it was redirected to.
    Redirected(u64, oneshot::Sender<Option<(Original, SocketAddr)>>),
    /// One that waits by its name, as far as somebody may see it.
    Approval(String, Answerer, oneshot::Sender<Option<Approval>>),
    /// The name of what waits by the hash of its request.
    Requested(String, oneshot::Sender<Option<String>>),
    /// A resolver's attempt is over.
    Attempted(Attempted),
    /// Something is said of the session that a process is in; which that is, and when it is on paper.
    Say(OwnedFd, Said, oneshot::Sender<Result<Option<Taken>, KernelError>>),
    /// What a program is that is about to run.
    Read(Box<Read>),
    /// Record that what was redacted of a session is erased: how many values, and by whom. Tells when that is on paper.
    Erased(String, u64, String, oneshot::Sender<oneshot::Receiver<()>>),
    /// List policies.
    Policies(oneshot::Sender<Vec<PolicyInfo>>),
    /// Read the policy directory again.
    Reload(oneshot::Sender<Result<ReloadResponse, PolicyError>>),
    /// Numbers for the status page: sessions, policies, ring fill, kernel counters.
    Numbers(oneshot::Sender<Numbers>),
}

impl Command {
    /// Whether it is refused where nothing can be recorded.
    pub fn needs_receipt(&self) -> bool {
        matches!(
            self,
            Self::Register(..) | Self::Answer(..) | Self::Say(..) | Self::Erased(..) | Self::Reload(..)
        )
    }
}

/// An answer that was taken: tells when it is durable, and how many rules are still to be answered.
pub struct Answering {
    /// Told when the answer is durable.
    pub durable: oneshot::Receiver<()>,
    /// How many rules are still to be answered, by others.
    pub left: usize,
    /// The answer as receipts have it.
    pub answer: &'static str,
    /// How many others were answered with it.
    pub others: usize,
}

/// See [`Command::Say`].
#[derive(Debug)]
pub struct Taken {
    /// The session.
    pub session: u64,
    /// Told when it is on paper.
    pub durable: oneshot::Receiver<()>,
}

/// See [`Command::Numbers`].
#[derive(Debug, Default)]
pub struct Numbers {
    /// Sessions alive.
    pub sessions: u32,
    /// Policies loaded.
    pub policies: u32,
    /// Name of the default policy.
    pub default_policy: Option<String>,
    /// Bytes in the ring.
    pub fill: u64,
    /// Events received.
    pub received: u64,
    /// Events lost.
    pub lost: u64,
    /// The kernel's counters.
    pub counters: Vec<(&'static str, u64)>,
}
