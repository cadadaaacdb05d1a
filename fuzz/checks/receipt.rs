//! What holds for a receipt that is read, whatever the bytes are.
//!
//! Included by the fuzz target and by the test that replays its corpus.

use aarm_receipt::{MAX_RECEIPT, canonical, receipt};

/// Panics if something does not hold.
pub fn check(input: &[u8]) {
    let Ok(value) = receipt::parse(input) else { return };
    assert!(input.len() <= MAX_RECEIPT && input.is_ascii());
    assert_eq!(value["v"], receipt::SCHEMA);
    assert!(
        value["kind"].as_str().is_some_and(|kind| receipt::schema::SCHEMAS.iter().any(|k| k.name == kind))
    );
    // There is one form of each.
    let mut again = Vec::new();
    assert!(canonical::reencode(&value, &mut again).is_ok());
    assert_eq!(again, input);
}
