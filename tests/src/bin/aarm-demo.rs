//! `aarm-demo DIR`: the main job, end to end: daemon, live table, scripted agent, comparison, verification.
//!
//! Runs as root, on a host or in a VM, with the files of `demo/` in DIR. For its time it makes a user `agent`
//! with a home of worthless secrets, and never touches another home. Exit status 0 only if every expected
//! decision was seen, the ordinary work was untouched, and every receipt verified.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

const HOME: &str = "/home/agent";
const UID: u32 = 1000;

/// A program of ours: beside this one, or installed.
fn ours(name: &str) -> PathBuf {
    let beside = std::env::current_exe().ok().and_then(|me| Some(me.parent()?.join(name)));
    beside.filter(|p| p.exists()).unwrap_or_else(|| PathBuf::from("/usr/local/bin").join(name))
}

fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    std::fs::write(path, text).with_context(|| path.display().to_string())?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    Ok(())
}

fn run(program: &str, args: &[&str]) -> Result<()> {
    let out = Command::new(program).args(args).output().with_context(|| program.to_owned())?;
    ensure!(out.status.success(), "{program} {}: {}", args.join(" "), String::from_utf8_lossy(&out.stderr));
    Ok(())
}

/// The home the agent works in: worthless secrets, and a repository to clone.
fn prepare() -> Result<()> {
    let home = Path::new(HOME);
    let passwd = std::fs::read_to_string("/etc/passwd")?;
    match passwd.lines().find(|l| l.starts_with("agent:")) {
        Some(line) if line.contains(&format!(":{UID}:")) && line.contains(HOME) => {}
        Some(line) => bail!("there is a user `agent` already, and it is not the demo's: {line}"),
        None => {
            ensure!(!home.exists(), "{HOME} exists, and is not the demo's");
            std::fs::write("/etc/passwd", format!("{passwd}agent:x:{UID}:{UID}:aarm demo:{HOME}:/bin/sh\n"))?;
        }
    }
    write(&home.join(".ssh/id_ed25519"), "not a key\n", 0o600)?;
    write(&home.join(".aws/credentials"), "not credentials\n", 0o600)?;
    write(&home.join(".bashrc"), "# nothing\n", 0o644)?;
    let origin = home.join("origin.git");
    if !origin.exists() {
        let seed = home.join("seed");
        let seed_text = seed.display().to_string();
        run("git", &["init", "-q", "-b", "main", &seed_text])?;
        write(&seed.join("README"), "A project.\n", 0o644)?;
        run("git", &["-C", &seed_text, "add", "README"])?;
        run(
            "git",
            &[
                "-C",
                &seed_text,
                "-c",
                "user.name=demo",
                "-c",
                "user.email=demo@localhost",
                "commit",
                "-qm",
                "Begin",
            ],
        )?;
        run("git", &["clone", "-q", "--bare", &seed_text, &origin.display().to_string()])?;
    }
    Ok(())
}

/// Undoes [`prepare`] as far as it made something.
fn clean(made_user: bool) -> Result<()> {
    if made_user {
        let passwd = std::fs::read_to_string("/etc/passwd")?;
        let rest: String =
            passwd.lines().filter(|l| !l.starts_with("agent:")).map(|l| format!("{l}\n")).collect();
        std::fs::write("/etc/passwd", rest)?;
        std::fs::remove_dir_all(HOME)?;
    }
    Ok(())
}

/// A daemon with state of the demo's own.
fn daemon(dir: &Path, policies: &Path) -> Result<Child> {
    let config = dir.join("agent.yaml");
    let d = dir.display();
    let text = format!(
        "policies: {}\nlog: {d}/log\nkeys: {d}/keys\nstate: {d}/state\nredacted: {d}/redacted\n",
        policies.display()
    );
    std::fs::write(&config, text)?;
    let log = std::fs::File::create(dir.join("daemon.log"))?;
    let mut child = Command::new(ours("aarm-agent"))
        .arg("--config")
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("aarm-agent")?;
    for _ in 0..1200 {
        let up =
            Command::new(ours("aarm")).arg("status").stdout(Stdio::null()).stderr(Stdio::null()).status()?;
        if up.success() {
            return Ok(child);
        }
        if let Some(status) = child.try_wait()? {
            bail!("aarm-agent ended ({status}):\n{}", std::fs::read_to_string(dir.join("daemon.log"))?);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    child.kill()?;
    bail!("aarm-agent does not serve:\n{}", std::fs::read_to_string(dir.join("daemon.log"))?)
}

/// Receipts of the log.
fn receipts() -> Result<Vec<Value>> {
    let out = Command::new(ours("aarm")).args(["receipts", "--json"]).output()?;
    ensure!(out.status.success(), "aarm receipts: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout)
        .lines()
        .map(|l| Ok(serde_json::from_str::<Value>(l)?["receipt"].take()))
        .collect()
}

/// How often a receipt of this shape was a denial.
fn denials(all: &[Value], e: &Value) -> usize {
    all.iter()
        .filter(|r| {
            r["kind"] == "action"
                && r["decision"]["result"] == "DENY"
                && r["action"]["operation"] == e["operation"]
        })
        .filter(|r| e["path"].is_null() || r["action"]["path"] == e["path"])
        .filter(|r| e["addr"].is_null() || r["action"]["network"]["addr"] == e["addr"])
        .filter(|r| e["rule"].is_null() || r["decision"]["rule"] == e["rule"])
        .count()
}

fn demo(files: &Path) -> Result<bool> {
    let expected: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(files.join("expected.json"))?)?;
    let made_user = !std::fs::read_to_string("/etc/passwd")?.lines().any(|l| l.starts_with("agent:"));
    prepare()?;
    let dir = tempfile::Builder::new().prefix("aarm-demo-").tempdir()?;
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755))?;
    // A socket like Docker's, so that there is something to be kept from.
    let docker = Path::new("/run/docker.sock");
    let listener = if docker.exists() { None } else { Some(std::os::unix::net::UnixListener::bind(docker)?) };
    if listener.is_some() {
        std::fs::set_permissions(docker, std::fs::Permissions::from_mode(0o666))?;
    }
    // So that it is the policy that refuses, and not the permissions.
    let installed = Path::new("/etc/aarm/policies");
    let policies = if installed.exists() { installed.to_path_buf() } else { files.join("../policies") };
    let mut daemon = daemon(dir.path(), &policies)?;
    let mut watch = Command::new(ours("aarm")).args(["watch", "--color", "never"]).spawn()?;
    std::thread::sleep(Duration::from_millis(500));
    let mut agent = Command::new(ours("aarm"));
    agent.args([
        "run",
        "--policy",
        "coding-agent",
        "--intent",
        "double a number",
        "--as",
        "demo@localhost",
        "--",
    ]);
    agent
        .arg("/bin/sh")
        .arg(files.join("agent.sh"))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    // The rights of root, so that nothing but the policy stands in its way.
    agent.process_group(0);
    let out = agent.spawn()?.wait_with_output()?;
    std::thread::sleep(Duration::from_secs(1));
    // SAFETY: our own children.
    unsafe {
        libc::kill(watch.id() as i32, libc::SIGINT);
    }
    watch.wait()?;
    let all = receipts()?;
    // SAFETY: as above.
    unsafe {
        libc::kill(daemon.id() as i32, libc::SIGTERM);
    }
    daemon.wait()?;
    let verify = Command::new(ours("aarm"))
        .args(["verify", "--color", "never"])
        .arg(dir.path().join("log"))
        .output()?;
    if listener.is_some() {
        std::fs::remove_file(docker)?;
    }
    clean(made_user)?;

    let said = String::from_utf8_lossy(&out.stdout);
    println!("\nthe agent said:\n{said}");
    let mut good = out.status.success();
    if !said.contains("-- work done") {
        println!("ORDINARY WORK FAILED");
        good = false;
    }
    for line in said.lines().filter(|l| l.starts_with("SUCCEEDED")) {
        println!("NOT REFUSED: {line}");
        good = false;
    }
    println!("{:<30}{:>9}{:>9}", "expected denials", "expected", "seen");
    for e in &expected {
        let (want, seen) = (e["times"].as_u64().unwrap_or(1) as usize, denials(&all, e));
        let what = e["what"].as_str().unwrap_or_default();
        println!("{what:<30}{want:>9}{seen:>9}{}", if seen >= want { "" } else { "   MISSING" });
        good &= seen >= want;
    }
    // What was refused although nobody tried anything: receipts before the attempts began.
    let work_end = all.iter().position(|r| {
        r["kind"] == "action" && r["action"]["path2"] == "/tmp/innocent.txt"
            || r["action"]["path"] == "/tmp/innocent.txt"
    });
    let disturbed: Vec<&Value> = all
        .iter()
        .take(work_end.unwrap_or(all.len()))
        .filter(|r| r["decision"]["result"] == "DENY")
        .collect();
    for r in &disturbed {
        println!(
            "ORDINARY WORK WAS REFUSED: {} {} {} by {}",
            r["identity"]["comm"], r["action"]["operation"], r["action"]["path"], r["decision"]["rule"]
        );
    }
    good &= disturbed.is_empty();
    let actions = all.iter().filter(|r| r["kind"] == "action").count();
    let denied = all.iter().filter(|r| r["decision"]["result"] == "DENY").count();
    println!("\n{actions} actions decided, {denied} denied, {} receipts", all.len());
    print!("{}{}", String::from_utf8_lossy(&verify.stdout), String::from_utf8_lossy(&verify.stderr));
    good &= verify.status.success();
    println!(
        "{}",
        if good {
            "demo: every expected decision was seen, and every receipt verified"
        } else {
            "demo: FAILED"
        }
    );
    Ok(good)
}

fn main() -> std::process::ExitCode {
    let Some(files) = std::env::args_os().nth(1) else {
        eprintln!("usage: aarm-demo DIR   (DIR is demo/ of the repository); run `cargo xtask demo` instead");
        return std::process::ExitCode::from(64);
    };
    match demo(Path::new(&files)) {
        Ok(true) => std::process::ExitCode::SUCCESS,
        Ok(false) => std::process::ExitCode::FAILURE,
        Err(e) => {
            eprintln!("aarm-demo: {e:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
