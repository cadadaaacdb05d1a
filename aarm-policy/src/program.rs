//! What a rule asks of a program that is about to run: its words, its variables, what its file is, and the script that it is given.
//!
//! The kernel's tables see none of this. A program of which a rule asks for any of it is let through to its first instruction and
//! decided there, from [`Facts`] that whoever decides finds out. What is known decides first: a rule that fails by its words never needs
//! a hash. Must never take what cannot be found out for something that is not there.

use serde::{Serialize, Serializer};
use std::fmt;

use crate::args::{Arg, BadPattern, MAX_LINE, Position, TooLong, Word, are, has};

/// Most regular expressions, variables, hashes or packages in one list.
pub const MAX_ASKED: usize = 32;
/// Longest regular expression, in bytes.
pub const MAX_REGEX: usize = 1024;
/// Bytes of a compiled regular expression.
pub(crate) const MAX_COMPILED: usize = 1 << 20;
/// Longest script that is looked at, in bytes; one that is longer is refused where it has to be.
pub const MAX_SCRIPT: usize = 1 << 20;
/// Longest environment that is looked at, in bytes; the kernel takes no longer one with its usual limits.
pub const MAX_ENV: usize = 8 << 20;

/// Why a program cannot be decided. It is refused then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undecided {
    /// Its words.
    Words,
    /// Its variables.
    Env,
    /// Its file.
    File,
    /// Its script.
    Script,
}

impl fmt::Display for Undecided {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Words => TooLong.fmt(f),
            Self::Env => write!(f, "its environment cannot be read, or has more than {MAX_ENV} bytes"),
            Self::File => write!(f, "its file cannot be read, or what has its name is another file by now"),
            Self::Script => write!(
                f,
                "its script cannot be read, is another file by now, or has more than {MAX_SCRIPT} bytes"
            ),
        }
    }
}

/// Something that a rule asks for is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// Not yet: it can be found out.
    Yet(Wanted),
    /// It cannot be found out.
    Ever(Undecided),
}

impl From<TooLong> for Lack {
    fn from(_: TooLong) -> Self {
        Self::Ever(Undecided::Words)
    }
}

/// What can be found out besides the words, as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted(u8);

impl Wanted {
    /// The words.
    pub const ARGS: Self = Self(1);
    /// The variables.
    pub const ENV: Self = Self(2);
    /// The SHA-256 of the program's file.
    pub const HASH: Self = Self(4);
    /// The package of the host that it belongs to.
    pub const PACKAGE: Self = Self(8);
    /// The script that it is given.
    pub const SCRIPT: Self = Self(16);

    /// Whether all of that is among it.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Something that is known of a program, or why not.
pub type Fact<T> = Result<T, Lack>;

/// What is known of a program that is about to run.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The words after its name.
    pub args: Fact<&'a [Vec<u8>]>,
    /// Its variables, as `NAME=VALUE`.
    pub env: Fact<&'a [Vec<u8>]>,
    /// The SHA-256 of its file; of one that is only spoken of there may be none.
    pub hash: Fact<Option<Sha256>>,
    /// The package of the host that its file belongs to, if it does.
    pub package: Fact<Option<&'a str>>,
    /// The text of the script that it is given, if it is.
    pub script: Fact<Option<&'a [u8]>>,
}

impl Default for Facts<'_> {
    /// Nothing is known yet.
    fn default() -> Self {
        Self {
            args: Err(Lack::Yet(Wanted::ARGS)),
            env: Err(Lack::Yet(Wanted::ENV)),
            hash: Err(Lack::Yet(Wanted::HASH)),
            package: Err(Lack::Yet(Wanted::PACKAGE)),
            script: Err(Lack::Yet(Wanted::SCRIPT)),
        }
    }
}

/// A SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sha256([u8; 32]);

impl Sha256 {
    /// Reads 64 hexadecimal digits, also with `sha256:` before them.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("sha256:").unwrap_or(text).as_bytes();
        if digits.len() != 64 {
            return None;
        }
        let digit = |b: u8| char::from(b).to_digit(16).map(|d| d as u8);
        let mut bytes = [0u8; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(Self(bytes))
    }
}

impl From<[u8; 32]> for Sha256 {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Serialize for Sha256 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("sha256:{self}"))
    }
}

/// A variable: its name, and its value where that is asked for too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    text: String,
    name: Word,
    value: Option<Word>,
}

impl Variable {
    /// Reads `NAME` or `NAME=VALUE`, each a pattern as of a word.
    pub fn parse(text: &str) -> Result<Self, BadPattern> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(Word::parse(value)?)),
            None => (text, None),
        };
        Ok(Self { text: text.to_owned(), name: Word::parse(name)?, value })
    }

    fn matches(&self, variable: &[u8], fuel: &mut u64) -> Result<bool, TooLong> {
        let at = variable.iter().position(|b| *b == b'=').unwrap_or(variable.len());
        if !self.name.matches(&variable[..at], fuel)? {
            return Ok(false);
        }
        match &self.value {
            Some(value) => value.matches(variable.get(at + 1..).unwrap_or_default(), fuel),
            None => Ok(true),
        }
    }
}

impl Serialize for Variable {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

/// Why a regular expression is none, in a line.
pub(crate) fn bad_regex(error: &regex::Error) -> String {
    match error {
        regex::Error::CompiledTooBig(_) => "it means too much".to_owned(),
        // The last line says what it is; those before draw where.
        other => {
            other.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
        }
    }
}

/// A regular expression over a script's bytes.
#[derive(Clone, Debug)]
pub struct Regex(regex::bytes::Regex);

impl Regex {
    /// Reads one; what is wrong with it, if anything is.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_REGEX {
            return Err(format!("it is longer than {MAX_REGEX} bytes"));
        }
        let built = regex::bytes::RegexBuilder::new(text).size_limit(MAX_COMPILED).nest_limit(64).build();
        built.map(Self).map_err(|e| bad_regex(&e))
    }
}

impl PartialEq for Regex {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Serialize for Regex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.as_str())
    }
}

/// What a rule asks of a program. All that is given must hold; an empty list asks for nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Program {
    /// It has these words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<Arg>,
    /// It does not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_args: Vec<Arg>,
    /// These are its words, from first to last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub argv: Option<Vec<Position>>,
    /// They are not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_argv: Option<Vec<Position>>,
    /// It has one of these variables.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<Variable>,
    /// It has none of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_env: Vec<Variable>,
    /// Its file has one of these hashes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hash: Vec<Sha256>,
    /// It has none of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_hash: Vec<Sha256>,
    /// Its file is of one of these packages.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub package: Vec<Word>,
    /// It is of none of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_package: Vec<Word>,
    /// Its script has text that one of these describes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub script: Vec<Regex>,
    /// It has no such text.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_script: Vec<Regex>,
}

/// Whether a predicate holds.
type Holds = fn(&Program, &Facts<'_>, &mut u64) -> Result<bool, Lack>;

/// The predicates.
pub(crate) const PREDICATES: [(&str, Holds); 12] = [
    ("args", |p, f, fuel| Ok(p.args.is_empty() || has(&p.args, f.args?, fuel)?)),
    ("not_args", |p, f, fuel| Ok(p.not_args.is_empty() || !has(&p.not_args, f.args?, fuel)?)),
    ("argv", |p, f, fuel| match &p.argv {
        Some(places) => Ok(are(places, f.args?, fuel)?),
        None => Ok(true),
    }),
    ("not_argv", |p, f, fuel| match &p.not_argv {
        Some(places) => Ok(!are(places, f.args?, fuel)?),
        None => Ok(true),
    }),
    ("env", |p, f, fuel| Ok(p.env.is_empty() || among(&p.env, f.env?, fuel)?)),
    ("not_env", |p, f, fuel| Ok(p.not_env.is_empty() || !among(&p.not_env, f.env?, fuel)?)),
    ("hash", |p, f, _| Ok(p.hash.is_empty() || f.hash?.is_some_and(|hash| p.hash.contains(&hash)))),
    ("not_hash", |p, f, _| {
        Ok(p.not_hash.is_empty() || !f.hash?.is_some_and(|hash| p.not_hash.contains(&hash)))
    }),
    ("package", |p, f, fuel| Ok(p.package.is_empty() || is_of(&p.package, f.package?, fuel)?)),
    ("not_package", |p, f, fuel| Ok(p.not_package.is_empty() || !is_of(&p.not_package, f.package?, fuel)?)),
    ("script", |p, f, _| Ok(p.script.is_empty() || says(&p.script, f.script?))),
    ("not_script", |p, f, _| Ok(p.not_script.is_empty() || !says(&p.not_script, f.script?))),
];

impl Program {
    /// Whether it asks for nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What it asks for.
    pub fn wants(&self) -> Wanted {
        let asked = [
            (self.args.len() + self.not_args.len(), Wanted::ARGS),
            (usize::from(self.argv.is_some() || self.not_argv.is_some()), Wanted::ARGS),
            (self.env.len() + self.not_env.len(), Wanted::ENV),
            (self.hash.len() + self.not_hash.len(), Wanted::HASH),
            (self.package.len() + self.not_package.len(), Wanted::PACKAGE),
            (self.script.len() + self.not_script.len(), Wanted::SCRIPT),
        ];
        asked.into_iter().filter(|(n, _)| *n > 0).fold(Wanted::default(), |all, (_, one)| all.and(one))
    }

    /// The first predicate that does not hold. That something lacks is said only if nothing that is known fails; and that it can never be
    /// known only if everything else is.
    pub fn failing(&self, facts: &Facts<'_>, fuel: &mut u64) -> Result<Option<&'static str>, Lack> {
        let mut lacks: Option<Lack> = None;
        for (name, holds) in PREDICATES {
            match holds(self, facts, fuel) {
                Ok(true) => {}
                Ok(false) => return Ok(Some(name)),
                Err(lack @ Lack::Yet(_)) => lacks = Some(lack),
                Err(lack) => lacks = lacks.or(Some(lack)),
            }
        }
        lacks.map_or(Ok(None), Err)
    }
}

fn among(asked: &[Variable], env: &[Vec<u8>], fuel: &mut u64) -> Result<bool, TooLong> {
    for variable in env {
        for one in asked {
            if one.matches(variable, fuel)? {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

fn is_of(asked: &[Word], package: Option<&str>, fuel: &mut u64) -> Result<bool, TooLong> {
    let Some(package) = package else { return Ok(false) };
    for one in asked {
        if one.matches(package.as_bytes(), fuel)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn says(asked: &[Regex], script: Option<&[u8]>) -> bool {
    script.is_some_and(|text| asked.iter().any(|one| one.0.is_match(text)))
}

/// What an action knows of the program that it runs, besides its words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Its variables, as `NAME=VALUE`.
    pub env: Vec<Vec<u8>>,
    /// The hash of its file; one without is of no file that a rule could mean.
    pub hash: Option<Sha256>,
    /// The package that its file belongs to.
    pub package: Option<String>,
    /// The script that it is given.
    pub script: Option<Vec<u8>>,
}

impl<'a> Facts<'a> {
    /// What an action says; `None`: not known.
    pub fn of(args: Option<&'a [Vec<u8>]>, told: Option<&'a Told>) -> Self {
        let nothing = Self::default();
        let mut facts = Self { args: args.map_or(nothing.args, Ok), ..nothing };
        if let Some(told) = told {
            facts.env = Ok(&told.env);
            facts.hash = Ok(told.hash);
            facts.package = Ok(told.package.as_deref());
            facts.script = Ok(told.script.as_deref());
        }
        if args.is_some_and(|words| words.iter().map(|w| w.len() + 1).sum::<usize>() > MAX_LINE) {
            facts.args = Err(Lack::Ever(Undecided::Words));
        }
        facts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::FUEL;

    fn failing(program: &Program, facts: &Facts<'_>) -> Result<Option<&'static str>, Lack> {
        program.failing(facts, &mut FUEL.clone())
    }

    fn variables(text: &str) -> Vec<Variable> {
        text.split(' ').map(|v| Variable::parse(v).unwrap()).collect()
    }

    fn texts(text: &str) -> Vec<Vec<u8>> {
        text.split(' ').map(|v| v.as_bytes().to_vec()).collect()
    }

    #[test]
    fn variables_by_name_and_by_value() {
        let asked = |text: &str, env: &str| among(&variables(text), &texts(env), &mut FUEL.clone()).unwrap();
        assert!(asked("LD_*", "A=b LD_PRELOAD=/x") && !asked("LD_*", "XLD_=1 LD=1"));
        assert!(asked("NODE_OPTIONS=*--require*", "NODE_OPTIONS=-a=--require=x"));
        assert!(!asked("NODE_OPTIONS=*--require*", "NODE_OPTIONS=-a OTHER=--require"));
        assert!(asked("A=", "A=") && !asked("A=", "A=b") && asked("A", "A"));
        // A value may have the sign in it; a name does not.
        assert!(asked("A=b=c", "A=b=c") && !asked("A", "A=b=c B=A"[5..].trim()));
    }

    #[test]
    fn what_is_known_fails_before_what_is_not() {
        let word = |text: &str| Word::parse(text).unwrap();
        let program = Program {
            args: vec![Arg::Next(word("push"))],
            hash: vec![Sha256([7; 32])],
            not_package: vec![word("git*")],
            ..Program::default()
        };
        let (push, pull) = (texts("push"), texts("pull"));
        let facts = Facts { args: Ok(&pull), ..Facts::default() };
        assert_eq!(failing(&program, &facts), Ok(Some("args")), "no hash is needed");
        let facts = Facts { args: Ok(&push), ..Facts::default() };
        assert!(matches!(failing(&program, &facts), Err(Lack::Yet(_))));
        let facts = Facts { hash: Ok(Some(Sha256([7; 32]))), package: Ok(Some("git")), ..facts };
        assert_eq!(failing(&program, &facts), Ok(Some("not_package")));
        // Of no package is of none of those.
        assert_eq!(failing(&program, &Facts { package: Ok(None), ..facts }), Ok(None));
        let never = Facts { hash: Err(Lack::Ever(Undecided::File)), ..facts };
        assert_eq!(failing(&program, &never), Ok(Some("not_package")), "it fails whatever the hash is");
        let never = Facts { package: Ok(None), ..never };
        assert_eq!(failing(&program, &never), Err(Lack::Ever(Undecided::File)));
        // What could still be found out may make it fail.
        let both = Facts { package: Facts::default().package, ..never };
        assert!(matches!(failing(&program, &both), Err(Lack::Yet(_))));
        assert!(program.wants().has(Wanted::HASH.and(Wanted::PACKAGE)) && !program.wants().has(Wanted::ENV));
    }

    #[test]
    fn scripts_and_hashes() {
        let says =
            |regex: &str, text: Option<&str>| says(&[Regex::parse(regex).unwrap()], text.map(str::as_bytes));
        assert!(says(r"(?m)^curl .*\| *sh$", Some("#!/bin/sh\ncurl x | sh\necho")));
        assert!(!says("curl", None) && !says("curl", Some("")));
        for (bad, why) in [("(", "unclosed group"), ("a{100000}{1000}", "too much"), ("(?=x)", "look-around")]
        {
            assert!(Regex::parse(bad).unwrap_err().contains(why), "{:?}", Regex::parse(bad));
        }
        assert!(Regex::parse(&"a".repeat(MAX_REGEX + 1)).is_err());
        let digits = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let hash = Sha256::parse(digits).unwrap();
        assert_eq!(hash.to_string(), digits);
        assert_eq!(Sha256::parse(&format!("sha256:{}", digits.to_uppercase())), Some(hash));
        for bad in
            ["", &digits[1..], &format!("{digits}0"), &format!("md5:{digits}"), &digits.replace('b', "g")]
        {
            assert_eq!(Sha256::parse(bad), None, "{bad}");
        }
    }
}
