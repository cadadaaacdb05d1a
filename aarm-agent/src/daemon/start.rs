//! Start-up in order, running, and the way down.
//!
//! Everything that can be refused is refused before anything is changed; the kernel side comes last but for
//! the sockets, so that a daemon that cannot record never begins to supervise.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aarm_receipt::canonical::Encoded;
use aarm_receipt::log::Retention;
use aarm_receipt::redact::sidecar::Sidecar;
use aarm_receipt::trust::Epoch;
use aarm_receipt::{Body, Common, Keys, LogWriter, encode};
use tokio::sync::{broadcast, mpsc, watch};

use super::archive::Archiving;
use super::batch::Pool;
use super::config::{Config, ConfigError};
use super::core::{COMMANDS, Command, Core, End, Parts};
use super::journal::Journal;
use super::lock::{Lock, LockError};
use super::policies::PolicyError;
use super::record::Clock;
use super::recorded::{self, Recorded};
use super::retention::Keeping;
use super::snapshot::{self, Snapshot, SnapshotError};
use super::writer::{self, Intake, Progress, Rhythm, Writer};
use super::{archive, notify, program, record, resolve, webhooks, witnesses};
use crate::api::server::{self, Api, SocketError};
use crate::kernel::{Kernel, KernelError, KernelOptions};
use crate::metrics::{self, Metrics};
use crate::tcp;

/// Why the daemon does not run.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Settings.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Another daemon.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// Keys.
    #[error(transparent)]
    Keys(#[from] aarm_receipt::KeyError),
    /// The receipt log.
    #[error(transparent)]
    Log(#[from] aarm_receipt::LogError),
    /// Policies.
    #[error("{}", policy_text(.0))]
    Policies(#[from] PolicyError),
    /// The kernel.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The metrics endpoint.
    #[error("cannot serve metrics on {address}: {source}: choose another metrics.listen, or off")]
    Metrics {
        /// Where.
        address: std::net::SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The endpoint for signed answers.
    #[error("cannot take answers on {address}: {source}: choose another answers.listen, or off")]
    Answers {
        /// Where.
        address: std::net::SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The state directory.
    #[error(transparent)]
    State(#[from] SnapshotError),
    /// The runtime.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// There was no room for the last receipts.
    #[error(
        "the daemon ended while the receipt log in {} had no room: make room there and start it again. Nothing is \
         lost: what is not written waits in the kernel and in {} for that start", .log.display(), .state.display()
    )]
    Full {
        /// The log.
        log: PathBuf,
        /// The state.
        state: PathBuf,
    },
    /// The log failed while running.
    #[error("the daemon ended because its receipt log failed: {0}")]
    Failed(String),
}

/// Every error of every policy, one a line.
fn policy_text(e: &PolicyError) -> String {
    match e {
        PolicyError::Invalid(found) => {
            let mut text = format!("the policies have errors ({}); nothing was started", found.len());
            found.iter().for_each(|d| text.push_str(&format!("\n  {d}")));
            text
        }
        e => e.to_string(),
    }
}

impl StartError {
    /// Whether the host is at fault, rather than this start: exit status 2.
    pub fn is_host(&self) -> bool {
        match self {
            Self::Kernel(e) | Self::Policies(PolicyError::Kernel(e)) => e.is_host(),
            _ => false,
        }
    }
}

/// Host and boot as receipts name them: neither is secret, both are stable for as long as they mean.
fn host() -> String {
    let read = |p: &str| std::fs::read_to_string(p).unwrap_or_default().trim().to_owned();
    let name = read("/proc/sys/kernel/hostname");
    format!("{name}/{}", snapshot::boot_id())
}

/// Name of a new log: the host's name and what makes it unique.
fn origin() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String = name
        .trim()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "-.".contains(c) { c } else { '-' })
        .collect();
    format!("aarm.{}.{}", if name.is_empty() { "host" } else { &name }, uuid::Uuid::now_v7().simple())
}

/// Runs the daemon until it is told to stop.
pub fn run(config: Config) -> Result<(), StartError> {
    // SAFETY: geteuid has no preconditions.
    if unsafe { libc::geteuid() } != 0 {
        return Err(KernelError::NotRoot.into());
    }
    let _lock = Lock::take(&config.run_dir)?;
    snapshot::prepare(&config.state)?;
    let (keys, made) = Keys::open_or_create(&config.keys)?;
    if made {
        tracing::info!("made new signing keys in {}", config.keys.display());
    }
    let options = aarm_receipt::Options { segment_bytes: config.receipts.segment_bytes() };
    let (mut log, mut opened) = LogWriter::open(&config.log, keys, &origin(), options)?;
    if let Some(since) = log.rotate(named)? {
        opened.size = log.size();
        tracing::info!(
            "the log's keys were exchanged: receipts from {since} on are signed by new ones. Witnesses need the new {}",
            config.log.join("log.pub").display()
        );
    }
    let snapshot = former(&config.state);
    let options = KernelOptions {
        bpffs: config.bpffs.clone(),
        progress: notify::loading,
        spin_us: config.holds.spin_us,
        ..KernelOptions::default()
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let listener = {
        let _context = runtime.enter();
        server::bind(&config.socket.path, config.socket.mode.0)?
    };
    let started = serve(&runtime, &config, log, opened, snapshot, &options, listener);
    // A socket that nobody serves would make clients wait.
    let _ = std::fs::remove_file(&config.socket.path);
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    started
}

/// The receipt that names the log's next keys.
fn named(next: &Epoch) -> Vec<u8> {
    let boot_ns = crate::kernel::boot_ns();
    let host = Encoded::text(host().as_bytes());
    let common =
        Common { time_ns: Clock::now().unix(boot_ns), boot_ns, host: &host, session: None, seq: None };
    let (checkpoint, receipt) = (next.log.to_string(), next.receipt.to_string());
    let mut out = Vec::new();
    encode(&common, &Body::Keys { checkpoint: &checkpoint, receipt: &receipt }, &mut out);
    out
}

/// What a former daemon of this boot left, and where what begins to wait from now on is noted.
fn former(dir: &Path) -> (Snapshot, Option<Journal>) {
    let mut snapshot = kept(dir);
    match Journal::open(dir) {
        Ok((journal, noted)) => {
            // What was kept last is the truth about what was noted before.
            snapshot.holds.splice(..0, noted.waits);
            snapshot.untold.extend(noted.told);
            (snapshot, Some(journal))
        }
        Err(e) => {
            tracing::error!("what begins to wait is kept later than it should be: {e}");
            (snapshot, None)
        }
    }
}

/// What it kept.
fn kept(dir: &Path) -> Snapshot {
    match Snapshot::load(dir) {
        Ok(Some(s)) if s.boot_id == snapshot::boot_id() => s,
        // Receipts do not depend on the boot they are read in.
        Ok(s) => Snapshot { untold: s.unwrap_or_default().untold, ..Snapshot::default() },
        Err(e) => {
            tracing::warn!("{e}; going on with what the kernel knows");
            Snapshot::default()
        }
    }
}

fn serve(
    runtime: &tokio::runtime::Runtime,
    config: &Config,
    log: LogWriter,
    opened: aarm_receipt::Opened,
    (snapshot, journal): (Snapshot, Option<Journal>),
    options: &KernelOptions,
    listener: tokio::net::UnixListener,
) -> Result<(), StartError> {
    let metrics = Metrics::new().map_err(|e| StartError::Io(std::io::Error::other(e)))?;
    let metrics_listener = match config.metrics.listen.0 {
        Some(address) => Some(
            runtime.block_on(tcp::bind(address)).map_err(|source| StartError::Metrics { address, source })?,
        ),
        None => None,
    };
    let answers_listener = match config.answers.listen.0 {
        Some(address) => Some(
            runtime.block_on(tcp::bind(address)).map_err(|source| StartError::Answers { address, source })?,
        ),
        None => None,
    };
    let mut kernel = Kernel::start(options)?;
    let adopted = kernel.adopted();
    let events = kernel.take_events().ok_or(KernelError::NoObject)?;
    let trusted = log.trusted().clone();
    let shown = witnesses::Log { dir: config.log.clone(), keys: trusted.clone() };
    let (origin, key) = (log.origin().to_owned(), trusted.latest().log.to_string());
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();

    let ring = events.ring();
    let recorded = Recorded::read(&config.log, opened.size, &snapshot)
        .map_err(|e| StartError::Io(std::io::Error::other(e)))?;
    let (batches, to_write) = mpsc::channel(writer::QUEUE);
    let (durable, _) = broadcast::channel(writer::WATCH_QUEUE);
    let progress = Arc::new(Progress::default());
    let pool = Pool::default();
    let (jobs, to_resolve) = mpsc::channel(resolve::QUEUE);
    let (readings, to_read) = mpsc::channel(program::QUEUE);
    let (notices, to_tell) = mpsc::channel(webhooks::QUEUE);
    let notices = (!config.webhooks.is_empty()).then_some(notices);
    let mut resolvers: Vec<String> = config.resolvers.keys().cloned().collect();
    resolvers.extend(resolve::BUILT_IN.iter().map(|name| (*name).to_owned()));
    let parts = Parts {
        kernel: Box::new(kernel),
        events: Box::new(events),
        adopted,
        snapshot,
        journal,
        policies: config.policies.clone(),
        default_policy: config.run.default_policy.clone(),
        recorded,
        state: config.state.clone(),
        log: config.log.clone(),
        host: Encoded::text(host().as_bytes()),
        coalesce: std::time::Duration::from_millis(config.events.coalesce_ms),
        batches,
        notices,
        host_name: host(),
        jobs,
        readings,
        resolvers,
        progress: Arc::clone(&progress),
        pool: pool.clone(),
        metrics: Arc::clone(&metrics),
    };
    let core = Core::begin(parts, |core| {
        core.system(&Body::Start { version: env!("CARGO_PKG_VERSION"), kernel: &release, adopted });
        if opened.bytes_cut > 0 {
            tracing::warn!(
                "the log had {} bytes of an unfinished write at its end: cut off",
                opened.bytes_cut
            );
            core.system(&Body::Recovery {
                why: "an unfinished write at the end of the log",
                bytes_cut: opened.bytes_cut,
            });
        }
    })?;
    let rhythm = Rhythm {
        sync: config.receipts.sync(),
        sync_count: config.receipts.sync_count,
        checkpoint: config.receipts.checkpoint(),
        heartbeat: config.receipts.heartbeat(),
    };
    let keep = Retention { at_least: recorded::TAIL, ..config.receipts.retention() };
    let mut keeping = Keeping::new(keep, config.receipts.compress, Encoded::text(host().as_bytes()));
    if config.archive.as_ref().is_some_and(|archive| archive.required) {
        keeping = keeping.until_archived(Arc::clone(&progress));
    }
    let (writer, mut writer_ended) = Writer::spawn(
        log,
        rhythm,
        Arc::clone(&metrics),
        Arc::clone(&progress),
        durable.clone(),
        pool,
        Intake { batches: to_write, ring, keeping, sidecar: Sidecar::at(&config.redacted) },
    )?;
    let archive = config.archive.clone().map(|to| {
        let (log, progress, metrics) = (config.log.clone(), Arc::clone(&progress), Arc::clone(&metrics));
        archive::begin(Archiving { to, log, trusted, progress, metrics })
    });
    let archive = archive.transpose()?;
    let (commands, asked) = mpsc::channel(COMMANDS);
    let rhythm =
        witnesses::Rhythm { every: config.receipts.witness(), heartbeat: config.receipts.heartbeat() };
    let witnesses = {
        let _context = runtime.enter();
        witnesses::serve(&config.witnesses, &shown, rhythm, &metrics)
    };
    let api = Arc::new(Api {
        core: commands.clone(),
        durable,
        progress,
        metrics: Arc::clone(&metrics),
        config: config.clone(),
        origin,
        key,
        kernel: release,
        started: record::timestamp(record::Clock::now().unix(crate::kernel::boot_ns())),
        adopted,
        witnesses,
        archive,
        streams: Arc::new(tokio::sync::Semaphore::new(server::STREAMS)),
    });
    let (stop, stopped) = watch::channel(false);
    metrics.set_ready(true);
    metrics.beat(crate::kernel::boot_ns());
    let ended = runtime.block_on(async {
        tokio::spawn(webhooks::serve(to_tell, config.webhooks.clone(), Arc::clone(&metrics)));
        let answering = answers_listener
            .map(|l| tokio::spawn(tcp::serve(l, server::answers(Arc::clone(&api)), server::ANSWERS)));
        tokio::spawn(program::serve(to_read, commands.clone()));
        tokio::spawn(resolve::serve(to_resolve, config.resolvers.clone(), commands.clone()));
        let serving = tokio::spawn(server::serve(listener, api));
        let scraped = metrics_listener.map(|l| {
            let app = metrics::router(Arc::clone(&metrics)).merge(witnesses::router(shown.dir.clone()));
            tokio::spawn(tcp::serve(l, app, metrics::SERVING))
        });
        let watchdog = tokio::spawn(watchdog(Arc::clone(&metrics)));
        let mut running = core.spawn(asked, stopped)?;
        notify::ready("supervising");
        tracing::info!(adopted, "ready");
        let mut signals = Signals::new()?;
        let result = loop {
            tokio::select! {
                signal = signals.next() => match signal {
                    Signal::Stop => break None,
                    Signal::Reload => reload(&commands).await,
                },
                ended = &mut running => break Some(ended),
                // By itself, which is a failure.
                _ = &mut writer_ended => break None,
            }
        };
        notify::stopping();
        tracing::info!("stopping; the kernel goes on deciding");
        serving.abort();
        if let Some(s) = scraped {
            s.abort();
        }
        if let Some(a) = answering {
            a.abort();
        }
        watchdog.abort();
        let ended = match result {
            Some(ended) => ended,
            None => {
                // The core may be gone already.
                let _ = stop.send(true);
                running.await
            }
        };
        ended.map_err(std::io::Error::other)?
    });
    drop(commands);
    let written = writer.join();
    let full = || StartError::Full { log: config.log.clone(), state: config.state.clone() };
    let ended = ended?;
    match written {
        Ok(Ok(())) if ended == End::Abandoned => Err(full()),
        Ok(Ok(())) => Ok(()),
        Ok(Err(aarm_receipt::LogError::NoSpace { .. })) => Err(full()),
        Ok(Err(e)) => Err(StartError::Failed(e.to_string())),
        Err(_) => Err(StartError::Failed("it panicked".into())),
    }
}

/// Tells the service manager that the core is alive, while it is.
async fn watchdog(metrics: Arc<Metrics>) {
    let Some(every) = notify::watchdog_interval() else { return };
    loop {
        tokio::time::sleep(every).await;
        if metrics.healthy(crate::kernel::boot_ns()) {
            notify::alive();
        }
    }
}

async fn reload(commands: &mpsc::Sender<Command>) {
    let (answer, answered) = tokio::sync::oneshot::channel();
    if commands.send(Command::Reload(answer)).await.is_err() {
        return;
    }
    match answered.await {
        Ok(Ok(r)) => {
            tracing::info!(loaded = ?r.loaded, removed = ?r.removed, sessions = r.sessions_moved, "policies reloaded")
        }
        Ok(Err(e)) => tracing::error!("policies not reloaded, the old ones stay: {}", policy_text(&e)),
        Err(_) => {}
    }
}

enum Signal {
    Stop,
    Reload,
}

struct Signals {
    term: tokio::signal::unix::Signal,
    int: tokio::signal::unix::Signal,
    hup: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.term.recv() => Signal::Stop,
            _ = self.int.recv() => Signal::Stop,
            _ = self.hup.recv() => Signal::Reload,
        }
    }
}

/// Where the configuration is, and whether it was named.
pub fn config_path(given: Option<PathBuf>) -> (PathBuf, bool) {
    match given {
        Some(path) => (path, true),
        None => (PathBuf::from(super::config::CONFIG_PATH), false),
    }
}
