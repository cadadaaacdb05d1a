//! What holds for the DNS parser whatever the bytes are.
//!
//! Included by the fuzz target and by the test that replays its corpus.

use aarm_common::dns::{
    Found, Header, MESSAGE_MAX, Message, NAME_MAX, QUESTION_STEPS, Question, RECORD_STEPS, Records, Step,
};

/// A message that notices reads beyond it which were believed.
struct Watched<'a>(&'a [u8]);

impl Message for Watched<'_> {
    fn len(&self) -> u32 {
        self.0.len() as u32
    }

    fn byte(&self, at: u32) -> u8 {
        // What lies beyond the end is hostile too: other bytes there than the slice's own reader gives.
        self.0.get(at as usize).copied().unwrap_or(0xa5)
    }
}

/// Place, length and seconds of an address.
type Address = (u32, u32, u32);

/// The name asked for and the addresses, or as much of them as is plain.
fn read(m: &(impl Message + ?Sized)) -> Option<(Vec<u8>, Vec<Address>)> {
    let header = Header::read(m)?;
    let (mut question, mut name) = (Question::start(), Vec::new());
    let mut steps = 0;
    loop {
        assert!(steps < QUESTION_STEPS, "a question needs more steps than its bound");
        steps += 1;
        match question.step(m) {
            Step::More => {}
            Step::Text(byte) => name.push(byte),
            Step::Done => break,
            Step::Bad => return None,
        }
    }
    assert_eq!(name.len(), question.len as usize);
    assert!(question.at <= m.len());
    let mut records = Records { at: question.at, left: header.answers.into() };
    let mut found = Vec::new();
    for _ in 0..RECORD_STEPS {
        match records.step(m) {
            Found::More => {}
            Found::Address { at, len, ttl } => {
                assert!((len == 4 || len == 16) && at + len <= m.len() && ttl >> 31 == 0);
                found.push((at, len, ttl));
            }
            Found::Done | Found::Bad => break,
        }
    }
    Some((name, found))
}

/// Panics if something does not hold.
pub fn check(input: &[u8]) {
    let read_once = read(input);
    // Nothing depends on what lies beyond the end.
    assert_eq!(read(&Watched(input)), read_once);
    let Some((name, found)) = read_once else { return };
    assert!(input.len() <= MESSAGE_MAX && !name.is_empty() && name.len() <= NAME_MAX);
    let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
    assert!(name.split(|b| *b == b'.').all(|label| !label.is_empty() && label.iter().all(plain)));
    assert!(found.windows(2).all(|w| w[0].0 + w[0].1 <= w[1].0), "addresses overlap: {found:?}");
}
