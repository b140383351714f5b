//! Ports on 127.0.0.1 that nobody else takes meanwhile, for TCP and UDP alike.
//!
//! Every part of a devnet that listens takes its port here first. Must stay true: two devnets (tests
//! run side by side) are never given the same port, which only a lock held for the port's whole life
//! ensures; the numbers lie below the range that the kernel hands out to outgoing connections.

use std::{
    env,
    fs::{self, File, OpenOptions},
    net::{Ipv4Addr, TcpListener, UdpSocket},
    ops::Range,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, bail};

/// Where free ports are looked for: below Linux's ephemeral range (32768 on), above the well-known
/// ones.
const RANGE: Range<u16> = 20_000..32_000;

/// A port that is ours until the value is dropped.
#[derive(Debug)]
pub struct Port {
    number: u16,
    // Holds the lock.
    _lock: File,
}

impl Port {
    /// `wanted`, which must be free, or any free one.
    pub fn take(wanted: Option<u16>) -> Result<Self> {
        let Some(number) = wanted else {
            return Self::any();
        };
        match Self::claim(number)? {
            Some(port) => Ok(port),
            None => bail!("port {number} on 127.0.0.1 is taken by another program"),
        }
    }

    /// `preferred` if it is free, else any.
    pub fn prefer(preferred: u16) -> Result<Self> {
        match Self::claim(preferred)? {
            Some(port) => Ok(port),
            None => Self::any(),
        }
    }

    /// The number.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// `127.0.0.1:number`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.number)
    }

    fn any() -> Result<Self> {
        // Processes start apart from each other, so that they rarely ask for the same numbers.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let width = u32::from(RANGE.end - RANGE.start);
        let start = std::process::id().wrapping_mul(97);
        for _ in 0..width {
            let step = NEXT.fetch_add(1, Ordering::Relaxed);
            let offset = start.wrapping_add(step) % width;
            let number = RANGE.start + u16::try_from(offset).expect("the range's width fits u16");
            if let Some(port) = Self::claim(number)? {
                return Ok(port);
            }
        }
        bail!(
            "no free port on 127.0.0.1 between {} and {}",
            RANGE.start,
            RANGE.end
        )
    }

    /// The port, unless another devnet holds its lock or another program listens on it.
    fn claim(number: u16) -> Result<Option<Self>> {
        let folder = lock_folder()?;
        let path = folder.join(number.to_string());
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .with_context(|| format!("cannot open the port lock {}", path.display()))?;
        let address = (Ipv4Addr::LOCALHOST, number);
        let taken = TcpListener::bind(address).is_err() || UdpSocket::bind(address).is_err();
        if lock.try_lock().is_err() || taken {
            return Ok(None);
        }
        Ok(Some(Self {
            number,
            _lock: lock,
        }))
    }
}

/// One folder for each user: lock files of another's could not be opened.
fn lock_folder() -> Result<PathBuf> {
    let folder = env::temp_dir().join(format!("owm-ports-{}", nix::unistd::Uid::effective()));
    if !folder.exists() {
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make the port locks' folder {}", folder.display()))?;
        drop(fs::set_permissions(
            &folder,
            fs::Permissions::from_mode(0o700),
        ));
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_given_out_once_until_it_is_dropped() {
        let first = Port::take(None).unwrap();
        let number = first.number();
        assert!(Port::take(Some(number)).is_err());
        assert_ne!(Port::prefer(number).unwrap().number(), number);
        drop(first);
        assert_eq!(Port::prefer(number).unwrap().number(), number);
    }

    #[test]
    fn a_port_that_another_program_listens_on_is_refused() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let number = listener.local_addr().unwrap().port();
        let error = Port::take(Some(number)).unwrap_err().to_string();
        assert!(error.contains(&number.to_string()), "{error}");
    }
}
