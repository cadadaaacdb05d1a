//! The daemon's configuration: one strict YAML document.
//!
//! Owns the names, defaults and bounds of all settings. Promises: an unknown field, a wrong type or a value
//! out of bounds is an error with its place, and the daemon does not start on it. Must never: touch anything
//! the settings name; [`Config::load`] reads the one file it is given.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aarm_common::limits::{SPIN_US, SPIN_US_MAX};
use aarm_receipt::cosign::CosignerKey;
use aarm_receipt::log::{Retention, SEGMENT_MAX, SEGMENT_MIN};
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize};

/// Where the configuration is looked for.
pub const CONFIG_PATH: &str = "/etc/aarm/agent.yaml";
/// Largest configuration file, in bytes.
pub const CONFIG_MAX: u64 = 64 << 10;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is over [`CONFIG_MAX`].
    #[error("{path}: {size} bytes, a configuration has at most {CONFIG_MAX}")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        size: u64,
    },
    /// The document is not a configuration.
    #[error("{path}:{line}:{column}: {message}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line, from 1; 0 if unknown.
        line: u64,
        /// Column, from 1.
        column: u64,
        /// What is wrong.
        message: String,
    },
    /// A value is out of its bounds.
    #[error("{path}: {field}: {message}")]
    Value {
        /// The file.
        path: PathBuf,
        /// The field, with dots.
        field: &'static str,
        /// What it must be.
        message: String,
    },
}

/// All settings. See `deploy/agent.yaml` for one with every field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Directory of policy files (`*.yaml`).
    pub policies: PathBuf,
    /// Directory of the receipt log.
    pub log: PathBuf,
    /// Directory of the signing keys.
    pub keys: PathBuf,
    /// Directory of the state kept between starts.
    pub state: PathBuf,
    /// Directory of what policies redact, which is root's only.
    pub redacted: PathBuf,
    /// Directory of the lock and other files of this boot.
    pub run_dir: PathBuf,
    /// The BPF filesystem.
    pub bpffs: PathBuf,
    /// The API socket.
    pub socket: Socket,
    /// The metrics endpoint.
    pub metrics: Metrics,
    /// What `aarm run` may do.
    pub run: Run,
    /// The receipt log's rhythm.
    pub receipts: Receipts,
    /// How events are read.
    pub events: Events,
    /// How calls wait.
    pub holds: Holds,
    /// Who can be asked about deferred actions, by the name that policies use.
    pub resolvers: BTreeMap<String, Resolver>,
    /// Who is told what waits, and what became of it.
    pub webhooks: Vec<Webhook>,
    /// Ed25519 keys (32 bytes, base64) of approvers that answer from elsewhere, by the name that policies use (`key:NAME`).
    pub approver_keys: BTreeMap<String, String>,
    /// Where signed answers are taken.
    pub answers: Answers,
    /// Who cosigns the log's checkpoints.
    pub witnesses: Vec<Witness>,
    /// Where the log is archived. None: nowhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archive: Option<Archive>,
}

/// Where the log is archived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Archive {
    /// Bucket, container or directory, and what the names of all objects begin with; `{origin}` in it is the log's name.
    pub url: String,
    /// Seconds between the times that the archive is brought to where the log is.
    #[serde(default = "minute")]
    pub every_s: u64,
    /// Whether receipts are kept until they are archived, whatever `receipts` says.
    #[serde(default = "yes")]
    pub required: bool,
}

fn minute() -> u64 {
    60
}

fn yes() -> bool {
    true
}

/// Somebody who has seen the log, and says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Witness {
    /// Its address; checkpoints go to `add-checkpoint` below it.
    pub url: String,
    /// Its public key, as `aarm witness key` prints it.
    pub key: String,
}

impl Witness {
    /// Where checkpoints go.
    pub fn address(&self) -> Result<hyper::Uri, super::post::PostError> {
        super::post::address(&format!("{}/add-checkpoint", self.url.trim_end_matches('/')))
    }
}

/// Most witnesses.
const WITNESSES_MAX: usize = 16;

/// Where signed answers are taken over TCP; over the unix socket they always are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Answers {
    /// Address and port, or `off`.
    pub listen: Listen,
}

impl Default for Answers {
    fn default() -> Self {
        Self { listen: Listen(None) }
    }
}

/// Somebody who is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// Its address.
    pub url: String,
    /// File with the secret that what is told is signed with.
    #[serde(default)]
    pub secret: Option<PathBuf>,
    /// In which form.
    #[serde(default)]
    pub format: Format,
}

/// The form of what is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// All of it.
    #[default]
    Json,
    /// A line of text, as Slack takes it.
    Slack,
}

/// Most webhooks, and most keys.
const WEBHOOKS_MAX: usize = 16;
const KEYS_MAX: usize = 256;

/// Who can be asked: a program or a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Resolver {
    /// The program, by its absolute path, and its arguments.
    pub command: Option<Vec<String>>,
    /// The service's address.
    pub http: Option<String>,
    /// Milliseconds that it may take.
    pub timeout_ms: u64,
    /// The user that the program runs as.
    pub user: String,
    /// The program may use the network.
    pub network: bool,
    /// File with the secret that requests to the service are signed with.
    pub secret: Option<PathBuf>,
}

impl Default for Resolver {
    fn default() -> Self {
        Self {
            command: None,
            http: None,
            timeout_ms: 5000,
            user: "nobody".into(),
            network: false,
            secret: None,
        }
    }
}

/// Most resolvers.
const RESOLVERS_MAX: usize = 64;

/// The API socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Socket {
    /// Its path.
    pub path: PathBuf,
    /// Its permission bits. Peers are told apart by their credentials, so everybody may connect.
    pub mode: Mode,
    /// Connections served at once.
    pub max_connections: u32,
}

/// The metrics endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Metrics {
    /// Address and port, or `off`.
    pub listen: Listen,
}

/// What `aarm run` may do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Run {
    /// Users other than root may bring their own policy.
    pub user_policies: bool,
    /// The policy without `--policy`. None: the only one that is loaded, if there is just one.
    pub default_policy: Option<String>,
}

/// The receipt log's rhythm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Receipts {
    /// Milliseconds after which receipts are on disk at the latest.
    pub sync_ms: u64,
    /// Receipts after which they are on disk at the latest.
    pub sync_count: u32,
    /// Milliseconds between signed checkpoints while receipts come in.
    pub checkpoint_ms: u64,
    /// Seconds between signed checkpoints while none do: the heartbeat.
    pub heartbeat_s: u64,
    /// Seconds between requests to witnesses while receipts come in; without news they are asked at each heartbeat.
    pub witness_s: u64,
    /// Mebibytes of one segment file. The log takes room for one in advance.
    pub segment_mib: u64,
    /// Whether segments that are not written any more are compressed.
    pub compress: bool,
    /// Mebibytes of all segments, beyond which the oldest go. None: all are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_mib: Option<u64>,
    /// Hours after its last receipt for which a segment is kept. None: for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_hours: Option<u64>,
}

/// How calls wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Holds {
    /// Microseconds that a deferred call looks for its answer before its thread stops: what the daemon decides by itself is decided by then,
    /// and nobody sees a stop. It keeps a processor busy meanwhile. 0: it stops at once, as on hosts with one processor.
    pub spin_us: u32,
}

impl Default for Holds {
    fn default() -> Self {
        Self { spin_us: SPIN_US }
    }
}

/// How events are read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Events {
    /// Milliseconds that events may wait for more, so that one turn serves many. The first after a pause, and one that waits for its
    /// decision, are read at once.
    pub coalesce_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            policies: "/etc/aarm/policies".into(),
            log: "/var/lib/aarm/log".into(),
            keys: "/var/lib/aarm/keys".into(),
            state: "/var/lib/aarm/state".into(),
            redacted: "/var/lib/aarm/redacted".into(),
            run_dir: "/run/aarm".into(),
            bpffs: "/sys/fs/bpf".into(),
            socket: Socket::default(),
            metrics: Metrics::default(),
            run: Run::default(),
            receipts: Receipts::default(),
            events: Events::default(),
            holds: Holds::default(),
            resolvers: BTreeMap::new(),
            webhooks: Vec::new(),
            approver_keys: BTreeMap::new(),
            answers: Answers::default(),
            witnesses: Vec::new(),
            archive: None,
        }
    }
}

impl Default for Socket {
    fn default() -> Self {
        Self { path: crate::api::types::SOCKET.into(), mode: Mode(0o666), max_connections: 128 }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self { listen: Listen(Some(SocketAddr::from(([127, 0, 0, 1], 9465)))) }
    }
}

impl Default for Receipts {
    fn default() -> Self {
        Self {
            sync_ms: 10,
            sync_count: 4096,
            checkpoint_ms: 1000,
            heartbeat_s: 60,
            witness_s: 10,
            segment_mib: 64,
            compress: true,
            keep_mib: None,
            keep_hours: None,
        }
    }
}

impl Default for Events {
    fn default() -> Self {
        Self { coalesce_ms: 5 }
    }
}

impl Receipts {
    /// `sync_ms` as a duration.
    pub fn sync(&self) -> Duration {
        Duration::from_millis(self.sync_ms)
    }

    /// `checkpoint_ms` as a duration.
    pub fn checkpoint(&self) -> Duration {
        Duration::from_millis(self.checkpoint_ms)
    }

    /// `segment_mib` in bytes.
    pub fn segment_bytes(&self) -> u64 {
        self.segment_mib << 20
    }

    /// How long receipts are kept.
    pub fn retention(&self) -> Retention {
        Retention {
            bytes: self.keep_mib.map(|mib| mib.saturating_mul(1 << 20)),
            age: self.keep_hours.map(|hours| Duration::from_secs(hours.saturating_mul(3600))),
            ..Retention::default()
        }
    }

    /// `witness_s` as a duration.
    pub fn witness(&self) -> Duration {
        Duration::from_secs(self.witness_s)
    }

    /// `heartbeat_s` as a duration.
    pub fn heartbeat(&self) -> Duration {
        Duration::from_secs(self.heartbeat_s)
    }
}

/// Permission bits, written as an octal string: `"0660"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode(pub u32);

impl Serialize for Mode {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&format_args!("{:04o}", self.0))
    }
}

impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl Visitor<'_> for V {
            type Value = Mode;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("permission bits as a quoted octal number, such as \"0660\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Mode, E> {
                match u32::from_str_radix(text, 8) {
                    Ok(bits) if bits <= 0o777 && text.starts_with('0') => Ok(Mode(bits)),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }
        }
        d.deserialize_str(V)
    }
}

/// A TCP address, or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen(pub Option<SocketAddr>);

impl Serialize for Listen {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Some(address) => s.collect_str(&address),
            None => s.serialize_str("off"),
        }
    }
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl Visitor<'_> for V {
            type Value = Listen;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address and port such as 127.0.0.1:9465, or off")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Listen, E> {
                match text {
                    "off" => Ok(Listen(None)),
                    _ => match text.parse() {
                        Ok(address) => Ok(Listen(Some(address))),
                        Err(_) => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                    },
                }
            }
            // A plain `off` is a boolean to some YAML readers.
            fn visit_bool<E: de::Error>(self, on: bool) -> Result<Listen, E> {
                if on { Err(E::invalid_type(de::Unexpected::Bool(on), &self)) } else { Ok(Listen(None)) }
            }
        }
        d.deserialize_any(V)
    }
}

impl Config {
    /// Reads the file. `explicit`: it was named by the user, so that it must exist; otherwise a missing file
    /// means the defaults.
    pub fn load(path: &Path, explicit: bool) -> Result<Self, ConfigError> {
        use std::io::Read;
        let read = |source| ConfigError::Read { path: path.to_path_buf(), source };
        let file = match std::fs::File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !explicit => return Ok(Self::default()),
            Err(e) => return Err(read(e)),
        };
        let mut text = String::new();
        let size = file.take(CONFIG_MAX + 1).read_to_string(&mut text).map_err(read)? as u64;
        if size > CONFIG_MAX {
            let size = std::fs::metadata(path).map_or(size, |m| m.len());
            return Err(ConfigError::TooLarge { path: path.to_path_buf(), size });
        }
        Self::parse(path, &text)
    }

    /// Parses and checks a document; `path` is for messages.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        if text.lines().all(|l| l.trim().is_empty() || l.trim_start().starts_with('#')) {
            return Ok(Self::default());
        }
        let config: Self = serde_saphyr::from_str(text).map_err(|e| {
            let (line, column) = e.location().map_or((0, 0), |l| (l.line(), l.column()));
            ConfigError::Parse { path: path.to_path_buf(), line, column, message: plain_message(&e) }
        })?;
        config.check(path)?;
        Ok(config)
    }

    fn check(&self, path: &Path) -> Result<(), ConfigError> {
        let wrong =
            |field, message: String| Err(ConfigError::Value { path: path.to_path_buf(), field, message });
        for (field, value) in [
            ("policies", &self.policies),
            ("log", &self.log),
            ("keys", &self.keys),
            ("state", &self.state),
            ("redacted", &self.redacted),
            ("run_dir", &self.run_dir),
            ("bpffs", &self.bpffs),
            ("socket.path", &self.socket.path),
        ] {
            if !value.is_absolute() {
                return wrong(field, format!("must be an absolute path, not `{}`", value.display()));
            }
        }
        if self.resolvers.len() > RESOLVERS_MAX {
            return wrong("resolvers", format!("at most {RESOLVERS_MAX}, not {}", self.resolvers.len()));
        }
        for (name, resolver) in &self.resolvers {
            if let Err(message) = resolver.check(name) {
                return wrong("resolvers", format!("`{name}`: {message}"));
            }
        }
        if self.webhooks.len() > WEBHOOKS_MAX {
            return wrong("webhooks", format!("at most {WEBHOOKS_MAX}, not {}", self.webhooks.len()));
        }
        for hook in &self.webhooks {
            if let Err(e) = super::post::address(&hook.url) {
                return wrong("webhooks", e.to_string());
            }
            if hook.secret.as_ref().is_some_and(|path| !path.is_absolute()) {
                return wrong("webhooks", "`secret` is an absolute path".into());
            }
        }
        if self.witnesses.len() > WITNESSES_MAX {
            return wrong("witnesses", format!("at most {WITNESSES_MAX}, not {}", self.witnesses.len()));
        }
        for (i, w) in self.witnesses.iter().enumerate() {
            if let Err(e) = w.address() {
                return wrong("witnesses", e.to_string());
            }
            let Some(key) = CosignerKey::parse(&w.key) else {
                return wrong("witnesses", format!("`{}` is no witness's key: NAME+HASH+KEY", w.key));
            };
            // What it has said is kept under the key's id.
            if self.witnesses[..i].iter().any(|o| CosignerKey::parse(&o.key).is_some_and(|o| o.id == key.id))
            {
                return wrong("witnesses", format!("`{}` is there twice", key.name));
            }
        }
        if let Some(archive) = &self.archive {
            if let Err(e) = crate::store::can_be_written(&archive.url) {
                return wrong("archive.url", e.to_string());
            }
            if !(1..=EVERY_S_MAX).contains(&archive.every_s) {
                return wrong("archive.every_s", format!("must be from 1 to {EVERY_S_MAX}"));
            }
        }
        if self.approver_keys.len() > KEYS_MAX {
            return wrong("approver_keys", format!("at most {KEYS_MAX}, not {}", self.approver_keys.len()));
        }
        for (name, key) in &self.approver_keys {
            if aarm_policy::Approver::parse(&format!("key:{name}")).is_none() {
                return wrong("approver_keys", format!("`{name}` is no name of a key"));
            }
            if crate::api::signed::key(key).is_none() {
                return wrong("approver_keys", format!("`{name}`: a key is 32 bytes in base64"));
            }
        }
        if self.socket.path.as_os_str().len() > SOCKET_PATH_MAX {
            return wrong("socket.path", format!("must have at most {SOCKET_PATH_MAX} bytes"));
        }
        for (field, value, low, high) in [
            ("socket.max_connections", u64::from(self.socket.max_connections), 1, 4096),
            ("receipts.sync_ms", self.receipts.sync_ms, 1, 1000),
            ("receipts.sync_count", u64::from(self.receipts.sync_count), 1, 65536),
            ("receipts.checkpoint_ms", self.receipts.checkpoint_ms, 100, 60_000),
            ("receipts.heartbeat_s", self.receipts.heartbeat_s, 1, 86_400),
            ("receipts.witness_s", self.receipts.witness_s, 1, 86_400),
            ("receipts.segment_mib", self.receipts.segment_mib, SEGMENT_MIN >> 20, SEGMENT_MAX >> 20),
            ("events.coalesce_ms", self.events.coalesce_ms, 0, 100),
            ("holds.spin_us", self.holds.spin_us.into(), 0, SPIN_US_MAX.into()),
        ] {
            if value < low || value > high {
                return wrong(field, format!("must be from {low} to {high}, not {value}"));
            }
        }
        // One that is written, and one before it.
        let least = 2 * self.receipts.segment_mib;
        if self.receipts.keep_mib.is_some_and(|mib| mib < least) {
            return wrong("receipts.keep_mib", format!("must be at least {least}, which is two segments"));
        }
        if self.receipts.keep_hours.is_some_and(|hours| !(1..=KEEP_HOURS_MAX).contains(&hours)) {
            return wrong("receipts.keep_hours", format!("must be from 1 to {KEEP_HOURS_MAX}"));
        }
        Ok(())
    }
}

impl Resolver {
    fn check(&self, name: &str) -> Result<(), String> {
        if !aarm_policy::is_resolver_name(name) || super::resolve::BUILT_IN.contains(&name) {
            return Err("a name has 1 to 64 of a-z, 0-9 and -, and is none that aarm has itself".into());
        }
        match (&self.command, &self.http) {
            (Some(words), None) => {
                if !words.first().is_some_and(|program| program.starts_with('/')) {
                    return Err("`command` begins with the absolute path of a program".into());
                }
                if self.secret.is_some() {
                    return Err("`secret` is for a service that is asked over http".into());
                }
            }
            (None, Some(url)) => {
                super::post::address(url).map_err(|e| e.to_string())?;
            }
            _ => return Err("it has either `command` or `http`".into()),
        }
        if self.secret.as_ref().is_some_and(|path| !path.is_absolute()) {
            return Err("`secret` is an absolute path".into());
        }
        if !(10..=600_000).contains(&self.timeout_ms) {
            return Err(format!("timeout_ms must be from 10 to 600000, not {}", self.timeout_ms));
        }
        Ok(())
    }
}

/// Longest path of a unix socket (`sun_path` less its NUL).
const SOCKET_PATH_MAX: usize = 107;
/// A day.
const EVERY_S_MAX: u64 = 86_400;
/// A hundred years.
const KEEP_HOURS_MAX: u64 = 876_600;

/// The parser's message in one line, without the place (that is printed before it) and the excerpt.
fn plain_message(e: &serde_saphyr::Error) -> String {
    let text = e.without_snippet().to_string();
    let line = text.lines().next().unwrap_or_default();
    line.split(" at line ").next().unwrap_or(line).trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests;
