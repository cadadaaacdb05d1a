//! Names of hosts that the daemon gives a session, beside those that its kernel programs learn.

use aarm_common::dns::{HASH_START, NAME_MAX, hashed};
use aarm_common::limits::HOST_NAMES;
use aarm_common::state::{HostKey, HostName, Hosts};
use aya::maps::{HashMap, MapData};

use super::{KernelError, map_error};

/// The names that sessions know addresses by.
pub(super) struct Names(pub HashMap<MapData, Key, Value>);

/// [`HostKey`] for aya.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Key(HostKey);

/// [`Hosts`] for aya.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Value(Hosts);

// SAFETY: repr(C), made of integers only, without padding.
unsafe impl aya::Pod for Key {}
// SAFETY: as above.
unsafe impl aya::Pod for Value {}

impl Names {
    /// Lets a session know an address by a name until then. As with what the programs learn, of two at the same time one may be lost.
    pub(super) fn learn(&mut self, key: HostKey, name: &str, until_ns: u64) -> Result<(), KernelError> {
        let empty = HostName { expires_ns: 0, hash: 0, len: 0, text: [0; NAME_MAX / 8] };
        let mut hosts = match self.0.get(&Key(key), 0) {
            Ok(Value(hosts)) if hosts.key == key => hosts,
            _ => Hosts { key, names: [empty; HOST_NAMES] },
        };
        let (hash, len) = (name.bytes().fold(HASH_START, hashed), name.len() as u64);
        assert!(name.len() <= NAME_MAX, "names are checked before");
        // Its own place, or that of the name that expires first.
        let own = hosts.names.iter().position(|n| (n.hash, n.len) == (hash, len));
        let first = || (0..HOST_NAMES).min_by_key(|i| hosts.names[*i].expires_ns).unwrap_or_default();
        let at = own.unwrap_or_else(first);
        let mut text = [0u64; NAME_MAX / 8];
        for (word, bytes) in text.iter_mut().zip(name.as_bytes().chunks(8)) {
            let mut eight = [0u8; 8];
            eight[..bytes.len()].copy_from_slice(bytes);
            *word = u64::from_ne_bytes(eight);
        }
        hosts.names[at] = HostName { expires_ns: until_ns, hash, len, text };
        self.0.insert(Key(key), Value(hosts), 0).map_err(map_error("HOSTS"))
    }
}
