//! What a session did last, for people who are asked about what it does next.
//!
//! Noted for every action, and read only when something waits; so it is a copy of a few bytes into a place that is there. All of it
//! is in the log: this is the short form.

use std::net::SocketAddr;

use aarm_common::event::Event;
use aarm_common::op::{Decision, Operation};

use super::record;

/// How many are remembered.
pub const PRIOR: usize = 8;
/// Most bytes of an object's name; of a longer one the end is kept, which says more.
const NAME: usize = 80;

/// One action.
#[derive(Clone, Copy, Debug)]
pub struct Prior {
    /// Boot-time nanoseconds.
    pub time_ns: u64,
    /// What was done.
    pub op: Operation,
    /// What it got.
    pub decision: Decision,
    /// The rule, by its index.
    pub rule: Option<u16>,
    /// Number of the policy's compilation.
    pub generation: u32,
    address: Option<SocketAddr>,
    len: u8,
    cut: bool,
    name: [u8; NAME],
}

impl Prior {
    /// The object: a path, or an address and port.
    pub fn object(&self) -> String {
        if let Some(address) = self.address {
            return address.to_string();
        }
        let name = String::from_utf8_lossy(&self.name[..self.len as usize]);
        if self.cut { format!("…{name}") } else { name.into_owned() }
    }
}

/// The last ones.
#[derive(Clone, Debug, Default)]
pub struct History {
    all: Vec<Prior>,
    next: usize,
}

impl History {
    /// Notes an action.
    #[inline]
    pub fn note(&mut self, e: &Event<'_>) {
        let mut name = [0; NAME];
        let from = e.path.len().saturating_sub(NAME);
        let len = e.path.len() - from;
        name[..len].copy_from_slice(&e.path[from..]);
        let prior = Prior {
            time_ns: e.header.time_ns,
            op: e.op,
            decision: e.decision,
            rule: e.rule,
            generation: e.header.policy,
            address: if e.op.has_address() { record::reached(e) } else { None },
            len: len as u8,
            cut: from > 0,
            name,
        };
        if self.all.len() < PRIOR {
            self.all.push(prior);
        } else {
            self.all[self.next] = prior;
        }
        self.next = (self.next + 1) % PRIOR;
    }

    /// The last ones, oldest first.
    pub fn last(&self) -> impl Iterator<Item = &Prior> {
        let at = if self.all.len() < PRIOR { 0 } else { self.next };
        self.all[at..].iter().chain(&self.all[..at])
    }
}

const _: () = assert!(NAME <= u8::MAX as usize);

#[cfg(test)]
mod tests {
    use super::*;
    use aarm_common::ABI_VERSION;
    use aarm_common::event::{Cause, EventHeader, HEADER_BYTES, Kind, NO_RULE};

    #[test]
    fn the_last_are_kept_in_order_with_the_ends_of_long_names() {
        let mut history = History::default();
        for n in 0..PRIOR + 3 {
            let path = format!("/{}/{n}", "d".repeat(n * 8));
            let header = EventHeader {
                version: ABI_VERSION,
                kind: Kind::Action as u8,
                op: Operation::OpenRead as u8,
                facet: Operation::OpenRead as u8,
                decision: Decision::Allow as u8,
                cause: Cause::Default as u8,
                rule: NO_RULE,
                len: (HEADER_BYTES + path.len()) as u32,
                path_len: path.len() as u16,
                time_ns: n as u64,
                ..EventHeader::default()
            };
            let mut bytes = vec![0u8; HEADER_BYTES];
            // SAFETY: there is room for a header, which is integers only.
            unsafe { bytes.as_mut_ptr().cast::<EventHeader>().write_unaligned(header) };
            bytes.extend_from_slice(path.as_bytes());
            history.note(&Event::decode(&bytes).unwrap());
        }
        let times: Vec<u64> = history.last().map(|p| p.time_ns).collect();
        assert_eq!(times, (3..PRIOR as u64 + 3).collect::<Vec<_>>());
        let first = history.last().next().unwrap().object();
        assert_eq!(first, format!("/{}/3", "d".repeat(24)));
        let last = history.last().last().unwrap().object();
        assert!(
            last.starts_with('…')
                && last.ends_with(&format!("d/{}", PRIOR + 2))
                && last.len() == NAME + '…'.len_utf8(),
            "{last}"
        );
    }
}
