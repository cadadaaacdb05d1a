//! Which policies are loaded, in which kernel slot, under which numbers.
//!
//! Owns the slots of the kernel's policy table. Promises: a reload is all or nothing; a table is written
//! before any session is moved to it, and its predecessor's slot is not reused while a program could still be
//! reading it. Must never: know sessions; it is told which slots are in use.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aarm_common::Decision;
use aarm_common::event::Cause;
use aarm_common::limits::{AGENT_SELECTORS, AGENTS_SLOT, MAX_LABELS, POLICY_SLOTS, SUBJECT_PATTERNS};
use aarm_common::policy::Policy as Table;
use aarm_common::state::Given;
use aarm_policy::{AgentEntry, Compiled, Env, Mode, Policy, compile, compile_agents};
use aarm_receipt::canonical::Encoded;

use super::holds::{PolicyTerms, Terms};
use super::host;
use super::links;
use super::patterns;
use super::port::KernelPort;
use super::record::policy_ref;
use super::snapshot::PolicyRecord;
use crate::api::types::{Diagnostic, PolicyLabel};
use crate::kernel::KernelError;

/// Largest policy file read; a larger one is refused by the parser's own bound.
const FILE_MAX: u64 = aarm_policy::MAX_DOCUMENT as u64 + 1;
/// Most policy files.
const FILES_MAX: usize = POLICY_SLOTS - 1;
/// How long a slot rests after its sessions were moved away.
const QUARANTINE: Duration = Duration::from_secs(10);
/// Where users and their homes are.
const PASSWD: &str = "/etc/passwd";
/// Whom the host asks for names.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Why policies were not loaded. What was loaded before stays.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The documents have errors.
    #[error("{} errors in policies", .0.len())]
    Invalid(Vec<Diagnostic>),
    /// The directory or a file cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The policies in force have more labels than sessions can carry.
    #[error(
        "label `{0}`: all policies together have more than {MAX_LABELS} labels; those of former ones count until the host restarts"
    )]
    TooManyLabels(String),
    /// The policies in force ask for more programs than a lineage has bits.
    #[error(
        "`subject` pattern `{0}`: all policies together have more than {SUBJECT_PATTERNS} patterns of programs; those of former ones count until the host restarts"
    )]
    TooManyPatterns(String),
    /// All slots are taken.
    #[error("{} policies are in use, the most this version can hold: end sessions under old ones", POLICY_SLOTS - 1)]
    NoSlot,
    /// The change could not be recorded.
    #[error("the receipt log in {} has no room: a change that cannot be recorded is not made", .0.display())]
    NoReceipt(PathBuf),
    /// The kernel refused.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

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
    /// The policy itself, if it asks for command lines; of one that a former daemon loaded it is not known.
    pub source: Option<Arc<Policy>>,
    /// Agent selectors.
    pub agents: u32,
    /// New sessions do not get it.
    pub retired: bool,
    /// Since when no session is under it and it may not be reused yet.
    resting: Option<Instant>,
}

/// A parsed document on its way in.
pub struct Document {
    policy: Policy,
    file: String,
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

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> PolicyError {
    let path = path.to_path_buf();
    move |source| PolicyError::Io { path, source }
}

/// What policies need to know of this host.
fn environment() -> Result<Env, PolicyError> {
    let env = host::homes(Path::new(PASSWD)).map_err(io(Path::new(PASSWD)))?;
    let servers = host::text(Path::new(RESOLV_CONF)).map_err(io(Path::new(RESOLV_CONF)))?;
    Ok(env.with_resolv_conf(&servers))
}

/// The error of a policy that asks for what needs the root of the cgroups, where there is none.
fn rootless(file: &str, table: &Table, kernel: &dyn KernelPort) -> Option<Diagnostic> {
    let what = match (table.resolver_count > 0, table.redirects[0].family != 0) {
        _ if kernel.has_cgroups() => return None,
        (false, false) => return None,
        (true, _) => {
            "rules ask for names of hosts, and this host has no unified cgroup hierarchy, at whose root answers of resolvers are read"
        }
        (false, true) => {
            "rules redirect connections, and this host has no unified cgroup hierarchy, at whose root that is done"
        }
    };
    Some(Diagnostic {
        file: file.to_owned(),
        line: 0,
        column: 0,
        message: what.into(),
        help: Some("mount -t cgroup2 none /sys/fs/cgroup/unified, and start aarm-agent again".into()),
    })
}

/// Diagnostics of one document in the API's form.
fn diagnostics(file: &str, found: Vec<aarm_policy::Diagnostic>) -> Vec<Diagnostic> {
    found
        .into_iter()
        .filter(|d| d.severity == aarm_policy::Severity::Error)
        .map(|d| Diagnostic {
            file: file.to_owned(),
            line: d.line,
            column: d.column,
            message: d.message,
            help: d.help,
        })
        .collect()
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

/// Parses one document and compiles it once, so that every error is found before anything is touched.
pub fn check(file: &str, text: &[u8]) -> Result<(PolicyLabel, u32), PolicyError> {
    let document = parse(file, text)?;
    let env = environment()?;
    let compiled =
        compile(&document.policy, &env, 1).map_err(|d| PolicyError::Invalid(diagnostics(file, d)))?;
    Ok((label(&document.policy), compiled.rules.len() as u32))
}

fn parse(file: &str, text: &[u8]) -> Result<Document, PolicyError> {
    match Policy::parse(text) {
        Ok(policy) => Ok(Document { policy, file: file.to_owned() }),
        Err(found) => Err(PolicyError::Invalid(diagnostics(file, found))),
    }
}

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
                agents: r.agents,
                retired: r.retired,
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
                agents: 0,
                retired: true,
                resting: None,
            });
        }
        Ok(())
    }

    /// Notes in the kernel which numbers are given.
    fn give(&self, kernel: &mut dyn KernelPort) -> Result<(), PolicyError> {
        let given = Given {
            generations: self.next_generation.wrapping_sub(1),
            labels: self.labels.len() as u32,
            patterns: self.patterns.len() as u32,
            reserved: 0,
        };
        Ok(kernel.give(given)?)
    }

    /// What a policy says of waiting for this decision.
    pub fn terms(&self, generation: u32, rule: Option<u16>, decision: Decision, cause: Cause) -> Terms {
        match self.generation(generation) {
            Some(loaded) => loaded.terms.of(rule, decision, cause).clone(),
            None => PolicyTerms::default().of(rule, decision, cause).clone(),
        }
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
                inputs: [0; 32],
                retired: l.retired,
                agents: l.agents,
                rules: l.rules.iter().map(|r| (r.id.clone(), r.reason.clone(), r.redirect.clone())).collect(),
            })
            .collect();
        (records, self.next_generation)
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

    fn read_dir(&self) -> Result<Vec<Document>, PolicyError> {
        let mut files = Vec::new();
        match std::fs::read_dir(&self.dir) {
            Ok(entries) => {
                for e in entries {
                    let path = e.map_err(io(&self.dir))?.path();
                    if path.extension().is_some_and(|x| x == "yaml" || x == "yml") {
                        files.push(path);
                    }
                }
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(io(&self.dir)(e)),
        }
        files.sort();
        let mut problems = Vec::new();
        let problem = |file: &str, message: String| Diagnostic {
            file: file.to_owned(),
            line: 0,
            column: 0,
            message,
            help: None,
        };
        if files.len() > FILES_MAX {
            let message = format!("{} policy files, this version holds {FILES_MAX}", files.len());
            problems.push(problem(&self.dir.display().to_string(), message));
        }
        let mut documents: Vec<Document> = Vec::new();
        for path in files {
            use std::io::Read;
            let file = path.display().to_string();
            let mut text = Vec::new();
            let opened = std::fs::File::open(&path).map_err(io(&path))?;
            opened.take(FILE_MAX).read_to_end(&mut text).map_err(io(&path))?;
            match parse(&file, &text) {
                Ok(d) => match documents.iter().find(|o| o.policy.name() == d.policy.name()) {
                    Some(other) => {
                        problems.push(problem(
                            &file,
                            format!("policy `{}` is also in {}", d.policy.name(), other.file),
                        ));
                    }
                    None => documents.push(d),
                },
                Err(PolicyError::Invalid(found)) => problems.extend(found),
                Err(e) => return Err(e),
            }
        }
        if problems.is_empty() { Ok(documents) } else { Err(PolicyError::Invalid(problems)) }
    }

    /// The errors of a policy that asks resolvers which nobody has set up.
    fn strangers(&self, file: &str, policy: &Policy) -> Vec<Diagnostic> {
        let asked =
            policy.rules().iter().flat_map(|rule| rule.hold.resolve.iter().map(move |name| (rule, name)));
        let known: Vec<&str> = self.resolvers.iter().map(String::as_str).collect();
        asked
            .filter(|(_, name)| !known.contains(&name.as_str()))
            .map(|(rule, name)| Diagnostic {
                file: file.to_owned(),
                line: rule.place.line,
                column: rule.place.column,
                message: format!(
                    "rule \"{}\" asks the resolver `{name}`, which this host does not have",
                    rule.id
                ),
                help: Some(format!(
                    "set it up as `resolvers: {{ {name}: … }}` in the daemon's settings; there are {}",
                    known.join(", ")
                )),
            })
            .collect()
    }

    fn free_slot(&self) -> Result<u32, PolicyError> {
        (0..POLICY_SLOTS as u32)
            .filter(|s| *s != AGENTS_SLOT)
            .find(|s| !self.loaded.iter().any(|l| l.slot == *s))
            .ok_or(PolicyError::NoSlot)
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
        let mut table = self.number_labels(compiled)?;
        patterns::number(&mut self.patterns, compiled, env, &mut table)?;
        let generation = table.generation;
        let linked = links::find(policy, env, &table);
        self.give(kernel)?;
        kernel.remember_links(generation, &linked)?;
        kernel.load_policy(slot, &table)?;
        self.loaded.push(Loaded {
            label: label(policy),
            encoded: policy_ref(&label(policy)).encoded(),
            audit: policy.mode() == Mode::Audit,
            file: file.to_owned(),
            slot,
            generation,
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
            agents: policy.agents().len() as u32,
            retired: false,
            resting: None,
        });
        Ok(generation)
    }

    fn take_generation(&mut self) -> u32 {
        let generation = self.next_generation;
        self.next_generation = generation.wrapping_add(1).max(1);
        generation
    }

    /// Reads the directory again. On any error nothing changes.
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
                && !force
            {
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

    /// Frees slots that nobody uses: `used` says whether a session is under a slot.
    pub fn sweep(
        &mut self,
        kernel: &mut dyn KernelPort,
        used: impl Fn(u32) -> bool,
    ) -> Result<(), PolicyError> {
        let now = Instant::now();
        let mut freed = Vec::new();
        for l in &mut self.loaded {
            let idle = (l.retired || l.file == "-") && !used(l.slot);
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
