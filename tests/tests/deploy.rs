//! What is in `deploy/` is what the published interfaces understand: nothing misspelt, nothing ignored.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

fn read(name: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Fails unless the published type has a place for every field: what it does not know it drops.
fn strictly<T: DeserializeOwned + Serialize>(document: &Value) {
    let typed: T = serde_json::from_value(document.clone()).unwrap_or_else(|e| panic!("{e}: {document}"));
    let back = serde_json::to_value(typed).unwrap();
    assert_same("", document, &back);
}

fn assert_same(place: &str, given: &Value, back: &Value) {
    match (given, back) {
        (Value::Object(g), Value::Object(b)) => {
            for (key, value) in g {
                let place = format!("{place}.{key}");
                assert_same(
                    &place,
                    value,
                    b.get(key).unwrap_or_else(|| panic!("{place}: not a field of this type")),
                );
            }
        }
        (Value::Array(g), Value::Array(b)) => {
            assert_eq!(g.len(), b.len(), "{place}");
            g.iter().zip(b).enumerate().for_each(|(i, (g, b))| assert_same(&format!("{place}[{i}]"), g, b));
        }
        (g, b) => assert_eq!(g, b, "{place}"),
    }
}

#[test]
fn the_daemonset_is_strictly_what_kubernetes_publishes() {
    let text = read("kubernetes/daemonset.yaml");
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    let mut kinds = Vec::new();
    for d in &documents {
        let kind = d["kind"].as_str().unwrap().to_owned();
        match kind.as_str() {
            "Namespace" => strictly::<Namespace>(d),
            "ServiceAccount" => strictly::<ServiceAccount>(d),
            "ConfigMap" => strictly::<ConfigMap>(d),
            "DaemonSet" => strictly::<DaemonSet>(d),
            other => panic!("unexpected kind {other}"),
        }
        kinds.push(kind);
    }
    assert_eq!(kinds, ["Namespace", "ServiceAccount", "ConfigMap", "DaemonSet"]);
}

#[test]
fn the_container_recipe_copies_what_the_build_makes() {
    let text = read("Containerfile");
    assert!(text.contains("\nFROM scratch\n"));
    for line in text.lines().filter_map(|l| l.strip_prefix("COPY ")) {
        let from = line.split_whitespace().next().unwrap();
        let built = from.starts_with("target/x86_64-unknown-linux-gnu/release/aarm");
        let there = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(from).exists();
        assert!(built || there, "{from}");
    }
}

#[test]
fn the_unit_has_the_settings_that_matter() {
    let unit = read("systemd/aarm-agent.service");
    for line in
        ["Type=notify", "DefaultDependencies=no", "Restart=always", "ExecReload=/bin/kill -HUP $MAINPID"]
    {
        assert!(unit.lines().any(|l| l == line), "{line}");
    }
}
