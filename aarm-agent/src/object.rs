//! The embedded kernel objects.

/// The kernel programs; empty if this program was built without them.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/aarm.bpf.o"));
/// Empty programs on the same hooks, for probing and benchmarks.
pub static FLOOR: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/floor.bpf.o"));
