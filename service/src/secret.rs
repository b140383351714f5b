//! Values that must not be printed and are wiped when dropped; reading them from a file.
//!
//! Configurations name secrets by file path only. Must stay true: no `Display`, no `Serialize`, a
//! `Debug` that shows nothing.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use zeroize::{Zeroize, Zeroizing};

/// Largest secret file read, in bytes: keys and tokens are far smaller.
pub const SECRET_FILE_BYTES_MAX: u64 = 64 * 1024;

/// A value with a redacted `Debug`, wiped on drop.
pub struct Secret<T: Zeroize>(T);

impl<T: Zeroize> Secret<T> {
    /// Wraps `value`.
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// The value itself: keep the borrow short and print it nowhere.
    pub const fn expose(&self) -> &T {
        &self.0
    }
}

impl<T: Zeroize> Drop for Secret<T> {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl<T: Zeroize + Clone> Clone for Secret<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Zeroize> From<T> for Secret<T> {
    fn from(value: T) -> Self {
        Self(value)
    }
}

impl<T: Zeroize> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Why a secret file was not taken.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// The file could not be read.
    #[error("cannot read the secret file {}: check the path and who may read it", path.display())]
    Read {
        /// The file named in the configuration.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others than the owner may read it.
    #[error(
        "the secret file {} may be read by others (mode {mode:o}): run `chmod 600` on it and, if \
         others may have seen it, replace the secret",
        path.display()
    )]
    Exposed {
        /// The file named in the configuration.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is larger than any secret.
    #[error(
        "the secret file {} holds more than {SECRET_FILE_BYTES_MAX} bytes: is it the right file?",
        path.display()
    )]
    TooLarge {
        /// The file named in the configuration.
        path: PathBuf,
    },
}

/// Reads a secret of at most [`SECRET_FILE_BYTES_MAX`] bytes from a file that only its owner may read.
pub fn read_file(path: &Path) -> Result<Secret<Vec<u8>>, SecretFileError> {
    use std::{io::Read, os::unix::fs::PermissionsExt};
    let failed = |source| SecretFileError::Read {
        path: path.to_owned(),
        source,
    };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(SecretFileError::Exposed {
            path: path.to_owned(),
            mode,
        });
    }
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(SECRET_FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > SECRET_FILE_BYTES_MAX {
        return Err(SecretFileError::TooLarge {
            path: path.to_owned(),
        });
    }
    Ok(Secret::new(std::mem::take(&mut *bytes)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_is_not_printed() {
        let secret = Secret::new(String::from("hunter2"));
        assert_eq!(format!("{secret:?}"), "Secret(…)");
        assert_eq!(secret.expose(), "hunter2");
    }

    #[test]
    fn a_secret_file_must_belong_to_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "abc").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(
            read_file(&path),
            Err(SecretFileError::Exposed { mode: 0o640, .. })
        ));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(read_file(&path).unwrap().expose(), b"abc");
        std::fs::write(&path, vec![0; SECRET_FILE_BYTES_MAX as usize + 1]).unwrap();
        assert!(matches!(
            read_file(&path),
            Err(SecretFileError::TooLarge { .. })
        ));
        let missing = dir.path().join("nothing");
        assert!(matches!(
            read_file(&missing),
            Err(SecretFileError::Read { .. })
        ));
    }
}
