//! What can go wrong between the daemon and the kernel, worded for the person who must fix it.

use std::path::PathBuf;

use super::btf::BtfError;

/// An error of the kernel side.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The build has no kernel programs.
    #[error("this aarm-agent was built without the kernel programs: build it with `cargo xtask build`")]
    NoObject,
    /// Not root.
    #[error(
        "aarm-agent must run as root (it loads kernel programs): start it with sudo or as a system service"
    )]
    NotRoot,
    /// Tasks may be hidden from the programs.
    #[error(
        "this kernel is older than 6.2 and fully preemptible: a supervised task may be hidden from the programs where another one interrupts it. \
         Boot it with `preempt=voluntary`, or use a newer one"
    )]
    Preempts,
    /// `bpf` is not among the active security modules.
    #[error(
        "this kernel does not run BPF security programs: `bpf` is not in its LSM list ({active}); \
         run `aarm doctor` for the line that enables it"
    )]
    NoBpfLsm {
        /// The active list.
        active: String,
    },
    /// No BPF filesystem.
    #[error("{0} is not a BPF filesystem: mount -t bpf bpf {0}")]
    NoBpfFs(PathBuf),
    /// The kernel's type information.
    #[error(transparent)]
    Btf(#[from] BtfError),
    /// Another version's state is pinned.
    #[error(
        "the kernel holds state of aarm ABI version {pinned} under {dir}, this aarm-agent speaks version {ours}: \
         end its sessions with that version, then run `aarm-agent detach`"
    )]
    OtherVersion {
        /// Where.
        dir: PathBuf,
        /// The version found.
        pinned: u32,
        /// This program's version.
        ours: u32,
    },
    /// The object could not be loaded.
    #[error("cannot load the kernel programs: {0}")]
    Load(#[from] aya::EbpfError),
    /// One program was refused.
    #[error("the kernel refused program `{program}`: {source}")]
    Program {
        /// Its name.
        program: &'static str,
        /// Why.
        source: aya::programs::ProgramError,
    },
    /// A program is not in the object.
    #[error("the kernel object has no program `{0}`: it does not belong to this aarm-agent")]
    NoProgram(&'static str),
    /// A map failed.
    #[error("kernel map `{map}`: {source}")]
    Map {
        /// Its name.
        map: &'static str,
        /// Why.
        source: aya::maps::MapError,
    },
    /// A system call failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why.
        source: std::io::Error,
    },
    /// All sessions are in use.
    #[error(
        "{} sessions are running, the most this version can hold: end one first",
        aarm_common::limits::SESSIONS
    )]
    NoFreeSession,
    /// The process belongs to a session already.
    #[error("the process belongs to a session already")]
    InSession,
    /// A slot number out of range.
    #[error("{0} is not a slot")]
    Slot(u32),
    /// Sessions are running.
    #[error("{0} sessions are running: end them, or use --force to leave them unsupervised")]
    SessionsRunning(usize),
}

impl KernelError {
    /// Wraps an I/O error with what was tried.
    pub fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// Whether the host, rather than this run, is at fault: the daemon then exits with 2.
    pub fn is_host(&self) -> bool {
        matches!(
            self,
            Self::NotRoot
                | Self::NoBpfLsm { .. }
                | Self::Preempts
                | Self::NoBpfFs(_)
                | Self::Btf(_)
                | Self::Program { .. }
        )
    }
}
