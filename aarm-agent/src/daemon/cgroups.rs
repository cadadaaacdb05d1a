//! Paths of cgroups by their ids, for receipts.
//!
//! In the unified hierarchy cgroups are not renamed and their ids not used again, so a path that was found once stays right,
//! also when the cgroup is gone. Must never: take a path for another cgroup's; what cannot be found is unknown.

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aarm_receipt::receipt::CGROUP_MAX;

use super::sessions::Text;

/// Paths remembered; then all are forgotten.
const KNOWN_MAX: usize = 4096;
/// Id of the hierarchy's root.
const ROOT: u64 = 1;
/// `FILEID_KERNFS`: a handle that is the id.
const KERNFS: i32 = 0xfe;

/// `struct file_handle` with an id in it.
#[repr(C)]
struct Handle {
    bytes: u32,
    kind: i32,
    id: u64,
}

/// The paths found so far.
#[derive(Default)]
pub struct Cgroups {
    /// The hierarchy, and where it is mounted.
    root: Option<(File, PathBuf)>,
    known: std::collections::HashMap<u64, Text, foldhash::fast::RandomState>,
}

/// What a descriptor is open on.
fn path_of(fd: i32) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{fd}")).ok()
}

impl Cgroups {
    /// Of a directory where the unified hierarchy is mounted. One that shows only a part of it, as in a cgroup namespace, tells
    /// no paths from the root.
    pub fn at(root: Option<File>) -> Self {
        let root = root
            .filter(|dir| dir.metadata().is_ok_and(|m| m.ino() == ROOT))
            .and_then(|dir| path_of(dir.as_raw_fd()).map(|path| (dir, path)));
        Self { root, ..Self::default() }
    }

    /// The path of a cgroup as receipts have it; empty: the root, or unknown.
    pub fn path(&mut self, id: u64) -> Text {
        if id <= ROOT {
            return Text::default();
        }
        if let Some(path) = self.known.get(&id) {
            return path.clone();
        }
        let Some(path) = self.find(id) else { return Text::default() };
        let bytes = path.as_os_str().as_bytes();
        let cut = &bytes[..bytes.len().min(CGROUP_MAX)];
        let path = Text::from(cut.strip_suffix(b"/").unwrap_or(cut));
        if self.known.len() >= KNOWN_MAX {
            self.known.clear();
        }
        self.known.insert(id, path.clone());
        path
    }

    fn find(&self, id: u64) -> Option<PathBuf> {
        let (dir, mounted) = self.root.as_ref()?;
        let mut handle = Handle { bytes: 8, kind: KERNFS, id };
        // SAFETY: the handle is one of eight bytes, as it says; the descriptor is ours.
        let found = unsafe {
            let flags = libc::O_PATH | libc::O_CLOEXEC;
            let fd = libc::syscall(libc::SYS_open_by_handle_at, dir.as_raw_fd(), &raw mut handle, flags);
            if fd < 0 {
                return None;
            }
            OwnedFd::from_raw_fd(fd as i32)
        };
        let path = path_of(found.as_raw_fd())?;
        // What was removed has a name that is another one's, or nobody's.
        let same = std::fs::symlink_metadata(&path).is_ok_and(|m| m.is_dir() && m.ino() == id);
        let below = path.strip_prefix(mounted).ok()?;
        (same && !below.as_os_str().is_empty()).then(|| Path::new("/").join(below))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_has_its_path_and_nothing_else_has_one() {
        // What is no root of the hierarchy tells nothing.
        let dir = tempfile::tempdir().unwrap();
        let mut none = Cgroups::at(File::open(dir.path()).ok());
        assert!(none.root.is_none() && none.path(2).is_empty());
        let mut all = Cgroups::at(crate::kernel::cgroup_root());
        assert!(all.path(0).is_empty() && all.path(ROOT).is_empty() && all.path(u64::MAX).is_empty());
        // Opening by handle takes a privilege that this test may not have, in a hierarchy that may be a part.
        let Some((_, mounted)) = &all.root else { return };
        let Some(child) = std::fs::read_dir(mounted).unwrap().flatten().find(|e| e.path().is_dir()) else {
            return;
        };
        let path = all.path(child.metadata().unwrap().ino());
        assert!(path.is_empty() || path[1..] == *child.file_name().as_bytes(), "{}", path.shown());
    }
}
