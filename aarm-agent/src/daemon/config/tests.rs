//! What who writes a configuration relies on: its fields, its bounds, and errors with their place.

use super::*;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(Path::new("agent.yaml"), text)
}

#[test]
fn an_empty_document_is_the_defaults() {
    assert_eq!(parse("# nothing\n\n").unwrap(), Config::default());
    assert_eq!(parse("").unwrap(), Config::default());
    assert_eq!(Config::load(Path::new("/nonexistent/agent.yaml"), false).unwrap(), Config::default());
    assert!(matches!(
        Config::load(Path::new("/nonexistent/agent.yaml"), true),
        Err(ConfigError::Read { .. })
    ));
}

#[test]
fn every_field_comes_through() {
    let c = parse(
        "policies: /p\nlog: /l\nkeys: /k\nstate: /s\nrun_dir: /r\nbpffs: /b\n\
         socket: { path: /r/s, mode: \"0660\", max_connections: 7 }\n\
         metrics: { listen: off }\nrun: { user_policies: true, default_policy: x }\n\
         receipts: { sync_ms: 5, sync_count: 9, checkpoint_ms: 500, heartbeat_s: 10, witness_s: 3, segment_mib: 2, keep_mib: 4, keep_hours: 48 }\n\
         events: { coalesce_ms: 0 }\n\
         resolvers: { rep: { command: [/bin/rep, -q], user: u, network: true, timeout_ms: 9000 }, \
         risk: { http: \"https://r.example/x\", secret: /etc/s } }\n\
         webhooks: [{ url: \"http://h/x\", format: slack, secret: /s }]\nanswers: { listen: \"127.0.0.1:9466\" }\n\
         approver_keys: { mia: AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA= }\n\
         witnesses: [{ url: \"http://w/x/\", key: \"w.example/a+092f40f1+BAMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMD\" }]\n\
         archive: { url: \"s3://bucket/host\", every_s: 30, required: false }\n",
    )
    .unwrap();
    assert_eq!(c.socket.mode, Mode(0o660));
    assert_eq!(c.metrics.listen, Listen(None));
    assert_eq!(c.run.default_policy.as_deref(), Some("x"));
    assert_eq!(c.receipts.segment_bytes(), 2 << 20);
    let keep = c.receipts.retention();
    assert_eq!((keep.bytes, keep.age), (Some(4 << 20), Some(Duration::from_secs(48 * 3600))));
    assert_eq!(c.receipts.sync(), Duration::from_millis(5));
    assert_eq!(c.receipts.witness(), Duration::from_secs(3));
    assert_eq!(c.witnesses[0].address().unwrap(), "http://w/x/add-checkpoint");
    let archive = c.archive.unwrap();
    assert_eq!((archive.url.as_str(), archive.every_s, archive.required), ("s3://bucket/host", 30, false));
    let archive = parse("archive: { url: \"file:///mnt/a\" }\n").unwrap().archive.unwrap();
    assert_eq!((archive.every_s, archive.required), (60, true));
    assert_eq!(c.events.coalesce_ms, 0);
    assert_eq!(c.resolvers["rep"].command.as_deref(), Some(&["/bin/rep".to_owned(), "-q".into()][..]));
    assert_eq!((c.webhooks[0].format, c.answers.listen.0.is_some()), (Format::Slack, true));
    assert_eq!((c.resolvers["risk"].timeout_ms, c.resolvers["rep"].network), (5000, true));
}

#[test]
fn errors_have_their_place() {
    match parse("policies: /p\nsocket:\n  pth: /x\n") {
        Err(ConfigError::Parse { line: 3, column: 3, message, .. }) => {
            assert!(message.contains("pth") && message.contains("path"), "{message}");
            assert!(!message.contains('\n'));
        }
        other => panic!("{other:?}"),
    }
    for (text, line) in [
        ("receipts:\n  sync_ms: soon\n", 2),
        ("socket:\n  mode: \"9\"\n", 2),
        ("metrics:\n  listen: nowhere\n", 2),
        ("log: [a]\n", 1),
        ("log: /a\nlog: /b\n", 2),
        ("a: b: c\n", 1),
    ] {
        match parse(text) {
            Err(ConfigError::Parse { line: l, .. }) => assert_eq!(l, line, "{text}"),
            other => panic!("{text}: {other:?}"),
        }
    }
}

#[test]
fn values_out_of_bounds_are_refused() {
    for (text, name) in [
        ("log: relative\n", "log"),
        ("receipts: { sync_ms: 0 }\n", "receipts.sync_ms"),
        ("receipts: { segment_mib: 1025 }\n", "receipts.segment_mib"),
        ("receipts: { keep_mib: 127 }\n", "receipts.keep_mib"),
        ("receipts: { keep_hours: 0 }\n", "receipts.keep_hours"),
        ("events: { coalesce_ms: 101 }\n", "events.coalesce_ms"),
        ("socket: { max_connections: 0 }\n", "socket.max_connections"),
        ("webhooks: [{ url: x }]\n", "webhooks"),
        ("receipts: { witness_s: 0 }\n", "receipts.witness_s"),
        ("witnesses: [{ url: \"http://w/\", key: x }]\n", "witnesses"),
        (
            "witnesses: [{ url: w, key: \"w.example/a+092f40f1+BAMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMD\" }]\n",
            "witnesses",
        ),
        ("webhooks: [{ url: \"http://x/\", secret: y }]\n", "webhooks"),
        ("archive: { url: /mnt/a }\n", "archive.url"),
        ("archive: { url: \"https://web.example/a\" }\n", "archive.url"),
        ("archive: { url: \"s3://key:secret@bucket/a\" }\n", "archive.url"),
        ("archive: { url: \"s3://bucket\", every_s: 0 }\n", "archive.every_s"),
        ("approver_keys: { mia: AAAA }\n", "approver_keys"),
        ("approver_keys: { \"a b\": AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA= }\n", "approver_keys"),
        ("resolvers: { a: {} }\n", "resolvers"),
        ("resolvers: { hash: { command: [/x] } }\n", "resolvers"),
        ("resolvers: { A: { command: [/x] } }\n", "resolvers"),
        ("resolvers: { a: { command: [x] } }\n", "resolvers"),
        ("resolvers: { a: { command: [] } }\n", "resolvers"),
        ("resolvers: { a: { http: \"ftp://x/\" } }\n", "resolvers"),
        ("resolvers: { a: { command: [/x], http: \"http://x/\" } }\n", "resolvers"),
        ("resolvers: { a: { command: [/x], timeout_ms: 1 } }\n", "resolvers"),
    ] {
        match parse(text) {
            Err(ConfigError::Value { field, .. }) => assert_eq!(field, name),
            other => panic!("{text}: {other:?}"),
        }
    }
}

#[test]
fn a_huge_file_is_refused_without_reading_it_all() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(100 << 20).unwrap();
    assert!(matches!(
        Config::load(file.path(), true),
        Err(ConfigError::TooLarge { size, .. }) if size == 100 << 20
    ));
}
