//! Diagnostics for people: the line, and a mark under the place.

use std::path::Path;

use aarm_policy::{Diagnostic, Severity};
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use crate::cli::escape;
use crate::cli::output::Output;

/// Columns where the output is no terminal.
const COLUMNS: usize = 140;

/// Prints one diagnostic with the line it is about.
pub fn diagnostic(out: &mut Output, path: &Path, source: &str, d: &Diagnostic) -> std::io::Result<()> {
    let file = escape::bytes(path.as_os_str().as_encoded_bytes());
    // One line only: a document may be long, and have many errors.
    let line: String = source
        .lines()
        .nth((d.line as usize).saturating_sub(1))
        .unwrap_or_default()
        .chars()
        // Column by column, so that the mark stays where it belongs.
        .map(|c| {
            if c == '\t' {
                ' '
            } else if c == '\\' || escape::is_plain(c) {
                c
            } else {
                '\u{fffd}'
            }
        })
        .collect();
    let message = escape::text(&d.message);
    let help = d.help.as_deref().map(escape::text);
    let level = match d.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let mut group: Group<'_> = level.primary_title(message.as_ref()).element(
        Snippet::source(line.as_str())
            .line_start(d.line.max(1) as usize)
            .path(file.as_str())
            .annotation(AnnotationKind::Primary.span(span(&line, d.column))),
    );
    if let Some(help) = &help {
        group = group.element(Level::HELP.message(help.as_ref()));
    }
    let renderer = if out.has_color() { Renderer::styled() } else { Renderer::plain() };
    let text = renderer.term_width(out.columns().unwrap_or(COLUMNS)).render(&[group]);
    for line in text.lines() {
        out.line(line)?;
    }
    out.line("")
}

/// Most bytes marked.
const MARK_MAX: usize = 60;

/// The bytes to mark: the word that begins at the column.
fn span(line: &str, column: u32) -> std::ops::Range<usize> {
    let start = line.char_indices().nth((column as usize).saturating_sub(1)).map_or(line.len(), |(i, _)| i);
    let rest = &line[start..];
    let ends = |c: char| c.is_whitespace() || matches!(c, ',' | ']' | '}' | ':');
    let first = rest.chars().next().map_or(0, char::len_utf8);
    let word = rest.find(ends).unwrap_or(rest.len()).max(first);
    start..start + rest.floor_char_boundary(word.min(MARK_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(source: &str) -> String {
        let errors = aarm_policy::Policy::parse(source.as_bytes()).unwrap_err();
        let (mut out, bytes) = Output::memory(false);
        for e in &errors {
            diagnostic(&mut out, Path::new("p.yaml"), source, e).unwrap();
        }
        let bytes = bytes.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn the_mark_is_under_the_word() {
        let text = shown(
            "apiVersion: aarm.dev/v1alpha1\nkind: AgentPolicy\nmetadata: { name: x }\nspec:\n  mood: enforce\n",
        );
        assert!(text.contains("p.yaml:5:3"), "{text}");
        assert!(text.contains("  mood: enforce\n"), "{text}");
        assert!(text.contains("  ^^^^"), "{text}");
    }

    #[test]
    fn a_hostile_document_prints_nothing_hostile() {
        let text = shown(
            "apiVersion: aarm.dev/v1alpha1\nkind: \"\u{1b}[2J\u{202e}x\"\nspec:\n  \u{9b}31m: 1\n\t: \u{7}\n",
        );
        assert!(text.chars().all(|c| c == '\n' || !c.is_control() && c != '\u{202e}'), "{text:?}");
    }

    #[test]
    fn spans_stay_inside_the_line() {
        for (line, column) in
            [("", 1), ("", 99), ("abc", 4), ("é: x", 1), ("a, b", 2), ("日本", 2), (&"ü".repeat(500), 2)]
        {
            let s = span(line, column);
            assert!(line.get(s.clone()).is_some(), "{line} {column} {s:?}");
        }
        assert_eq!(span("  mood: x", 3), 2..6);
        assert_eq!(span("a, b", 2), 1..2);
    }
}
