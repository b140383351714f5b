//! Style, scripts and icon of the page, embedded in the program. Each is served under a path that holds
//! its hash, so that browsers may keep it for ever, and named with its integrity hash in the page.
//! htmx and its event stream extension are vendored unchanged (`coordinator/server/static`,
//! htmx-LICENSE); a test holds them against the release's hashes.

use std::sync::LazyLock;

use data_encoding::BASE64;
use owm_proto::Sha256;

/// One embedded file.
#[derive(Debug)]
pub(crate) struct Asset {
    /// Where it is served: `/static/{hash}/{name}`.
    pub(crate) path: String,
    /// What the page says it must hash to (Subresource Integrity).
    pub(crate) integrity: String,
    /// Its media type.
    pub(crate) media: &'static str,
    /// Its bytes.
    pub(crate) bytes: &'static [u8],
}

impl Asset {
    fn new(name: &str, media: &'static str, bytes: &'static [u8]) -> Self {
        let hash = Sha256::of(bytes);
        Self {
            path: format!("/static/{}/{name}", hash.short()),
            integrity: format!("sha256-{}", BASE64.encode(hash.as_bytes())),
            media,
            bytes,
        }
    }
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Assets {
    /// `page.css`
    pub(crate) style: Asset,
    /// `icon.svg`
    pub(crate) icon: Asset,
    htmx: Asset,
    sse: Asset,
    page: Asset,
}

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Hashed once.
pub(crate) static ASSETS: LazyLock<Assets> = LazyLock::new(|| Assets {
    style: Asset::new(
        "page.css",
        "text/css; charset=utf-8",
        include_bytes!("../../static/page.css"),
    ),
    icon: Asset::new(
        "icon.svg",
        "image/svg+xml",
        include_bytes!("../../static/icon.svg"),
    ),
    htmx: Asset::new(
        "htmx-4.0.1.min.js",
        SCRIPT,
        include_bytes!("../../static/htmx-4.0.1.min.js"),
    ),
    sse: Asset::new(
        "hx-sse-4.0.1.min.js",
        SCRIPT,
        include_bytes!("../../static/hx-sse-4.0.1.min.js"),
    ),
    page: Asset::new("page.js", SCRIPT, include_bytes!("../../static/page.js")),
});

impl Assets {
    /// The scripts, in the order in which they have to run.
    pub(crate) fn scripts(&self) -> [&Asset; 3] {
        [&self.htmx, &self.sse, &self.page]
    }

    /// The one that is served at `path`.
    pub(crate) fn find(&self, path: &str) -> Option<&Asset> {
        let [htmx, sse, page] = self.scripts();
        [&self.style, &self.icon, htmx, sse, page]
            .into_iter()
            .find(|asset| asset.path == path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vendored_scripts_are_the_release_s_bytes() {
        let assets = &*ASSETS;
        let hash = |asset: &Asset| Sha256::of(asset.bytes).to_string();
        assert_eq!(
            hash(&assets.htmx),
            "a0abb04f2f45a1f89d1d4844023245537e5e6014c87b144553e0607b4cc32130"
        );
        assert_eq!(
            hash(&assets.sse),
            "18ef2761356ec1fe0bb6d92612315b37517a7c1e9856b661c5ae81fef239d103"
        );
    }

    #[test]
    fn a_path_changes_with_the_bytes() {
        let (old, new) = (Asset::new("a", SCRIPT, b"1"), Asset::new("a", SCRIPT, b"2"));
        assert_ne!(old.path, new.path);
        assert_eq!(
            old.integrity,
            "sha256-a4ayc/80/OGda4BO/1o/V0etpOqiLx1JwB5S3beHW0s="
        );
        assert!(ASSETS.find(&ASSETS.htmx.path).is_some());
        assert!(ASSETS.find("/static/00000000/page.css").is_none());
    }
}
