//! Which public corpora there are, and of which packages. Called by the fetcher and the commands. The list
//! is part of the program: every machine that knows an id means the same bytes.

use serde::{Deserialize, Serialize};

/// The program that brings a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Client {
    /// `npm pack`.
    Npm,
    /// `cargo fetch`; what Cargo's own cache has is taken from there.
    Cargo,
}

/// One archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// Who brings it.
    pub client: Client,
    /// Its name there.
    pub name: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of the archive, lowercase hexadecimal.
    pub sha256: String,
    /// Under which licence it is.
    pub licence: String,
}

/// A corpus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Corpus {
    /// Its id, as leases name it.
    pub id: String,
    /// What it is.
    pub about: String,
    /// What one shard of it is.
    pub shards: String,
    /// Its packages.
    pub packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Catalogue {
    corpora: Vec<Corpus>,
}

/// All corpora.
pub fn catalogue() -> Vec<Corpus> {
    let parsed: Catalogue = serde_json::from_str(include_str!("catalogue.json"))
        .expect("the list is part of the program and read by its tests");
    parsed.corpora
}

/// The corpus of an id.
pub fn corpus(id: &str) -> Option<Corpus> {
    catalogue().into_iter().find(|corpus| corpus.id == id)
}

impl Package {
    /// The archive's name in the cache.
    pub fn file_name(&self) -> String {
        format!("{}-{}.tar.gz", self.name, self.version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sound_and_its_licences_allow_training() {
        let corpora = catalogue();
        let ids: Vec<&str> = corpora.iter().map(|corpus| corpus.id.as_str()).collect();
        assert_eq!(ids, ["owm-geo", "owm-code"]);
        for package in corpora.iter().flat_map(|corpus| &corpus.packages) {
            assert_eq!(package.sha256.len(), 64, "{package:?}");
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            assert!(package.name.chars().all(plain), "{package:?}");
            assert!(!package.name.starts_with(['-', '.']), "{package:?}");
            let licence = &package.licence;
            let known = ["MIT", "Apache-2.0", "BSD", "public domain"];
            assert!(
                known.iter().any(|known| licence.contains(known)),
                "{package:?}"
            );
        }
        assert!(corpus("owm-sci").is_none());
    }
}
