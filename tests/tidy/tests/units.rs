//! The systemd units in `deploy/systemd`, by systemd's own judgement. Run where `systemd-analyze` is
//! installed (`deploy/test.sh` looks, and says when it is not).

use std::{fs, path::PathBuf, process::Command};

/// Largest exposure that is let pass, of 100, where systemd calls up to 20 "OK". The units have 12; two
/// protections less are 16.
const EXPOSURE_MAX: &str = "15";

/// The daemons.
const DAEMONS: [&str; 2] = ["owm-coordinator.service", "owm-node.service"];

/// All services.
const SERVICES: [&str; 3] = [DAEMONS[0], DAEMONS[1], BACKUP];

const BACKUP: &str = "owm-coordinator-backup.service";

fn source(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../deploy/systemd")
        .join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The unit with a program that exists here, in a folder of its own.
fn installable(folder: &str, name: &str, change: impl Fn(String) -> String) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(folder);
    fs::create_dir_all(&folder).expect("the build folder can be written");
    let daemon = name.trim_end_matches(".service");
    let program = format!("/usr/local/bin/{}", daemon.trim_end_matches("-backup"));
    let text = source(name);
    let start = if name == BACKUP {
        format!("ExecStart=/bin/sh -c 'exec {program} backup ")
    } else {
        format!("ExecStart={program} ")
    };
    assert!(text.contains(&start), "{name} starts another program");
    let path = folder.join(name);
    fs::write(&path, change(text.replace(&program, "/bin/true")))
        .expect("the build folder can be written");
    path
}

/// What `systemd-analyze` says, and whether it is content.
fn analyze(args: &[&str], unit: &PathBuf) -> (bool, String) {
    let output = Command::new("systemd-analyze")
        .args(args)
        .arg(unit)
        .output()
        .expect("systemd-analyze is installed");
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

#[test]
#[ignore = "needs systemd-analyze: deploy/test.sh runs it where there is one"]
fn units_are_well_formed() {
    for name in SERVICES {
        let verify = ["verify", "--man=no"];
        let (content, said) = analyze(&verify, &installable("verify", name, |text| text));
        assert!(content && said.trim().is_empty(), "{name}: {said}");
        // The judge notices what is wrong.
        let wrong = installable("verify-wrong", name, |text| {
            text.replace("LimitCORE=0", "LimitCORE=often")
        });
        let (_, said) = analyze(&verify, &wrong);
        assert!(said.contains("often"), "{name}: {said}");
    }
    // A timer is checked beside what it starts.
    let timer = "owm-coordinator-backup.timer";
    let path = installable("verify", BACKUP, |text| text).with_file_name(timer);
    fs::write(&path, source(timer)).expect("the build folder can be written");
    let (content, said) = analyze(&["verify", "--man=no"], &path);
    assert!(content && said.trim().is_empty(), "{timer}: {said}");
}

/// The lines that shut a service in, without what it is for.
fn protections(name: &str) -> Vec<String> {
    let text = source(name);
    let (_, rest) = text
        .split_once("NoNewPrivileges=yes")
        .unwrap_or_else(|| panic!("{name} may gain privileges"));
    let lines = rest.lines().take_while(|line| !line.starts_with('['));
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_backup_is_shut_in_as_the_coordinator_is_and_reads_the_same() {
    // A backup is no peer of the swarm: it need not ask the kernel for addresses.
    let coordinators = protections(DAEMONS[0]).into_iter();
    let expected: Vec<_> = coordinators
        .map(|line| line.replace(" AF_NETLINK", ""))
        .collect();
    assert_eq!(protections(BACKUP), expected);
    let (backup, coordinator) = (source(BACKUP), source(DAEMONS[0]));
    for key in [
        "User=",
        "Group=",
        "UMask=",
        "#LoadCredential=",
        "#Environment=",
    ] {
        let of = |text: &str| text.lines().find(|l| l.starts_with(key)).map(str::to_owned);
        assert_eq!(of(&backup), of(&coordinator), "{key}");
        assert!(of(&backup).is_some(), "{key}");
    }
    let config = "--config /var/lib/owm-coordinator/net/coordinator.toml";
    assert!(backup.contains(config) && coordinator.contains(config));
}

#[test]
#[ignore = "needs systemd-analyze: deploy/test.sh runs it where there is one"]
fn units_are_hardened() {
    let threshold = format!("--threshold={EXPOSURE_MAX}");
    let judge = ["security", "--offline=yes", "--no-pager", &threshold];
    for name in SERVICES {
        let (content, said) = analyze(&judge, &installable("security", name, |text| text));
        assert!(content, "{name}: {said}");
        let open = installable("security-open", name, |text| {
            text.replace("ProtectSystem=strict\n", "")
                .replace("NoNewPrivileges=yes\n", "")
        });
        let (content, _) = analyze(&judge, &open);
        assert!(!content, "{name}: an open unit passes");
    }
}

#[test]
fn units_stop_where_starting_again_cannot_help() {
    for name in DAEMONS {
        let text = source(name);
        for line in [
            "Type=notify",
            "Restart=on-failure",
            "RestartPreventExitStatus=2 78",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "{name}: {line} is missing"
            );
        }
    }
}
