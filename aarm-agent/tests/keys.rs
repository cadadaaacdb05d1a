//! The log's keys are exchanged as an operator does it, and a verifier elsewhere follows.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use aarm_receipt::canonical::Encoded;
use aarm_receipt::{Body, Common, Keys, LogWriter, Options, TrustedKeys, encode};

const ORIGIN: &str = "host.test/log";

struct Host(tempfile::TempDir);

impl Host {
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// What the daemon does when it starts: takes the keys that were prepared, and goes on.
    fn start(&self) {
        let (keys, _) = Keys::open_or_create(&self.path("keys")).unwrap();
        let options = Options { segment_bytes: 1 << 20 };
        let (mut log, _) = LogWriter::open(&self.path("log"), keys, ORIGIN, options).unwrap();
        log.rotate(|next| {
            let (checkpoint, receipt) = (next.log.to_string(), next.receipt.to_string());
            encoded(&Body::Keys { checkpoint: &checkpoint, receipt: &receipt })
        })
        .unwrap();
        log.append(&mut encoded(&Body::Stop { version: "1" }), true).unwrap();
        log.checkpoint().unwrap();
    }

    fn aarm(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_aarm"))
            .args(args)
            .current_dir(self.0.path())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// The same, which must say so.
    fn says(&self, args: &[&str], status: i32, what: &str) {
        let output = self.aarm(args);
        let text =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(status), "{args:?}: {text}");
        assert!(text.contains(what), "{args:?}: {text}");
    }
}

fn encoded(body: &Body<'_>) -> Vec<u8> {
    let host = Encoded::text(b"h");
    let mut bytes = Vec::new();
    encode(&Common { time_ns: 1, boot_ns: 1, host: &host, session: None, seq: None }, body, &mut bytes);
    bytes
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn keys_are_prepared_taken_at_the_next_start_and_followed_elsewhere() {
    let host = Host(tempfile::tempdir().unwrap());
    host.start();
    std::fs::copy(host.path("log/log.pub"), host.path("host.pub")).unwrap();
    host.says(&["keys", "show", "--log", "log"], 0, "since receipt 0:");
    host.says(&["keys", "forget", "--keys", "keys", "--log", "log"], 1, "there are none");
    let rotate = ["keys", "rotate", "--keys", "keys", "--log", "log"];
    host.says(&rotate, 0, "systemctl restart aarm-agent");
    host.says(&rotate, 2, "restart it, or forget them");
    host.says(&["keys", "forget", "--keys", "keys", "--log", "log"], 0, "forgotten");
    // Keys of one's own, as openssl writes them.
    let pem = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIAEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB\n\
               -----END PRIVATE KEY-----\n";
    std::fs::write(host.path("mine.pem"), pem).unwrap();
    host.says(&[&rotate[..], &["--checkpoint-key", "log/log.pub"]].concat(), 2, "is not an Ed25519 key");
    host.says(&[&rotate[..], &["--checkpoint-key", "mine.pem", "--json"]].concat(), 0, "\"checkpoint\"");
    host.start();
    let mine = Keys::from_seeds([1; 32], [2; 32]).unwrap().trusted(ORIGIN);
    host.says(&["keys", "show", "--log", "log", "--json"], 0, &mine.latest().log.to_string());

    let verify = ["verify", "log", "--key", "host.pub"];
    let old = read(&host.path("host.pub"));
    host.says(&verify, 0, "its keys were exchanged, last before receipt 2");
    assert_eq!(read(&host.path("host.pub")), old, "it was not asked for");
    assert_eq!(host.aarm(&["prove", "--log", "log", "2", "-o", "2.tlog-proof"]).status.code(), Some(0));
    host.says(&["verify", "2.tlog-proof", "--key", "host.pub"], 1, "--renew-key");
    host.says(&[&verify[..], &["--renew-key"]].concat(), 0, "intact");
    assert_eq!(read(&host.path("host.pub")), read(&host.path("log/log.pub")));
    host.says(&["verify", "2.tlog-proof", "--key", "host.pub"], 0, "proven: receipt 2");
}

#[test]
fn a_key_file_is_not_renewed_from_a_log_that_was_tampered_with() {
    let host = Host(tempfile::tempdir().unwrap());
    host.start();
    std::fs::copy(host.path("log/log.pub"), host.path("host.pub")).unwrap();
    host.says(&["keys", "rotate", "--keys", "keys", "--log", "log"], 0, "prepared");
    host.start();
    let path = host.path("log/segment-0000000000.aarm");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    host.says(&["verify", "log", "--key", "host.pub", "--renew-key"], 1, "TAMPERED");
    assert_eq!(TrustedKeys::parse(&read(&host.path("host.pub"))).unwrap().epochs().len(), 1);
}
