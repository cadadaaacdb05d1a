//! Who answers, over the API's socket: many requests over one connection, which a command for each answer would be too slow for.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

const SOCKET: &str = "/run/aarm/aarm.sock";
/// People who answer at once.
const PEOPLE: usize = 8;
/// Between two looks at what waits.
const LOOK: Duration = Duration::from_millis(5);
/// What still waits so long after it was answered is answered again: the daemon may have been killed meanwhile.
const AGAIN: Duration = Duration::from_secs(2);
/// The daemon answers within this, or never.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection to the API; made anew when it breaks.
#[derive(Default)]
pub struct Desk(Option<BufReader<UnixStream>>);

impl Desk {
    /// One request: the status, and what it was answered.
    pub fn ask(&mut self, method: &str, path: &str, body: &str) -> Result<(u16, Value)> {
        let answer = self.exchange(method, path, body);
        if answer.is_err() {
            self.0 = None;
        }
        answer
    }

    fn exchange(&mut self, method: &str, path: &str, body: &str) -> Result<(u16, Value)> {
        if self.0.is_none() {
            let stream = UnixStream::connect(SOCKET)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            self.0 = Some(BufReader::new(stream));
        }
        let stream = self.0.as_mut().context("connected above")?;
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.get_mut().write_all(request.as_bytes())?;
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|s| s.parse().ok()).context("no status")?;
        let mut length = None;
        loop {
            line.clear();
            ensure!(stream.read_line(&mut line)? > 0, "the answer ends in its head");
            match line.trim_end().split_once(':') {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    length = Some(value.trim().parse()?);
                }
                Some(_) => {}
                None => break,
            }
        }
        let mut bytes = vec![0; length.context("no length")?];
        stream.read_exact(&mut bytes)?;
        Ok((status, serde_json::from_slice(&bytes)?))
    }

    /// All that waits.
    pub fn waiting(&mut self) -> Result<Vec<Value>> {
        let (status, mut list) = self.ask("GET", "/v1/approvals", "")?;
        ensure!(status == 200, "status {status}: {list}");
        match list["approvals"].take() {
            Value::Array(all) => Ok(all),
            other => anyhow::bail!("no list: {other}"),
        }
    }

    fn answer(&mut self, id: &str, allow: bool) -> Result<u16> {
        Ok(self.ask("POST", &format!("/v1/approvals/{id}"), &format!("{{\"allow\":{allow}}}"))?.0)
    }
}

/// Answers whatever waits as `judge` says, until told to stop; `None`: nobody answers it. Whoever asks while no daemon runs asks
/// again later.
pub fn answering(stop: &AtomicBool, judge: impl Fn(&Value) -> Option<bool>) {
    let (hand, desk) = mpsc::channel::<(String, bool)>();
    let desk = Mutex::new(desk);
    let next = || desk.lock().unwrap_or_else(PoisonError::into_inner).recv();
    std::thread::scope(|scope| {
        for _ in 0..PEOPLE {
            scope.spawn(|| {
                let mut api = Desk::default();
                while let Ok((id, allow)) = next() {
                    // Should it not be heard, it still waits, and is looked at again.
                    let _ = api.answer(&id, allow);
                }
            });
        }
        let mut api = Desk::default();
        let mut given: HashMap<(String, String), Instant> = HashMap::new();
        while !stop.load(Ordering::Relaxed) {
            for asked in api.waiting().unwrap_or_default() {
                let text = |name: &str| asked[name].as_str().unwrap_or_default().to_owned();
                let key = (text("id"), text("requested"));
                if given.get(&key).is_some_and(|at| at.elapsed() < AGAIN) {
                    continue;
                }
                if let Some(allow) = judge(&asked) {
                    let _ = hand.send((key.0.clone(), allow));
                }
                given.insert(key, Instant::now());
            }
            given.retain(|_, at| at.elapsed() < AGAIN);
            std::thread::sleep(LOOK);
        }
        drop(hand);
    });
}
