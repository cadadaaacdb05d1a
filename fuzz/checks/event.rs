//! What holds for `Event::decode` whatever the bytes are.
//!
//! Included by the fuzz target and by the test that replays its corpus.

use aarm_common::event::{Cause, DecodeError, Event, EventHeader, GAP_MAX, HEADER_BYTES, Kind, NO_RULE};
use aarm_common::limits::{ARGS_MAX, EVENT_MAX, MAX_RULES, PATH_MAX};
use aarm_common::{ABI_VERSION, Decision, Operation};
use std::mem::offset_of;

/// Panics if something does not hold: of the bytes as they are, and with the version and length that they should have, so that what is
/// in the corpus does not end at either when the version changes.
pub fn check(input: &[u8]) {
    as_it_is(input);
    let mut made = input.to_vec();
    if made.len() >= HEADER_BYTES {
        let (version, len) = (offset_of!(EventHeader, version), offset_of!(EventHeader, len));
        made[version..version + 2].copy_from_slice(&ABI_VERSION.to_ne_bytes());
        made[len..len + 4].copy_from_slice(&(input.len() as u32).to_ne_bytes());
        as_it_is(&made);
    }
}

fn as_it_is(input: &[u8]) {
    let event = match Event::decode(input) {
        Ok(event) => event,
        Err(e) => return refused(input, e),
    };
    let h = &event.header;
    // A version is what says how the rest is read.
    assert_eq!(h.version, ABI_VERSION);
    assert_eq!(Some(event.kind), Kind::from_u8(h.kind));
    assert_eq!(Some(event.op), Operation::from_u8(h.op));
    assert_eq!(Some(event.facet), Operation::from_u8(h.facet));
    assert_eq!(Some(event.decision), Decision::from_u8(h.decision));
    assert_eq!(Some(event.cause), Cause::from_u8(h.cause));
    assert_eq!(event.rule.unwrap_or(NO_RULE), h.rule);
    assert!(event.rule.is_none_or(|r| usize::from(r) < MAX_RULES));
    // The parts are all of the record, in their order.
    assert!(event.path.len() <= PATH_MAX && event.path2.len() <= PATH_MAX && event.args.len() <= ARGS_MAX);
    assert!(input.len() <= EVENT_MAX + ARGS_MAX && h.len as usize == input.len());
    let parts = [event.path, event.path2, event.args].concat();
    assert_eq!(parts, input[HEADER_BYTES + h.gap as usize..]);
    assert!(h.gap as usize <= GAP_MAX);
    assert!(event.comm().len() <= h.comm.len() && !event.comm().contains(&0));
    // One byte less or more is another record.
    assert!(Event::decode(&input[..input.len() - 1]).is_err());
    assert_eq!(Event::decode(&[input, &[0]].concat()).unwrap_err(), DecodeError::Length);
    assert!(!format!("{event:?}").is_empty());
}

/// A refusal says why, and the reason is true.
fn refused(input: &[u8], e: DecodeError) {
    assert!(!e.to_string().is_empty());
    match e {
        DecodeError::Short => assert!(input.len() < HEADER_BYTES),
        DecodeError::Version(v) => assert_ne!(v, ABI_VERSION),
        DecodeError::Length | DecodeError::Field(_) => assert!(input.len() >= HEADER_BYTES),
    }
}
