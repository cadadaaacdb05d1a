//! A witness as its operator runs it, the daemon that asks it, and who verifies.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aarm_agent::daemon::config;
use aarm_agent::daemon::witnesses::{self, Board, Log, Rhythm};
use aarm_agent::metrics::Metrics;
use aarm_receipt::canonical::Encoded;
use aarm_receipt::{Body, Common, Keys, LogWriter, Options, encode};

const ORIGIN: &str = "host.test/log";
/// For everything that follows from something.
const SETTLE: Duration = Duration::from_secs(30);

fn aarm() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aarm"));
    command.env("TZ", "UTC").stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    aarm().args(args).output().unwrap()
}

fn text(output: &[u8]) -> String {
    String::from_utf8_lossy(output).into_owned()
}

fn keys() -> Keys {
    Keys::from_seeds([1; 32], [2; 32]).unwrap()
}

/// Goes on with a log until it has so many receipts.
fn write(dir: &Path, size: u64, version: &str) {
    let (mut log, _) = LogWriter::open(dir, keys(), ORIGIN, Options { segment_bytes: 1 << 20 }).unwrap();
    for n in log.size()..size {
        let common = Common { time_ns: n, boot_ns: n, host: &Encoded::text(b"h"), session: None, seq: None };
        let mut bytes = Vec::new();
        encode(&common, &Body::Stop { version }, &mut bytes);
        log.append(&mut bytes, true).unwrap();
    }
    log.checkpoint().unwrap();
}

/// `aarm witness serve`, ended with its test.
struct Witness {
    child: Child,
    url: String,
    key: String,
}

impl Witness {
    fn serve(state: &Path, logs: &Path) -> Self {
        let mut child = aarm()
            .args(["witness", "serve", "--listen", "127.0.0.1:0", "--state"])
            .arg(state)
            .arg("--logs")
            .arg(logs)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        // KEY at URL: 1 log
        let (key, rest) = line.trim_end().split_once(" at ").unwrap_or_else(|| panic!("{line:?}"));
        let (url, _) = rest.rsplit_once(": ").unwrap();
        Self { child, url: url.to_owned(), key: key.to_owned() }
    }

    fn signal(&self, signal: i32) {
        // SAFETY: our own child, which is not reaped before the end.
        unsafe { libc::kill(self.child.id() as i32, signal) };
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.signal(libc::SIGTERM);
        let ended = self.child.wait().unwrap();
        assert!(ended.success() || std::thread::panicking(), "{ended}");
    }
}

struct Host {
    dir: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
    metrics: Arc<Metrics>,
}

impl Host {
    fn new() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        Self { dir: tempfile::tempdir().unwrap(), runtime, metrics: Metrics::new().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn verify(&self, log: &str, more: &[&str]) -> Output {
        let (log, keys) = (self.path(log), self.path("witnesses.pub"));
        aarm().arg("verify").arg(log).arg("--witnesses").arg(keys).args(more).output().unwrap()
    }

    /// Asks, as the daemon does.
    fn ask(&self, witness: &Witness) -> Arc<Board> {
        let _context = self.runtime.enter();
        let of = [config::Witness { url: witness.url.clone(), key: witness.key.clone() }];
        let log = Log { dir: self.path("log"), keys: keys().trusted(ORIGIN) };
        let rhythm = Rhythm { every: Duration::from_millis(50), heartbeat: Duration::from_millis(200) };
        witnesses::serve(&of, &log, rhythm, &self.metrics)
    }

    fn until(&self, board: &Board, what: impl Fn(&aarm_agent::api::types::WitnessStatus) -> bool) {
        let began = Instant::now();
        while !what(&board.all()[0]) {
            assert!(began.elapsed() < SETTLE, "{:?}\n{}", board.all(), text(&self.metrics.text()));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn metric(&self, name: &str) -> i64 {
        let text = text(&self.metrics.text());
        let line = text.lines().find(|l| l.starts_with(name)).unwrap_or_else(|| panic!("{name}\n{text}"));
        line.rsplit_once(' ').unwrap().1.parse().unwrap()
    }
}

#[test]
fn a_witness_sees_a_log_grow_and_who_verifies_finds_a_cut() {
    let host = Host::new();
    let (state, log) = (host.path("state"), host.path("log"));
    write(&log, 300, "a");
    let made = run(&["witness", "key", "--state", state.to_str().unwrap(), "--name", "witness.test/aarm"]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    std::fs::write(host.path("witnesses.pub"), &made.stdout).unwrap();
    let unseen = host.verify("log", &[]);
    assert_eq!(unseen.status.code(), Some(4), "{}", text(&unseen.stdout));
    assert!(text(&unseen.stdout).contains("TOO OLD"), "{}", text(&unseen.stdout));

    // A directory of keys: the host's comes later, with a hangup.
    let logs = host.path("hosts");
    std::fs::create_dir(&logs).unwrap();
    let witness = Witness::serve(&state, &logs);
    assert_eq!(format!("{}\n", witness.key), text(&made.stdout));
    let board = host.ask(&witness);
    host.until(&board, |w| {
        w.problem.as_deref().is_some_and(|why| why.contains("no log that this witness knows"))
    });
    std::fs::copy(log.join("log.pub"), logs.join("host.pub")).unwrap();
    witness.signal(libc::SIGHUP);
    host.until(&board, |w| w.receipts == 300 && w.problem.is_none());
    let copied = Command::new("cp").arg("-r").arg(&log).arg(host.path("before")).status().unwrap();
    assert!(copied.success());

    write(&log, 700, "b");
    host.until(&board, |w| w.receipts == 700);
    let seen = host.verify("log", &["--max-age", "1m"]);
    assert_eq!(seen.status.code(), Some(0), "{}", text(&seen.stdout));
    assert!(
        text(&seen.stdout).contains("witness.test/aarm has seen 700 receipts at 20"),
        "{}",
        text(&seen.stdout)
    );
    let json: serde_json::Value = serde_json::from_slice(&host.verify("log", &["--json"]).stdout).unwrap();
    assert_eq!((&json["report"]["witnessed"], &json["report"]["verdict"]), (&700.into(), &"intact".into()));
    let old = host.verify("log", &["--max-age", "2999-01-01T00:00:00Z"]);
    assert_eq!(old.status.code(), Some(4), "{}", text(&old.stdout));
    assert_eq!(host.metric("aarm_witness_receipts{witness=\"witness.test/aarm\"}"), 700);
    assert!(host.metric("aarm_witness_seen_timestamp_seconds") > 1_700_000_000);

    // A proof is under what the witness has seen, and says so.
    let (log_text, proof) = (log.to_str().unwrap(), host.path("7.tlog-proof"));
    let proof_text = proof.to_str().unwrap();
    assert!(run(&["prove", "7", "--log", log_text, "-o", proof_text]).status.success());
    let key = log.join("log.pub");
    let keyed = ["--key", key.to_str().unwrap()];
    let proven = host.verify("7.tlog-proof", &keyed);
    assert_eq!(proven.status.code(), Some(0), "{}", text(&proven.stdout));
    assert!(text(&proven.stdout).contains("seen by witness.test/aarm"), "{}", text(&proven.stdout));
    let old = host.verify("7.tlog-proof", &[keyed[0], keyed[1], "--max-age", "2999-01-01T00:00:00Z"]);
    assert_eq!(old.status.code(), Some(4), "{}", text(&old.stdout));
    let unseen = std::fs::read_to_string(&proof).unwrap();
    let unseen: String =
        unseen.split_inclusive('\n').filter(|l| !l.contains(" witness.test/aarm ")).collect();
    std::fs::write(&proof, unseen).unwrap();
    assert_eq!(host.verify("7.tlog-proof", &keyed).status.code(), Some(4));

    // The log is put back to what it was, and goes on: the witness does not see that it was this one.
    let cosigned = log.join("witnessed");
    std::fs::remove_dir_all(host.path("before/witnessed")).unwrap();
    let copied =
        Command::new("cp").arg("-r").arg(&cosigned).arg(host.path("before/witnessed")).status().unwrap();
    assert!(copied.success());
    let cut = host.verify("before", &[]);
    assert_eq!(cut.status.code(), Some(1), "{}", text(&cut.stdout));
    std::fs::rename(&log, host.path("whole")).unwrap();
    std::fs::rename(host.path("before"), &log).unwrap();
    host.until(&board, |w| w.problem.as_deref().is_some_and(|why| why.contains("its end was cut off")));
    write(&log, 900, "c");
    host.until(&board, |w| w.problem.as_deref().is_some_and(|why| why.contains("are not those of this log")));
    assert!(host.metric("aarm_witness_requests_total{result=\"disagrees\"") > 1);
    assert_eq!(host.verify("log", &[]).status.code(), Some(1));
    std::fs::remove_dir_all(&log).unwrap();
    std::fs::rename(host.path("whole"), &log).unwrap();
    write(&log, 1000, "d");
    host.until(&board, |w| w.receipts == 1000 && w.problem.is_none());
}

#[test]
fn what_a_witness_needs_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let state = state.to_str().unwrap();
    let none = run(&["witness", "serve", "--state", state, "--logs", "/nonexistent"]);
    assert_eq!(none.status.code(), Some(2));
    assert!(text(&none.stderr).contains("aarm witness key --name"), "{}", text(&none.stderr));
    assert_eq!(run(&["witness"]).status.code(), Some(64));
    let bad = run(&["witness", "key", "--state", state, "--name", "a b"]);
    assert_eq!(bad.status.code(), Some(64), "{}", text(&bad.stderr));
    assert!(run(&["witness", "key", "--state", state, "--name", "w.test/a"]).status.success());
    let other = run(&["witness", "key", "--state", state, "--name", "w.test/b"]);
    assert_eq!(other.status.code(), Some(2), "{}", text(&other.stderr));
    let lost = run(&["witness", "serve", "--state", state, "--logs", "/nonexistent"]);
    assert!(text(&lost.stderr).contains("/nonexistent"), "{}", text(&lost.stderr));
    let log = dir.path().join("log");
    write(&log, 3, "a");
    let pubs = dir.path().join("w.pub");
    let verify = |more: &[&str]| aarm().arg("verify").arg(&log).args(more).output().unwrap();
    std::fs::write(&pubs, "nothing\n").unwrap();
    let unusable = verify(&["--witnesses", pubs.to_str().unwrap()]);
    assert_eq!(unusable.status.code(), Some(2));
    assert!(text(&unusable.stderr).contains("aarm witness key"), "{}", text(&unusable.stderr));
    std::fs::write(&pubs, run(&["witness", "key", "--state", state]).stdout).unwrap();
    assert_eq!(verify(&["--witnesses", pubs.to_str().unwrap(), "--at-least", "2"]).status.code(), Some(64));
    assert_eq!(verify(&["--max-age", "1m"]).status.code(), Some(64));
}
