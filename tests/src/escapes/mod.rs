//! The escape corpus: ways to have an effect that a policy refuses, each tried on the kernel itself.
//!
//! A technique is one function. It runs twice as a program of its own: first without supervision, where it must
//! have its effect, so that what is measured is a technique and not a mistake; then under `aarm run` with its
//! family's policy. The second result must be what the corpus says on this kernel, in both directions: one that
//! escapes again fails the suite, and so does one that is contained by now but not said to be.
//!
//! A run prints one line for each technique, and one more behind [`MARK`], from which `cargo xtask escapes` makes
//! the table of the README. What cannot be tried here is in the corpus too, with its reason.

mod corpus;
pub(crate) mod guard;
mod handed;
mod ipc;
pub mod modules;
pub(crate) mod names;
pub(crate) mod network;
mod objects;
mod processes;
pub(crate) mod programs;
mod services;
mod sys;
pub(crate) mod tree;
pub(crate) mod uring;
mod writes;

use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::host::{Attempt, Host, ME};
use corpus::{Expect, Family, Technique};

/// What stands before a result in the output.
pub const MARK: &str = "@escape ";
/// Exit status: the technique cannot work on this machine, whatever anybody decides.
const CANNOT: u8 = 250;
/// Exit status: every step worked, and yet the effect is not there.
const NO_EFFECT: u8 = 251;
/// Longer than any technique takes under emulation, in seconds.
const PATIENCE: u32 = 40;
/// Where the techniques' directories are.
const ROOT: &str = "/tmp/esc";
/// The number under which a technique finds what was opened before its session.
pub const INHERITED: i32 = 60;
/// What is in the file that must not be read.
pub const SECRET: &str = "the secret\n";
/// What is in the file that must not be written.
pub const ORIGINAL: &str = "original\n";

/// The world of one technique.
///
/// ```text
/// home/.ssh/key   must not be read or written
/// etc/passwd      must not be written
/// bin/nc          must not be executed; exits with 42
/// run/            sockets that must not be reached
/// desk/           free
/// ```
pub struct Dirs {
    root: PathBuf,
}

impl Dirs {
    fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// A path below the root.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// A path in the free part.
    pub fn desk(&self, name: &str) -> PathBuf {
        self.root.join("desk").join(name)
    }

    /// The file that must not be read.
    pub fn key(&self) -> PathBuf {
        self.path("home/.ssh/key")
    }

    /// The file that must not be written.
    pub fn passwd(&self) -> PathBuf {
        self.path("etc/passwd")
    }

    /// The program that must not be executed.
    pub fn nc(&self) -> PathBuf {
        self.path("bin/nc")
    }

    /// Makes everything as new.
    fn build(&self) -> io::Result<()> {
        let _ = std::fs::remove_dir_all(&self.root);
        for dir in ["home/.ssh", "etc", "bin", "run", "desk"] {
            std::fs::create_dir_all(self.path(dir))?;
        }
        // The work of techniques that drop to another user first.
        std::fs::set_permissions(self.path("desk"), std::fs::Permissions::from_mode(0o777))?;
        std::fs::write(self.key(), SECRET)?;
        std::fs::write(self.passwd(), ORIGINAL)?;
        std::fs::write(self.nc(), sys::program_exiting_with(42))?;
        std::fs::set_permissions(self.nc(), std::fs::Permissions::from_mode(0o755))
    }

    /// What anybody can see of the part that must not be written.
    fn guarded(&self) -> Vec<String> {
        let mut all = Vec::new();
        for entry in std::fs::read_dir(self.path("etc")).into_iter().flatten().flatten() {
            let (Ok(meta), content) = (entry.metadata(), std::fs::read(entry.path())) else { continue };
            let place = (meta.mode(), meta.uid(), meta.gid(), meta.ino());
            all.push(format!("{:?} {place:?} {content:?}", entry.file_name()));
        }
        all.sort();
        all
    }
}

const FAMILIES: [&Family; 6] =
    [&names::FAMILY, &programs::FAMILY, &network::FAMILY, &tree::FAMILY, &guard::FAMILY, &uring::FAMILY];

/// What became of one technique.
struct Outcome {
    /// `contained`, `open`, `absent`, `elsewhere`, or what is wrong with it.
    result: &'static str,
    /// What stopped it, or why nothing did.
    by: String,
    /// Set if this is not what the corpus says.
    wrong: Option<String>,
}

/// The running kernel, as `6.1.0-50-cloud-amd64`.
fn kernel() -> Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned())
}

/// Runs without supervision. Status and words.
fn plain(family: &Family, t: &Technique, root: &str) -> Result<(i32, String)> {
    let out = Command::new(ME)
        .args(["escape", family.name, t.name, root])
        .stdin(Stdio::null())
        .output()
        .context("cannot run the technique")?;
    let status = std::os::unix::process::ExitStatusExt::signal(&out.status)
        .map_or_else(|| out.status.code().unwrap_or(-1), |s| 128 + s);
    Ok((status, String::from_utf8_lossy(&out.stderr).trim().to_owned()))
}

/// Tries every technique of a family. Fails if any is not what the corpus says.
pub fn run(family: &Family) -> Result<()> {
    let kernel = kernel()?;
    let only = std::env::var("AARM_ESCAPE").unwrap_or_default();
    println!();
    let place = |when: &str, t: &Technique| format!("{ROOT}/{when}/{}", t.name);
    let tried: Vec<&Technique> = family
        .all()
        .filter(|t| t.name.contains(&only))
        .filter(|t| {
            matches!(t.expected(&kernel), Expect::Contained { .. } | Expect::Harmless(_) | Expect::Open(_))
        })
        .collect();
    let _ = std::fs::remove_dir_all(ROOT);
    let mut wrong = Vec::new();
    let mut works = Vec::new();
    let mut victim = if family.daemon_first { Some(Host::start(&family.policy())?) } else { None };
    for t in &tried {
        let root = place("plain", t);
        let (status, words) = proof(victim.as_mut(), family, t, &root)
            .with_context(|| format!("{}/{}", family.name, t.name))?;
        let _ = std::fs::remove_dir_all(&root);
        if status == 0 {
            works.push(*t);
        } else {
            wrong.push(format!("{}: does not work without supervision: {} {words}", t.name, told(status)));
        }
    }
    if let Some(victim) = victim {
        // Whatever was done to it: the next one begins anew.
        drop(victim);
        let out = Command::new("/usr/local/bin/aarm-agent").args(["detach", "--force"]).output()?;
        ensure!(out.status.success(), "aarm-agent detach: {}", String::from_utf8_lossy(&out.stderr));
    }
    // What was there before the policy: all of it is made now, and kept to the end.
    let mut keep = Vec::new();
    for t in &works {
        let dirs = Dirs::at(place("watched", t));
        dirs.build()?;
        if let Some(before) = t.before {
            keep.push(before(&dirs).with_context(|| format!("{}: before the policy", t.name))?);
        }
    }
    let mut host = Host::start(&family.policy())?;
    for t in family.all().filter(|t| t.name.contains(&only)) {
        let expected = t.expected(&kernel);
        let outcome = match expected {
            Expect::Absent(why) => Outcome { result: "absent", by: why.into(), wrong: None },
            Expect::Elsewhere(case) => Outcome { result: "elsewhere", by: case.into(), wrong: None },
            _ if !works.iter().any(|w| w.name == t.name) => continue,
            _ => watched(&mut host, family, t, &expected, &place("watched", t))
                .with_context(|| format!("{}/{}", family.name, t.name))?,
        };
        println!("escape: {}/{}: {}: {}", family.name, t.name, outcome.result, outcome.by);
        let line: Value = json!({ "family": family.name, "name": t.name, "what": t.what, "result": outcome.result, "by": outcome.by });
        println!("{MARK}{line}");
        wrong.extend(outcome.wrong.map(|w| format!("{}: {w}", t.name)));
    }
    ensure!(
        wrong.is_empty(),
        "{} of {} are not as the corpus says:\n{}",
        wrong.len(),
        tried.len(),
        wrong.join("\n\n")
    );
    host.verified()
}

/// The technique without supervision.
fn proof(host: Option<&mut Host>, family: &Family, t: &Technique, root: &str) -> Result<(i32, String)> {
    let dirs = Dirs::at(root);
    dirs.build()?;
    let _before = t.before.map(|s| s(&dirs)).transpose().context("before the policy")?;
    let _setup = t.setup.map(|s| s(&dirs)).transpose().context("set-up")?;
    if let Some(host) = &host {
        std::fs::write(dirs.path("daemon"), daemon(host))?;
    }
    let (status, words) = plain(family, t, root)?;
    if let Some(host) = host {
        host.revive()?;
    }
    match t.later {
        Some(later) if status == 0 => {
            Ok(later(&dirs).map_or_else(|e| (i32::from(sys::status(&e)), e.to_string()), |()| (0, words)))
        }
        _ => Ok((status, words)),
    }
}

/// What a technique may know of the daemon: its process and its directory.
fn daemon(host: &Host) -> String {
    format!("{} {}", host.pid(), host.path("").display())
}

/// The technique under supervision.
fn watched(
    host: &mut Host,
    family: &Family,
    t: &Technique,
    expected: &Expect,
    root: &str,
) -> Result<Outcome> {
    let dirs = Dirs::at(root);
    let setup = t.setup.map(|s| s(&dirs)).transpose().context("set-up")?;
    let before = dirs.guarded();
    std::fs::write(dirs.path("daemon"), daemon(host))?;
    let (mut status, output, session) = host.run_only(&[], &[ME, "escape", family.name, t.name, root])?;
    if let (Some(later), 0) = (t.later, status) {
        status = later(&dirs).map_or_else(|e| sys::status(&e).into(), |()| 0);
    }
    // It may hide the daemon from those who ask it next.
    drop(setup);
    if family.daemon_first {
        host.revive()?;
    }
    // Some techniques get rid of their session, which then stays open for ever: what is there has to do.
    let receipts = match host.session_receipts(&session) {
        Err(_) => {
            println!("escape: {}/{}: its session {session} is not closed", family.name, t.name);
            host.receipts(&["--session", &session])?
        }
        Ok(receipts) => receipts,
    };
    let a = Attempt { status, output, receipts };
    let untouched = dirs.guarded() == before;
    Ok(judge(&a, expected, untouched))
}

/// Compares what happened with what the corpus says.
fn judge(a: &Attempt, expected: &Expect, untouched: bool) -> Outcome {
    let denied: Vec<(String, String)> = a
        .receipts
        .iter()
        .filter(|r| r["decision"]["result"] == "DENY")
        .map(|r| {
            let d = &r["decision"];
            let rule = d["rule"].as_str().or(d["cause"].as_str()).unwrap_or_default();
            (r["action"]["operation"].as_str().unwrap_or_default().to_owned(), rule.to_owned())
        })
        .collect();
    let happened = a.status == 0;
    let tell = || {
        let refusals: Vec<_> =
            a.receipts.iter().filter(|r| r["decision"]["result"] == "DENY").map(Value::to_string).collect();
        format!("{}\noutput: {}\nrefusals:\n{}", told(a.status), a.output.trim(), refusals.join("\n"))
    };
    let wrong =
        |result, by: String, why: &str| Outcome { result, by, wrong: Some(format!("{why}: {}", tell())) };
    if !happened && !untouched {
        return wrong("open", "refused, and yet changed".into(), "something changed although it was refused");
    }
    match expected {
        Expect::Contained { operation, rule } => {
            let seen = denied.iter().find(|(o, r)| o == operation && r == rule);
            match (happened, seen) {
                (false, Some((o, r))) if a.status != i32::from(CANNOT) => {
                    Outcome { result: "contained", by: format!("`{o}` by `{r}`"), wrong: None }
                }
                (true, _) => wrong("open", "was contained before".into(), "it has its effect"),
                _ => wrong("open", "no receipt".into(), "no effect, but not the expected receipt"),
            }
        }
        Expect::Harmless(why) => match happened {
            false => Outcome { result: "contained", by: (*why).into(), wrong: None },
            true => wrong("open", "was contained before".into(), "it has its effect"),
        },
        Expect::Open(why) if happened => Outcome { result: "open", by: (*why).into(), wrong: None },
        _ => wrong("contained", format!("{denied:?}"), "it is contained by now: say so in the corpus"),
    }
}

/// An exit status in words.
fn told(status: i32) -> String {
    match status {
        0 => "it had its effect".into(),
        s if s == i32::from(CANNOT) => "cannot work here".into(),
        s if s == i32::from(NO_EFFECT) => "no effect".into(),
        s if s > 133 => format!("signal {}", s - 128),
        s => io::Error::from_raw_os_error(s).to_string(),
    }
}

/// `aarm-vm-tests escape FAMILY NAME DIR`: tries one technique. Exits with 0 if it had its effect, with the errno of
/// the step that was refused, with 250 if it cannot work here and 251 if nothing came of it.
pub fn attempt(args: &[String]) -> u8 {
    let [family, name, root] = args else { return CANNOT };
    // What programs that a technique starts do for it.
    let helper = match name.as_str() {
        "as-root" => Some(programs::as_root()),
        "storm" => Some(processes::storm(root)),
        "read-key" => Some(tree::read_key(root)),
        _ => None,
    };
    if let Some(result) = helper {
        return result.map_or_else(|e| sys::status(&e), |()| 0);
    }
    let found = FAMILIES.iter().filter(|f| f.name == family).flat_map(|f| f.all()).find(|t| t.name == name);
    let Some(t) = found else {
        eprintln!("there is no technique {family}/{name}");
        return CANNOT;
    };
    // SAFETY: a number; the default action of the signal is to end this process.
    unsafe { libc::alarm(PATIENCE) };
    match (t.attempt)(&Dirs::at(Path::new(root))) {
        Ok(()) => 0,
        Err(e) => {
            eprintln!("{e}");
            sys::status(&e)
        }
    }
}
