//! Sets keys in a TOML file that a program's `init` wrote.
//!
//! Used for coordinator and nodes. Must stay true: only the keys named change, so that new sections of
//! the programs need nothing here.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use toml::{Table, Value};

use crate::ports::Port;

/// The network policy of a devnet's peers.
pub(crate) const LOOPBACK_ONLY: &str = "loopback_only";

/// Says who wrote the file last; comments of the original are lost in the rewriting.
const HEADER: &str = "\
# Written by owm-devnet at each start; these keys are set anew each time: see the comment above each
# section's name in `owm-coordinator config sample` or `owm-node config sample`.
";

/// One key: section, name, value.
pub(crate) type Setting = (&'static str, &'static str, Value);

/// Sets `settings` in the file at `path`, `comment` above all.
pub(crate) fn set(path: &Path, comment: &str, settings: Vec<Setting>) -> Result<()> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut table: Table =
        toml::from_str(&text).with_context(|| format!("{} is no TOML", path.display()))?;
    for (section, key, value) in settings {
        let section = table
            .entry(section)
            .or_insert_with(|| Value::Table(Table::new()))
            .as_table_mut()
            .with_context(|| format!("[{section}] of {} is no section", path.display()))?;
        section.insert(key.to_owned(), value);
    }
    let body = toml::to_string(&table).context("a table that was read can be written")?;
    // Through a rename: a reader never sees half a file.
    let beside = path.with_extension("toml.new");
    fs::write(&beside, format!("{HEADER}{comment}\n{body}"))
        .and_then(|()| fs::rename(&beside, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// A list of strings.
pub(crate) fn strings<const N: usize>(values: [String; N]) -> Value {
    Value::Array(values.into_iter().map(Value::String).collect())
}

/// Where a peer listens: QUIC and TCP on the same number.
pub(crate) fn peer_addresses(port: &Port) -> Value {
    let number = port.number();
    strings([
        format!("/ip4/127.0.0.1/udp/{number}/quic-v1"),
        format!("/ip4/127.0.0.1/tcp/{number}"),
    ])
}

/// A path as a string.
pub(crate) fn path(path: &Path) -> Value {
    Value::String(path.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_named_keys_change() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.toml");
        fs::write(
            &file,
            "[api]\nlisten = \"x\"\nopen = false\n# remark\n[log]\nlevel = 1\n",
        )
        .unwrap();
        set(
            &file,
            "# why",
            vec![
                ("api", "open", true.into()),
                ("blobs", "dir", path(Path::new("/b"))),
            ],
        )
        .unwrap();
        let text = fs::read_to_string(&file).unwrap();
        let table: Table = toml::from_str(&text).unwrap();
        let expected: Table = toml::from_str(
            "[api]\nlisten = \"x\"\nopen = true\n[log]\nlevel = 1\n[blobs]\ndir = \"/b\"",
        )
        .unwrap();
        assert_eq!(table, expected);
        assert!(text.contains("# why"), "{text}");
    }
}
