//! Makes text from elsewhere safe to print on a terminal.
//!
//! Paths, arguments and command names are chosen by the programs under supervision. Printed as they are, they
//! could move the cursor, recolour or rewrite a line, or turn the reading direction round. Whatever is not a
//! plain printable character comes out as an escape, and so does the backslash, so that no two different
//! names look the same.

use std::borrow::Cow;
use std::fmt::Write;

/// Whether a character may go to a terminal as it is.
pub fn is_plain(c: char) -> bool {
    match c {
        ' '..='~' => c != '\\',
        // `escape_debug` leaves alone what Unicode calls printable: no controls, no format or direction
        // characters, no private or unassigned ones, no combining mark without a base.
        _ => c.escape_debug().len() == 1,
    }
}

/// Escapes a name or another single value: nothing but printable characters is left.
pub fn value(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_plain) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    text.chars().for_each(|c| push(&mut out, c));
    Cow::Owned(out)
}

/// Escapes a message: as [`value`], but line breaks and backslashes are the message's own.
pub fn text(message: &str) -> Cow<'_, str> {
    if message.chars().all(|c| is_plain(c) || c == '\n' || c == '\\') {
        return Cow::Borrowed(message);
    }
    let mut out = String::with_capacity(message.len() + 8);
    for c in message.chars() {
        if c == '\n' || c == '\\' { out.push(c) } else { push(&mut out, c) }
    }
    Cow::Owned(out)
}

/// Escapes bytes that are probably UTF-8; those that are not become `\xNN`.
pub fn bytes(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        chunk.valid().chars().for_each(|c| push(&mut out, c));
        for byte in chunk.invalid() {
            // Writing into a string cannot fail.
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out
}

fn push(out: &mut String, c: char) {
    if is_plain(c) { out.push(c) } else { out.extend(c.escape_debug()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn harmless_text_is_unchanged() {
        for t in ["/home/u/a b.txt", "it's \"quoted\"", "/srv/größe/日本", ""] {
            assert!(matches!(value(t), Cow::Borrowed(_)), "{t}");
            assert_eq!(value(t), t);
        }
    }

    #[test]
    fn terminal_controls_do_not_get_through() {
        for t in [
            "\x1b[2J",
            "a\rb",
            "a\nb",
            "\u{9b}31m",
            "\u{202e}txt.exe",
            "\u{7f}",
            "\u{0}",
            "\u{2028}",
            "\u{e000}",
        ] {
            let v = value(t);
            assert!(
                v.chars().all(|c| !c.is_control() && c.escape_debug().len() == 1 || c == '\\'),
                "{t:?} gave {v:?}"
            );
            assert_ne!(v, t);
        }
        assert_eq!(value("\x1b[2J"), "\\u{1b}[2J");
    }

    #[test]
    fn names_that_differ_look_different() {
        assert_ne!(value("\\n"), value("\n"));
        assert_eq!(value("a\\n"), "a\\\\n");
    }

    #[test]
    fn invalid_utf8_is_shown_in_hexadecimal() {
        assert_eq!(bytes(b"/tmp/\xff\xfe\x1b"), "/tmp/\\xff\\xfe\\u{1b}");
        assert_eq!(bytes("é".as_bytes()), "é");
    }

    #[test]
    fn messages_keep_their_lines() {
        assert_eq!(text("one\n\ttwo\x07"), "one\n\\ttwo\\u{7}");
    }
}
