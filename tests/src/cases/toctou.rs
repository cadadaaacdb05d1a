//! What runs is what was decided, whoever rewrites it between the asking and the doing.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::Case;
use crate::asks::{answer, id, while_it_waits};
use crate::desk::answering;
use crate::host::{Host, ME, file, policy};
use crate::race::{ADDRESSES, DIR, WORDS};
use crate::wanted::number;

pub const CASES: &[Case] = &[
    ("what_is_rewritten_meanwhile_is_decided_as_it_is_done", decided),
    ("what_is_rewritten_while_it_waits_is_asked_about_again", asked),
    ("words_that_are_rewritten_are_decided_as_the_program_gets_them", words),
    ("while_an_image_is_asked_about_nobody_changes_it", pending),
];

/// Tries in all. `AARM_TOCTOU=1000000 cargo xtask test --vm --kernel 6.12 toctou::` makes a million.
const TRIES: u64 = 20_000;
/// See `TRIES`.
const WANTED: &str = "AARM_TOCTOU";
/// Of so many tries one is about a link, for which a name is written each time; one runs a program; one asks people.
const A_LINK: u64 = 20;
const A_PROGRAM: u64 = 200;
const A_QUESTION: u64 = 200;

/// The program that says its words.
const SAY: &str = "/tmp/race/say";
const TOOL: &str = "/tmp/race/busybox";

/// The first of two may be, and what is neither, which comes of reading while it is rewritten, may not.
const DECIDED: &str = "
- { id: to-a, match: { operation: connect, cidr: 127.0.0.1/32, port: 4101 }, decision: ALLOW }
- { id: to-others, match: { operation: connect, cidr: 127.0.0.0/8 }, decision: DENY }
- { id: not-b, match: { operation: open_read, path: /tmp/race/bbbbbbb }, decision: DENY }
- { id: says-a, match: { operation: exec, exe: /tmp/race/say, argv: [actor, say, aaaaaaa, last] }, decision: ALLOW }
- { id: says-b, match: { operation: exec, exe: /tmp/race/say, not_args: [b] }, decision: DENY }
";

/// The same, asked about.
const ASKED: &str = "
- { id: to, match: { operation: connect, cidr: 127.0.0.0/8 }, decision: STEP_UP }
- { id: opens, match: { operation: open_read, path: ['/tmp/race/aaaaaaa', '/tmp/race/bbbbbbb'] }, decision: STEP_UP }
- { id: makes, match: { operation: exec, exe: /tmp/race/busybox, args: [mkdir] }, decision: STEP_UP }
";

/// What is allowed is counted: of most tries there is a receipt only if they are refused.
const RECORD: &str = "  record: { read: summary, network: summary }\n";

fn host(rules: &str) -> Result<Host> {
    let _ = std::fs::remove_dir_all(DIR);
    for word in WORDS {
        file(format!("{DIR}/{word}"), word)?;
    }
    std::fs::copy(ME, SAY)?;
    std::fs::copy("/bin/busybox", TOOL)?;
    Host::start(&(policy(rules) + RECORD))
}

fn tries() -> Result<u64> {
    Ok(number(WANTED)?.unwrap_or(TRIES))
}

/// Runs a technique, and fails unless both came of it, and nothing that may not.
fn race(h: &Host, technique: &[&str], tries: u64) -> Result<()> {
    let (began, number) = (Instant::now(), tries.to_string());
    let (status, output, _) =
        h.run_only(&[], &[&[ME, "actor", "race"], technique, &[number.as_str()]].concat())?;
    ensure!(status == 0, "{technique:?}: errno {status}\n{output}");
    let counts = output.lines().last().unwrap_or_default();
    println!("toctou: {technique:?}: {counts} of {tries} in {} s", began.elapsed().as_secs());
    let counts: Vec<u64> = counts.split(' ').map(str::parse).collect::<Result<_, _>>()?;
    let [right, wrong, refused, _nothing] = counts[..] else { bail!("{output}") };
    ensure!(wrong == 0, "{technique:?}: {wrong} of {tries} were not as decided\n{output}");
    ensure!(right > 0 && refused > 0, "{technique:?}: not both came of it\n{output}");
    Ok(())
}

fn decided() -> Result<()> {
    let h = host(DECIDED)?;
    let tries = tries()?;
    for (technique, tries) in [("connects", tries / 2), ("opens", tries / 2), ("links", tries / A_LINK)] {
        race(&h, &[technique], tries)?;
    }
    h.verified()
}

fn asked() -> Result<()> {
    let h = host(ASKED)?;
    let tries = tries()? / A_QUESTION;
    let (ip, port) = ADDRESSES[0];
    let (address, path) = (std::net::SocketAddr::from((ip, port)).to_string(), format!("{DIR}/{}", WORDS[0]));
    let judge = |asked: &Value| match asked["operation"].as_str() {
        Some("connect") => Some(asked["address"] == address.as_str()),
        _ => Some(asked["path"] == path.as_str()),
    };
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| answering(&over, judge));
        let done = race(&h, &["connects-held"], tries).and_then(|_| race(&h, &["opens-held"], tries));
        over.store(true, Ordering::Relaxed);
        done
    })?;
    h.verified()
}

fn words() -> Result<()> {
    let h = host(DECIDED)?;
    let tries = tries()? / A_PROGRAM;
    race(&h, &["execs", "same", SAY], tries)?;
    let number = tries.to_string();
    let a = h.act(&["race", "execs", "cut", SAY, &number])?;
    ensure!(a.errno() == 0, "errno {}\n{}", a.errno(), a.output);
    // Each word that was said is one that was decided about.
    let mut said: BTreeMap<String, i64> = BTreeMap::new();
    for line in a.output.lines().filter_map(|l| l.strip_prefix("said ")) {
        *said.entry(line.to_owned()).or_default() += 1;
    }
    println!("toctou: {said:?}");
    ensure!(said.len() > 1, "one of them only: {said:?}");
    let allowed = |hold: &Value| {
        let is = |r: &&Value| r["kind"] == "resolution" && r["detail"]["hold"] == *hold;
        a.receipts.iter().find(is).is_some_and(|r| r["detail"]["answer"] == "ALLOW")
    };
    for r in a.receipts.iter().filter(|r| r["action"]["operation"] == "exec_args") {
        if allowed(&r["decision"]["hold"]) {
            *said.entry(r["action"]["argv"].to_string()).or_default() -= 1;
        }
    }
    ensure!(said.values().all(|n| *n == 0), "said, and not decided: {said:?}\n{}", a.tell());
    h.verified()
}

/// Found so: whoever was asked saw one command line, and a sibling of the image that waited wrote another one into it.
fn pending() -> Result<()> {
    let h = host(ASKED)?;
    let (from, to, ready) = (format!("{DIR}/asked"), format!("{DIR}/other"), format!("{DIR}/ready"));
    for how in ["writev", "mem", "attach", "seize"] {
        let _ = std::fs::remove_dir(&from);
        let _ = std::fs::remove_file(&ready);
        let a = while_it_waits(&h, &[ME, "actor", "meddle", how, TOOL, &from, &to, &ready], |asked| {
            ensure!(asked["argv"][2] == from.as_str(), "{asked}");
            let deadline = Instant::now() + Duration::from_secs(60);
            while !Path::new(&ready).exists() {
                ensure!(Instant::now() < deadline, "{how}: it does not come to it");
                std::thread::sleep(Duration::from_millis(20));
            }
            answer(&h, &["approve", id(asked)?])
        })?;
        ensure!(
            !Path::new(&to).exists() && Path::new(&from).exists(),
            "not what was shown ran\n{}",
            a.tell()
        );
        let told = [libc::EPERM, libc::EACCES].map(|errno| format!("{how} {errno}"));
        ensure!(a.output.lines().any(|l| told.iter().any(|told| l == told)), "{told:?}?\n{}", a.tell());
        let refused = a.receipts.iter().find(|r| r["action"]["operation"] == "ptrace");
        let refused = refused.with_context(|| a.tell())?;
        ensure!(
            refused["decision"]["result"] == "DENY" && refused["decision"]["cause"] == "args",
            "{refused}"
        );
    }
    // Whoever traces it since before its exec asks for no leave: then nobody is asked, and nothing runs.
    let _ = std::fs::remove_dir(&from);
    let a = h.run(&[], &[ME, "actor", "meddle", "traced", TOOL, &from, &to, &ready])?;
    ensure!(!Path::new(&to).exists() && !Path::new(&from).exists(), "it ran\n{}", a.tell());
    let answer = a.receipts.iter().find(|r| r["kind"] == "resolution").with_context(|| a.tell())?;
    let why = answer["detail"]["comment"].as_str().unwrap_or_default();
    ensure!(answer["detail"]["answer"] == "DENY" && why.contains("traced"), "{answer}");
    h.verified()
}
