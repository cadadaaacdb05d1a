//! The consuming end of the event ring.

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};

use aya::maps::{Map, MapData, RingBuf};

use super::error::KernelError;

/// The event ring. There is one reader.
pub struct EventSource {
    ring: RingBuf<MapData>,
    consumer: *mut libc::c_void,
    producer: *mut libc::c_void,
    page: usize,
}

// SAFETY: the raw pointers are shared mappings read through atomics only.
unsafe impl Send for EventSource {}

impl EventSource {
    /// Opens the ring.
    pub fn open(map: MapData) -> Result<Self, KernelError> {
        // SAFETY: sysconf has no preconditions.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
        let fd = map.fd().as_fd().as_raw_fd();
        let view = |offset: usize| {
            // SAFETY: a fresh read-only mapping of one of the ring's position pages.
            let p = unsafe {
                libc::mmap(
                    std::ptr::null_mut(),
                    page,
                    libc::PROT_READ,
                    libc::MAP_SHARED,
                    fd,
                    offset as libc::off_t,
                )
            };
            if p == libc::MAP_FAILED {
                Err(KernelError::io("cannot map the event ring")(std::io::Error::last_os_error()))
            } else {
                Ok(p)
            }
        };
        let (consumer, producer) = (view(0)?, view(page)?);
        let ring = RingBuf::try_from(Map::RingBuf(map))
            .map_err(|source| KernelError::Map { map: "EVENTS", source })?;
        Ok(Self { ring, consumer, producer, page })
    }

    /// Hands up to `limit` records to `f`; returns how many there were.
    pub fn drain(&mut self, limit: usize, mut f: impl FnMut(&[u8])) -> usize {
        let mut n = 0;
        while n < limit {
            let Some(record) = self.ring.next() else { break };
            f(&record);
            n += 1;
        }
        n
    }

    /// Bytes in the ring that wait to be read.
    pub fn fill(&self) -> u64 {
        // SAFETY: both mappings are live and hold an aligned 64-bit position each.
        unsafe {
            let consumer = AtomicU64::from_ptr(self.consumer.cast()).load(Ordering::Acquire);
            let producer = AtomicU64::from_ptr(self.producer.cast()).load(Ordering::Acquire);
            producer.saturating_sub(consumer)
        }
    }
}

impl AsRawFd for EventSource {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

impl Drop for EventSource {
    fn drop(&mut self) {
        // SAFETY: the mappings made in `open`.
        unsafe {
            libc::munmap(self.consumer, self.page);
            libc::munmap(self.producer, self.page);
        }
    }
}
