//! The archive of the log: brought to where the log is every so often, by a thread of its own that gives way to all others.
//!
//! Nothing waits for it, but for pruning, if what is not archived must stay. Must never: hold up the log; take a receipt for archived before it
//! was read back.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aarm_receipt::TrustedKeys;
use aarm_receipt::archive::{self, ArchiveError, Copied};

use super::config;
use super::record::timestamp;
use super::retention::give_way;
use super::writer::Progress;
use crate::api::types::ArchiveStatus;
use crate::metrics::Metrics;
use crate::store::{self, Store, StoreError};

/// So often the time until the next try is doubled while they fail.
const DOUBLINGS: u32 = 3;

/// What there is of the archive, for whoever asks.
pub struct Board(Mutex<ArchiveStatus>);

impl Board {
    /// As it is now.
    pub fn status(&self) -> ArchiveStatus {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, ArchiveStatus> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why nothing was archived.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}

impl Trouble {
    fn reason(&self) -> &'static str {
        match self {
            Self::Store(_) => "store",
            Self::Archive(e) => e.reason(),
        }
    }
}

/// A log, and where it is archived.
pub struct Archiving {
    /// Where.
    pub to: config::Archive,
    /// The log's directory.
    pub log: PathBuf,
    /// Its keys.
    pub trusted: TrustedKeys,
    /// Told what was archived.
    pub progress: Arc<Progress>,
    /// Told what was archived, and what could not be.
    pub metrics: Arc<Metrics>,
}

/// Archives until the process ends. The configuration was checked.
pub fn begin(mut archiving: Archiving) -> std::io::Result<Arc<Board>> {
    archiving.to.url = store::of_log(&archiving.to.url, archiving.trusted.origin());
    let status = ArchiveStatus { url: archiving.to.url.clone(), ..ArchiveStatus::default() };
    let board = Arc::new(Board(Mutex::new(status)));
    let shown = Arc::clone(&board);
    std::thread::Builder::new().name("aarm-archive".into()).spawn(move || {
        give_way();
        archiving.run(&shown);
    })?;
    Ok(board)
}

impl Archiving {
    fn run(&self, board: &Board) {
        let every = Duration::from_secs(self.to.every_s);
        let mut store = None;
        let mut failed = 0;
        loop {
            let result = self.once(&mut store);
            self.show(board, &result);
            failed = if result.is_ok() { 0 } else { (failed + 1).min(DOUBLINGS) };
            std::thread::sleep(every * (1 << failed));
        }
    }

    /// Brings it to where the log is. `None`: there is nothing yet to archive.
    fn once(&self, store: &mut Option<Store>) -> Result<Option<Copied>, Trouble> {
        if !self.log.join("checkpoint").exists() {
            return Ok(None);
        }
        let store = match store {
            Some(store) => store,
            none => none.insert(Store::create(&self.to.url)?),
        };
        Ok(Some(archive::copy(&self.log.as_path(), store, &self.trusted, &|_, _| {})?))
    }

    /// Says what has changed.
    fn show(&self, board: &Board, result: &Result<Option<Copied>, Trouble>) {
        let mut status = board.lock();
        match result {
            Ok(None) => {}
            Ok(Some(copied)) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                self.progress.archived.store(copied.receipts, Ordering::Release);
                self.metrics.archived(&self.to.url, copied.receipts, now.as_secs());
                if status.at.is_none() || status.problem.is_some() {
                    tracing::info!("{} has {} receipts", self.to.url, copied.receipts);
                }
                status.receipts = copied.receipts;
                status.at = Some(timestamp(now.as_secs() * 1_000_000_000));
                status.problem = None;
            }
            Err(e) => {
                self.metrics.not_archived(&self.to.url, e.reason());
                let problem = Some(format!("not archived: {e}"));
                // Said once: what follows from it may be said in other words each time.
                if status.problem.is_none() {
                    tracing::error!("{}", problem.as_deref().unwrap_or_default());
                }
                status.problem = problem;
            }
        }
    }
}
