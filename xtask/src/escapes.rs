//! `cargo xtask escapes`: the table of the escape corpus, from what the suites saw.
//!
//! Every run of an `escapes::` case leaves its results in `target/escapes-KERNEL.jsonl`, a family at a time, so that a
//! run of one family replaces that family's results and no other's.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::cache;
use crate::setup::MATRIX;

/// What stands before a result in a suite's output.
const MARK: &str = "@escape ";

/// Arguments of `cargo xtask escapes`.
#[derive(clap::Args)]
pub struct EscapesArgs {
    /// Only what is not contained.
    #[arg(long)]
    open: bool,
}

/// What became of one technique on one kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Line {
    family: String,
    name: String,
    what: String,
    result: String,
    by: String,
}

fn file(kernel: &str) -> PathBuf {
    cache::target().join(format!("escapes-{kernel}.jsonl"))
}

fn parse(text: &str) -> Result<Vec<Line>> {
    text.lines()
        .filter_map(|l| l.split_once(MARK))
        .map(|(_, json)| Ok(serde_json::from_str(json.trim())?))
        .collect()
}

/// Keeps the results that are in a suite's output.
pub fn collect(kernel: &str, output: &str) -> Result<()> {
    let new = parse(output).context("a result of the escape corpus is damaged")?;
    if new.is_empty() {
        return Ok(());
    }
    let old = std::fs::read_to_string(file(kernel)).unwrap_or_default();
    let mut lines = parse(&old).unwrap_or_default();
    lines.retain(|l| !new.iter().any(|n| n.family == l.family));
    lines.extend(new);
    let mut text = String::new();
    for line in &lines {
        writeln!(text, "{MARK}{}", serde_json::to_string(line)?)?;
    }
    Ok(std::fs::write(file(kernel), text)?)
}

/// Prints the table.
pub fn run(args: &EscapesArgs) -> Result<u8> {
    let mut kernels = Vec::new();
    for kernel in MATRIX {
        let text = std::fs::read_to_string(file(kernel.series)).unwrap_or_default();
        kernels.push((kernel.series, parse(&text)?));
    }
    ensure!(
        kernels.iter().any(|(_, lines)| !lines.is_empty()),
        "no suite has tried the escape corpus yet: cargo xtask test --vm escapes::"
    );
    print!("{}", table(&kernels, args.open));
    Ok(0)
}

/// Families in the order of the corpus, and their headings.
const FAMILIES: [(&str, &str); 6] = [
    ("names", "Names of files"),
    ("programs", "Programs"),
    ("network", "Network"),
    ("tree", "The process tree"),
    ("guard", "The guard itself"),
    ("uring", "io_uring"),
];

/// One table for each family; its techniques in the order of the first kernel that has a line.
fn table(kernels: &[(&str, Vec<Line>)], only_open: bool) -> String {
    let mut order: Vec<(&str, &str)> = Vec::new();
    let mut found: BTreeMap<(&str, &str), Vec<Option<&Line>>> = BTreeMap::new();
    for (at, (_, lines)) in kernels.iter().enumerate() {
        for line in lines {
            let key = (line.family.as_str(), line.name.as_str());
            let row = found.entry(key).or_insert_with(|| {
                order.push(key);
                vec![None; kernels.len()]
            });
            row[at] = Some(line);
        }
    }
    let mut out = String::new();
    let mut tally = [0usize; 4];
    for (family, title) in FAMILIES {
        let series: Vec<&str> = kernels.iter().map(|(k, _)| *k).collect();
        let _ = writeln!(
            out,
            "\n**{}**\n\n| technique | {} | what stops it, or why nothing does |",
            title,
            series.join(" | ")
        );
        let _ = writeln!(out, "|---|{}---|", "---|".repeat(series.len()));
        for key in order.iter().filter(|(f, _)| *f == family) {
            let row = &found[key];
            let marks: Vec<&str> = row.iter().map(|l| mark(*l)).collect();
            let any = row.iter().flatten().next().expect("a row is made for a line");
            tally[class(row)] += 1;
            if only_open && class(row) != 1 {
                continue;
            }
            let _ = writeln!(
                out,
                "| {} | {} | {} |",
                cell(&any.what),
                marks.join(" | "),
                cell(&reasons(kernels, row))
            );
        }
    }
    let [contained, open, absent, elsewhere] = tally;
    format!(
        "{contained} contained on every kernel tried, {open} not contained on at least one, {absent} not tried in these machines, \
         {elsewhere} tried by other cases.\n{out}"
    )
}

/// Where a row is counted: 0 contained, 1 open somewhere, 2 tried nowhere, 3 in another case.
fn class(row: &[Option<&Line>]) -> usize {
    let has = |result: &str| row.iter().flatten().any(|l| l.result == result);
    match () {
        () if has("open") => 1,
        () if has("contained") => 0,
        () if has("elsewhere") => 3,
        () => 2,
    }
}

fn mark(line: Option<&Line>) -> &'static str {
    match line.map(|l| l.result.as_str()) {
        Some("contained") => "yes",
        Some("elsewhere") => "see",
        Some("open") => "**no**",
        Some(_) => "–",
        None => "?",
    }
}

/// What stops it; by kernel where that differs.
fn reasons(kernels: &[(&str, Vec<Line>)], row: &[Option<&Line>]) -> String {
    let mut all: Vec<(&str, Vec<&str>)> = Vec::new();
    for ((kernel, _), line) in kernels.iter().zip(row) {
        let Some(line) = line else { continue };
        match all.iter_mut().find(|(by, _)| *by == line.by) {
            Some((_, on)) => on.push(kernel),
            None => all.push((&line.by, vec![kernel])),
        }
    }
    match all.as_slice() {
        [(by, _)] => (*by).to_owned(),
        _ => all.iter().map(|(by, on)| format!("{}: {by}", on.join(", "))).collect::<Vec<_>>().join("; "),
    }
}

/// A text inside a table's cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &str, result: &str, by: &str) -> Line {
        Line {
            family: "names".into(),
            name: name.into(),
            what: name.into(),
            result: result.into(),
            by: by.into(),
        }
    }

    #[test]
    fn results_are_found_behind_other_words() {
        let l = line("a", "contained", "x");
        let text =
            format!("test escapes::names ... {MARK}{}\r\nnothing\n", serde_json::to_string(&l).unwrap());
        assert_eq!(parse(&text).unwrap(), [l]);
        assert!(parse("@escape {").is_err());
    }

    #[test]
    fn kernels_stand_side_by_side() {
        let kernels = [
            ("6.1", vec![line("a", "contained", "rule"), line("b", "open", "why")]),
            ("7.2", vec![line("a", "contained", "rule"), line("b", "contained", "rule")]),
        ];
        let text = table(&kernels, false);
        assert!(text.contains("| a | yes | yes | rule |"), "{text}");
        assert!(text.contains("| b | **no** | yes | 6.1: why; 7.2: rule |"), "{text}");
        assert!(text.starts_with("1 contained on every kernel tried, 1 not"), "{text}");
    }
}
