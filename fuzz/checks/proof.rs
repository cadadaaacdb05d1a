//! What holds for proofs of receipts and of sessions, for what witnesses are asked and say, and for what stands in all of them, whatever the
//! bytes are.
//!
//! Included by the fuzz target and by the test that replays its corpus.

use std::sync::LazyLock;

use aarm_receipt::bundle::BUNDLE_MAX;
use aarm_receipt::cosign::{COSIGNERS_MAX, CosignerKey};
use aarm_receipt::witness::{REQUEST_MAX, Request};
use aarm_receipt::witnessed::Witnessed;
use aarm_receipt::{Bundle, Keys, TrustedKeys, history};

/// The keys of the corpus's logs.
static TRUSTED: LazyLock<TrustedKeys> = LazyLock::new(|| {
    let keys = Keys::from_seeds([1; 32], [2; 32]).unwrap_or_else(|| panic!("32 bytes are a seed"));
    keys.trusted("aarm.test/log")
});

/// The key of the corpus's witness.
static WITNESS: LazyLock<CosignerKey> = LazyLock::new(|| CosignerKey::new("witness.test/a", WITNESS_KEY));
/// Public key of the seed of 32 threes.
const WITNESS_KEY: [u8; 32] = [
    237, 73, 40, 198, 40, 209, 194, 198, 234, 233, 3, 56, 144, 89, 149, 97, 41, 89, 39, 58, 92, 99, 249, 54,
    54, 193, 70, 20, 172, 135, 55, 209,
];

/// Panics if something does not hold.
pub fn check(input: &[u8]) {
    witnesses(input);
    sessions(input);
    if let Some(keys) = std::str::from_utf8(input).ok().and_then(TrustedKeys::parse) {
        assert_eq!(TrustedKeys::parse(&keys.to_string()), Some(keys));
    }
    if let Ok(head) = TRUSTED.open(input) {
        assert_eq!(head.origin, TRUSTED.origin());
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

fn witnesses(input: &[u8]) {
    if let Some(keys) = std::str::from_utf8(input).ok().and_then(CosignerKey::parse_all) {
        assert!((1..=COSIGNERS_MAX).contains(&keys.len()));
        assert!(keys.iter().all(|key| CosignerKey::parse(&key.to_string()).as_ref() == Some(key)));
    }
    if let Some(request) = Request::parse(input) {
        assert!(input.len() <= REQUEST_MAX);
        assert_eq!(request.to_string().as_bytes(), input);
    }
    if let Ok(found) = Witnessed::open(input, &TRUSTED, &WITNESS) {
        assert_eq!(found.note.as_bytes(), input);
        // Both parts again, and nothing else.
        let again = Witnessed::join(&found.note, "", &TRUSTED, &WITNESS);
        assert_eq!(again.ok(), Some(found));
    }
}

fn sessions(input: &[u8]) {
    let Ok(found) = history::verify(input, &TRUSTED) else { return };
    assert!(found.index < found.checkpoint.size);
    assert!(found.kinds.values().sum::<u64>() > 0);
}
