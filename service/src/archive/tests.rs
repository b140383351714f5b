//! Backups packed, broken in every way, and restored.

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

use super::*;

/// A folder with a backup `b.tar` of two files.
fn packed(folder: &Path, program: &'static str) -> Written {
    fs::write(folder.join("one"), b"the first file").unwrap();
    fs::write(folder.join("two"), vec![7; 1500]).unwrap();
    let plan = Plan {
        program,
        version: "0.1.0",
        network: "ab".repeat(32),
        key: "cd".repeat(32),
        created_at_ms: 1_800_000_000_123,
        facts: [("schema".to_owned(), "5".to_owned())].into(),
        members: vec![
            ("one".to_owned(), folder.join("one")),
            ("data/two".to_owned(), folder.join("two")),
        ],
    };
    write(&plan, &folder.join("b.tar")).unwrap()
}

/// Restores `backup` to `target` as the daemons do.
fn restore(backup: &Path, target: &Path) -> Result<(), ArchiveError> {
    Staging::check(target)?;
    let mut archive = Archive::open(backup, "owm-test")?;
    let staging = Staging::new(target)?;
    archive.unpack(staging.path(), |name| name.into())?;
    staging.commit()
}

/// Everything in a folder, so that "nothing was written" can be said.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_backup_is_restored_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let written = packed(folder.path(), "owm-test");
    assert_eq!(names(folder.path()), ["b.tar", "one", "two"]);
    let bytes = fs::read(&written.path).unwrap();
    assert_eq!(written.bytes, bytes.len() as u64);
    let mode = fs::metadata(&written.path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let target = folder.path().join("deep/new");
    restore(&written.path, &target).unwrap();
    assert_eq!(fs::read(target.join("one")).unwrap(), b"the first file");
    assert_eq!(fs::read(target.join("data/two")).unwrap(), vec![7; 1500]);
    assert_eq!(names(&folder.path().join("deep")), ["new"]);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&target), 0o700);
    assert_eq!(mode(&target.join("one")), 0o600);
}

#[test]
fn tar_and_sha256sum_can_check_it_without_us() {
    let folder = tempfile::tempdir().unwrap();
    packed(folder.path(), "owm-test");
    let checked = Command::new("sh")
        .args([
            "-c",
            "mkdir out && tar -xf b.tar -C out && cd out && sha256sum -c SHA256SUMS",
        ])
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(checked.status.success(), "{checked:?}");
    let said = String::from_utf8(checked.stdout).unwrap();
    assert_eq!(said, "manifest.json: OK\none: OK\ndata/two: OK\n");
}

#[test]
fn a_backup_overwrites_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let written = packed(folder.path(), "owm-test");
    let plan = Plan {
        program: "owm-test",
        version: "0",
        network: String::new(),
        key: String::new(),
        created_at_ms: 0,
        facts: BTreeMap::new(),
        members: vec![],
    };
    let before = fs::read(&written.path).unwrap();
    let error = write(&plan, &written.path).unwrap_err();
    assert!(matches!(error, ArchiveError::Exists(_)), "{error}");
    assert_eq!(fs::read(&written.path).unwrap(), before);
    assert_eq!(names(folder.path()), ["b.tar", "one", "two"]);
}

#[test]
fn a_folder_with_anything_in_it_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let written = packed(folder.path(), "owm-test");
    let target = folder.path().join("target");
    fs::create_dir(&target).unwrap();
    fs::write(target.join("precious"), b"x").unwrap();
    let error = restore(&written.path, &target).unwrap_err();
    assert!(matches!(error, ArchiveError::NotEmpty(_)), "{error}");
    assert_eq!(names(&target), ["precious"]);
    fs::remove_file(target.join("precious")).unwrap();
    restore(&written.path, &target).unwrap();
}

#[test]
fn whatever_byte_is_flipped_it_is_refused_or_does_not_matter() {
    let folder = tempfile::tempdir().unwrap();
    let written = packed(folder.path(), "owm-test");
    let bytes = fs::read(&written.path).unwrap();
    let broken = folder.path().join("broken.tar");
    let mut refused = 0;
    // Every thirteenth of all, which is each field of each header and every part of the content.
    for at in (0..bytes.len()).step_by(13) {
        let mut copy = bytes.clone();
        copy[at] ^= 0x20;
        fs::write(&broken, &copy).unwrap();
        match Archive::open(&broken, "owm-test") {
            Err(_) => refused += 1,
            // Padding, which is no part of anything.
            Ok(archive) => {
                assert_eq!(bytes[at], 0, "byte {at} was changed unnoticed");
                assert_eq!(*archive.manifest(), written.manifest);
            }
        }
    }
    let manifest = serde_json::to_vec_pretty(&written.manifest).unwrap();
    // All of the content, and all headers.
    assert!(
        refused >= (manifest.len() + 1500 + 4 * 512) / 13,
        "{refused}"
    );
}

#[test]
fn wherever_it_is_cut_off_it_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let written = packed(folder.path(), "owm-test");
    let bytes = fs::read(&written.path).unwrap();
    let target = folder.path().join("target");
    let cut = folder.path().join("cut.tar");
    for length in (0..bytes.len()).step_by(97).chain([bytes.len() - 1]) {
        fs::write(&cut, &bytes[..length]).unwrap();
        let error = restore(&cut, &target).unwrap_err();
        let named = matches!(
            error,
            ArchiveError::Truncated { .. } | ArchiveError::Foreign { .. }
        );
        assert!(named, "{length}: {error}");
    }
    fs::write(&cut, [&bytes[..], b"more"].concat()).unwrap();
    let error = restore(&cut, &target).unwrap_err();
    assert!(matches!(error, ArchiveError::Damaged { .. }), "{error}");
    assert!(!target.exists());
}

#[test]
fn another_program_s_and_a_newer_format_s_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let written = packed(folder.path(), "owm-node");
    let target = folder.path().join("target");
    let error = restore(&written.path, &target).unwrap_err().to_string();
    assert!(error.contains("owm-node restore"), "{error}");

    let text = b"{\"format\": 9, \"program\": \"owm-test\", \"version\": \"7.0.0\", \"new\": {}}";
    let mut tar = tar::Builder::new(fs::File::create(folder.path().join("newer.tar")).unwrap());
    let mut header = tar::Header::new_ustar();
    header.set_size(text.len() as u64);
    tar.append_data(&mut header, MANIFEST, &text[..]).unwrap();
    tar.into_inner().unwrap();
    let error = restore(&folder.path().join("newer.tar"), &target).unwrap_err();
    assert!(error.to_string().contains("7.0.0 or newer"), "{error}");

    fs::write(folder.path().join("noise"), vec![0x5a; 4096]).unwrap();
    let error = restore(&folder.path().join("noise"), &target).unwrap_err();
    assert!(matches!(error, ArchiveError::Foreign { .. }), "{error}");
    assert!(!target.exists());
}

#[test]
fn a_name_that_leaves_the_folder_is_refused() {
    for name in [
        "../x",
        "/x",
        "a//b",
        "a/../b",
        ".",
        "",
        "a b",
        "ä",
        "manifest.json",
    ] {
        assert!(check_name(name).is_err(), "{name}");
    }
    check_name("data/network/genesis.json").unwrap();

    // A hand-made backup with such a name and everything else right.
    let folder = tempfile::tempdir().unwrap();
    let entry = Entry {
        name: "../escaped".to_owned(),
        size: 1,
        sha256: "00".repeat(32),
    };
    let manifest = Manifest {
        members: vec![entry],
        ..packed(folder.path(), "owm-test").manifest
    };
    let text = serde_json::to_vec(&manifest).unwrap();
    let path = folder.path().join("evil.tar");
    let mut tar = tar::Builder::new(fs::File::create(&path).unwrap());
    let mut header = tar::Header::new_ustar();
    header.set_size(text.len() as u64);
    tar.append_data(&mut header, MANIFEST, &text[..]).unwrap();
    tar.into_inner().unwrap();
    let error = restore(&path, &folder.path().join("target")).unwrap_err();
    assert!(error.to_string().contains("does not stay below"), "{error}");
}

#[test]
fn doctor_finds_the_last_backup() {
    let folder = tempfile::tempdir().unwrap();
    let written = packed(folder.path(), "owm-test");
    note_last(folder.path(), &written).unwrap();
    note_last(folder.path(), &written).unwrap();
    let text = fs::read(folder.path().join(LAST_BACKUP)).unwrap();
    let said: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(said["at_ms"], 1_800_000_000_123_u64);
    assert_eq!(said["sha256"], written.sha256);
    assert_eq!(said["path"], written.path.to_str().unwrap());
}

#[test]
fn a_folder_that_cannot_be_replaced_is_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let (real, link) = (folder.path().join("real"), folder.path().join("link"));
    fs::create_dir(&real).unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    for (target, what) in [(link.as_path(), "symbolic link"), (Path::new("/"), "root")] {
        let refused = Staging::new(target).unwrap_err().to_string();
        assert!(refused.contains(what), "{refused}");
    }
    // Mounted everywhere, and empty; where it is not, there is nothing to look at.
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mounted = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    let empty = |path: &&str| {
        *path != "/" && fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
    };
    for target in mounted.filter(empty) {
        let refused = Staging::check(Path::new(target)).unwrap_err().to_string();
        assert!(refused.contains("mount point"), "{refused}");
    }
    let names: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(names.len(), 2, "{names:?}");
    Staging::new(&real).unwrap().commit().unwrap();
}
