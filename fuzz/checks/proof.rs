//! What holds for proofs of single receipts, and for what stands in them, whatever the bytes are.
//!
//! Included by the fuzz target and by the test that replays its corpus.

use std::sync::LazyLock;

use aarm_receipt::bundle::BUNDLE_MAX;
use aarm_receipt::note::Checkpoint;
use aarm_receipt::{Bundle, Keys, TrustedKeys};

/// The keys of the corpus's logs.
static TRUSTED: LazyLock<TrustedKeys> = LazyLock::new(|| {
    let keys = Keys::from_seeds([1; 32], [2; 32]).unwrap_or_else(|| panic!("32 bytes are a seed"));
    keys.trusted("aarm.test/log")
});

/// Panics if something does not hold.
pub fn check(input: &[u8]) {
    if let Some(keys) = std::str::from_utf8(input).ok().and_then(TrustedKeys::parse) {
        assert_eq!(TrustedKeys::parse(&keys.to_string()), Some(keys));
    }
    if let Ok(head) = Checkpoint::open(input, &TRUSTED.log) {
        assert_eq!(head.origin, TRUSTED.log.name);
    }
    let Ok(bundle) = Bundle::parse(input) else { return };
    assert!(input.len() <= BUNDLE_MAX);
    // There is one form of each.
    assert_eq!(bundle.to_string().as_bytes(), input);
    if let Ok(proven) = bundle.verify(&TRUSTED) {
        assert!(bundle.index < proven.checkpoint.size);
        assert!(proven.receipt.is_object());
    }
}
