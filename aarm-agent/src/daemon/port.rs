//! What the core needs of the kernel, as traits, so that it can be tested without one.
//!
//! One implementation is real ([`crate::kernel::Kernel`]); the other is the tests' fake.

use std::os::fd::{BorrowedFd, RawFd};

use aarm_common::hold::{Grant, GrantKey, Hold, Lines};
use aarm_common::limits::POLICY_SLOTS;
use aarm_common::policy::{Hits, Policy};
use aarm_common::state::{Given, HostKey, Redirect, STATS, Session};

use crate::kernel::{EventSource, Kernel, KernelError, Linked, Ring, Waited};

/// Tables, sessions and counters.
pub trait KernelPort: Send {
    /// See [`Kernel::load_policy`].
    fn load_policy(&mut self, slot: u32, policy: &Policy) -> Result<(), KernelError>;
    /// See [`Kernel::clear_policy`].
    fn clear_policy(&mut self, slot: u32) -> Result<(), KernelError>;
    /// See [`Kernel::generations`].
    fn generations(&self) -> Result<[u32; POLICY_SLOTS], KernelError>;
    /// See [`Kernel::given`].
    fn given(&self) -> Result<Given, KernelError>;
    /// See [`Kernel::give`].
    fn give(&mut self, given: Given) -> Result<(), KernelError>;
    /// See [`Kernel::set_agents`].
    fn set_agents(&mut self, enabled: bool) -> Result<(), KernelError>;
    /// See [`Kernel::register`].
    fn register(&mut self, pidfd: BorrowedFd<'_>, policy_slot: u32) -> Result<u64, KernelError>;
    /// See [`Kernel::session`].
    fn session(&self, slot: u32) -> Result<Session, KernelError>;
    /// See [`Kernel::move_session`].
    fn move_session(&mut self, slot: u32, policy_slot: u32) -> Result<(), KernelError>;
    /// See [`Kernel::recycle`].
    fn recycle(&mut self, slot: u32) -> Result<(), KernelError>;
    /// See [`Kernel::session_of`].
    fn session_of(&self, pidfd: BorrowedFd<'_>) -> Result<Option<u64>, KernelError>;
    /// See [`Kernel::remember_links`].
    fn remember_links(&mut self, generation: u32, found: &[(Linked, Hits)]) -> Result<(), KernelError>;
    /// See [`Kernel::forget_links`].
    fn forget_links(&mut self, generation: u32) -> Result<(), KernelError>;
    /// See [`Kernel::forget_inherited`].
    fn forget_inherited(&mut self, session: u64) -> Result<(), KernelError>;
    /// What waits under a key.
    fn hold(&self, key: u64) -> Option<Hold>;
    /// See [`Kernel::holds`].
    fn holds(&self) -> Vec<(u64, Hold)>;
    /// See [`Kernel::answer`].
    fn answer(&mut self, key: u64, since_ns: u64, allow: bool) -> Result<Waited, KernelError>;
    /// Whether something still waits, and was not answered.
    fn is_unanswered(&self, key: u64, since_ns: u64) -> bool;
    /// See [`Kernel::again`].
    fn again(&mut self, key: u64, since_ns: u64) -> Result<Waited, KernelError>;
    /// See [`Kernel::learn`].
    fn learn(&mut self, key: HostKey, name: &str, until_ns: u64) -> Result<(), KernelError>;
    /// See [`Kernel::forget_hold`].
    fn forget_hold(&mut self, key: u64);
    /// See [`Kernel::lines`].
    fn lines(&self, key: u64) -> Option<Lines>;
    /// See [`Kernel::grant`].
    fn grant(&mut self, key: GrantKey, grant: Grant) -> Result<(), KernelError>;
    /// See [`Kernel::revoke_grants`].
    fn revoke_grants(&mut self, session: Option<u64>, now_ns: u64);
    /// See [`Kernel::redirected`].
    fn redirected(&self, inode: u64) -> Option<Redirect>;
    /// See [`Kernel::has_cgroups`].
    fn has_cgroups(&self) -> bool;
    /// See [`Kernel::stats`].
    fn stats(&self) -> Result<[u64; STATS], KernelError>;
}

/// The event ring.
pub trait EventPort: Send {
    /// A descriptor that polls readable when events arrive.
    fn raw_fd(&self) -> RawFd;
    /// Hands up to `limit` records to `f`, while it returns true; returns how many there were.
    fn drain(&mut self, limit: usize, f: &mut dyn FnMut(&[u8]) -> bool) -> usize;
    /// Bytes in the ring that are not released.
    fn fill(&self) -> u64;
    /// Where reading is.
    fn position(&self) -> u64;
}

/// The way back into the ring, for the writer.
pub trait ReleasePort: Send + Sync {
    /// Gives the room up to a position back.
    fn release(&self, position: u64);
}

impl ReleasePort for Ring {
    fn release(&self, position: u64) {
        Self::release(self, position);
    }
}

impl KernelPort for Kernel {
    fn load_policy(&mut self, slot: u32, policy: &Policy) -> Result<(), KernelError> {
        Self::load_policy(self, slot, policy)
    }

    fn clear_policy(&mut self, slot: u32) -> Result<(), KernelError> {
        Self::clear_policy(self, slot)
    }

    fn generations(&self) -> Result<[u32; POLICY_SLOTS], KernelError> {
        Self::generations(self)
    }

    fn given(&self) -> Result<Given, KernelError> {
        Self::given(self)
    }

    fn give(&mut self, given: Given) -> Result<(), KernelError> {
        Self::give(self, given)
    }

    fn set_agents(&mut self, enabled: bool) -> Result<(), KernelError> {
        Self::set_agents(self, enabled)
    }

    fn register(&mut self, pidfd: BorrowedFd<'_>, policy_slot: u32) -> Result<u64, KernelError> {
        Self::register(self, pidfd, policy_slot)
    }

    fn session(&self, slot: u32) -> Result<Session, KernelError> {
        Self::session(self, slot)
    }

    fn move_session(&mut self, slot: u32, policy_slot: u32) -> Result<(), KernelError> {
        Self::move_session(self, slot, policy_slot)
    }

    fn recycle(&mut self, slot: u32) -> Result<(), KernelError> {
        Self::recycle(self, slot)
    }

    fn session_of(&self, pidfd: BorrowedFd<'_>) -> Result<Option<u64>, KernelError> {
        Self::session_of(self, pidfd)
    }

    fn remember_links(&mut self, generation: u32, found: &[(Linked, Hits)]) -> Result<(), KernelError> {
        Self::remember_links(self, generation, found)
    }

    fn forget_links(&mut self, generation: u32) -> Result<(), KernelError> {
        Self::forget_links(self, generation)
    }

    fn forget_inherited(&mut self, session: u64) -> Result<(), KernelError> {
        Self::forget_inherited(self, session)
    }

    fn hold(&self, key: u64) -> Option<Hold> {
        Self::hold(self, key)
    }

    fn holds(&self) -> Vec<(u64, Hold)> {
        Self::holds(self)
    }

    fn answer(&mut self, key: u64, since_ns: u64, allow: bool) -> Result<Waited, KernelError> {
        Self::answer(self, key, since_ns, allow)
    }

    fn forget_hold(&mut self, key: u64) {
        Self::forget_hold(self, key);
    }

    fn is_unanswered(&self, key: u64, since_ns: u64) -> bool {
        Self::is_unanswered(self, key, since_ns)
    }

    fn again(&mut self, key: u64, since_ns: u64) -> Result<Waited, KernelError> {
        Self::again(self, key, since_ns)
    }

    fn learn(&mut self, key: HostKey, name: &str, until_ns: u64) -> Result<(), KernelError> {
        Self::learn(self, key, name, until_ns)
    }

    fn lines(&self, key: u64) -> Option<Lines> {
        Self::lines(self, key)
    }

    fn grant(&mut self, key: GrantKey, grant: Grant) -> Result<(), KernelError> {
        Self::grant(self, key, grant)
    }

    fn revoke_grants(&mut self, session: Option<u64>, now_ns: u64) {
        Self::revoke_grants(self, session, now_ns);
    }

    fn redirected(&self, inode: u64) -> Option<Redirect> {
        Self::redirected(self, inode)
    }

    fn has_cgroups(&self) -> bool {
        Self::has_cgroups(self)
    }

    fn stats(&self) -> Result<[u64; STATS], KernelError> {
        Self::stats(self)
    }
}

impl EventPort for EventSource {
    fn raw_fd(&self) -> RawFd {
        std::os::fd::AsRawFd::as_raw_fd(self)
    }

    fn drain(&mut self, limit: usize, f: &mut dyn FnMut(&[u8]) -> bool) -> usize {
        Self::drain(self, limit, f)
    }

    fn fill(&self) -> u64 {
        Self::fill(self)
    }

    fn position(&self) -> u64 {
        Self::position(self)
    }
}
