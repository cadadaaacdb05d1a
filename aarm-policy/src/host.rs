//! Globs over names of hosts.
//!
//! | written | matches |
//! |---|---|
//! | `api.example.com` | that name |
//! | `*` within a label | any bytes of one label (a label that is only `*` has at least one byte) |
//! | `?` | one byte of a label |
//! | `**.example.com` | `example.com` and every name below it, at any depth |
//! | `**` | every name |
//! | `/regex/` | every name that the regular expression describes as a whole |
//! | `unknown` | an address of which no name is known |
//!
//! Names are compared in lower case, without a final dot. Names with other characters than letters, digits, `-` and `_` are
//! never learnt, so a glob with any is an error; others are written in their ASCII form (`xn--…`).

use regex_syntax::hir::Hir;
use serde::{Serialize, Serializer};

use crate::glob::{Atom, Component, Pattern, Start};
use crate::program::{MAX_COMPILED, bad_regex};

/// Longest glob over names, in bytes.
pub const MAX_HOST: usize = 253;
/// The word for an address without a known name.
pub const UNKNOWN: &str = "unknown";

/// One label of a glob.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Label {
    /// `**`: any number of labels, also none. Only the first.
    Any,
    /// One label that these parts describe.
    Parts(Vec<Atom>),
}

/// What a rule may say of a host.
#[derive(Clone, Debug)]
pub struct Host {
    text: String,
    form: Form,
}

impl PartialEq for Host {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

#[derive(Clone, Debug)]
enum Form {
    Unknown,
    Glob(Vec<Label>),
    /// For the evaluator, and for the automaton.
    Regex(regex::bytes::Regex, Box<Hir>),
}

/// What the automaton is made of.
pub(crate) enum Shape<'h> {
    Pattern(Pattern),
    Regex(&'h Hir),
}

/// Why a text is no glob over names.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// Nothing in it.
    #[error("it is empty")]
    Empty,
    /// Too long.
    #[error("it is longer than a name can be")]
    TooLong,
    /// Two dots in a row, or one at the start.
    #[error("it has an empty label")]
    EmptyLabel,
    /// A label over 63 bytes.
    #[error("it has a label of more than 63 bytes")]
    LongLabel,
    /// `**` elsewhere.
    #[error("`**` stands alone, as the first label")]
    Stars,
    /// It is an address.
    #[error("it is an address, not a name")]
    Address,
    /// Another character.
    #[error("a name has letters, digits, `-` and `_`; a glob also `*` and `?`")]
    Character,
    /// No regular expression.
    #[error("{0}")]
    Regex(String),
    /// `^`, `$`, `\b` and the like.
    #[error("a name is described as a whole, so there is nothing to look at before or after it")]
    Look,
}

impl HostError {
    /// What to write instead.
    pub(crate) fn help(&self) -> Option<&'static str> {
        match self {
            HostError::Look => Some("leave out `^` and `$`, and write `.*` where anything may stand"),
            HostError::Address => Some("write it under `cidr`"),
            HostError::Stars => Some("`*.example.com` is one label, `**.example.com` any number of them"),
            HostError::Character => {
                Some("write other names in their ASCII form, xn--…; without port or scheme")
            }
            _ => None,
        }
    }
}

impl Host {
    /// Parses what a rule says.
    pub fn parse(text: &str) -> Result<Host, HostError> {
        if text == UNKNOWN {
            return Ok(Host { text: text.to_owned(), form: Form::Unknown });
        }
        if let Some(inner) = text.strip_prefix('/').and_then(|rest| rest.strip_suffix('/')) {
            return Ok(Host { text: text.to_owned(), form: regex(inner)? });
        }
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        if name.is_empty() {
            return Err(HostError::Empty);
        }
        if name.len() > MAX_HOST {
            return Err(HostError::TooLong);
        }
        if name.parse::<std::net::IpAddr>().is_ok() {
            return Err(HostError::Address);
        }
        let labels = name.split('.').enumerate().map(|(i, part)| label(part, i == 0));
        let labels = labels.collect::<Result<Vec<Label>, HostError>>()?;
        Ok(Host { text: name, form: Form::Glob(labels) })
    }

    /// Whether it means an address without a known name.
    pub fn is_unknown(&self) -> bool {
        matches!(self.form, Form::Unknown)
    }

    /// The glob in its one form.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it matches a name, which is in lower case and without a final dot.
    pub fn matches(&self, name: &str) -> bool {
        let labels = match &self.form {
            Form::Unknown => return false,
            Form::Regex(regex, _) => return regex.is_match(name.as_bytes()),
            Form::Glob(labels) => labels,
        };
        let names: Vec<&str> = name.split('.').collect();
        let (deep, labels) = match labels.split_first() {
            Some((Label::Any, rest)) => (true, rest),
            _ => (false, &labels[..]),
        };
        let enough = if deep { names.len() >= labels.len() } else { names.len() == labels.len() };
        enough
            && labels.iter().rev().zip(names.iter().rev()).all(|(label, name)| match label {
                Label::Parts(parts) => fits(parts, name.as_bytes()),
                Label::Any => false,
            })
    }

    /// For the automaton. A glob is the pattern of a path, see `aarm_common::policy`: labels and their bytes from the last to the
    /// first. `None` for an unknown name.
    pub(crate) fn shape(&self) -> Option<Shape<'_>> {
        let labels = match &self.form {
            Form::Unknown => return None,
            Form::Regex(_, hir) => return Some(Shape::Regex(hir)),
            Form::Glob(labels) => labels,
        };
        let components = labels.iter().rev().map(|label| match label {
            Label::Any => Component::Any,
            Label::Parts(parts) => Component::Parts(parts.iter().rev().cloned().collect()),
        });
        Some(Shape::Pattern(Pattern { start: Start::Root, components: components.collect() }))
    }
}

impl Serialize for Host {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

/// Reads a regular expression over whole names.
fn regex(text: &str) -> Result<Form, HostError> {
    if text.len() > MAX_HOST {
        return Err(HostError::TooLong);
    }
    // Nothing that could mean a comment once blanks are ignored.
    if !text.bytes().all(|b| b.is_ascii_graphic() && b != b'#' && b != b'/') {
        return Err(HostError::Regex("a regular expression over names has no blanks, `#` or `/`".into()));
    }
    let no_regex = |e: regex::Error| HostError::Regex(bad_regex(&e));
    let build = |text: &str| {
        let mut builder = regex::bytes::RegexBuilder::new(text);
        let builder = builder.unicode(false).case_insensitive(true).nest_limit(64).size_limit(MAX_COMPILED);
        builder.build().map_err(no_regex)
    };
    // By itself, so that it does not end what is put around it.
    build(text)?;
    let whole = build(&format!("^(?:{text})$"))?;
    let mut parser = regex_syntax::ParserBuilder::new();
    let parser = parser.unicode(false).utf8(false).case_insensitive(true).nest_limit(64);
    let hir = parser.build().parse(text).map_err(|e| HostError::Regex(e.to_string()))?;
    if !hir.properties().look_set().is_empty() {
        return Err(HostError::Look);
    }
    Ok(Form::Regex(whole, Box::new(hir)))
}

fn label(part: &str, first: bool) -> Result<Label, HostError> {
    if part == "**" {
        return if first { Ok(Label::Any) } else { Err(HostError::Stars) };
    }
    if part.is_empty() {
        return Err(HostError::EmptyLabel);
    }
    if part.len() > 63 {
        return Err(HostError::LongLabel);
    }
    if part.contains("**") {
        return Err(HostError::Stars);
    }
    let atom = |byte: u8| match byte {
        b'*' => Ok(Atom::Star),
        b'?' => Ok(Atom::Any),
        b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => Ok(Atom::Byte(byte)),
        _ => Err(HostError::Character),
    };
    Ok(Label::Parts(part.bytes().map(atom).collect::<Result<_, _>>()?))
}

/// Whether parts describe a label.
fn fits(parts: &[Atom], label: &[u8]) -> bool {
    match parts.split_first() {
        None => label.is_empty(),
        // Alone in its label; elsewhere `fits_after` takes it.
        Some((Atom::Star, [])) => !label.is_empty(),
        Some((Atom::Star, rest)) => (0..=label.len()).any(|n| fits_after(rest, &label[n..])),
        Some((atom, rest)) => label.split_first().is_some_and(|(byte, label)| {
            let one = match atom {
                Atom::Byte(wanted) => byte == wanted,
                Atom::Any => true,
                // Globs over names have no classes.
                Atom::Star | Atom::Class(_) => false,
            };
            one && fits_after(rest, label)
        }),
    }
}

/// [`fits`] for what comes after some byte or star: there a star alone may match nothing.
fn fits_after(parts: &[Atom], label: &[u8]) -> bool {
    parts == [Atom::Star] || fits(parts, label)
}

/// A name as a path to the automaton, see `aarm_common::policy`.
pub(crate) fn as_path(name: &str) -> Vec<u8> {
    let reversed = name.bytes().rev().map(|b| if b == b'.' { b'/' } else { b });
    std::iter::once(b'/').chain(reversed).collect()
}

/// A name as the kernel learns it: `None` for one that it does not.
pub fn name(text: &str) -> Option<String> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    let label = |l: &str| !l.is_empty() && l.len() <= 63 && l.bytes().all(plain);
    (name.len() <= aarm_common::dns::NAME_MAX && name.split('.').all(label)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_names() {
        for (glob, name, expected) in [
            ("github.com", "github.com", true),
            ("GitHub.com.", "github.com", true),
            ("github.com", "api.github.com", false),
            ("*.github.com", "api.github.com", true),
            ("*.github.com", "github.com", false),
            ("*.github.com", "a.b.github.com", false),
            ("**.github.com", "github.com", true),
            ("**.github.com", "a.b.github.com", true),
            ("**.github.com", "evilgithub.com", false),
            ("**.github.com", "github.com.evil.example", false),
            ("**", "anything", true),
            ("ap?-*.x", "api-.x", true),
            ("ap?-*.x", "api-eu.x", true),
            ("ap?-*.x", "ap-eu.x", false),
            ("a*b", "ab", true),
            ("a*", "a", true),
            ("*a*", "a", true),
            ("*", "a", true),
            ("unknown", "unknown", false),
            ("/(api|web)-[0-9]{2}\\.x/", "api-07.x", true),
            ("/(api|web)-[0-9]{2}\\.x/", "api-07.x.evil", false),
            ("/(api|web)-[0-9]{2}\\.x/", "my-api-07.x", false),
            ("/API.*/", "api.x.y", true),
        ] {
            assert_eq!(Host::parse(glob).unwrap().matches(name), expected, "{glob} {name}");
        }
    }

    #[test]
    fn what_is_no_glob_is_refused() {
        for (text, error) in [
            ("", HostError::Empty),
            (".", HostError::Empty),
            ("a..b", HostError::EmptyLabel),
            (".a", HostError::EmptyLabel),
            ("a.**", HostError::Stars),
            ("a**.b", HostError::Stars),
            ("10.0.0.1", HostError::Address),
            ("::1", HostError::Address),
            ("https://a.b", HostError::Character),
            ("a.b:443", HostError::Character),
            ("b\u{fc}cher.example", HostError::Character),
            ("/^a$/", HostError::Look),
            ("/a b/", HostError::Regex("a regular expression over names has no blanks, `#` or `/`".into())),
            ("/(a/", HostError::Regex("unclosed group".into())),
            ("/(a{999}){999}/", HostError::Regex("it means too much".into())),
        ] {
            assert_eq!(Host::parse(text).unwrap_err(), error, "{text}");
        }
        assert_eq!(Host::parse(&"a".repeat(64)).unwrap_err(), HostError::LongLabel);
        assert_eq!(Host::parse(&"a.".repeat(200)).unwrap_err(), HostError::TooLong);
    }
}
