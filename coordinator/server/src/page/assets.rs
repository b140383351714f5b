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
    /// The scripts, in the order in which they have to run: ours listens before htmx connects. The other
    /// way round, a slow machine connects before anybody listens, and the page says "Connecting" for ever.
    pub(crate) fn scripts(&self) -> [&Asset; 3] {
        [&self.page, &self.htmx, &self.sse]
    }

    /// The one that is served at `path`.
    pub(crate) fn find(&self, path: &str) -> Option<&Asset> {
        let [page, htmx, sse] = self.scripts();
        [&self.style, &self.icon, page, htmx, sse]
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
    fn the_page_listens_before_htmx_connects() {
        let order = ASSETS.scripts().map(|script| &script.path);
        assert!(order[0].ends_with("page.js"), "{order:?}");
        assert!(order[1].ends_with("htmx-4.0.1.min.js"), "{order:?}");
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

    /// The colours of one of the style's palettes.
    fn palette(css: &str) -> Vec<(&str, [f64; 3])> {
        let declared = css.split_once('}').expect("a block ends").0;
        let colour = |hex: &str| {
            let hex: String = match hex.len() {
                3 => hex.chars().flat_map(|c| [c, c]).collect(),
                _ => hex.to_owned(),
            };
            let part = |at: usize| {
                let value = u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
                let value = f64::from(value) / 255.0;
                if value <= 0.040_45 {
                    value / 12.92
                } else {
                    ((value + 0.055) / 1.055).powf(2.4)
                }
            };
            [part(0), part(2), part(4)]
        };
        declared
            .split("--")
            .filter_map(|rest| rest.split_once(": #"))
            .map(|(name, rest)| (name, colour(rest.split_once(';').unwrap().0)))
            .collect()
    }

    /// WCAG's contrast of two colours in linear light.
    fn contrast(a: [f64; 3], b: [f64; 3]) -> f64 {
        let luminance = |[r, g, b]: [f64; 3]| 0.2126 * r + 0.7152 * g + 0.0722 * b;
        let (a, b) = (luminance(a) + 0.05, luminance(b) + 0.05);
        (a / b).max(b / a)
    }

    #[test]
    fn every_text_is_told_from_its_ground_in_light_and_dark() {
        let css = std::str::from_utf8(ASSETS.style.bytes).unwrap();
        let (light, rest) = css.split_once("prefers-color-scheme: dark").unwrap();
        for palette in [palette(light), palette(rest)] {
            let named = |wanted: &str| {
                let found = palette.iter().find(|(name, _)| *name == wanted);
                found.unwrap_or_else(|| panic!("{wanted} in {palette:?}")).1
            };
            let mut pairs = vec![];
            for ink in [
                "text", "soft", "link", "mark", "good", "degraded", "down", "busy",
            ] {
                pairs.extend([(ink, "card"), (ink, "ground")]);
            }
            for level in ["good", "degraded", "down"] {
                let own = ["good-ground", "degraded-ground", "down-ground"];
                let own = own
                    .into_iter()
                    .find(|ground| ground.starts_with(level))
                    .unwrap();
                pairs.extend([(level, own), ("text", own), ("soft", own)]);
            }
            for (ink, ground) in pairs {
                let contrast = contrast(named(ink), named(ground));
                assert!(contrast >= 4.5, "{ink} on {ground}: {contrast:.2}");
            }
        }
    }
}
