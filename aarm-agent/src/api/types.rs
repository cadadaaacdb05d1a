//! What the daemon and its clients say to each other over the unix socket, as JSON.
//!
//! | request | body or query | answer |
//! |---|---|---|
//! | `GET /v1/status` | | [`Status`] |
//! | `POST /v1/sessions` | [`RegisterRequest`] | 201 [`RegisterResponse`]: the *caller* is now the session's first task |
//! | `GET /v1/sessions` | [`SessionQuery`] | [`SessionList`] |
//! | `GET /v1/sessions/{id}` | hexadecimal id or UUID | [`SessionInfo`] with its processes |
//! | `GET /v1/watch` | [`WatchQuery`] | a stream of [`StreamLine`], one JSON object a line, until the client goes |
//! | `GET /v1/receipts` | [`ReceiptQuery`] | a stream of [`StreamLine`], oldest first, ends |
//! | `GET /v1/policies` | | [`PolicyList`] |
//! | `POST /v1/policies/reload` | | [`ReloadResponse`] |
//! | `POST /v1/policies/check` | [`CheckRequest`] | [`CheckResponse`]: would it load here? |
//!
//! Any answer that is not 2xx has an [`ErrorBody`]. Users other than root see their own sessions. A process
//! inside a session may read, but change nothing: that is 403 [`ErrorCode::Forbidden`].
//!
//! Unknown fields are refused in requests and ignored in answers, so that an older client reads a newer
//! daemon.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Where the daemon listens unless its configuration says otherwise.
pub const SOCKET: &str = "/run/aarm/aarm.sock";
/// Environment variable by which clients name another socket.
pub const SOCKET_ENV: &str = "AARM_SOCKET";
/// Most bytes of a request body.
pub const BODY_MAX: usize = 1 << 20;
/// Most bytes of a human's name: it is in every receipt of the session.
pub const HUMAN_MAX: usize = 256;
/// Most bytes of an intent.
pub const TEXT_MAX: usize = 4096;
/// Most receipts one `GET /v1/receipts` returns; also the value without `limit`.
pub const RECEIPTS_MAX: u64 = 1_000_000;

/// Why a request was not served. Stable names: clients may match on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// 400: the request is not understood.
    BadRequest,
    /// 403: the peer may not do this.
    Forbidden,
    /// 403: the caller, or the process it names, is in a session already.
    InSession,
    /// 404: no such session, policy or path.
    NotFound,
    /// 404: `policy` names no loaded policy, or there is no default.
    UnknownPolicy,
    /// 405: the path exists, the method does not.
    MethodNotAllowed,
    /// 408: the request took too long.
    Timeout,
    /// 409: the caller has more than one thread, so it cannot be put into a session as a whole.
    MultiThreaded,
    /// 413: the body is over [`BODY_MAX`].
    TooLarge,
    /// 422: the policy has errors; see [`ErrorBody::diagnostics`].
    PolicyInvalid,
    /// 429: too many connections or streams.
    Busy,
    /// 503: no session slot, policy slot, or room in the log.
    Unavailable,
    /// 500: a failure of the daemon or the kernel.
    Internal,
    /// A code this client does not know.
    #[serde(other)]
    Unknown,
}

/// An error, with what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    /// For programs.
    pub code: ErrorCode,
    /// For people: what is wrong.
    pub message: String,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

/// The body of every answer that is not 2xx.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The error.
    pub error: ApiError,
    /// Every place where a policy is wrong, for [`ErrorCode::PolicyInvalid`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub diagnostics: Vec<Diagnostic>,
}

/// One thing that is wrong with a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// File, or `-` for a policy sent with the request.
    pub file: String,
    /// Line, from 1; 0 where the error has no place.
    pub line: u32,
    /// Column, from 1.
    pub column: u32,
    /// What is wrong.
    pub message: String,
    /// A suggestion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

impl std::fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        write!(f, ": {}", self.message)?;
        match &self.help {
            Some(help) => write!(f, " ({help})"),
            None => Ok(()),
        }
    }
}

/// `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The daemon's version.
    pub version: String,
    /// ABI version shared with the kernel programs.
    pub abi: u16,
    /// The daemon's process id.
    pub pid: u32,
    /// When it started, RFC 3339.
    pub started: String,
    /// Whether it took over the kernel state of a former daemon.
    pub adopted: bool,
    /// Whether everything needed to record is in order; if not, `problem` says what is not.
    pub ready: bool,
    /// What keeps it from being ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Kernel release.
    pub kernel: String,
    /// Sessions alive.
    pub sessions: u32,
    /// Policies loaded.
    pub policies: u32,
    /// The policy that `aarm run` gets without `--policy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_policy: Option<String>,
    /// Whether users other than root may bring their own policy.
    pub user_policies: bool,
    /// The receipt log.
    pub log: LogStatus,
    /// The event ring.
    pub ring: RingStatus,
    /// The kernel's counters by name, see `aarm_common::state::Stat`.
    pub counters: BTreeMap<String, u64>,
}

/// The receipt log, as of the last sync.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogStatus {
    /// Directory.
    pub dir: String,
    /// Origin line of its checkpoints.
    pub origin: String,
    /// Verifier key that checks its checkpoints, in signed-note form.
    pub key: String,
    /// Receipts on disk.
    pub size: u64,
    /// Receipts covered by the newest signed checkpoint.
    pub signed: u64,
    /// Those who are asked to cosign its checkpoints.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub witnesses: Vec<WitnessStatus>,
    /// Its archive, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<ArchiveStatus>,
}

/// What is archived of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveStatus {
    /// Where.
    pub url: String,
    /// Receipts that are there, and were read back.
    pub receipts: u64,
    /// When that was so last, RFC 3339. None: not since the daemon started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// Why nothing was archived when it was tried last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// What a witness has seen of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WitnessStatus {
    /// Its name.
    pub name: String,
    /// Receipts that it has seen.
    pub receipts: u64,
    /// When, RFC 3339, by its clock. None: it has seen nothing yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<String>,
    /// Why it has not cosigned when it was asked last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// The event ring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingStatus {
    /// Bytes waiting to be read.
    pub fill: u64,
    /// Its size in bytes.
    pub size: u64,
    /// Events received since the daemon started.
    pub received: u64,
    /// Events known to have been lost. Must stay 0.
    pub lost: u64,
}

/// `POST /v1/sessions`: put me, the calling process, into a new session. The caller must have one thread.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegisterRequest {
    /// Name of a loaded policy. Neither this nor `policy_text`: the default policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// A policy document of the caller's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_text: Option<String>,
    /// Name that diagnostics give to `policy_text`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_file: Option<String>,
    /// What the session is for, in the user's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent: Option<String>,
    /// On whose behalf it runs. Stated by the caller, recorded as a claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub human: Option<String>,
}

/// The new session. Its first receipt is on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterResponse {
    /// Session id: 16 hexadecimal digits.
    pub session: String,
    /// Session UUID (version 7).
    pub uuid: String,
    /// The policy that decides.
    pub policy: PolicyLabel,
}

/// Which policy, exactly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct PolicyLabel {
    /// Name.
    pub name: String,
    /// Version as the document states it.
    pub version: String,
    /// SHA-256 of its canonical JSON, hexadecimal.
    pub hash: String,
    /// `enforce` or `audit`.
    pub mode: String,
}

/// Query of `GET /v1/sessions`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionQuery {
    /// Also list sessions that ended lately (the daemon remembers a bounded number).
    #[serde(default)]
    pub ended: bool,
}

/// `GET /v1/sessions`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionList {
    /// Oldest first. Processes are left out.
    pub sessions: Vec<SessionInfo>,
}

/// How a session began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionStart {
    /// By `aarm run`.
    Run,
    /// An `agents` selector of a policy matched.
    Agent,
    /// Found alive by a daemon that has no record of its beginning.
    Recovered,
}

/// One session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionInfo {
    /// Session id: 16 hexadecimal digits.
    pub session: String,
    /// UUID (version 7).
    pub uuid: String,
    /// The policy that decides.
    pub policy: PolicyLabel,
    /// How it began.
    pub start: SessionStart,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent: Option<String>,
    /// On whose behalf, as claimed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub human: Option<String>,
    /// Real user id of its first process.
    pub uid: u32,
    /// Process id of its first process.
    pub pid: u32,
    /// Program of its first process.
    pub exe: String,
    /// When it began, RFC 3339.
    pub started: String,
    /// When it ended, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
    /// Live tasks (threads).
    pub tasks: u64,
    /// What was decided so far.
    pub actions: ActionCounts,
    /// Live processes; only in `GET /v1/sessions/{id}`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub processes: Vec<ProcessInfo>,
}

/// Actions of a session by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActionCounts {
    /// Allowed.
    pub allow: u64,
    /// Denied.
    pub deny: u64,
    /// Would have been denied; the policy is in audit mode.
    pub audit: u64,
    /// Refused by the kernel because the event ring was full: no effect, no receipt of their own.
    pub refused: u64,
}

/// One live process of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// Process id.
    pub pid: u32,
    /// Parent's process id.
    pub ppid: u32,
    /// Program, if an exec was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
    /// Command name.
    pub comm: String,
    /// Arguments of its last exec, cut to a bound; bytes that are not UTF-8 are replaced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub argv: Vec<String>,
}

/// Query of `GET /v1/watch`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatchQuery {
    /// Only this session: hexadecimal id or UUID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Only actions with this decision: `ALLOW`, `DENY`, ... Other receipts (session, policy, gap) pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<String>,
    /// Only receipts of this kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
}

/// Query of `GET /v1/receipts`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReceiptQuery {
    /// Only this session: hexadecimal id or UUID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Only actions with this decision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<String>,
    /// Only receipts of this kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Only receipts from this time on: RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Only the last so many (after the other filters).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

/// One line of a stream.
///
/// Streams only carry receipts that are durable. They end with `lost` or `error` where they could not go on,
/// without either when all was said (`receipts`) or the daemon stops (`watch`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum StreamLine {
    /// First line of a `watch`: from here on, nothing is missed.
    Ready {
        /// Receipts in the log at this point.
        size: u64,
    },
    /// A receipt.
    Receipt {
        /// Its place in the log.
        index: u64,
        /// The receipt, verbatim.
        receipt: serde_json::Value,
    },
    /// The client was too slow: so many receipts were not sent, and the stream ends. They are in the log.
    Lost {
        /// How many, before filters.
        count: u64,
    },
    /// The stream cannot go on.
    Error {
        /// Why.
        error: ApiError,
    },
}

/// `GET /v1/policies`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyList {
    /// Directory they are read from.
    pub dir: String,
    /// In file order.
    pub policies: Vec<PolicyInfo>,
}

/// One loaded policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyInfo {
    /// Which.
    #[serde(flatten)]
    pub label: PolicyLabel,
    /// File it came from; `-` for one that came with a session.
    pub file: String,
    /// Kernel policy slot.
    pub slot: u32,
    /// Number of its compilation.
    pub generation: u32,
    /// Rules.
    pub rules: u32,
    /// Agent selectors.
    pub agents: u32,
    /// Sessions under it.
    pub sessions: u32,
}

/// `POST /v1/policies/reload`: what changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadResponse {
    /// Names of policies that are new or differ.
    pub loaded: Vec<String>,
    /// Names of policies that are as before.
    pub unchanged: Vec<String>,
    /// Names of policies whose file is gone; sessions under them go on.
    pub removed: Vec<String>,
    /// Sessions that now run under a new version.
    pub sessions_moved: u32,
}

/// `POST /v1/policies/check`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckRequest {
    /// The document.
    pub policy_text: String,
    /// Name that diagnostics give to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_file: Option<String>,
}

/// The document loads. Otherwise: 422 with [`ErrorBody::diagnostics`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckResponse {
    /// Its label.
    pub policy: PolicyLabel,
    /// Rules.
    pub rules: u32,
}
