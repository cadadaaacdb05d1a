use super::*;
use std::vec::Vec;

/// Name, type, class, seconds, data.
type Record<'a> = (&'a [u8], u16, u16, u32, &'a [u8]);

/// A message with one question, and records.
fn message(flags: u16, question: &[u8], records: &[Record<'_>]) -> Vec<u8> {
    let mut m = Vec::new();
    for word in [0x1234, flags, 1, records.len() as u16, 0, 0] {
        m.extend(u16::to_be_bytes(word));
    }
    m.extend(question);
    m.extend([0, 1, 0, 1]);
    for (name, kind, class, ttl, data) in records {
        m.extend(*name);
        m.extend(kind.to_be_bytes());
        m.extend(class.to_be_bytes());
        m.extend(ttl.to_be_bytes());
        m.extend((data.len() as u16).to_be_bytes());
        m.extend(*data);
    }
    m
}

/// The question's text, or `None` for a bad one, and where the records begin.
fn question(m: &[u8]) -> Option<(Vec<u8>, u32)> {
    let (mut q, mut text) = (Question::start(), Vec::new());
    for _ in 0..QUESTION_STEPS {
        match q.step(m) {
            Step::More => {}
            Step::Text(byte) => text.push(byte),
            Step::Done => return Some((text, q.at)),
            Step::Bad => return None,
        }
    }
    panic!("more steps than the bound");
}

fn addresses(m: &[u8]) -> (Vec<(Vec<u8>, u32)>, bool) {
    let (_, at) = question(m).unwrap();
    let mut records = Records { at, left: Header::read(m).unwrap().answers.into() };
    let mut found = Vec::new();
    for _ in 0..RECORD_STEPS {
        match records.step(m) {
            Found::More => {}
            Found::Address { at, len, ttl } => {
                found.push((m[at as usize..(at + len) as usize].to_vec(), ttl))
            }
            Found::Done => return (found, true),
            Found::Bad => return (found, false),
        }
    }
    (found, false)
}

const NAME: &[u8] = b"\x03API\x06github\x03com\0";
const V6: [u8; 16] = [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];

#[test]
fn an_answer_is_read() {
    let m = message(
        0x8180,
        NAME,
        &[
            (b"\xc0\x0c", 5, 1, 60, b"\x01x\xc0\x10"),
            (b"\x01x\xc0\x10", 1, 1, 30, &[203, 0, 113, 9]),
            (b"\x01x\x06github\x03com\0", 28, 1, 1 << 31, &V6),
            // Another class, another length: not addresses.
            (b"\xc0\x0c", 1, 3, 9, &[1, 2, 3, 4]),
            (b"\xc0\x0c", 1, 1, 9, &[1, 2, 3]),
        ],
    );
    assert_eq!(Header::read(&m[..]), Some(Header { id: 0x1234, kind: Kind::Answer, answers: 5 }));
    assert_eq!(question(&m).unwrap().0, b"api.github.com");
    let (found, whole) = addresses(&m);
    assert!(whole);
    assert_eq!(found, [(vec_of(&[203, 0, 113, 9]), 30), (vec_of(&V6), 0)]);
}

fn vec_of(bytes: &[u8]) -> Vec<u8> {
    bytes.to_vec()
}

#[test]
fn what_is_no_plain_answer_teaches_nothing() {
    for flags in [0x8183, 0x8182, 0x8380, 0x8980] {
        assert_eq!(Header::read(&message(flags, NAME, &[])[..]), None, "{flags:x}");
    }
    assert_eq!(Header::read(&message(0x0100, NAME, &[])[..]).unwrap().kind, Kind::Query);
    assert_eq!(Header::read(&message(0x2800, NAME, &[])[..]), None);
    let mut two = message(0x8180, NAME, &[]);
    two[5] = 2;
    assert_eq!(Header::read(&two[..]), None);
}

#[test]
fn names_are_plain_or_nothing() {
    for name in [
        &b"\0"[..],
        b"\x03a.b\0",
        b"\x03a/b\0",
        b"\x03a\0b\0",
        b"\xc0\x0c",
        b"\x40aaaa",
        b"\x3faaa",
        b"\x02\xc3\xa9\0",
    ] {
        assert_eq!(question(&message(0x8180, name, &[])), None, "{name:?}");
    }
    let mut long = Vec::new();
    for _ in 0..4 {
        long.push(57);
        long.extend([b'a'; 57]);
    }
    long.push(0);
    assert_eq!(question(&message(0, &long, &[])).unwrap().0.len(), 231);
    long.pop();
    long.extend(*b"\x01b\0");
    assert_eq!(question(&message(0, &long, &[])), None);
}

#[test]
fn no_prefix_reads_beyond_itself() {
    let m = message(0x8180, NAME, &[(b"\xc0\x0c", 1, 1, 30, &[203, 0, 113, 9])]);
    for end in 0..m.len() {
        let cut = &m[..end];
        if Header::read(cut).is_some() && question(cut).is_some() {
            assert_eq!(addresses(cut).0, [], "{end}");
        }
    }
}
