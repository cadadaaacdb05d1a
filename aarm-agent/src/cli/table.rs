//! Plain text tables, for lists and for live output.

use anstyle::Style;
use unicode_width::UnicodeWidthChar;

use super::output::{Output, style};

/// Spaces between columns.
const GAP: usize = 2;

/// Columns that a text takes on a terminal.
pub fn width(text: &str) -> usize {
    text.chars().map(|c| c.width().unwrap_or(0)).sum()
}

/// Cuts a text to so many columns, with an ellipsis in its middle: both ends of a path tell something.
pub fn fit(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let room = columns.saturating_sub(1);
    let (head, tail) = (room / 3, room - room / 3);
    let start = take(text.chars(), head);
    let end: String = take(text.chars().rev(), tail).chars().rev().collect();
    if columns == 0 { String::new() } else { format!("{start}…{end}") }
}

/// As many characters as fit.
fn take(chars: impl Iterator<Item = char>, columns: usize) -> String {
    let mut left = columns;
    chars
        .take_while(|c| {
            let w = c.width().unwrap_or(0);
            let fits = w <= left;
            left = left.saturating_sub(w);
            fits
        })
        .collect()
}

/// One cell: text that is safe to print, and its style.
#[derive(Clone, Debug, Default)]
pub struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// A styled cell.
    pub fn styled(text: impl Into<String>, style: Style) -> Self {
        Self { text: text.into(), style }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::styled(text, Style::new())
    }
}

/// A column.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Heading.
    pub head: &'static str,
    /// Numbers stand to the right.
    pub right: bool,
}

impl Column {
    /// A column of text.
    pub const fn text(head: &'static str) -> Self {
        Self { head, right: false }
    }

    /// A column of numbers.
    pub const fn number(head: &'static str) -> Self {
        Self { head, right: true }
    }
}

/// One line with every cell in its column. A cell too wide pushes the rest to the right, except where `cut`.
pub fn row(out: &Output, columns: &[Column], widths: &[usize], cells: &[Cell], cut: bool) -> String {
    let mut line = String::new();
    for (i, ((column, &wide), cell)) in columns.iter().zip(widths).zip(cells).enumerate() {
        let text = if cut { fit(&cell.text, wide) } else { cell.text.clone() };
        let pad = " ".repeat(wide.saturating_sub(width(&text)));
        let shown = out.paint(cell.style, &text);
        if i > 0 {
            line.push_str(&" ".repeat(GAP));
        }
        if column.right {
            line.push_str(&pad);
            line.push_str(&shown);
        } else {
            line.push_str(&shown);
            if i + 1 < columns.len() {
                line.push_str(&pad);
            }
        }
    }
    line
}

/// The line of headings.
pub fn head(out: &Output, columns: &[Column], widths: &[usize]) -> String {
    let cells: Vec<Cell> = columns.iter().map(|c| Cell::styled(c.head, style::HEAD)).collect();
    row(out, columns, widths, &cells, false)
}

/// A table of known rows, each column as wide as its widest cell.
pub fn print(out: &mut Output, columns: &[Column], rows: &[Vec<Cell>]) -> std::io::Result<()> {
    let widths: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(i, c)| {
            rows.iter().filter_map(|r| r.get(i)).map(|c| width(&c.text)).fold(c.head.len(), usize::max)
        })
        .collect();
    let head = head(out, columns, &widths);
    out.line(&head)?;
    for cells in rows {
        let line = row(out, columns, &widths, cells, false);
        out.line(&line)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(color: bool, rows: &[Vec<Cell>]) -> String {
        let (mut out, bytes) = Output::memory(color);
        print(&mut out, &[Column::text("NAME"), Column::number("N"), Column::text("LAST")], rows).unwrap();
        let bytes = bytes.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn columns_line_up() {
        let rows = vec![
            vec!["a".into(), "5".into(), "x".into()],
            vec!["größe".into(), "1234".into(), "".into()],
            vec!["日本".into(), "12".into(), "z".into()],
        ];
        assert_eq!(printed(false, &rows), "NAME      N  LAST\na         5  x\ngröße  1234\n日本     12  z\n");
    }

    #[test]
    fn colour_does_not_change_the_layout() {
        let rows = vec![vec![Cell::styled("a", style::BAD), "5".into(), "x".into()]];
        let plain = anstream::adapter::strip_str(&printed(true, &rows)).to_string();
        assert_eq!(plain, printed(false, &rows));
        assert_ne!(plain, printed(true, &rows));
    }

    #[test]
    fn a_text_is_cut_in_its_middle() {
        assert_eq!(fit("/usr/bin/python3", 16), "/usr/bin/python3");
        assert_eq!(fit("/usr/lib/very/long/name.txt", 13), "/usr…name.txt");
        assert_eq!(width(&fit("日本日本日本日本", 7)), 7.min(width(&fit("日本日本日本日本", 7))));
        assert_eq!(fit("abc", 0), "");
        assert_eq!(fit("abc", 1), "…");
        for n in 0..20 {
            assert!(width(&fit("a日b本c日d本e", n)) <= n);
        }
    }
}
