//! Which policies are loaded, in which kernel slot, under which numbers.
//!
//! Owns the slots of the kernel's policy table. Promises: a reload is all or nothing; a table is written
//! before any session is moved to it, and its predecessor's slot is not reused while a program could still be
//! reading it. Must never: know sessions; it is told which slots are in use.

mod documents;
mod keep;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aarm_common::Decision;
use aarm_common::event::Cause;
use aarm_common::limits::{AGENT_SELECTORS, AGENTS_SLOT, MAX_LABELS, POLICY_SLOTS};
use aarm_common::policy::Policy as Table;
use aarm_policy::{AgentEntry, CASCADE, Compiled, Env, Mode, Policy, Redact, compile, compile_agents};
use aarm_receipt::canonical::Encoded;
use aarm_receipt::redact::Classes;

pub use documents::{PolicyError, check};
use documents::{diagnostics, environment, parse, rootless};

use super::holds::{PolicyTerms, Terms};
use super::host;
use super::links;
use super::patterns;
use super::port::KernelPort;
use super::record::policy_ref;
use crate::api::types::{Diagnostic, PolicyLabel};

/// How long a slot rests after its sessions were moved away.
pub const QUARANTINE: Duration = if cfg!(test) { Duration::from_millis(20) } else { Duration::from_secs(10) };

/// A rule as receipts name it.
#[derive(Clone, Debug)]
pub struct RuleName {
    /// Id.
    pub id: String,
    /// Reason.
    pub reason: Option<String>,
    /// Where it redirects to.
    pub redirect: Option<String>,
}

/// One compilation in the kernel.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Which policy.
    pub label: PolicyLabel,
    /// The same as receipts have it.
    pub encoded: Encoded,
    /// Audit mode.
    pub audit: bool,
    /// Its file; `-` for one that came with a session.
    pub file: String,
    /// Kernel slot.
    pub slot: u32,
    /// Its number.
    pub generation: u32,
    /// Rules by the kernel's index.
    pub rules: Vec<RuleName>,
    /// What it says of waiting.
    pub terms: PolicyTerms,
    /// The policy itself, if programs are decided by it when they are about to run; of one that a former daemon loaded it is not known.
    pub source: Option<Arc<Policy>>,
    /// Its canonical form, whose hash receipts name. None: a former daemon loaded it, and it was not read again.
    pub text: Option<Arc<str>>,
    /// What receipts do not show.
    pub redact: Classes,
    /// Agent selectors.
    pub agents: u32,
    /// New sessions do not get it.
    pub retired: bool,
    /// SHA-256 of its table but for the number: what it was compiled from, and what that meant on this host then.
    inputs: [u8; 32],
    /// Since when no session is under it and it may not be reused yet.
    resting: Option<Instant>,
}

impl Loaded {
    fn new(policy: &Policy, file: &str, slot: u32, compiled: &Compiled, table: &Table) -> Self {
        Self {
            label: label(policy),
            encoded: policy_ref(&label(policy)).encoded(),
            audit: policy.mode() == Mode::Audit,
            file: file.to_owned(),
            slot,
            generation: table.generation,
            rules: compiled
                .rules
                .iter()
                .map(|r| RuleName {
                    id: r.id.clone(),
                    reason: r.reason.clone(),
                    redirect: r.redirect.map(|to| to.to_string()),
                })
                .collect(),
            terms: PolicyTerms::new(policy, &compiled.rules),
            source: policy.asks_for_lines().then(|| Arc::new(policy.clone())),
            text: Some(policy.canonical().into()),
            redact: redacted(policy),
            agents: policy.agents().len() as u32,
            retired: false,
            inputs: inputs(table),
            resting: None,
        }
    }
}

/// What a reload changed.
#[derive(Debug, Default)]
pub struct Changes {
    /// Generations that are new, for their receipts.
    pub new: Vec<u32>,
    /// Names loaded anew.
    pub loaded: Vec<String>,
    /// Names as before.
    pub unchanged: Vec<String>,
    /// Names that are gone.
    pub removed: Vec<String>,
    /// From a slot to the slot that takes its place.
    pub moves: BTreeMap<u32, u32>,
}

/// All policies.
pub struct Policies {
    dir: PathBuf,
    loaded: Vec<Loaded>,
    /// The documents behind the loaded files, for agent selectors.
    documents: Vec<(u32, Policy)>,
    next_generation: u32,
    /// Names of labels, by bit: one numbering for all policies, because labels pass from session to session.
    labels: Vec<String>,
    /// The same of `subject`'s patterns of programs, because lineages outlive policies.
    patterns: Vec<String>,
    /// Names of resolvers that can be asked.
    resolvers: Vec<String>,
    /// What the agents matcher was last made of, to see changes of cgroups.
    agents: Vec<(u32, Vec<aarm_policy::CgroupId>)>,
}

fn label(policy: &Policy) -> PolicyLabel {
    let mode = if policy.mode() == Mode::Audit { "audit" } else { "enforce" };
    PolicyLabel {
        name: policy.name().to_owned(),
        version: policy.version().to_owned(),
        hash: policy.hash().to_owned(),
        mode: mode.to_owned(),
    }
}

/// A policy of which nothing is known but that it decides.
pub fn unknown() -> PolicyLabel {
    PolicyLabel {
        name: "unknown".into(),
        version: String::new(),
        hash: String::new(),
        mode: "enforce".into(),
    }
}

/// See [`Loaded::inputs`].
fn inputs(table: &Table) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, table.unnumbered()).as_ref());
    hash
}

/// What a policy redacts.
fn redacted(policy: &Policy) -> Classes {
    let known = |redact: &Redact| Classes::named(redact.name());
    policy.redact().iter().filter_map(known).fold(Classes::NONE, Classes::and)
}

impl Policies {
    /// What is redacted of receipts under a policy; under one that nobody knows, what any does.
    #[inline]
    pub fn redacts(&self, generation: Option<u32>) -> Classes {
        let loaded = generation.and_then(|generation| self.generation(generation));
        // What a former daemon loaded, and left no word of, has no hash.
        let known = loaded.filter(|l| !l.label.hash.is_empty());
        known.map_or_else(
            || self.loaded.iter().map(|l| l.redact).fold(Classes::NONE, Classes::and),
            |l| l.redact,
        )
    }

    /// What a policy says of waiting for this decision.
    pub fn terms(&self, generation: u32, rule: Option<u16>, decision: Decision, cause: Cause) -> Terms {
        match self.generation(generation) {
            Some(loaded) => loaded.terms.of(rule, decision, cause).clone(),
            None => PolicyTerms::default().of(rule, decision, cause).clone(),
        }
    }

    /// How much of one session is deferred at once at most.
    pub fn cascade(&self, generation: u32) -> u32 {
        self.generation(generation).map_or(CASCADE, |loaded| loaded.terms.cascade)
    }

    /// Names of labels, by bit.
    #[inline]
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// Names of `subject`'s patterns of programs, by bit.
    pub fn patterns(&self) -> &[String] {
        &self.patterns
    }

    /// Gives the labels of a compiled table the numbers they have for all policies.
    fn number_labels(&mut self, compiled: &Compiled) -> Result<Box<Table>, PolicyError> {
        let mut bits = Vec::new();
        for label in &compiled.labels {
            let at = self.labels.iter().position(|name| *name == label.name);
            let bit = match at {
                Some(bit) => bit,
                None if self.labels.len() < MAX_LABELS => {
                    self.labels.push(label.name.clone());
                    self.labels.len() - 1
                }
                None => return Err(PolicyError::TooManyLabels(label.name.clone())),
            };
            bits.push(bit);
        }
        let global = |mask: u64| {
            bits.iter().enumerate().filter(|(i, _)| mask >> i & 1 != 0).fold(0u64, |m, (_, bit)| m | 1 << bit)
        };
        let mut table = compiled.table.clone();
        table.data_labels.iter_mut().for_each(|mask| *mask = global(*mask));
        table.labels.iter_mut().for_each(|c| c.mask = global(c.mask));
        Ok(table)
    }

    /// All compilations in the kernel.
    pub fn all(&self) -> &[Loaded] {
        &self.loaded
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A compilation by its number.
    #[inline]
    pub fn generation(&self, generation: u32) -> Option<&Loaded> {
        self.loaded.iter().find(|l| l.generation == generation)
    }

    /// A compilation by its slot.
    pub fn slot(&self, slot: u32) -> Option<&Loaded> {
        self.loaded.iter().rev().find(|l| l.slot == slot)
    }

    /// What a new session gets by name.
    pub fn named(&self, name: &str) -> Option<&Loaded> {
        self.loaded.iter().find(|l| !l.retired && l.file != "-" && l.label.name == name)
    }

    /// The policy without a name, if there is no doubt.
    pub fn only(&self) -> Option<&Loaded> {
        let mut current = self.loaded.iter().filter(|l| !l.retired && l.file != "-");
        let only = current.next()?;
        current.next().is_none().then_some(only)
    }

    fn free_slot(&self) -> Result<u32, PolicyError> {
        (0..POLICY_SLOTS as u32)
            .filter(|s| *s != AGENTS_SLOT)
            .find(|s| !self.loaded.iter().any(|l| l.slot == *s))
            .ok_or(PolicyError::NoSlot)
    }

    /// The table of a compilation, with the numbers that labels and patterns have for all policies.
    fn table(&mut self, compiled: &Compiled, env: &Env) -> Result<Box<Table>, PolicyError> {
        let mut table = self.number_labels(compiled)?;
        patterns::number(&mut self.patterns, compiled, env, &mut table)?;
        Ok(table)
    }

    /// What a former daemon left in a slot stays there if it would be made again as it is: sessions need not move, and what was allowed under it
    /// goes on being. Whether it does.
    fn keep(
        &mut self,
        kernel: &mut dyn KernelPort,
        slot: u32,
        policy: &Policy,
        env: &Env,
        compiled: &Compiled,
    ) -> Result<bool, PolicyError> {
        let mut table = self.table(compiled, env)?;
        let is_same = |l: &&mut Loaded| l.slot == slot && l.inputs == inputs(&table);
        let Some(l) = self.loaded.iter_mut().find(is_same) else { return Ok(false) };
        table.generation = l.generation;
        // What is not in the table may mean something else to another version.
        *l = Loaded::new(policy, &l.file, slot, compiled, &table);
        // Other names of files may have come meanwhile.
        kernel.remember_links(table.generation, &links::find(policy, env, &table))?;
        Ok(true)
    }

    fn place(
        &mut self,
        kernel: &mut dyn KernelPort,
        policy: &Policy,
        env: &Env,
        file: &str,
        compiled: &Compiled,
    ) -> Result<u32, PolicyError> {
        let slot = self.free_slot()?;
        let table = self.table(compiled, env)?;
        let generation = table.generation;
        let linked = links::find(policy, env, &table);
        self.give(kernel)?;
        kernel.remember_links(generation, &linked)?;
        kernel.load_policy(slot, &table)?;
        self.loaded.push(Loaded::new(policy, file, slot, compiled, &table));
        Ok(generation)
    }

    fn take_generation(&mut self) -> u32 {
        let generation = self.next_generation;
        self.next_generation = generation.wrapping_add(1).max(1);
        generation
    }

    /// Reads the directory again. On any error nothing changes. `force`: also looks whether unchanged documents mean something else by now.
    pub fn reload(&mut self, kernel: &mut dyn KernelPort, force: bool) -> Result<Changes, PolicyError> {
        let documents = self.read_dir()?;
        let env = environment()?;
        let mut problems = Vec::new();
        let mut compiled = Vec::new();
        for d in &documents {
            problems.extend(self.strangers(&d.file, &d.policy));
            let generation = self.take_generation();
            match compile(&d.policy, &env, generation) {
                Ok(c) => match rootless(&d.file, &c.table, kernel) {
                    Some(problem) => problems.push(problem),
                    None => compiled.push(c),
                },
                Err(found) => problems.extend(diagnostics(&d.file, found)),
            }
        }
        let selectors: usize = documents.iter().map(|d| d.policy.agents().len()).sum();
        if selectors > AGENT_SELECTORS {
            let message =
                format!("{selectors} agent selectors in all policies together, at most {AGENT_SELECTORS}");
            problems.push(Diagnostic {
                file: self.dir.display().to_string(),
                line: 0,
                column: 0,
                message,
                help: None,
            });
        }
        if !problems.is_empty() {
            return Err(PolicyError::Invalid(problems));
        }
        let mut changes = Changes::default();
        let mut current = Vec::new();
        for (d, c) in documents.into_iter().zip(&compiled) {
            let name = d.policy.name().to_owned();
            let before = self.named(&name).map(|l| (l.slot, l.label.hash.clone(), l.file.clone()));
            if let Some((slot, hash, file)) = &before
                && *hash == d.policy.hash()
                && *file == d.file
                && (!force || self.keep(kernel, *slot, &d.policy, &env, c)?)
            {
                if let Some(l) = self.loaded.iter_mut().find(|l| l.slot == *slot) {
                    l.text.get_or_insert_with(|| d.policy.canonical().into());
                }
                changes.unchanged.push(name);
                current.push((*slot, d.policy));
                continue;
            }
            let generation = match self.place(kernel, &d.policy, &env, &d.file, c) {
                Ok(g) => g,
                Err(e) => {
                    // What was placed just now serves nobody yet.
                    self.loaded.retain(|l| !changes.new.contains(&l.generation));
                    return Err(e);
                }
            };
            let slot = self.loaded.last().map_or(AGENTS_SLOT, |l| l.slot);
            changes.new.push(generation);
            changes.loaded.push(name);
            if let Some((from, ..)) = before {
                changes.moves.insert(from, slot);
            }
            current.push((slot, d.policy));
        }
        for l in &mut self.loaded {
            if l.file != "-" && !l.retired && !current.iter().any(|(slot, _)| *slot == l.slot) {
                l.retired = true;
                if !changes.moves.contains_key(&l.slot) {
                    changes.removed.push(l.label.name.clone());
                }
            }
        }
        self.documents = current;
        self.place_agents(kernel, &env)?;
        Ok(changes)
    }

    /// Loads the agents matcher if what it is made of has changed; cgroups come and go.
    pub fn refresh_agents(&mut self, kernel: &mut dyn KernelPort) -> Result<(), PolicyError> {
        if self.documents.iter().all(|(_, p)| p.agents().iter().all(|a| a.cgroup.is_empty())) {
            return Ok(());
        }
        if self.resolved() == self.agents {
            return Ok(());
        }
        let env = environment()?;
        self.place_agents(kernel, &env)
    }

    fn resolved(&self) -> Vec<(u32, Vec<aarm_policy::CgroupId>)> {
        let root = Path::new(host::CGROUP_ROOT);
        self.documents
            .iter()
            .flat_map(|(slot, p)| p.agents().iter().map(move |a| (*slot, host::cgroups(root, &a.cgroup))))
            .collect()
    }

    fn place_agents(&mut self, kernel: &mut dyn KernelPort, env: &Env) -> Result<(), PolicyError> {
        let resolved = self.resolved();
        let generation = self.take_generation();
        let entries: Vec<AgentEntry<'_>> = self
            .documents
            .iter()
            .flat_map(|(_, p)| p.agents())
            .zip(&resolved)
            .map(|(selector, (slot, cgroups))| AgentEntry { selector, slot: *slot, cgroups: cgroups.clone() })
            .collect();
        if entries.is_empty() {
            kernel.set_agents(false)?;
        } else {
            let compiled = compile_agents(&entries, env, generation)
                .map_err(|d| PolicyError::Invalid(diagnostics("agents", d)))?;
            self.give(kernel)?;
            kernel.load_policy(AGENTS_SLOT, &compiled.table)?;
            kernel.set_agents(true)?;
        }
        self.agents = resolved;
        Ok(())
    }

    /// Loads a policy that came with a session; its slot.
    pub fn load_text(
        &mut self,
        kernel: &mut dyn KernelPort,
        file: &str,
        text: &[u8],
    ) -> Result<(u32, u32), PolicyError> {
        let document = parse(file, text)?;
        let strangers = self.strangers(file, &document.policy);
        if !strangers.is_empty() {
            return Err(PolicyError::Invalid(strangers));
        }
        let env = environment()?;
        let generation = self.take_generation();
        let compiled = compile(&document.policy, &env, generation)
            .map_err(|d| PolicyError::Invalid(diagnostics(file, d)))?;
        if let Some(problem) = rootless(file, &compiled.table, kernel) {
            return Err(PolicyError::Invalid(vec![problem]));
        }
        let generation = self.place(kernel, &document.policy, &env, "-", &compiled)?;
        let slot = self.loaded.last().map_or(AGENTS_SLOT, |l| l.slot);
        Ok((slot, generation))
    }

    /// Frees slots that nobody uses: `used` says whether somebody does.
    pub fn sweep(
        &mut self,
        kernel: &mut dyn KernelPort,
        used: impl Fn(&Loaded) -> bool,
    ) -> Result<(), PolicyError> {
        let now = Instant::now();
        let mut freed = Vec::new();
        for l in &mut self.loaded {
            let idle = (l.retired || l.file == "-") && !used(l);
            match (idle, l.resting) {
                (false, _) => l.resting = None,
                (true, None) => l.resting = Some(now),
                (true, Some(since)) if now.duration_since(since) >= QUARANTINE => {
                    freed.push((l.slot, l.generation));
                }
                (true, Some(_)) => {}
            }
        }
        for (slot, generation) in freed {
            kernel.clear_policy(slot)?;
            kernel.forget_links(generation)?;
            self.loaded.retain(|l| l.slot != slot);
        }
        Ok(())
    }
}
