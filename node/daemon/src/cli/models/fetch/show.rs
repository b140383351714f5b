//! What a fetch says while it works and at its end: a bar with the fastest sources on a terminal, remarks anywhere,
//! JSON lines for programs.

use owm_service::{RunError, progress::Progress};
use serde_json::{Value, json};

use super::Output;
use crate::{
    cli::output::raw,
    models::{FetchPicture, Fetched, HumanRate, SourcePicture},
};

/// Sources beside the bar.
const SOURCES_SHOWN: usize = 3;
/// Characters of a peer's name beside the bar: its end, for all begin alike.
const PEER_CHARS: usize = 6;

/// What has been shown so far.
pub(super) struct Show {
    output: Output,
    bar: Option<Progress>,
    remarks: usize,
    doing: String,
    line: String,
}

impl Show {
    pub(super) fn new(output: Output) -> Self {
        Self {
            output,
            bar: None,
            remarks: 0,
            doing: String::new(),
            line: String::new(),
        }
    }

    /// Shows what is new.
    pub(super) fn show(&mut self, picture: &FetchPicture) {
        for remark in &picture.remarks[self.remarks.min(picture.remarks.len())..] {
            self.say(remark);
        }
        self.remarks = picture.remarks.len();
        // What is below its first line moves all the time: that is for the bar.
        let doing = picture.doing.lines().next().unwrap_or_default();
        if self.doing != doing && !doing.is_empty() {
            self.say(doing);
        }
        doing.clone_into(&mut self.doing);
        if self.output.json {
            let line = progress(picture).to_string();
            if picture.ended.is_none() && picture.version.is_some() && line != self.line {
                raw(format!("{line}\n").as_bytes());
                self.line = line;
            }
            return;
        }
        let Some(version) = &picture.version else {
            return;
        };
        let bar = self
            .bar
            .get_or_insert_with(|| Progress::bytes(picture.total, format!("fetching {version}")));
        bar.set(picture.bytes);
        bar.label(format!("fetching {version}{}", fastest(&picture.sources)));
    }

    /// The bar goes.
    pub(super) fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.clear();
        }
    }

    /// How it ended.
    pub(super) fn end(mut self, picture: &FetchPicture) -> Result<(), RunError> {
        self.show(picture);
        self.clear();
        match &picture.ended {
            Some(Ok(fetched)) => {
                if self.output.json {
                    let line = done(fetched, picture).to_string();
                    raw(format!("{line}\n").as_bytes());
                } else {
                    self.output.answer(&Value::Null, &lines(fetched, picture));
                }
                Ok(())
            }
            Some(Err(why)) => Err(RunError::failed(why.clone())),
            None => Err(RunError::failed(
                "the fetch ended without a word; run it again",
            )),
        }
    }

    fn say(&mut self, line: &str) {
        // What is printed over the bar would tear it.
        self.clear();
        self.output.say(line);
    }
}

fn fastest(sources: &[SourcePicture]) -> String {
    let mut giving: Vec<_> = sources.iter().filter(|s| s.bytes_per_s > 0).collect();
    giving.sort_by_key(|source| std::cmp::Reverse(source.bytes_per_s));
    let more = giving.len().saturating_sub(SOURCES_SHOWN);
    let each = giving.iter().take(SOURCES_SHOWN).map(|source| {
        let rate = HumanRate(source.bytes_per_s);
        match &source.peer {
            Some(peer) => {
                let end = peer.len().saturating_sub(PEER_CHARS);
                format!("…{} {rate}", peer.get(end..).unwrap_or(peer))
            }
            None => format!("web {rate}"),
        }
    });
    let mut each: Vec<String> = each.collect();
    if more > 0 {
        each.push(format!("{more} more"));
    }
    if each.is_empty() {
        String::new()
    } else {
        format!(" ({})", each.join(", "))
    }
}

fn progress(picture: &FetchPicture) -> Value {
    json!({
        "version": picture.version,
        "bytes": picture.bytes,
        "total": picture.total,
        "sources": picture.sources,
    })
}

fn done(fetched: &Fetched, picture: &FetchPicture) -> Value {
    let (peers, _, web) = picture.given();
    json!({
        "done": true,
        "version": fetched.version,
        "sequence": fetched.sequence,
        "bytes": fetched.bytes,
        "bytes_from_peers": peers,
        "bytes_from_web": web,
        "sources": picture.sources,
        "damaged": fetched.damaged,
        "note": fetched.note,
    })
}

fn lines(fetched: &Fetched, picture: &FetchPicture) -> Vec<String> {
    let (version, bytes) = (&fetched.version, fetched.bytes);
    let mut lines = vec![format!(
        "{version} is here: {bytes} bytes, every file as its signed manifest says"
    )];
    let (peers, count, web) = picture.given();
    if peers + web > 0 {
        let each = if count == 1 { "peer" } else { "peers" };
        lines.push(format!(
            "fetched: {peers} bytes from {count} {each}, {web} bytes from the web seed"
        ));
    }
    let mut sources: Vec<_> = picture
        .sources
        .iter()
        .filter(|s| s.peer.is_some())
        .collect();
    sources.sort_by_key(|source| std::cmp::Reverse(source.bytes));
    lines.extend(sources.iter().map(|source| {
        let peer = source.peer.as_deref().unwrap_or_default();
        format!("  {peer} gave {} bytes", source.bytes)
    }));
    if !fetched.note.is_empty() {
        lines.push(fetched.note.clone());
    }
    lines
}
