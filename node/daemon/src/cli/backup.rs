//! `owm-node backup` and `restore`: what they take and what they print.

use std::path::PathBuf;

use clap::Args;
use owm_proto::UnixMillis;
use owm_service::{
    RunError,
    archive::Manifest,
    clock::{Clock as _, SystemClock},
};
use serde_json::json;

use super::{ConfigArg, Output, default_folder};
use crate::{
    backup::{self, Job},
    home::Home,
};

/// What `backup --help` says at length.
pub(super) const BACKUP_ABOUT: &str = "\
    Writes key, configuration, documents and task log to one new file (tar, mode 0600), \
    also while the node runs. The file holds the node's key: whoever has it is this node. Encrypt it \
    before it leaves the machine, for example with age.";

/// What `restore --help` says at length.
pub(super) const RESTORE_ABOUT: &str = "\
    Checks a backup, then restores it to an empty folder. Nothing is written before every \
    byte of the backup has been checked. Stop the old node for good first: one key runs once, and the \
    newer process shuts the older out.";

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  owm-node backup --to /backup/node-1.tar\n  owm-node backup --to node-2.tar \
    --with-models --config ./node-a/owm.toml --json\n  age -r age1... -o node-1.tar.age /backup/node-1.tar \
    && shred -u /backup/node-1.tar"
)]
pub(super) struct BackupArgs {
    /// The new file; nothing is ever overwritten.
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// Model files too; without them a restored node fetches them again.
    #[arg(long)]
    with_models: bool,
    #[command(flatten)]
    config: ConfigArg,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  owm-node restore --from node-1.tar --check\n  owm-node restore --from \
    node-1.tar --dir ~/.owm/node\n  owm-node start --config ~/.owm/node/owm.toml"
)]
pub(super) struct RestoreArgs {
    /// The backup, decrypted.
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
    /// Where to; must be empty or not there yet [default: ~/.owm/node].
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Only check the backup and say what it is; writes nothing.
    #[arg(long)]
    check: bool,
}

pub(super) fn backup(arguments: &BackupArgs, output: Output) -> Result<(), RunError> {
    let (path, config) = arguments.config.load()?;
    let home = Home::open(&config.data_folder(&path))?;
    let written = backup::backup(&Job {
        config: &config,
        config_path: &path,
        home: &home,
        to: &arguments.to,
        models: arguments.with_models,
        now: UnixMillis(SystemClock::new().now_ms()),
    })?;
    let lines = [
        format!(
            "{} is written: {} bytes, {} files",
            written.path.display(),
            written.bytes,
            written.manifest.members.len()
        ),
        format!("sha256 {}", written.sha256),
        "it holds this node's key: keep it as safe as that, and encrypted off this machine"
            .to_owned(),
    ];
    let value = json!({
        "path": written.path,
        "sha256": written.sha256,
        "bytes": written.bytes,
        "contains_keys": true,
        "manifest": written.manifest,
    });
    output.answer(&value, &lines);
    Ok(())
}

pub(super) fn restore(arguments: &RestoreArgs, output: Output) -> Result<(), RunError> {
    if arguments.check {
        let archive = backup::check(&arguments.from)?;
        let manifest = archive.manifest();
        let line = format!("the backup is whole: {}", about(manifest));
        output.answer(&json!({ "ok": true, "manifest": manifest }), &[line]);
        return Ok(());
    }
    let dir = match &arguments.dir {
        Some(dir) => dir.clone(),
        None => default_folder()?,
    };
    let manifest = backup::restore(&arguments.from, &dir)?;
    let config = dir.join("owm.toml");
    let lines = [
        format!("{} is restored: {}", dir.display(), about(&manifest)),
        "- make sure that the old node never runs again: one key runs once".to_owned(),
        format!("- then: owm-node start --config {}", config.display()),
    ];
    let value = json!({ "restored": true, "dir": dir, "config": config, "manifest": manifest });
    output.answer(&value, &lines);
    Ok(())
}

fn about(manifest: &Manifest) -> String {
    format!(
        "node {}, network {}, made by version {} at {} ms, {} files",
        manifest.key,
        manifest.network,
        manifest.version,
        manifest.created_at_ms,
        manifest.members.len()
    )
}
