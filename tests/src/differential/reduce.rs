//! Makes a policy small that shows a disagreement: what can be left out, with the kernel asked each time, is.

use std::time::{Duration, Instant};

use aarm_policy::Env;
use anyhow::Result;

use super::oracle::{self, Disagreement, Met};
use super::{ANCHOR, Round, play, receipts};
use crate::host::Host;

/// Rounds played to make a policy small.
const TRIES: usize = 80;
/// How long that may take.
const TIME: Duration = Duration::from_secs(180);

/// Whether a line can be left out: a rule, or an entry of `data`.
fn is_part(line: &str) -> bool {
    line.starts_with("    - {") && !ANCHOR.starts_with(line)
}

/// Plays a round once more; its disagreement, if there still is one.
fn disagrees(host: &Host, env: &Env, round: &Round, version: &str) -> Result<Option<Disagreement>> {
    let Some((played, policy)) = play(round, version)? else { return Ok(None) };
    let receipts = receipts(host, &played.session)?;
    Ok(oracle::compare(&policy, env, &played.acts, &receipts, &mut Met::default()).err().map(|found| *found))
}

/// The smallest policy found that disagrees in a round that ends after deed `last`, and how.
pub fn reduce(host: &Host, env: &Env, round: &Round, last: usize) -> String {
    let began = Instant::now();
    let mut round = Round { deeds: round.deeds.min(last + 1), ..round.clone() };
    let mut tries = 0;
    let mut shown = None;
    let mut attempt = |round: &Round| {
        tries += 1;
        // A policy that is none any more (a condition on a rule that is gone) shows nothing.
        let found = disagrees(host, env, round, &format!("reduced-{tries}")).unwrap_or_default();
        let is = found.is_some();
        shown = found.or(shown.take());
        (is, tries < TRIES && began.elapsed() < TIME)
    };
    let (again, mut more) = attempt(&round);
    if !again {
        return "it does not come again in a round of its own: it depends on time, or on what was before\n"
            .into();
    }
    let parts = |text: &str| text.lines().filter(|l| is_part(l)).count();
    let mut chunk = parts(&round.text).div_ceil(2);
    while chunk > 0 && more {
        let mut from = 0;
        while from < parts(&round.text) && more {
            let mut at = 0;
            let kept = round.text.lines().filter(|line| {
                let here = at;
                at += usize::from(is_part(line));
                !is_part(line) || here < from || here >= from + chunk
            });
            let text: String = kept.map(|line| format!("{line}\n")).collect();
            let smaller = Round { text, ..round.clone() };
            let (again, go_on) = attempt(&smaller);
            more = go_on;
            if again {
                round = smaller;
            } else {
                from += chunk;
            }
        }
        chunk = if chunk == 1 { 0 } else { chunk.div_ceil(2) };
    }
    let shown = shown.map(|found| found.to_string()).unwrap_or_default();
    let whole = if more { "" } else { " (there was no time for all)" };
    format!("the smallest policy that still disagrees{whole}:\n{}\nthere:\n{shown}", round.text)
}
