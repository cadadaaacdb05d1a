//! YAML with a place for every node.
//!
//! Turns bytes into a tree of [`Node`]s that keep their line and column. It promises bounded work: the
//! document has at most [`MAX_DOCUMENT`] bytes and nests at most [`MAX_DEPTH`] deep, and since anchors are
//! refused nothing in it can grow by expansion. What YAML can do and a policy does not need (anchors and
//! aliases, tags, several documents, keys that are not text) is an error, never ignored.

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use crate::diagnostic::{Code, Diagnostic, Place, Sink};

/// Most bytes of a document.
pub const MAX_DOCUMENT: usize = 1 << 20;
/// Deepest nesting of a document. A policy needs 8.
pub const MAX_DEPTH: usize = 32;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub place: Place,
    pub value: Value,
}

/// What a node is.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// Text as written, and whether it was written plain (not quoted): only then can it be a number, a truth
    /// value or nothing.
    Scalar {
        text: String,
        plain: bool,
    },
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// A key and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub place: Place,
    pub text: String,
}

/// The type of a node by YAML's core schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Nothing,
    Truth,
    Integer,
    Float,
    Text,
    List,
    Map,
}

impl Kind {
    /// For "expected …, found …".
    pub(crate) fn article(self) -> &'static str {
        match self {
            Kind::Nothing => "nothing",
            Kind::Truth => "a truth value",
            Kind::Integer => "a number",
            Kind::Float => "a decimal number",
            Kind::Text => "text",
            Kind::List => "a list",
            Kind::Map => "a mapping",
        }
    }
}

impl Node {
    /// The node's type.
    pub(crate) fn kind(&self) -> Kind {
        match &self.value {
            Value::List(_) => Kind::List,
            Value::Map(_) => Kind::Map,
            Value::Scalar { plain: false, .. } => Kind::Text,
            Value::Scalar { text, .. } => match text.as_str() {
                "" | "~" | "null" | "Null" | "NULL" => Kind::Nothing,
                "true" | "True" | "TRUE" | "false" | "False" | "FALSE" => Kind::Truth,
                t if integer(t).is_some() => Kind::Integer,
                t if is_float(t) => Kind::Float,
                _ => Kind::Text,
            },
        }
    }

    /// The text, if the node is text.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, .. } if self.kind() == Kind::Text => Some(text),
            _ => None,
        }
    }

    /// The text of any scalar as it was written.
    pub(crate) fn written(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    /// The number, if the node is a whole one.
    pub(crate) fn integer(&self) -> Option<i128> {
        match &self.value {
            Value::Scalar { text, plain: true } => integer(text),
            _ => None,
        }
    }

    /// The truth value, if the node is one.
    pub(crate) fn truth(&self) -> Option<bool> {
        match (self.kind(), self.written()) {
            (Kind::Truth, Some(text)) => Some(text.eq_ignore_ascii_case("true")),
            _ => None,
        }
    }

    /// The entries, if the node is a mapping.
    pub(crate) fn map(&self) -> Option<&[(Key, Node)]> {
        match &self.value {
            Value::Map(entries) => Some(entries),
            _ => None,
        }
    }
}

/// A whole number of YAML's core schema. Beyond 128 bits it is none.
fn integer(text: &str) -> Option<i128> {
    if let Some(hex) = text.strip_prefix("0x") {
        return unsigned(hex, 16);
    }
    if let Some(octal) = text.strip_prefix("0o") {
        return unsigned(octal, 8);
    }
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let value = unsigned(digits, 10)?;
    Some(if negative { -value } else { value })
}

fn unsigned(digits: &str, radix: u32) -> Option<i128> {
    // `from_str_radix` takes a sign of its own.
    if digits.starts_with(['+', '-']) {
        return None;
    }
    i128::from_str_radix(digits, radix).ok()
}

/// Whether text is a float of YAML's core schema.
fn is_float(text: &str) -> bool {
    let body = text.strip_prefix(['-', '+']).unwrap_or(text);
    if matches!(body, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return true;
    }
    body.bytes().any(|b| b.is_ascii_digit())
        && body.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'))
        && text.parse::<f64>().is_ok()
}

/// Reads the one document in `source`. Nothing is returned where the text is not YAML; otherwise the tree,
/// and in `sink` what in it is refused.
pub(crate) fn read(source: &[u8], sink: &mut Sink) -> Option<Node> {
    let start = Place { line: 1, column: 1 };
    if source.len() > MAX_DOCUMENT {
        sink.error(
            start,
            Code::TooLarge,
            format!("the document has {} bytes; at most {MAX_DOCUMENT} are read", source.len()),
        );
        return None;
    }
    let text = match std::str::from_utf8(source) {
        Ok(text) => text,
        Err(error) => {
            let before = &source[..error.valid_up_to()];
            let line = before.iter().filter(|b| **b == b'\n').count() as u32 + 1;
            let tail = before.rsplit(|b| *b == b'\n').next().unwrap_or_default();
            let column = String::from_utf8_lossy(tail).chars().count() as u32 + 1;
            sink.error(Place { line, column }, Code::Encoding, "the document is not UTF-8");
            return None;
        }
    };
    let mut reader = Reader { sink, open: Vec::new(), root: None, documents: 0 };
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        match event {
            Ok((event, span)) => {
                if reader.event(event, span).is_err() {
                    return None;
                }
            }
            Err(error) => {
                let m = error.marker();
                let place = Place { line: m.line() as u32, column: m.col() as u32 + 1 };
                reader.sink.push(if error.info().contains("unknown anchor") {
                    alias(place)
                } else {
                    Diagnostic::error(place, Code::Syntax, format!("not YAML: {}", error.info()))
                });
                return None;
            }
        }
    }
    let root = reader.root.take();
    if root.is_none() {
        sink.error(start, Code::Syntax, "the document is empty");
    }
    root
}

fn alias(place: Place) -> Diagnostic {
    Diagnostic::error(place, Code::YamlFeature, "YAML aliases are not read")
        .help("put a glob that begins with `*` in quotes: \"**/.env\"")
}

/// Reading cannot go on.
struct Stop;

/// A list or mapping that is being read.
struct Open {
    place: Place,
    items: Items,
}

enum Items {
    List(Vec<Node>),
    /// Entries, the names seen, and the key whose value comes next (`None` inside for one that was refused).
    Map(Vec<(Key, Node)>, std::collections::HashSet<String>, Option<Option<Key>>),
}

struct Reader<'s> {
    sink: &'s mut Sink,
    open: Vec<Open>,
    root: Option<Node>,
    documents: usize,
}

impl Reader<'_> {
    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), Stop> {
        let place = Place { line: span.start.line() as u32, column: span.start.col() as u32 + 1 };
        match event {
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    self.sink.error(place, Code::YamlFeature, "a file holds one policy, this is a second");
                    return Err(Stop);
                }
                Ok(())
            }
            Event::Alias(_) => {
                self.sink.push(alias(place));
                self.add(Node { place, value: Value::Scalar { text: String::new(), plain: true } });
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.extras(place, anchor, tag.is_some());
                let plain = style == ScalarStyle::Plain;
                self.add(Node { place, value: Value::Scalar { text: text.into_owned(), plain } });
                Ok(())
            }
            Event::SequenceStart(anchor, tag) => {
                self.extras(place, anchor, tag.is_some());
                self.begin(place, Items::List(Vec::new()))
            }
            Event::MappingStart(anchor, tag) => {
                self.extras(place, anchor, tag.is_some());
                self.begin(place, Items::Map(Vec::new(), Default::default(), None))
            }
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(open) = self.open.pop() {
                    let value = match open.items {
                        Items::List(items) => Value::List(items),
                        Items::Map(entries, _, _) => Value::Map(entries),
                    };
                    self.add(Node { place: open.place, value });
                }
                Ok(())
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
        }
    }

    /// Refuses anchors and tags.
    fn extras(&mut self, place: Place, anchor: usize, tagged: bool) {
        if anchor != 0 {
            self.sink.error(place, Code::YamlFeature, "YAML anchors are not read");
        }
        if tagged {
            self.sink.error(place, Code::YamlFeature, "YAML tags are not read");
        }
    }

    fn begin(&mut self, place: Place, items: Items) -> Result<(), Stop> {
        if self.open.len() >= MAX_DEPTH {
            self.sink.error(place, Code::TooLarge, format!("nested deeper than {MAX_DEPTH} levels"));
            return Err(Stop);
        }
        self.open.push(Open { place, items });
        Ok(())
    }

    /// Puts a finished node where it belongs.
    fn add(&mut self, node: Node) {
        match self.open.last_mut().map(|open| &mut open.items) {
            None => self.root = Some(node),
            Some(Items::List(items)) => items.push(node),
            Some(Items::Map(entries, names, key)) => match key.take() {
                Some(Some(key)) => entries.push((key, node)),
                Some(None) => {}
                None => *key = Some(checked_key(self.sink, names, node)),
            },
        }
    }
}

/// A node in the place of a key, if it may be one.
fn checked_key(sink: &mut Sink, names: &mut std::collections::HashSet<String>, node: Node) -> Option<Key> {
    let place = node.place;
    let Value::Scalar { text, .. } = node.value else {
        sink.error(place, Code::YamlFeature, "a key must be text");
        return None;
    };
    if !names.insert(text.clone()) {
        sink.error(place, Code::DuplicateKey, format!("`{}` is given twice", shown(&text)));
        return None;
    }
    Some(Key { place, text })
}

/// Text for a message: printable, and cut where it is long.
pub(crate) fn shown(text: &str) -> String {
    const LONGEST: usize = 80;
    let mut out = String::new();
    for (n, c) in text.chars().enumerate() {
        if n == LONGEST {
            out.push('…');
            break;
        }
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(source: &[u8]) -> Vec<String> {
        let mut sink = Sink::default();
        read(source, &mut sink);
        sink.into_sorted().iter().map(ToString::to_string).collect()
    }

    fn one(source: &str) -> Node {
        let mut sink = Sink::default();
        let node = read(source.as_bytes(), &mut sink).expect("a document");
        assert_eq!(sink.errors(), 0, "{:?}", sink.into_sorted());
        node
    }

    #[test]
    fn nodes_know_their_places() {
        let root = one("a: 1\nb:\n  - x\n  - {c: 'd'}\n");
        let map = root.map().unwrap();
        assert_eq!((map[0].0.place.line, map[0].0.place.column), (1, 1));
        assert_eq!((map[0].1.place.line, map[0].1.place.column), (1, 4));
        let Value::List(items) = &map[1].1.value else { panic!() };
        assert_eq!((items[0].place.line, items[0].place.column), (3, 5));
        assert_eq!(
            (items[1].map().unwrap()[0].1.place.line, items[1].map().unwrap()[0].1.place.column),
            (4, 9)
        );
    }

    #[test]
    fn types_are_yaml_core() {
        for (text, kind) in [
            ("~", Kind::Nothing),
            ("null", Kind::Nothing),
            ("'~'", Kind::Text),
            ("true", Kind::Truth),
            ("yes", Kind::Text),
            ("12", Kind::Integer),
            ("-12", Kind::Integer),
            ("0x1f", Kind::Integer),
            ("'12'", Kind::Text),
            ("2026.11", Kind::Float),
            ("1e3", Kind::Float),
            ("1000-2000", Kind::Text),
            ("1.2.3", Kind::Text),
            ("infinity", Kind::Text),
            ("nan", Kind::Text),
            ("-.inf", Kind::Float),
            ("99999999999999999999999999999999999999999999999999", Kind::Float),
            ("[]", Kind::List),
            ("{}", Kind::Map),
        ] {
            assert_eq!(one(text).kind(), kind, "{text}");
        }
        assert_eq!(one("0o17").integer(), Some(15));
        assert_eq!(one("0x-1").integer(), None);
        assert_eq!(one("True").truth(), Some(true));
    }

    #[test]
    fn json_is_yaml() {
        let root = one("{\"a\": [1, \"x\\n\"], \"b\": {\"c\": null}}");
        assert_eq!(root.map().unwrap().len(), 2);
    }

    #[test]
    fn what_is_refused() {
        for (source, want) in [
            (&b"a: 1\na: 2"[..], "2:1: error: `a` is given twice"),
            (b"x: &a [1]\ny: *a", "1:4: error: YAML anchors"),
            (b"path: **/.env", "1:7: error: YAML aliases are not read (put a glob"),
            (b"x: !!str 1", "error: YAML tags"),
            (b"a: 1\n---\nb: 1", "2:1: error: a file holds one policy"),
            (b"? [a]\n: 1", "error: a key must be text"),
            (b"", "1:1: error: the document is empty"),
            (b"a: 1\nb: \xff", "2:4: error: the document is not UTF-8"),
            (b"a: [1", "error: not YAML"),
            (b"a: 'x", "error: not YAML"),
        ] {
            let all = errors(source);
            assert!(all.iter().any(|e| e.contains(want)), "{source:?}: {all:?}");
        }
    }

    #[test]
    fn depth_is_bounded() {
        for deep in ["[".repeat(100_000), "- ".repeat(100_000), "{a: ".repeat(100_000), "? ".repeat(100_000)]
        {
            let all = errors(deep.as_bytes());
            assert!(all.iter().any(|e| e.contains("nested deeper") || e.contains("not YAML")), "{all:?}");
        }
        let all = errors(&vec![b'a'; MAX_DOCUMENT + 1]);
        assert_eq!(all, ["1:1: error: the document has 1048577 bytes; at most 1048576 are read"]);
    }

    #[test]
    fn alias_bomb_is_not_expanded() {
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x]\n");
        for i in 1..20 {
            bomb.push_str(&format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 9].join(",")));
        }
        assert!(errors(bomb.as_bytes()).len() > 20);
    }
}
