//! Programs that people use, held and let go: they end as they would have, and notice nothing.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Case;
use crate::asks::{answer, approve_until, approved, id, kill_sessions, next};
use crate::host::{Attempt, Host, file, policy};
use crate::terminal::Terminal;

pub const CASES: &[Case] = &[
    ("git_clones_commits_and_pushes", git),
    ("python_starts_reads_and_connects_in_threads_and_processes", python),
    ("make_runs_held_recipes_beside_each_other", make),
    ("vim_writes_a_file", vim),
    ("tmux_shows_what_a_held_program_wrote", tmux),
    ("a_shell_without_job_control_sees_no_stop", shell),
    ("who_copies_the_stop_of_a_child_goes_on_with_it", copies),
    ("the_shell_of_aarm_run_sees_no_stop_but_its_users", terminal),
    ("an_interactive_shell_is_told_of_a_stop_and_loses_nothing", interactive),
];

/// Who is asked answers at once, that is, as soon as the command line can.
const AT_ONCE: Duration = Duration::ZERO;
/// Who is asked thinks first.
const LATER: Duration = Duration::from_secs(2);

/// What a program says that has met an error it should not have: those that only the kernel understands have no name.
const NOTICED: &[&str] = &["Unknown error 51", "rrno 51", "ERESTART", "EINTR", "nterrupted system call"];

fn unnoticed(output: &str) -> Result<()> {
    let found = NOTICED.iter().find(|text| output.contains(**text));
    ensure!(found.is_none(), "it has met an error: {output}");
    Ok(())
}

/// Fails unless so many actions were held and approved, and nothing came of that but what was wanted.
fn went_on(a: &Attempt, at_least: usize) -> Result<()> {
    ensure!(a.status == 0, "status {}\n{}", a.status, a.tell());
    unnoticed(&a.output)?;
    held(&a.receipts, at_least).with_context(|| a.tell())
}

fn held(receipts: &[Value], at_least: usize) -> Result<()> {
    let by_approval = |r: &&Value| {
        r["kind"] == "resolution" && r["detail"]["method"] == "approval" && r["detail"]["answer"] == "ALLOW"
    };
    let n = receipts.iter().filter(by_approval).count();
    ensure!(n >= at_least, "{n} were held and approved, not {at_least}");
    Ok(())
}

/// A daemon with these rules, and an empty directory.
fn host(rules: &str) -> Result<Host> {
    let _ = std::fs::remove_dir_all("/tmp/r");
    std::fs::create_dir_all("/tmp/r")?;
    Host::start(&policy(rules))
}

/// A command of the case's own, outside any session.
fn outside(script: &str) -> Result<String> {
    let out = Command::new("/bin/sh").args(["-ec", script]).stdin(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    ensure!(out.status.success(), "{script}: {}\n{text}{}", out.status, String::from_utf8_lossy(&out.stderr));
    Ok(text)
}

/// Ends what it has when it is dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const AUTHOR: &str = "export HOME=/root GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.org GIT_COMMITTER_NAME=a \
    GIT_COMMITTER_EMAIL=a@example.org;";

fn git() -> Result<()> {
    let rules = "
- { id: net, match: { operation: connect, port: [4018] }, decision: STEP_UP }
- { id: config, match: { operation: [create, open_write, rename], path: '/tmp/r/work/.git/config*' }, decision: STEP_UP }
- { id: refs, match: { operation: [create, open_write, rename], path: '/tmp/r/work/.git/refs/heads/**' }, decision: STEP_UP }
";
    let h = host(rules)?;
    outside(&format!(
        "{AUTHOR} cd /tmp/r; git init -q -b main first; cd first; echo one > a; git add a; git commit -qm one; \
         git clone -q --bare . ../origin.git"
    ))?;
    // Not `git daemon`, whose child this would be.
    let daemon = Command::new("/usr/lib/git-core/git-daemon")
        .args(["--base-path=/tmp/r", "--export-all", "--enable=receive-pack"])
        .args(["--listen=127.0.0.1", "--port=4018", "--reuseaddr"])
        .stderr(Stdio::null())
        .spawn()?;
    let _daemon = Server(daemon);
    let deadline = Instant::now() + Duration::from_secs(60);
    while TcpStream::connect("127.0.0.1:4018").is_err() {
        ensure!(Instant::now() < deadline, "git daemon does not serve");
        std::thread::sleep(Duration::from_millis(50));
    }
    let script = format!(
        "{AUTHOR} cd /tmp/r; git clone git://127.0.0.1:4018/origin.git work; cd work; cat a; echo two > b; git add b; \
         git commit -m two; git push origin main; git config some.thing else; git fetch; git status --porcelain -b"
    );
    let a = approved(&h, AT_ONCE, &["/bin/sh", "-ec", &script])?;
    // Three connections, and what is written.
    went_on(&a, 6)?;
    let connects = a.receipts.iter().filter(|r| r["action"]["operation"] == "connect").count();
    ensure!(connects >= 3, "{}", a.tell());
    ensure!(a.output.contains("## main...origin/main\n"), "{}", a.tell());
    let log = outside(
        "cd /tmp/r; git -C work fsck --strict; git --git-dir origin.git log --format=%s main; cat work/b",
    )?;
    ensure!(log == "two\none\ntwo\n", "{log}");
    ensure!(outside("git -C /tmp/r/work config some.thing")? == "else\n");
    h.verified()
}

/// Says to each what he has said.
fn echo_server() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:4019")?;
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let mut line = String::new();
            if BufReader::new(&client).read_line(&mut line).is_ok() {
                let _ = (&client).write_all(format!("heard {line}").as_bytes());
            }
        }
    });
    Ok(())
}

fn python() -> Result<()> {
    let rules = "
- { id: tool, match: { operation: exec, exe: /tmp/r/tool }, decision: STEP_UP }
- { id: line, match: { operation: exec, exe: /tmp/r/line, args: [ask] }, decision: STEP_UP }
- { id: read, match: { operation: open_read, path: '/tmp/r/in/**' }, decision: STEP_UP }
- { id: net, match: { operation: connect, port: [4019] }, decision: STEP_UP }
";
    let h = host(rules)?;
    echo_server()?;
    file("/tmp/r/held.py", include_str!("real/held.py"))?;
    for n in 0..8 {
        file(format!("/tmp/r/in/{n}"), &format!("file {n}\n"))?;
    }
    for tool in ["tool", "line"] {
        std::fs::copy("/bin/echo", format!("/tmp/r/{tool}"))?;
    }
    let expected = outside("python3 /tmp/r/held.py")?;
    ensure!(expected.contains("heard 3") && expected.contains("run 5"), "{expected}");
    let a = approved(&h, AT_ONCE, &["/usr/bin/python3", "/tmp/r/held.py"])?;
    // 9 programs, 2 of them by their command line; 8 files, 4 connections.
    went_on(&a, 21)?;
    ensure!(a.output == expected, "{}\n{expected}", a.output);
    h.verified()
}

fn make() -> Result<()> {
    let rules = "
- { id: tool, match: { operation: exec, exe: /tmp/r/tool }, decision: STEP_UP }
- { id: out, match: { operation: [create, open_write], path: '/tmp/r/out/**' }, decision: STEP_UP }
";
    let h = host(rules)?;
    std::fs::create_dir("/tmp/r/out")?;
    std::fs::copy("/bin/cp", "/tmp/r/tool")?;
    for n in 1..=8 {
        file(format!("/tmp/r/in/{n}"), &format!("file {n}\n"))?;
    }
    let rules =
        "all: $(patsubst in/%,out/%,$(wildcard in/*))\nout/%: in/%\n\t/tmp/r/tool $< $@ && echo made $@\n";
    file("/tmp/r/Makefile", rules)?;
    let a = approved(&h, AT_ONCE, &["/usr/bin/make", "-j4", "-C", "/tmp/r"])?;
    went_on(&a, 16)?;
    for n in 1..=8 {
        let made = std::fs::read_to_string(format!("/tmp/r/out/{n}"))?;
        ensure!(made == format!("file {n}\n") && a.output.contains(&format!("made out/{n}")), "{}", a.tell());
    }
    h.verified()
}

fn vim() -> Result<()> {
    let rules = "
- { id: note, match: { operation: [create, open_write, rename], path: /tmp/r/note }, decision: STEP_UP }
";
    let h = host(rules)?;
    file("/tmp/r/note", "an old text\n")?;
    let vim = ["/usr/bin/vim.tiny", "-u", "NONE", "-i", "NONE"];
    let script = ["-es", "-c", "%s/old/new/", "-c", "wq", "/tmp/r/note"];
    let a = approved(&h, AT_ONCE, &[&vim[..], &script].concat())?;
    went_on(&a, 1)?;
    ensure!(std::fs::read_to_string("/tmp/r/note")? == "an new text\n", "{}", a.tell());
    // The same by hand.
    let (shown, receipts) = typed(&h, &[&vim[..], &["/tmp/r/note"]].concat(), |t| {
        t.shows("an new text")?;
        t.types(":%s/an new/a newer/\r:wq\r")?;
        let text = || std::fs::read_to_string("/tmp/r/note").unwrap_or_default();
        approve_until(&h, LATER, || text() == "a newer text\n")
    })?;
    held(&receipts, 1).context(shown)?;
    h.verified()
}

const READ: &str = "
- { id: read, match: { operation: open_read, path: '/tmp/r/in/**' }, decision: STEP_UP }
";

/// A daemon that asks about reading some files.
fn reading() -> Result<Host> {
    let h = host(READ)?;
    for n in 0..8 {
        file(format!("/tmp/r/in/{n}"), &format!("file {n}\n"))?;
    }
    Ok(h)
}

const PROMPT: &str = "ready> ";
const BASH: &[&str] = &["/bin/bash", "--norc", "--noediting", "-i"];

/// Somebody types at the terminal of a supervised command until it ends well. What the terminal has shown, and the receipts.
fn typed(
    h: &Host,
    command: &[&str],
    what: impl FnOnce(&mut Terminal) -> Result<()>,
) -> Result<(String, Vec<Value>)> {
    let script = "echo \"$AARM_SESSION\" > /tmp/r/session; exec \"$@\"";
    let mut aarm = Command::new("/usr/local/bin/aarm");
    aarm.args(["run", "--", "/bin/sh", "-c", script, "sh"]).args(command);
    let mut terminal = Terminal::start(aarm.env("PS1", PROMPT))?;
    let status = what(&mut terminal).and_then(|()| terminal.ends());
    if status.is_err() {
        kill_sessions();
    }
    let shown = terminal.all();
    let status = status.with_context(|| shown.clone())?;
    ensure!(status.success(), "{status}\n{shown}");
    unnoticed(&shown)?;
    let session = std::fs::read_to_string("/tmp/r/session")?;
    Ok((shown, h.session_receipts(session.trim())?))
}

/// Approves the next that waits, when it has waited for a while.
fn approve(h: &Host) -> Result<()> {
    let asked = next(h)?;
    std::thread::sleep(LATER);
    answer(h, &["approve", id(&asked)?])
}

fn shell() -> Result<()> {
    let h = reading()?;
    let script = "cat /tmp/r/in/0; echo =$?; cat /tmp/r/in/1 & wait $!; echo =$?; echo piped | cat - /tmp/r/in/2 | cat; echo =$?; \
        echo got $(cat /tmp/r/in/3); read x < /tmp/r/in/4; echo $x; jobs";
    let expected = "file 0\n=0\nfile 1\n=0\npiped\nfile 2\n=0\ngot file 3\nfile 4\n";
    for shell in ["/bin/bash", "/bin/dash"] {
        let a = approved(&h, LATER, &[shell, "-c", script])?;
        went_on(&a, 5)?;
        ensure!(a.output == expected, "{shell}: {}", a.output);
    }
    h.verified()
}

fn tmux() -> Result<()> {
    let h = reading()?;
    let script = "t() { tmux -L r -f /dev/null \"$@\"; }; t new-session -d 'cat /tmp/r/in/0; sleep 1000'; \
        until t capture-pane -p | grep 'file 0'; do sleep 0.2; done; t kill-server";
    let a = approved(&h, LATER, &["/bin/sh", "-c", script])?;
    went_on(&a, 1)?;
    ensure!(a.output == "file 0\n", "{}", a.tell());
    h.verified()
}

fn copies() -> Result<()> {
    let h = reading()?;
    let read = "cat /tmp/r/in/0";
    for (name, command) in [
        ("su", &["su", "-c", read][..]),
        ("runuser", &["runuser", "-u", "root", "cat", "/tmp/r/in/0"]),
        ("nsenter", &["nsenter", "--target", "1", "--pid", "cat", "/tmp/r/in/0"]),
        ("script", &["script", "-qec", read, "/dev/null"]),
        ("one in another", &["su", "-c", "nsenter --target 1 --pid su -c 'cat /tmp/r/in/0'"]),
    ] {
        let a = approved(&h, LATER, command).with_context(|| name)?;
        went_on(&a, 1).with_context(|| name)?;
        ensure!(a.output.trim_end() == "file 0", "{name}: {}", a.tell());
    }
    h.verified()
}

fn interactive() -> Result<()> {
    let h = reading()?;
    let (shown, receipts) = typed(&h, BASH, |t| {
        t.shows(PROMPT)?;
        // A child of the shell itself is put into the background, and stays there when it goes on; to be continued by the shell is of no use.
        t.types("cat /tmp/r/in/0\n")?;
        t.shows("Stopped")?;
        t.shows(PROMPT)?;
        t.types("fg\n")?;
        t.shows("Stopped")?;
        t.shows(PROMPT)?;
        approve(&h)?;
        t.shows("file 0\n")?;
        t.types("jobs; echo that is all\n")?;
        t.shows("Done")?;
        t.shows("that is all")?;
        // In a script or a function of its own it is not.
        for (line, last) in [
            ("(cat /tmp/r/in/1; exit 3); echo status $?\n", "file 1\nstatus 3\n"),
            ("sh -c 'cat /tmp/r/in/2; exit 4' & wait $!; echo status $?\n", "\nstatus 4\n"),
            ("echo a | (cat - /tmp/r/in/3; exit 5); echo status $?\n", "file 3\nstatus 5\n"),
            ("read x < /tmp/r/in/4; echo $x and $?\n", "file 4 and 0\n"),
        ] {
            t.types(line)?;
            approve(&h)?;
            let shown = t.shows(last)?;
            ensure!(!shown.contains("Stopped"), "{line}: {shown}");
        }
        // What its user stops, stops.
        t.types("sleep 1000\n")?;
        std::thread::sleep(LATER);
        t.types("\x1a")?;
        t.shows("Stopped")?;
        t.shows(PROMPT)?;
        t.types("fg\n")?;
        t.shows("sleep 1000")?;
        std::thread::sleep(LATER);
        t.types("\x03")?;
        t.shows(PROMPT)?;
        t.types("exit 0\n")
    })?;
    held(&receipts, 5).context(shown)?;
    h.verified()
}

/// The shell that has started `aarm run` sees no stop but those of its user.
fn terminal() -> Result<()> {
    let h = reading()?;
    let mut t = Terminal::start(Command::new(BASH[0]).args(&BASH[1..]).env("PS1", PROMPT))?;
    t.shows(PROMPT)?;
    for (line, last) in [
        ("aarm run -- cat /tmp/r/in/0; echo status $?\n", "file 0\nstatus 0\n"),
        ("aarm run -- sh -c 'cat /tmp/r/in/1; exit 3' | cat; echo ${PIPESTATUS[0]}\n", "file 1\n3\n"),
        ("aarm run -- cat /tmp/r/in/2 & wait $!; echo status $?\n", "\nstatus 0\n"),
    ] {
        t.types(line)?;
        approve(&h)?;
        let shown = t.shows(last)?;
        ensure!(!shown.contains("Stopped"), "{line}: {shown}");
    }
    // Stopped by its user while it waits.
    t.types("aarm run -- cat /tmp/r/in/3\n")?;
    next(&h)?;
    t.types("\x1a")?;
    t.shows("Stopped")?;
    t.shows(PROMPT)?;
    approve(&h)?;
    t.types("fg; echo status $?\n")?;
    t.shows("file 3\n")?;
    t.shows("status 0\n")?;
    t.types("jobs; exit 0\n")?;
    ensure!(t.ends()?.success(), "{}", t.all());
    unnoticed(&t.all())?;
    h.verified()
}
