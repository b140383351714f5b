//! The model: which version there should be, whether its files are here and right, whether they fit.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use owm_proto::{
    Sha256, UnixMillis,
    manifest::{Manifest, ManifestFile},
    wire::coordinator::GetModelVersionResponse,
};
use owm_service::{
    doctor::{
        CHECK_TIME, Check, Finding,
        disk::{self, bytes},
        hash::{self, State},
        ports::Daemon,
        shell,
    },
    progress::Progress,
};

use super::{
    Ground,
    address::{Published, Reached},
    caps, documents,
};
use crate::{
    models::{RAM_PER_BYTE, Shelf, SignedManifest},
    network::Network,
};

/// What the node should have.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// The newest version known; none: nobody knows of any.
    manifest: Option<Manifest>,
    /// Files of the wanted sub-models, each once.
    files: Vec<ManifestFile>,
    /// The coordinator says that none is published.
    none_published: bool,
}

impl Wanted {
    /// The coordinator's newest, else the one on the disk.
    pub(super) fn find(ground: &Ground, live: Option<&Network>, reached: &[Reached]) -> Self {
        let now = UnixMillis(ground.now_ms);
        let offered = reached.iter().find_map(|r| match &r.manifest {
            Published::Newest(wire) => Some(GetModelVersionResponse::clone(wire)),
            Published::Nothing | Published::Unknown => None,
        });
        let newest = offered.zip(live).and_then(|(wire, network)| {
            SignedManifest::verify(wire, &network.trust, now, None).ok()
        });
        let shelf = shelf(ground);
        let kept = || {
            let trust = &documents(ground, live)?.trust;
            SignedManifest::load(&shelf.newest(), trust).ok()?
        };
        let manifest = newest.or_else(kept).map(|signed| signed.manifest);
        let files = manifest.as_ref();
        Self {
            files: files.map_or(Vec::new(), |manifest| files_of(manifest, ground)),
            none_published: reached
                .iter()
                .any(|r| matches!(r.manifest, Published::Nothing)),
            manifest,
        }
    }

    /// Bytes the loaded model takes at most; 0: nothing is known.
    pub(super) fn memory(&self) -> u64 {
        let weights = self.files.iter().filter(|file| file.is_weights());
        let bytes: u64 = weights.map(|file| file.size).sum();
        bytes.saturating_mul(RAM_PER_BYTE)
    }
}

fn shelf(ground: &Ground) -> Shelf {
    Shelf::new(
        ground.home.models(),
        caps(ground).and_then(|caps| caps.disk),
    )
}

fn files_of(manifest: &Manifest, ground: &Ground) -> Vec<ManifestFile> {
    let wanted: BTreeSet<&str> = ground
        .config
        .model
        .sub_models
        .iter()
        .map(String::as_str)
        .collect();
    let names: BTreeSet<&String> = manifest
        .sub_models
        .iter()
        .filter(|(id, _)| wanted.is_empty() || wanted.contains(id.as_str()))
        .flat_map(|(_, sub_model)| &sub_model.files)
        .collect();
    let files = manifest
        .files
        .iter()
        .filter(|file| names.contains(&file.name));
    let each: BTreeMap<Sha256, ManifestFile> =
        files.map(|file| (file.sha256, file.clone())).collect();
    each.into_values().collect()
}

/// Room, and the files themselves.
pub(super) fn checks(ground: &Arc<Ground>, wanted: Wanted) -> Vec<Check<'static>> {
    let total: u64 = wanted.files.iter().map(|file| file.size).sum();
    let (disk_ground, disk_wanted) = (Arc::clone(ground), wanted.clone());
    let ground = Arc::clone(ground);
    vec![
        Check::blocking("disk", CHECK_TIME, move || {
            disk_check(&disk_ground, &disk_wanted)
        }),
        Check::blocking("weights", hash::time_for(total), move || {
            weights_check(&ground, &wanted)
        }),
    ]
}

fn disk_check(ground: &Ground, wanted: &Wanted) -> Vec<Finding> {
    const AREA: &str = "disk";
    let shelf = shelf(ground);
    let there = |path: PathBuf| std::fs::metadata(path).map_or(0, |found| found.len());
    let missing = wanted.files.iter().filter(|file| !shelf.has(file));
    let missing: u64 = missing
        .map(|file| file.size.saturating_sub(there(shelf.part(&file.sha256))))
        .sum();
    // Before the folder is made, the disk is the one where it will be.
    let folder = ground.home.path();
    let Some(exists) = folder.ancestors().find(|folder| folder.exists()) else {
        return Vec::new();
    };
    let fix = format!(
        "move the data folder to a larger disk ([node] data in {})",
        shell(&ground.path)
    );
    let mut findings = match disk::probe_room(exists) {
        Ok(room) => disk::judge_room(AREA, room, missing, "the model", folder, &fix),
        Err(error) => vec![Finding::warning(
            AREA,
            format!("cannot ask how much room there is: {error}"),
            format!("df -h {}", shell(exists)),
        )],
    };
    let cap = caps(ground).and_then(|caps| caps.disk);
    let total: u64 = wanted.files.iter().map(|file| file.size).sum();
    findings.extend(cap.and_then(|cap| judge_cap(total, cap)));
    findings
}

fn judge_cap(total: u64, cap: u64) -> Option<Finding> {
    let problem = Finding::problem(
        "disk.cap",
        format!(
            "the model has {}, [caps] disk allows {}",
            bytes(total),
            bytes(cap)
        ),
        format!("set [caps] disk to at least {total}, or take it out"),
    );
    (total > cap).then_some(problem)
}

fn weights_check(ground: &Ground, wanted: &Wanted) -> Vec<Finding> {
    let shelf = shelf(ground);
    let status = ground.process.status();
    let state = status.and_then(|status| status.model_state.as_deref());
    let is_loaded = status.is_some_and(|status| status.model.is_some());
    let commands = Commands {
        start: ground.command("start"),
        status: ground.command("status"),
        is_running: ground.daemon() != Daemon::Stopped,
    };
    let mut findings = Vec::new();
    if !is_loaded && let Some(state) = state {
        let failed = status.is_some_and(|status| status.model_failed);
        findings.push(judge_state(state, failed, &commands));
    }
    let Some(manifest) = &wanted.manifest else {
        findings.push(judge_none(wanted.none_published, &commands));
        return findings;
    };
    let total = wanted.files.iter().map(|file| file.size).sum();
    let bar = Progress::bytes(total, format!("hashing {}", manifest.version));
    let look = |file: &ManifestFile| {
        let path = shelf.blob(&file.sha256);
        let state = hash::state_of(&path, file.size, &file.sha256.0, ground.quick, &bar);
        (file.name.clone(), path, state)
    };
    let states: Vec<_> = wanted.files.iter().map(look).collect();
    bar.clear();
    findings.extend(judge_files(
        manifest.version.as_str(),
        total,
        &states,
        &commands,
    ));
    findings
}

/// What fix lines name.
struct Commands {
    start: String,
    status: String,
    is_running: bool,
}

const AREA: &str = "weights";

/// A running node without a model.
fn judge_state(state: &str, failed: bool, commands: &Commands) -> Finding {
    if !failed {
        let fix = format!("wait; {} shows how far it is", commands.status);
        return Finding::warning("model", format!("not ready yet: {state}"), fix);
    }
    Finding::problem(
        "model",
        format!("the running node has no model: {state}"),
        "put right what this and the findings about disk, memory and address say; it tries again by itself",
    )
}

fn judge_none(none_published: bool, commands: &Commands) -> Finding {
    if none_published {
        return Finding::warning(
            AREA,
            "the network has published no model yet, so there is nothing to serve",
            "its operator runs: owm-coordinator model import …",
        );
    }
    Finding::warning(
        AREA,
        "no model is here, and no coordinator could be asked for one",
        format!(
            "put right what the findings about address say, then: {}",
            commands.start
        ),
    )
}

fn judge_files(
    version: &str,
    total: u64,
    states: &[(String, PathBuf, State)],
    commands: &Commands,
) -> Vec<Finding> {
    let again = if commands.is_running {
        format!("restart the node ({})", commands.start)
    } else {
        commands.start.clone()
    };
    let mut findings = Vec::new();
    for (name, path, state) in states {
        let path = shell(path);
        let what = match state {
            State::Changed => format!("{name} of {version}: the bytes do not have its SHA-256"),
            State::Size(found) => format!("{name} of {version} has {found} bytes, which is wrong"),
            State::Unreadable(why) => format!("{name} of {version} can't be read: {why}"),
            State::Right | State::Unread | State::Missing => continue,
        };
        let fix = format!("rm {path}, then: {again}; it fetches the file again");
        findings.push(Finding::problem(AREA, what, fix));
    }
    let missing = states
        .iter()
        .filter(|(_, _, state)| *state == State::Missing)
        .count();
    let count = states.len();
    if missing > 0 {
        let what = format!("{missing} of {count} files of {version} are not here yet");
        findings.push(if commands.is_running {
            let fix = format!(
                "wait: the running node fetches them; {} shows how far",
                commands.status
            );
            Finding::warning(AREA, what, fix)
        } else {
            Finding::warning(AREA, what, format!("{} (it fetches them)", commands.start))
        });
    }
    if findings.is_empty() {
        let size = bytes(total);
        let is_unread = states.iter().any(|(_, _, state)| *state == State::Unread);
        let said = if is_unread {
            "sizes right, SHA-256 not checked (--quick)"
        } else {
            "SHA-256 right"
        };
        findings.push(Finding::ok(
            AREA,
            format!("{version}: {count} files, {size}, {said}"),
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use owm_service::doctor::Level;

    use super::*;

    fn commands(is_running: bool) -> Commands {
        Commands {
            start: "owm-node start".into(),
            status: "owm-node status".into(),
            is_running,
        }
    }

    fn judged(states: &[State]) -> Vec<Finding> {
        let states: Vec<_> = states
            .iter()
            .map(|state| ("f".to_owned(), PathBuf::from("m/f"), state.clone()))
            .collect();
        judge_files("owm-v0.1.0", 10, &states, &commands(false))
    }

    #[test]
    fn files_are_right_missing_or_wrong_each_with_what_to_do() {
        let level = |states: &[State]| judged(states).iter().map(|f| f.level).collect::<Vec<_>>();
        assert_eq!(level(&[State::Right, State::Right]), [Level::Ok]);
        assert_eq!(level(&[State::Unread]), [Level::Ok]);
        assert!(judged(&[State::Unread])[0].what.contains("--quick"));
        assert_eq!(level(&[State::Missing, State::Right]), [Level::Warning]);
        assert_eq!(
            level(&[State::Changed, State::Missing]),
            [Level::Problem, Level::Warning]
        );
        let fix = judged(&[State::Size(3)])[0].fix.clone().unwrap();
        assert!(fix.starts_with("rm m/f, then: owm-node start"), "{fix}");
    }

    #[test]
    fn a_running_node_without_a_model_says_why() {
        let level = |state, failed| judge_state(state, failed, &commands(true)).level;
        assert_eq!(
            level("another process fetches models", false),
            Level::Warning
        );
        assert_eq!(level("no room for the model", true), Level::Problem);
        assert_eq!(judge_none(true, &commands(false)).level, Level::Warning);
    }

    #[test]
    fn a_disk_cap_below_the_model_is_a_problem() {
        assert_eq!(judge_cap(10, 10), None);
        assert_eq!(judge_cap(11, 10).unwrap().level, Level::Problem);
    }
}
