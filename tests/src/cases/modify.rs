//! What a rule changes of what it lets happen: where connections go, and what programs get.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Case;
use crate::host::{Attempt, Host, ME, document, file, policy};

pub const CASES: &[Case] = &[
    ("connections_go_where_the_rule_says", connections),
    ("datagrams_go_where_the_rule_says", datagrams),
    ("a_program_gets_what_the_rule_leaves_it", programs),
];

const TOOL: &str = "/tmp/m/busybox";
const KILLED: i32 = 128 + libc::SIGKILL;
/// An address that nobody has here.
const AWAY: &str = "203.0.113.9";

const RULES: &str = "
- { id: web, match: { operation: connect, port: 80 }, decision: MODIFY, modify: { redirect: '127.0.0.1:3128' } }
- { id: web6, match: { operation: connect, port: 81 }, decision: MODIFY, modify: { redirect: '[::1]:3128' } }
- { id: names, match: { operation: [connect, send], port: 53, cidr: '203.0.113.0/24' }, decision: MODIFY, modify: { redirect: '127.0.0.1:5300' } }
- { id: names6, match: { operation: [connect, send], port: 53, cidr: '2001:db8::/32' }, decision: MODIFY, modify: { redirect: '[::1]:5300' } }
- { id: mixed, match: { operation: [connect, send], port: 54 }, decision: MODIFY, modify: { redirect: '127.0.0.1:5300' } }
- { id: pings, match: { operation: connect, cidr: '198.51.100.0/24' }, decision: MODIFY, modify: { redirect: '127.0.0.1:3128' } }
- { id: rest, match: { operation: [socket, connect, send, bind] }, decision: ALLOW }
- { id: clean, match: { operation: exec, exe: /tmp/m/busybox, not_args: [plain] }, decision: MODIFY,
    modify: { scrub_env: ['AWS_*', '*_KEY'], limits: { nofile: 64, core: 0, as: 1GiB }, args: [{ replace: secret, with: public }, { replace: no, with: yes }] } }
";

/// A daemon with the rules, and with the same in audit mode.
fn host() -> Result<Host> {
    let _ = std::fs::remove_dir_all("/tmp/m");
    std::fs::create_dir_all("/tmp/m")?;
    std::fs::copy("/bin/busybox", TOOL)?;
    let audited = document("audited", "audit", "", RULES);
    Host::with(
        &[("test.yaml", &policy(RULES)), ("audited.yaml", &audited)],
        "run: { default_policy: test }\n",
    )
}

/// A proxy: tells each client its own end, and keeps for each what it was told and where that was to go.
fn proxy(h: &Host, listener: TcpListener, seen: Arc<Mutex<Vec<(String, String)>>>) -> Result<()> {
    let own = listener.local_addr()?;
    for stream in listener.incoming() {
        let mut stream = stream?;
        let client = stream.peer_addr()?;
        let mut word = String::new();
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.read_to_string(&mut word)?;
        if word == "end" {
            return Ok(());
        }
        // As one that runs in another program would.
        let out = h.aarm(&["original", &client.to_string(), &own.to_string()])?;
        let original = String::from_utf8_lossy(&out.stdout).trim().to_owned();
        seen.lock().map_err(|_| anyhow::anyhow!("poisoned"))?.push((word, original));
        stream.write_all(format!("by {own}").as_bytes())?;
    }
    Ok(())
}

fn redirected<'r>(a: &'r Attempt, operation: &str, address: &str) -> Result<&'r Value> {
    let of = |r: &&Value| r["action"]["operation"] == operation && r["action"]["network"]["addr"] == address;
    a.receipts.iter().find(of).with_context(|| a.tell())
}

/// That the receipt has where it was to go, and where it went.
fn is_redirected(a: &Attempt, operation: &str, address: &str, rule: &str, to: &str) -> Result<()> {
    let r = redirected(a, operation, address)?;
    let d = &r["decision"];
    ensure!(d["result"] == "MODIFY" && d["rule"] == rule && d["modified"]["redirect"] == to, "{r}");
    Ok(())
}

fn connections() -> Result<()> {
    let h = host()?;
    let seen: Arc<Mutex<Vec<(String, String)>>> = Arc::default();
    let listeners = [TcpListener::bind("127.0.0.1:3128")?, TcpListener::bind("[::1]:3128")?];
    std::thread::scope(|scope| -> Result<()> {
        let h = &h;
        let proxies: Vec<_> = listeners
            .into_iter()
            .map(|listener| {
                let seen = Arc::clone(&seen);
                scope.spawn(move || proxy(h, listener, seen))
            })
            .collect();
        let tried = tried(h, &seen);
        for end in ["127.0.0.1:3128", "[::1]:3128"] {
            std::net::TcpStream::connect(end)?.write_all(b"end")?;
        }
        for proxy in proxies {
            proxy.join().map_err(|_| anyhow::anyhow!("a proxy panicked"))??;
        }
        tried
    })?;
    h.verified()
}

fn tried(h: &Host, seen: &Mutex<Vec<(String, String)>>) -> Result<()> {
    let reaches = |to: &str, by: &str, original: &str| -> Result<Attempt> {
        let a = h.act(&["tell", to, to])?;
        ensure!(a.status == 0 && a.output.contains(&format!("told by {by}")), "{to}: {}", a.tell());
        let seen = seen.lock().map_err(|_| anyhow::anyhow!("poisoned"))?;
        let found = seen.iter().rev().find(|(word, _)| word == to).map(|(_, o)| o.as_str());
        ensure!(found == Some(original), "{to}: the proxy was told {found:?}");
        Ok(a)
    };
    let a = reaches("203.0.113.9:80", "127.0.0.1:3128", "203.0.113.9:80")?;
    is_redirected(&a, "connect", AWAY, "web", "127.0.0.1:3128")?;
    // From a socket of IPv6, also to an address of IPv4, and from one to the other.
    reaches("[2001:db8::1]:80", "127.0.0.1:3128", "[2001:db8::1]:80")?;
    reaches("[::ffff:203.0.113.9]:80", "127.0.0.1:3128", "203.0.113.9:80")?;
    reaches("[2001:db8::1]:81", "[::1]:3128", "[2001:db8::1]:81")?;
    // A socket of IPv4 cannot be sent to one of IPv6, and what has no place for another address goes nowhere.
    for (words, rule) in
        [(["tell", "203.0.113.9:81", "x"], "web6"), (["raw-connect", "198.51.100.1:0", ""], "pings")]
    {
        let a = h.act(&words)?;
        ensure!(a.status == libc::EPERM, "{words:?}: status {}\n{}", a.status, a.tell());
        let (address, _) = words[1].rsplit_once(':').context("a port")?;
        let d = &redirected(&a, "connect", address)?["decision"];
        ensure!(d["cause"] == "cannot_modify" && d["rule"] == rule && d["result"] == "DENY", "{d}");
    }
    // Forgetting a peer reaches nobody.
    let a = h.act(&["disconnect", "203.0.113.9:80"])?;
    ensure!(a.status == 0, "{}", a.tell());
    // What no rule changes goes where it goes, after what was changed as well, and so does what is outside.
    let a = h.act(&["tcp", "127.0.0.1:3129"])?;
    ensure!(a.status == libc::ECONNREFUSED, "{}", a.tell());
    let plain = TcpListener::bind("127.0.0.1:80")?;
    let outside = std::thread::spawn(move || plain.accept().map(|(_, who)| who));
    let reached = std::net::TcpStream::connect("127.0.0.1:80")?;
    let who = outside.join().map_err(|_| anyhow::anyhow!("panicked"))??;
    ensure!(who == reached.local_addr()?, "{who}");
    // In audit mode nothing is changed.
    let a = h.run(&["--policy", "audited"], &[ME, "actor", "tcp", "127.0.0.1:80"])?;
    ensure!(a.status == libc::ECONNREFUSED, "{}", a.tell());
    let d = &redirected(&a, "connect", "127.0.0.1")?["decision"];
    ensure!(d["result"] == "MODIFY" && d["mode"] == "audit", "{d}");
    // Nobody else is told.
    let out = h.aarm(&["original", "127.0.0.1:1", "127.0.0.1:3128"])?;
    ensure!(!out.status.success(), "{out:?}");
    Ok(())
}

fn datagrams() -> Result<()> {
    let h = host()?;
    let servers = [UdpSocket::bind("127.0.0.1:5300")?, UdpSocket::bind("[::1]:5300")?];
    let (got, done) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| -> Result<()> {
        for server in servers {
            server.set_read_timeout(Some(Duration::from_millis(200)))?;
            let (got, done) = (&got, &done);
            scope.spawn(move || {
                while done.load(Ordering::Relaxed) == 0 {
                    let mut bytes = [0u8; 64];
                    if let Ok((_, who)) = server.recv_from(&mut bytes) {
                        got.fetch_add(1, Ordering::Relaxed);
                        let _ = server.send_to(b"here", who);
                    }
                }
            });
        }
        let tried = sent(&h, &got);
        done.store(1, Ordering::Relaxed);
        tried
    })?;
    h.verified()
}

fn sent(h: &Host, got: &AtomicU64) -> Result<()> {
    let answers = |words: &[&str], expected: &[&str]| -> Result<Attempt> {
        let before = got.load(Ordering::Relaxed);
        let a = h.act(words)?;
        let lines: Vec<&str> = a.output.lines().filter(|l| l.ends_with(" here")).collect();
        ensure!(a.status == 0 && lines == expected, "{words:?}: {lines:?}\n{}", a.tell());
        let n = got.load(Ordering::Relaxed) - before;
        ensure!(n == expected.len() as u64, "{n} datagrams came");
        Ok(a)
    };
    // Of three datagrams to one address the hook sees the first only.
    let one = "203.0.113.9:53 here";
    let a = answers(&["datagrams", "203.0.113.9:53"], &[one; 3])?;
    is_redirected(&a, "send", AWAY, "names", "127.0.0.1:5300")?;
    // Answers come from where they were sent to, each to its own.
    answers(&["datagrams", "203.0.113.9:53", "203.0.113.9:53"], &[one; 6])?;
    let six = "[2001:db8::1]:53 here";
    answers(&["datagrams", "[2001:db8::1]:53"], &[six; 3])?;
    answers(&["datagrams-connected", "203.0.113.9:53"], &[one])?;
    // A socket of IPv6 that sends to IPv4, and the other way round, which the kernel cannot do: nothing goes out.
    let mapped = "[::ffff:203.0.113.9]:53 here";
    answers(&["datagrams", "[::ffff:203.0.113.9]:53"], &[mapped; 3])?;
    let connected = "[2001:db8::1]:54 here";
    answers(&["datagrams-connected", "[2001:db8::1]:54"], &[connected])?;
    let a = h.act(&["datagrams", "[2001:db8::1]:54"])?;
    ensure!(a.status == libc::EPERM, "status {}\n{}", a.status, a.tell());
    let d = &redirected(&a, "send", "2001:db8::1")?["decision"];
    ensure!(d["cause"] == "cannot_modify" && d["rule"] == "mixed", "{d}");
    // After one that was changed, one that is not.
    let other = UdpSocket::bind("127.0.0.1:5353")?;
    other.set_read_timeout(Some(Duration::from_secs(5)))?;
    let a = h.act(&["send-both", "203.0.113.9:53", "127.0.0.1:5353"])?;
    ensure!(a.status == 0, "{}", a.tell());
    let (_, who) = other.recv_from(&mut [0u8; 8])?;
    ensure!(matches!(who, SocketAddr::V4(_)), "{who}");
    Ok(())
}

fn modified(a: &Attempt) -> Result<&Value> {
    let r = a.receipts.iter().find(|r| r["kind"] == "resolution").with_context(|| a.tell())?;
    ensure!(r["detail"]["answer"] == "MODIFY" && r["detail"]["rule"] == "clean", "{r}");
    Ok(&r["detail"]["modified"])
}

fn programs() -> Result<()> {
    let h = host()?;
    file("/tmp/m/script.sh", "#!/tmp/m/busybox sh\necho \"$1 $AWS_SECRET $KEPT\"; ulimit -n\n")?;
    std::fs::set_permissions("/tmp/m/script.sh", std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let with = |words: &[&str]| {
        let env = ["/bin/busybox", "env", "AWS_SECRET=hidden", "A_KEY=hidden", "A_KEYS=kept", "KEPT=kept"];
        h.run(&[], &[&env[..], words].concat())
    };
    let a = with(&[TOOL, "env"])?;
    ensure!(a.status == 0 && !a.output.contains("hidden") && !a.output.contains("AWS"), "{}", a.tell());
    ensure!(a.output.contains("A_KEYS=kept") && a.output.contains("\nKEPT=kept"), "{}", a.tell());
    let m = modified(&a)?;
    ensure!(m["env"] == serde_json::json!(["AWS_SECRET", "A_KEY"]), "{m}");
    let limit = m["limits"].as_array().and_then(|all| all.iter().find(|l| l["name"] == "nofile"));
    ensure!(limit.is_some_and(|l| l["after"] == 64 && l["before"].as_u64() > Some(64)), "{m}");
    ensure!(!m.to_string().contains("hidden"), "the receipt has a secret: {m}");
    // It is not to be found in the image either.
    let script = "cat /proc/self/environ /proc/$$/environ; echo; ulimit -n; ulimit -c";
    let a = with(&[TOOL, "sh", "-c", script])?;
    ensure!(a.output.contains("64\n0") && !a.output.contains("hidden"), "{}", a.tell());
    // Words, where the new ones fit; the rest of the line is as it was.
    let a = with(&[TOOL, "echo", "a", "secret", "b", "secret"])?;
    ensure!(a.status == 0 && a.output.contains("a public b public"), "{}", a.tell());
    let m = modified(&a)?;
    ensure!(m["args"][0] == serde_json::json!({ "after": "public", "at": 3, "before": "secret" }), "{m}");
    let a = with(&[TOOL, "echo", "no"])?;
    ensure!(a.status == KILLED && !a.output.contains("yes"), "{}", a.tell());
    let r = a.receipts.iter().find(|r| r["kind"] == "resolution").with_context(|| a.tell())?;
    ensure!(r["detail"]["answer"] == "DENY" && r["detail"]["comment"].to_string().contains("3"), "{r}");
    // By the interpreter of a script, which is the program that runs.
    let a = with(&["/tmp/m/script.sh", "secret"])?;
    ensure!(a.output.contains("public  kept\n64"), "{}", a.tell());
    // What the rule is not about.
    let a = with(&[TOOL, "sh", "-c", "echo $AWS_SECRET", "plain"])?;
    ensure!(a.output.contains("hidden"), "{}", a.tell());
    // Many variables, and more than fit into the receipt.
    let many: Vec<String> = (0..3000).map(|i| format!("AWS_{i}=hidden")).collect();
    let mut words = vec!["/bin/busybox", "env"];
    words.extend(many.iter().map(String::as_str));
    words.extend([TOOL, "env"]);
    let a = h.run(&[], &words)?;
    ensure!(a.status == 0 && !a.output.contains("hidden") && a.output.contains("PATH="), "{}", a.tell());
    let m = modified(&a)?;
    ensure!(m["more"].as_u64() > Some(2900), "{m}");
    // In audit mode it gets all, and the log says what it would not have got.
    let a = h.run(&["--policy", "audited"], &["/bin/busybox", "env", "AWS_SECRET=hidden", TOOL, "env"])?;
    ensure!(a.output.contains("AWS_SECRET=hidden"), "{}", a.tell());
    let r = a.receipts.iter().find(|r| r["kind"] == "resolution").with_context(|| a.tell())?;
    ensure!(r["detail"]["answer"] == "MODIFY" && r["detail"].get("modified").is_none(), "{r}");
    // The evaluator agrees with every receipt.
    let id = a.receipts.first().and_then(|r| r["session"]["uuid"].as_str()).context("no session")?;
    let (policies, log) = (h.path("policies"), h.path("log"));
    let (policies, log) = (policies.to_string_lossy(), log.to_string_lossy());
    let out = h.aarm(&["explain", "--session", id, "--policies", &policies, "--log", &log])?;
    ensure!(out.status.success(), "{out:?}");
    h.verified()
}
