//! `config check` of both programs: everything at once, in effect what is said, no password shown.
#![expect(clippy::unwrap_used, reason = "what fails in a helper fails the test")]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use owm_devnet::paths;
use serde_json::Value;

fn run(program: &str, args: &[&str], env: &[(&str, &str)]) -> Output {
    Command::new(paths::program(program).unwrap())
        .args(args)
        .envs(env.iter().copied())
        .output()
        .unwrap()
}

/// Exit code and answer of `config check --json`.
fn check(program: &str, config: &Path, env: &[(&str, &str)]) -> (i32, Value) {
    let args = [
        "config",
        "check",
        "--json",
        "--config",
        config.to_str().unwrap(),
    ];
    let output = run(program, &args, env);
    let said = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (output.status.code().unwrap(), said)
}

fn problems(said: &Value) -> Vec<&str> {
    let problems = said["problems"].as_array().unwrap();
    problems
        .iter()
        .map(|problem| problem.as_str().unwrap())
        .collect()
}

/// The value in effect and where it comes from.
fn effective<'a>(said: &'a Value, section: &str, key: &str) -> (&'a str, &'a str) {
    let values = said["values"].as_array().unwrap();
    let found = values
        .iter()
        .find(|value| value["section"] == section && value["key"] == key)
        .unwrap_or_else(|| panic!("{section}.{key} is not in {said:#}"));
    (
        found["value"].as_str().unwrap(),
        found["origin"].as_str().unwrap(),
    )
}

fn assert_told(said: &Value, expected: &[&str]) {
    let problems = problems(said);
    for expected in expected {
        let told = problems.iter().any(|problem| problem.contains(expected));
        assert!(told, "{expected} is not in {problems:#?}");
    }
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
}

#[test]
fn both_programs_tell_every_mistake_at_once_and_what_is_in_effect() {
    let folder = tempfile::tempdir().unwrap();
    let net = folder.path().join("net");
    let made = run(
        "owm-coordinator",
        &["init", "--dir", net.to_str().unwrap(), "--name", "t"],
        &[],
    );
    assert!(made.status.success(), "{made:?}");
    let config = net.join("coordinator.toml");
    let good = "[database]\nurl = \"postgres://owm:hunter2@db/owm\"\n";
    fs::write(&config, good).unwrap();
    let env = [("OWM_API__LISTEN", "127.0.0.1:8088")];
    let (code, said) = check("owm-coordinator", &config, &env);
    assert_eq!((code, problems(&said).len()), (0, 0), "{said:#}");
    assert_eq!(
        effective(&said, "api", "listen"),
        ("\"127.0.0.1:8088\"", "OWM_API__LISTEN")
    );
    let url = effective(&said, "database", "url");
    assert_eq!(url, ("\"postgres://owm:***@db/owm\"", "file"));
    assert!(!said.to_string().contains("hunter2"));

    fs::write(
        &config,
        "[api]\nlisten = \"x\"\nopne = true\n[polciy]\n[rpc]\nlisten = 3\n",
    )
    .unwrap();
    let (code, said) = check("owm-coordinator", &config, &[("OWM_API__OPNE", "true")]);
    assert_eq!(code, 2);
    let expected = [
        "line 3: section `api` has no key `opne`; did you mean `open`?",
        "line 4: there is no section `polciy`; did you mean `policy`?",
        "line 2: [api] listen: ",
        "line 6: [rpc] listen: ",
        "OWM_API__OPNE overrides no key; did you mean `OWM_API__OPEN`?",
    ];
    assert_told(&said, &expected);

    // What only the program can know.
    fs::write(
        &config,
        "[api]\nopen = true\nlisten = \"0.0.0.0:80\"\n[database]\nurl_file = \"none\"\n[identity]\ndir = \"empty\"\n",
    )
    .unwrap();
    let (code, said) = check("owm-coordinator", &config, &[]);
    assert_eq!(code, 2);
    assert_told(
        &said,
        &[
            "api.open = true is for a devnet",
            "holds no network",
            "cannot read the secret file",
        ],
    );

    fs::write(&config, "").unwrap();
    let args = ["invite", "--config", config.to_str().unwrap()];
    let invite = String::from_utf8(run("owm-coordinator", &args, &[]).stdout).unwrap();
    check_node(folder.path(), invite.lines().next().unwrap().trim());
}

fn check_node(folder: &Path, invite: &str) {
    let home = folder.join("node");
    let made = run(
        "owm-node",
        &["init", "--join", invite, "--dir", home.to_str().unwrap()],
        &[],
    );
    assert!(made.status.success(), "{made:?}");
    let config = home.join("owm.toml");
    let (code, said) = check("owm-node", &config, &[("OWM_CAPS__RAM", "4GiB")]);
    assert_eq!((code, problems(&said).len()), (0, 0), "{said:#}");
    assert_eq!(effective(&said, "caps", "ram").1, "OWM_CAPS__RAM");
    assert_eq!(effective(&said, "coordinator", "invite").1, "file");

    let wrong = "[node]\ndata = \"nowhere\"\n[caps]\nhours = [\"25-26\"]\n[health]\nlisten = \"0.0.0.0:1\"\n[model]\nsub_models = [\"no spaces\"]\n";
    fs::write(&config, wrong).unwrap();
    let (code, said) = check("owm-node", &config, &[]);
    assert_eq!(code, 2);
    assert_told(
        &said,
        &[
            "coordinator.invite is empty; run owm-node init",
            "caps: ",
            "model.sub_models: `no spaces`",
            "health.listen = `0.0.0.0:1` is no loopback address",
            "node.pem",
        ],
    );
    fs::write(&config, "[node]\ndrian = \"5s\"\n[caps]\nram = \"lots\"\n").unwrap();
    let (code, said) = check("owm-node", &config, &[]);
    assert_eq!(code, 2);
    assert_told(&said, &["did you mean `drain`?", "line 4: [caps] ram: "]);
}
