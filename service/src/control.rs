//! A running daemon's control socket: a Unix socket in its folder, one JSON line in, one JSON line out.
//! Daemons [`bind`] and [`Listener::serve`] it, their command lines [`ask`].
//!
//! Must stay true: only this user (and root) is answered, whatever the folder's permissions; a line has a
//! length and a question a time; a browser cannot reach it at all, so nothing here looks at a `Host`.

use std::{
    io::ErrorKind,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::Path,
    time::Duration,
};

use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
};

/// Longest line of either side, in bytes.
const LINE_BYTES_MAX: u64 = 1 << 20;
/// Time for one question.
const TIME: Duration = Duration::from_secs(5);
/// Pause after a failed `accept` (out of file descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody listens.
    #[error("{program} is not running here (nobody answers on {path}); start it: {start}")]
    NotRunning {
        /// Which daemon.
        program: &'static str,
        /// Where it was looked for.
        path: String,
        /// How it is started.
        start: &'static str,
    },
    /// The socket can't be made.
    #[error(
        "cannot make the control socket {path}; is the path longer than 100 characters, or the folder not ours?"
    )]
    Bind {
        /// Where.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// Something else has that name.
    #[error(
        "the control socket cannot be {path}: {what}; correct the path, or remove what is there"
    )]
    Taken {
        /// Where.
        path: String,
        /// What is there.
        what: &'static str,
    },
    /// It broke, or answered nonsense.
    #[error("the running {program} gave no usable answer; is it another version?")]
    Broken {
        /// Which daemon.
        program: &'static str,
    },
}

/// What is answered, and what is done once it is written.
pub struct Reply {
    value: serde_json::Value,
    after: Option<Box<dyn FnOnce() + Send>>,
}

impl Reply {
    /// Answers this. Anything that is no JSON becomes `null`, which no asker takes for an answer.
    pub fn of(value: &impl Serialize) -> Self {
        Self {
            value: serde_json::to_value(value).unwrap_or_default(),
            after: None,
        }
    }

    /// Does this when the answer is written: an order that ends the daemon ends this socket too.
    #[must_use]
    pub fn then(mut self, after: impl FnOnce() + Send + 'static) -> Self {
        self.after = Some(Box::new(after));
        self
    }
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reply")
    }
}

/// A bound control socket.
#[derive(Debug)]
pub struct Listener(UnixListener);

/// Binds the socket at `path`, mode 0600. One that a former process has left is replaced; nothing else ever
/// is.
pub fn bind(path: &Path) -> Result<Listener, ControlError> {
    let failed = |source| ControlError::Bind {
        path: path.display().to_string(),
        source,
    };
    let taken = |what| {
        let path = path.display().to_string();
        Err(ControlError::Taken { path, what })
    };
    if let Ok(found) = std::fs::symlink_metadata(path) {
        if !found.file_type().is_socket() {
            return taken("a file that is no socket is there");
        }
        match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => return taken("another process listens there"),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        }
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(Listener(listener))
}

impl Listener {
    /// Answers questions one after the other (its user is one person) until dropped. `answer` gets the line
    /// and gives the reply; `None` closes the connection without a word.
    pub async fn serve<F>(self, answer: impl Fn(String) -> F + Send)
    where
        F: Future<Output = Option<Reply>> + Send,
    {
        loop {
            let Ok((stream, _)) = self.0.accept().await else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let answered = tokio::time::timeout(TIME, converse(stream, &answer)).await;
            if !matches!(answered, Ok(Ok(()))) {
                tracing::debug!("a question on the control socket was not answered");
            }
        }
    }
}

async fn converse<F: Future<Output = Option<Reply>>>(
    stream: UnixStream,
    answer: &impl Fn(String) -> F,
) -> std::io::Result<()> {
    // Between bind and chmod the file may be open to others; the kernel knows who they are.
    let (peer, own) = (stream.peer_cred()?.uid(), nix::unistd::geteuid().as_raw());
    if peer != own && peer != 0 {
        return Err(std::io::ErrorKind::PermissionDenied.into());
    }
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    (&mut stream)
        .take(LINE_BYTES_MAX)
        .read_line(&mut line)
        .await?;
    let Some(Reply { value, after }) = answer(line).await else {
        return Err(std::io::ErrorKind::InvalidData.into());
    };
    let written = stream
        .get_mut()
        .write_all(format!("{value}\n").as_bytes())
        .await;
    if let Some(after) = after {
        after();
    }
    written
}

/// Who is asked.
#[derive(Debug, Clone, Copy)]
pub struct Daemon {
    /// Its name: `owm-node`.
    pub program: &'static str,
    /// How it is started: `owm-node start`.
    pub start: &'static str,
}

/// Asks the daemon that listens at `path`.
pub async fn ask<Q: Serialize, A: DeserializeOwned>(
    path: &Path,
    daemon: Daemon,
    question: &Q,
) -> Result<A, ControlError> {
    let Daemon { program, start } = daemon;
    let stream = UnixStream::connect(path)
        .await
        .map_err(|_| ControlError::NotRunning {
            program,
            path: path.display().to_string(),
            start,
        })?;
    let asking = async move {
        let mut stream = BufReader::new(stream);
        let mut question = serde_json::to_vec(question)?;
        question.push(b'\n');
        stream.get_mut().write_all(&question).await?;
        let mut line = String::new();
        stream.take(LINE_BYTES_MAX).read_line(&mut line).await?;
        Ok::<A, std::io::Error>(serde_json::from_str(&line)?)
    };
    match tokio::time::timeout(TIME, asking).await {
        Ok(Ok(answer)) => Ok(answer),
        _ => Err(ControlError::Broken { program }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAEMON: Daemon = Daemon {
        program: "owm-test",
        start: "owm-test start",
    };

    #[tokio::test]
    async fn a_line_in_is_a_line_out_and_nonsense_gets_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let (done, mut after) = tokio::sync::mpsc::channel(1);
        let answer = move |line: String| {
            let done = done.clone();
            async move {
                let n: u32 = serde_json::from_str(&line).ok()?;
                Some(Reply::of(&(n + 1)).then(move || done.try_send(n).unwrap()))
            }
        };
        let server = tokio::spawn(bind(&path).unwrap().serve(answer));
        assert_eq!(ask::<_, u32>(&path, DAEMON, &41).await.unwrap(), 42);
        assert_eq!(after.recv().await, Some(41));
        let broken = ask::<_, u32>(&path, DAEMON, &"x").await.unwrap_err();
        assert!(matches!(broken, ControlError::Broken { .. }), "{broken}");
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        server.abort();
        drop(server.await);
        let gone = ask::<_, u32>(&path, DAEMON, &1).await.unwrap_err();
        assert!(gone.to_string().contains("owm-test start"), "{gone}");
    }

    #[tokio::test]
    async fn the_socket_of_a_former_process_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        drop(bind(&path).unwrap());
        assert!(path.exists());
        bind(&path).unwrap();
    }

    #[tokio::test]
    async fn no_file_and_no_living_socket_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("coordinator.toml");
        std::fs::write(&file, "precious").unwrap();
        let refused = bind(&file).unwrap_err().to_string();
        assert!(refused.contains("no socket"), "{refused}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
        let path = folder.path().join("control.sock");
        let living = bind(&path).unwrap();
        let refused = bind(&path).unwrap_err().to_string();
        assert!(refused.contains("another process listens"), "{refused}");
        assert!(path.exists());
        drop(living);
        bind(&path).unwrap();
    }
}
