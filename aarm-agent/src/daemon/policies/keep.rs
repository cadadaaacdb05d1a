//! What outlives the daemon: compilations that a former one left in the kernel, and the numbers that were given.

use std::collections::BTreeSet;
use std::path::Path;

use aarm_common::limits::{AGENTS_SLOT, MAX_LABELS, SUBJECT_PATTERNS};
use aarm_common::state::Given;

use super::{Loaded, Policies, PolicyError, RuleName, unknown};
use crate::api::types::PolicyLabel;
use crate::daemon::holds::PolicyTerms;
use crate::daemon::port::KernelPort;
use crate::daemon::record::policy_ref;
use aarm_receipt::redact::Classes;

use crate::daemon::snapshot::PolicyRecord;

impl Policies {
    /// No policies yet; `records` are compilations that a former daemon left in the kernel.
    pub fn new(
        dir: &Path,
        records: &[PolicyRecord],
        next_generation: u32,
        labels: Vec<String>,
        patterns: Vec<String>,
        resolvers: Vec<String>,
    ) -> Self {
        let label = |r: &PolicyRecord| PolicyLabel {
            name: r.name.clone(),
            version: r.version.clone(),
            hash: r.hash.clone(),
            mode: if r.audit { "audit" } else { "enforce" }.to_owned(),
        };
        let loaded = records
            .iter()
            .map(|r| Loaded {
                label: label(r),
                encoded: policy_ref(&label(r)).encoded(),
                audit: r.audit,
                file: r.file.clone(),
                slot: r.slot,
                generation: r.generation,
                rules: r
                    .rules
                    .iter()
                    .map(|(id, reason, redirect)| RuleName {
                        id: id.clone(),
                        reason: reason.clone(),
                        redirect: redirect.clone(),
                    })
                    .collect(),
                terms: serde_json::from_slice(&r.terms).unwrap_or_default(),
                source: None,
                text: None,
                redact: Classes::from_bits(r.redact),
                agents: r.agents,
                retired: r.retired,
                inputs: r.inputs,
                resting: None,
            })
            .collect();
        Self {
            dir: dir.to_path_buf(),
            loaded,
            documents: Vec::new(),
            next_generation: next_generation.max(1),
            labels,
            patterns,
            resolvers,
            agents: Vec::new(),
        }
    }

    /// Takes over what the kernel has and nobody left word of: what sessions are under decides on until they end, and no number of theirs is
    /// given to anything else. `used`: the slots that sessions are under.
    pub fn adopt(&mut self, kernel: &mut dyn KernelPort, used: &BTreeSet<u32>) -> Result<(), PolicyError> {
        let (given, generations) = (kernel.given()?, kernel.generations()?);
        // Written before the slot was given to another.
        self.loaded.retain(|l| generations.get(l.slot as usize) == Some(&l.generation));
        self.next_generation = self.next_generation.max(given.generations.wrapping_add(1)).max(1);
        if !used.is_empty() {
            let lost = |names: &mut Vec<String>, given: u32| {
                // No document can name these.
                (names.len()..given as usize).for_each(|bit| names.push(format!("lost #{bit}")));
            };
            lost(&mut self.labels, given.labels.min(MAX_LABELS as u32));
            lost(&mut self.patterns, given.patterns.min(SUBJECT_PATTERNS as u32));
        }
        for (slot, generation) in (0..).zip(generations) {
            if slot == AGENTS_SLOT || generation == 0 || self.loaded.iter().any(|l| l.slot == slot) {
                continue;
            }
            if !used.contains(&slot) {
                kernel.forget_links(generation)?;
                continue;
            }
            tracing::warn!(
                "nothing is known of the policy in slot {slot}; it goes on deciding for its sessions"
            );
            let label = unknown();
            self.loaded.push(Loaded {
                encoded: policy_ref(&label).encoded(),
                label,
                audit: false,
                file: "-".into(),
                slot,
                generation,
                rules: Vec::new(),
                terms: PolicyTerms::default(),
                source: None,
                text: None,
                // See `redacts`.
                redact: Classes::NONE,
                agents: 0,
                retired: true,
                inputs: [0; 32],
                resting: None,
            });
        }
        Ok(())
    }

    /// Notes in the kernel which numbers are given.
    pub(super) fn give(&self, kernel: &mut dyn KernelPort) -> Result<(), PolicyError> {
        let given = Given {
            generations: self.next_generation.wrapping_sub(1),
            labels: self.labels.len() as u32,
            patterns: self.patterns.len() as u32,
            reserved: 0,
        };
        Ok(kernel.give(given)?)
    }

    /// What the snapshot keeps.
    pub fn records(&self) -> (Vec<PolicyRecord>, u32) {
        let records = self
            .loaded
            .iter()
            .map(|l| PolicyRecord {
                terms: serde_json::to_vec(&l.terms).unwrap_or_default(),
                slot: l.slot,
                generation: l.generation,
                name: l.label.name.clone(),
                version: l.label.version.clone(),
                hash: l.label.hash.clone(),
                audit: l.audit,
                file: l.file.clone(),
                inputs: l.inputs,
                retired: l.retired,
                redact: l.redact.bits(),
                agents: l.agents,
                rules: l.rules.iter().map(|r| (r.id.clone(), r.reason.clone(), r.redirect.clone())).collect(),
            })
            .collect();
        (records, self.next_generation)
    }
}
