//! Published files: whether the object store has each, whole and unchanged.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use owm_coordinator_store::model::model_list;
use owm_proto::{FileSpec, Sha256, manifest::ManifestFile};
use owm_service::{
    doctor::{
        Check, Finding,
        disk::bytes,
        hash::{self, State},
        shell,
    },
    progress::Progress,
};

use super::Ground;
use crate::serve;

const AREA: &str = "blobs";
/// Versions that are looked at, newest first.
const VERSIONS_MAX: u32 = 1_000;
/// Time for all of it: a hundred gigabytes from a disk; [`hash::time_for`] bounds it below that.
const TIME_MAX: Duration = Duration::from_hours(3);

/// A published file with the newest version that names it.
#[derive(Debug)]
struct Published {
    version: String,
    file: ManifestFile,
}

pub(super) fn check(ground: &Arc<Ground>) -> Check<'static> {
    let ground = Arc::clone(ground);
    Check::new(AREA, TIME_MAX, async move {
        let Some(published) = published(&ground).await else {
            return Vec::new(); // The database's finding tells why they are not known.
        };
        let total: u64 = published.values().map(|p| p.file.size).sum();
        let hashing = Check::blocking(AREA, hash::time_for(total), move || {
            look(&published, &ground)
        });
        owm_service::doctor::together(vec![hashing]).await
    })
}

/// Files of all versions that were not withdrawn; `None`: the database can't be asked.
async fn published(ground: &Ground) -> Option<BTreeMap<Sha256, Published>> {
    let store = serve::store(&ground.config).ok()?;
    let mut tx = store.begin("doctor.blobs").await.ok()?;
    let versions = model_list(&mut tx, VERSIONS_MAX).await.ok()?;
    let mut files = BTreeMap::new();
    for version in versions.into_iter().filter(|version| !version.withdrawn) {
        let name = version.manifest.version.to_string();
        for file in version.manifest.files {
            let ladder = ladder_of(&file);
            for file in [Some(file), ladder].into_iter().flatten() {
                files.entry(file.sha256).or_insert_with(|| Published {
                    version: name.clone(),
                    file,
                });
            }
        }
    }
    Some(files)
}

/// The ladder of a file, as a file: it is stored and served like one.
fn ladder_of(file: &ManifestFile) -> Option<ManifestFile> {
    let spec = FileSpec::of(file).ok()?;
    Some(ManifestFile {
        name: format!("the ladder of {}", file.name),
        size: spec.ladder_bytes(),
        sha256: spec.ladder_sha256()?,
        piece_len: None,
        ladder_sha256: None,
    })
}

fn look(published: &BTreeMap<Sha256, Published>, ground: &Ground) -> Vec<Finding> {
    let total = published.values().map(|p| p.file.size).sum();
    let bar = Progress::bytes(total, "hashing published files");
    let dir = &ground.config.blobs.dir;
    let states: Vec<_> = published
        .iter()
        .map(|(sha256, published)| {
            let path = dir.join(sha256.to_string());
            let size = published.file.size;
            let state = hash::state_of(&path, size, sha256.as_bytes(), ground.quick, &bar);
            (published, path, state)
        })
        .collect();
    bar.clear();
    judge(&states, total, dir)
}

fn judge(states: &[(&Published, PathBuf, State)], total: u64, dir: &Path) -> Vec<Finding> {
    if states.is_empty() {
        return vec![Finding::ok(AREA, "nothing is published yet")];
    }
    let mut findings = Vec::new();
    for (published, path, state) in states {
        let Published { version, file } = published;
        let what = match state {
            State::Right | State::Unread => continue,
            State::Missing => "is missing".to_owned(),
            State::Changed => "does not have its SHA-256".to_owned(),
            State::Size(found) => format!("has {found} bytes, not {}", file.size),
            State::Unreadable(why) => format!("can't be read: {why}"),
        };
        let path = shell(path);
        findings.push(Finding::problem(
            AREA,
            format!("{} of {version} {what}: nodes can't fetch it", file.name),
            format!(
                "copy it back to {path} from a backup or from a node (its data/models/blobs/{}), or import the \
                 same source under the same version again",
                file.sha256
            ),
        ));
    }
    if findings.is_empty() {
        let is_unread = states.iter().any(|(_, _, state)| *state == State::Unread);
        let said = if is_unread {
            "sizes right, SHA-256 not checked (--quick)"
        } else {
            "SHA-256 right"
        };
        let what = format!(
            "{} files in {}, {}, {said}",
            states.len(),
            shell(dir),
            bytes(total)
        );
        findings.push(Finding::ok(AREA, what));
    }
    findings
}

#[cfg(test)]
mod tests {
    use owm_service::doctor::Level;

    use super::*;

    #[test]
    fn a_published_file_is_right_or_the_finding_says_where_to_copy_it() {
        let published = Published {
            version: "owm-v0.1.0".into(),
            file: ManifestFile {
                name: "model.safetensors".into(),
                size: 5,
                sha256: Sha256::of(b"x"),
                piece_len: None,
                ladder_sha256: None,
            },
        };
        let judge = |state| {
            let states = [(&published, PathBuf::from("b/x"), state)];
            super::judge(&states, 5, Path::new("b"))[0].clone()
        };
        assert_eq!(judge(State::Right).level, Level::Ok);
        assert!(judge(State::Unread).what.contains("--quick"));
        for wrong in [State::Missing, State::Changed, State::Size(4)] {
            let finding = judge(wrong);
            assert_eq!(finding.level, Level::Problem);
            assert!(finding.fix.unwrap().starts_with("copy it back to b/x"));
        }
        assert_eq!(super::judge(&[], 0, Path::new("b"))[0].level, Level::Ok);
    }
}
