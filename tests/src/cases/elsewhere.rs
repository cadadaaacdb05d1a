//! People who are elsewhere: told by webhooks, and answering with signatures.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Case;
use crate::asks::{id, next, shown};
use crate::host::{Host, file, policy};

pub const CASES: &[Case] = &[("a_webhook_tells_and_a_signature_answers", told_and_answered)];

const HOOK: &str = "127.0.0.1:9077";
const ANSWERS: &str = "127.0.0.1:9466";
const RULES: &str = "
- { id: mia-decides, match: { operation: mkdir, path: '/tmp/w/**' }, decision: STEP_UP, approvers: ['key:mia'], timeout: 120s }
";

/// What comes to a web server, one request after the other; the first is told to come again.
fn server() -> Result<mpsc::Receiver<(String, Value)>> {
    let listener = TcpListener::bind(HOOK)?;
    let (to, requests) = mpsc::channel();
    std::thread::spawn(move || -> Result<()> {
        for (n, stream) in listener.incoming().enumerate() {
            let mut stream = stream?;
            let (head, body) = message(&mut stream)?;
            let status = if n == 0 { "503 Busy" } else { "200 OK" };
            write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
            if n > 0 && to.send((head, serde_json::from_slice(&body)?)).is_err() {
                return Ok(());
            }
        }
        Ok(())
    });
    Ok(requests)
}

/// A message of HTTP: its head, and what it says is its body.
fn message(stream: &mut TcpStream) -> Result<(String, Vec<u8>)> {
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let (mut head, mut byte) = (Vec::new(), [0u8; 1]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let length = |l: &str| l.to_lowercase().strip_prefix("content-length:")?.trim().parse::<usize>().ok();
    let mut body = vec![0u8; head.lines().find_map(length).unwrap_or_default()];
    stream.read_exact(&mut body)?;
    Ok((head, body))
}

/// Brings an answer; the status, and what is said to it.
fn bring(envelope: &[u8]) -> Result<(String, Value)> {
    let mut stream = TcpStream::connect(ANSWERS)?;
    write!(
        stream,
        "POST /v1/answers HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        envelope.len()
    )?;
    stream.write_all(envelope)?;
    let (head, body) = message(&mut stream)?;
    let status = head.split(' ').nth(1).unwrap_or_default().to_owned();
    Ok((status, serde_json::from_slice(&body).unwrap_or_default()))
}

fn aarm(words: &[&str]) -> Result<Vec<u8>> {
    let out = std::process::Command::new("/usr/local/bin/aarm").args(words).output()?;
    ensure!(out.status.success(), "{words:?}: {out:?}");
    Ok(out.stdout)
}

fn told_and_answered() -> Result<()> {
    let _ = std::fs::remove_dir_all("/tmp/w");
    std::fs::create_dir_all("/tmp/w")?;
    file("/tmp/w-secret", "0123456789abcdef\n")?;
    for name in ["mia", "eve"] {
        let _ = std::fs::remove_file(format!("/tmp/{name}.pk8"));
    }
    let key = String::from_utf8(aarm(&["approvals", "keygen", "/tmp/mia.pk8"])?)?;
    aarm(&["approvals", "keygen", "/tmp/eve.pk8"])?;
    let requests = server()?;
    let settings = format!(
        "webhooks: [{{ url: \"http://{HOOK}/hook\", secret: /tmp/w-secret }}]\napprover_keys: {{ mia: \"{}\" }}\n\
         answers: {{ listen: \"{ANSWERS}\" }}\n",
        key.trim()
    );
    let h = Host::with(&[("test.yaml", &policy(RULES))], &settings)?;
    let a = std::thread::scope(|scope| -> Result<_> {
        let attempt = scope.spawn(|| h.act(&["mkdir", "/tmp/w/made"]));
        let done = by_mia(&h, &requests);
        if done.is_err() {
            h.signal(libc::SIGTERM);
        }
        let attempt = attempt.join().map_err(|_| anyhow::anyhow!("the attempt panicked"))??;
        done.with_context(|| attempt.tell())?;
        Ok(attempt)
    })?;
    ensure!(a.status == 0 && std::path::Path::new("/tmp/w/made").exists(), "{}", a.tell());
    let resolved = a.receipts.iter().find(|r| r["kind"] == "resolution").context("no resolution")?;
    let d = &resolved["detail"];
    ensure!(d["approver"] == "key:mia" && d["method"] == "approval" && d["comment"] == "go on", "{d}");
    let (_, told) = requests.recv_timeout(Duration::from_secs(30))?;
    ensure!(told["event"] == "answered" && told["answer"]["approver"] == "key:mia", "{told}");
    // Nothing else is to be had there.
    let mut stream = TcpStream::connect(ANSWERS)?;
    write!(stream, "GET /v1/status HTTP/1.1\r\nHost: a\r\n\r\n")?;
    let (head, _) = message(&mut stream)?;
    ensure!(head.starts_with("HTTP/1.1 404"), "{head}");
    h.verified()
}

fn by_mia(h: &Host, requests: &mpsc::Receiver<(String, Value)>) -> Result<()> {
    // Told at the second try, because the first found nobody.
    let (head, told) = requests.recv_timeout(Duration::from_secs(30))?;
    ensure!(head.starts_with("POST /hook HTTP/1.1") && head.contains("aarm-signature: t="), "{head}");
    let asked = next(h)?;
    ensure!(told["event"] == "waiting" && told["approval"] == shown(h, &asked)?, "{told}\n{asked}");
    let request = told["approval"]["request"].as_str().context("no request")?;
    // Not for whoever is on the host, root or not.
    let out = h.aarm(&["approvals", "approve", id(&asked)?])?;
    ensure!(!out.status.success(), "{out:?}");
    let sign = |key: &str, request: &str, more: &[&str]| -> Result<Vec<u8>> {
        let words = ["approvals", "sign", "--key", key, "--as", "mia", request, "approve"];
        aarm(&[&words[..], more].concat())
    };
    let (status, said) = bring(&sign("/tmp/eve.pk8", request, &[])?)?;
    ensure!(status == "403", "{status} {said}");
    let (status, said) = bring(&sign("/tmp/mia.pk8", &"0".repeat(64), &[])?)?;
    ensure!(status == "404", "{status} {said}");
    let good = sign("/tmp/mia.pk8", request, &["--comment", "go on"])?;
    let changed = String::from_utf8(good.clone())?.replace("go on", "go in");
    let (status, said) = bring(changed.as_bytes())?;
    ensure!(status == "403", "{status} {said}");
    let (status, said) = bring(&good)?;
    ensure!(status == "200" && said["answer"] == "ALLOW", "{status} {said}");
    // Once.
    let (status, said) = bring(&good)?;
    ensure!(status == "404", "{status} {said}");
    Ok(())
}
