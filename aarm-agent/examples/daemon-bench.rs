//! What the daemon costs for each event, without a kernel side: made-up events through the real core, writer
//! and log. `cargo xtask bench daemon` runs it in a VM whose clock counts instructions, so that a nanosecond
//! of CPU time is one; by itself it measures this machine's nanoseconds.
//!
//! `daemon-bench [--json] [RULES EVENTS]`: one run with a policy of so many rules, for profilers.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aarm_agent::daemon::batch::Pool;
use aarm_agent::daemon::core::{COMMANDS, Choice, Command, Core, Parts, Registration};
use aarm_agent::daemon::port::{EventPort, KernelPort, ReleasePort};
use aarm_agent::daemon::recorded::Recorded;
use aarm_agent::daemon::retention::Keeping;
use aarm_agent::daemon::snapshot::Snapshot;
use aarm_agent::daemon::writer::{self, Intake, Progress, Rhythm, Writer};
use aarm_agent::kernel::{KernelError, Linked, Waited, boot_ns};
use aarm_agent::metrics::Metrics;
use aarm_common::event::{Cause, EventHeader, HEADER_BYTES, Kind, NO_RULE};
use aarm_common::hold::{Grant, GrantKey, Hold, Lines};
use aarm_common::limits::POLICY_SLOTS;
use aarm_common::policy::{Hits, Policy};
use aarm_common::state::{Given, HostKey, ObjectId, Redirect, STATS, Session, session_id};
use aarm_common::{ABI_VERSION, Decision, Operation};
use aarm_receipt::canonical::Encoded;
use aarm_receipt::log::Retention;
use aarm_receipt::redact::sidecar::Sidecar;
use aarm_receipt::{Keys, LogWriter, Options};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

/// Thirty characters, as the published figure says.
const PATH: &[u8] = b"/tmp/aarm-bench/some-file.text";
const EVENTS: u64 = 20_000;
/// Events between two turns of the producer in a stream, and the time between them.
const STREAM: (u64, Duration) = (100, Duration::from_millis(1));
const IDLE: Duration = Duration::from_secs(10);
type Failure = Box<dyn std::error::Error>;

/// The ring: how many events were put in and given back.
struct Ring {
    produced: AtomicU64,
    released: AtomicU64,
    wake: OwnedFd,
}

impl Ring {
    /// Adds events; wakes the daemon as the kernel does, if it had nothing left.
    fn produce(&self, n: u64) {
        let before = self.produced.fetch_add(n, Ordering::AcqRel);
        if self.released.load(Ordering::Acquire) == before {
            // SAFETY: eight bytes of our own, a descriptor of our own.
            unsafe { libc::write(self.wake.as_raw_fd(), (&raw const n).cast(), 8) };
        }
    }

    fn left(&self) -> u64 {
        self.produced.load(Ordering::Acquire) - self.released.load(Ordering::Acquire)
    }
}

impl ReleasePort for Ring {
    fn release(&self, position: u64) {
        self.released.store(position, Ordering::Release);
    }
}

/// The reading end; positions are numbers of events.
struct Source {
    ring: Arc<Ring>,
    read: u64,
    header: EventHeader,
}

impl EventPort for Source {
    fn raw_fd(&self) -> RawFd {
        self.ring.wake.as_raw_fd()
    }

    fn drain(&mut self, limit: usize, f: &mut dyn FnMut(&[u8]) -> bool) -> usize {
        let mut record = [0; HEADER_BYTES + PATH.len()];
        record[HEADER_BYTES..].copy_from_slice(PATH);
        let there = (self.ring.produced.load(Ordering::Acquire) - self.read).min(limit as u64);
        self.header.time_ns = if there > 0 { boot_ns() } else { 0 };
        let (mut n, mut more) = (0, true);
        while more && n < there {
            self.header.seq = self.read;
            // SAFETY: the record begins with room for a header, which is integers only.
            unsafe { record.as_mut_ptr().cast::<EventHeader>().write_unaligned(self.header) };
            more = f(&record);
            self.read += 1;
            n += 1;
        }
        n as usize
    }

    fn fill(&self) -> u64 {
        self.ring.left()
    }

    fn position(&self) -> u64 {
        self.read
    }
}

/// The tables: the generation of each policy slot, and the one session's slot.
struct Tables {
    generations: Mutex<[u32; 16]>,
    policy: AtomicU32,
}

struct Kernel(Arc<Tables>);

impl KernelPort for Kernel {
    fn has_cgroups(&self) -> bool {
        true
    }

    fn generations(&self) -> Result<[u32; POLICY_SLOTS], KernelError> {
        Ok([0; POLICY_SLOTS])
    }

    fn given(&self) -> Result<Given, KernelError> {
        Ok(Given::default())
    }

    fn give(&mut self, _: Given) -> Result<(), KernelError> {
        Ok(())
    }

    fn redirected(&self, _: u64) -> Option<Redirect> {
        None
    }

    fn hold(&self, _: u64) -> Option<Hold> {
        None
    }

    fn holds(&self) -> Vec<(u64, Hold)> {
        Vec::new()
    }

    fn answer(&mut self, _: u64, _: u64, _: bool) -> Result<Waited, KernelError> {
        Ok(Waited::Gone)
    }

    fn is_unanswered(&self, _: u64, _: u64) -> bool {
        false
    }

    fn again(&mut self, _: u64, _: u64) -> Result<Waited, KernelError> {
        Ok(Waited::Gone)
    }

    fn learn(&mut self, _: HostKey, _: &str, _: u64) -> Result<(), KernelError> {
        Ok(())
    }

    fn forget_hold(&mut self, _: u64) {}

    fn lines(&self, _: u64) -> Option<Lines> {
        None
    }

    fn grant(&mut self, _: GrantKey, _: Grant) -> Result<(), KernelError> {
        Ok(())
    }

    fn revoke_grants(&mut self, _: Option<u64>, _: u64) {}

    fn load_policy(&mut self, slot: u32, policy: &Policy) -> Result<(), KernelError> {
        self.0.generations.lock().map_err(|_| KernelError::Slot(slot))?[slot as usize] = policy.generation;
        Ok(())
    }

    fn clear_policy(&mut self, _: u32) -> Result<(), KernelError> {
        Ok(())
    }

    fn set_agents(&mut self, _: bool) -> Result<(), KernelError> {
        Ok(())
    }

    fn register(&mut self, _: BorrowedFd<'_>, policy_slot: u32) -> Result<u64, KernelError> {
        self.0.policy.store(policy_slot, Ordering::Release);
        Ok(session_id(1, 1))
    }

    fn session(&self, _: u32) -> Result<Session, KernelError> {
        let policy = self.0.policy.load(Ordering::Acquire);
        Ok(Session { generation: 1, policy, tasks: 1, ..Session::default() })
    }

    fn move_session(&mut self, _: u32, _: u32) -> Result<(), KernelError> {
        Ok(())
    }

    fn recycle(&mut self, _: u32) -> Result<(), KernelError> {
        Ok(())
    }

    fn session_of(&self, _: BorrowedFd<'_>) -> Result<Option<u64>, KernelError> {
        Ok(None)
    }

    fn remember_links(&mut self, _: u32, _: &[(Linked, Hits)]) -> Result<(), KernelError> {
        Ok(())
    }

    fn forget_links(&mut self, _: u32) -> Result<(), KernelError> {
        Ok(())
    }

    fn forget_inherited(&mut self, _: u64) -> Result<(), KernelError> {
        Ok(())
    }

    fn stats(&self) -> Result<[u64; STATS], KernelError> {
        Ok([0; STATS])
    }
}

/// A policy of `n` rules, none of which decides.
fn policy(n: usize) -> String {
    let rules: String = (0..n)
        .map(|i| format!("    - {{ id: r{i}, match: {{ operation: open_read, path: '/srv/data{i}/**' }}, decision: DENY }}\n"))
        .collect();
    format!(
        "apiVersion: aarm.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {{ name: p{n}, version: '1' }}\nspec:\n  mode: enforce\n  \
         defaults: {{ exec: ALLOW, read: ALLOW, write: ALLOW, network: ALLOW }}\n  rules:\n{rules}"
    )
}

/// CPU time of this process without this thread, which plays the kernel.
fn cpu() -> u64 {
    let read = |clock| {
        // SAFETY: a local of the right type.
        unsafe {
            let mut t: libc::timespec = std::mem::zeroed();
            libc::clock_gettime(clock, &mut t);
            t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
        }
    };
    read(libc::CLOCK_PROCESS_CPUTIME_ID) - read(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// What one policy's run found.
struct Figures {
    burst: f64,
    stream: f64,
    idle: f64,
    bytes: f64,
}

fn measure(dir: &Path, rules: usize, events: u64, all: bool) -> Result<Figures, Failure> {
    let policies = dir.join("policies");
    std::fs::create_dir_all(&policies)?;
    std::fs::write(policies.join("p.yaml"), policy(rules))?;
    std::fs::create_dir_all(dir.join("state"))?;
    let keys = Keys::from_seeds([1; 32], [2; 32]).ok_or("no keys")?;
    let (log, _) = LogWriter::open(&dir.join("log"), keys, "bench.test/log", Options::default())?;
    // SAFETY: no preconditions; the result is checked.
    let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    // SAFETY: just made, and nobody else's.
    let wake = unsafe { OwnedFd::from_raw_fd(fd) };
    let ring = Arc::new(Ring { produced: AtomicU64::new(0), released: AtomicU64::new(0), wake });
    let tables = Arc::new(Tables { generations: Mutex::new([0; 16]), policy: AtomicU32::new(0) });
    let (batches, to_write) = mpsc::channel(writer::QUEUE);
    let (durable, _) = broadcast::channel(writer::WATCH_QUEUE);
    let (metrics, progress, pool) = (Metrics::new()?, Arc::new(Progress::default()), Pool::default());
    let header = EventHeader {
        version: ABI_VERSION,
        kind: Kind::Action as u8,
        op: Operation::OpenRead as u8,
        facet: Operation::OpenRead as u8,
        len: (HEADER_BYTES + PATH.len()) as u32,
        session: session_id(1, 1),
        took_ns: 1800,
        // The directory's only policy is the first compilation.
        policy: 1,
        pid: 4711,
        tid: 4711,
        ppid: 4710,
        uid: 1000,
        gid: 1000,
        decision: Decision::Allow as u8,
        cause: Cause::Default as u8,
        rule: NO_RULE,
        object: ObjectId { ino: 123_456, dev: 23, mode: 0o100644 },
        arg: 0o100000,
        path_len: PATH.len() as u16,
        comm: *b"aarm-vm-bench\0\0\0",
        ..EventHeader::default()
    };
    let parts = Parts {
        kernel: Box::new(Kernel(Arc::clone(&tables))),
        events: Box::new(Source { ring: Arc::clone(&ring), read: 0, header }),
        adopted: false,
        journal: None,
        snapshot: Snapshot::default(),
        policies,
        default_policy: None,
        recorded: Recorded::default(),
        state: dir.join("state"),
        log: dir.join("log"),
        host: Encoded::text(b"aarm-vm/0b4b9b38-0000-4000-8000-1c697a0e7a3c"),
        coalesce: Duration::from_millis(5),
        batches,
        notices: None,
        host_name: "h".into(),
        jobs: mpsc::channel(1).0,
        readings: mpsc::channel(1).0,
        resolvers: Vec::new(),
        progress: Arc::clone(&progress),
        pool: pool.clone(),
        metrics: Arc::clone(&metrics),
    };
    let core = Core::begin(parts, |_| ())?;
    let rhythm = Rhythm {
        sync: Duration::from_millis(10),
        sync_count: 4096,
        checkpoint: Duration::from_secs(1),
        heartbeat: Duration::from_secs(60),
    };
    let intake = Intake {
        batches: to_write,
        ring: Arc::clone(&ring) as Arc<dyn ReleasePort>,
        keeping: Keeping::new(Retention::default(), false, Encoded::text(b"h")),
        sidecar: Sidecar::at(&dir.join("redacted")),
    };
    let (writer, _) =
        Writer::spawn(log, rhythm, Arc::clone(&metrics), Arc::clone(&progress), durable, pool, intake)?;
    let (commands, asked) = mpsc::channel(COMMANDS);
    let (stop, stopped) = watch::channel(false);
    let running = core.spawn(asked, stopped)?;
    let (answer, answered) = oneshot::channel();
    let pidfd = OwnedFd::from(std::fs::File::open("/dev/null")?);
    let (intent, human) = (String::new(), String::new());
    let wanted =
        Registration { pidfd, pid: 4711, uid: 1000, gid: 1000, policy: Choice::Default, intent, human };
    commands.blocking_send(Command::Register(wanted, answer))?;
    answered.blocking_recv()??.durable.blocking_recv()?;
    let emptied = || {
        while ring.left() > 0 {
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let per = |began: u64, n: u64| (cpu() - began) as f64 / n as f64;
    let mut f = Figures { burst: 0.0, stream: 0.0, idle: 0.0, bytes: 0.0 };
    // The first pass warms up.
    for _ in 0..if all { 2 } else { 1 } {
        let began = cpu();
        ring.produce(events);
        emptied();
        f.burst = per(began, events);
    }
    if all {
        let began = cpu();
        for _ in 0..events / STREAM.0 {
            ring.produce(STREAM.0);
            std::thread::sleep(STREAM.1);
        }
        emptied();
        f.stream = per(began, events);
        std::thread::sleep(Duration::from_secs(2));
        let began = cpu();
        std::thread::sleep(IDLE);
        f.idle = per(began, IDLE.as_secs());
    }
    f.bytes = metrics.receipt_bytes.get() as f64 / metrics.receipts.get() as f64;
    stop.send(true)?;
    running.blocking_recv()??;
    drop(commands);
    writer.join().map_err(|_| "the writer panicked")??;
    Ok(f)
}

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let numbers: Vec<u64> = args.iter().filter_map(|a| a.parse().ok()).collect();
    if let [rules, events] = numbers[..] {
        let f = measure(tempfile::tempdir()?.path(), rules as usize, events, false)?;
        println!("{:.0} ns an event, {:.0} bytes a receipt", f.burst, f.bytes);
        return Ok(());
    }
    let json = args.iter().any(|a| a == "--json");
    if !json {
        println!(
            "{:<8}{:>18}{:>18}{:>18}{:>14}",
            "rules", "event, burst", "event, stream", "idle, a second", "receipt bytes"
        );
    }
    for rules in [1, 20, 512] {
        let f = measure(tempfile::tempdir()?.path(), rules, EVENTS, true)?;
        if json {
            println!(
                "{{\"rules\":{rules},\"event_burst\":{:.0},\"event_stream\":{:.0},\"idle_second\":{:.0},\"receipt_bytes\":{:.0}}}",
                f.burst, f.stream, f.idle, f.bytes
            );
        } else {
            println!("{rules:<8}{:>18.0}{:>18.0}{:>18.0}{:>14.0}", f.burst, f.stream, f.idle, f.bytes);
        }
    }
    Ok(())
}
