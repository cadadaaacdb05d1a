//! Where output goes: standard output, with or without colour, as text or as JSON.

use std::io::{self, BufWriter, IsTerminal, Write};

use anstyle::Style;
use serde::Serialize;

/// `--color`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Color {
    /// On a terminal, unless `NO_COLOR` is set or the terminal is dumb.
    #[default]
    Auto,
    /// Even into a file or pipe.
    Always,
    /// Not at all.
    Never,
}

/// The few styles there are.
pub mod style {
    use anstyle::{AnsiColor, Style};

    /// Column headings and labels.
    pub const HEAD: Style = Style::new().bold();
    /// Allowed, passed, intact.
    pub const GOOD: Style = AnsiColor::Green.on_default();
    /// Denied, failed, tampered.
    pub const BAD: Style = AnsiColor::Red.on_default().bold();
    /// Something to look at.
    pub const WARN: Style = AnsiColor::Yellow.on_default();
    /// Of less interest.
    pub const DIM: Style = Style::new().dimmed();
    /// The word before an error.
    pub const ERROR: Style = BAD;
    /// The word before a suggestion.
    pub const HELP: Style = AnsiColor::Cyan.on_default();
}

/// A text stream that knows whether it is coloured.
pub struct Output {
    stream: Box<dyn Write>,
    color: bool,
    terminal: bool,
}

impl Output {
    /// Standard output, buffered: call [`Output::flush`] where somebody waits for it.
    pub fn stdout(color: Color) -> Self {
        let stream = io::stdout();
        Self {
            color: chosen(color, || anstream::AutoStream::choice(&stream)),
            terminal: stream.is_terminal(),
            stream: Box::new(BufWriter::new(stream)),
        }
    }

    /// Standard error.
    pub fn stderr(color: Color) -> Self {
        let stream = io::stderr();
        Self {
            color: chosen(color, || anstream::AutoStream::choice(&stream)),
            terminal: stream.is_terminal(),
            stream: Box::new(stream),
        }
    }

    /// Output into memory, for tests.
    #[cfg(test)]
    pub fn memory(color: bool) -> (Self, std::sync::Arc<std::sync::Mutex<Vec<u8>>>) {
        struct Shared(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);
        impl Write for Shared {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().expect("not poisoned").extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let bytes = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        (Self { stream: Box::new(Shared(bytes.clone())), color, terminal: false }, bytes)
    }

    /// Columns of the terminal, if it is one.
    pub fn columns(&self) -> Option<usize> {
        if !self.terminal {
            return None;
        }
        terminal_size::terminal_size().map(|(width, _)| usize::from(width.0))
    }

    /// Whether styles come out.
    pub fn has_color(&self) -> bool {
        self.color
    }

    /// The text in a style, or as it is where there is no colour.
    pub fn paint(&self, style: Style, text: &str) -> String {
        if self.color && !text.is_empty() { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }

    /// One line.
    pub fn line(&mut self, text: &str) -> io::Result<()> {
        self.stream.write_all(text.trim_end_matches(' ').as_bytes())?;
        self.stream.write_all(b"\n")
    }

    /// A value as indented JSON.
    pub fn json(&mut self, value: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut self.stream, value)?;
        self.stream.write_all(b"\n")
    }

    /// A value as one line of JSON.
    pub fn json_line(&mut self, value: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.stream, value)?;
        self.stream.write_all(b"\n")
    }

    /// Bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Hands everything on.
    pub fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

fn chosen(color: Color, auto: impl FnOnce() -> anstream::ColorChoice) -> bool {
    match color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => auto() != anstream::ColorChoice::Never,
    }
}
