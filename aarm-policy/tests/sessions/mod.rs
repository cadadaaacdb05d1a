//! What the tests of contexts begin with: a document without its spec, and a `data` section.

pub const HEAD: &str =
    "apiVersion: aarm.dev/v1alpha1\nkind: AgentPolicy\nmetadata: {name: p, version: \"1\"}\nspec:\n";

pub const DATA: &str = "  data:
    - {label: SECRET, level: RESTRICTED, on: {read: [\"~/.ssh/**\", \"**/.env\"]}}
    - {label: STAFF, level: INTERNAL, on: {read: /srv/staff/**, write: /srv/staff/**}}
    - {label: WEB, level: PUBLIC, on: {receive: {not_cidr: 10.0.0.0/8}}}
    - {label: SECRET, level: RESTRICTED, on: {exec: \"**/vault\"}}
";
