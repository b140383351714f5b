//! The systemd units in `deploy/systemd`, by systemd's own judgement. Run where `systemd-analyze` is
//! installed (`deploy/test.sh` looks, and says when it is not).

use std::{fs, path::PathBuf, process::Command};

/// Largest exposure that is let pass, of 100, where systemd calls up to 20 "OK". The units have 12; two
/// protections less are 16.
const EXPOSURE_MAX: &str = "15";

const UNITS: [&str; 2] = ["owm-coordinator.service", "owm-node.service"];

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
    let program = format!("/usr/local/bin/{}", name.trim_end_matches(".service"));
    let text = source(name);
    assert!(
        text.contains(&format!("ExecStart={program} ")),
        "{name} starts another program"
    );
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
    for name in UNITS {
        let verify = ["verify", "--man=no"];
        let (content, said) = analyze(&verify, &installable("verify", name, |text| text));
        assert!(content && said.trim().is_empty(), "{name}: {said}");
        // The judge notices what is wrong.
        let wrong = installable("verify-wrong", name, |text| {
            text.replace("WatchdogSec=60s", "WatchdogSec=often")
        });
        let (_, said) = analyze(&verify, &wrong);
        assert!(said.contains("often"), "{name}: {said}");
    }
}

#[test]
#[ignore = "needs systemd-analyze: deploy/test.sh runs it where there is one"]
fn units_are_hardened() {
    let threshold = format!("--threshold={EXPOSURE_MAX}");
    let judge = ["security", "--offline=yes", "--no-pager", &threshold];
    for name in UNITS {
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
    for name in UNITS {
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
