//! The other commands of `aarm` as their user sees them.

mod fake;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use fake::{Fake, answer};

fn aarm(socket: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_aarm"))
        .env("AARM_SOCKET", socket)
        .env("TZ", "UTC")
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("aarm starts")
}

fn offline(args: &[&str]) -> Output {
    aarm(Path::new("/nonexistent/aarm.sock"), args)
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn what_needs_the_daemon_says_so() {
    for args in [
        &["sessions"][..],
        &["status"],
        &["watch"],
        &["receipts"],
        &["policy", "list"],
        &["policy", "reload"],
        &["sessions", "1"],
    ] {
        let output = offline(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let text = stderr(&output);
        assert!(
            text.contains("no daemon answers at /nonexistent/aarm.sock") && text.contains("help:"),
            "{text}"
        );
    }
}

#[test]
fn wrong_usage_is_64() {
    for args in [
        &[][..],
        &["nope"],
        &["sessions", "--nope"],
        &["sessions", "not-an-id"],
        &["watch", "--decision", "MAYBE"],
        &["watch", "--operation", "conect"],
        &["receipts", "--since", "yesterday-ish"],
        &["policy", "eval"],
        &["verify"],
    ] {
        assert_eq!(offline(args).status.code(), Some(64), "{args:?}");
    }
    assert!(stderr(&offline(&["watch", "--operation", "conect"])).contains("connect"));
}

#[test]
fn help_is_success() {
    for args in
        [&["--help"][..], &["run", "--help"], &["policy", "eval", "-h"], &["help", "verify"], &["--version"]]
    {
        let output = offline(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(!output.stdout.is_empty() && output.stderr.is_empty());
    }
}

#[test]
fn completions_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = offline(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0));
        assert!(stdout(&output).contains("receipts"), "{shell}");
    }
}

const SESSIONS: &str = r#"{"sessions":[{"session":"0000000100000003","uuid":"0199c2d4-7a5b-7cc0-8000-0123456789ab",
    "policy":{"name":"coding-agent","version":"1","hash":"abcd","mode":"audit"},"start":"run","uid":0,"pid":4242,
    "exe":"/tmp/evil\u001b[2J","started":"2026-11-24T10:00:00.5Z","tasks":3,"field_of_a_newer_daemon":1,
    "actions":{"allow":10,"deny":1,"audit":2,"refused":0}}]}"#;

#[test]
fn sessions_in_a_table() {
    let fake = Fake::start(answer("200 OK", SESSIONS));
    let output = aarm(&fake.socket, &["sessions", "--all"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(fake.seen.recv().unwrap().line, "GET /v1/sessions?ended=true HTTP/1.1");
    let text = stdout(&output);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("SESSION    STARTED"), "{text}");
    assert!(
        lines[1].starts_with("100000003  2026-11-24 10:00:00  running  root  4242  coding-agent (audit)"),
        "{text}"
    );
    assert!(lines[1].ends_with("3     10     3  /tmp/evil\\u{1b}[2J"), "{text}");
    assert_eq!(lines[0].find("PROGRAM"), lines[1].find("/tmp/evil"));
}

#[test]
fn sessions_as_json() {
    let fake = Fake::start(answer("200 OK", SESSIONS));
    let output = aarm(&fake.socket, &["sessions", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["sessions"][0]["pid"], 4242);
}

#[test]
fn an_unknown_session() {
    let body = r#"{"error":{"code":"not_found","message":"no session 0000000000000001"}}"#;
    let fake = Fake::start(answer("404 Not Found", body));
    let output = aarm(&fake.socket, &["sessions", "1"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(fake.seen.recv().unwrap().line, "GET /v1/sessions/0000000000000001 HTTP/1.1");
    assert!(stderr(&output).contains("no session 0000000000000001"));
}

#[test]
fn output_into_a_closed_pipe_is_no_error() {
    let fake = Fake::start(answer("200 OK", SESSIONS));
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = Command::new(env!("CARGO_BIN_EXE_aarm"))
        .env("AARM_SOCKET", &fake.socket)
        .arg("sessions")
        .stdout(writer)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));
}

#[test]
fn a_reload_that_is_refused_shows_each_place() {
    let body = r#"{"error":{"code":"policy_invalid","message":"the policies have errors; nothing changed"},
        "diagnostics":[{"file":"/etc/aarm/policies/a.yaml","line":4,"column":2,"message":"bad glob"}]}"#;
    let fake = Fake::start(answer("422 Unprocessable Content", body));
    let output = aarm(&fake.socket, &["policy", "reload"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("/etc/aarm/policies/a.yaml:4:2: bad glob"), "{}", stderr(&output));
}

const POLICY: &str = "apiVersion: aarm.dev/v1alpha1
kind: AgentPolicy
metadata: { name: t, version: '1' }
spec:
  rules:
    - id: shadow
      match: { operation: open_read, path: /etc/shadow }
      decision: DENY
tests:
  - name: shadow
    do: { open_read: /etc/shadow }
    expect: { decision: DENY, rule: shadow }
";

/// Writes files and returns their directory.
fn files(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    files.iter().for_each(|(name, text)| std::fs::write(dir.path().join(name), text).unwrap());
    dir
}

fn in_dir(dir: &tempfile::TempDir, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_aarm")).current_dir(dir.path()).args(args).output().unwrap()
}

#[test]
fn policies_are_checked_tested_and_tried_out() {
    let broken = POLICY.replace("open_read, path", "open_rad, pth").replace("DENY\n", "NEVER\n");
    let failing = POLICY.replace("{ decision: DENY, rule: shadow }", "{ decision: ALLOW }");
    let dir = files(&[("good.yaml", POLICY), ("broken.yaml", &broken), ("failing.yaml", &failing)]);

    let output = in_dir(&dir, &["policy", "check", "good.yaml", "failing.yaml"]);
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    let output = in_dir(&dir, &["policy", "check", "good.yaml", "broken.yaml"]);
    assert_eq!(output.status.code(), Some(1));
    let text = stdout(&output);
    assert!(text.contains("good.yaml: ok: t, 1 rule, 1 test"), "{text}");
    for (place, line) in
        [("broken.yaml:7:", "match: { operation: open_rad, pth"), ("broken.yaml:8:", "decision: NEVER")]
    {
        assert!(text.contains(place) && text.contains(line), "{text}");
    }
    let output = in_dir(&dir, &["policy", "check", "--json", "broken.yaml"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(json[0]["diagnostics"].as_array().unwrap().len() >= 3, "{json}");
    assert_eq!(json[0]["valid"], false);

    assert_eq!(in_dir(&dir, &["policy", "test", "good.yaml"]).status.code(), Some(0));
    let output = in_dir(&dir, &["policy", "test", "good.yaml", "failing.yaml"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("failing.yaml:10: FAILED  shadow"), "{}", stdout(&output));
    assert!(stdout(&output).contains("1 passed, 1 failed"));
    assert_eq!(in_dir(&dir, &["policy", "test", "broken.yaml"]).status.code(), Some(1));

    let action = r#"{"operation":"open_read","path":"/etc/shadow"}"#;
    let output = in_dir(&dir, &["policy", "eval", "--policy", "good.yaml", "--action", action]);
    assert_eq!(output.status.code(), Some(0));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((json["decision"].as_str(), json["rule"].as_str()), (Some("DENY"), Some("shadow")));
    assert_eq!(json["policy"]["name"], "t");
    let output = in_dir(&dir, &["policy", "eval", "-p", "good.yaml", "-a", r#"{"operation":"nope"}"#]);
    assert_eq!(output.status.code(), Some(64));
    assert_eq!(in_dir(&dir, &["policy", "eval", "-p", "broken.yaml", "-a", action]).status.code(), Some(1));
    assert_eq!(in_dir(&dir, &["policy", "check", "missing.yaml"]).status.code(), Some(2));
}

#[test]
fn a_policy_file_without_end() {
    let output = offline(&["policy", "check", "/dev/zero"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("/dev/zero is larger than 1048576 bytes"), "{}", stdout(&output));
}

/// The same with no room for a file of 100 MB in the whole process.
fn in_little_memory(dir: &tempfile::TempDir, args: &[&str]) -> Output {
    use std::os::unix::process::CommandExt;
    const ALL: libc::rlim_t = 96 << 20;
    let mut c = Command::new(env!("CARGO_BIN_EXE_aarm"));
    c.current_dir(dir.path()).args(args);
    // SAFETY: setrlimit is a plain system call, and nothing else is done between fork and exec.
    unsafe {
        c.pre_exec(|| {
            let limit = libc::rlimit { rlim_cur: ALL, rlim_max: ALL };
            if libc::setrlimit(libc::RLIMIT_AS, &limit) == 0 {
                Ok(())
            } else {
                Err(std::io::Error::last_os_error())
            }
        });
    }
    c.output().unwrap()
}

#[test]
fn a_policy_of_100_megabytes_is_not_read_whole() {
    let dir = files(&[("good.yaml", POLICY), ("huge.yaml", POLICY)]);
    // The rest is zeros that take no room on the disk.
    let huge = std::fs::File::options().write(true).open(dir.path().join("huge.yaml")).unwrap();
    huge.set_len(100 << 20).unwrap();
    let start = std::time::Instant::now();
    let output = in_little_memory(&dir, &["policy", "check", "good.yaml", "huge.yaml"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let text = stdout(&output);
    assert!(text.contains("good.yaml: ok") && text.contains("huge.yaml is larger than 1048576"), "{text}");
    let output = in_little_memory(&dir, &["policy", "test", "huge.yaml"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let output = in_little_memory(&dir, &["policy", "eval", "-p", "huge.yaml", "-a", "{}"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(start.elapsed() < std::time::Duration::from_secs(10), "took {:?}", start.elapsed());
}

#[test]
fn everything_wrong_with_a_policy_is_told_at_once() {
    let mut text = String::from(
        "apiVersion: aarm.dev/v1alpha1\nkind: AgentPolicy\nmetadata: { name: t, version: 2 }\nspec:\n  rules:\n",
    );
    for (i, line) in [
        "match: { operation: read, path: \"/a[\" }",
        "match: { operation: connect, cidr: 300.0.0.0/8 }",
        "match: { operation: [read], uid: [x, 1.5, {}] }",
        "match: [read]",
        "match: { operation: read, port: 1 }",
    ]
    .iter()
    .enumerate()
    {
        text.push_str(&format!("    - {{ id: bad-{i}, {line}, decision: DENY }}\n"));
    }
    for i in 0..508 {
        text.push_str(&format!(
            "    - {{ id: r{i}, match: {{ operation: read, path: /f{i} }}, decision: DENY }}\n"
        ));
    }
    let dir = files(&[("bad.yaml", &text)]);
    let start = std::time::Instant::now();
    let output = in_little_memory(&dir, &["policy", "check", "bad.yaml"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let shown = stdout(&output);
    for place in ["bad.yaml:3:", "bad.yaml:6:", "bad.yaml:7:", "bad.yaml:8:", "bad.yaml:9:", "bad.yaml:10:"] {
        assert!(shown.contains(place), "{place}: {shown}");
    }
    assert!(shown.contains("513 rules; a policy has at most 512"), "{shown}");
    let output = in_little_memory(&dir, &["policy", "check", "--json", "bad.yaml"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let all = json[0]["diagnostics"].as_array().unwrap();
    // The version, the glob, the network, three users, the match, the port, the number of rules.
    assert_eq!(all.len(), 9, "{json}");
    assert!(all.iter().all(|d| d["line"].as_u64() >= Some(3) && d["column"].as_u64() >= Some(1)), "{json}");
    assert!(start.elapsed() < std::time::Duration::from_secs(10), "took {:?}", start.elapsed());
}

#[test]
fn doctor_answers_without_a_daemon() {
    let output = offline(&["doctor", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let expected = if json["can_enforce"].as_bool().unwrap() { 0 } else { 2 };
    assert_eq!(output.status.code(), Some(expected));
    assert!(json["checks"].as_array().unwrap().len() >= 8);
}

#[test]
fn a_receipt_is_proven_to_whoever_has_the_keys_and_a_log_that_was_rolled_back_is_found_out() {
    use aarm_receipt::{Body, Common, Keys, LogWriter, Options, canonical::Encoded, encode};
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let write = |log: &Path, size: u64| {
        let keys = Keys::from_seeds([1; 32], [2; 32]).unwrap();
        let (mut w, _) =
            LogWriter::open(log, keys, "aarm.test/log", Options { segment_bytes: 1 << 20 }).unwrap();
        for n in w.size()..size {
            let mut bytes = Vec::new();
            let host = &Encoded::text(b"h");
            let common = Common { time_ns: n, boot_ns: n, host, session: None, seq: None };
            encode(&common, &Body::Stop { version: "1" }, &mut bytes);
            w.append(&mut bytes, true).unwrap();
        }
        w.checkpoint().unwrap();
    };
    write(&log, 300);
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (log_dir, proof, key, seen) = (at("log"), at("7.tlog-proof"), at("log/log.pub"), at("seen"));

    let made = offline(&["prove", "7", "--log", &log_dir, "-o", &proof]);
    assert!(made.status.success(), "{}", stderr(&made));
    let shown = offline(&["prove", "7", "--log", &log_dir]);
    assert_eq!(stdout(&shown), std::fs::read_to_string(&proof).unwrap());
    let good = offline(&["verify", &proof, "--key", &key]);
    assert!(good.status.success() && stdout(&good).contains("proven: receipt 7"), "{}", stdout(&good));
    let json = stdout(&offline(&["verify", &proof, "--key", &key, "--json"]));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&json["index"], &json["verdict"], &json["signed"]),
        (&7.into(), &"intact".into(), &300.into())
    );
    let other = std::fs::read_to_string(&proof).unwrap().replacen("index 7", "index 8", 1);
    std::fs::write(at("8.tlog-proof"), other).unwrap();
    let bad = offline(&["verify", &at("8.tlog-proof"), "--key", &key]);
    assert_eq!(bad.status.code(), Some(1));
    assert!(stdout(&bad).contains("NOT PROVEN: the receipt is not number 8 of the 300"), "{}", stdout(&bad));
    let early = offline(&["prove", "300", "--log", &log_dir]);
    assert_eq!(early.status.code(), Some(1));
    assert!(stderr(&early).contains("receipt 300 is not signed yet"), "{}", stderr(&early));
    assert_eq!(offline(&["verify", &proof]).status.code(), Some(2), "a proof without keys");

    let verify = |log: &str| offline(&["verify", log, "--key", &key, "--remember", &seen]);
    assert!(verify(&log_dir).status.success());
    write(&log, 400);
    let grown = verify(&log_dir);
    assert!(
        grown.status.success() && stdout(&grown).contains("begins with the 300 receipts"),
        "{}",
        stdout(&grown)
    );
    write(&dir.path().join("other"), 350);
    let back = verify(&at("other"));
    assert_eq!(back.status.code(), Some(1));
    assert!(stdout(&back).contains("rolled back"), "{}", stdout(&back));
    assert!(verify(&log_dir).status.success(), "what was seen stays as it was");

    // An older checkpoint put back leaves the receipts as they are; what was seen is not forgotten for it.
    let (newest, before) = (std::fs::read(&seen).unwrap(), std::fs::read(at("other/checkpoint")).unwrap());
    std::fs::write(at("log/checkpoint"), before).unwrap();
    assert!(verify(&log_dir).status.success());
    assert_eq!(std::fs::read(&seen).unwrap(), newest);
}

#[test]
fn a_session_is_proven_to_whoever_has_the_keys() {
    use aarm_receipt::receipt::{Identity, PolicyRef, SessionRef, check};
    use aarm_receipt::{Body, Common, Keys, LogWriter, Options, canonical::Encoded, encode};
    const UUID: &str = "01a227b9-e7ab-750a-93be-e56d7cea73cc";
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (log, proof, key) = (at("log"), at("session.history"), at("log/log.pub"));
    let policy = PolicyRef { name: "p", version: "1", hash: "00" };
    let identity = Identity::default();
    let write = |body: &Body<'_>| {
        let keys = Keys::from_seeds([1; 32], [2; 32]).unwrap();
        let options = Options { segment_bytes: 1 << 20 };
        let (mut w, _) = LogWriter::open(Path::new(&log), keys, "aarm.test/log", options).unwrap();
        let session = Some(std::borrow::Cow::Owned(SessionRef { id: 7, uuid: UUID }.encoded()));
        let common = Common { time_ns: 1, boot_ns: 1, host: &Encoded::text(b"h"), session, seq: None };
        let mut bytes = Vec::new();
        encode(&common, body, &mut bytes);
        let weighs = check(&bytes).unwrap().weighs;
        w.append(&mut bytes, weighs).unwrap();
        w.checkpoint().unwrap();
    };
    write(&Body::SessionOpen { how: "run", program: b"/x", intent: "", policy, audit: false, identity });
    write(&Body::Summary { counts: &[("open_read", 3)], policy });
    let prove = ["prove", "--session", UUID, "--log", &log, "-o", &proof];
    assert!(offline(&prove).status.success());
    let open = offline(&["verify", &proof, "--key", &key]);
    assert_eq!(open.status.code(), Some(3), "{}", stdout(&open));
    assert!(stdout(&open).contains("it went on when this was written"), "{}", stdout(&open));
    write(&Body::SessionClose { allowed: 3, denied: 0, audited: 0, refused: 0 });
    assert!(offline(&prove).status.success());
    assert_eq!(stdout(&offline(&prove[..5])), std::fs::read_to_string(&proof).unwrap());
    let whole = offline(&["verify", &proof, "--key", &key]);
    assert!(
        whole.status.success() && stdout(&whole).contains("3 receipts, which are all"),
        "{}",
        stdout(&whole)
    );
    let json: serde_json::Value =
        serde_json::from_slice(&offline(&["verify", &proof, "--key", &key, "--json"]).stdout).unwrap();
    assert_eq!(
        (&json["verdict"], &json["receipts"], &json["ends"]),
        (&"intact".into(), &3.into(), &true.into())
    );
    let less = std::fs::read_to_string(&proof)
        .unwrap()
        .lines()
        .filter(|l| !l.contains("summary"))
        .collect::<Vec<_>>()
        .join("\n");
    std::fs::write(at("less"), less + "\n").unwrap();
    let less = offline(&["verify", &at("less"), "--key", &key]);
    assert_eq!(less.status.code(), Some(1));
    assert!(stdout(&less).contains("NOT PROVEN"), "{}", stdout(&less));
    let none = offline(&[
        "prove",
        "--session",
        "00000000-0000-0000-0000-000000000000",
        "--log",
        &log,
        "-o",
        &at("none"),
    ]);
    assert_eq!(none.status.code(), Some(1), "{}", stderr(&none));
    assert!(stderr(&none).contains("aarm sessions --all") && !Path::new(&at("none.new")).exists());
    // The same log is listed, as a sheet too, and has its index made.
    let sheet = offline(&["receipts", "--log", &log, "--kind", "summary", "--csv"]);
    let lines: Vec<String> = stdout(&sheet).lines().map(str::to_owned).collect();
    assert!(lines.len() == 2 && lines[0].starts_with("index,time,host,session,kind,"), "{lines:?}");
    assert!(lines[1].starts_with("1,") && lines[1].contains(UUID), "{lines:?}");
    assert_eq!(stdout(&offline(&["receipts", "--log", &log, "--path", "/etc", "--json"])), "");
    assert_eq!(offline(&["receipts", "--kind", "nothing"]).status.code(), Some(64));
    let mut following = Command::new(env!("CARGO_BIN_EXE_aarm"))
        .args(["receipts", "--log", &log, "--follow", "--json", "--limit", "1"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(following.stdout.take().unwrap()));
    let mut next = || serde_json::from_str::<serde_json::Value>(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(next()["index"], 2, "the last one that is there");
    write(&Body::SessionOpen { how: "run", program: b"/x", intent: "", policy, audit: false, identity });
    assert_eq!(next()["index"], 3);
    let _ = following.kill();
    following.wait().unwrap();
    let rebuilt = offline(&["receipts", "rebuild-index", "--log", &log]);
    assert!(rebuilt.status.success() && stdout(&rebuilt) == "0 segments indexed\n", "{}", stdout(&rebuilt));
    assert_eq!(offline(&["receipts", "rebuild-index", "--log", &at("nothing")]).status.code(), Some(2));
    assert!(offline(&["verify", &log, "--index"]).status.success());
    assert_eq!(offline(&["prove", "--log", &log]).status.code(), Some(64));
    assert_eq!(offline(&["prove", "7", "--session", UUID, "--log", &log]).status.code(), Some(64));
}
