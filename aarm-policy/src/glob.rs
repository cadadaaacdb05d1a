//! Globs: their syntax, and the parsed form that the compiler and the evaluator each interpret in their own
//! way.
//!
//! A glob describes whole absolute paths, byte by byte:
//!
//! | written | matches |
//! |---|---|
//! | `*` | any bytes of one component (a component that is only `*` has at least one byte) |
//! | `?` | one byte of a component |
//! | `[a-z]`, `[!a-z]` | one byte in, or not in, the class; never `/` |
//! | `{a,b}` | either; may nest and may hold `/` |
//! | `**` | as a whole component: any number of components, also none |
//! | `\x` | the byte `x` itself |
//! | `~/` at the start | each home directory |
//!
//! It starts with `/`, `~/` or `**/`. A final `/**` also matches the directory it stands in, so `/a/**` is
//! `/a` and all below it. Real paths have no empty, `.` or `..` components, so neither has a glob.

use serde::{Serialize, Serializer};

/// Most bytes of one glob as written.
pub const MAX_GLOB: usize = 1024;
/// Most alternatives that the braces of one glob may unfold to.
pub const MAX_ALTERNATIVES: usize = 64;
/// Deepest nesting of braces.
const MAX_BRACES: usize = 8;

/// A set of byte values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ByteSet([u64; 4]);

impl ByteSet {
    /// Adds a byte.
    pub fn insert(&mut self, byte: u8) {
        self.0[byte as usize / 64] |= 1 << (byte % 64);
    }

    /// Removes a byte.
    pub fn remove(&mut self, byte: u8) {
        self.0[byte as usize / 64] &= !(1 << (byte % 64));
    }

    /// Whether the byte is in the set.
    pub fn contains(&self, byte: u8) -> bool {
        self.0[byte as usize / 64] & 1 << (byte % 64) != 0
    }

    /// All bytes that are not in the set.
    pub fn inverted(self) -> Self {
        ByteSet(self.0.map(|w| !w))
    }

    /// Whether the set has no bytes.
    pub fn is_empty(&self) -> bool {
        self.0 == [0; 4]
    }
}

/// A part of a component.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Atom {
    /// This byte.
    Byte(u8),
    /// One byte, whichever.
    Any,
    /// One byte of the set, which never holds `/`.
    Class(ByteSet),
    /// Any number of bytes.
    Star,
}

/// A component of a pattern.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Component {
    /// `**`: any number of components.
    Any,
    /// One component that these parts describe; never empty, no two stars in a row.
    Parts(Vec<Atom>),
}

/// Where a pattern starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Start {
    /// At the root.
    Root,
    /// At each home directory.
    Home,
    /// At any directory: the pattern was written with a leading `**/`, which is not among its components.
    Anywhere,
}

/// One alternative of a glob, braces unfolded.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern {
    /// Where it starts.
    pub start: Start,
    /// Its components. Empty for the start itself. No two [`Component::Any`] in a row.
    pub components: Vec<Component>,
}

/// A glob as written, and what it means.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Glob {
    text: String,
    patterns: Vec<Pattern>,
}

/// What is wrong with a glob.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GlobError {
    /// An empty glob.
    #[error("a glob cannot be empty")]
    Empty,
    /// Longer than [`MAX_GLOB`].
    #[error("a glob has at most {MAX_GLOB} bytes")]
    TooLong,
    /// Not an absolute form.
    #[error("a glob starts with `/`, `~/` or `**/`")]
    Start,
    /// `~name`.
    #[error("`~` stands for each home directory; `~name` is not known")]
    NamedHome,
    /// `//`.
    #[error("an empty component: `//`")]
    EmptyComponent,
    /// `/` at the end.
    #[error("a glob does not end with `/`")]
    TrailingSlash,
    /// `.` or `..`.
    #[error("`{0}` never occurs in a real path")]
    Dots(&'static str),
    /// `a**`.
    #[error("`**` must be a whole component")]
    PartialStars,
    /// `[` without `]`.
    #[error("`[` without `]`")]
    OpenClass,
    /// `[]` or a class that excludes every byte.
    #[error("a class that matches nothing")]
    EmptyClass,
    /// `[z-a]`.
    #[error("a class range that runs backwards")]
    BackwardsRange,
    /// A class with `/` in it.
    #[error("a class cannot hold `/`")]
    SlashInClass,
    /// A class with a character of several bytes.
    #[error("a class holds single bytes only; `{0}` has several")]
    WideInClass(char),
    /// `{` without `}`.
    #[error("`{{` without `}}`")]
    OpenBrace,
    /// `}` without `{`.
    #[error("`}}` without `{{`")]
    ClosingBrace,
    /// Braces too deep or unfolding too far.
    #[error("braces nest at most {MAX_BRACES} deep and unfold to at most {MAX_ALTERNATIVES} globs")]
    TooManyAlternatives,
    /// `\` at the end.
    #[error("`\\` at the end")]
    TrailingEscape,
    /// A NUL byte.
    #[error("a path has no NUL byte")]
    Nul,
}

impl GlobError {
    /// What to write instead of `text`.
    pub fn help(&self, text: &str) -> Option<String> {
        match self {
            GlobError::Start if text.starts_with("./") => Some(format!("write `**/{}`", &text[2..])),
            GlobError::Start if text.starts_with("*/") => Some(format!("write `**/{}`", &text[2..])),
            GlobError::Start => Some(format!("write `**/{text}` for one at any depth, or the whole path")),
            GlobError::NamedHome => Some("write the directory's path".into()),
            GlobError::TrailingSlash => {
                let dir = text.trim_end_matches('/');
                Some(format!("write `{dir}` for the directory, or `{dir}/**` for all below it as well"))
            }
            GlobError::PartialStars => Some("within a component one `*` is enough".into()),
            GlobError::OpenClass | GlobError::OpenBrace | GlobError::ClosingBrace => {
                Some("write `\\` before a character that is meant as itself".into())
            }
            _ => None,
        }
    }
}

impl Glob {
    /// Parses a glob.
    pub fn parse(text: &str) -> Result<Glob, GlobError> {
        if text.is_empty() {
            return Err(GlobError::Empty);
        }
        if text.len() > MAX_GLOB {
            return Err(GlobError::TooLong);
        }
        if text.contains('\0') {
            return Err(GlobError::Nul);
        }
        let mut patterns = Vec::new();
        for alternative in unfold(text, 0)? {
            let pattern = pattern(&alternative)?;
            if !patterns.contains(&pattern) {
                patterns.push(pattern);
            }
        }
        Ok(Glob { text: text.to_owned(), patterns })
    }

    /// A word that stands for several globs: it matches what one of them does.
    pub(crate) fn word(word: &str, globs: &[&str]) -> Result<Glob, GlobError> {
        let mut all = Glob { text: word.to_owned(), patterns: Vec::new() };
        for glob in globs {
            all.patterns.extend(Glob::parse(glob)?.patterns);
        }
        Ok(all)
    }

    /// The glob as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The alternatives; a path matches the glob if it matches one of them.
    pub fn patterns(&self) -> &[Pattern] {
        &self.patterns
    }
}

impl Serialize for Glob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

/// Length in bytes of what starts at `text[at]`, taken as one unit by the search for braces: an escape, a
/// class, or one byte.
fn unit(text: &[u8], at: usize) -> Result<usize, GlobError> {
    match text[at] {
        b'\\' if at + 1 == text.len() => Err(GlobError::TrailingEscape),
        b'\\' => Ok(2),
        b'[' => {
            let mut i = at + 1;
            if matches!(text.get(i), Some(b'!' | b'^')) {
                i += 1;
            }
            // A `]` that comes first is meant as itself.
            if text.get(i) == Some(&b']') {
                i += 1;
            }
            while let Some(byte) = text.get(i) {
                match byte {
                    b']' => return Ok(i + 1 - at),
                    b'\\' => i += 2,
                    _ => i += 1,
                }
            }
            Err(GlobError::OpenClass)
        }
        _ => Ok(1),
    }
}

/// Unfolds braces: `a{b,c}` is `ab` and `ac`.
fn unfold(text: &str, depth: usize) -> Result<Vec<String>, GlobError> {
    if depth > MAX_BRACES {
        return Err(GlobError::TooManyAlternatives);
    }
    let bytes = text.as_bytes();
    let mut done = vec![String::new()];
    let (mut i, mut from) = (0, 0);
    while i < bytes.len() {
        match bytes[i] {
            b'}' => return Err(GlobError::ClosingBrace),
            b'{' => {
                let (choices, end) = choices(text, i)?;
                let mut next = Vec::new();
                for choice in choices {
                    for tail in unfold(choice, depth + 1)? {
                        for head in &done {
                            if next.len() == MAX_ALTERNATIVES {
                                return Err(GlobError::TooManyAlternatives);
                            }
                            next.push(format!("{head}{}{tail}", &text[from..i]));
                        }
                    }
                }
                done = next;
                i = end;
                from = end;
            }
            _ => i += unit(bytes, i)?,
        }
    }
    for head in &mut done {
        head.push_str(&text[from..]);
    }
    Ok(done)
}

/// The choices of the brace at `open`, and where the text after it starts.
fn choices(text: &str, open: usize) -> Result<(Vec<&str>, usize), GlobError> {
    let bytes = text.as_bytes();
    let (mut i, mut from, mut depth) = (open + 1, open + 1, 0usize);
    let mut found = Vec::new();
    while i < bytes.len() {
        match bytes[i] {
            b'{' => depth += 1,
            b'}' if depth == 0 => {
                found.push(&text[from..i]);
                return Ok((found, i + 1));
            }
            b'}' => depth -= 1,
            b',' if depth == 0 => {
                found.push(&text[from..i]);
                from = i + 1;
            }
            _ => {}
        }
        i += unit(bytes, i)?;
    }
    Err(GlobError::OpenBrace)
}

/// Parses a glob without braces.
fn pattern(text: &str) -> Result<Pattern, GlobError> {
    let (start, rest) = match text {
        "" => return Err(GlobError::Empty),
        "/" => return Ok(Pattern { start: Start::Root, components: Vec::new() }),
        "~" => return Ok(Pattern { start: Start::Home, components: Vec::new() }),
        "**" => (Start::Root, "**"),
        _ => match (text.strip_prefix('/'), text.strip_prefix("~/")) {
            (Some(rest), _) => (Start::Root, rest),
            (_, Some(rest)) => (Start::Home, rest),
            _ if text.starts_with("**/") => (Start::Root, text),
            _ if text.starts_with('~') => return Err(GlobError::NamedHome),
            _ => return Err(GlobError::Start),
        },
    };
    let mut components = Vec::new();
    let mut parts = components_of(rest)?.into_iter().peekable();
    while let Some(part) = parts.next() {
        match part {
            "" if parts.peek().is_none() => return Err(GlobError::TrailingSlash),
            "" => return Err(GlobError::EmptyComponent),
            "." => return Err(GlobError::Dots(".")),
            ".." => return Err(GlobError::Dots("..")),
            "**" => {
                if components.last() != Some(&Component::Any) {
                    components.push(Component::Any);
                }
            }
            _ => components.push(Component::Parts(atoms(part)?)),
        }
    }
    // `/**/x` is `**/x`; `/**` alone stays, as it is the root and all below.
    let start = if start == Start::Root && components.len() > 1 && components[0] == Component::Any {
        components.remove(0);
        Start::Anywhere
    } else {
        start
    };
    Ok(Pattern { start, components })
}

/// Splits at `/`, which cannot be escaped and must not stand in a class.
fn components_of(text: &str) -> Result<Vec<&str>, GlobError> {
    let bytes = text.as_bytes();
    let (mut i, mut from) = (0, 0);
    let mut found = Vec::new();
    while i < bytes.len() {
        if bytes[i] == b'/' {
            found.push(&text[from..i]);
            from = i + 1;
            i += 1;
            continue;
        }
        let len = unit(bytes, i)?;
        if len > 1 && bytes[i..i + len].contains(&b'/') {
            return Err(GlobError::SlashInClass);
        }
        i += len;
    }
    found.push(&text[from..]);
    Ok(found)
}

/// The parts of one component.
fn atoms(part: &str) -> Result<Vec<Atom>, GlobError> {
    let bytes = part.as_bytes();
    let mut out: Vec<Atom> = Vec::new();
    let mut i = 0;
    while i < bytes.len() {
        let len = unit(bytes, i)?;
        match bytes[i] {
            b'*' if out.last() == Some(&Atom::Star) => return Err(GlobError::PartialStars),
            b'*' => out.push(Atom::Star),
            b'?' => out.push(Atom::Any),
            b'[' => out.push(Atom::Class(class(&part[i + 1..i + len - 1])?)),
            b'\\' => out.push(Atom::Byte(bytes[i + 1])),
            byte => out.push(Atom::Byte(byte)),
        }
        i += len;
    }
    Ok(out)
}

/// A class from what stands between its brackets.
fn class(body: &str) -> Result<ByteSet, GlobError> {
    let (negated, body) = match body.strip_prefix(['!', '^']) {
        Some(rest) => (true, rest),
        None => (false, body),
    };
    if let Some(wide) = body.chars().find(|c| !c.is_ascii()) {
        return Err(GlobError::WideInClass(wide));
    }
    // Each byte with whether it was escaped: an escaped `-` makes no range.
    let mut items = Vec::new();
    let mut bytes = body.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => items.push((bytes.next().ok_or(GlobError::OpenClass)?, true)),
            _ => items.push((byte, false)),
        }
    }
    let mut set = ByteSet::default();
    let mut i = 0;
    while i < items.len() {
        let first = items[i].0;
        if i + 2 < items.len() && items[i + 1] == (b'-', false) {
            let last = items[i + 2].0;
            if last < first {
                return Err(GlobError::BackwardsRange);
            }
            (first..=last).for_each(|b| set.insert(b));
            i += 3;
        } else {
            set.insert(first);
            i += 1;
        }
    }
    if set.is_empty() {
        return Err(GlobError::EmptyClass);
    }
    let mut set = if negated { set.inverted() } else { set };
    set.remove(b'/');
    set.remove(0);
    if set.is_empty() { Err(GlobError::EmptyClass) } else { Ok(set) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(text: &str) -> Vec<Pattern> {
        Glob::parse(text).unwrap_or_else(|e| panic!("{text}: {e}")).patterns
    }

    fn bytes(text: &str) -> Component {
        Component::Parts(text.bytes().map(Atom::Byte).collect())
    }

    #[test]
    fn starts() {
        assert_eq!(patterns("/"), [Pattern { start: Start::Root, components: vec![] }]);
        assert_eq!(patterns("**"), patterns("/**"));
        assert_eq!(patterns("/**/x"), patterns("**/x"));
        assert_eq!(patterns("**/**/x"), patterns("**/x"));
        assert_eq!(patterns("**/x"), [Pattern { start: Start::Anywhere, components: vec![bytes("x")] }]);
        assert_eq!(patterns("~/x"), [Pattern { start: Start::Home, components: vec![bytes("x")] }]);
        assert_eq!(patterns("~"), [Pattern { start: Start::Home, components: vec![] }]);
        assert_eq!(patterns("~/**/x")[0].start, Start::Home);
    }

    #[test]
    fn braces_unfold() {
        assert_eq!(patterns("/{a,b/c}/d"), [patterns("/a/d"), patterns("/b/c/d")].concat());
        assert_eq!(patterns("/x{,1,{2,3}}").len(), 4);
        assert_eq!(patterns("{/a,~/b,**/c}").len(), 3);
        assert_eq!(patterns("/[{]x[}]").len(), 1);
        assert_eq!(
            patterns("/\\{a,b\\}"),
            [Pattern { start: Start::Root, components: vec![bytes("{a,b}")] }]
        );
        assert_eq!(patterns("/{a,a}").len(), 1);
    }

    #[test]
    fn errors_say_what() {
        for (text, want) in [
            ("", GlobError::Empty),
            ("a", GlobError::Start),
            ("*", GlobError::Start),
            ("*.pem", GlobError::Start),
            ("~root/x", GlobError::NamedHome),
            ("/a//b", GlobError::EmptyComponent),
            ("//a", GlobError::EmptyComponent),
            ("/a/", GlobError::TrailingSlash),
            ("~/", GlobError::TrailingSlash),
            ("**/", GlobError::TrailingSlash),
            ("/a/./b", GlobError::Dots(".")),
            ("/a/../b", GlobError::Dots("..")),
            ("/a**", GlobError::PartialStars),
            ("/***", GlobError::PartialStars),
            ("/[", GlobError::OpenClass),
            ("/[a", GlobError::OpenClass),
            ("/[]", GlobError::OpenClass),
            ("/[z-a]", GlobError::BackwardsRange),
            ("/[a/b]", GlobError::SlashInClass),
            ("/a\\/b", GlobError::SlashInClass),
            ("/[é]", GlobError::WideInClass('é')),
            ("/{a,b", GlobError::OpenBrace),
            ("/a}", GlobError::ClosingBrace),
            ("/a\\", GlobError::TrailingEscape),
            ("/a\0", GlobError::Nul),
            ("/{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}", GlobError::TooManyAlternatives),
            ("/{{{{{{{{{{a}}}}}}}}}}", GlobError::TooManyAlternatives),
        ] {
            assert_eq!(Glob::parse(text), Err(want), "{text:?}");
        }
        assert_eq!(Glob::parse(&format!("/{}", "a".repeat(MAX_GLOB))), Err(GlobError::TooLong));
    }

    #[test]
    fn classes() {
        let set = class("a-c\\-]").unwrap();
        for (byte, inside) in [(b'a', true), (b'b', true), (b'-', true), (b']', true), (b'd', false)] {
            assert_eq!(set.contains(byte), inside, "{}", byte as char);
        }
        let set = class("!a-c").unwrap();
        assert!(!set.contains(b'b') && !set.contains(b'/') && !set.contains(0) && set.contains(b'x'));
        assert!(class("-a").unwrap().contains(b'-') && class("a-").unwrap().contains(b'-'));
        assert_eq!(patterns("/[]a]").len(), 1);
    }

    #[test]
    fn hostile_globs_end_soon() {
        for text in
            ["{".repeat(1000), "{,".repeat(500), "[".repeat(1000), "/{a,b}".repeat(170), "\\".repeat(999)]
        {
            assert!(Glob::parse(&text).is_err());
        }
    }
}
