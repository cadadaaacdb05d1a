//! What a reader of events relies on: the layout, and that hostile bytes are refused.
extern crate std;
use super::*;
use proptest::prelude::*;
use std::mem::offset_of;
use std::vec::Vec;

fn record(header: EventHeader, tail: &[u8]) -> Vec<u8> {
    // SAFETY: `EventHeader` is repr(C) without padding.
    let bytes: [u8; HEADER_BYTES] = unsafe { std::mem::transmute(header) };
    let mut v = bytes.to_vec();
    v.extend_from_slice(tail);
    v
}

fn valid() -> EventHeader {
    EventHeader {
        version: ABI_VERSION,
        kind: Kind::Action as u8,
        op: Operation::Rename as u8,
        facet: Operation::OpenRead as u8,
        decision: Decision::Deny as u8,
        cause: Cause::Rule as u8,
        rule: 3,
        len: (HEADER_BYTES + 6) as u32,
        path_len: 2,
        path2_len: 3,
        args_len: 1,
        ..EventHeader::default()
    }
}

#[test]
fn layout_is_the_one_the_version_names() {
    // Changing any of these needs a new ABI_VERSION.
    assert_eq!(ABI_VERSION, 10);
    assert_eq!(size_of::<crate::hold::Lines>(), 504);
    assert_eq!(HEADER_BYTES, 184);
    assert_eq!(offset_of!(EventHeader, seq), 8);
    assert_eq!(offset_of!(EventHeader, session), 24);
    assert_eq!(offset_of!(EventHeader, decision), 64);
    assert_eq!(offset_of!(EventHeader, object), 72);
    assert_eq!(offset_of!(EventHeader, family), 96);
    assert_eq!(offset_of!(EventHeader, addr), 112);
    assert_eq!(offset_of!(EventHeader, comm), 128);
    assert_eq!(offset_of!(EventHeader, labels), 144);
    assert_eq!(crate::policy::POLICY_BYTES, 2_136_184);
    assert_eq!(size_of::<crate::state::Task>(), 584);
}

#[test]
fn parts_come_back() {
    let r = record(valid(), b"/a/bcd");
    let e = Event::decode(&r).unwrap();
    assert_eq!((e.path, e.path2, e.args), (&b"/a"[..], &b"/bc"[..], &b"d"[..]));
    assert_eq!((e.op, e.facet, e.rule), (Operation::Rename, Operation::OpenRead, Some(3)));
}

#[test]
fn gap_means_nothing_and_is_bounded() {
    for gap in [0, 1, 7, 8, GAP_MAX, GAP_MAX + 1, 4096] {
        let mut h = valid();
        (h.gap, h.len) = (gap as u32, h.len + gap as u32);
        let mut tail = std::vec![0xff; gap];
        tail.extend_from_slice(b"/a/bcd");
        let r = record(h, &tail);
        match Event::decode(&r) {
            Ok(e) => {
                assert!(gap <= GAP_MAX && e.path == b"/a" && e.path2 == b"/bc" && e.args == b"d", "{gap}")
            }
            Err(e) => assert!(gap > GAP_MAX && e == DecodeError::Length, "{gap}: {e}"),
        }
    }
}

#[test]
fn every_wrong_field_is_named() {
    type Break = fn(&mut EventHeader);
    let cases: &[(Break, DecodeError)] = &[
        (|h| h.version = ABI_VERSION + 1, DecodeError::Version(ABI_VERSION + 1)),
        (|h| h.kind = 0, DecodeError::Field("kind")),
        (|h| h.op = 200, DecodeError::Field("op")),
        (|h| h.facet = 200, DecodeError::Field("facet")),
        (|h| h.decision = 0, DecodeError::Field("decision")),
        (|h| h.cause = 0, DecodeError::Field("cause")),
        (|h| h.flags = 1 << 15, DecodeError::Field("flags")),
        (|h| h.rule = 512, DecodeError::Field("rule")),
        (|h| h.subjects = 0x2_0003, DecodeError::Field("subjects")),
        (|h| h.path_len = 4097, DecodeError::Length),
        (|h| h.len += 1, DecodeError::Length),
        (|h| h.args_len = 2, DecodeError::Length),
        (|h| h.gap = 1, DecodeError::Length),
    ];
    for (break_it, expected) in cases {
        let mut h = valid();
        break_it(&mut h);
        assert_eq!(Event::decode(&record(h, b"/a/bcd")).unwrap_err(), *expected);
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = Event::decode(&bytes);
    }

    #[test]
    fn arbitrary_headers_never_become_an_invalid_enum(mut bytes in proptest::collection::vec(any::<u8>(), HEADER_BYTES..600)) {
        bytes[0..2].copy_from_slice(&ABI_VERSION.to_le_bytes());
        bytes[2] = bytes[2] % 6 + 1;
        let n = bytes.len() as u32;
        bytes[4..8].copy_from_slice(&n.to_le_bytes());
        if let Ok(e) = Event::decode(&bytes) {
            prop_assert_eq!(e.header.gap as usize + e.path.len() + e.path2.len() + e.args.len() + HEADER_BYTES, bytes.len());
        }
    }
}
