//! Who may know whom (spec §2), held against `cargo metadata`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::Command,
};

use anyhow::{Context, Result, ensure};
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

/// Each crate with the crates of ours that it may use. What is not listed is forbidden.
const MAY_USE: &[(&str, &[&str])] = &[
    ("owm-proto", &[]),
    ("owm-proto-codegen", &[]),
    ("owm-update", &["owm-proto"]),
    ("owm-service", &["owm-proto"]),
    ("owm-migrations", &[]),
    ("owm-corpus", &[]),
    ("owm-model", &[]),
    ("owm-p2p", &["owm-proto"]),
    (
        "owm-node",
        &[
            "owm-corpus",
            "owm-model",
            "owm-p2p",
            "owm-proto",
            "owm-service",
            "owm-update",
        ],
    ),
    ("owm-aggregate", &["owm-proto", "owm-update"]),
    ("owm-coordinator-domain", &["owm-proto"]),
    (
        "owm-coordinator-store",
        &["owm-coordinator-domain", "owm-migrations", "owm-proto"],
    ),
    ("owm-model-import", &["owm-proto"]),
    (
        "owm-coordinator",
        &[
            "owm-aggregate",
            "owm-coordinator-domain",
            "owm-coordinator-store",
            "owm-migrations",
            "owm-model-import",
            "owm-p2p",
            "owm-proto",
            "owm-service",
            "owm-update",
        ],
    ),
    ("owm-attacks", &["owm-aggregate", "owm-proto", "owm-update"]),
    (
        "owm-bench",
        &[
            "owm-devnet",
            "owm-p2p",
            "owm-proto",
            "owm-service",
            "owm-update",
        ],
    ),
    ("owm-devnet", &["owm-proto", "owm-service"]),
    (
        "owm-e2e",
        &["owm-devnet", "owm-p2p", "owm-proto", "owm-service"],
    ),
    ("owm-sim", &["owm-p2p", "owm-proto"]),
    ("owm-tidy", &[]),
];

/// What tests may use beyond that: fixtures, never a way round.
const TESTS_MAY_USE: &[(&str, &[&str])] = &[
    ("owm-proto", &["owm-proto-codegen"]),
    (
        "owm-model",
        &["owm-corpus", "owm-model-import", "owm-proto", "owm-update"],
    ),
    ("owm-node", &["owm-model-import"]),
    ("owm-coordinator-store", &["owm-service"]),
];

/// Crates that must never be below another, however far down: (above, forbidden, why).
const NEVER_BELOW: &[(&str, &[&str], &str)] = &[
    (
        "owm-proto",
        &["sqlx", "sqlx-core", "arti-client", "rusqlite"],
        "the treasury's lockfile (§16)",
    ),
    (
        "owm-service",
        &["sqlx", "sqlx-core", "arti-client", "rusqlite"],
        "the treasury's lockfile (§16)",
    ),
    (
        "owm-p2p",
        &[
            "burn",
            "burn-core",
            "arti-client",
            "rusqlite",
            "sqlx-core",
            "hickory-resolver",
        ],
        "the swarm builds without ML and Tor, and its transports are passed in (§2)",
    ),
    (
        "owm-coordinator",
        &["burn", "burn-core", "burn-tensor"],
        "the coordinator never computes (§2)",
    ),
    (
        "owm-coordinator-domain",
        &["tokio", "sqlx-core", "rand"],
        "rules without I/O (§2)",
    ),
];

fn metadata() -> Metadata {
    MetadataCommand::new()
        .manifest_path(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.toml"))
        .no_deps()
        .exec()
        .expect("cargo metadata works in a checkout")
}

fn ours(metadata: &Metadata) -> BTreeMap<&str, &Package> {
    metadata
        .workspace_packages()
        .into_iter()
        .map(|package| (package.name.as_str(), package))
        .collect()
}

fn listed<'a>(list: &[(&str, &'a [&'a str])], name: &str) -> BTreeSet<&'a str> {
    list.iter()
        .filter(|(listed, _)| *listed == name)
        .flat_map(|(_, allowed)| allowed.iter().copied())
        .collect()
}

/// Names of all packages below `package`, itself included, with its default features, as cargo
/// resolves it alone: the workspace's other members add no features.
fn below(package: &str) -> Result<BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--locked",
            "--package",
            package,
            "--edges",
            "normal,build",
        ])
        .args(["--prefix", "none", "--format", "{p}"])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))
        .output()
        .context("cannot start cargo")?;
    ensure!(
        output.status.success(),
        "cargo tree: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout)?;
    Ok(text
        .lines()
        .filter_map(|line| line.split(' ').next())
        .map(str::to_owned)
        .collect())
}

#[test]
fn every_crate_uses_only_the_crates_it_may_know() {
    let metadata = metadata();
    let ours = ours(&metadata);
    let mut wrong = Vec::new();
    for (name, package) in &ours {
        if !MAY_USE.iter().any(|(listed, _)| listed == name) {
            wrong.push(format!("{name} is not in MAY_USE: say what it may know"));
        }
        for dependency in &package.dependencies {
            if !ours.contains_key(dependency.name.as_str()) {
                continue;
            }
            let mut allowed = listed(MAY_USE, name);
            if dependency.kind == DependencyKind::Development {
                allowed.extend(listed(TESTS_MAY_USE, name));
                // A crate's tests may turn on its own features.
                allowed.insert(name);
            }
            if !allowed.contains(dependency.name.as_str()) {
                wrong.push(format!(
                    "{name} must not use {} ({})",
                    dependency.name, dependency.kind
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let gone: Vec<&str> = MAY_USE
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| !ours.contains_key(name))
        .collect();
    assert!(gone.is_empty(), "listed but no longer there: {gone:?}");
}

#[test]
fn nothing_points_back() {
    // A table without circles allows none: each crate's rank is one above the highest it may use.
    fn rank(name: &str, path: &mut Vec<String>) -> usize {
        assert!(
            !path.iter().any(|seen| seen == name),
            "a circle: {path:?} -> {name}"
        );
        path.push(name.to_owned());
        let rank = listed(MAY_USE, name)
            .into_iter()
            .map(|used| 1 + rank(used, path))
            .max();
        path.pop();
        rank.unwrap_or(0)
    }
    for (name, _) in MAY_USE {
        rank(name, &mut Vec::new());
    }
}

#[test]
fn heavy_crates_stay_out_of_light_ones() {
    for (name, forbidden, why) in NEVER_BELOW {
        let below = below(name).unwrap();
        assert!(below.contains(*name), "cargo tree told nothing of {name}");
        let found: Vec<_> = forbidden
            .iter()
            .filter(|crate_| below.contains(**crate_))
            .collect();
        assert!(
            found.is_empty(),
            "{name} must not depend on {found:?}: {why}"
        );
    }
}

#[test]
fn proto_and_service_build_without_any_sqlite() {
    let all = MetadataCommand::new()
        .manifest_path(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.toml"))
        .other_options([
            "--locked".to_owned(),
            "--filter-platform".to_owned(),
            host(),
        ])
        .exec()
        .expect("cargo metadata works in a checkout");
    let sqlite: BTreeSet<&str> = all
        .packages
        .iter()
        .filter(|package| package.links.as_deref() == Some("sqlite3"))
        .map(|package| package.name.as_str())
        .collect();
    assert!(
        !sqlite.is_empty(),
        "the node's task log links sqlite3; is this test looking right?"
    );
    for name in ["owm-proto", "owm-service"] {
        let below = below(name).unwrap();
        let found: Vec<_> = below
            .iter()
            .filter(|crate_| sqlite.contains(crate_.as_str()))
            .collect();
        assert!(found.is_empty(), "{name} links sqlite3 through {found:?}");
    }
}

/// The platform we run on, as rustc calls it.
fn host() -> String {
    let output = Command::new("rustc")
        .arg("-vV")
        .output()
        .expect("rustc is installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.expect("rustc -vV names the host").to_owned()
}

#[test]
fn every_crate_takes_the_workspace_s_lints() {
    for (name, package) in ours(&metadata()) {
        let manifest = std::fs::read_to_string(&package.manifest_path).unwrap();
        assert!(
            manifest.contains("[lints]\nworkspace = true"),
            "{name}: add `[lints] workspace = true` to {}",
            package.manifest_path
        );
    }
}
