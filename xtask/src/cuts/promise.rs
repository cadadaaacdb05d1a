//! What a guest says, and what it has promised by that.
//!
//! Must never: take for a promise what did not arrive whole, or hold a guest to less than it has said.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::disk::Event;

/// How long opening the log may take, which is what a host waits for after a crash. It is to be 2 s; an emulated machine beside two others has
/// taken 1.5, and is not to fail for that.
pub const RECOVERY: Duration = Duration::from_secs(8);

/// A line that the guest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line<'a> {
    Mounted,
    /// Receipts found, receipts signed, bytes cut off, milliseconds.
    Opened([u64; 4]),
    /// So many receipts are all as written, in a log that verifies.
    Intact(u64),
    Durable(u64),
    /// So many receipts come to this root.
    Signed(u64, &'a str),
    /// The same as intact, at the end.
    Verified(u64),
    /// Writing has failed, for this, and the writer does nothing any more.
    Failed(&'a str),
    /// The log is not opened, for this.
    Refused(&'a str),
    /// There is no file system any more, for this.
    Unmountable(&'a str),
    /// Who remembers the last checkpoint was told that the log was rolled back.
    RolledBack,
    /// Anything else, which is wrong.
    Other(&'a str),
}

impl<'a> Line<'a> {
    pub fn parse(line: &'a str) -> Self {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let numbers: Option<Vec<u64>> = rest.split(' ').map(|n| n.parse().ok()).collect();
        match (word, numbers.as_deref()) {
            ("mounted", _) if rest.is_empty() => Self::Mounted,
            ("opened", Some([size, signed, cut, took])) => Self::Opened([*size, *signed, *cut, *took]),
            ("intact", Some([n])) => Self::Intact(*n),
            ("durable", Some([n])) => Self::Durable(*n),
            ("verified", Some([n])) => Self::Verified(*n),
            ("failed", _) => Self::Failed(rest),
            ("refused", _) => Self::Refused(rest),
            ("unmountable", _) => Self::Unmountable(rest),
            ("rolled", _) if rest == "back" => Self::RolledBack,
            ("signed", _) => match rest.split_once(' ').map(|(n, root)| (n.parse(), root)) {
                Some((Ok(n), root)) if root.len() == 64 => Self::Signed(n, root),
                _ => Self::Other(line),
            },
            _ => Self::Other(line),
        }
    }
}

/// What must be there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Promised {
    pub durable: u64,
    pub signed: u64,
    /// What those come to that are signed; empty where none are.
    pub root: String,
}

impl Promised {
    /// Goes on with what has happened to a disk that had all this. Each promise must be kept whenever the log is opened, and rest on a flush
    /// after the one before.
    pub fn follow(&mut self, events: &[Event]) -> Result<()> {
        // Since what was durable last, and since what was signed last: a checkpoint is placed while more is made durable.
        let (mut flushed, mut flushed_since_signed, mut opened) = (false, false, false);
        for (at, event) in events.iter().enumerate() {
            let line = match event {
                Event::Flush => {
                    (flushed, flushed_since_signed) = (true, true);
                    continue;
                }
                Event::Said(line) => line,
                _ => continue,
            };
            let rests = match Line::parse(line) {
                Line::Signed(..) => &mut flushed_since_signed,
                _ => &mut flushed,
            };
            let more = match Line::parse(line) {
                Line::Opened([size, signed, _, took]) => {
                    ensure!(size >= self.durable, "{size} receipts, and {} were durable", self.durable);
                    ensure!(signed >= self.signed, "{signed} receipts signed, and {} were", self.signed);
                    ensure!(u128::from(took) <= RECOVERY.as_millis(), "the log was opened after {took} ms");
                    self.signed = signed;
                    // What the first finds is on disk. The next may find what another has written, and not made durable.
                    let more = std::mem::replace(&mut self.durable, size) < size;
                    std::mem::replace(&mut opened, true) && more
                }
                Line::Durable(n) => {
                    ensure!(n >= self.durable, "{n} receipts durable, after {}", self.durable);
                    std::mem::replace(&mut self.durable, n) < n
                }
                Line::Signed(n, root) => {
                    ensure!(n >= self.signed, "{n} receipts signed, after {}", self.signed);
                    root.clone_into(&mut self.root);
                    self.durable = self.durable.max(n);
                    std::mem::replace(&mut self.signed, n) < n
                }
                Line::Other(line) => bail!("it says: {line}"),
                _ => false,
            };
            ensure!(
                !more || *rests,
                "{line:?}, and nothing was flushed for it: {}",
                since_last(&events[..at])
            );
            *rests &= !more;
        }
        Ok(())
    }

    /// What there is of it before an event.
    pub fn until(&self, events: &[Event]) -> Result<Self> {
        let mut promised = self.clone();
        promised.follow(events)?;
        Ok(promised)
    }
}

/// What the disk was told since a line was said, for whoever looks into it.
fn since_last(events: &[Event]) -> String {
    let since = events.iter().rposition(|event| matches!(event, Event::Said(_))).map_or(0, |at| at + 1);
    let told = events[since..].iter().map(|event| match event {
        Event::Write(place, bytes) => format!("{} bytes at {place}", bytes.len()),
        Event::Flush => "flush".to_owned(),
        Event::Failed => "failed".to_owned(),
        Event::Said(line) => line.clone(),
    });
    let told: Vec<String> = told.collect();
    format!("since {:?} it was told [{}]", since.checked_sub(1).map(|at| &events[at]), told.join(", "))
}

/// What a guest has said of one disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    pub opened: Option<[u64; 4]>,
    pub intact: bool,
    pub verified: bool,
    pub rolled_back: bool,
    pub failed: Option<String>,
    pub refused: Option<String>,
    pub unmountable: Option<String>,
}

impl Said {
    pub fn of<'a>(lines: impl Iterator<Item = (usize, &'a str)>) -> Result<Self> {
        let mut said = Self::default();
        for (_, line) in lines {
            let because = |why: &str| Some(why.to_owned());
            match Line::parse(line) {
                // The first is what the loss of power has left.
                Line::Opened(numbers) => _ = said.opened.get_or_insert(numbers),
                Line::Intact(_) => said.intact = true,
                Line::Verified(_) => said.verified = true,
                Line::RolledBack => said.rolled_back = true,
                Line::Failed(why) => said.failed = because(why),
                Line::Refused(why) => said.refused = because(why),
                Line::Unmountable(why) => said.unmountable = because(why),
                Line::Other(line) => bail!("it says: {line}"),
                Line::Mounted | Line::Durable(_) | Line::Signed(..) => {}
            }
        }
        Ok(said)
    }

    /// All is there, and it went on.
    pub fn whole(&self) -> Result<[u64; 4]> {
        ensure!(self.intact && self.verified, "it has not come to its end: {self:?}");
        self.opened.context("it has not opened the log")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(lines: &[&str]) -> Vec<Event> {
        let event = |line: &&str| if *line == "-" { Event::Flush } else { Event::Said((*line).to_owned()) };
        lines.iter().map(event).collect()
    }

    fn root(of: char) -> String {
        String::from(of).repeat(64)
    }

    #[test]
    fn lines_are_what_they_are_and_nothing_else() {
        assert_eq!(Line::parse("opened 7 5 0 12"), Line::Opened([7, 5, 0, 12]));
        assert_eq!(Line::parse("failed no such file"), Line::Failed("no such file"));
        let signed = format!("signed 9 {}", root('a'));
        assert_eq!(Line::parse(&signed), Line::Signed(9, &root('a')));
        for other in
            ["opened 7 5 0", "durable", "durable x", "durable 1 2", "signed 9", "signed 9 ab", "x", ""]
        {
            assert_eq!(Line::parse(other), Line::Other(other));
        }
    }

    #[test]
    fn what_is_not_there_was_not_kept() {
        let promised = Promised { durable: 90, signed: 80, root: root('a') };
        let after = |lines: &[&str]| promised.until(&said(lines));
        assert_eq!(after(&["mounted"]).unwrap(), promised, "cut before it was opened");
        assert_eq!(after(&["opened 90 80 0 3"]).unwrap(), promised);
        assert_eq!(after(&["opened 95 80 9 3"]).unwrap().durable, 95);
        for wrong in ["opened 89 80 0 3", "opened 90 79 0 3", "opened 90 80 0 8001", "durable 89", "panicked"]
        {
            assert!(after(&["-", wrong]).is_err(), "{wrong}");
        }
        let signed = format!("signed 99 {}", root('b'));
        let grown = after(&["opened 90 80 0 1", "-", "durable 95", "-", &signed]).unwrap();
        assert_eq!(grown, Promised { durable: 99, signed: 99, root: root('b') });
    }

    #[test]
    fn a_promise_rests_on_a_flush_of_its_own() {
        let follow = |lines: &[&str]| Promised::default().follow(&said(lines));
        assert!(follow(&["-", "durable 5", "durable 5", "-", "durable 7"]).is_ok());
        assert!(follow(&["durable 5"]).is_err());
        assert!(follow(&["-", "durable 5", "durable 7"]).is_err());
        let (signed, more) = (format!("signed 5 {}", root('a')), format!("signed 7 {}", root('b')));
        assert!(follow(&["-", "durable 5", "-", &signed, &more]).is_err());
        assert!(follow(&["-", "durable 5", "-", "durable 7", &signed]).is_ok(), "placed meanwhile");
        assert!(follow(&["opened 5 0 0 1", "-", "opened 7 0 0 1"]).is_ok());
        assert!(
            follow(&["opened 5 0 0 1", "opened 7 0 0 1"]).is_err(),
            "what a writer that was killed has left"
        );
    }

    #[test]
    fn who_has_not_come_to_the_end_has_not_kept_it() {
        let of = |lines: &[&str]| Said::of(lines.iter().map(|line| (0, *line)));
        let all = of(&["mounted", "opened 7 5 1 12", "intact 7", "opened 9 7 0 1", "verified 9"]).unwrap();
        assert_eq!(all.whole().unwrap(), [7, 5, 1, 12]);
        assert!(of(&["mounted", "opened 7 5 1 12", "intact 7"]).unwrap().whole().is_err());
        assert!(of(&["mounted", "wrong: a receipt"]).is_err());
    }
}
