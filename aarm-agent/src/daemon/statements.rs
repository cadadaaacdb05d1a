//! What an agent said of itself lately: its last request and the tools that it was about to call. Bounded; all of it is in the log.

use std::collections::VecDeque;

use crate::api::feed::{Said, What};

/// Statements of each kind that are kept.
const KEPT: usize = 8;
/// Bytes that are kept of each text.
const TEXT: usize = 1024;

/// What was said, oldest first.
#[derive(Clone, Debug, Default)]
pub struct Statements {
    all: VecDeque<(u64, What, String)>,
}

impl Statements {
    /// Keeps something that was said.
    pub fn note(&mut self, now_ns: u64, said: &Said) {
        let mut text = match said.what {
            What::Intent => said.text.clone(),
            What::Tool => format!("{}: {}", said.name, said.text),
        };
        text.truncate(text.floor_char_boundary(TEXT));
        let same =
            |all: &VecDeque<(u64, What, String)>| all.iter().filter(|(_, w, _)| *w == said.what).count();
        if same(&self.all) >= KEPT
            && let Some(oldest) = self.all.iter().position(|(_, w, _)| *w == said.what)
        {
            self.all.remove(oldest);
        }
        self.all.push_back((now_ns, said.what, text));
    }

    /// What was said last of that kind, if not before that time.
    pub fn last(&self, what: What, from_ns: u64) -> Option<String> {
        let last = self.all.iter().rev().find(|(_, w, _)| *w == what);
        last.filter(|(at, ..)| *at >= from_ns).map(|(.., text)| text.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_each_kind_is_kept_and_no_flood_of_one_pushes_out_the_other() {
        let said = |what, name: &str, text: &str| Said { what, name: name.into(), text: text.into() };
        let mut s = Statements::default();
        s.note(1, &said(What::Intent, "", "fix the build"));
        (2..100).for_each(|n| s.note(n, &said(What::Tool, "Bash", &format!("ls {n}"))));
        assert_eq!(s.last(What::Intent, 0).as_deref(), Some("fix the build"));
        assert_eq!(s.last(What::Tool, 99).as_deref(), Some("Bash: ls 99"));
        assert_eq!(s.last(What::Tool, 100), None);
        assert_eq!(s.all.len(), KEPT + 1);
        s.note(100, &said(What::Tool, "Bash", &"\u{fc}".repeat(TEXT)));
        assert!(s.last(What::Tool, 0).unwrap().len() <= TEXT);
    }
}
