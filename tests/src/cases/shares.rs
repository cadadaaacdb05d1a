//! What flows through memory that sessions share has its labels, although no hook sees it flow.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::Case;
use crate::bpf;
use crate::host::{Attempt, Host, ME, file, policy};

pub const CASES: &[Case] = &[
    ("labels_go_through_shared_memory_to_sessions_that_map_it_already", mapped),
    ("labels_go_through_shared_memory_over_several_sessions", chained),
    ("a_session_that_has_ended_leaves_nothing_to_the_next_one_in_its_place", forgotten),
];

const RULES: &str = "  data:
    - { label: SECRET, level: RESTRICTED, on: { read: ['/tmp/s/secret/**'] } }
";

const NO_EGRESS: &str = "- id: no-egress
  match: { operation: [connect, send] }
  when: { labels: { any: [SECRET] } }
  decision: DENY
";

fn host() -> Result<Host> {
    let _ = std::fs::remove_dir_all("/tmp/s");
    file("/tmp/s/secret/key", "secret")?;
    for n in 0..16 {
        file(format!("/tmp/s/board{n}"), &"-".repeat(4096))?;
    }
    Host::start(&(policy(NO_EGRESS) + RULES))
}

fn wait_for(path: &str) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(60);
    while !Path::new(path).exists() {
        if Instant::now() > end {
            bail!("{path} does not appear");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Sessions that each map objects, all at once; then act, one after the other, in the order given. What became of each.
fn together(h: &Host, name: &str, sessions: &[(&str, &[&str])]) -> Result<Vec<Attempt>> {
    let at = |n: usize, what: &str| format!("/tmp/s/{name}-{n}-{what}");
    std::thread::scope(|scope| {
        let running: Vec<_> = sessions
            .iter()
            .enumerate()
            .map(|(n, (objects, act))| {
                scope.spawn(move || {
                    let (ready, go) = (at(n, "ready"), at(n, "go"));
                    let begin = [ME, "actor", "mapped", objects, &ready, &go];
                    h.run(&[], &[&begin[..], act].concat())
                })
            })
            .collect();
        let begun = (0..sessions.len()).try_for_each(|n| wait_for(&at(n, "ready")));
        let mut ended = Vec::new();
        for (n, session) in running.into_iter().enumerate() {
            // Also if some have not begun: so that all end.
            std::fs::write(at(n, "go"), "")?;
            ended.push(session.join().map_err(|_| anyhow::anyhow!("a session's thread panicked"))?);
        }
        let ended: Vec<Attempt> = ended.into_iter().collect::<Result<_>>()?;
        begun.map_err(|e| {
            anyhow::anyhow!("{name}: {e}\n{}", ended.iter().map(Attempt::tell).collect::<Vec<_>>().join("\n"))
        })?;
        Ok(ended)
    })
}

const READS: &[&str] = &["read", "/tmp/s/secret/key"];
const SENDS: &[&str] = &["sendto", "127.0.0.1:9"];
const WRITES: &[&str] = &["exec", "/bin/sh", "-c", "read x < /tmp/s/secret/key; echo $x >> /tmp/s/board6"];

fn mapped() -> Result<()> {
    let h = host()?;
    // One gets the secret, the other has it; whether that can be written to by the first decides.
    let cases: [(&str, &str, &str, bool); 8] = [
        ("both", "w:/tmp/s/board0", "w:/tmp/s/board0", true),
        ("read-only", "w:/tmp/s/board1", "r:/tmp/s/board1", true),
        ("other-way", "r:/tmp/s/board2", "w:/tmp/s/board2", false),
        ("neither", "r:/tmp/s/board3", "r:/tmp/s/board3", false),
        ("apart", "w:/tmp/s/board4", "w:/tmp/s/board5", false),
        ("later-writable", "m:/tmp/s/board7", "r:/tmp/s/board7", true),
        ("segment", "w:#4711", "r:#4711", true),
        ("segment-read-only", "r:#4712", "w:#4712", false),
    ];
    for (name, first, second, flows) in cases {
        let ended = together(&h, name, &[(first, READS), (second, SENDS)])?;
        ended[0].allowed("open_read", "/tmp/s/secret/key")?;
        let told = match flows {
            true => ended[1].refused("send", "127.0.0.1", "no-egress"),
            false => ended[1].allowed("send", "127.0.0.1"),
        };
        told.map_err(|e| anyhow::anyhow!("{name}: {e}"))?;
        let sent = ended[1].receipts.iter().find(|r| r["action"]["operation"] == "send");
        ensure!(
            sent.is_some_and(|r| (r["context"]["labels"][0] == "SECRET") == flows),
            "{name}: {}",
            ended[1].tell()
        );
    }
    // Written to in the ordinary way, by one that does not map it.
    let ended = together(&h, "written", &[("r:/tmp/s/board8", WRITES), ("r:/tmp/s/board6", SENDS)])?;
    ended[1].refused("send", "127.0.0.1", "no-egress")?;
    // Mapped afterwards, it is taken in with a receipt, like what is read.
    let ended = together(&h, "afterwards", &[("r:/tmp/s/board0", SENDS)])?;
    ended[0].refused("send", "127.0.0.1", "no-egress")?;
    h.verified()
}

fn chained() -> Result<()> {
    let h = host()?;
    let ended = together(
        &h,
        "chain",
        &[
            ("w:/tmp/s/board0", READS),
            ("w:/tmp/s/board2,r:/tmp/s/board3", SENDS),
            ("r:/tmp/s/board1,w:/tmp/s/board2", &["nothing"]),
            ("r:/tmp/s/board0,w:/tmp/s/board1", &["nothing"]),
            // Off the way.
            ("w:/tmp/s/board3,w:/tmp/s/board4", SENDS),
        ],
    )?;
    ended[1].refused("send", "127.0.0.1", "no-egress")?;
    ended[4].allowed("send", "127.0.0.1")?;
    // In a circle, it ends.
    let ended = together(
        &h,
        "circle",
        &[
            ("w:/tmp/s/board5,w:/tmp/s/board6", READS),
            ("w:/tmp/s/board6,w:/tmp/s/board7", SENDS),
            ("w:/tmp/s/board7,w:/tmp/s/board5", SENDS),
        ],
    )?;
    ended[1].refused("send", "127.0.0.1", "no-egress")?;
    ended[2].refused("send", "127.0.0.1", "no-egress")?;
    h.verified()
}

/// Whether a pinned map of the programs is empty.
fn is_empty(map: &str) -> Result<bool> {
    bpf::is_empty(&format!("/sys/fs/bpf/aarm/maps/{map}")).context(map.to_owned())
}

fn forgotten() -> Result<()> {
    let h = host()?;
    let both = "w:/tmp/s/board0,r:/tmp/s/board1,r:#4713";
    together(&h, "first", &[(both, &["nothing"]), (both, READS), ("w:/tmp/s/board1", SENDS)])?;
    for map in ["SHARED", "SHARES"] {
        ensure!(is_empty(map)?, "{map} still has something");
    }
    ensure!(!is_empty("CARRIED")?, "nothing carries labels");
    let ended = together(&h, "second", &[("w:/tmp/s/board2", READS), ("w:/tmp/s/board1", SENDS)])?;
    ended[1].allowed("send", "127.0.0.1")?;
    h.verified()
}
