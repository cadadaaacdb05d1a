//! The cases, by what a user relies on. A case's name is `topic::what_holds`.

mod aarm;
mod audit;
mod badinput;
mod cli;
mod context;
mod debian;
mod differential;
mod disk;
mod elsewhere;
mod escapes;
mod files;
mod hold;
mod hosts;
mod identity;
mod known;
mod lifecycle;
mod line;
mod modify;
mod network;
mod paths;
mod pressure;
mod programs;
mod real;
mod receipts;
mod resolve;
mod session;
mod shares;
mod storm;
mod subject;
mod toctou;
mod unable;

use std::time::Instant;

use anyhow::Result;
use libtest_mimic::{Failed, Trial};

use crate::host;

/// A case: a name and what must hold.
type Case = (&'static str, fn() -> Result<()>);

/// Every case.
pub fn all() -> Vec<Trial> {
    let topics: [(&str, &[Case]); 32] = [
        ("files", files::CASES),
        ("paths", paths::CASES),
        ("identity", identity::CASES),
        ("programs", programs::CASES),
        ("context", context::CASES),
        ("shares", shares::CASES),
        ("differential", differential::CASES),
        ("subject", subject::CASES),
        ("network", network::CASES),
        ("hosts", hosts::CASES),
        ("hold", hold::CASES),
        ("storm", storm::CASES),
        ("toctou", toctou::CASES),
        ("line", line::CASES),
        ("known", known::CASES),
        ("modify", modify::CASES),
        ("resolve", resolve::CASES),
        ("elsewhere", elsewhere::CASES),
        ("aarm", aarm::CASES),
        ("session", session::CASES),
        ("audit", audit::CASES),
        ("receipts", receipts::CASES),
        ("cli", cli::CASES),
        ("badinput", badinput::CASES),
        ("pressure", pressure::CASES),
        ("disk", disk::CASES),
        ("nobpf", unable::NO_BPF),
        ("escapes", escapes::CASES),
        // What takes the programs out of the kernel comes last: loading them again takes a minute or more under emulation.
        ("lifecycle", lifecycle::CASES),
        ("unable", unable::CASES),
        ("real", real::CASES),
        ("debian", debian::CASES),
    ];
    topics
        .into_iter()
        .flat_map(|(topic, cases)| cases.iter().map(move |(name, case)| trial(topic, name, *case)))
        .collect()
}

fn trial(topic: &str, name: &str, case: fn() -> Result<()>) -> Trial {
    Trial::test(format!("{topic}::{name}"), move || {
        let (began, starts) = (Instant::now(), host::starts());
        let result = case().map_err(|e| Failed::from(format!("{e:?}")));
        let of = |all: (u64, u64), before: (u64, u64)| (all.0 - before.0, (all.1 - before.1) as f64 / 1000.0);
        let (starts, starting) = of(host::starts(), starts);
        println!(
            "\ntook {:.1} s, {starts} starts of the daemon {starting:.1} s",
            began.elapsed().as_secs_f64()
        );
        result
    })
}
