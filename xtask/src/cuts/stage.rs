//! Where a guest and its disks meet who plays the loss of power: two disks, served from memory.
//!
//! ```text
//! vda  the disk, which becomes another one with each task
//! vdb  the line: a sector written at 0 is a line of text that the guest says,
//!      a sector read at 512 KiB is a task that it asks for, and is answered when there is one
//! ```
//! Both are behind one lock: a line has its place among what the disk was told. A guest that says a line when a system call has returned has
//! said it after all that the call has had done. Must never: change the disk while the guest may use it.

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::disk::{Disk, Fault, History};
use super::nbd::{self, Device, Refused, SECTOR};
use crate::vm::Machine;

/// Bytes of the line, and where tasks are read.
const LINE: u64 = 1 << 20;
const TASK: u64 = LINE / 2;
/// How long is waited at a time, and how often until something is said. A host that stops both sides for a while does not count.
const TURN: Duration = Duration::from_millis(100);
const TURNS: u32 = 1800;

struct State {
    disk: Disk,
    /// Lines said, and tasks asked for: what shows that the guest goes on.
    heard: u64,
    /// It waits for a task.
    asks: bool,
    task: Option<String>,
    /// Serving has ended in a way it should not.
    broken: Option<String>,
    /// Nobody gives tasks any more.
    over: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// vda.
struct Storage(Arc<Shared>);

impl Device for Storage {
    fn size(&self) -> u64 {
        self.0.lock().disk.size()
    }
    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Refused> {
        self.0.lock().disk.read(at, into)
    }
    fn write(&self, at: u64, bytes: &[u8]) -> Result<(), Refused> {
        self.0.lock().disk.write(at, bytes)
    }
    fn flush(&self) -> Result<(), Refused> {
        self.0.lock().disk.flush()
    }
}

/// vdb.
struct Line(Arc<Shared>);

impl Device for Line {
    fn size(&self) -> u64 {
        LINE
    }

    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Refused> {
        into.fill(0);
        // A kernel looks for partitions, elsewhere.
        if at != TASK {
            return Ok(());
        }
        let mut state = self.0.lock();
        state.asks = true;
        state.heard += 1;
        self.0.changed.notify_all();
        let task = loop {
            match state.task.take() {
                Some(task) => break task,
                None if state.over => return Err(Refused::Io),
                None => state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        };
        state.asks = false;
        into[..task.len()].copy_from_slice(task.as_bytes());
        Ok(())
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<(), Refused> {
        if at != 0 || bytes.len() != SECTOR {
            return Err(Refused::Invalid);
        }
        let line = String::from_utf8_lossy(bytes);
        let mut state = self.0.lock();
        state.disk.said(line.trim_end_matches('\0').to_owned());
        state.heard += 1;
        self.0.changed.notify_all();
        Ok(())
    }

    fn flush(&self) -> Result<(), Refused> {
        Ok(())
    }
}

fn has_said(state: &State, word: &str) -> bool {
    let history = &state.disk.history;
    history.said(history.events.len()).any(|(_, line)| line.split(' ').next() == Some(word))
}

/// Both disks.
pub struct Stage {
    shared: Arc<Shared>,
    /// Where they are served, in order.
    pub sockets: Vec<PathBuf>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        // The thread that waits for a task ends as well.
        self.shared.lock().over = true;
        self.shared.changed.notify_all();
    }
}

impl Stage {
    /// Serves a disk of so many bytes, and the line, in a directory.
    pub fn new(dir: &Path, bytes: usize) -> Result<Self> {
        let disk = Disk::of(vec![0; bytes], 0);
        let state = State { disk, heard: 0, asks: false, task: None, broken: None, over: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let mut stage = Self { shared: Arc::clone(&shared), sockets: Vec::new() };
        stage.serve(dir.join("vda"), Storage(Arc::clone(&shared)))?;
        stage.serve(dir.join("vdb"), Line(shared))?;
        Ok(stage)
    }

    /// Serves one client in a thread of its own, which ends with it.
    fn serve(&mut self, socket: PathBuf, device: impl Device + Send + 'static) -> Result<()> {
        let listener = UnixListener::bind(&socket).with_context(|| socket.display().to_string())?;
        let shared = Arc::clone(&self.shared);
        self.sockets.push(socket);
        std::thread::Builder::new().name("disk".into()).spawn(move || {
            let served =
                listener.accept().map_err(Into::into).and_then(|(stream, _)| nbd::serve(stream, &device));
            if let Err(e) = served {
                shared.lock().broken.get_or_insert(format!("{e:#}"));
                shared.changed.notify_all();
            }
        })?;
        Ok(())
    }

    /// Waits until the guest has come to something.
    fn until(&self, machine: &mut Machine, has: impl Fn(&State) -> bool) -> Result<MutexGuard<'_, State>> {
        let mut state = self.shared.lock();
        let (mut heard, mut silent) = (state.heard, 0);
        while !has(&state) {
            ensure!(state.broken.is_none(), "the disk: {}", state.broken.as_deref().unwrap_or_default());
            let ended = machine.has_ended()?;
            ensure!(!ended, "the machine ended by itself\n{}", machine.tail());
            let waited = self.shared.changed.wait_timeout(state, TURN);
            let (now, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            state = now;
            silent = if state.heard == heard { silent + u32::from(timeout.timed_out()) } else { 0 };
            heard = state.heard;
            ensure!(silent < TURNS, "it says nothing for {:?}\n{}", TURN * TURNS, machine.tail());
        }
        Ok(state)
    }

    /// Waits until the guest asks for a task.
    pub fn until_asked(&self, machine: &mut Machine) -> Result<()> {
        self.until(machine, |state| state.asks).map(drop)
    }

    /// Waits until the guest has said a word, or asks for a task without having said it: false.
    pub fn until_said(&self, machine: &mut Machine, word: &str) -> Result<bool> {
        self.until(machine, |state| state.asks || has_said(state, word)).map(|state| has_said(&state, word))
    }

    /// Whether the guest has said a word since it was given the disk.
    pub fn has_said(&self, word: &str) -> bool {
        has_said(&self.shared.lock(), word)
    }

    /// Gives the guest, which asks for it, a task with another disk.
    pub fn give(&self, image: Vec<u8>, seed: u64, task: &str) {
        let mut state = self.shared.lock();
        assert!(state.asks, "the disk is nobody's");
        state.disk = Disk::of(image, seed);
        drop(state);
        self.answer(task);
    }

    /// Gives the guest, which asks for it, a task with the disk that it has.
    pub fn answer(&self, task: &str) {
        assert!(task.len() <= SECTOR, "a sector");
        let mut state = self.shared.lock();
        assert!(state.asks && state.task.is_none());
        state.asks = false;
        state.task = Some(task.to_owned());
        self.shared.changed.notify_all();
    }

    /// Has the disk fail in something, or in nothing any more.
    pub fn fail(&self, fault: Option<Fault>) {
        self.shared.lock().disk.fail(fault);
    }

    /// All that the guest has said since it was given the disk.
    pub fn said(&self) -> Vec<String> {
        let state = self.shared.lock();
        let history = &state.disk.history;
        history.said(history.events.len()).map(|(_, line)| line.to_owned()).collect()
    }

    /// What has come since the disk was given, if the guest has looked at it at all. It is nobody's until the next is given.
    pub fn history(&self) -> Result<History> {
        let mut state = self.shared.lock();
        assert!(state.asks, "the guest may use it");
        ensure!(state.disk.was_read, "the guest has not read the disk that it was given");
        Ok(std::mem::replace(&mut state.disk.history, History::of(Vec::new())))
    }
}

#[cfg(test)]
mod tests {
    use super::super::disk::Event;
    use super::*;

    fn shared() -> Arc<Shared> {
        let disk = Disk::of(vec![0; 4096], 0);
        let state = State { disk, heard: 0, asks: false, task: None, broken: None, over: false };
        Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() })
    }

    fn sector(text: &str) -> Vec<u8> {
        let mut bytes = text.as_bytes().to_vec();
        bytes.resize(SECTOR, 0);
        bytes
    }

    #[test]
    fn a_line_has_its_place_among_what_the_disk_was_told() {
        let shared = shared();
        let (storage, line) = (Storage(Arc::clone(&shared)), Line(Arc::clone(&shared)));
        storage.write(0, &[1; SECTOR]).unwrap();
        storage.flush().unwrap();
        line.write(0, &sector("durable 7")).unwrap();
        storage.write(512, &[2; SECTOR]).unwrap();
        assert_eq!(line.write(512, &sector("durable 8")), Err(Refused::Invalid), "not where lines are");
        let events = shared.lock().disk.history.events.clone();
        let write = |at, byte| Event::Write(at, vec![byte; SECTOR].into());
        assert_eq!(events, [write(0, 1), Event::Flush, Event::Said("durable 7".into()), write(512, 2)]);
    }

    #[test]
    fn who_asks_waits_for_a_task_and_who_looks_for_partitions_does_not() {
        let shared = shared();
        let line = Line(Arc::clone(&shared));
        let mut read = sector("x");
        line.read(0, &mut read).unwrap();
        assert_eq!(read, sector(""));
        let stage = Stage { shared: Arc::clone(&shared), sockets: Vec::new() };
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| {
                let (mut one, mut other) = (sector(""), sector(""));
                let asked = (line.read(TASK, &mut one), line.read(TASK, &mut other));
                (asked, one)
            });
            while !shared.lock().asks {
                std::thread::yield_now();
            }
            stage.give(vec![3; 1024], 1, "go");
            assert_eq!(shared.lock().disk.size(), 1024);
            while !shared.lock().asks {
                std::thread::yield_now();
            }
            assert!(stage.history().is_err(), "nobody has read the disk");
            drop(stage);
            assert_eq!(asking.join().unwrap(), ((Ok(()), Err(Refused::Io)), sector("go")));
        });
    }
}
