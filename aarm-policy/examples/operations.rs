//! Prints `docs/operations.md`.

fn main() {
    print!("{}", aarm_policy::operations_md());
}
