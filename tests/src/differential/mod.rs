//! The kernel against the reference evaluator, on random policies and random actions that are really performed.
//!
//! A round: a small tree ([`world`]), a random policy, a process that puts itself into a session under it and acts
//! ([`actor`], [`deeds`]). It notes what it is about to do, by looking at the tree and not by asking the kernel programs,
//! and with which errno it ended. [`oracle`] asks the evaluator about each of these actions, in order and with the context
//! that results from those before, and holds its answer against errno and receipts. What disagrees is made small
//! ([`reduce`]) and shown.
//!
//! Everything follows from one seed. This is the one suite that knows the evaluator (`aarm-policy`): it is what the kernel is
//! held against. Must never: ask the compiled table, or make an expectation of a receipt (but for what the
//! kernel's parameters carry, which outlive a tree).

pub mod actor;
pub mod deeds;
pub mod oracle;
mod others;
pub mod reduce;
pub mod rng;
mod sockets;
pub mod world;

use std::time::Instant;

use aarm_policy::random::{self, Shape};
use aarm_policy::{Env, Policy};
use anyhow::{Result, bail, ensure};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::host::{Host, policy};
use crate::wanted::{number, seed};
use oracle::{Disagreement, Met};
use rng::Rng;

/// Decisions held against each other if nothing else is asked for.
const DECISIONS: usize = 20_000;
/// Deeds of one session; most are one or two decisions.
const DEEDS: usize = 420;
/// Sessions whose receipts are read at once.
const AT_ONCE: usize = 8;
/// One policy in so many may be more than the kernel's tables hold, and a few at first: more would show too little.
const UNFIT_ONE_IN: usize = 8;
/// See `UNFIT_ONE_IN`.
const UNFIT_FIRST: usize = 4;
/// Number of decisions asked for.
pub const WANTED: &str = "AARM_DIFFERENTIAL";

/// Where rules ask for the tree's files with several links: nothing is performed that it decides, but the daemon looks there
/// for other names when it loads the policy.
const ANCHOR: &str = "    - {id: anchor, match: {operation: kexec, path: [\"/a/**\", \"/b/**\", \"/ab/**\", \"/root/a/**\"]}, decision: DENY}\n";

/// Programs that act, under names that do and do not fit.
const EXE: &[&str] = &["/usr/local/bin/*", "**/aarm-vm-tests", "/usr/**", "**/aarm", "/{usr,b}/*/bin/aarm-*"];
/// Networks that this machine is in, and one that it is not.
const NETS: &[&str] = &["127.0.0.0/8", "127.0.0.1", "::1", "127.0.1.0/24", "0.0.0.0/0", "::/0"];
/// Conditions that do not depend on how fast this machine is.
const WHEN: &[&str] = &[
    "labels: {any: [A, B]}",
    "labels: {all: [A, C]}",
    "labels: {all: [D], none: [B]}",
    "labels: {none: [C, D]}",
    "level: {at_least: CONFIDENTIAL}",
    "level: {at_most: INTERNAL}",
    "level: {at_most: RESTRICTED}",
    "prior: {operation: connect}",
    "prior: {operation: [read, connect], count: 2, within: 1h}",
    "not_prior: {operation: [read, connect], count: 3, within: 1h}",
    "prior: {rule: r0}",
    "prior: [{rule: r0, operation: connect}, {operation: connect, within: 1h}]",
    "rate: {operation: write, over: 3, per: 1h}",
    "not_rate: {operation: write, over: 2, per: 1h}, labels: {any: [A]}",
    "elapsed: {over: 1h}",
    "elapsed: {under: 1h}, level: {at_least: RESTRICTED}",
];

/// What one session is made of. The same again gives the same tree, and the same deeds as far as the decisions are the same.
#[derive(Clone, Debug)]
pub struct Round {
    /// Seed of the run.
    pub seed: u64,
    /// Number of the round.
    pub number: usize,
    /// Deeds to do.
    pub deeds: usize,
    /// The policy.
    pub text: String,
}

/// What became of a round.
pub struct Played {
    /// Its session.
    pub session: String,
    /// What it did.
    pub acts: Vec<actor::Act>,
}

/// How many rules a round's policy has: most few, so that many of them decide; now and then all that there can be.
fn shape(number: usize) -> Shape {
    // Lineages and cgroups are the same for all that is done here: `subject` has cases of its own.
    let host = Shape {
        exe: EXE,
        nets: NETS,
        when: WHEN,
        subject: &[],
        waits: false,
        lines: 0,
        ..Shape::small(0..0)
    };
    match number % 16 {
        // With the anchor that makes 512.
        7 => Shape { rules: 511..512, broad: 0, plain: true, ..host },
        3 | 11 => Shape { rules: 60..200, broad: 1, plain: true, ..host },
        5 => Shape { rules: 0..2, ..host },
        9 => Shape { rules: 1..6, deep: true, ..host },
        _ => Shape { rules: 3..40, broad: 2, ..host },
    }
}

/// A random policy. Its version makes it one of its own, which the daemon compiles anew.
fn random_policy(seed: u64, number: usize) -> Result<String> {
    let mut bytes = [0u8; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..16].copy_from_slice(&(number as u64).to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let tree = random::policy(shape(number)).new_tree(&mut runner);
    let text = tree.map_err(|e| anyhow::anyhow!("no policy of this seed: {e}"))?.current();
    Ok(text.replace("    []\n", "") + ANCHOR)
}

/// Gives a policy a version of its own, so that nothing that the kernel remembers of another one counts.
fn named(text: &str, version: &str) -> String {
    text.replacen("version: \"1\"", &format!("version: \"{version}\""), 1)
}

/// Plays a round: tree, session, deeds. `None`: the policy does not fit the kernel's tables.
pub fn play(round: &Round, version: &str) -> Result<Option<(Played, Policy)>> {
    let text = named(&round.text, version);
    let parsed = Policy::parse(text.as_bytes()).map_err(|e| anyhow::anyhow!("{text}\n{e:?}"))?;
    let world = world::World::new(&mut Rng::of(round.seed, round.number, 0))?;
    let played = actor::perform(round, &text, &world)?;
    Ok(played.map(|played| (played, parsed)))
}

/// Runs it.
pub fn run() -> Result<()> {
    let seed = seed()?;
    let wanted = number(WANTED)?.map_or(DECISIONS, |n| n as usize);
    println!("differential: seed {seed}, {wanted} decisions");
    let host = Host::start(&policy(""))?;
    let env = Env::from_passwd(&std::fs::read("/etc/passwd")?);
    let began = Instant::now();
    let mut met = Met::default();
    let (mut number, mut unfit) = (0, 0);
    let mut found: Vec<(Round, Disagreement)> = Vec::new();
    // Seconds for what takes time: playing, reading, comparing.
    let mut took = [0.0; 3];
    while met.decisions < wanted && found.is_empty() {
        let mut rounds = Vec::new();
        let start = Instant::now();
        while rounds.len() < AT_ONCE && met.decisions + rounds.len() * DEEDS < wanted {
            let round = Round { seed, number, deeds: DEEDS, text: random_policy(seed, number)? };
            number += 1;
            match play(&round, &format!("{seed}-{number}"))? {
                Some((played, policy)) => rounds.push((round, played, policy)),
                None => unfit += 1,
            }
        }
        ensure!(
            unfit <= UNFIT_FIRST + number / UNFIT_ONE_IN,
            "{unfit} of {number} policies do not fit the kernel's tables"
        );
        if rounds.is_empty() {
            continue;
        }
        took[0] += start.elapsed().as_secs_f64();
        let start = Instant::now();
        let sessions: Vec<&str> = rounds.iter().map(|(_, played, _)| played.session.as_str()).collect();
        let mut receipts = host.receipts_of(&sessions)?;
        took[1] += start.elapsed().as_secs_f64();
        let start = Instant::now();
        for (round, played, policy) in &rounds {
            let receipts = receipts.remove(&played.session).unwrap_or_default();
            if let Err(disagreement) = oracle::compare(policy, &env, &played.acts, &receipts, &mut met) {
                println!(
                    "THE KERNEL AND THE EVALUATOR DISAGREE (seed {seed}, policy {}): repeat with --seed {seed}\n{disagreement}",
                    round.number
                );
                found.push((round.clone(), *disagreement));
            }
        }
        took[2] += start.elapsed().as_secs_f64();
        println!(
            "differential: {} decisions under {number} policies in {} s (acting {:.0}, reading {:.0}, evaluating {:.0})",
            met.decisions,
            began.elapsed().as_secs(),
            took[0],
            took[1],
            took[2]
        );
    }
    if let Some((round, disagreement)) = found.first() {
        return Err(told(&host, &env, round, disagreement));
    }
    println!("differential: seed {seed}: {met}; {unfit} of {number} policies did not fit");
    host.verified()?;
    met.everything()
}

/// A disagreement, with the smallest policy that still shows it.
fn told(host: &Host, env: &Env, round: &Round, found: &Disagreement) -> anyhow::Error {
    println!("reducing policy {}", round.number);
    let small = reduce::reduce(host, env, round, found.act);
    anyhow::anyhow!(
        "the kernel and the evaluator disagree (seed {}, policy {})\n{found}\n{small}",
        round.seed,
        round.number
    )
}

/// The receipts of one session, as [`oracle::compare`] takes them.
pub fn receipts(host: &Host, session: &str) -> Result<Vec<serde_json::Value>> {
    match host.receipts_of(&[session])?.remove(session) {
        Some(receipts) => Ok(receipts),
        None => bail!("session {session} has no receipts"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Those of 512 rules once never did: all of them were left out, and now and then so many that the run failed.
    #[test]
    fn policies_of_every_size_fit_the_tables() {
        let env = Env::from_passwd(b"u:x:1000:1000::/home/u:/bin/sh\n");
        for seed in 0..3 {
            for number in 0..16 {
                let text = random_policy(seed, number).unwrap();
                let policy = Policy::parse(text.as_bytes()).unwrap();
                if number % 16 == 7 {
                    assert_eq!(policy.rules().len(), 512);
                }
                if let Err(errors) = aarm_policy::compile(&policy, &env, 1) {
                    panic!("seed {seed}, policy {number}: {}", errors[0].message);
                }
            }
        }
    }
}
