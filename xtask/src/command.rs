//! Running other programs with errors that say which, and what it printed.

use std::ffi::OsStr;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// A command from a program and its arguments.
pub fn command<S: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = S>) -> Command {
    let mut c = Command::new(program);
    c.args(args);
    c
}

fn describe(c: &Command) -> String {
    let mut text = c.get_program().to_string_lossy().into_owned();
    for a in c.get_args() {
        text.push(' ');
        text.push_str(&a.to_string_lossy());
    }
    text
}

/// Runs it with output shown.
pub fn run(c: &mut Command) -> Result<()> {
    let status = c.status().with_context(|| format!("cannot run `{}`", describe(c)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", describe(c));
    }
    Ok(())
}

/// Runs it with output kept, and shown only if it fails.
pub fn quiet(c: &mut Command) -> Result<String> {
    let out = c.stdin(Stdio::null()).output().with_context(|| format!("cannot run `{}`", describe(c)))?;
    if !out.status.success() {
        bail!(
            "`{}` failed: {}\n{}{}",
            describe(c),
            out.status,
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Whether a program is on the PATH.
pub fn exists(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

/// Runs it as root: directly, or through sudo.
pub fn as_root(c: Command) -> Result<()> {
    // SAFETY: geteuid has no preconditions.
    if unsafe { libc::geteuid() } == 0 {
        let mut c = c;
        return quiet(&mut c).map(|_| ());
    }
    if !exists("sudo") {
        bail!("this needs root, and there is no sudo: run as root\n  {}", describe(&c));
    }
    let mut s = Command::new("sudo");
    s.arg("--preserve-env=DEBIAN_FRONTEND").arg(c.get_program()).args(c.get_args());
    for (k, v) in c.get_envs() {
        if let Some(v) = v {
            s.env(k, v);
        }
    }
    run(&mut s)
}
