//! `aarm run` as its user sees it: the command runs in a session or not at all, and as if aarm were not there.

mod fake;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use fake::{Fake, answer, registered};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Longest that anything here may take.
const PATIENCE: Duration = Duration::from_secs(20);

fn aarm(socket: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aarm"));
    command.env_remove("AARM_SOCKET").arg("--socket").arg(socket).arg("--color=never");
    // SAFETY: see there.
    unsafe { command.pre_exec(default_signals) };
    command
}

/// What a shell starts in the background ignores the terminal's signals, and so would all that is started here.
/// Async-signal-safe.
fn default_signals() -> std::io::Result<()> {
    for signal in [libc::SIGINT, libc::SIGQUIT, libc::SIGHUP] {
        // SAFETY: the default disposition is no code of ours.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    Ok(())
}

fn run(socket: &Path, args: &[&str]) -> Output {
    aarm(socket).arg("run").args(args).stdin(Stdio::null()).output().expect("aarm starts")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs a command that would leave a mark, and says what came of it.
fn must_not_run(socket: &Path, args: &[&str]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let mark = dir.path().join("mark");
    let mut all = args.to_vec();
    all.extend(["--", "touch", mark.to_str().unwrap()]);
    let output = run(socket, &all);
    assert!(!mark.exists(), "the command was run");
    assert_eq!(output.status.code(), Some(125), "{}", stderr(&output));
    assert!(stderr(&output).contains("the command was not run"), "{}", stderr(&output));
    output
}

#[test]
fn without_a_daemon_nothing_runs() {
    let output = must_not_run(Path::new("/nonexistent/aarm.sock"), &[]);
    let text = stderr(&output);
    assert!(text.contains("no daemon answers at /nonexistent/aarm.sock"), "{text}");
    assert!(text.contains("systemctl start aarm-agent"), "{text}");
}

#[test]
fn a_socket_nobody_listens_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    must_not_run(&path, &[]);
}

#[test]
fn a_refusal_is_explained() {
    let body = r#"{"error":{"code":"in_session","message":"already in session 7","help":"leave it first"}}"#;
    let text = stderr(&must_not_run(&Fake::start(answer("403 Forbidden", body)).socket, &[]));
    assert!(text.contains("already in session 7") && text.contains("leave it first"), "{text}");
}

#[test]
fn a_refused_policy_shows_every_place() {
    let body = r#"{"error":{"code":"policy_invalid","message":"p.yaml has errors"},"diagnostics":[
        {"file":"p.yaml","line":3,"column":5,"message":"unknown field `pth`","help":"did you mean `path`?"},
        {"file":"p.yaml","line":9,"column":1,"message":"bad\u001b[2Jglob"}]}"#;
    let text = stderr(&must_not_run(&Fake::start(answer("422 Unprocessable Content", body)).socket, &[]));
    assert!(text.contains("p.yaml:3:5: unknown field `pth` (did you mean `path`?)"), "{text}");
    assert!(text.contains("p.yaml:9:1: bad\\u{1b}[2Jglob"), "{text}");
}

#[test]
fn an_answer_that_makes_no_sense_is_no_permission() {
    for bytes in [
        "",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        "yes",
        "HTTP/1.1 201 Created\r\n\r\n",
        "\0\0\0\0",
    ] {
        must_not_run(&Fake::start(bytes).socket, &[]);
    }
}

#[test]
fn an_unreadable_or_endless_policy_file() {
    let fake = Fake::start(registered());
    for file in ["/nonexistent/p.yaml", "/dev/zero"] {
        let output = run(&fake.socket, &["--policy", file, "--", "true"]);
        assert_eq!(output.status.code(), Some(125), "{}", stderr(&output));
    }
    assert!(fake.seen.try_recv().is_err(), "the daemon was bothered");
}

#[test]
fn wrong_usage_cannot_be_taken_for_a_status_of_the_command() {
    for args in [&["run"][..], &["run", "--nope", "true"]] {
        let output = aarm(Path::new("/nonexistent")).args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(125));
    }
}

#[test]
fn what_registers_is_what_becomes_the_command() {
    let fake = Fake::start(registered());
    let args = [
        "--intent",
        "try it",
        "--as",
        "alice",
        "--policy",
        "strict",
        "--",
        "sh",
        "-c",
        "echo $$ $AARM_SESSION",
    ];
    let output = run(&fake.socket, &args);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let seen = fake.seen.recv_timeout(PATIENCE).unwrap();
    assert_eq!(seen.line, "POST /v1/sessions HTTP/1.1");
    assert_eq!(seen.threads, 1);
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), format!("{} {}", seen.pid, fake::UUID));
    let body: serde_json::Value = serde_json::from_str(&seen.body).unwrap();
    assert_eq!(body, serde_json::json!({"policy": "strict", "intent": "try it", "human": "alice"}));
}

#[test]
fn a_policy_file_is_sent_along() {
    let fake = Fake::start(registered());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("p.yaml");
    std::fs::write(&file, "a: b\n").unwrap();
    run(&fake.socket, &["-p", file.to_str().unwrap(), "true"]);
    let body: serde_json::Value =
        serde_json::from_str(&fake.seen.recv_timeout(PATIENCE).unwrap().body).unwrap();
    assert_eq!(body, serde_json::json!({"policy_text": "a: b\n", "policy_file": file}));
}

#[test]
fn the_status_passes_through() {
    let fake = Fake::start(registered());
    for status in [0, 1, 7, 125, 255] {
        let output = run(&fake.socket, &["--", "sh", "-c", &format!("exit {status}")]);
        assert_eq!(output.status.code(), Some(status));
        assert_eq!(stderr(&output), "");
    }
}

#[test]
fn a_signal_that_ended_the_command_ends_aarm() {
    let fake = Fake::start(registered());
    // 40 is a real-time signal.
    for signal in [1, 2, 3, 6, 9, 13, 15, 40] {
        let output = run(&fake.socket, &["--", "sh", "-c", &format!("ulimit -c 0; kill -{signal} $$")]);
        assert_eq!(output.status.signal(), Some(signal), "{:?}", output.status);
    }
}

#[test]
fn commands_that_cannot_run() {
    let fake = Fake::start(registered());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("not-executable");
    std::fs::write(&file, "").unwrap();
    let output = run(&fake.socket, &["--", "no-such-command-\u{1b}[2J"]);
    assert_eq!(output.status.code(), Some(127));
    assert!(
        stderr(&output).contains("cannot run no-such-command-\\u{1b}[2J: No such file"),
        "{}",
        stderr(&output)
    );
    let output = run(&fake.socket, &["--", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(126));
    let text = stderr(&output);
    assert!(text.contains(&format!("aarm receipts --session {} --decision DENY", fake::UUID)), "{text}");
    assert_eq!(run(&fake.socket, &["--", "/dev"]).status.code(), Some(126));
    assert_eq!(run(&fake.socket, &["--", "/dev/null/x"]).status.code(), Some(127));
}

#[test]
fn signals_reach_the_command() {
    let fake = Fake::start(registered());
    for signal in
        [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGQUIT]
    {
        let script = format!("trap 'exit 42' {}; echo ready; while :; do sleep 0.05; done", signal as i32);
        let mut child =
            aarm(&fake.socket).args(["run", "bash", "-c", &script]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        kill(Pid::from_raw(child.id() as i32), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(42), "{signal}");
    }
}

#[test]
fn the_command_inherits_signals_as_they_were() {
    let fake = Fake::start(registered());
    // A parent that ignores SIGCHLD would otherwise take the command's status away.
    let script = "trap '' CHLD HUP; exec \"$@\"";
    let grep = ["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"];
    let plain = Command::new("bash").args(["-c", script, "x"]).args(grep).output().unwrap();
    let output = Command::new("bash")
        .args(["-c", script, "x", env!("CARGO_BIN_EXE_aarm"), "--socket"])
        .arg(&fake.socket)
        .args(["run", "--"])
        .args(grep)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&plain.stdout));
}

#[test]
fn descriptors_are_inherited_and_none_is_added() {
    let fake = Fake::start(registered());
    let list = |command: &mut Command| {
        let output = command.stdin(Stdio::null()).output().unwrap();
        String::from_utf8_lossy(&output.stdout).lines().count()
    };
    let plain = list(Command::new("ls").arg("/proc/self/fd"));
    assert_eq!(list(aarm(&fake.socket).args(["run", "ls", "/proc/self/fd"])), plain);
}

/// A shell with job control on a terminal of its own.
struct Terminal {
    master: OwnedFd,
    shell: std::process::Child,
    seen: String,
}

impl Terminal {
    fn start(socket: &Path) -> Self {
        let pty = nix::pty::openpty(None, None).unwrap();
        let slave = || Stdio::from(pty.slave.try_clone().unwrap());
        let mut shell = Command::new("bash");
        shell
            .args(["--norc", "--noprofile", "-i"])
            .env("PS1", "$ ")
            .env("TERM", "dumb")
            .env("AARM_SOCKET", socket);
        shell.env("A", env!("CARGO_BIN_EXE_aarm"));
        shell.stdin(slave()).stdout(slave()).stderr(slave());
        // SAFETY: both calls are async-signal-safe; they run in the child before its exec.
        unsafe {
            shell.pre_exec(|| {
                libc::setsid();
                libc::ioctl(0, libc::TIOCSCTTY, 0);
                default_signals()
            })
        };
        let shell = shell.spawn().unwrap();
        Self { master: pty.master, shell, seen: String::new() }
    }

    fn send(&self, text: &str) {
        nix::unistd::write(&self.master, text.as_bytes()).unwrap();
    }

    /// Waits until the terminal shows a text, and forgets everything up to it.
    fn expect(&mut self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.seen.contains(text) {
            assert!(Instant::now() < deadline, "no {text:?} in {:?}", self.seen);
            let mut poll = [libc::pollfd { fd: self.master.as_raw_fd(), events: libc::POLLIN, revents: 0 }];
            // SAFETY: one entry, which outlives the call.
            if unsafe { libc::poll(poll.as_mut_ptr(), 1, 100) } > 0 {
                let mut bytes = [0; 4096];
                let n = nix::unistd::read(&self.master, &mut bytes).unwrap();
                self.seen.push_str(&String::from_utf8_lossy(&bytes[..n]));
            }
        }
        let end = self.seen.find(text).unwrap() + text.len();
        self.seen.drain(..end);
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

#[test]
fn job_control_works_as_without_aarm() {
    let fake = Fake::start(registered());
    let mut t = Terminal::start(&fake.socket);
    // ^Z stops both; the shell notices, and `fg` goes on.
    t.send("$A run -- bash -c 'echo be\"\"gun; read x; echo got:$x; exit 3'\n");
    t.expect("begun");
    t.send("\x1a");
    t.expect("Stopped");
    t.send("echo sh\"\"ell\n");
    t.expect("shell");
    t.send("fg\n");
    t.expect("run --");
    t.send("hello\n");
    t.expect("got:hello");
    t.send("echo status:$?.\n");
    t.expect("status:3.");
    // In the background, reading from the terminal stops it.
    t.send("$A run -- bash -c 'read x; echo got:$x' &\n");
    t.expect("] ");
    std::thread::sleep(Duration::from_millis(500));
    t.send("jobs; echo li\"\"sted\n");
    t.expect("Stopped");
    t.expect("listed");
    t.send("fg\n");
    t.expect("run --");
    t.send("again\n");
    t.expect("got:again");
}

#[test]
fn the_terminals_interrupt_comes_once() {
    let fake = Fake::start(registered());
    let mut t = Terminal::start(&fake.socket);
    t.send("$A run -- bash -c 'n=0; trap \"n=\\$((n+1))\" INT; echo be\"\"gun; for i in 1 2 3 4 5 6 7 8; do sleep 0.1; done; echo n:$n.'\n");
    t.expect("begun");
    t.send("\x03");
    t.expect("n:1.");
}

#[test]
fn a_command_with_a_process_group_of_its_own() {
    let fake = Fake::start(registered());
    let mut t = Terminal::start(&fake.socket);
    // An interactive shell takes the terminal, gives it back, and can be suspended.
    t.send("$A run -- env PS1='inner> ' bash --norc -i\n");
    t.expect("inner> ");
    t.send("echo in\"\"side; kill -TSTP $$; echo re\"\"sumed\n");
    t.expect("inside");
    // Interactive shells ignore SIGTSTP, so nothing stops.
    t.expect("resumed");
    t.send("exit 9\n");
    t.expect("exit");
    t.send("echo status:$?.\n");
    t.expect("status:9.");
}

#[test]
fn a_stop_that_is_not_the_terminals_does_not_stop_aarm() {
    let fake = Fake::start(registered());
    let mut t = Terminal::start(&fake.socket);
    t.send("$A run -- bash -c 'echo pid:$$.; kill -STOP $$; echo went on; exit 4'\n");
    t.expect("pid:");
    std::thread::sleep(Duration::from_millis(300));
    t.expect(".");
    assert!(!t.seen.contains("Stopped"), "{}", t.seen);
    // Until somebody at the terminal wants it: then ^Z brings the shell back, `fg` the command.
    t.send("\x1a");
    t.expect("Stopped");
    t.send("fg\n");
    t.expect("went on");
    t.send("echo status:$?.\n");
    t.expect("status:4.");
}

#[test]
fn pipelines_work() {
    let fake = Fake::start(registered());
    let mut child =
        aarm(&fake.socket).args(["run", "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"through").unwrap();
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "through");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
