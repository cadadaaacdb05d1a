//! The agents matcher: the selectors of all policies as one table, for the moment a program is exec'd.

use aarm_common::limits::{AGENT_SELECTORS, CGROUPS, MAX_RULES, POLICY_SLOTS};
use aarm_common::policy::{Bits, CgroupEntry, MODE_ENFORCE};
use aarm_common::{Decision, Operation};

use super::sets::{Sets, set_bit};
use super::{Compiled, Entry, Report, RuleInfo, empty_table, fill};
use crate::diagnostic::{Code, Diagnostic, Place};
use crate::env::Env;
use crate::model::{AgentSelector, Match, OperationName};

/// A cgroup of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CgroupId {
    /// Its id: the inode number of its directory in the cgroup v2 filesystem.
    pub id: u64,
    /// Its depth below the root cgroup, which has 0.
    pub level: u32,
}

/// A selector, resolved for this host.
#[derive(Clone, Debug)]
pub struct AgentEntry<'a> {
    /// The selector.
    pub selector: &'a AgentSelector,
    /// The policy slot that its sessions run under.
    pub slot: u32,
    /// The cgroups it names, as far as they exist. If it names some and none exists, it selects nothing.
    pub cgroups: Vec<CgroupId>,
}

/// Compiles the selectors of all policies. The first that holds wins, so their order is their precedence.
/// Rule ids of the result are `agent-N`, by place in `selectors`.
///
/// # Errors
/// More selectors, cgroups or globs than the kernel's tables hold.
pub fn compile_agents(
    selectors: &[AgentEntry<'_>],
    env: &Env,
    generation: u32,
) -> Result<Compiled, Vec<Diagnostic>> {
    let first = selectors.first().map_or(Place::default(), |entry| entry.selector.place);
    let refuse = |message: String| Err(vec![Diagnostic::error(first, Code::TooMany, message)]);
    if selectors.len() > AGENT_SELECTORS {
        return refuse(format!(
            "{} agent selectors over all policies; at most {AGENT_SELECTORS}",
            selectors.len()
        ));
    }
    if let Some(entry) = selectors.iter().find(|entry| entry.slot as usize >= POLICY_SLOTS) {
        return refuse(format!("policy slot {}; there are {POLICY_SLOTS}", entry.slot));
    }
    let matches: Vec<Match> = selectors
        .iter()
        .map(|entry| Match {
            operations: vec![OperationName::Operation(Operation::Exec)],
            exe: entry.selector.exe.clone(),
            uid: entry.selector.uid.clone(),
            ..Match::default()
        })
        .collect();
    let ids: Vec<String> = (0..selectors.len()).map(|i| format!("agent-{i}")).collect();
    let entries: Vec<Entry<'_>> = matches
        .iter()
        .zip(selectors)
        .zip(&ids)
        .enumerate()
        .map(|(bit, ((matches, entry), id))| Entry {
            matches,
            place: entry.selector.place,
            id,
            bit,
            patterns: Vec::new(),
        })
        .collect();

    let mut table = empty_table();
    table.generation = generation;
    table.mode = MODE_ENFORCE;
    let mut sets = Sets::default();
    // Each cgroup once, with the selectors that ask for it.
    let mut cgroups: Vec<(CgroupId, Bits)> = Vec::new();
    for (i, entry) in selectors.iter().enumerate() {
        table.rule_decision[i] = Decision::Allow as u8;
        table.rule_slot[i] = entry.slot as u8;
        if entry.selector.cgroup.is_empty() {
            set_bit(&mut table.cgroup_free, i);
        }
        for cgroup in &entry.cgroups {
            // Id 0 ends the kernel's list, and no directory has it.
            if cgroup.id == 0 {
                return refuse("a cgroup with the id 0".to_owned());
            }
            let at = cgroups.iter().position(|(known, _)| known == cgroup).unwrap_or_else(|| {
                cgroups.push((*cgroup, Bits::default()));
                cgroups.len() - 1
            });
            set_bit(&mut cgroups[at].1, i);
        }
    }
    if cgroups.len() > CGROUPS {
        return refuse(format!("{} cgroups over all agent selectors; at most {CGROUPS}", cgroups.len()));
    }
    table.cgroup_count = cgroups.len() as u32;
    for (to, (cgroup, bits)) in table.cgroups.iter_mut().zip(&cgroups) {
        *to = CgroupEntry { id: cgroup.id, level: cgroup.level, set: sets.id(*bits).into() };
    }
    let report = fill(&mut table, &entries, env, sets, Report::default(), Vec::new())?;
    let rules = selectors
        .iter()
        .zip(ids)
        .map(|(entry, id)| RuleInfo {
            id,
            reason: None,
            decision: Decision::Allow,
            hold: None,
            redirect: None,
            line: entry.selector.place.line,
        })
        .collect();
    Ok(Compiled { table, rules, labels: Vec::new(), conditions: Vec::new(), programs: Vec::new(), report })
}

const _: () = assert!(AGENT_SELECTORS <= MAX_RULES && POLICY_SLOTS <= u8::MAX as usize);
