//! Rebuilds the crate when a migration is added; `migrate!` alone only notices changed files.

fn main() {
    println!("cargo:rerun-if-changed=sql");
}
