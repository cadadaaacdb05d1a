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

/// Looks for files with several links below what the policy's globs name.
pub fn find(policy: &Policy, env: &Env, table: &Table) -> Vec<(Linked, Hits)> {
    let mut anchors: Vec<PathBuf> = policy
        .rules()
        .iter()
        .flat_map(|r| r.matches.path.iter().chain(&r.matches.exe).chain(r.subject_programs()))
        .flat_map(|glob| anchor(glob.as_str(), &env.homes))
        .collect();
    anchors.sort();
    anchors.dedup();
    let mut found: HashMap<Linked, Hits> = HashMap::new();
    let mut budget = ENTRIES_MAX;
    for a in &anchors {
        look(a, 0, table, &mut budget, &mut found);
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

fn look(path: &Path, depth: usize, table: &Table, budget: &mut usize, found: &mut HashMap<Linked, Hits>) {
    if *budget == 0 || depth > DEPTH_MAX || found.len() >= FOUND_MAX {
        return;
    }
    *budget -= 1;
    // What cannot be looked at (gone again, a network that does not answer) has no link to tell of.
    let Ok(meta) = std::fs::symlink_metadata(path) else { return };
    if meta.is_dir() {
        let Ok(entries) = std::fs::read_dir(path) else { return };
        for entry in entries.flatten() {
            look(&entry.path(), depth + 1, table, budget, found);
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

    #[test]
    fn a_second_name_elsewhere_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let keys = dir.path().join("keys");
        std::fs::create_dir(&keys).unwrap();
        std::fs::write(keys.join("one"), "").unwrap();
        std::fs::write(keys.join("two"), "").unwrap();
        std::fs::hard_link(keys.join("two"), dir.path().join("elsewhere")).unwrap();
        let text = format!(
            "apiVersion: aarm.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {{ name: t, version: '1' }}\nspec:\n  mode: enforce\n  rules:\n    - {{ id: k, match: {{ operation: read, path: '{}/**' }}, decision: DENY }}\n",
            keys.display()
        );
        let policy = Policy::parse(text.as_bytes()).unwrap();
        let env = Env::for_tests();
        let compiled = aarm_policy::compile(&policy, &env, 1).unwrap();
        let found = find(&policy, &env, &compiled.table);
        let ino = std::fs::metadata(dir.path().join("elsewhere")).unwrap().ino();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].0.ino, ino);
        assert_eq!(found[0].1.path[0], 1);
    }
}
