//! Facts of the host that policies refer to: home directories, name servers and cgroups.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use aarm_policy::{CgroupId, Env};

/// Largest file read, in bytes.
const FILE_MAX: u64 = 4 << 20;
/// Where cgroup v2 is mounted.
pub const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// Home directories from a passwd file. Without one (a container of a single binary) there are none.
pub fn homes(passwd: &Path) -> std::io::Result<Env> {
    Ok(Env::from_passwd(&text(passwd)?))
}

/// Content of a configuration file; empty where there is none.
pub fn text(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut text = Vec::new();
    match std::fs::File::open(path) {
        Ok(file) => {
            if file.take(FILE_MAX + 1).read_to_end(&mut text)? as u64 > FILE_MAX {
                return Err(std::io::Error::other(format!("over {FILE_MAX} bytes")));
            }
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    Ok(text)
}

/// Ids and depths of those cgroups, absolute within the hierarchy at `root`, that exist now.
pub fn cgroups(root: &Path, paths: &[String]) -> Vec<CgroupId> {
    paths.iter().filter_map(|path| cgroup(root, path)).collect()
}

fn cgroup(root: &Path, path: &str) -> Option<CgroupId> {
    let mut dir = root.to_path_buf();
    let mut level = 0;
    for part in path.split('/').filter(|p| !p.is_empty()) {
        if part == "." || part == ".." {
            return None;
        }
        dir.push(part);
        level += 1;
    }
    let meta = std::fs::symlink_metadata(&dir).ok()?;
    // The inode number of a cgroup's directory is its id (kernfs).
    meta.is_dir().then(|| CgroupId { id: meta.ino(), level })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroups_are_found_where_they_are() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("a/b")).unwrap();
        let paths = ["/a/b", "/a/missing", "/", "/a/../a"].map(str::to_owned);
        let found = cgroups(root.path(), &paths);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].level, 2);
        assert_eq!(found[0].id, std::fs::metadata(root.path().join("a/b")).unwrap().ino());
        assert_eq!(found[1].level, 0);
    }

    #[test]
    fn no_passwd_means_no_homes() {
        assert!(homes(Path::new("/nonexistent/passwd")).unwrap().homes.is_empty());
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "u:x:1000:1000::/home/u:/bin/sh\n").unwrap();
        assert_eq!(homes(file.path()).unwrap().homes, [b"/home/u".to_vec()]);
    }
}
