//! What is found out about a deferred action before people are asked.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Case;
use crate::asks::{self, answer, id, next_that};
use crate::host::{Attempt, Host, file, policy};
use crate::resolver;

pub const CASES: &[Case] = &[
    ("what_is_deferred_is_decided_by_who_is_asked", asked),
    ("a_service_is_asked_and_its_requests_are_signed", service),
    ("a_resolver_that_was_asked_is_asked_again_after_a_restart", restarted),
    ("an_address_whose_name_leads_back_to_it_is_decided_by_that_name", named),
    ("what_an_agent_says_of_itself_is_told_to_who_decides", said),
    ("more_is_not_deferred_at_once_than_the_policy_says", cascade),
];

const RULES: &str = "
- { id: allows, match: { operation: open_read, path: /tmp/r/a }, decision: DEFER, resolve: [hash, good] }
- { id: denies, match: { operation: open_read, path: /tmp/r/b }, decision: DEFER, resolve: [bad] }
- { id: then-people, match: { operation: open_read, path: /tmp/r/c }, decision: DEFER, resolve: [broken, unsure], on_timeout: STEP_UP, timeout: 60s }
- { id: then-no, match: { operation: open_read, path: /tmp/r/d }, decision: DEFER, resolve: [unsure, slow], timeout: 60s }
- { id: service, match: { operation: open_read, path: /tmp/r/e }, decision: DEFER, resolve: [far], timeout: 60s }
- { id: program, match: { operation: exec, exe: /tmp/r/busybox }, decision: DEFER, resolve: [hash, good], timeout: 60s }
";

/// Programs that are asked. What a program finds of its surroundings is what it says.
const PROGRAMS: &[(&str, &str)] = &[
    (
        "good",
        "q=$(cat); u=$(id -u); n=$(grep -c : /proc/net/dev); echo x > /tmp/r/written; e=$(env | grep -c SECRET)\n\
         case \"$q\" in *'\"v\":1'*'\"sha256\"'*) ;; *) exit 7;; esac\n\
         echo \"{\\\"decision\\\":\\\"ALLOW\\\",\\\"reason\\\":\\\"uid $u net $n env $e\\\",\\\"facts\\\":{\\\"score\\\":\\\"1\\\"}}\"",
    ),
    ("bad", "echo '{\"decision\":\"DENY\",\"reason\":\"known bad\"}'"),
    ("unsure", "echo '{\"decision\":\"UNKNOWN\"}'"),
    ("broken", "echo so sorry >&2; exit 3"),
    ("slow", "echo $$ > /dev/null; exec sleep 4711"),
];

fn settings() -> String {
    let mut text = String::from("resolvers:\n");
    for (name, _) in PROGRAMS {
        let time = if *name == "slow" { 500 } else { 20_000 };
        text.push_str(&format!(
            "  {name}: {{ command: [/bin/busybox, sh, /tmp/r/{name}.sh], timeout_ms: {time} }}\n"
        ));
    }
    text + "  far: { http: \"http://127.0.0.1:9099/decide?x=1\", secret: /tmp/r/secret }\n"
}

fn host() -> Result<Host> {
    let _ = std::fs::remove_dir_all("/tmp/r");
    std::fs::create_dir_all("/tmp/r")?;
    for name in ["a", "b", "c", "d", "e"] {
        file(format!("/tmp/r/{name}"), "x")?;
    }
    for (name, text) in PROGRAMS {
        file(format!("/tmp/r/{name}.sh"), text)?;
    }
    file("/tmp/r/secret", "0123456789abcdef-a-secret\n")?;
    std::fs::copy("/bin/busybox", "/tmp/r/busybox")?;
    // The programs' user is made where the machine has none.
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    if !users.lines().any(|line| line.starts_with("nobody:")) {
        file("/etc/passwd", &(users + "nobody:x:65534:65534::/:/bin/false\n"))?;
    }
    Host::with(&[("test.yaml", &policy(RULES))], &settings())
}

/// The attempts, as `resolver: found`, and the method and answer of the resolution.
fn story(a: &Attempt) -> (Vec<String>, String) {
    let word = |r: &Value, name: &str| r["detail"][name].as_str().unwrap_or_default().to_owned();
    let attempts = a.receipts.iter().filter(|r| r["kind"] == "attempt");
    let attempts = attempts.map(|r| format!("{}: {}", word(r, "resolver"), word(r, "found"))).collect();
    let end = a.receipts.iter().find(|r| r["kind"] == "resolution");
    (attempts, end.map_or(String::new(), |r| format!("{} by {}", word(r, "answer"), word(r, "method"))))
}

fn is(a: &Attempt, status: i32, attempts: &[&str], end: &str) -> Result<()> {
    let (tried, ended) = story(a);
    ensure!(
        a.status == status && tried == attempts && ended == end,
        "status {}, {tried:?}, {ended}\n{}",
        a.status,
        a.tell()
    );
    Ok(())
}

fn attempt<'r>(a: &'r Attempt, resolver: &str) -> Result<&'r Value> {
    let of = |r: &&Value| r["kind"] == "attempt" && r["detail"]["resolver"] == resolver;
    a.receipts.iter().find(of).map(|r| &r["detail"]).with_context(|| a.tell())
}

fn asked() -> Result<()> {
    let h = host()?;
    let a = h.act(&["read", "/tmp/r/a"])?;
    is(&a, 0, &["hash: unknown", "good: ALLOW"], "ALLOW by resolver")?;
    let text = |d: &Value| d["text"].as_str().unwrap_or_default().to_owned();
    // As nobody, with no network but a loopback of its own, nothing of the daemon's environment, and unable to write.
    let d = attempt(&a, "good")?;
    ensure!(text(d) == "uid 65534 net 1 env 0", "{d}");
    ensure!(d["facts"] == serde_json::json!([{ "fact": "1", "name": "score" }]), "{d}");
    ensure!(std::fs::read("/tmp/r/written").unwrap_or_default().is_empty(), "it wrote");
    let sha256 = |d: &Value| -> Option<String> {
        let facts = d["facts"].as_array()?;
        Some(facts.iter().find(|f| f["name"] == "sha256")?["fact"].as_str()?.to_owned())
    };
    let actor = sha256(attempt(&a, "hash")?).with_context(|| a.tell())?;
    let resolved = a.receipts.iter().find(|r| r["kind"] == "resolution").context("no answer")?;
    ensure!(resolved["detail"]["approver"] == "resolver:good", "{resolved}");
    // Of an exec it is the program that would run.
    let a = h.run(&[], &["/tmp/r/busybox", "true"])?;
    is(&a, 0, &["hash: unknown", "good: ALLOW"], "ALLOW by resolver")?;
    let program = sha256(attempt(&a, "hash")?).with_context(|| a.tell())?;
    ensure!(program.len() == 64 && program != actor, "{program} {actor}");
    let a = h.act(&["read", "/tmp/r/b"])?;
    is(&a, libc::EPERM, &["bad: DENY"], "DENY by resolver")?;
    ensure!(text(attempt(&a, "bad")?) == "known bad", "{}", a.tell());
    // Nobody knows, and nobody is to be asked: it does not wait for its time to be over.
    let began = Instant::now();
    let a = h.act(&["read", "/tmp/r/d"])?;
    is(&a, libc::EPERM, &["unsure: unknown", "slow: failed"], "DENY by unresolved")?;
    ensure!(began.elapsed() < Duration::from_secs(50), "{:?}", began.elapsed());
    ensure!(text(attempt(&a, "slow")?).contains("no answer within 500 ms"), "{}", a.tell());
    ensure!(!runs("4711")?, "what had no time left goes on");
    // People are asked last, and are told who was asked before.
    let a = std::thread::scope(|scope| -> Result<Attempt> {
        let attempt = scope.spawn(|| h.act(&["read", "/tmp/r/c"]));
        let done = people(&h);
        let attempt = attempt.join().map_err(|_| anyhow::anyhow!("the attempt panicked"))??;
        done.with_context(|| attempt.tell())?;
        Ok(attempt)
    })?;
    is(&a, 0, &["broken: failed", "unsure: unknown"], "ALLOW by approval")?;
    ensure!(text(attempt(&a, "broken")?).contains("ended with status 3: so sorry"), "{}", a.tell());
    // A policy that asks somebody nobody has set up does not load.
    let stranger = policy("- { id: x, match: { operation: exec }, decision: DEFER, resolve: [stranger] }");
    file(h.path("policies/other.yaml"), &stranger.replace("name: test", "name: other"))?;
    let out = h.aarm(&["policy", "reload"])?;
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    ensure!(!out.status.success() && said.contains("asks the resolver `stranger`"), "{out:?}");
    h.verified()
}

/// Whether a process has this word among its arguments.
fn runs(word: &str) -> Result<bool> {
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if line.split(|b| *b == 0).any(|w| w == word.as_bytes()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Waits until people are asked, and approves.
fn people(h: &Host) -> Result<()> {
    let asked = next_that(h, |asked| asked["attempts"].as_array().is_some_and(|all| all.len() == 2))?;
    ensure!(asked["attempts"][1]["found"] == "unknown" && asked["on_timeout"] == "DENY", "{asked}");
    let shown = h.aarm(&["approvals", "show", id(&asked)?])?;
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    ensure!(shown.contains("broken") && shown.contains("so sorry"), "{shown}");
    answer(h, &["approve", id(&asked)?])
}

fn service() -> Result<()> {
    let h = host()?;
    let listener = TcpListener::bind("127.0.0.1:9099")?;
    let server = std::thread::spawn(move || -> Result<String> {
        let (mut stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut request = Vec::new();
        let mut byte = [0u8; 1];
        // Up to the end of the head, and then as much as it says.
        while !request.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte)?;
            request.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&request).into_owned();
        let length =
            head.lines().find_map(|l| l.to_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
        let mut body = vec![0u8; length.context("no length")?];
        stream.read_exact(&mut body)?;
        let answer = "{\"decision\":\"ALLOW\",\"reason\":\"fine\"}";
        stream.write_all(
            format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{answer}",
                answer.len()
            )
            .as_bytes(),
        )?;
        Ok(head + &String::from_utf8_lossy(&body))
    });
    let a = h.act(&["read", "/tmp/r/e"])?;
    if !server.is_finished() {
        // Nobody came: it need not wait.
        drop(std::net::TcpStream::connect("127.0.0.1:9099"));
    }
    let request =
        server.join().map_err(|_| anyhow::anyhow!("the server panicked"))?.with_context(|| a.tell())?;
    is(&a, 0, &["far: ALLOW"], "ALLOW by resolver")?;
    ensure!(request.starts_with("POST /decide?x=1 HTTP/1.1"), "{request}");
    ensure!(request.contains("aarm-signature: t=") && request.contains(",v1="), "{request}");
    ensure!(request.contains("\"path\":\"/tmp/r/e\"") && !request.contains("a-secret"), "{request}");
    // Nobody there: the next one, of which there is none.
    let a = h.act(&["read", "/tmp/r/e"])?;
    is(&a, libc::EPERM, &["far: failed"], "DENY by unresolved")?;
    h.verified()
}

fn restarted() -> Result<()> {
    let mut h = host()?;
    // Waits for a file that is made after the restart.
    file("/tmp/r/bad.sh", "while [ ! -e /tmp/r/go ]; do sleep 0.1; done; echo '{\"decision\":\"ALLOW\"}'")?;
    let mut child = std::process::Command::new("/usr/local/bin/aarm")
        .args(["run", "--", crate::host::ME, "actor", "read", "/tmp/r/b"])
        .spawn()?;
    let deadline = Instant::now() + Duration::from_secs(30);
    while !runs("/tmp/r/bad.sh")? {
        ensure!(Instant::now() < deadline, "nobody was asked");
        std::thread::sleep(Duration::from_millis(20));
    }
    // So that what waits is in what it keeps.
    std::thread::sleep(Duration::from_secs(1));
    h.end(libc::SIGKILL)?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while runs("/tmp/r/bad.sh")? {
        ensure!(Instant::now() < deadline, "what was asked outlives who asked");
        std::thread::sleep(Duration::from_millis(20));
    }
    h.launch()?;
    file("/tmp/r/go", "")?;
    ensure!(child.wait()?.success(), "{}", h.log());
    h.verified()
}

const NAMES: &str = "
- { id: ask, match: { operation: [connect, send], port: 53 }, decision: ALLOW }
- { id: good, match: { operation: connect, host: '/(api|www)[.]good[.]example/' }, decision: ALLOW }
- { id: nameless, match: { operation: connect, host: unknown }, decision: DEFER, resolve: [dns], timeout: 60s }
- { id: undecided, match: { operation: connect, host: '**.loop.example' }, decision: DEFER, resolve: [dns], timeout: 60s }
- { id: others, match: { operation: connect }, decision: DENY }
";

/// Answers what the host's resolver is asked. Of an address that ends with: 10, a good name; 11, the same, which does not lead back; 12, another
/// one; 13, none; 14, one that is asked about by its name as well.
fn told(query: &[u8]) -> Vec<Vec<u8>> {
    // IPv6 addresses are asked for as well.
    let (name, v4, _) = resolver::asked(query);
    let of = |n: u8| resolver::Record::Address([198, 51, 100, n].into(), 60);
    let records = match name.as_str() {
        "10.100.51.198.in-addr.arpa" | "11.100.51.198.in-addr.arpa" => {
            vec![resolver::Record::Name("api.good.example")]
        }
        "12.100.51.198.in-addr.arpa" => vec![resolver::Record::Name("evil.example")],
        "14.100.51.198.in-addr.arpa" => vec![resolver::Record::Name("x.loop.example")],
        "api.good.example" if v4 => vec![of(10)],
        "evil.example" if v4 => vec![of(12)],
        "x.loop.example" if v4 => vec![of(14)],
        _ => Vec::new(),
    };
    vec![resolver::answer(query, &records)]
}

fn named() -> Result<()> {
    file("/etc/resolv.conf", "nameserver 127.0.0.53\noptions timeout:1 attempts:2\n")?;
    // Of loopback addresses nobody is asked for the name.
    for n in 10..15 {
        let address = format!("198.51.100.{n}/32");
        let added = std::process::Command::new("/bin/busybox")
            .args(["ip", "addr", "add", &address, "dev", "lo"])
            .output()?;
        let said = String::from_utf8_lossy(&added.stderr).into_owned();
        ensure!(added.status.success() || said.contains("exists"), "{address}: {said}");
    }
    let h = Host::start(&(policy(NAMES) + "  resolvers: ['127.0.0.53']\n"))?;
    let _servers: Vec<TcpListener> = (10..15)
        .map(|n| TcpListener::bind(format!("198.51.100.{n}:8080")))
        .collect::<std::io::Result<_>>()?;
    // Nobody answers there yet.
    let a = h.act(&["tcp", "198.51.100.10:8080"])?;
    is(&a, libc::EPERM, &["dns: failed"], "DENY by unresolved")?;
    let _resolver = resolver::Resolver::start("127.0.0.53:53", told)?;
    let a = h.act(&["tcp", "198.51.100.10:8080"])?;
    is(&a, 0, &["dns: known"], "ANEW by resolver")?;
    let connect =
        a.receipts.iter().rev().find(|r| r["action"]["operation"] == "connect").context("no connect")?;
    ensure!(
        connect["decision"]["rule"] == "good"
            && connect["action"]["network"]["hosts"] == serde_json::json!(["api.good.example"]),
        "{connect}"
    );
    // Who owns an address can call it what he likes.
    let a = h.act(&["tcp", "198.51.100.11:8080"])?;
    is(&a, libc::EPERM, &["dns: unknown"], "DENY by unresolved")?;
    let a = h.act(&["tcp", "198.51.100.12:8080"])?;
    is(&a, libc::EPERM, &["dns: known"], "ANEW by resolver")?;
    a.refused("connect", "198.51.100.12", "others")?;
    let a = h.act(&["tcp", "198.51.100.13:8080"])?;
    is(&a, libc::EPERM, &["dns: unknown"], "DENY by unresolved")?;
    // Whose name is asked about as well is not looked up for ever.
    let a = h.act(&["tcp", "198.51.100.14:8080"])?;
    let (tried, _) = story(&a);
    ensure!(a.status == libc::EPERM && tried == ["dns: known", "dns: unknown"], "{tried:?}\n{}", a.tell());
    // In a namespace of its own an address may be anybody's.
    let a = h.act(&[
        "ask-elsewhere",
        "127.0.0.53:53",
        "api.good.example",
        "198.51.100.13",
        "198.51.100.13:8080",
    ])?;
    is(&a, libc::EPERM, &["dns: unknown"], "DENY by unresolved")?;
    h.verified()
}

/// So many are deferred at once.
const DEFERRED: usize = 3;

fn cascade() -> Result<()> {
    let rules =
        "- { id: slow, match: { operation: open_read, path: '/tmp/r/f*' }, decision: DEFER, timeout: 60s }";
    let text = policy(rules) + &format!("  hold: {{ cascade: {DEFERRED}, approvers: ['uid:0'] }}\n");
    let _ = std::fs::remove_dir_all("/tmp/r");
    std::fs::create_dir_all("/tmp/r")?;
    (0..6).try_for_each(|n| file(format!("/tmp/r/f{n}"), "x"))?;
    let h = Host::start(&text)?;
    let script = "for n in 0 1 2 3 4 5; do cat /tmp/r/f$n >/dev/null 2>&1 && echo read $n & done; wait";
    let a = std::thread::scope(|scope| -> Result<Attempt> {
        let attempt = scope.spawn(|| h.run(&[], &["/bin/sh", "-c", script]));
        let deadline = Instant::now() + Duration::from_secs(60);
        let over = |r: &Value| r["detail"]["method"] == "cascade";
        while h.receipts(&[])?.iter().filter(|r| over(r)).count() < 6 - DEFERRED {
            ensure!(Instant::now() < deadline, "nothing was refused");
            std::thread::sleep(Duration::from_millis(100));
        }
        let waits = asks::waiting(&h)?;
        ensure!(waits.len() == DEFERRED, "{} wait", waits.len());
        // They are like each other: one answer is enough.
        ensure!(waits.iter().all(|w| w["like"] == waits[0]["like"]), "{waits:?}");
        let out = h.aarm(&["approvals"])?;
        let shown = String::from_utf8_lossy(&out.stdout).into_owned();
        ensure!(shown.contains("(and 2 like it)"), "{shown}");
        answer(&h, &["approve", id(&waits[1])?, "--like"])?;
        attempt.join().map_err(|_| anyhow::anyhow!("the attempt panicked"))?
    })?;
    ensure!(a.status == 0 && a.output.matches("read ").count() == DEFERRED, "{}", a.tell());
    let like =
        a.receipts.iter().filter(|r| r["detail"]["scope"] == "like" && r["detail"]["answer"] == "ALLOW");
    ensure!(like.count() == DEFERRED, "{}", a.tell());
    h.verified()
}

const FEED: &str = "
- { id: feed, match: { operation: unix_connect, path: '**/aarm.sock' }, decision: ALLOW }
- { id: why, match: { operation: open_read, path: /tmp/r/g }, decision: DEFER, resolve: [intent, declared], on_timeout: STEP_UP, timeout: 60s }
";

/// What an agent's hook gives to the daemon.
fn hook(event: &str) -> String {
    format!("echo '{event}' | /usr/local/bin/aarm hook || exit 9")
}

fn said() -> Result<()> {
    std::fs::create_dir_all("/tmp/r")?;
    file("/tmp/r/g", "content of g")?;
    let h = Host::start(&policy(FEED))?;
    let prompt = hook(r#"{"hook_event_name":"UserPromptSubmit","prompt":"publish the release"}"#);
    let tool =
        hook(r#"{"hook_event_name":"PreToolUse","tool_name":"Bash","tool_input":{"command":"cat g"}}"#);
    // Said before, and said while it waits for that.
    for script in
        [format!("{prompt}; {tool}; cat /tmp/r/g"), format!("{prompt}; cat /tmp/r/g & sleep 2; {tool}; wait")]
    {
        let a = std::thread::scope(|scope| -> Result<Attempt> {
            let attempt = scope.spawn(|| h.run(&[], &["/bin/sh", "-c", &script]));
            let asked = next_that(&h, |w| w["facts"]["declared"] == "Bash: cat g")?;
            ensure!(asked["facts"]["intent"] == "publish the release", "{asked}");
            answer(&h, &["approve", id(&asked)?])?;
            attempt.join().map_err(|_| anyhow::anyhow!("the attempt panicked"))?
        })?;
        ensure!(a.status == 0 && a.output.contains("content of g"), "{}", a.tell());
        is(&a, 0, &["intent: known", "declared: known"], "ALLOW by approval")?;
        let said: Vec<&Value> =
            a.receipts.iter().filter(|r| r["kind"] == "statement").map(|r| &r["detail"]).collect();
        ensure!(
            said.len() == 2 && said[0]["text"] == "publish the release" && said[1]["name"] == "Bash",
            "{said:?}"
        );
    }
    // Nobody says anything: people are asked all the same, and are told so.
    let a = std::thread::scope(|scope| -> Result<Attempt> {
        let attempt = scope.spawn(|| h.run(&[], &["/bin/sh", "-c", "cat /tmp/r/g"]));
        let asked = next_that(&h, |w| w["attempts"].as_array().is_some_and(|all| all.len() == 2))?;
        answer(&h, &["deny", id(&asked)?])?;
        attempt.join().map_err(|_| anyhow::anyhow!("the attempt panicked"))?
    })?;
    is(&a, 1, &["intent: failed", "declared: failed"], "DENY by approval")?;
    // Who is in no session speaks for none.
    let out = std::process::Command::new("/bin/sh").args(["-c", &prompt]).output()?;
    ensure!(out.status.code() == Some(9), "{out:?}");
    h.verified()
}
