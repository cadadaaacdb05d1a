//! Counts instructions of common system calls: bare, under empty programs, outside and inside a session.
//!
//! Runs in a VM whose clock counts instructions (`cargo xtask bench kernel`), so a nanosecond is one. Every
//! figure is the median of several passes after a warm-up, in one boot; differences are against that boot's
//! own bare figures.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

const AGENT: &str = "/usr/local/bin/aarm-agent";
const AARM: &str = "/usr/local/bin/aarm";
const DIR: &str = "/tmp/aarm-bench";
/// Thirty characters, as the published figure says.
const FILE: &str = "/tmp/aarm-bench/some-file.text";
const PASSES: usize = 7;
const OPENS: u64 = 2000;
const FORKS: u64 = 100;
/// What is measured.
const LOOPS: [&str; 5] = ["open+close", "first open", "connect", "fork+exit", "fork+exec"];
/// Processes that wait at once while memory is measured.
const SLEEPERS: usize = 1000;
/// Flag of a map.
const BPF_F_NO_PREALLOC: u32 = 1;
/// Rules of the policies measured.
const RULES: [usize; 3] = [1, 20, 512];

/// Instructions per operation of one loop: the median of the passes.
fn median(times: u64, mut body: impl FnMut()) -> f64 {
    let mut passes: Vec<f64> = (0..=PASSES)
        .map(|_| {
            let began = Instant::now();
            (0..times).for_each(|_| body());
            began.elapsed().as_nanos() as f64 / times as f64
        })
        .skip(1)
        .collect();
    passes.sort_by(f64::total_cmp);
    passes[PASSES / 2]
}

/// Unreclaimable kernel memory of each of [`SLEEPERS`] children, in bytes.
fn memory() -> f64 {
    let slab = || {
        let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let line = info.lines().find_map(|l| l.strip_prefix("SUnreclaim:")).unwrap_or_default();
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or(f64::NAN) * 1024.0
    };
    let before = slab();
    let children: Vec<i32> = (0..SLEEPERS)
        .map(|_| {
            // SAFETY: the child only waits to be killed.
            unsafe {
                let pid = libc::fork();
                if pid == 0 {
                    loop {
                        libc::pause();
                    }
                }
                pid
            }
        })
        // One that was not born must not be killed: that number means everybody.
        .filter(|pid| *pid > 0)
        .collect();
    let each = (slab() - before) / children.len().max(1) as f64;
    for pid in children {
        // SAFETY: our own child.
        unsafe {
            libc::kill(pid, libc::SIGKILL);
            libc::waitpid(pid, std::ptr::null_mut(), 0);
        }
    }
    each
}

/// Bytes of locked memory of all maps below a directory of the BPF filesystem, as the kernel accounts for them. Maps that take memory
/// as they fill (`BPF_F_NO_PREALLOC`) lock none, whatever the account says of their largest size.
fn locked(dir: &Path) -> f64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| {
            let path = entry.path();
            if path.is_dir() {
                return locked(&path);
            }
            use std::os::unix::ffi::OsStrExt;
            let name = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap_or_default();
            // SAFETY: `union bpf_attr` of BPF_OBJ_GET begins with the name's address; the descriptor is ours.
            unsafe {
                let attr: [u64; 2] = [name.as_ptr() as u64, 0];
                let fd = libc::syscall(libc::SYS_bpf, 7, attr.as_ptr(), 16);
                let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap_or_default();
                libc::close(fd as i32);
                // Programs have no `map_type`.
                let line = info.lines().find_map(|l| l.strip_prefix("memlock:"));
                let bytes = line.and_then(|l| l.trim().parse().ok()).unwrap_or(0.0);
                let fills = info.lines().any(|l| {
                    l.strip_prefix("map_flags:").is_some_and(|f| {
                        let f = f.trim().trim_start_matches("0x");
                        u32::from_str_radix(f, 16).is_ok_and(|f| f & BPF_F_NO_PREALLOC != 0)
                    })
                });
                if info.contains("map_type:") && !fills { bytes } else { 0.0 }
            }
        })
        .sum()
}

fn child(exec: bool) {
    let program = c"/bin/busybox";
    let argv = [c"true".as_ptr(), std::ptr::null()];
    // SAFETY: the child only executes or exits; the arrays end in NULL.
    unsafe {
        let pid = libc::fork();
        if pid == 0 {
            if exec {
                libc::execv(program.as_ptr(), argv.as_ptr());
            }
            libc::_exit(0);
        }
        libc::waitpid(pid, std::ptr::null_mut(), 0);
    }
}

/// One of as many files as a pass opens, each name as long as [`FILE`].
fn nth(i: u64) -> std::ffi::CString {
    std::ffi::CString::new(format!("{DIR}/some-file.{i:04}")).unwrap_or_default()
}

/// Runs the loops in this process and prints the figures; not `all` leaves out programs and memory.
fn measure(all: bool) -> Value {
    let file = std::ffi::CString::new(FILE).unwrap_or_default();
    // SAFETY: the path ends in NUL; descriptors are our own.
    let open = median(OPENS, || unsafe {
        libc::close(libc::open(file.as_ptr(), libc::O_RDONLY));
    });
    let names: Vec<_> = (0..OPENS).map(nth).collect();
    let mut i = 0;
    let first = median(OPENS, || {
        if i == OPENS as usize {
            i = 0;
        }
        if i == 0 {
            // Whatever was known of names is not any more.
            let _ = std::fs::rename(format!("{DIR}/moves"), format!("{DIR}/moved"));
            let _ = std::fs::rename(format!("{DIR}/moved"), format!("{DIR}/moves"));
        }
        // SAFETY: as above.
        unsafe { libc::close(libc::open(names[i].as_ptr(), libc::O_RDONLY)) };
        i += 1;
    });
    // SAFETY: an all-zero address is valid; the socket is our own.
    let connect = unsafe {
        let s = libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0);
        let mut a: libc::sockaddr_in = std::mem::zeroed();
        a.sin_family = libc::AF_INET as u16;
        a.sin_port = 9u16.to_be();
        a.sin_addr.s_addr = u32::from(std::net::Ipv4Addr::LOCALHOST).to_be();
        median(OPENS, || {
            libc::connect(s, (&raw const a).cast(), size_of::<libc::sockaddr_in>() as u32);
        })
    };
    let fork = median(FORKS, || child(false));
    let mut figures =
        json!({ "open+close": open, "first open": first, "connect": connect, "fork+exit": fork });
    if all {
        figures["fork+exec"] = median(FORKS, || child(true)).into();
        figures["memory"] = memory().into();
    }
    figures
}

/// CPU time of all threads of a process, in nanoseconds.
fn cpu_time(pid: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks
        .filter_map(|t| std::fs::read_to_string(t.path().join("schedstat")).ok())
        .filter_map(|s| s.split_whitespace().next()?.parse::<u64>().ok())
        .sum()
}

/// Runs the loops in a session.
fn inside(policy: &str, daemon: u32, stopped: bool) -> Result<(Value, f64)> {
    let go = format!("{DIR}/go");
    let _ = std::fs::remove_file(&go);
    let me = std::env::current_exe()?;
    let mut c = Command::new(AARM);
    c.args(["run", "--policy", policy, "--"])
        .arg(me)
        .arg(if stopped { "measure-calls" } else { "measure" })
        .arg(&go);
    let mut run = c.stdout(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(run.stdout.take().context("piped")?).lines();
    let ready = lines.next().context("the measured process ended")??;
    ensure!(ready == "ready", "{ready}");
    std::thread::sleep(Duration::from_millis(200));
    let before = cpu_time(daemon);
    if stopped {
        // SAFETY: the daemon is our own.
        unsafe { libc::kill(daemon as i32, libc::SIGSTOP) };
    }
    std::fs::write(&go, "")?;
    let figures = lines.next().context("the measured process ended")??;
    // SAFETY: as above.
    unsafe { libc::kill(daemon as i32, libc::SIGCONT) };
    run.wait()?;
    std::thread::sleep(Duration::from_millis(500));
    Ok((serde_json::from_str(&figures)?, (cpu_time(daemon) - before) as f64))
}

/// A policy of `n` rules of all kinds, none of which decides what is measured.
fn policy(name: &str, n: usize, record: &str) -> String {
    let mut rules = String::new();
    for i in 0..n {
        rules.push_str(&match i % 4 {
            0 => format!("    - {{ id: r{i}, match: {{ operation: open_read, path: '/srv/data{i}/**' }}, decision: DENY }}\n"),
            1 => format!("    - {{ id: r{i}, match: {{ operation: connect, cidr: '10.{}.{}.0/24', port: {} }}, decision: DENY }}\n", i / 256, i % 256, 1000 + i),
            2 => format!("    - {{ id: r{i}, match: {{ operation: exec, exe: '/opt/tool{i}/bin/*' }}, decision: DENY }}\n"),
            _ => format!("    - {{ id: r{i}, match: {{ operation: write, path: '**/secret{i}' }}, decision: DENY }}\n"),
        });
    }
    format!(
        "apiVersion: aarm.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {{ name: {name}, version: '1' }}\nspec:\n  mode: enforce\n  \
         defaults: {{ exec: ALLOW, read: ALLOW, write: ALLOW, network: ALLOW }}\n{record}  rules:\n{rules}"
    )
}

fn start_daemon() -> Result<Child> {
    std::fs::create_dir_all(format!("{DIR}/policies"))?;
    for n in RULES {
        std::fs::write(format!("{DIR}/policies/p{n}.yaml"), policy(&format!("p{n}"), n, ""))?;
        let counted = policy(&format!("counted{n}"), n, "  record: { read: summary }\n");
        std::fs::write(format!("{DIR}/policies/counted{n}.yaml"), counted)?;
    }
    aarm_vm_tests::measured::daemon(Path::new(DIR), "")
}

/// The files that are opened.
fn prepare() -> Result<()> {
    std::fs::create_dir_all(DIR)?;
    std::fs::set_permissions(DIR, std::fs::Permissions::from_mode(0o755))?;
    std::fs::write(FILE, "x")?;
    std::fs::write(format!("{DIR}/moves"), "")?;
    for i in 0..OPENS {
        use std::os::unix::ffi::OsStrExt;
        std::fs::write(std::ffi::OsStr::from_bytes(nth(i).as_bytes()), "x")?;
    }
    ensure!(FILE.len() == 30, "the figure is for a path of 30 characters, this has {}", FILE.len());
    Ok(())
}

fn all() -> Result<Value> {
    prepare()?;
    // A cold kernel counts twice as many.
    measure(true);
    let bare = measure(true);
    let floored = floor()?;
    let mut daemon = start_daemon()?;
    let pid = daemon.id();
    std::thread::sleep(Duration::from_secs(2));
    let idle = measure(true);
    // SAFETY: the daemon is our own.
    unsafe { libc::kill(pid as i32, libc::SIGSTOP) };
    let outside = measure(true);
    // SAFETY: as above.
    unsafe { libc::kill(pid as i32, libc::SIGCONT) };
    let mut scenarios = json!({ "bare": bare, "floor": floored, "outside": outside, "idle-daemon": idle });
    scenarios["maps"] = json!({ "locked": locked(Path::new("/sys/fs/bpf")) });
    for n in RULES {
        // The daemon shares the one CPU, so the loop's own time has its work in it.
        let (figures, _) = inside(&format!("p{n}"), pid, false)?;
        scenarios[format!("inside-{n}")] = figures;
        let (figures, cpu) = inside(&format!("p{n}"), pid, true)?;
        scenarios[format!("kernel-{n}")] = figures;
        // Three loops leave one event for each turn, and a process two.
        let events = ((3 * OPENS + 2 * FORKS) * (PASSES as u64 + 1)) as f64;
        scenarios[format!("daemon-{n}")] = json!({ "open+close": cpu / events });
        let (figures, _) = inside(&format!("counted{n}"), pid, true)?;
        scenarios[format!("counted-{n}")] = figures;
    }
    scenarios["idle-again"] = measure(true);
    // SAFETY: our own child.
    unsafe { libc::kill(pid as i32, libc::SIGTERM) };
    daemon.wait()?;
    let _ = Command::new(AGENT).args(["detach", "--force"]).status();
    scenarios["floor-again"] = floor()?;
    scenarios["bare-again"] = measure(true);
    Ok(scenarios)
}

/// What is inside a session with 20 rules, and what that is held against; targets that need more show as not measured.
fn quick() -> Result<Value> {
    prepare()?;
    measure(true);
    let bare = measure(true);
    let mut daemon = start_daemon()?;
    let pid = daemon.id();
    std::thread::sleep(Duration::from_secs(2));
    let mut scenarios = json!({ "bare": bare, "idle-daemon": measure(true) });
    scenarios["maps"] = json!({ "locked": locked(Path::new("/sys/fs/bpf")) });
    scenarios["inside-20"] = inside("p20", pid, false)?.0;
    scenarios["kernel-20"] = inside("p20", pid, true)?.0;
    scenarios["counted-20"] = inside("counted20", pid, true)?.0;
    // SAFETY: the daemon is our own.
    unsafe { libc::kill(pid as i32, libc::SIGTERM) };
    daemon.wait()?;
    Ok(scenarios)
}

/// Under empty programs on the same hooks.
fn floor() -> Result<Value> {
    let mut floor = Command::new(AGENT).arg("bench-floor").stdout(Stdio::piped()).spawn()?;
    let ready = BufReader::new(floor.stdout.take().context("piped")?)
        .lines()
        .next()
        .context("bench-floor ended")??;
    ensure!(ready == "ready", "{ready}");
    let floored = measure(true);
    floor.kill()?;
    floor.wait()?;
    Ok(floored)
}

/// `(what, figure, limit)`: the published limits.
fn targets(s: &Value) -> Vec<(String, f64, f64)> {
    let f = |scenario: &str, what: &str| s[scenario][what].as_f64().unwrap_or(f64::NAN);
    let over = |a: &str, b: &str, what: &str| f(a, what) - f(b, what);
    // The kernel itself drifts over a run, so the floor is measured before and after, and what is between is held against
    // the mean of both.
    let floor = |what: &str| (f("floor", what) + f("floor-again", what)) / 2.0;
    let over_floor = |what: &str| f("outside", what) - floor(what);
    // Of the whole call, as it is felt.
    let spread = |kind: &str, what: &str| {
        let (a, b) = (f(&format!("{kind}-1"), what), f(&format!("{kind}-512"), what));
        (a - b).abs() / a.min(b) * 100.0
    };
    // A new log segment falls into some runs and not into others, and belongs to all receipts: so the mean.
    let daemon =
        RULES.iter().map(|n| f(&format!("daemon-{n}"), "open+close")).sum::<f64>() / RULES.len() as f64;
    // What a fork costs drifts by more than what is looked for: so what is there of each, and the mean.
    let mean = |scenarios: &[&str], what: &str| {
        let there: Vec<f64> = scenarios.iter().map(|s| f(s, what)).filter(|f| !f.is_nan()).collect();
        there.iter().sum::<f64>() / there.len() as f64
    };
    let fork = |kind: &str, outside: &[&str]| {
        let inside = RULES.map(|n| format!("{kind}-{n}"));
        let inside = mean(&inside.each_ref().map(String::as_str), "fork+exit");
        (inside / mean(outside, "fork+exit") - 1.0) * 100.0
    };
    let target = |what: &str, figure: f64, limit: f64| (what.to_owned(), figure, limit);
    vec![
        target("outside: open+close over empty programs", over_floor("open+close"), 120.0),
        target("outside: connect over empty programs", over_floor("connect"), 120.0),
        target(
            "outside: fork+exec over empty programs, %",
            over_floor("fork+exec") / floor("fork+exec") * 100.0,
            1.0,
        ),
        target("inside: first open recorded, kernel side", over("kernel-20", "bare", "first open"), 4000.0),
        target("inside: known open recorded, kernel side", over("kernel-20", "bare", "open+close"), 2000.0),
        target(
            "inside: known open only counted, kernel side",
            over("counted-20", "bare", "open+close"),
            700.0,
        ),
        target(
            "inside: first open recorded, daemon included",
            over("kernel-20", "bare", "first open") + daemon,
            12_000.0,
        ),
        target(
            "inside: fork+exit over outside, kernel side, %",
            fork("kernel", &["outside", "idle-daemon", "idle-again"]),
            5.0,
        ),
        target("1 against 512 rules: known open, kernel side, %", spread("kernel", "open+close"), 5.0),
        target("1 against 512 rules: first open, kernel side, %", spread("kernel", "first open"), 5.0),
        target("1 against 512 rules: connect, kernel side, %", spread("kernel", "connect"), 5.0),
        target("1 against 512 rules: fork+exec, all in, %", spread("inside", "fork+exec"), 5.0),
        target(
            "a supervised task's kernel memory, bytes",
            over("inside-20", "idle-daemon", "memory"),
            6144.0,
        ),
        target("locked maps, MiB", f("maps", "locked") / 1048576.0, 64.0),
    ]
}

fn print(s: &Value) {
    print!("{:<12}", "instructions");
    LOOPS.iter().for_each(|l| print!("{l:>22}"));
    println!();
    let mut names: Vec<&String> = s.as_object().map(|o| o.keys().collect()).unwrap_or_default();
    names.sort();
    for name in names {
        print!("{name:<12}");
        for l in LOOPS {
            match s[name][l].as_f64() {
                Some(v) => {
                    let more = v - s["bare"][l].as_f64().unwrap_or(0.0);
                    let more =
                        if name.starts_with("daemon") { String::new() } else { format!(" ({more:+.0})") };
                    print!("{:>22}", format!("{v:.0}{more}"));
                }
                None => print!("{:>22}", "-"),
            }
        }
        println!();
    }
    println!("\n{:<52}{:>10}{:>10}", "target", "measured", "limit");
    for (what, figure, limit) in targets(s) {
        let met = match figure {
            f if f.is_nan() => "not measured",
            f if f <= limit => "met",
            _ => "NOT MET",
        };
        println!("{what:<52}{figure:>10.1}{limit:>10}  {met}");
    }
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some(what @ ("measure" | "measure-calls")) => {
            println!("ready");
            let go = args.get(1).context("where is the go file?")?;
            while !Path::new(go).exists() {
                std::thread::sleep(Duration::from_millis(20));
            }
            println!("{}", measure(what == "measure"));
        }
        // What is worked on most.
        Some("--quick") => print(&quick()?),
        Some("--json") => {
            let s = all()?;
            let t: Vec<Value> = targets(&s)
                .iter()
                .map(|(w, f, l)| json!({ "target": w, "measured": f, "limit": l, "met": f <= l }))
                .collect();
            println!("{}", json!({ "instructions": s, "targets": t }));
        }
        _ => print(&all()?),
    }
    Ok(())
}
