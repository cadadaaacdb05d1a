//! The consuming end of the event ring.
//!
//! Reading and releasing are two things here: what was read stays in the ring until [`Ring::release`] is told
//! that its receipts are durable. A daemon that is killed in between leaves the events to the next one. (aya's
//! own reader releases as it reads, so this follows the kernel's protocol itself, see the kernel's
//! `Documentation/bpf/ringbuf.rst`.)

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use aarm_common::limits::{EVENT_MAX, RING_BYTES};
use aya::maps::MapData;

use super::error::KernelError;

/// A record that is still being written.
const BUSY: u32 = 1 << 31;
/// A record that was given up.
const DISCARDED: u32 = 1 << 30;
/// Bytes before each record.
const HEADER: u64 = 8;
const SIZE: usize = RING_BYTES as usize;

/// The ring's memory: the consumer's position, the producer's, and the data, mapped twice in a row so that a
/// record never wraps.
pub struct Ring {
    consumer: NonNull<u8>,
    producer: NonNull<u8>,
    page: usize,
}

// SAFETY: positions are accessed through atomics; data is only read, below the producer's position.
unsafe impl Send for Ring {}
// SAFETY: as above.
unsafe impl Sync for Ring {}

impl Ring {
    fn map(fd: RawFd) -> Result<Self, KernelError> {
        // SAFETY: sysconf has no preconditions.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
        let map = |length: usize, protection: libc::c_int, offset: usize| {
            // SAFETY: a fresh shared mapping of the ring's own pages.
            let p = unsafe {
                libc::mmap(
                    std::ptr::null_mut(),
                    length,
                    protection,
                    libc::MAP_SHARED,
                    fd,
                    offset as libc::off_t,
                )
            };
            if p == libc::MAP_FAILED {
                return Err(KernelError::io("cannot map the event ring")(std::io::Error::last_os_error()));
            }
            NonNull::new(p.cast::<u8>()).ok_or(KernelError::Slot(0))
        };
        let consumer = map(page, libc::PROT_READ | libc::PROT_WRITE, 0)?;
        match map(page + 2 * SIZE, libc::PROT_READ, page) {
            Ok(producer) => Ok(Self { consumer, producer, page }),
            Err(e) => {
                // SAFETY: the mapping made above.
                unsafe { libc::munmap(consumer.as_ptr().cast(), page) };
                Err(e)
            }
        }
    }

    fn consumed(&self) -> &AtomicU64 {
        // SAFETY: the page begins with an aligned 64-bit position, and lives as long as `self`.
        unsafe { AtomicU64::from_ptr(self.consumer.as_ptr().cast()) }
    }

    fn produced(&self) -> u64 {
        // SAFETY: as above; the page is mapped read-only and only read.
        unsafe { AtomicU64::from_ptr(self.producer.as_ptr().cast()).load(Ordering::Acquire) }
    }

    /// Gives the room up to a position back. What was read up to there is durable.
    pub fn release(&self, position: u64) {
        self.consumed().fetch_max(position, Ordering::AcqRel);
    }

    /// Bytes that are not released yet.
    fn fill(&self) -> u64 {
        self.produced().saturating_sub(self.consumed().load(Ordering::Acquire))
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mappings made in `map`.
        unsafe {
            libc::munmap(self.consumer.as_ptr().cast(), self.page);
            libc::munmap(self.producer.as_ptr().cast(), self.page + 2 * SIZE);
        }
    }
}

/// The reader. There is one.
pub struct EventSource {
    map: MapData,
    ring: Arc<Ring>,
    read: u64,
}

impl EventSource {
    /// Opens the ring where a former reader has released it.
    pub fn open(map: MapData) -> Result<Self, KernelError> {
        let ring = Ring::map(map.fd().as_fd().as_raw_fd())?;
        let read = ring.consumed().load(Ordering::Acquire);
        Ok(Self { map, ring: Arc::new(ring), read })
    }

    /// Hands up to `limit` records to `f`, while it returns true; returns how many there were. They are not
    /// released.
    pub fn drain(&mut self, limit: usize, mut f: impl FnMut(&[u8]) -> bool) -> usize {
        let mut n = 0;
        let mut produced = self.ring.produced();
        let mut more = true;
        while more && n < limit {
            if self.read >= produced {
                produced = self.ring.produced();
                if self.read >= produced {
                    break;
                }
            }
            let at = (self.read as usize) & (SIZE - 1);
            // SAFETY: below the producer's position there is a record; its header is aligned to 8 bytes, and the
            // data area is mapped twice, so that header and record lie inside the mapping.
            let (word, data) = unsafe {
                let data = self.ring.producer.as_ptr().add(self.ring.page + at);
                (AtomicU32::from_ptr(data.cast()).load(Ordering::Acquire), data.add(HEADER as usize))
            };
            if word & BUSY != 0 {
                break;
            }
            let length = (word & !DISCARDED) as usize;
            if word & DISCARDED == 0 {
                // A record of ours is never longer; what is longer is shown cut, and so cannot be decoded.
                let shown = length.min(EVENT_MAX);
                // SAFETY: inside the record, which nobody writes any more and nobody reuses before its release.
                more = f(unsafe { std::slice::from_raw_parts(data, shown) });
                n += 1;
            }
            self.read += (HEADER + length as u64).next_multiple_of(8);
        }
        n
    }

    /// Where reading is: what to release once everything read so far is durable.
    pub fn position(&self) -> u64 {
        self.read
    }

    /// For whoever releases.
    pub fn ring(&self) -> Arc<Ring> {
        Arc::clone(&self.ring)
    }

    /// Bytes in the ring that are not released.
    pub fn fill(&self) -> u64 {
        self.ring.fill()
    }
}

impl AsRawFd for EventSource {
    fn as_raw_fd(&self) -> RawFd {
        self.map.fd().as_fd().as_raw_fd()
    }
}
