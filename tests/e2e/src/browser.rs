//! A headless Chromium, driven by the DevTools protocol over a pipe, as far as `tests/page.rs` needs it.
//!
//! No driver program and no port: JSON messages that end in NUL go to the browser's descriptor 3 and come
//! from its descriptor 4, which a shell makes of our pipe. Must stay true: a dropped [`Browser`] leaves
//! no process (it ends when the pipe closes, and is killed besides) and no file.

use std::{
    collections::VecDeque, fs, os::unix::fs::MetadataExt as _, path::Path, process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use data_encoding::BASE64;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::Instant,
};

/// A browser on a busy machine starts slowly; everything else is quick.
const CALL_LIMIT: Duration = Duration::from_mins(3);

/// How often a condition is looked at again.
const POLL: Duration = Duration::from_millis(50);

/// Complaints kept, the newest ones.
const COMPLAINTS_MAX: usize = 100;

/// How a page is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// Width of the window in pixels.
    pub width: u32,
    /// Its height.
    pub height: u32,
    /// Whether the reader prefers dark.
    pub dark: bool,
    /// Whether scripts run.
    pub scripts: bool,
}

impl Look {
    /// A desktop, light, with scripts.
    pub const DESKTOP: Self = Self {
        width: 1280,
        height: 900,
        dark: false,
        scripts: true,
    };
}

/// A running browser with one tab.
#[derive(Debug)]
pub struct Browser {
    _child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    calls: u64,
    session: Option<String>,
    complaints: VecDeque<String>,
    _profile: TempDir,
}

impl Browser {
    /// Starts `program`.
    pub async fn start(program: &Path) -> Result<Self> {
        let profile = tempfile::tempdir().context("cannot make a folder for the browser")?;
        // Root can't use Chromium's sandbox; the only pages opened are our own.
        let is_root = fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
        let mut child = Command::new("sh")
            .args([
                "-c",
                r#"exec "$0" "$@" 3<&0 4>&1 0</dev/null 1>&2 2>/dev/null"#,
            ])
            .arg(program)
            .args(["--headless", "--remote-debugging-pipe", "--disable-gpu"])
            .args([
                "--no-first-run",
                "--disable-dev-shm-usage",
                "--hide-scrollbars",
            ])
            .args([
                "--disable-background-networking",
                "--disable-component-update",
            ])
            .args(is_root.then_some("--no-sandbox"))
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let to = child.stdin.take().context("the browser has no input")?;
        let from = child.stdout.take().context("the browser has no output")?;
        let mut browser = Self {
            _child: child,
            to,
            from: BufReader::new(from),
            calls: 0,
            session: None,
            complaints: VecDeque::new(),
            _profile: profile,
        };
        browser.new_tab().await?;
        Ok(browser)
    }

    async fn new_tab(&mut self) -> Result<()> {
        let made = self
            .call("Target.createTarget", json!({"url": "about:blank"}))
            .await?;
        let attach = json!({"targetId": made["targetId"], "flatten": true});
        let attached = self.call("Target.attachToTarget", attach).await?;
        let session = attached["sessionId"].as_str();
        self.session = Some(session.context("no session in the answer")?.to_owned());
        for domain in ["Page.enable", "Runtime.enable", "Log.enable"] {
            self.call(domain, json!({})).await?;
        }
        Ok(())
    }

    /// Calls a method of the protocol, of the tab if there is one.
    async fn call(&mut self, method: &str, params: Value) -> Result<Value> {
        self.calls += 1;
        let id = self.calls;
        let mut message = json!({"id": id, "method": method, "params": params});
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        let said = async {
            self.to.write_all(&bytes).await?;
            self.to.flush().await?;
            loop {
                let mut bytes = vec![];
                let n = self.from.read_until(0, &mut bytes).await?;
                ensure!(n > 0, "the browser has ended");
                bytes.pop();
                let message: Value = serde_json::from_slice(&bytes)?;
                if message["id"] == id {
                    return Ok(message);
                }
                self.listen(&message);
            }
        };
        let answer = tokio::time::timeout(CALL_LIMIT, said).await;
        let answer = answer
            .with_context(|| format!("the browser does not answer {method}"))?
            .with_context(|| format!("{method} failed"))?;
        if !answer["error"].is_null() {
            bail!("{method}: {}", answer["error"]);
        }
        Ok(answer["result"].clone())
    }

    /// Keeps what the page's own policy or scripts are at fault for; that a server is away is no fault.
    fn listen(&mut self, event: &Value) {
        let entry = &event["params"]["entry"];
        let complaint = match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => event["params"]["exceptionDetails"].to_string(),
            Some("Log.entryAdded") if entry["level"] == "error" && entry["source"] != "network" => {
                entry.to_string()
            }
            _ => return,
        };
        if self.complaints.len() == COMPLAINTS_MAX {
            self.complaints.pop_front();
        }
        self.complaints.push_back(complaint);
    }

    /// What scripts threw and what the page's policy refused since the last call of this.
    pub fn take_complaints(&mut self) -> Vec<String> {
        self.complaints.drain(..).collect()
    }

    /// Waits for a complaint that holds `words`.
    pub async fn until_complaint(&mut self, words: &str, limit: Duration) -> Result<()> {
        let begun = Instant::now();
        while !self.complaints.iter().any(|said| said.contains(words)) {
            ensure!(begun.elapsed() < limit, "nothing complains of {words}");
            // Events come with answers.
            self.value("0").await?;
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Sets size, colours and scripts of what is opened next (scripts) or shown now (the others).
    pub async fn look(&mut self, look: Look) -> Result<()> {
        let size = json!({
            "width": look.width, "height": look.height, "deviceScaleFactor": 1,
            "mobile": look.width < 600,
        });
        self.call("Emulation.setDeviceMetricsOverride", size)
            .await?;
        let scheme = if look.dark { "dark" } else { "light" };
        let scheme = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", scheme).await?;
        let disabled = json!({"value": !look.scripts});
        self.call("Emulation.setScriptExecutionDisabled", disabled)
            .await?;
        Ok(())
    }

    /// Opens `url` and waits until it is there with all it needs.
    pub async fn open(&mut self, url: &str) -> Result<()> {
        let opened = self.call("Page.navigate", json!({"url": url})).await?;
        if let Some(error) = opened["errorText"].as_str() {
            bail!("cannot open {url}: {error}");
        }
        self.until("document.readyState === 'complete'", CALL_LIMIT)
            .await
    }

    /// The value of a JavaScript expression on the page.
    pub async fn value(&mut self, expression: &str) -> Result<Value> {
        let params = json!({"expression": expression, "returnByValue": true});
        let said = self.call("Runtime.evaluate", params).await?;
        if !said["exceptionDetails"].is_null() {
            bail!("{expression}: {}", said["exceptionDetails"]);
        }
        Ok(said["result"]["value"].clone())
    }

    /// The value as text; empty if it is none.
    pub async fn text(&mut self, expression: &str) -> Result<String> {
        let value = self.value(expression).await?;
        Ok(value.as_str().unwrap_or_default().to_owned())
    }

    /// Waits until an expression is true.
    pub async fn until(&mut self, condition: &str, limit: Duration) -> Result<()> {
        let begun = Instant::now();
        while self.value(condition).await? != json!(true) {
            if begun.elapsed() > limit {
                let shown = self.text("document.body.innerText").await?;
                bail!("{condition} has not come true; the page shows:\n{shown}");
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// A picture of the whole page, as PNG.
    pub async fn picture(&mut self, file: &Path) -> Result<()> {
        let params = json!({"format": "png", "captureBeyondViewport": true});
        let taken = self.call("Page.captureScreenshot", params).await?;
        let data = taken["data"].as_str().context("no picture in the answer")?;
        let bytes = BASE64.decode(data.as_bytes()).context("no base64")?;
        fs::write(file, bytes).with_context(|| format!("cannot write {}", file.display()))
    }
}
