//! What is in `deploy/` is what the published interfaces understand: nothing misspelt, nothing ignored.

use k8s_openapi::api::apps::v1::{DaemonSet, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Service, ServiceAccount};
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

/// Kinds of a file's documents, each strictly what is published.
fn kinds(name: &str) -> Vec<String> {
    let text = read(name);
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    let mut kinds = Vec::new();
    for d in &documents {
        let kind = d["kind"].as_str().unwrap().to_owned();
        match kind.as_str() {
            "Namespace" => strictly::<Namespace>(d),
            "ServiceAccount" => strictly::<ServiceAccount>(d),
            "ConfigMap" => strictly::<ConfigMap>(d),
            "DaemonSet" => strictly::<DaemonSet>(d),
            "StatefulSet" => strictly::<StatefulSet>(d),
            "Service" => strictly::<Service>(d),
            other => panic!("unexpected kind {other}"),
        }
        kinds.push(kind);
    }
    kinds
}

#[test]
fn manifests_are_strictly_what_kubernetes_publishes() {
    let daemon = kinds("kubernetes/daemonset.yaml");
    assert_eq!(daemon, ["Namespace", "ServiceAccount", "ConfigMap", "DaemonSet"]);
    let witness = kinds("kubernetes/witness.yaml");
    assert_eq!(witness, ["Namespace", "ConfigMap", "Service", "StatefulSet"]);
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
    let witness = read("systemd/aarm-witness.service");
    for line in ["StateDirectory=aarm-witness", "ExecReload=/bin/kill -HUP $MAINPID"] {
        assert!(witness.lines().any(|l| l == line), "{line}");
    }
    let unit = read("systemd/aarm-agent.service");
    for line in
        ["Type=notify", "DefaultDependencies=no", "Restart=always", "ExecReload=/bin/kill -HUP $MAINPID"]
    {
        assert!(unit.lines().any(|l| l == line), "{line}");
    }
}
