//! A daemon for one case: its own policy and log, everything else as installed.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Seek};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

const AGENT: &str = "/usr/local/bin/aarm-agent";
const AARM: &str = "/usr/local/bin/aarm";
/// This program, as the VM has it.
pub const ME: &str = "/usr/local/bin/aarm-vm-tests";
/// Starting loads programs under emulation, perhaps beside other machines.
const START: Duration = Duration::from_secs(600);
/// For everything that follows from an action.
const SETTLE: Duration = Duration::from_secs(20);
/// How far back [`Host::receipts_of`] looks: a log of many sessions is long.
const RECENT: &str = "20m";

static STARTS: AtomicU64 = AtomicU64::new(0);
static STARTING: AtomicU64 = AtomicU64::new(0);

/// Starts of daemons so far, and the milliseconds that they took.
pub fn starts() -> (u64, u64) {
    (STARTS.load(Ordering::Relaxed), STARTING.load(Ordering::Relaxed))
}

/// A policy document around some rules.
pub fn policy(rules: &str) -> String {
    document("test", "enforce", "", rules)
}

/// A policy document.
pub fn document(name: &str, mode: &str, agents: &str, rules: &str) -> String {
    let indent = |text: &str| text.lines().map(|l| format!("    {l}\n")).collect::<String>();
    let section = |key: &str, text: &str| {
        if text.trim().is_empty() { String::new() } else { format!("  {key}:\n{}", indent(text)) }
    };
    format!(
        "apiVersion: aarm.dev/v1alpha1\nkind: AgentPolicy\nmetadata:\n  name: {name}\n  version: \"1\"\nspec:\n  mode: {mode}\n{}  \
         defaults: {{ exec: ALLOW, read: ALLOW, write: ALLOW, network: ALLOW, process: ALLOW, privileged: ALLOW }}\n{}",
        section("agents", agents),
        section("rules", rules)
    )
}

/// A running daemon.
pub struct Host {
    dir: tempfile::TempDir,
    child: Option<Child>,
}

/// What became of one supervised attempt.
pub struct Attempt {
    /// Exit status of the command.
    pub status: i32,
    /// Its output.
    pub output: String,
    /// The receipts of its session, oldest first.
    pub receipts: Vec<Value>,
}

impl Attempt {
    /// The errno of the technique.
    pub fn errno(&self) -> i32 {
        self.status
    }

    /// The decision on an operation whose object, or target, is this path or address.
    pub fn decision(&self, operation: &str, object: &str) -> Option<(String, Option<String>)> {
        self.receipts.iter().rev().find_map(|r| {
            let action = &r["action"];
            let names = [&action["path"], &action["path2"], &action["network"]["addr"]];
            let same =
                action["operation"] == operation && (object.is_empty() || names.iter().any(|n| *n == object));
            same.then(|| {
                let rule = r["decision"]["rule"].as_str().map(str::to_owned);
                (r["decision"]["result"].as_str().unwrap_or_default().to_owned(), rule)
            })
        })
    }

    /// Fails unless the attempt was refused by this rule, with its receipt.
    pub fn refused(&self, operation: &str, object: &str, rule: &str) -> Result<()> {
        ensure!(
            self.status == libc::EPERM,
            "errno {} where EPERM was expected\n{}",
            self.status,
            self.tell()
        );
        let found = self.decision(operation, object);
        let expected = Some(("DENY".to_owned(), Some(rule.to_owned())));
        ensure!(
            found == expected,
            "receipt of {operation} {object}: {found:?}, not DENY by {rule}\n{}",
            self.tell()
        );
        Ok(())
    }

    /// Fails unless the attempt worked, with its receipt.
    pub fn allowed(&self, operation: &str, object: &str) -> Result<()> {
        ensure!(self.status == 0, "errno {} where success was expected\n{}", self.status, self.tell());
        let found = self.decision(operation, object);
        ensure!(
            found.as_ref().is_some_and(|f| f.0 == "ALLOW"),
            "receipt of {operation} {object}: {found:?}\n{}",
            self.tell()
        );
        Ok(())
    }

    /// Output and receipts, for a failing case.
    pub fn tell(&self) -> String {
        let receipts: Vec<String> = self.receipts.iter().map(Value::to_string).collect();
        format!("output:\n{}\nreceipts:\n{}", self.output, receipts.join("\n"))
    }
}

impl Host {
    /// Starts a daemon with one policy named `test`.
    pub fn start(policy: &str) -> Result<Self> {
        Self::with(&[("test.yaml", policy)], "")
    }

    /// Starts a daemon with policies and more settings.
    pub fn with(policies: &[(&str, &str)], settings: &str) -> Result<Self> {
        let mut host = Self::prepare(policies, settings)?;
        host.launch()?;
        Ok(host)
    }

    /// Everything but the start.
    pub fn prepare(policies: &[(&str, &str)], settings: &str) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("aarm-case-").tempdir_in("/tmp")?;
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755))?;
        let host = Self { dir, child: None };
        std::fs::create_dir(host.path("policies"))?;
        for (name, text) in policies {
            std::fs::write(host.path("policies").join(name), text)?;
        }
        // The room for two segments is cleared at each start, here in memory.
        let receipts = if settings.contains("receipts:") { "" } else { "receipts: { segment_mib: 4 }\n" };
        let config = format!(
            "policies: {0}/policies\nlog: {0}/log\nkeys: {0}/keys\nstate: {0}/state\nredacted: {0}/redacted\n{receipts}{settings}",
            host.dir.path().display()
        );
        std::fs::write(host.path("agent.yaml"), config)?;
        Ok(host)
    }

    /// A file of this host's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The daemon's command line.
    pub fn agent(&self) -> Command {
        let mut c = Command::new(AGENT);
        c.arg("--config").arg(self.path("agent.yaml")).stdin(Stdio::null());
        c
    }

    /// Starts the daemon and waits until it serves.
    pub fn launch(&mut self) -> Result<()> {
        let log = std::fs::File::options().create(true).append(true).open(self.path("daemon.log"))?;
        self.child = Some(self.agent().stdout(log.try_clone()?).stderr(log).spawn()?);
        let began = Instant::now();
        let deadline = began + START;
        loop {
            if self.aarm(&["status"])?.status.success() {
                STARTS.fetch_add(1, Ordering::Relaxed);
                STARTING.fetch_add(began.elapsed().as_millis() as u64, Ordering::Relaxed);
                return Ok(());
            }
            let ended = self.child.as_mut().context("started above")?.try_wait()?;
            if let Some(ended) = ended {
                self.child = None;
                bail!("aarm-agent ended ({ended}):\n{}", self.log());
            }
            ensure!(Instant::now() < deadline, "aarm-agent does not serve after {START:?}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The daemon's process id.
    pub fn pid(&self) -> i32 {
        self.child.as_ref().map_or(0, |c| c.id() as i32)
    }

    /// Sends the daemon a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: a process of our own.
        unsafe { libc::kill(self.pid(), signal) };
    }

    /// Ends the daemon by a signal and waits for it.
    pub fn end(&mut self, signal: i32) -> Result<std::process::ExitStatus> {
        self.signal(signal);
        let mut child = self.child.take().context("the daemon runs")?;
        let deadline = Instant::now() + SETTLE;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                child.kill()?;
                child.wait()?;
                bail!("aarm-agent does not end on signal {signal}:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What the daemon has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("daemon.log")).unwrap_or_default()
    }

    /// Runs `aarm` with arguments.
    pub fn aarm(&self, args: &[&str]) -> Result<Output> {
        Ok(Command::new(AARM).args(args).stdin(Stdio::null()).output()?)
    }

    /// Runs a technique under supervision.
    pub fn act(&self, technique: &[&str]) -> Result<Attempt> {
        let mut command = vec![ME, "actor"];
        command.extend(technique);
        self.run(&[], &command)
    }

    /// Runs a command under supervision, with options of `aarm run`; waits for its session to be closed.
    pub fn run(&self, options: &[&str], command: &[&str]) -> Result<Attempt> {
        let (status, output, session) = self.run_only(options, command)?;
        Ok(Attempt { status, output, receipts: self.session_receipts(&session)? })
    }

    /// Runs a command under supervision. Its status, its output, and the session it was in.
    pub fn run_only(&self, options: &[&str], command: &[&str]) -> Result<(i32, String, String)> {
        // Of its own: several may run at once.
        static RUNS: AtomicU32 = AtomicU32::new(0);
        let session = self.path(&format!("session-{}", RUNS.fetch_add(1, Ordering::Relaxed)));
        let mut c = Command::new(AARM);
        // The shell in between tells us which session it is in, and then becomes the command.
        let script = "echo \"$AARM_SESSION\" > \"$0\"; exec \"$@\"";
        c.arg("run").args(options).args(["--", "/bin/sh", "-c", script]).arg(&session).args(command);
        let out = c.stdin(Stdio::null()).output()?;
        let mut output = String::from_utf8_lossy(&out.stdout).into_owned();
        output.push_str(&String::from_utf8_lossy(&out.stderr));
        let status = std::os::unix::process::ExitStatusExt::signal(&out.status)
            .map_or_else(|| out.status.code().unwrap_or(-1), |s| 128 + s);
        let id = std::fs::read_to_string(&session).with_context(|| {
            format!("the command was not run (status {status}): {output}\n{}", self.log())
        })?;
        let _ = std::fs::remove_file(&session);
        Ok((status, output, id.trim().to_owned()))
    }

    /// Makes sure that the daemon runs, whatever was done to it.
    pub fn revive(&mut self) -> Result<()> {
        self.signal(libc::SIGCONT);
        // A signal that is on its way has arrived by then.
        std::thread::sleep(Duration::from_millis(100));
        let ended = self.child.as_mut().is_none_or(|c| !matches!(c.try_wait(), Ok(None)));
        if ended {
            self.child = None;
            self.launch()?;
        }
        Ok(())
    }

    /// The receipts of a session, once it is closed.
    pub fn session_receipts(&self, session: &str) -> Result<Vec<Value>> {
        let deadline = Instant::now() + SETTLE;
        loop {
            let receipts = self.receipts(&["--session", session])?;
            if receipts.iter().any(|r| r["kind"] == "session_close") {
                return Ok(receipts);
            }
            ensure!(
                Instant::now() < deadline,
                "session {session} is not closed: {receipts:?}\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The receipts of sessions that began a short time ago, by session, once all of them are closed; the log is read once.
    pub fn receipts_of(&self, sessions: &[&str]) -> Result<BTreeMap<String, Vec<Value>>> {
        let deadline = Instant::now() + SETTLE;
        let log = self.path("log").display().to_string();
        loop {
            let mut all: BTreeMap<String, Vec<Value>> = BTreeMap::new();
            self.each_receipt(&["--log", &log, "--since", RECENT], |r| {
                let session = r["session"]["uuid"].as_str().filter(|uuid| sessions.contains(uuid));
                if let Some(session) = session.map(str::to_owned) {
                    all.entry(session).or_default().push(r);
                }
            })?;
            let closed =
                |s: &&str| all.get(*s).is_some_and(|all| all.iter().any(|r| r["kind"] == "session_close"));
            if sessions.iter().all(closed) {
                return Ok(all);
            }
            if Instant::now() >= deadline {
                let open: Vec<_> = sessions.iter().filter(|s| !closed(s)).collect();
                let last: Vec<_> = open.iter().filter_map(|s| all.get(**s)?.last()).collect();
                let live = self.aarm(&["status", "--json"])?;
                bail!(
                    "{open:?} are not closed; last receipts: {last:?}\n{}\n{}",
                    String::from_utf8_lossy(&live.stdout),
                    self.log()
                );
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Receipts by the filters of `aarm receipts`.
    pub fn receipts(&self, filters: &[&str]) -> Result<Vec<Value>> {
        let mut all = Vec::new();
        self.each_receipt(filters, |receipt| all.push(receipt))?;
        Ok(all)
    }

    /// The same one by one: there may be more than memory has room for.
    pub fn each_receipt(&self, filters: &[&str], mut each: impl FnMut(Value)) -> Result<()> {
        let mut errors = tempfile::tempfile()?;
        let mut aarm = Command::new(AARM)
            .args(["receipts", "--json"])
            .args(filters)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors.try_clone()?)
            .spawn()?;
        for line in BufReader::new(aarm.stdout.take().context("piped above")?).lines() {
            let line = line?;
            let mut line: Value = serde_json::from_str(&line).with_context(|| format!("not JSON: {line}"))?;
            each(line["receipt"].take());
        }
        if !aarm.wait()?.success() {
            let mut text = String::new();
            errors.rewind()?;
            errors.read_to_string(&mut text)?;
            bail!("aarm receipts: {text}\n{}", self.log());
        }
        Ok(())
    }

    /// Receipts by filters, once there are any. A command may have ended before its last receipts are durable.
    pub fn recorded(&self, filters: &[&str]) -> Result<Vec<Value>> {
        let deadline = Instant::now() + SETTLE;
        loop {
            let receipts = self.receipts(filters)?;
            if !receipts.is_empty() {
                return Ok(receipts);
            }
            ensure!(Instant::now() < deadline, "no receipt has {filters:?}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Verifies the log as a stranger would: a copy of the directory and the public key.
    pub fn verify(&self) -> Result<Output> {
        self.aarm(&["verify", &self.path("log").display().to_string()])
    }

    /// Fails unless the log verifies.
    pub fn verified(&self) -> Result<()> {
        let out = self.verify()?;
        ensure!(
            out.status.success(),
            "aarm verify: {}{}",
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        );
        Ok(())
    }

    /// One value of the metrics endpoint, by its name with labels.
    pub fn metric(&self, name: &str) -> Result<f64> {
        let body = self.http("/metrics")?;
        let line = body.lines().find(|l| l.strip_prefix(name).is_some_and(|r| r.starts_with(' ')));
        let line = line.with_context(|| format!("no metric {name} in\n{body}"))?;
        Ok(line.rsplit(' ').next().unwrap_or_default().parse()?)
    }

    /// A page of the metrics server.
    pub fn http(&self, path: &str) -> Result<String> {
        use std::io::Write;
        let mut s = std::net::TcpStream::connect("127.0.0.1:9465")?;
        s.set_read_timeout(Some(SETTLE))?;
        write!(s, "GET {path} HTTP/1.0\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        s.read_to_string(&mut text)?;
        Ok(text)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.signal(libc::SIGCONT);
            if self.end(libc::SIGTERM).is_err() {
                eprintln!("{}", self.log());
            }
        }
        if std::thread::panicking() {
            eprintln!("daemon log:\n{}", self.log());
        }
    }
}

/// A file with content, its directories made.
pub fn file(path: impl AsRef<Path>, content: &str) -> Result<()> {
    let path = path.as_ref();
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    Ok(std::fs::write(path, content)?)
}
