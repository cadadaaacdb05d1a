//! Each file operation: allowed where the policy is silent, refused without effect where it is not.

use std::path::Path;

use anyhow::{Result, ensure};

use super::Case;
use crate::host::{Host, file, policy};

pub const CASES: &[Case] = &[
    ("reading_is_refused_by_rule_and_allowed_elsewhere", reading),
    ("writing_appending_and_read_write_are_refused", writing),
    ("a_refused_create_leaves_nothing_behind", create),
    ("a_refused_truncating_open_leaves_the_content", open_truncate),
    ("each_change_of_the_tree_is_refused_without_effect", changes),
    ("each_change_of_the_tree_works_where_allowed", changes_allowed),
    ("rename_and_link_are_decided_on_both_ends", both_ends),
    ("listing_a_protected_directory_is_refused", listing),
];

const RULES: &str = "
- { id: no-read, match: { operation: open_read, path: '/tmp/f/secret/**' }, decision: DENY }
- { id: no-write, match: { operation: write, path: '/tmp/f/kept/**' }, decision: DENY }
- { id: no-truncate, match: { operation: truncate, path: '/tmp/f/free/log' }, decision: DENY }
";

fn host() -> Result<Host> {
    let _ = std::fs::remove_dir_all("/tmp/f");
    file("/tmp/f/secret/key", "secret")?;
    file("/tmp/f/kept/a", "a")?;
    file("/tmp/f/kept/b", "b")?;
    std::fs::create_dir("/tmp/f/kept/dir")?;
    file("/tmp/f/free/a", "a")?;
    file("/tmp/f/free/b", "b")?;
    file("/tmp/f/free/log", "log")?;
    std::fs::create_dir("/tmp/f/free/dir")?;
    Host::start(&policy(RULES))
}

fn reading() -> Result<()> {
    let h = host()?;
    h.act(&["read", "/tmp/f/secret/key"])?.refused("open_read", "/tmp/f/secret/key", "no-read")?;
    h.act(&["read", "/tmp/f/free/a"])?.allowed("open_read", "/tmp/f/free/a")?;
    h.act(&["reopen", "/tmp/f/secret/key"])?.refused("open_read", "/tmp/f/secret/key", "no-read")?;
    h.verified()
}

fn writing() -> Result<()> {
    let h = host()?;
    for technique in ["write", "append", "read-write"] {
        h.act(&[technique, "/tmp/f/kept/a"])?.refused("open_write", "/tmp/f/kept/a", "no-write")?;
        h.act(&[technique, "/tmp/f/free/a"])?.allowed("open_write", "/tmp/f/free/a")?;
    }
    // Opening to read and write is also a read.
    let a = h.act(&["read-write", "/tmp/f/secret/key"])?;
    a.refused("open_write", "/tmp/f/secret/key", "no-read")
}

fn create() -> Result<()> {
    let h = host()?;
    h.act(&["create", "/tmp/f/kept/new"])?.refused("create", "/tmp/f/kept/new", "no-write")?;
    ensure!(!Path::new("/tmp/f/kept/new").exists(), "the refused file exists");
    h.act(&["create", "/tmp/f/free/new"])?.allowed("create", "/tmp/f/free/new")?;
    ensure!(Path::new("/tmp/f/free/new").exists());
    Ok(())
}

fn open_truncate() -> Result<()> {
    let h = host()?;
    h.act(&["open-truncate", "/tmp/f/kept/a"])?.refused("open_write", "/tmp/f/kept/a", "no-write")?;
    ensure!(std::fs::read("/tmp/f/kept/a")? == b"a");
    // A rule on truncation alone holds for this way of truncating too.
    h.act(&["open-truncate", "/tmp/f/free/log"])?.refused("open_write", "/tmp/f/free/log", "no-truncate")?;
    ensure!(std::fs::read("/tmp/f/free/log")? == b"log");
    h.act(&["append", "/tmp/f/free/log"])?.allowed("open_write", "/tmp/f/free/log")?;
    h.act(&["open-truncate", "/tmp/f/free/a"])?.allowed("open_write", "/tmp/f/free/a")?;
    ensure!(std::fs::read("/tmp/f/free/a")?.is_empty());
    Ok(())
}

/// `(operation, technique, object)`, in an order in which all work.
fn techniques(dir: &str) -> Vec<(&'static str, Vec<String>, String)> {
    let p = |name: &str| format!("/tmp/f/{dir}/{name}");
    vec![
        ("mkdir", vec!["mkdir".into(), p("new")], p("new")),
        ("mknod", vec!["mkfifo".into(), p("fifo")], p("fifo")),
        ("symlink", vec!["symlink".into(), "/etc/passwd".into(), p("sym")], p("sym")),
        ("link", vec!["link".into(), p("a"), p("hard")], p("hard")),
        ("rename", vec!["rename".into(), p("b"), p("c")], p("b")),
        ("truncate", vec!["truncate".into(), p("a")], p("a")),
        ("chmod", vec!["chmod".into(), p("a")], p("a")),
        ("chown", vec!["chown".into(), p("a")], p("a")),
        ("unlink", vec!["unlink".into(), p("a")], p("a")),
        ("rmdir", vec!["rmdir".into(), p("dir")], p("dir")),
    ]
}

/// Everything there is to see of a tree.
fn state(dir: &str) -> Result<Vec<String>> {
    use std::os::unix::fs::MetadataExt;
    let mut all = Vec::new();
    for e in std::fs::read_dir(dir)? {
        let path = e?.path();
        let m = std::fs::symlink_metadata(&path)?;
        all.push(format!(
            "{} {:o} {} {} {} {}",
            path.display(),
            m.mode(),
            m.uid(),
            m.gid(),
            m.size(),
            m.nlink()
        ));
    }
    all.sort();
    Ok(all)
}

fn changes() -> Result<()> {
    let h = host()?;
    let before = state("/tmp/f/kept")?;
    for (operation, technique, object) in techniques("kept") {
        let words: Vec<&str> = technique.iter().map(String::as_str).collect();
        h.act(&words)?.refused(operation, &object, "no-write")?;
    }
    ensure!(state("/tmp/f/kept")? == before, "{before:?} became {:?}", state("/tmp/f/kept")?);
    h.verified()
}

fn changes_allowed() -> Result<()> {
    let h = host()?;
    for (operation, technique, object) in techniques("free") {
        let words: Vec<&str> = technique.iter().map(String::as_str).collect();
        h.act(&words)?.allowed(operation, &object)?;
    }
    Ok(())
}

fn both_ends() -> Result<()> {
    let h = host()?;
    // Out of a place that may not be read, into one that may not be written, and exchanged.
    let a = h.act(&["rename", "/tmp/f/secret/key", "/tmp/f/free/key"])?;
    a.refused("rename", "/tmp/f/secret/key", "no-read")?;
    h.act(&["link", "/tmp/f/secret/key", "/tmp/f/free/key"])?.refused(
        "link",
        "/tmp/f/secret/key",
        "no-read",
    )?;
    h.act(&["rename", "/tmp/f/free/a", "/tmp/f/kept/z"])?.refused("rename", "/tmp/f/kept/z", "no-write")?;
    h.act(&["exchange", "/tmp/f/free/a", "/tmp/f/kept/a"])?.refused("rename", "/tmp/f/kept/a", "no-write")?;
    h.act(&["exchange", "/tmp/f/free/a", "/tmp/f/secret/key"])?.refused(
        "rename",
        "/tmp/f/secret/key",
        "no-read",
    )?;
    ensure!(std::fs::read("/tmp/f/secret/key")? == b"secret" && !Path::new("/tmp/f/free/key").exists());
    Ok(())
}

fn listing() -> Result<()> {
    let h = host()?;
    h.act(&["list", "/tmp/f/secret"])?.refused("open_read", "/tmp/f/secret", "no-read")?;
    h.act(&["list", "/tmp/f"])?.allowed("open_read", "/tmp/f")
}
