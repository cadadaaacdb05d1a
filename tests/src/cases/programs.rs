//! A forbidden program does not run, under whatever name it is started.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Result, ensure};

use super::Case;
use crate::host::{Host, ME, file, policy};

pub const CASES: &[Case] = &[
    ("a_forbidden_program_does_not_run", by_name),
    ("a_link_does_not_hide_it", by_link),
    ("a_script_does_not_hide_it", by_script),
    ("a_loader_does_not_hide_it", by_mapping),
    ("the_acting_program_is_told_apart", acting),
    ("arguments_and_directory_are_recorded", arguments),
    ("a_program_in_memory_has_its_name", memfd),
];

const RULES: &str = "
- { id: no-tool, match: { operation: exec, exe: '/tmp/x/forbidden' }, decision: DENY }
- { id: only-reader, match: { operation: open_read, path: '/tmp/x/data', not_exe: '/tmp/x/reader' }, decision: DENY }
";

fn host() -> Result<Host> {
    let _ = std::fs::remove_dir_all("/tmp/x");
    file("/tmp/x/data", "x")?;
    for name in ["forbidden", "reader"] {
        std::fs::copy(ME, format!("/tmp/x/{name}"))?;
    }
    Host::start(&policy(RULES))
}

fn by_name() -> Result<()> {
    let h = host()?;
    h.act(&["exec", "/tmp/x/forbidden", "actor", "nothing"])?.refused(
        "exec",
        "/tmp/x/forbidden",
        "no-tool",
    )?;
    h.act(&["exec", "/tmp/x/reader", "actor", "nothing"])?.allowed("exec", "/tmp/x/reader")
}

fn by_link() -> Result<()> {
    let h = host()?;
    std::os::unix::fs::symlink("/tmp/x/forbidden", "/tmp/x/innocent")?;
    h.act(&["exec", "/tmp/x/innocent", "actor", "nothing"])?.refused("exec", "/tmp/x/forbidden", "no-tool")
}

fn by_script() -> Result<()> {
    let h = host()?;
    file("/tmp/x/script", "#!/tmp/x/forbidden actor\n")?;
    std::fs::set_permissions("/tmp/x/script", std::fs::Permissions::from_mode(0o755))?;
    h.act(&["exec", "/tmp/x/script"])?.refused("exec", "/tmp/x/forbidden", "no-tool")
}

fn by_mapping() -> Result<()> {
    let h = host()?;
    h.act(&["map-exec", "/tmp/x/forbidden"])?.refused("mmap_exec", "/tmp/x/forbidden", "no-tool")?;
    h.act(&["map-exec", "/tmp/x/reader"])?.allowed("mmap_exec", "/tmp/x/reader")
}

fn acting() -> Result<()> {
    let h = host()?;
    h.act(&["read", "/tmp/x/data"])?.refused("open_read", "/tmp/x/data", "only-reader")?;
    let a = h.run(&[], &["/tmp/x/reader", "actor", "read", "/tmp/x/data"])?;
    a.allowed("open_read", "/tmp/x/data")?;
    // What it starts is itself again only as long as it runs the same program.
    let a = h.run(&[], &["/tmp/x/reader", "actor", "exec", ME, "actor", "read", "/tmp/x/data"])?;
    a.refused("open_read", "/tmp/x/data", "only-reader")
}

fn arguments() -> Result<()> {
    let h = host()?;
    let a = h.run(&[], &["/bin/sh", "-c", "cd /tmp/x; exec ./reader actor nothing 'two words'"])?;
    let told = a.receipts.iter().any(|r| {
        let text = r.to_string();
        text.contains("two words") && text.contains("\"/tmp/x\"") && text.contains("./reader")
    });
    ensure!(told, "no receipt has arguments and directory\n{}", a.tell());
    Ok(())
}

fn memfd() -> Result<()> {
    let h = host()?;
    let a = h.act(&["exec-memfd", "/bin/busybox"])?;
    ensure!(a.decision("exec", "/memfd:x").is_some_and(|d| d.0 == "ALLOW"), "{}", a.tell());
    ensure!(!Path::new("/memfd:x").exists());
    Ok(())
}
