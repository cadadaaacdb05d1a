//! Predicates on a command line.
//!
//! The kernel's tables do not see a command line: it is read when the new image is in place, before its first instruction, and
//! what a rule asks of it is decided then. The program's own name for itself, `argv[0]`, is never asked for: it may be anything.

use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Most words in one predicate.
pub const MAX_WORDS: usize = 32;
/// Longest pattern of a word, in bytes.
pub const MAX_PATTERN: usize = 256;
/// Longest command line that is looked at, in bytes; one that is longer is refused where it has to be.
pub const MAX_LINE: usize = 256 * 1024;
/// Comparisons of characters spent on one command line; beyond them it is refused.
pub const FUEL: u64 = 64 << 20;

/// A command line cannot be decided: it is longer than [`MAX_LINE`], or [`FUEL`] did not suffice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the command line is too long to be decided (at most {MAX_LINE} bytes)")
    }
}

impl std::error::Error for TooLong {}

/// Why text is no pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadPattern {
    /// Longer than [`MAX_PATTERN`].
    Long,
    /// A `\` at the end.
    Escape,
    /// No argument has a NUL in it.
    Nul,
}

impl fmt::Display for BadPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Long => write!(f, "it is longer than {MAX_PATTERN} bytes"),
            Self::Escape => write!(f, "there is nothing after its last `\\`"),
            Self::Nul => write!(f, "no argument has a NUL in it"),
        }
    }
}

/// A pattern of one word: `*` is any text, `?` any one byte, `\` takes the next character as it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Word {
    text: String,
    atoms: Vec<Atom>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Atom {
    Byte(u8),
    One,
    Any,
}

impl Word {
    /// Reads a pattern.
    pub fn parse(text: &str) -> Result<Self, BadPattern> {
        if text.len() > MAX_PATTERN {
            return Err(BadPattern::Long);
        }
        let mut atoms = Vec::new();
        let mut bytes = text.bytes();
        while let Some(byte) = bytes.next() {
            atoms.push(match byte {
                0 => return Err(BadPattern::Nul),
                b'*' => Atom::Any,
                b'?' => Atom::One,
                b'\\' => Atom::Byte(bytes.next().ok_or(BadPattern::Escape)?),
                other => Atom::Byte(other),
            });
        }
        Ok(Self { text: text.to_owned(), atoms })
    }

    /// Whether it describes the word as a whole.
    pub(crate) fn matches(&self, word: &[u8], fuel: &mut u64) -> Result<bool, TooLong> {
        let (mut p, mut w) = (0, 0);
        // Where to go on after the last `*`, should what follows not fit: one byte later each time.
        let mut retry: Option<(usize, usize)> = None;
        while w < word.len() {
            *fuel = fuel.checked_sub(1).ok_or(TooLong)?;
            match self.atoms.get(p) {
                Some(Atom::Any) => {
                    retry = Some((p + 1, w));
                    p += 1;
                }
                Some(Atom::One) => (p, w) = (p + 1, w + 1),
                Some(Atom::Byte(byte)) if *byte == word[w] => (p, w) = (p + 1, w + 1),
                _ => match retry {
                    Some((after, at)) => {
                        retry = Some((after, at + 1));
                        (p, w) = (after, at + 1);
                    }
                    None => return Ok(false),
                },
            }
        }
        Ok(self.atoms[p..].iter().all(|atom| *atom == Atom::Any))
    }
}

impl TryFrom<String> for Word {
    type Error = BadPattern;

    fn try_from(text: String) -> Result<Self, BadPattern> {
        Self::parse(&text)
    }
}

impl Serialize for Word {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

/// A member of `args`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arg {
    /// A word after those that the members before it mean; others may stand between.
    Next(Word),
    /// A word, wherever it stands.
    Any(Word),
}

impl Serialize for Arg {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Arg::Next(word) => word.serialize(serializer),
            Arg::Any(word) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("any", word)?;
                map.end()
            }
        }
    }
}

/// A member of `argv`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Position {
    /// The next word.
    Word(Word),
    /// `**`: any number of words.
    Rest,
}

impl Serialize for Position {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Position::Word(word) => word.serialize(serializer),
            Position::Rest => serializer.serialize_str("**"),
        }
    }
}

/// Whether there are such words.
pub(crate) fn has(args: &[Arg], words: &[Vec<u8>], fuel: &mut u64) -> Result<bool, TooLong> {
    let mut next = 0;
    for arg in args {
        let (from, word) = match arg {
            Arg::Next(word) => (next, word),
            Arg::Any(word) => (0, word),
        };
        let mut found = None;
        for (i, text) in words.iter().enumerate().skip(from) {
            if word.matches(text, fuel)? {
                found = Some(i);
                break;
            }
        }
        match (found, arg) {
            (None, _) => return Ok(false),
            (Some(i), Arg::Next(_)) => next = i + 1,
            (Some(_), Arg::Any(_)) => {}
        }
    }
    Ok(true)
}

/// Whether the words are these; `**` takes as few as possible, and one more each time what follows does not fit.
pub(crate) fn are(places: &[Position], words: &[Vec<u8>], fuel: &mut u64) -> Result<bool, TooLong> {
    let (mut p, mut w) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    loop {
        *fuel = fuel.checked_sub(1).ok_or(TooLong)?;
        let fits = match (places.get(p), words.get(w)) {
            (None, None) => return Ok(true),
            (Some(Position::Rest), _) => {
                retry = Some((p + 1, w));
                p += 1;
                continue;
            }
            (Some(Position::Word(word)), Some(text)) => word.matches(text, fuel)?,
            _ => false,
        };
        if fits {
            (p, w) = (p + 1, w + 1);
            continue;
        }
        match retry {
            Some((after, at)) if at < words.len() => {
                retry = Some((after, at + 1));
                (p, w) = (after, at + 1);
            }
            _ => return Ok(false),
        }
    }
}

/// The words of a command line as the kernel has it, each ended by NUL, without the first.
pub fn words(line: &[u8]) -> Result<Vec<Vec<u8>>, TooLong> {
    if line.len() > MAX_LINE {
        return Err(TooLong);
    }
    let line = line.strip_suffix(&[0]).unwrap_or(line);
    Ok(line.split(|byte| *byte == 0).skip(1).map(<[u8]>::to_vec).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(text: &str) -> Word {
        Word::parse(text).unwrap()
    }

    fn line(text: &str) -> Vec<Vec<u8>> {
        text.split(' ').filter(|w| !w.is_empty()).map(|w| w.as_bytes().to_vec()).collect()
    }

    #[test]
    fn patterns_of_words() {
        for (pattern, yes, no) in [
            ("push", &["push"][..], &["pus", "pushx", "", "PUSH"][..]),
            ("--force*", &["--force", "--force-with-lease", "--force=x"], &["--forc", "x--force"]),
            ("*", &["", "a", "a/b c"], &[]),
            ("*.sh", &[".sh", "a/b.sh", "a.sh.sh"], &["a.sh ", "sh"]),
            ("a*b*c", &["abc", "aXbYc", "abcbc"], &["acb", "ab", "bc"]),
            ("?", &["a"], &["", "ab"]),
            ("\\*\\?\\\\", &["*?\\"], &["a?\\", "*a\\"]),
            ("", &[""], &["a"]),
        ] {
            for text in yes {
                assert_eq!(
                    word(pattern).matches(text.as_bytes(), &mut FUEL.clone()),
                    Ok(true),
                    "{pattern} {text}"
                );
            }
            for text in no {
                assert_eq!(
                    word(pattern).matches(text.as_bytes(), &mut FUEL.clone()),
                    Ok(false),
                    "{pattern} {text}"
                );
            }
        }
        assert_eq!(Word::parse("a\\"), Err(BadPattern::Escape));
        assert_eq!(Word::parse("a\0"), Err(BadPattern::Nul));
        assert_eq!(Word::parse(&"a".repeat(MAX_PATTERN + 1)), Err(BadPattern::Long));
    }

    #[test]
    fn words_in_order_and_anywhere() {
        let push = [Arg::Next(word("push")), Arg::Any(word("--force*"))];
        let has = |args: &[Arg], text: &str| has(args, &line(text), &mut FUEL.clone()).unwrap();
        assert!(has(&push, "push --force") && has(&push, "-C /x --force push origin"));
        assert!(!has(&push, "push origin") && !has(&push, "--force") && !has(&push, ""));
        let twice = [Arg::Next(word("a")), Arg::Next(word("a"))];
        assert!(has(&twice, "a b a") && !has(&twice, "a b"));
        let ordered = [Arg::Next(word("a")), Arg::Next(word("b"))];
        assert!(has(&ordered, "x a y b") && !has(&ordered, "b a"));
    }

    #[test]
    fn words_from_first_to_last() {
        let places = |text: &str| -> Vec<Position> {
            let place = |w: &str| if w == "**" { Position::Rest } else { Position::Word(word(w)) };
            text.split(' ').filter(|w| !w.is_empty()).map(place).collect()
        };
        let are = |places: &[Position], text: &str| are(places, &line(text), &mut FUEL.clone()).unwrap();
        assert!(are(&places("status"), "status") && !are(&places("status"), "status -s"));
        assert!(are(&places(""), "") && !are(&places(""), "a"));
        assert!(
            are(&places("log **"), "log")
                && are(&places("log **"), "log -p x")
                && !are(&places("log **"), "x log")
        );
        assert!(are(&places("** b ** c"), "a b x c") && !are(&places("** b ** c"), "a c b"));
        assert!(are(&places("**"), "") && are(&places("** **"), "a"));
    }

    #[test]
    fn a_line_is_cut_at_its_ends() {
        assert_eq!(words(b"git\0push\0\0x\0"), Ok(vec![b"push".to_vec(), b"".to_vec(), b"x".to_vec()]));
        assert_eq!(words(b"git\0"), Ok(vec![]));
        assert_eq!(words(b""), Ok(vec![]));
        assert_eq!(words(b"\0"), Ok(vec![]));
        assert_eq!(words(&vec![0; MAX_LINE + 1]), Err(TooLong));
    }

    #[test]
    fn what_costs_too_much_is_not_guessed() {
        let costly = word(&format!("*{}b", "a".repeat(200)));
        let text = vec![b'a'; MAX_LINE];
        assert_eq!(costly.matches(&text, &mut FUEL.clone()), Ok(false));
        let mut little = 1000;
        assert_eq!(costly.matches(&text, &mut little), Err(TooLong));
    }
}
