//! `backup` and `restore`: what they take and what they print.

use std::path::{Path, PathBuf};

use clap::Args;
use owm_proto::UnixMillis;
use owm_service::{RunError, archive::Manifest};
use serde_json::json;

use super::{
    ConfigArg,
    commands::{print, read_config},
};
use crate::{
    backup::{self, BackupError, Job},
    serve,
};

/// Said wherever a backup is made.
const SECRET: &str =
    "it holds this network's keys: keep it as safe as them, and encrypted off this machine";

/// What `backup --help` says at length.
pub(super) const BACKUP_ABOUT: &str = "\
    Write keys, documents, configuration, database and published files to one new file (tar, \
    mode 0600), while the coordinator serves. The file holds the network's keys: whoever has it is the \
    coordinator. Encrypt it before it leaves the machine, for example with age.";

/// What `restore --help` says at length.
pub(super) const RESTORE_ABOUT: &str = "\
    Check a backup, then restore it to an empty folder and an empty database. Nothing is \
    written before every byte of the backup has been checked. Stop the old coordinator for good first: two \
    with one key on two databases would both book rewards. What happened after the backup is not in it.";

/// Arguments of `backup`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  owm-coordinator backup --to /backup/owm-1.tar --config coordinator.toml\n  \
    owm-coordinator backup --to owm-2.tar --without-blobs --config coordinator.toml --json\n  \
    age -r age1... -o owm-1.tar.age /backup/owm-1.tar && shred -u /backup/owm-1.tar"
)]
pub struct BackupArgs {
    /// The new file; nothing is ever overwritten.
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// Leave the published files out (they are large, and can be imported again from their source).
    #[arg(long)]
    without_blobs: bool,
    /// Where the configuration is.
    #[command(flatten)]
    config: ConfigArg,
}

/// Arguments of `restore`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  owm-coordinator restore --from owm-1.tar --check\n  \
    createdb owm_restored\n  owm-coordinator restore --from owm-1.tar --dir /srv/owm --database-url-file url.txt\n  \
    owm-coordinator serve --config /srv/owm/coordinator.toml"
)]
pub struct RestoreArgs {
    /// The backup, decrypted.
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
    /// Where to; must be empty or not there yet.
    #[arg(long, value_name = "DIR", required_unless_present = "check")]
    dir: Option<PathBuf>,
    /// A file (mode 0600) with the URL of an empty database; needed if the backed-up configuration had
    /// its URL in a file.
    #[arg(long, value_name = "FILE")]
    database_url_file: Option<PathBuf>,
    /// Only check the backup and say what it is; writes nothing.
    #[arg(long)]
    check: bool,
}

pub(super) async fn backup(args: &BackupArgs, json: bool, now: UnixMillis) -> Result<(), RunError> {
    let config = read_config(&args.config.config)?;
    let job = Job {
        config: &config,
        config_path: &args.config.config,
        to: &args.to,
        blobs: !args.without_blobs,
        now,
    };
    let (written, damaged) = backup::backup(&job, &serve::store(&config)?).await?;
    let text = format!(
        "{} is written: {} bytes, {} files\nsha256 {}\n{SECRET}",
        written.path.display(),
        written.bytes,
        written.manifest.members.len(),
        written.sha256,
    );
    let warnings = damaged.iter().map(|blob| {
        format!(
            "warning: the published file {blob} is damaged on this disk: import its model again"
        )
    });
    let lines: Vec<String> = std::iter::once(text).chain(warnings).collect();
    let value = json!({
        "path": written.path, "sha256": written.sha256, "bytes": written.bytes,
        "contains_keys": true, "damaged_blobs": damaged, "manifest": written.manifest,
    });
    print(json, &value, &lines.join("\n"))
}

pub(super) async fn restore(args: &RestoreArgs, json: bool) -> Result<(), RunError> {
    let (Some(dir), false) = (&args.dir, args.check) else {
        let archive = backup::check(&args.from)?;
        let manifest = archive.manifest();
        let text = format!("the backup is whole: {}", about(manifest));
        return print(json, &json!({"ok": true, "manifest": manifest}), &text);
    };
    let manifest = backup::restore(&args.from, dir, args.database_url_file.as_deref())
        .await
        .map_err(|error| match error {
            BackupError::NoUrl => RunError::usage(error),
            error => RunError::failed(error),
        })?;
    let config = dir.join("coordinator.toml");
    let text = said(&manifest, dir, &config);
    print(
        json,
        &json!({"restored": true, "dir": dir, "config": config, "manifest": manifest}),
        &text,
    )
}

fn about(manifest: &Manifest) -> String {
    format!(
        "network {}, instance {}, made by version {} at {} ms, {} files",
        manifest.network,
        manifest.key,
        manifest.version,
        manifest.created_at_ms,
        manifest.members.len()
    )
}

fn said(manifest: &Manifest, dir: &Path, config: &Path) -> String {
    let blobs = manifest
        .facts
        .get("blobs")
        .is_some_and(|said| said == "true");
    let config = config.display();
    let mut lines = vec![format!(
        "{} is restored: {}",
        dir.display(),
        about(manifest)
    )];
    if !blobs {
        lines.push(
            "- the backup has no published files: import each version again, or copy blobs/ here"
                .to_owned(),
        );
    }
    lines.extend([
        "- make sure that the old coordinator never runs again".to_owned(),
        format!("- look at {config}: addresses and ports are those of the old machine"),
        format!("- then: owm-coordinator serve --config {config}"),
        "- the ledger is what it was at the time of the backup; nodes hand in again what was not \
         acknowledged then"
            .to_owned(),
    ]);
    lines.join("\n")
}
