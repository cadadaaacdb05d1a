//! The session table as the daemon sees it: the pages of the `SESSIONS` map itself.
//!
//! Programs count tasks in a slot while the daemon moves it to another policy, so the daemon must change
//! single fields, never write a whole slot that is in use.

use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use aarm_common::limits::{SESSIONS, WATCHES};
use aarm_common::op::OPERATIONS;
use aarm_common::state::Session;
use aya::maps::MapData;

use super::error::KernelError;

const BYTES: usize = SESSIONS * size_of::<Session>();

/// The mapped table.
pub struct SessionTable {
    base: NonNull<Session>,
}

// SAFETY: the table is shared memory, accessed only through atomics.
unsafe impl Send for SessionTable {}

impl SessionTable {
    /// Maps the `SESSIONS` map.
    pub fn map(map: &MapData) -> Result<Self, KernelError> {
        // SAFETY: a fresh shared mapping of the map's own size.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                std::os::fd::AsFd::as_fd(map.fd()).as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(KernelError::io("cannot map the session table")(std::io::Error::last_os_error()));
        }
        NonNull::new(base.cast()).map(|base| Self { base }).ok_or(KernelError::Slot(0))
    }

    fn slot(&self, slot: u32) -> Result<*mut Session, KernelError> {
        if slot as usize >= SESSIONS {
            return Err(KernelError::Slot(slot));
        }
        // SAFETY: inside the mapping, checked above.
        Ok(unsafe { self.base.as_ptr().add(slot as usize) })
    }

    /// A field of a slot as an atomic.
    fn u32(field: *mut u32) -> &'static AtomicU32 {
        // SAFETY: the mapping lives as long as the process uses the table, and the field is aligned.
        unsafe { AtomicU32::from_ptr(field) }
    }

    fn u64(field: *mut u64) -> &'static AtomicU64 {
        // SAFETY: as above.
        unsafe { AtomicU64::from_ptr(field) }
    }

    /// A slot's content, without what history conditions count. Fields change while it is read; each is whole.
    pub fn get(&self, slot: u32) -> Result<Session, KernelError> {
        let s = self.slot(slot)?;
        // SAFETY: field pointers inside a valid slot.
        unsafe {
            Ok(Session {
                generation: Self::u32(&raw mut (*s).generation).load(Ordering::Acquire),
                policy: Self::u32(&raw mut (*s).policy).load(Ordering::Acquire),
                tasks: Self::u64(&raw mut (*s).tasks).load(Ordering::Acquire),
                flags: Self::u32(&raw mut (*s).flags).load(Ordering::Acquire),
                shares: Self::u32(&raw mut (*s).shares).load(Ordering::Acquire),
                refused: Self::u64(&raw mut (*s).refused).load(Ordering::Acquire),
                started_ns: Self::u64(&raw mut (*s).started_ns).load(Ordering::Acquire),
                labels: Self::u64(&raw mut (*s).labels).load(Ordering::Acquire),
                summary: std::array::from_fn(|i| Self::u64(&raw mut (*s).summary[i]).load(Ordering::Acquire)),
                ..Session::default()
            })
        }
    }

    /// Takes a free slot for a session of one task; returns its new generation.
    pub fn begin(&self, slot: u32, policy: u32, started_ns: u64) -> Result<u32, KernelError> {
        let s = self.slot(slot)?;
        // SAFETY: as above.
        unsafe {
            let generation = Self::u32(&raw mut (*s).generation);
            let next = generation.load(Ordering::Acquire).wrapping_add(1).max(1);
            Self::u32(&raw mut (*s).policy).store(policy, Ordering::Relaxed);
            Self::u32(&raw mut (*s).flags).store(0, Ordering::Relaxed);
            Self::u32(&raw mut (*s).shares).store(0, Ordering::Relaxed);
            Self::u64(&raw mut (*s).refused).store(0, Ordering::Relaxed);
            Self::u64(&raw mut (*s).tasks).store(1, Ordering::Relaxed);
            Self::u64(&raw mut (*s).started_ns).store(started_ns, Ordering::Relaxed);
            Self::u64(&raw mut (*s).labels).store(0, Ordering::Relaxed);
            for i in 0..OPERATIONS {
                Self::u64(&raw mut (*s).summary[i]).store(0, Ordering::Relaxed);
            }
            for i in 0..WATCHES {
                Self::u64(&raw mut (*s).counters[i].key).store(0, Ordering::Relaxed);
            }
            generation.store(next, Ordering::Release);
            Ok(next)
        }
    }

    /// Moves a session to another policy slot.
    pub fn set_policy(&self, slot: u32, policy: u32) -> Result<(), KernelError> {
        let s = self.slot(slot)?;
        // SAFETY: as above.
        unsafe { Self::u32(&raw mut (*s).policy).store(policy, Ordering::Release) };
        Ok(())
    }

    /// Marks a slot as free.
    pub fn clear(&self, slot: u32) -> Result<(), KernelError> {
        let s = self.slot(slot)?;
        // SAFETY: as above.
        unsafe {
            Self::u64(&raw mut (*s).tasks).store(0, Ordering::Relaxed);
            Self::u32(&raw mut (*s).flags).store(0, Ordering::Release);
        }
        Ok(())
    }
}

impl Drop for SessionTable {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `map`; no reference to it outlives the methods above.
        unsafe { libc::munmap(self.base.as_ptr().cast(), BYTES) };
    }
}
