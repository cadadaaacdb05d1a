//! Files that a policy protects under one name and that have others.
//!
//! A rule on `/home/u/.ssh/**` means the files there, also through a hard link made elsewhere long ago. The kernel
//! programs know the names they meet; so when a policy is loaded, the directories its anchored globs name are looked through
//! for files with several links, and what their names there satisfy is handed to the programs.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aarm_common::policy::{Hits, Policy as Table};
use aarm_policy::{Env, Policy, table};

use crate::kernel::Linked;

/// Directory entries looked at for one policy.
const ENTRIES_MAX: usize = 100_000;
/// Files handed to the kernel for one policy.
const FOUND_MAX: usize = 4096;
/// How deep directories are followed.
const DEPTH_MAX: usize = 64;

/// The kernel's form of a device number.
fn kernel_dev(dev: u64) -> u32 {
    libc::major(dev) << 20 | libc::minor(dev)
}

/// The directory or file that an anchored glob names before its first wildcard; none if it could be anywhere.
fn anchor(glob: &str, homes: &[Vec<u8>]) -> Vec<PathBuf> {
    let fixed: Vec<&str> = glob.split('/').take_while(|c| !c.contains(['*', '?', '[', '{', '\\'])).collect();
    let under = |root: &[u8], rest: &[&str]| {
        let mut path = PathBuf::from(std::ffi::OsStr::from_bytes(root));
        rest.iter().filter(|c| !c.is_empty()).for_each(|c| path.push(c));
        path
    };
    match fixed.split_first() {
        Some((&"~", rest)) if !rest.is_empty() => homes.iter().map(|home| under(home, rest)).collect(),
        Some((&"", rest)) if rest.iter().any(|c| !c.is_empty()) => vec![under(b"/", rest)],
        _ => Vec::new(),
    }
}

/// Whether no symbolic link leads there: globs are about real paths, and what is found below a link has another one.
fn is_real(anchor: &Path) -> bool {
    let Some(parent) = anchor.parent() else { return true };
    std::fs::canonicalize(parent).is_ok_and(|real| real == parent)
}

/// Looks for files with several links below what the policy's globs name.
pub fn find(policy: &Policy, env: &Env, table: &Table) -> Vec<(Linked, Hits)> {
    let rules = policy.rules().iter().flat_map(|r| {
        let m = &r.matches;
        let globs = m.path.iter().chain(&m.not_path).chain(&m.exe).chain(&m.not_exe);
        globs.chain(r.subject_programs())
    });
    let data = policy.data().iter().flat_map(|d| d.on.read.iter().chain(&d.on.write).chain(&d.on.exec));
    let anchors = rules.chain(data).flat_map(|glob| anchor(glob.as_str(), &env.homes));
    let mut anchors: Vec<PathBuf> = anchors.filter(|a| is_real(a)).collect();
    anchors.sort();
    anchors.dedup();
    let mut found: HashMap<Linked, Hits> = HashMap::new();
    let mut budget = ENTRIES_MAX;
    for a in &anchors {
        look(a, None, 0, table, &mut budget, &mut found);
    }
    if budget == 0 || found.len() >= FOUND_MAX {
        tracing::warn!(
            "policy {}: hard links of {} files below its globs are known, others only once they are met by name",
            policy.name(),
            found.len()
        );
    }
    found.into_iter().collect()
}

/// File systems whose files are not on any disk, and have one name each: there may be very many.
const WITHOUT_LINKS: &[libc::c_long] = &[
    libc::PROC_SUPER_MAGIC,
    libc::SYSFS_MAGIC,
    libc::DEBUGFS_MAGIC,
    libc::TRACEFS_MAGIC,
    libc::CGROUP_SUPER_MAGIC,
    libc::CGROUP2_SUPER_MAGIC,
    libc::BPF_FS_MAGIC,
    libc::SECURITYFS_MAGIC,
];

/// Whether files of the file system there may have several names.
fn has_links(path: &Path) -> bool {
    nix::sys::statfs::statfs(path).is_ok_and(|fs| !WITHOUT_LINKS.contains(&fs.filesystem_type().0))
}

/// Looks below a path; `of`: the device of the directory that it is in.
fn look(
    path: &Path,
    of: Option<u64>,
    depth: usize,
    table: &Table,
    budget: &mut usize,
    found: &mut HashMap<Linked, Hits>,
) {
    if *budget == 0 || depth > DEPTH_MAX || found.len() >= FOUND_MAX {
        return;
    }
    *budget -= 1;
    // What cannot be looked at (gone again, a network that does not answer) has no link to tell of.
    let Ok(meta) = std::fs::symlink_metadata(path) else { return };
    if meta.is_dir() {
        if of != Some(meta.dev()) && !has_links(path) {
            return;
        }
        let Ok(entries) = std::fs::read_dir(path) else { return };
        for entry in entries.flatten() {
            look(&entry.path(), Some(meta.dev()), depth + 1, table, budget, found);
        }
    } else if meta.is_file() && meta.nlink() > 1 {
        let hits = table::walk(table, path.as_os_str().as_bytes());
        let file = Linked { ino: meta.ino(), dev: kernel_dev(meta.dev()) };
        match found.get_mut(&file) {
            Some(known) => table::add(known, &hits),
            None => {
                found.insert(file, hits);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchored_globs_name_a_place() {
        let homes = [b"/root".to_vec(), b"/home/u".to_vec()];
        let at = |glob| anchor(glob, &homes).iter().map(|p| p.display().to_string()).collect::<Vec<_>>();
        assert_eq!(at("/etc/shadow"), ["/etc/shadow"]);
        assert_eq!(at("/srv/*/keys/**"), ["/srv"]);
        assert_eq!(at("~/.ssh/**"), ["/root/.ssh", "/home/u/.ssh"]);
        assert!(at("**/.env").is_empty());
        assert!(at("/**").is_empty());
    }

    /// A directory with a file `two` in `keys` that is also `elsewhere`, and what is found for a policy with this spec, in
    /// which `DIR` stands for it.
    fn found(spec: &str) -> (tempfile::TempDir, Vec<(Linked, Hits)>) {
        let dir = tempfile::tempdir().unwrap();
        let keys = dir.path().join("keys");
        std::fs::create_dir(&keys).unwrap();
        std::fs::write(keys.join("one"), "").unwrap();
        std::fs::write(keys.join("two"), "").unwrap();
        std::fs::hard_link(keys.join("two"), dir.path().join("elsewhere")).unwrap();
        std::os::unix::fs::symlink(&keys, dir.path().join("link")).unwrap();
        let real = dir.path().canonicalize().unwrap();
        let text = format!(
            "apiVersion: aarm.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {{ name: t, version: '1' }}\nspec:\n  mode: enforce\n{}",
            spec.replace("DIR", real.to_str().unwrap())
        );
        let policy = Policy::parse(text.as_bytes()).unwrap();
        let env = Env::for_tests();
        let compiled = aarm_policy::compile(&policy, &env, 1).unwrap();
        let found = find(&policy, &env, &compiled.table);
        let ino = std::fs::metadata(dir.path().join("elsewhere")).unwrap().ino();
        assert!(found.iter().all(|(file, _)| file.ino == ino));
        (dir, found)
    }

    #[test]
    fn file_systems_without_links_are_not_looked_through() {
        assert!(!has_links(Path::new("/proc")) && !has_links(Path::new("/sys")) && has_links(Path::new("/")));
    }

    #[test]
    fn a_second_name_elsewhere_is_found() {
        let (_dir, found) = found(
            "  rules:\n    - { id: k, match: { operation: read, path: 'DIR/keys/**' }, decision: DENY }\n",
        );
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].1.path[0], 1);
    }

    #[test]
    fn a_second_name_of_data_and_of_what_is_excepted_is_found() {
        let (_dir, data) = found("  data:\n    - { label: A, level: PUBLIC, on: { read: 'DIR/keys/**' } }\n");
        assert_eq!(data.len(), 1);
        let (_dir, excepted) = found(
            "  rules:\n    - { id: k, match: { operation: read, not_path: 'DIR/keys/**' }, decision: DENY }\n",
        );
        assert_eq!(excepted[0].1.not_path[0], 1);
    }

    #[test]
    fn what_a_link_leads_to_is_not_found_under_its_name() {
        let (_dir, found) = found(
            "  rules:\n    - { id: k, match: { operation: read, path: 'DIR/link/two' }, decision: DENY }\n",
        );
        assert!(found.is_empty());
    }
}
