//! Where maps and links are pinned, and whose they are.
//!
//! ```text
//! <bpffs>/aarm/maps/NAME    every map by name
//! <bpffs>/aarm/links/NAME   every program's link by name
//! ```
//! Pins make the kernel side independent of the daemon's life: its death detaches nothing.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::btf::Btf;
use super::error::KernelError;

const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// The maps, by the names the object gives them.
pub const MAPS: &[&str] = &[
    "TASKS",
    "SPARES",
    "SPARE_COUNT",
    "SESSIONS",
    "FREE_SLOTS",
    "POLICIES",
    "CONFIG",
    "EVENTS",
    "CPU",
    "SCRATCH",
    "MOVES",
    "KNOWN",
    "HOME_MOUNT",
    "LINKED",
    "CARRIED",
    "CARRIES",
    "SHARED",
    "SHARES",
    "INHERITED",
    "OWNERS",
    "HOSTS",
    "RESOLVING",
    "HOLDS",
    "VERDICTS",
    "LINES",
    "GRANTS",
    "REDIRECTING",
    "REDIRECTED",
    "ANSWERING",
];

/// The programs' variables, as the object calls them and as they are pinned: bpffs refuses names with a dot.
pub const GLOBALS: (&str, &str) = (".bss", "GLOBALS");

/// The tree of pins.
#[derive(Clone, Debug)]
pub struct Pins {
    dir: PathBuf,
}

impl Pins {
    /// The tree on the BPF filesystem mounted at `bpffs`.
    pub fn at(bpffs: &Path) -> Result<Self, KernelError> {
        let path = std::ffi::CString::new(bpffs.as_os_str().as_bytes())
            .map_err(|_| KernelError::NoBpfFs(bpffs.to_path_buf()))?;
        // SAFETY: an all-zero `statfs` is valid, and the path ends in NUL.
        let magic = unsafe {
            let mut fs: libc::statfs = std::mem::zeroed();
            if libc::statfs(path.as_ptr(), &mut fs) != 0 { 0 } else { fs.f_type }
        };
        if magic as i64 != BPF_FS_MAGIC {
            return Err(KernelError::NoBpfFs(bpffs.to_path_buf()));
        }
        Ok(Self { dir: bpffs.join("aarm") })
    }

    /// Creates the directories, closed to everybody but root.
    pub fn create(&self) -> Result<(), KernelError> {
        for dir in [self.dir.clone(), self.maps(), self.links()] {
            match std::fs::DirBuilder::new().mode(0o700).create(&dir) {
                Ok(()) => {}
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                    let meta = std::fs::symlink_metadata(&dir)
                        .map_err(KernelError::io(format!("cannot look at {}", dir.display())))?;
                    if !meta.is_dir() || meta.uid() != 0 || meta.permissions().mode() & 0o077 != 0 {
                        let source =
                            std::io::Error::other("exists, and is not a directory that only root can use");
                        return Err(KernelError::Io { what: dir.display().to_string(), source });
                    }
                }
                Err(e) => return Err(KernelError::io(format!("cannot create {}", dir.display()))(e)),
            }
        }
        Ok(())
    }

    /// The tree's root.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn maps(&self) -> PathBuf {
        self.dir.join("maps")
    }

    fn links(&self) -> PathBuf {
        self.dir.join("links")
    }

    /// A map's pin.
    pub fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    /// A link's pin.
    pub fn link(&self, name: &str) -> PathBuf {
        self.links().join(name)
    }

    /// How many links there are.
    pub fn count_links(&self) -> u32 {
        std::fs::read_dir(self.links()).map_or(0, |entries| entries.flatten().count() as u32)
    }

    /// Removes links this version does not know: those of a former one with other hooks.
    pub fn remove_other_links(&self, kernel: &Btf) -> Result<(), KernelError> {
        let Ok(entries) = std::fs::read_dir(self.links()) else { return Ok(()) };
        for entry in entries.flatten() {
            let known =
                entry.file_name().to_str().is_some_and(|n| super::programs::names(kernel).any(|k| k == n));
            if !known {
                std::fs::remove_file(entry.path())
                    .map_err(KernelError::io(format!("cannot remove {}", entry.path().display())))?;
            }
        }
        Ok(())
    }

    /// Removes everything: links first, so that nothing runs without its maps' names.
    pub fn remove(&self) -> Result<(), KernelError> {
        for dir in [self.links(), self.maps(), self.dir.clone()] {
            let Ok(entries) = std::fs::read_dir(&dir) else { continue };
            for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| !t.is_dir())) {
                std::fs::remove_file(entry.path())
                    .map_err(KernelError::io(format!("cannot remove {}", entry.path().display())))?;
            }
            std::fs::remove_dir(&dir).map_err(KernelError::io(format!("cannot remove {}", dir.display())))?;
        }
        Ok(())
    }
}
