//! An operator's folder to documents. Called by the daemon. Bounded in files, bytes and depth; links are
//! never followed, and everything is opened below the folder that was opened before, so nothing outside of it is
//! read whatever is exchanged meanwhile; what is left out is named with its reason.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read},
    os::{fd::OwnedFd, unix::ffi::OsStringExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, statat};

use crate::{Document, document::deduplicate, json};

/// Most reasons that are kept with their paths; all are counted.
const NAMED_MAX: usize = 1000;
/// Folders inside one another.
const DEPTH_MAX: usize = 64;

/// Bounds of reading a folder.
#[derive(Debug, Clone, Copy)]
pub struct FolderLimits {
    /// Largest file, in bytes.
    pub file_bytes: u64,
    /// Text that is kept in memory at most, in bytes.
    pub total_bytes: u64,
    /// Files that are looked at.
    pub files: usize,
}

impl Default for FolderLimits {
    fn default() -> Self {
        Self {
            // Larger ones are data, not writing.
            file_bytes: 4 << 20,
            // Weeks of training on two cores.
            total_bytes: 256 << 20,
            files: 200_000,
        }
    }
}

/// Why a file or folder was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum SkipReason {
    /// Its name begins with a dot.
    Hidden,
    /// A symbolic link: it might lead out of the folder.
    Link,
    /// Neither file nor folder.
    Special,
    /// Larger than [`FolderLimits::file_bytes`].
    TooLarge,
    /// Not UTF-8, or with zero bytes.
    Binary,
    /// Nothing but blanks.
    Empty,
    /// The system refused.
    Unreadable,
    /// The folder's bounds were reached.
    BeyondLimit,
}

impl SkipReason {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Hidden => "hidden",
            Self::Link => "a symbolic link",
            Self::Special => "neither file nor folder",
            Self::TooLarge => "too large",
            Self::Binary => "not text",
            Self::Empty => "empty",
            Self::Unreadable => "not readable",
            Self::BeyondLimit => "beyond the limit",
        }
    }
}

/// What was not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Path below the folder.
    pub path: String,
    /// Why.
    pub reason: SkipReason,
}

/// A folder's text.
#[derive(Debug, Clone, Default)]
pub struct FolderText {
    /// Documents without duplicates, sorted by name.
    pub documents: Vec<Document>,
    /// Documents that were the same as another.
    pub duplicates: usize,
    /// What was left out: the first thousand.
    pub skipped: Vec<Skipped>,
    /// How many of each reason.
    pub skipped_counts: BTreeMap<SkipReason, usize>,
}

/// A folder could not be read at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FolderError {
    /// Not there, or no folder.
    #[error("{path} cannot be opened as a folder: give a folder with text in it")]
    Open {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Nothing to read in it.
    #[error(
        "{path} holds no text ({left_out}): give a folder with text, source code or GeoJSON in it"
    )]
    NoText {
        /// The folder.
        path: PathBuf,
        /// What was left out, in words.
        left_out: String,
    },
}

struct Walk<'a> {
    limits: FolderLimits,
    text: FolderText,
    files: usize,
    bytes: u64,
    progress: &'a mut dyn FnMut(usize, u64),
}

/// Reads a folder. `progress` hears files looked at and bytes kept.
pub fn read_folder(
    folder: &Path,
    limits: FolderLimits,
    progress: &mut dyn FnMut(usize, u64),
) -> Result<FolderText, FolderError> {
    let open = |source| FolderError::Open {
        path: folder.to_owned(),
        source,
    };
    let root = File::open(folder).map_err(open)?;
    let root = OwnedFd::from(root);
    let names = names(&root).map_err(open)?;
    let mut walk = Walk {
        limits,
        text: FolderText::default(),
        files: 0,
        bytes: 0,
        progress,
    };
    walk.folder(&root, names, Path::new(""), 0);
    let mut text = walk.text;
    text.duplicates = deduplicate(&mut text.documents);
    if text.documents.is_empty() {
        let counts: Vec<String> = text
            .skipped_counts
            .iter()
            .map(|(reason, count)| format!("{count} {}", reason.words()))
            .collect();
        let left_out = if counts.is_empty() {
            "it is empty".to_owned()
        } else {
            counts.join(", ")
        };
        return Err(FolderError::NoText {
            path: folder.to_owned(),
            left_out,
        });
    }
    Ok(text)
}

/// How a folder below another is opened: a link, or what is no folder any more, is refused.
const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
/// How a file is opened: it may have become a link or a pipe since it was looked at.
const FILE: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::CLOEXEC);

/// What is in a folder, by name, so that bounds cut the same everywhere.
fn names(folder: &OwnedFd) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let name = OsString::from_vec(entry?.file_name().to_bytes().to_vec());
        if name != "." && name != ".." {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

impl Walk<'_> {
    /// Reads what is in a folder; `path` is its name below the first.
    fn folder(&mut self, folder: &OwnedFd, names: Vec<OsString>, path: &Path, depth: usize) {
        for name in names {
            let path = path.join(&name);
            if let Err(reason) = self.entry(folder, &name, &path, depth) {
                self.skip(&path, reason);
            }
        }
    }

    fn entry(
        &mut self,
        folder: &OwnedFd,
        name: &OsStr,
        path: &Path,
        depth: usize,
    ) -> Result<(), SkipReason> {
        if name.as_encoded_bytes().starts_with(b".") {
            return Err(SkipReason::Hidden);
        }
        let found = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
        let found = found.map_err(|_| SkipReason::Unreadable)?;
        match FileType::from_raw_mode(found.st_mode) {
            FileType::RegularFile => {}
            FileType::Directory => return self.below(folder, name, path, depth + 1),
            FileType::Symlink => return Err(SkipReason::Link),
            _ => return Err(SkipReason::Special),
        }
        self.files += 1;
        if self.files > self.limits.files || self.bytes >= self.limits.total_bytes {
            return Err(SkipReason::BeyondLimit);
        }
        if u64::try_from(found.st_size).is_ok_and(|size| size > self.limits.file_bytes) {
            return Err(SkipReason::TooLarge);
        }
        let text = self.read(folder, name)?;
        let document = Document::new(path.to_string_lossy().into_owned(), &as_text(path, text));
        if document.text.is_empty() {
            return Err(SkipReason::Empty);
        }
        self.bytes += document.text.len() as u64;
        self.text.documents.push(document);
        (self.progress)(self.files, self.bytes);
        Ok(())
    }

    fn below(
        &mut self,
        folder: &OwnedFd,
        name: &OsStr,
        path: &Path,
        depth: usize,
    ) -> Result<(), SkipReason> {
        if depth > DEPTH_MAX {
            return Err(SkipReason::BeyondLimit);
        }
        let unreadable = |_| SkipReason::Unreadable;
        let folder =
            openat(folder, name, FOLDER, Mode::empty()).map_err(|e| unreadable(e.into()))?;
        let names = names(&folder).map_err(unreadable)?;
        self.folder(&folder, names, path, depth);
        Ok(())
    }

    fn read(&self, folder: &OwnedFd, name: &OsStr) -> Result<String, SkipReason> {
        let file = openat(folder, name, FILE, Mode::empty());
        let file: File = file.map_err(|_| SkipReason::Unreadable)?.into();
        let mut bytes = Vec::new();
        let read = file
            .take(self.limits.file_bytes + 1)
            .read_to_end(&mut bytes);
        read.map_err(|_| SkipReason::Unreadable)?;
        if bytes.len() as u64 > self.limits.file_bytes {
            return Err(SkipReason::TooLarge);
        }
        if bytes.contains(&0) {
            return Err(SkipReason::Binary);
        }
        String::from_utf8(bytes).map_err(|_| SkipReason::Binary)
    }

    fn skip(&mut self, path: &Path, reason: SkipReason) {
        *self.text.skipped_counts.entry(reason).or_default() += 1;
        if self.text.skipped.len() < NAMED_MAX {
            let path = path.to_string_lossy().into_owned();
            self.text.skipped.push(Skipped { path, reason });
        }
    }
}

/// GeoJSON as lines of text; all other text as it is.
pub(crate) fn as_text(path: &Path, text: String) -> String {
    let is_geojson = path
        .extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("geojson"));
    if is_geojson && let Some(lines) = json::text(&text) {
        return lines;
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn write(folder: &Path, name: &str, bytes: &[u8]) {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn read(folder: &Path, limits: FolderLimits) -> Result<FolderText, FolderError> {
        read_folder(folder, limits, &mut |_, _| {})
    }

    #[test]
    fn a_folder_s_texts_are_read_and_the_rest_is_named_with_its_reason() {
        let outside = tempfile::tempdir().unwrap();
        write(outside.path(), "secret.txt", b"not to be read");
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path();
        write(folder, "b.txt", b"hello\n");
        write(folder, "a/copy.txt", b"hello \r\n");
        write(folder, "a/code.rs", b"fn main() {}\n");
        write(
            folder,
            "map.geojson",
            br#"{"type": "Feature", "properties": {"name": "Rome"},
            "geometry": {"type": "Point", "coordinates": [12.5, 41.9]}}"#,
        );
        write(folder, "picture.png", b"\x89PNG\0");
        write(folder, "latin.txt", b"caf\xe9");
        write(folder, "blank.txt", b" \n");
        write(folder, ".git/config", b"hidden");
        write(folder, "large.txt", &vec![b'x'; 5000]);
        std::os::unix::fs::symlink(outside.path().join("secret.txt"), folder.join("link.txt"))
            .unwrap();
        std::os::unix::fs::symlink(outside.path(), folder.join("links")).unwrap();
        let limits = FolderLimits {
            file_bytes: 4096,
            ..FolderLimits::default()
        };
        let text = read(folder, limits).unwrap();
        let names: Vec<&str> = text.documents.iter().map(|d| d.name.as_str()).collect();
        assert_eq!(names, ["a/code.rs", "a/copy.txt", "map.geojson"]);
        assert_eq!(text.duplicates, 1);
        assert!(
            text.documents[2]
                .text
                .starts_with("name: Rome\nPoint at latitude 41.9")
        );
        let reason = |path: &str| {
            let found = text.skipped.iter().find(|skipped| skipped.path == path);
            found.map(|skipped| skipped.reason)
        };
        assert_eq!(reason("picture.png"), Some(SkipReason::Binary));
        assert_eq!(reason("latin.txt"), Some(SkipReason::Binary));
        assert_eq!(reason("blank.txt"), Some(SkipReason::Empty));
        assert_eq!(reason(".git"), Some(SkipReason::Hidden));
        assert_eq!(reason("large.txt"), Some(SkipReason::TooLarge));
        assert_eq!(reason("link.txt"), Some(SkipReason::Link));
        assert_eq!(reason("links"), Some(SkipReason::Link));
        assert_eq!(text.skipped_counts[&SkipReason::Binary], 2);
    }

    #[test]
    fn a_folder_that_became_a_link_is_not_entered() {
        let outside = tempfile::tempdir().unwrap();
        write(outside.path(), "secret.txt", b"not to be read");
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "a/first.txt", b"read");
        write(dir.path(), "b/second.txt", b"never read");
        let mut exchange = |files: usize, _: u64| {
            if files == 1 {
                fs::remove_dir_all(dir.path().join("b")).unwrap();
                std::os::unix::fs::symlink(outside.path(), dir.path().join("b")).unwrap();
            }
        };
        let text = read_folder(dir.path(), FolderLimits::default(), &mut exchange).unwrap();
        let names: Vec<&str> = text.documents.iter().map(|d| d.name.as_str()).collect();
        assert_eq!(names, ["a/first.txt"]);
        let root = OwnedFd::from(File::open(dir.path()).unwrap());
        assert!(openat(&root, "b", FOLDER, Mode::empty()).is_err());
    }

    #[test]
    fn the_bounds_of_a_folder_hold() {
        let dir = tempfile::tempdir().unwrap();
        for i in 0..10 {
            write(
                dir.path(),
                &format!("{i}.txt"),
                format!("text {i}").as_bytes(),
            );
        }
        let limits = FolderLimits {
            files: 4,
            ..FolderLimits::default()
        };
        let text = read(dir.path(), limits).unwrap();
        assert_eq!(text.documents.len(), 4);
        assert_eq!(text.skipped_counts[&SkipReason::BeyondLimit], 6);
        let limits = FolderLimits {
            total_bytes: 14,
            ..FolderLimits::default()
        };
        assert_eq!(read(dir.path(), limits).unwrap().documents.len(), 2);
    }

    #[test]
    fn a_folder_without_text_is_refused_with_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let error = read(dir.path(), FolderLimits::default()).unwrap_err();
        assert!(error.to_string().contains("it is empty"), "{error}");
        write(dir.path(), "a.bin", &[0, 1, 2]);
        let error = read(dir.path(), FolderLimits::default()).unwrap_err();
        assert!(error.to_string().contains("1 not text"), "{error}");
        let error = read(&dir.path().join("absent"), FolderLimits::default()).unwrap_err();
        assert!(matches!(error, FolderError::Open { .. }));
    }
}
