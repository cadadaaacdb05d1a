//! Policy documents on their way in: reading them, and everything that can be wrong with them on this host.

use std::path::{Path, PathBuf};

use aarm_common::limits::{MAX_LABELS, POLICY_SLOTS, SUBJECT_PATTERNS};
use aarm_common::policy::Policy as Table;
use aarm_policy::{Env, Policy, compile};

use super::{Policies, label};
use crate::api::types::{Diagnostic, PolicyLabel};
use crate::daemon::host;
use crate::daemon::port::KernelPort;
use crate::kernel::KernelError;
/// Largest policy file read; a larger one is refused by the parser's own bound.
const FILE_MAX: u64 = aarm_policy::MAX_DOCUMENT as u64 + 1;
/// Most policy files.
const FILES_MAX: usize = POLICY_SLOTS - 1;
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

/// A parsed document on its way in.
pub struct Document {
    pub(super) policy: Policy,
    pub(super) file: String,
}

pub(super) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> PolicyError {
    let path = path.to_path_buf();
    move |source| PolicyError::Io { path, source }
}

/// What policies need to know of this host.
pub(super) fn environment() -> Result<Env, PolicyError> {
    let env = host::homes(Path::new(PASSWD)).map_err(io(Path::new(PASSWD)))?;
    let servers = host::text(Path::new(RESOLV_CONF)).map_err(io(Path::new(RESOLV_CONF)))?;
    Ok(env.with_resolv_conf(&servers))
}

/// The error of a policy that asks for what needs the root of the cgroups, where there is none.
pub(super) fn rootless(file: &str, table: &Table, kernel: &dyn KernelPort) -> Option<Diagnostic> {
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
pub(super) fn diagnostics(file: &str, found: Vec<aarm_policy::Diagnostic>) -> Vec<Diagnostic> {
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

/// Parses one document and compiles it once, so that every error is found before anything is touched.
pub fn check(file: &str, text: &[u8]) -> Result<(PolicyLabel, u32), PolicyError> {
    let document = parse(file, text)?;
    let env = environment()?;
    let compiled =
        compile(&document.policy, &env, 1).map_err(|d| PolicyError::Invalid(diagnostics(file, d)))?;
    Ok((label(&document.policy), compiled.rules.len() as u32))
}

pub(super) fn parse(file: &str, text: &[u8]) -> Result<Document, PolicyError> {
    match Policy::parse(text) {
        Ok(policy) => Ok(Document { policy, file: file.to_owned() }),
        Err(found) => Err(PolicyError::Invalid(diagnostics(file, found))),
    }
}

impl Policies {
    pub(super) fn read_dir(&self) -> Result<Vec<Document>, PolicyError> {
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
    pub(super) fn strangers(&self, file: &str, policy: &Policy) -> Vec<Diagnostic> {
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
}
