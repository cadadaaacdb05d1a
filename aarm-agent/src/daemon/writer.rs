//! The thread that owns the receipt log: appends, makes durable, signs, and tells who waits.
//!
//! Promises: what watchers and waiters are told is on disk. A full disk stops the intake, and so in the end
//! the actions themselves, until there is room; any other failure of the log ends the daemon, because nothing
//! could be promised any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aarm_receipt::log::Signing;
use aarm_receipt::redact::sidecar::Sidecar;
use aarm_receipt::{LogError, LogWriter};
use tokio::sync::{Notify, broadcast, mpsc, oneshot};

use super::batch::{Batch, Kind, Pool};
use super::port::ReleasePort;
use super::record::is_weighty;
use super::redacted::Redacted;
use super::retention::Keeping;
use crate::metrics::Metrics;

/// Batches on their way to the writer.
pub const QUEUE: usize = 16;
/// Batches a watcher may be behind.
pub const WATCH_QUEUE: usize = 256;
/// So many receipts are appended without waiting for more.
const MANY: usize = 64;
/// How often it is looked whether a checkpoint is placed.
const PLACED: Duration = Duration::from_millis(10);
/// How often a full disk is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// When the writer does what.
#[derive(Clone, Copy, Debug)]
pub struct Rhythm {
    /// Longest time until receipts are durable.
    pub sync: Duration,
    /// Receipts after which they are made durable at once.
    pub sync_count: u32,
    /// Time between checkpoints.
    pub checkpoint: Duration,
    /// The same while nothing comes in.
    pub heartbeat: Duration,
}

/// The log's numbers, for whoever asks.
#[derive(Debug, Default)]
pub struct Progress {
    /// Receipts on disk.
    pub durable: AtomicU64,
    /// Receipts under a checkpoint.
    pub signed: AtomicU64,
    /// Receipts that are archived, too.
    pub archived: AtomicU64,
    /// Number of the last batch on disk.
    pub batches: AtomicU64,
    /// There is no room, be it only for a checkpoint.
    pub full: AtomicBool,
    /// A receipt waits for room.
    pub blocked: AtomicBool,
    /// Something that a stopped thread waits for is on disk.
    pub settled: Notify,
}

/// Where receipts come from, and the ring their events are still in.
pub struct Intake {
    /// Batches of receipts.
    pub batches: mpsc::Receiver<Batch>,
    /// The ring.
    pub ring: Arc<dyn ReleasePort>,
    /// What is kept.
    pub keeping: Keeping,
    /// Where what receipts do not show is kept.
    pub sidecar: Sidecar,
}

fn receipts(batches: &[Batch]) -> usize {
    batches.iter().map(Batch::len).sum()
}

/// The writer's thread, with what it ended for.
pub type Thread = std::thread::JoinHandle<Result<(), LogError>>;

/// What the writer works with.
pub struct Writer {
    log: LogWriter,
    rhythm: Rhythm,
    metrics: Arc<Metrics>,
    progress: Arc<Progress>,
    durable: broadcast::Sender<Arc<Batch>>,
    pool: Pool,
    ring: Arc<dyn ReleasePort>,
    keeping: Keeping,
    redacted: Redacted,
    /// Not appended yet.
    taken: Vec<Batch>,
    /// Appended, not durable yet.
    waiting: Vec<Batch>,
    /// Since when the oldest of both waits; there is one while there are any.
    oldest: Option<Instant>,
    signed_at: Instant,
    /// A checkpoint that is being placed.
    placing: Option<Placing>,
}

/// Places a checkpoint, and gives it back with what became of it.
type Placing = std::thread::JoinHandle<(Signing, Result<(), LogError>)>;

impl Writer {
    /// Starts the thread. It ends when all senders are gone, after a last sync and checkpoint. Events are released
    /// from the ring when their receipts are durable, and not before. The receiver wakes when the thread ends.
    pub fn spawn(
        log: LogWriter,
        rhythm: Rhythm,
        metrics: Arc<Metrics>,
        progress: Arc<Progress>,
        durable: broadcast::Sender<Arc<Batch>>,
        pool: Pool,
        intake: Intake,
    ) -> std::io::Result<(Thread, oneshot::Receiver<()>)> {
        progress.durable.store(log.durable(), Ordering::Release);
        progress.signed.store(log.signed(), Ordering::Release);
        let mut writer = Self {
            redacted: Redacted::new(intake.sidecar, Arc::clone(&metrics)),
            log,
            rhythm,
            metrics,
            progress,
            durable,
            pool,
            ring: intake.ring,
            keeping: intake.keeping,
            taken: Vec::new(),
            waiting: Vec::new(),
            oldest: None,
            signed_at: Instant::now(),
            placing: None,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let (running, ended) = oneshot::channel();
        let thread = std::thread::Builder::new().name("aarm-log".into()).spawn(move || {
            let _running = running;
            let ended = writer.run(&runtime, intake.batches);
            // None is placed any more once another writer may have the log.
            ended.and(writer.placed(true))
        })?;
        Ok((thread, ended))
    }

    fn run(
        &mut self,
        runtime: &tokio::runtime::Runtime,
        mut batches: mpsc::Receiver<Batch>,
    ) -> Result<(), LogError> {
        loop {
            let next = match batches.try_recv() {
                Ok(batch) => Some(batch),
                Err(mpsc::error::TryRecvError::Disconnected) => break,
                Err(mpsc::error::TryRecvError::Empty) => {
                    let wait = self.wait();
                    let next = runtime.block_on(async { tokio::time::timeout(wait, batches.recv()).await });
                    match next {
                        Ok(None) => break,
                        Ok(batch) => batch,
                        Err(_) => None,
                    }
                }
            };
            if let Some(batch) = next {
                self.oldest.get_or_insert_with(Instant::now);
                self.taken.push(batch);
            }
            // A few are hashed and signed when they are due: whom the core has just let go comes first.
            if receipts(&self.taken) >= MANY {
                self.append_taken(&batches)?;
            }
            let due = self.oldest.is_some_and(|t| t.elapsed() >= self.rhythm.sync);
            let urgent = self.taken.iter().chain(&self.waiting).any(|b| b.urgent || !b.waiters.is_empty());
            let many = receipts(&self.taken) + receipts(&self.waiting) >= self.rhythm.sync_count as usize;
            if due || urgent || many {
                self.append_taken(&batches)?;
                self.sync()?;
            }
            // A log is never without a checkpoint once something durable is in it.
            let first = self.log.signed() == 0 && self.log.durable() > 0;
            self.placed(false)?;
            if first || self.placing.is_none() && self.signed_at.elapsed() >= self.pause() {
                self.sign()?;
            }
            self.prune()?;
        }
        self.append_taken(&batches)?;
        self.sign_now()
    }

    fn append_taken(&mut self, more: &mpsc::Receiver<Batch>) -> Result<(), LogError> {
        std::mem::take(&mut self.taken).into_iter().try_for_each(|batch| self.append(batch, more))
    }

    /// How long there is nothing to do.
    fn wait(&self) -> Duration {
        let sync = self.oldest.map(|t| self.rhythm.sync.saturating_sub(t.elapsed()));
        let sign = match self.placing {
            Some(_) => PLACED,
            None => self.pause().saturating_sub(self.signed_at.elapsed()),
        };
        [sync, Some(self.keeping.pause())].into_iter().flatten().fold(sign, Duration::min)
    }

    /// Takes out what is too old, or too much, when a receipt that says so is signed.
    fn prune(&mut self) -> Result<(), LogError> {
        let Some(gone) = self.keeping.look(&mut self.log) else { return Ok(()) };
        let index = match self.log.append(&mut self.keeping.receipt(&gone), true) {
            Ok(index) => index,
            Err(e @ LogError::NoSpace { .. }) => {
                self.is_full(&e);
                return Ok(());
            }
            Err(e) => return Err(e),
        };
        self.sign_now()?;
        if self.log.signed() <= index {
            return Ok(());
        }
        let before = self.log.first();
        match self.log.prune(&gone) {
            Ok(()) => {
                let receipts = gone.before - before;
                self.redacted.prune(&self.log);
                self.metrics.pruned.inc_by(receipts);
                tracing::info!(
                    "{receipts} receipts ({} segments, {} bytes) were pruned, by {}",
                    gone.segments,
                    gone.bytes,
                    gone.why
                );
            }
            Err(e) => tracing::error!("old receipts are kept: {e}"),
        }
        Ok(())
    }

    /// Time between the last checkpoint and the next.
    fn pause(&self) -> Duration {
        if self.log.size() > self.log.signed() { self.rhythm.checkpoint } else { self.rhythm.heartbeat }
    }

    fn append(&mut self, mut batch: Batch, more: &mpsc::Receiver<Batch>) -> Result<(), LogError> {
        self.redacted.keep(&batch);
        batch.first_index = self.log.size();
        for (entry, bytes) in batch.iter_mut() {
            let weighty = match entry.kind {
                Kind::System | Kind::Answer => true,
                // It is decided when it is read, as every exec is; the signature is the checkpoint's.
                Kind::Program => false,
                _ => is_weighty(entry.decision),
            };
            let mut waited = false;
            loop {
                match self.log.append(bytes, weighty) {
                    Ok(_) => break,
                    Err(e @ LogError::NoSpace { .. }) => {
                        self.is_full(&e);
                        if !waited {
                            // What found room before is not kept waiting.
                            self.sync()?;
                            self.progress.blocked.store(true, Ordering::Release);
                        }
                        // Whoever waits for the end of the daemon does not wait for room: the events stay in the
                        // ring, and the next daemon finds what this batch has in the log already.
                        if more.is_closed() {
                            self.log.sync()?;
                            self.sign_now()?;
                            return Err(e);
                        }
                        waited = true;
                        std::thread::sleep(RETRY);
                    }
                    Err(e) => return Err(e),
                }
            }
            if waited {
                self.progress.blocked.store(false, Ordering::Release);
                self.has_room();
            }
        }
        self.waiting.push(batch);
        self.oldest.get_or_insert_with(Instant::now);
        Ok(())
    }

    fn sync(&mut self) -> Result<(), LogError> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let durable = self.log.sync()?;
        self.progress.durable.store(durable, Ordering::Release);
        self.metrics.syncs.inc();
        let now = crate::kernel::boot_ns();
        if let Some(last) = self.waiting.last() {
            self.ring.release(last.ring_end);
            self.progress.batches.store(last.number, Ordering::Release);
        }
        if self.waiting.iter().any(|b| b.urgent) {
            self.progress.settled.notify_one();
        }
        for mut batch in self.waiting.drain(..) {
            self.metrics.receipts.inc_by(batch.len() as u64);
            self.metrics.receipt_bytes.inc_by(batch.bytes() as u64);
            // One observation for a batch's first and last receipt: the ends of its latencies.
            let mut times = batch.iter().map(|(e, _)| e.time_ns);
            for t in [times.next(), times.last()].into_iter().flatten() {
                self.metrics.pipeline.observe(now.saturating_sub(t) as f64 / 1e9);
            }
            for waiter in batch.waiters.drain(..) {
                // Whoever asked may be gone.
                let _ = waiter.send(());
            }
            let batch = Arc::new(batch);
            if self.durable.receiver_count() > 0 {
                let _ = self.durable.send(Arc::clone(&batch));
            }
            self.pool.give(batch);
        }
        // Those that are not appended yet go on waiting.
        self.oldest = self.oldest.filter(|_| !self.taken.is_empty());
        Ok(())
    }

    /// Begins a checkpoint, which another thread places: nobody waits for it.
    fn sign(&mut self) -> Result<(), LogError> {
        self.placed(true)?;
        self.sync()?;
        self.signed_at = Instant::now();
        let Some(mut signing) = self.log.begin_checkpoint()? else { return Ok(()) };
        let place = move || {
            let placed = signing.place();
            (signing, placed)
        };
        let thread = std::thread::Builder::new().name("aarm-checkpoint".into()).spawn(place);
        self.placing =
            Some(thread.map_err(|source| LogError::Io { path: self.log.dir().to_owned(), source })?);
        Ok(())
    }

    /// The same, and waits.
    fn sign_now(&mut self) -> Result<(), LogError> {
        self.sign()?;
        self.placed(true)
    }

    /// Takes up a checkpoint that was placed. `wait`: one that is not yet.
    fn placed(&mut self, wait: bool) -> Result<(), LogError> {
        let Some(thread) = self.placing.take_if(|placing| wait || placing.is_finished()) else {
            return Ok(());
        };
        let (signing, became) = thread.join().unwrap_or_else(|e| std::panic::resume_unwind(e));
        match self.log.placed(signing, became) {
            Ok(c) => {
                self.has_room();
                self.progress.durable.fetch_max(c.size, Ordering::AcqRel);
                self.progress.signed.store(c.size, Ordering::Release);
                self.metrics.checkpoints.inc();
                Ok(())
            }
            // What is durable stays so, and is signed when there is room.
            Err(e @ LogError::NoSpace { .. }) => {
                self.is_full(&e);
                Ok(())
            }
            Err(e) => Err(e),
        }
    }

    /// There is no room: said once.
    fn is_full(&self, e: &LogError) {
        self.metrics.set_ready(false);
        if !self.progress.full.swap(true, Ordering::AcqRel) {
            tracing::error!("{e}; receipts wait, and actions will be refused");
        }
    }

    /// There is room, perhaps again.
    fn has_room(&self) {
        if self.progress.full.swap(false, Ordering::AcqRel) {
            self.metrics.set_ready(true);
            tracing::info!("the log has room again");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::daemon::batch::Whose;
    use aarm_receipt::canonical::Encoded;
    use aarm_receipt::log::Retention;
    use aarm_receipt::verify::{How, Verdict, verify_dir};
    use aarm_receipt::{Body, Common, Keys, Options, encode};

    const RHYTHM: Rhythm = Rhythm {
        sync: Duration::from_millis(600),
        sync_count: 4096,
        checkpoint: Duration::from_millis(200),
        heartbeat: Duration::from_millis(200),
    };

    struct Nothing;

    impl ReleasePort for Nothing {
        fn release(&self, _: u64) {}
    }

    fn batch(receipts: usize) -> Batch {
        let mut batch = Batch::default();
        let common = Common { time_ns: 1, boot_ns: 1, host: &Encoded::text(b"h"), session: None, seq: None };
        for _ in 0..receipts {
            let stop = Body::Stop { version: "1" };
            batch.push(Whose::NOBODY, 1, 0, Kind::System, |out| encode(&common, &stop, out));
        }
        batch
    }

    /// Writes a log, with nobody who reads the ring.
    fn spawn(
        log: LogWriter,
        metrics: &Arc<Metrics>,
        progress: &Arc<Progress>,
        keeping: Keeping,
    ) -> (mpsc::Sender<Batch>, Thread) {
        let (batches, to_write) = mpsc::channel(QUEUE);
        let sidecar = Sidecar::at(Path::new("/nonexistent"));
        let intake = Intake { batches: to_write, ring: Arc::new(Nothing), keeping, sidecar };
        let (metrics, progress) = (Arc::clone(metrics), Arc::clone(progress));
        let durable = broadcast::channel(1).0;
        let spawned = Writer::spawn(log, RHYTHM, metrics, progress, durable, Pool::default(), intake);
        (batches, spawned.unwrap().0)
    }

    #[test]
    fn what_is_too_much_goes_when_a_signed_receipt_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let open = || {
            let keys = Keys::from_seeds([1; 32], [2; 32]).unwrap();
            LogWriter::open(dir.path(), keys, "w", Options { segment_bytes: 1 << 20 }).unwrap().0
        };
        let mut log = open();
        let mut before = batch(16_000);
        before.iter_mut().for_each(|(_, bytes)| _ = log.append(bytes, true).unwrap());
        log.checkpoint().unwrap();
        let (trusted, size) = (log.trusted().clone(), log.size());
        drop(log);
        let keep = Retention { bytes: Some(2 << 20), ..Retention::default() };
        let metrics = Metrics::new().unwrap();
        let keeping = Keeping::new(keep, true, Encoded::text(b"h"));
        let (batches, thread) = spawn(open(), &metrics, &Arc::default(), keeping);
        let began = Instant::now();
        while metrics.pruned.get() == 0 {
            assert!(began.elapsed() < Duration::from_secs(20), "nothing goes");
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(batches);
        thread.join().unwrap().unwrap();
        let report = verify_dir(dir.path(), &trusted, How::default());
        assert_eq!(report.verdict, Verdict::Intact, "{report}");
        assert_eq!((report.pruned, report.receipts), (metrics.pruned.get(), size + 1));
        assert!(report.pruned > 0 && report.kinds["prune"] == 1, "{report}");
    }

    #[test]
    fn what_is_not_written_any_more_gets_its_index_and_is_compressed() {
        let dir = tempfile::tempdir().unwrap();
        let keys = || Keys::from_seeds([1; 32], [2; 32]).unwrap();
        let open = || LogWriter::open(dir.path(), keys(), "w", Options { segment_bytes: 1 << 20 }).unwrap().0;
        let mut log = open();
        let mut before = batch(10_000);
        before.iter_mut().for_each(|(_, bytes)| _ = log.append(bytes, true).unwrap());
        log.checkpoint().unwrap();
        let trusted = log.trusted().clone();
        drop(log);
        let keeping = Keeping::new(Retention::default(), true, Encoded::text(b"h"));
        let (batches, thread) = spawn(open(), &Metrics::new().unwrap(), &Arc::default(), keeping);
        let began = Instant::now();
        let there = |name: &str| dir.path().join(name).exists();
        while !(there("index/0000000000.idx") && there("segment-0000000000.aarm.zst")) {
            assert!(began.elapsed() < Duration::from_secs(30), "nothing is done for it");
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(batches);
        thread.join().unwrap().unwrap();
        let how = How { index: true, ..How::default() };
        let report = verify_dir(dir.path(), &trusted, how);
        assert_eq!(report.verdict, Verdict::Intact, "{report}");
    }

    /// A checkpoint in between made what was durable so, and those that were not appended yet were forgotten until others came.
    #[test]
    fn a_few_receipts_behind_many_are_durable_soon_though_nothing_follows() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::from_seeds([1; 32], [2; 32]).unwrap();
        let (log, _) = LogWriter::open(dir.path(), keys, "w", Options { segment_bytes: 1 << 20 }).unwrap();
        let progress = Arc::new(Progress::default());
        let keeping = Keeping::new(Retention::default(), false, Encoded::text(b"h"));
        let (batches, thread) = spawn(log, &Metrics::new().unwrap(), &progress, keeping);
        let durable = |wanted: usize| {
            let began = Instant::now();
            while progress.durable.load(Ordering::Acquire) < wanted as u64 {
                assert!(began.elapsed() < Duration::from_secs(10), "{wanted} receipts are not durable");
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        // Something is signed, so that the next checkpoint is for its time to say.
        batches.blocking_send(batch(1)).unwrap();
        durable(1);
        batches.blocking_send(batch(MANY)).unwrap();
        batches.blocking_send(batch(1)).unwrap();
        durable(MANY + 2);
        drop(batches);
        thread.join().unwrap().unwrap();
    }
}
