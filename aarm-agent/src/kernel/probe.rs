//! What this host can do: the facts behind `aarm doctor` and the first checks of the daemon.
//!
//! Probes by looking and, where it may, by doing: a program of one instruction is loaded and attached.

use std::path::Path;

use serde::Serialize;

use super::btf::Btf;
use super::error::KernelError;
use super::pins::Pins;
use super::preempt::{self, Preemption};
use super::{offsets, programs};

const LSM_LIST: &str = "/sys/kernel/security/lsm";

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct Probe {
    /// Kernel release.
    pub kernel: String,
    /// Running as root.
    pub root: bool,
    /// The kernel has type information.
    pub btf: bool,
    /// The active security modules; `None` if securityfs is not mounted.
    pub lsm: Option<Vec<String>>,
    /// The LSM part of the kernel command line, if it has one.
    pub lsm_parameter: Option<String>,
    /// The BPF filesystem is mounted at its usual place.
    pub bpffs: bool,
    /// cgroup v2 is mounted at its usual place.
    pub cgroup2: bool,
    /// Structure members that the programs need and this kernel lacks.
    pub missing_members: Vec<String>,
    /// Hooks that this kernel lacks.
    pub missing_hooks: Vec<String>,
    /// Whether supervised tasks may be hidden.
    pub preemption: Preemption,
    /// Result of really loading and attaching a program: `None` if it could not be tried (not root).
    pub attach: Option<Result<(), String>>,
}

impl Probe {
    /// Whether aarm can enforce here.
    pub fn can_enforce(&self) -> bool {
        self.root
            && self.btf
            && self.bpffs
            && self.lsm.as_ref().is_some_and(|l| l.iter().any(|m| m == "bpf"))
            && self.missing_members.is_empty()
            && self.missing_hooks.is_empty()
            && self.preemption != Preemption::Hides
            && matches!(self.attach, Some(Ok(())))
    }
}

/// The active security modules.
fn active_lsm() -> Option<Vec<String>> {
    let list = std::fs::read_to_string(LSM_LIST).ok()?;
    Some(list.trim().split(',').map(str::to_owned).collect())
}

/// Refuses a kernel that does not run BPF security programs.
pub fn require_bpf_lsm() -> Result<(), KernelError> {
    match active_lsm() {
        Some(list) if list.iter().any(|m| m == "bpf") => Ok(()),
        Some(list) => Err(KernelError::NoBpfLsm { active: list.join(",") }),
        // securityfs is not mounted everywhere (containers): then loading tells.
        None => Ok(()),
    }
}

/// Refuses a kernel that may hide tasks from the programs.
pub fn require_no_preemption() -> Result<(), KernelError> {
    match preempt::of_host() {
        Preemption::Harmless => Ok(()),
        Preemption::Hides => Err(KernelError::Preempts),
        Preemption::Unknown => {
            tracing::warn!(
                "how this kernel is preempted cannot be told: with `preempt=full` it cannot enforce"
            );
            Ok(())
        }
    }
}

/// Looks at everything.
pub fn probe() -> Probe {
    let btf = Btf::of_kernel().ok();
    // SAFETY: geteuid has no preconditions.
    let root = unsafe { libc::geteuid() } == 0;
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cmdline = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let missing_members = match &btf {
        Some(btf) => offsets::resolve(btf).err().map(|e| e.to_string()).into_iter().collect(),
        None => Vec::new(),
    };
    let missing_hooks = match &btf {
        Some(btf) => programs::LSM
            .iter()
            .filter(|hook| {
                !programs::is_optional(hook)
                    && !btf.has_function(&format!("bpf_lsm_{}", programs::hook(hook)))
            })
            .copied()
            .chain(
                programs::FUNCTIONS
                    .iter()
                    .filter(|f| !f.optional && !btf.has_function(f.function))
                    .map(|f| f.function),
            )
            .map(str::to_owned)
            .collect(),
        None => Vec::new(),
    };
    Probe {
        kernel: release.trim().to_owned(),
        root,
        btf: btf.is_some(),
        lsm: active_lsm(),
        lsm_parameter: cmdline.split_whitespace().find_map(|w| w.strip_prefix("lsm=")).map(str::to_owned),
        bpffs: Pins::at(Path::new("/sys/fs/bpf")).is_ok(),
        cgroup2: Path::new("/sys/fs/cgroup/cgroup.controllers").exists(),
        missing_members,
        missing_hooks,
        preemption: preempt::of_host(),
        attach: (root && btf.is_some() && !crate::object::FLOOR.is_empty()).then(try_attach),
    }
}

/// Loads an empty program on a harmless hook, attaches it and lets it go.
fn try_attach() -> Result<(), String> {
    let mut floor = Floor::load().map_err(|e| e.to_string())?;
    floor.attach("path_chmod").map_err(|e| e.to_string())
}

/// Empty programs on the same hooks: what a hook costs before it does anything. For probing and benchmarks.
pub struct Floor {
    object: aya::Ebpf,
    btf: aya::Btf,
    links: Vec<aya::programs::links::FdLink>,
}

impl Floor {
    /// Loads the object of empty programs.
    pub fn load() -> Result<Self, KernelError> {
        if crate::object::FLOOR.is_empty() {
            return Err(KernelError::NoObject);
        }
        let btf = aya::Btf::from_sys_fs().map_err(|e| KernelError::Load(aya::EbpfError::BtfError(e)))?;
        Ok(Self { object: aya::Ebpf::load(crate::object::FLOOR)?, btf, links: Vec::new() })
    }

    /// Attaches one empty program.
    pub fn attach(&mut self, name: &'static str) -> Result<(), KernelError> {
        programs::load(&mut self.object, &[name], &self.btf, |_, _| ())?;
        self.links.push(programs::attach(&mut self.object, name)?);
        Ok(())
    }

    /// Attaches all of them; they stay while this value lives.
    pub fn attach_all(&mut self) -> Result<(), KernelError> {
        let kernel = Btf::of_kernel()?;
        programs::names(&kernel).try_for_each(|name| self.attach(name))
    }
}
