//! What waits, under all that may happen to it at once: answers, time that is over, signals, and daemons that are killed.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::Case;
use crate::desk::{Desk, answering};
use crate::differential::rng::Rng;
use crate::host::{Host, ME, file, policy};
use crate::storm::{DIR, Deed, THREADS, deed};
use crate::wanted::{number, seed};

pub const CASES: &[Case] = &[("each_ends_as_its_receipts_say", storm)];

/// Calls of each of the threads. `AARM_STORM=1000 cargo xtask test --vm --kernel 6.12 storm::` makes 64,000.
const TIMES: u64 = 8;
/// See `TIMES`.
const WANTED: &str = "AARM_STORM";
/// For so long nothing may go on.
const STILL: Duration = Duration::from_secs(180);
/// How often a long run says how far it is.
const TELL: Duration = Duration::from_secs(60);
/// Errnos that are for the kernel only, from `ERESTARTSYS` to `ERESTART_RESTARTBLOCK`.
const KERNEL_ONLY: std::ops::RangeInclusive<i32> = 512..=516;

const RULES: &str = "
- { id: short, match: { operation: [open_read, open_write, create, mkdir, symlink, unlink, rename, truncate],
    path: '/tmp/s/held/short/**' }, decision: DEFER, timeout: 3s }
- { id: short-net, match: { operation: [connect, send], port: [4010-4019] }, decision: DEFER, timeout: 3s }
- { id: asks, match: { operation: [open_read, open_write, create, mkdir, symlink, unlink, rename, truncate],
    path: '/tmp/s/held/**' }, decision: STEP_UP, timeout: 24h }
- { id: asks-net, match: { operation: [connect, send], port: [4000-4009] }, decision: STEP_UP, timeout: 24h }
";

/// What is deferred beyond that the daemon refuses at once: some while they look for their answer.
const CASCADE: &str = "  hold: { cascade: 6 }\n";
const LOOKS: &str = "holds: { spin_us: 2000 }\n";

/// What people say: of what waits for a short time only, often nothing.
fn judge(seed: u64, asked: &Value) -> Option<bool> {
    let id = asked["id"].as_str().and_then(|id| u64::from_str_radix(id, 16).ok())?;
    let mut rng = Rng::of(seed, id as usize, 0);
    let left = asked["rule"].as_str().is_some_and(|rule| rule.starts_with("short")) && rng.one_in(2);
    (!left).then(|| !rng.one_in(3))
}

fn storm() -> Result<()> {
    let (seed, times) = (seed()?, number(WANTED)?.unwrap_or(TIMES) as usize);
    println!("storm: seed {seed}, {THREADS} threads, {times} calls each");
    let _ = std::fs::remove_dir_all("/tmp/s");
    std::fs::create_dir_all(format!("{DIR}/short"))?;
    let deeds: Vec<Vec<Deed>> =
        (0..THREADS).map(|thread| (0..times).map(|n| deed(seed, thread, n)).collect()).collect();
    for needed in deeds.iter().flatten().filter_map(Deed::needs) {
        file(needed, "content")?;
    }
    let mut h = Host::with(&[("test.yaml", &(policy(RULES) + CASCADE))], LOOKS)?;
    let began = Instant::now();
    let out = std::fs::File::create(h.path("storm"))?;
    let mut run = Command::new("/usr/local/bin/aarm")
        .args(["run", "--", ME, "actor", "storm", &seed.to_string(), &times.to_string()])
        .stdout(out)
        .spawn()?;
    let over = AtomicBool::new(false);
    let deaths = std::thread::scope(|scope| {
        let people = scope.spawn(|| answering(&over, |asked| judge(seed, asked)));
        let deaths = disturb(&mut h, &mut run, &mut Rng::of(seed, 0, usize::MAX));
        // Of those who were killed something may still wait, for nobody.
        let done = deaths.and_then(|deaths| nothing_waits(&h).map(|()| deaths));
        over.store(true, Ordering::Relaxed);
        people.join().map_err(|_| anyhow::anyhow!("who answers panicked"))?;
        done
    })?;
    let text = std::fs::read_to_string(h.path("storm"))?;
    println!("storm: over in {} s, {deaths} daemons killed", began.elapsed().as_secs());
    ensure!(deaths > 0, "no daemon was killed");
    let errnos = told(&text, times)?;
    let stopped = stopped()?;
    ensure!(stopped.is_empty(), "left stopped:\n{stopped}");
    let found = Holds::read(&h, &deeds)?;
    found.agree(&deeds, &errnos).with_context(|| format!("the daemons say:\n{}", h.log()))?;
    h.verified()
}

/// Kills the daemon now and then, and launches the next, until the run is over. How often.
fn disturb(h: &mut Host, run: &mut Child, rng: &mut Rng) -> Result<u32> {
    let (mut size, mut moved, mut deaths, mut told) = (0, Instant::now(), 0, Instant::now());
    let mut next = Instant::now() + Duration::from_millis(1000 + rng.number() % 2000);
    loop {
        if let Some(status) = run.try_wait()? {
            ensure!(status.success(), "{status}\n{}", h.log());
            return Ok(deaths);
        }
        if told.elapsed() > TELL {
            told = Instant::now();
            println!("storm: {size} bytes told, {deaths} daemons killed");
        }
        let now = std::fs::metadata(h.path("storm"))?.len();
        if now != size {
            (size, moved) = (now, Instant::now());
        }
        if moved.elapsed() > STILL {
            let waiting = Desk::default().waiting().unwrap_or_default();
            let (states, log) = (states()?, h.log());
            run.kill()?;
            bail!("nothing goes on for {STILL:?}; waiting: {waiting:?}\n{states}\n{log}");
        }
        if Instant::now() > next {
            let began = Instant::now();
            h.end(libc::SIGKILL)?;
            std::thread::sleep(Duration::from_millis(rng.number() % 1000));
            h.launch()?;
            // Nothing can go on while no daemon runs. What does not go on between many deaths stands still all the same.
            moved += began.elapsed();
            deaths += 1;
            next = Instant::now() + Duration::from_millis(rng.number() % 12_000);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn nothing_waits(h: &Host) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut desk = Desk::default();
    loop {
        let waiting = desk.waiting()?;
        if waiting.is_empty() && h.metric("aarm_holds")? == 0.0 {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "it goes on waiting: {waiting:?}\n{}", h.log());
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The errno of each call, by thread and number.
fn told(text: &str, times: usize) -> Result<Vec<Vec<i32>>> {
    let mut errnos = vec![vec![None; times]; THREADS];
    let mut last = None;
    let mut victims = 0;
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [who, thread, number, errno] = words[..] else { bail!("what is {line:?}?") };
        let errno: i32 = errno.parse()?;
        match who {
            "s" => last = Some((thread, number, errno)),
            "w" | "v" => {
                ensure!(!KERNEL_ONLY.contains(&errno) && errno != libc::EINTR, "{line}");
                if who == "w" {
                    errnos[thread.parse::<usize>()?][number.parse::<usize>()?] = Some(errno);
                } else {
                    victims += 1;
                }
            }
            _ => bail!("what is {line:?}?"),
        }
    }
    let (signals, killed, status) = last.context("it did not come to its end")?;
    println!("storm: {signals} signals, {killed} processes killed after {victims} calls");
    ensure!(status == 0, "the process that must come through ended with {status}");
    let all = errnos.into_iter().map(|thread| thread.into_iter().collect::<Option<Vec<_>>>());
    all.collect::<Option<Vec<_>>>().context("a call has not ended")
}

/// What each task is at: for a run that stands still.
fn states() -> Result<String> {
    let mut all = String::new();
    each_task(|task| {
        let read = |name: &str| std::fs::read_to_string(task.join(name)).unwrap_or_default();
        let status = read("status");
        let of =
            |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).unwrap_or("?").trim().to_owned();
        let _ = writeln!(
            all,
            "{} {} {} pending {} {} call {} in {}",
            task.display(),
            of("Name:"),
            of("State:"),
            of("SigPnd:"),
            of("ShdPnd:"),
            read("syscall").trim(),
            read("wchan"),
        );
    })?;
    Ok(all)
}

/// Tasks that are stopped.
fn stopped() -> Result<String> {
    Ok(states()?.lines().filter(|l| l.contains("(stopped)")).map(|l| format!("{l}\n")).collect())
}

fn each_task(mut each: impl FnMut(&Path)) -> Result<()> {
    for process in std::fs::read_dir("/proc")?.flatten() {
        let is_one = process.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit());
        // Gone meanwhile.
        let Ok(tasks) = std::fs::read_dir(process.path().join("task")) else { continue };
        tasks.flatten().filter(|_| is_one).for_each(|task| each(&task.path()));
    }
    Ok(())
}

/// What the log says of one hold.
#[derive(Debug, Default)]
struct Hold {
    /// It was asked about, so often.
    asked: u32,
    /// Answers: where in the log, what, how.
    answers: Vec<(usize, bool, String)>,
    /// What then happened: where in the log, and what.
    done: Vec<(usize, bool)>,
}

/// What the log says of the calls.
#[derive(Default)]
struct Holds {
    /// By name.
    holds: HashMap<String, Hold>,
    /// All that the log has of each, a receipt a line, for a call that is wrong.
    told: HashMap<String, String>,
    /// The holds of each call, in their order.
    of: HashMap<(usize, usize), Vec<String>>,
    /// Refusals of calls without a hold: the cause.
    others: HashMap<(usize, usize), Vec<String>>,
    /// Where in the log daemons began, and when (ns since boot).
    starts: Vec<(usize, u64)>,
}

impl Holds {
    fn read(h: &Host, deeds: &[Vec<Deed>]) -> Result<Self> {
        let mut objects = HashMap::new();
        for (thread, deeds) in deeds.iter().enumerate() {
            for (number, deed) in deeds.iter().enumerate() {
                objects.insert(deed.object.as_str(), (thread, number));
            }
        }
        let (mut found, mut at) = (Self::default(), 0);
        // The whole log: more than one session's worth is not there.
        h.each_receipt(&["--log", &h.path("log").display().to_string()], |r| {
            at += 1;
            found.note(&objects, at, &r);
        })?;
        Ok(found)
    }

    fn note(&mut self, objects: &HashMap<&str, (usize, usize)>, at: usize, r: &Value) {
        if r["kind"] == "resolution" {
            let (d, text) = (&r["detail"], |v: &Value| v.as_str().unwrap_or_default().to_owned());
            let _ = writeln!(self.told.entry(text(&d["hold"])).or_default(), "  {at}: {r}");
            let hold = self.holds.entry(text(&d["hold"])).or_default();
            hold.answers.push((at, d["answer"] == "ALLOW", text(&d["method"])));
            return;
        }
        if r["kind"] == "start" {
            self.starts.push((at, r["boot_ns"].as_u64().unwrap_or_default()));
        }
        let (action, decision) = (&r["action"], &r["decision"]);
        let network = &action["network"];
        let address = format!("{}:{}", network["addr"].as_str().unwrap_or_default(), network["port"]);
        let object = action["path"].as_str().unwrap_or(&address);
        let Some(call) = objects.get(object).copied() else { return };
        let (result, cause) = (&decision["result"], decision["cause"].as_str().unwrap_or_default());
        match decision["hold"].as_str() {
            Some(id) => {
                let _ = writeln!(self.told.entry(id.to_owned()).or_default(), "  {at}: {r}");
                let hold = self.holds.entry(id.to_owned()).or_default();
                let all = self.of.entry(call).or_default();
                if !all.iter().any(|known| known == id) {
                    all.push(id.to_owned());
                }
                if result == "STEP_UP" || result == "DEFER" {
                    hold.asked += 1;
                } else {
                    hold.done.push((at, result == "ALLOW"));
                }
            }
            None if result == "ALLOW" => self.others.entry(call).or_default().push("ALLOW".into()),
            None => self.others.entry(call).or_default().push(cause.to_owned()),
        }
    }

    /// Fails unless each call ended as its receipts say.
    fn agree(&self, deeds: &[Vec<Deed>], errnos: &[Vec<i32>]) -> Result<()> {
        let (mut allowed, mut refused, mut room) = (0, 0, 0);
        let mut ways: HashMap<String, usize> = HashMap::new();
        let mut wrong = Vec::new();
        for (thread, deeds) in deeds.iter().enumerate() {
            for (number, deed) in deeds.iter().enumerate() {
                let errno = errnos[thread][number];
                match self.agrees(deed, (thread, number), errno) {
                    Ok(how) => *ways.entry(how).or_default() += 1,
                    Err(e) => {
                        let ids = self.of.get(&(thread, number)).into_iter().flatten();
                        let told: String = ids.filter_map(|id| self.told.get(id)).cloned().collect();
                        wrong.push(format!("{deed:?} of thread {thread}, errno {errno}: {e:#}\n{told}"));
                    }
                }
                match errno {
                    libc::EPERM => refused += 1,
                    libc::EAGAIN => room += 1,
                    _ => allowed += 1,
                }
            }
        }
        println!("storm: {allowed} allowed, {refused} refused, {room} without room: {ways:?}");
        let starts = &self.starts;
        ensure!(
            wrong.is_empty(),
            "{} of them are wrong (daemons began at {starts:?}):\n{}",
            wrong.len(),
            wrong.join("\n")
        );
        ensure!(allowed > 0 && refused > 0, "not both came of it");
        Ok(())
    }

    /// How a call was decided.
    fn agrees(&self, deed: &Deed, call: (usize, usize), errno: i32) -> Result<String> {
        let ids = self.of.get(&call).map(Vec::as_slice).unwrap_or_default();
        let holds: Vec<&Hold> = ids.iter().filter_map(|id| self.holds.get(id)).collect();
        let others = self.others.get(&call).map(Vec::as_slice).unwrap_or_default();
        let tell = || format!("{ids:?} {holds:?} {others:?}");
        if errno == libc::EAGAIN {
            return Ok("no room".into());
        }
        ensure!(errno == libc::EPERM || deed.allowed(errno), "not an errno of its: {}", tell());
        let allowed = errno != libc::EPERM;
        ensure!(deed.happened().is_none_or(|happened| happened == allowed), "happened is not so: {}", tell());
        if !allowed && let [cause] = others {
            // It could not wait, and its receipt says why.
            return Ok(cause.clone());
        }
        ensure!(others.is_empty(), "decided without being asked about: {}", tell());
        for hold in &holds {
            let times = hold.answers.len();
            // Also where a daemon was killed after the answer was on paper, and before the kernel had it.
            ensure!(hold.asked == 1 && times == 1, "not asked about once: {}", tell());
            ensure!(
                hold.answers.iter().all(|(.., how)| how != "restart"),
                "forgotten by a daemon: {}",
                tell()
            );
            ensure!(!hold.done.is_empty(), "no receipt of what happened: {}", tell());
            for (done, happened) in &hold.done {
                // The last answer before it.
                let answer =
                    hold.answers.iter().rev().find(|(at, ..)| at < done).map(|(_, answer, _)| *answer);
                ensure!(answer == Some(*happened), "not as it was answered: {}", tell());
            }
        }
        let last = holds.iter().filter_map(|hold| hold.answers.last()).map(|(_, answer, _)| *answer);
        let all = !holds.is_empty() && last.clone().all(|answer| answer);
        ensure!(!holds.is_empty() && all == allowed, "not as it was answered: {}", tell());
        Ok(holds.iter().flat_map(|h| &h.answers).map(|(.., how)| how.as_str()).collect::<Vec<_>>().join("+"))
    }
}
