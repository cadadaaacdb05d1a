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

use anyhow::Result;
use libtest_mimic::{Failed, Trial};

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
        ("lifecycle", lifecycle::CASES),
        ("pressure", pressure::CASES),
        ("disk", disk::CASES),
        ("unable", unable::CASES),
        ("nobpf", unable::NO_BPF),
        ("escapes", escapes::CASES),
        ("real", real::CASES),
        ("debian", debian::CASES),
    ];
    topics
        .into_iter()
        .flat_map(|(topic, cases)| cases.iter().map(move |(name, case)| trial(topic, name, *case)))
        .collect()
}

fn trial(topic: &str, name: &str, case: fn() -> Result<()>) -> Trial {
    Trial::test(format!("{topic}::{name}"), move || case().map_err(|e| Failed::from(format!("{e:?}"))))
}
