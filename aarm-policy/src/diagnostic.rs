//! What is wrong with a document, and where.
//!
//! Owns the one shape in which the parser, the checks and the compiler report. A report names a place, says
//! what is wrong in the reader's terms, and where it can, what to write instead.

use serde::Serialize;
use std::fmt;

/// Most diagnostics reported for one document; a last one says that there are more.
pub const MAX_DIAGNOSTICS: usize = 200;

/// A place in a document. Lines and columns count from 1, columns in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Place {
    /// Line, from 1.
    pub line: u32,
    /// Column, from 1.
    pub column: u32,
}

/// How bad a diagnostic is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The document is refused.
    Error,
    /// The document is accepted; its author should look.
    Warning,
}

/// The kind of a diagnostic, stable for tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// Not YAML.
    Syntax,
    /// Not UTF-8.
    Encoding,
    /// More bytes, or deeper nesting, than is read.
    TooLarge,
    /// A YAML feature that policies do without: aliases, tags, several documents, keys that are not text.
    YamlFeature,
    /// A key given twice.
    DuplicateKey,
    /// A field that means nothing here.
    UnknownField,
    /// A field that must be there and is not.
    MissingField,
    /// A value of another type than the field takes.
    WrongType,
    /// A value of the right type that the field does not take.
    BadValue,
    /// A glob that is not well formed.
    BadGlob,
    /// A host that is no name and no glob over names.
    BadHost,
    /// Rules ask for names of hosts, and nobody is trusted to tell them.
    NoResolver,
    /// An address or network that is not well formed.
    BadAddress,
    /// Two things with one name.
    DuplicateId,
    /// More of something than there may be.
    TooMany,
    /// Part of the language, but not of this version.
    NotSupportedYet,
    /// A predicate on something the operation does not have.
    Inapplicable,
    /// Rules that contradict each other.
    Conflict,
    /// A rule that can never win.
    Shadowed,
    /// The compiled form does not fit the kernel's tables.
    TooCostly,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// How bad it is.
    pub severity: Severity,
    /// What kind it is.
    pub code: Code,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl Diagnostic {
    /// An error at a place.
    pub(crate) fn error(place: Place, code: Code, message: impl Into<String>) -> Self {
        Diagnostic {
            line: place.line,
            column: place.column,
            severity: Severity::Error,
            code,
            message: message.into(),
            help: None,
        }
    }

    /// A warning at a place.
    pub(crate) fn warning(place: Place, code: Code, message: impl Into<String>) -> Self {
        Diagnostic { severity: Severity::Warning, ..Self::error(place, code, message) }
    }

    /// Adds what to do about it.
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The place.
    pub fn place(&self) -> Place {
        Place { line: self.line, column: self.column }
    }

    /// Shows the diagnostic as `file:12:7: error: …`, the form editors jump to.
    pub fn in_file<'a>(&'a self, file: &'a str) -> impl fmt::Display + 'a {
        InFile { file, diagnostic: self }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, "{}:{}: {severity}: {}", self.line, self.column, self.message)?;
        match &self.help {
            Some(help) => write!(f, " ({help})"),
            None => Ok(()),
        }
    }
}

struct InFile<'a> {
    file: &'a str,
    diagnostic: &'a Diagnostic,
}

impl fmt::Display for InFile<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.diagnostic)
    }
}

/// Collects diagnostics while a document is read, so that all of them are reported.
#[derive(Debug, Default)]
pub(crate) struct Sink {
    found: Vec<Diagnostic>,
    left_out: bool,
    errors: usize,
}

impl Sink {
    /// Adds one, unless there are [`MAX_DIAGNOSTICS`].
    pub(crate) fn push(&mut self, diagnostic: Diagnostic) {
        if diagnostic.severity == Severity::Error {
            self.errors += 1;
        }
        if self.found.len() < MAX_DIAGNOSTICS {
            self.found.push(diagnostic);
        } else {
            self.left_out = true;
        }
    }

    /// Adds an error.
    pub(crate) fn error(&mut self, place: Place, code: Code, message: impl Into<String>) {
        self.push(Diagnostic::error(place, code, message));
    }

    /// Errors so far, those left out included.
    pub(crate) fn errors(&self) -> usize {
        self.errors
    }

    /// All that was found, by place; a last entry says if some were left out.
    pub(crate) fn into_sorted(mut self) -> Vec<Diagnostic> {
        self.found.sort_by_key(Diagnostic::place);
        if self.left_out {
            let place = self.found.last().map(Diagnostic::place).unwrap_or_default();
            self.found.push(Diagnostic::error(
                place,
                Code::TooMany,
                format!("more than {MAX_DIAGNOSTICS} problems; the rest is not shown"),
            ));
        }
        self.found
    }
}

/// ` (did you mean …)` material: the candidate nearest to what was written, if any is near.
pub(crate) fn nearest<'a>(written: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Comparing costs the product of the lengths, and nothing that long is a slip of the finger.
    if written.len() > 64 {
        return None;
    }
    let folded = written.to_ascii_lowercase().replace('-', "_");
    candidates
        .into_iter()
        .map(|c| (strsim::damerau_levenshtein(&folded, &c.to_ascii_lowercase().replace('-', "_")), c))
        .filter(|(distance, c)| *distance <= (c.len() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, c)| c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_place_message_and_help() {
        let d = Diagnostic::error(Place { line: 12, column: 7 }, Code::UnknownField, "unknown field `pth`")
            .help("did you mean `path`?");
        assert_eq!(
            d.in_file("p.yaml").to_string(),
            "p.yaml:12:7: error: unknown field `pth` (did you mean `path`?)"
        );
    }

    #[test]
    fn nearest_is_near() {
        assert_eq!(nearest("pth", ["cidr", "path"]), Some("path"));
        assert_eq!(nearest("DENNY", ["ALLOW", "DENY"]), Some("DENY"));
        assert_eq!(nearest("not-path", ["path", "not_path"]), Some("not_path"));
        assert_eq!(nearest("zebra", ["cidr", "path"]), None);
        assert_eq!(nearest(&"x".repeat(100_000), ["path"]), None);
    }

    #[test]
    fn too_many_are_cut() {
        let mut sink = Sink::default();
        for line in (0..500).rev() {
            sink.error(Place { line, column: 1 }, Code::BadValue, "x");
        }
        assert_eq!(sink.errors(), 500);
        let all = sink.into_sorted();
        assert_eq!(all.len(), MAX_DIAGNOSTICS + 1);
        assert!(all[0].line <= all[1].line);
        assert_eq!(all[MAX_DIAGNOSTICS].code, Code::TooMany);
    }
}
