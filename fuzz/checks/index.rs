//! What holds for a segment's index, whatever the bytes are.
//!
//! Included by the fuzz target and by the test that replays its corpus.

use aarm_receipt::index::{Index, Wanted};

/// Panics if something does not hold.
pub fn check(input: &[u8]) {
    // The sum keeps out what is damaged by chance, and not who makes it right.
    let with_sum = || {
        let mut bytes = input.to_vec();
        let at = bytes.len().checked_sub(4)?;
        let sum = crc32c::crc32c(&bytes[..at]).to_le_bytes();
        bytes[at..].copy_from_slice(&sum);
        Index::parse(&bytes)
    };
    for index in [Index::parse(input), with_sum()].into_iter().flatten() {
        assert!(index.may_have(&Wanted::default()));
        for text in ["", "/", "/home", "\u{7f}", "0000000000000001"] {
            let text = Some(text.to_owned());
            _ = index.may_have(&Wanted { session: text.clone(), path: text.clone(), ..Wanted::default() });
            _ = index.may_have(&Wanted { since: text.clone(), until: text, ..Wanted::default() });
        }
    }
}
