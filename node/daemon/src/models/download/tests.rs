//! Downloads against a small server that misbehaves as told: every fault ends in the right file under its
//! name, or in none.

use std::sync::{Arc, Mutex};

use owm_service::dialer::{Dialer, NetworkPolicy};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::watch,
};

use super::*;
use crate::models::ShelfError;

mod disk;

/// What the server does with one request.
#[derive(Clone, Debug)]
pub(super) enum Does {
    /// Serves what was asked for, ranges included.
    Serve,
    /// As above, but only so many bytes, then the connection ends.
    CutAfter(usize),
    /// As above, but then nothing more comes.
    StallAfter(usize),
    /// A byte now and then.
    Trickle,
    /// Other bytes of the same length.
    Lie,
    /// More than there is.
    TooMuch,
    /// Ignores the range.
    Whole,
    /// 404.
    Missing,
}

struct Server {
    url: String,
    asked: Arc<Mutex<Vec<Option<u64>>>>,
    requests: watch::Receiver<usize>,
}

/// Serves `body` as the plan says, request by request, then well.
async fn server(body: Vec<u8>, plan: Vec<Does>) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    let (count, requests) = watch::channel(0);
    tokio::spawn(async move {
        let mut plan = plan.into_iter();
        'next: while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                // A client that went away before it asked.
                let Ok(byte) = stream.read_u8().await else {
                    continue 'next;
                };
                head.push(byte);
            }
            let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
            let range = head.split("range: bytes=").nth(1);
            let start = range.map(|text| text.split('-').next().unwrap().parse::<u64>().unwrap());
            log.lock().unwrap().push(start);
            count.send_modify(|count| *count += 1);
            let does = plan.next().unwrap_or(Does::Serve);
            // Stalled connections stay open beside the next one.
            tokio::spawn(answer(stream, body.clone(), start, does));
        }
    });
    Server {
        url,
        asked,
        requests,
    }
}

async fn answer(mut stream: tokio::net::TcpStream, body: Vec<u8>, start: Option<u64>, does: Does) {
    let total = body.len();
    let from = match does {
        Does::Whole | Does::Missing => 0,
        _ => start.unwrap_or(0) as usize,
    };
    let part = &body[from..];
    let status = match (&does, from) {
        (Does::Missing, _) => "404 Not Found".to_owned(),
        (_, 0) => "200 OK".to_owned(),
        _ => format!(
            "206 Partial Content\r\ncontent-range: bytes {from}-{}/{total}",
            total - 1
        ),
    };
    let bytes = match does {
        Does::Serve | Does::Whole => part.to_vec(),
        Does::CutAfter(n) | Does::StallAfter(n) => part[..n].to_vec(),
        Does::Lie => vec![0; part.len()],
        Does::TooMuch => [part, &[0; 100]].concat(),
        Does::Missing | Does::Trickle => vec![],
    };
    let length = match does {
        Does::TooMuch => bytes.len(),
        Does::Missing => 0,
        _ => part.len(),
    };
    let head =
        format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    drop(stream.write_all(&bytes).await);
    if matches!(does, Does::Trickle) {
        for byte in part {
            tokio::time::sleep(Duration::from_millis(20)).await;
            if stream.write_u8(*byte).await.is_err() {
                return;
            }
        }
    }
    if matches!(does, Does::StallAfter(_)) {
        std::future::pending::<()>().await;
    }
}

pub(super) struct Try {
    pub(super) fetcher: Fetcher,
    pub(super) file: ManifestFile,
    pub(super) asked: Arc<Mutex<Vec<Option<u64>>>>,
    requests: watch::Receiver<usize>,
    _folder: tempfile::TempDir,
}

/// Several write batches and an odd end.
fn body() -> Vec<u8> {
    (0..3 * WRITE_BYTES + 17).map(|n| (n % 251) as u8).collect()
}

async fn attempt(plan: Vec<Does>) -> Try {
    attempt_at(body(), plan).await
}

pub(super) async fn attempt_at(body: Vec<u8>, plan: Vec<Does>) -> Try {
    let folder = tempfile::tempdir().unwrap();
    let server = server(body.clone(), plan).await;
    let fetcher = Fetcher {
        http: Dialer::new(NetworkPolicy::LoopbackOnly).http(),
        web_seed: format!("{}/", server.url),
        shelf: Shelf::new(folder.path().join("models"), None),
        limits: Limits {
            // A busy machine may stand still for a while; who waits for a stall shortens it.
            stall: Duration::from_mins(10),
        },
        rate: Arc::new(Rate::new(None)),
        gives_way: CancellationToken::new(),
    };
    let file = ManifestFile {
        name: "model.safetensors".into(),
        size: body.len() as u64,
        sha256: Sha256::of(&body),
        piece_len: None,
        ladder_sha256: None,
    };
    Try {
        fetcher,
        file,
        asked: server.asked,
        requests: server.requests,
        _folder: folder,
    }
}

impl Try {
    pub(super) async fn fetch(&self) -> Result<(), DownloadError> {
        self.fetcher.fetch(&self.file, &|_| {}).await
    }

    fn part_len(&self) -> Option<u64> {
        let part = self.fetcher.shelf.part(&self.file.sha256);
        std::fs::metadata(part).ok().map(|found| found.len())
    }

    pub(super) fn check_done(&self) {
        let blob = std::fs::read(self.fetcher.shelf.blob(&self.file.sha256)).unwrap();
        assert_eq!(Sha256::of(&blob), self.file.sha256);
        assert_eq!(self.part_len(), None);
    }

    pub(super) fn check_nothing_under_the_name(&self) {
        assert!(!self.fetcher.shelf.blob(&self.file.sha256).exists());
    }
}

#[tokio::test]
async fn a_file_is_fetched_once_and_progress_ends_at_its_size() {
    let attempt = attempt(vec![]).await;
    let seen = Mutex::new(0);
    let progress = |got| *seen.lock().unwrap() = got;
    attempt
        .fetcher
        .fetch(&attempt.file, &progress)
        .await
        .unwrap();
    attempt.check_done();
    assert_eq!(*seen.lock().unwrap(), attempt.file.size);
    attempt.fetch().await.unwrap();
    assert_eq!(
        attempt.asked.lock().unwrap().len(),
        1,
        "the second time nothing is asked"
    );
}

#[tokio::test]
async fn a_download_that_broke_off_goes_on_from_its_last_byte() {
    let cut = WRITE_BYTES + 5;
    let attempt = attempt(vec![Does::CutAfter(cut)]).await;
    let error = attempt.fetch().await.unwrap_err();
    assert!(
        matches!(error, DownloadError::Truncated { got, .. } if got == cut as u64),
        "{error}"
    );
    attempt.check_nothing_under_the_name();
    attempt.fetch().await.unwrap();
    attempt.check_done();
    assert_eq!(*attempt.asked.lock().unwrap(), [None, Some(cut as u64)]);
}

#[tokio::test]
async fn a_server_that_stalls_is_left_and_nothing_is_lost() {
    let attempt = attempt(vec![Does::StallAfter(1_000)]).await;
    let mut hasty = attempt.fetcher.clone();
    hasty.limits.stall = Duration::from_secs(2);
    let error = hasty.fetch(&attempt.file, &|_| {}).await.unwrap_err();
    assert!(
        matches!(error, DownloadError::Stalled { got: 1_000, .. }),
        "{error}"
    );
    attempt.fetch().await.unwrap();
    attempt.check_done();
}

#[tokio::test]
async fn a_server_that_sends_a_byte_now_and_then_is_left() {
    let attempt = attempt(vec![Does::Trickle]).await;
    let mut hasty = attempt.fetcher.clone();
    hasty.limits.stall = Duration::from_secs(2);
    let error = hasty.fetch(&attempt.file, &|_| {}).await.unwrap_err();
    assert!(matches!(error, DownloadError::Stalled { .. }), "{error}");
    attempt.fetch().await.unwrap();
    attempt.check_done();
}

#[tokio::test]
async fn a_lie_is_thrown_away_and_fetched_again() {
    let attempt = attempt(vec![Does::Lie]).await;
    let error = attempt.fetch().await.unwrap_err();
    assert!(matches!(error, DownloadError::WrongHash { .. }), "{error}");
    attempt.check_nothing_under_the_name();
    assert_eq!(attempt.part_len(), None);
    attempt.fetch().await.unwrap();
    attempt.check_done();
}

#[tokio::test]
async fn a_lie_in_the_middle_spoils_the_whole_and_the_next_one_starts_over() {
    let attempt = attempt(vec![Does::CutAfter(1_000), Does::Lie]).await;
    attempt.fetch().await.unwrap_err();
    let error = attempt.fetch().await.unwrap_err();
    assert!(matches!(error, DownloadError::WrongHash { .. }), "{error}");
    attempt.fetch().await.unwrap();
    attempt.check_done();
    assert_eq!(*attempt.asked.lock().unwrap(), [None, Some(1_000), None]);
}

#[tokio::test]
async fn more_bytes_than_promised_are_refused() {
    let attempt = attempt(vec![Does::TooMuch]).await;
    let error = attempt.fetch().await.unwrap_err();
    assert!(matches!(error, DownloadError::TooLong { .. }), "{error}");
    attempt.check_nothing_under_the_name();
    attempt.fetch().await.unwrap();
    attempt.check_done();
}

#[tokio::test]
async fn a_server_without_ranges_starts_over() {
    let attempt = attempt(vec![Does::CutAfter(1_000), Does::Whole]).await;
    attempt.fetch().await.unwrap_err();
    attempt.fetch().await.unwrap();
    attempt.check_done();
}

#[tokio::test]
async fn a_download_gives_way_between_two_writes_and_loses_nothing() {
    let attempt = attempt(vec![Does::StallAfter(2 * WRITE_BYTES + 5)]).await;
    // Only giving way ends it.
    let gives_way = attempt.fetcher.gives_way.clone();
    let mut patient = attempt.fetcher.clone();
    let progress = |got| {
        if got > 0 {
            gives_way.cancel();
        }
    };
    let error = patient.fetch(&attempt.file, &progress).await.unwrap_err();
    assert!(matches!(error, DownloadError::GivesWay), "{error}");
    let there = attempt.part_len().unwrap();
    assert!(there >= WRITE_BYTES as u64, "{there}");
    patient.gives_way = CancellationToken::new();
    patient.fetch(&attempt.file, &|_| {}).await.unwrap();
    attempt.check_done();
    assert_eq!(*attempt.asked.lock().unwrap(), [None, Some(there)]);
}

#[tokio::test]
async fn a_download_keeps_to_the_cap() {
    // At 8 MiB a second, from a server that would give it at once.
    let rate = 8 << 20;
    let attempt = attempt(vec![]).await;
    let mut fetcher = attempt.fetcher.clone();
    fetcher.rate = Arc::new(Rate::new(Some(rate)));
    let begun = std::time::Instant::now();
    fetcher.fetch(&attempt.file, &|_| {}).await.unwrap();
    // A tenth of a second's worth comes at once; a slow machine takes longer, never less.
    let least = attempt.file.size as f64 / rate as f64 - 0.1;
    let took = begun.elapsed().as_secs_f64();
    assert!(took > least * 0.9, "{took:.2} of {least:.2} s");
    attempt.check_done();
}

#[tokio::test]
async fn a_file_without_a_ladder_is_the_stores_while_it_grows() {
    let attempt = attempt(vec![Does::CutAfter(WRITE_BYTES + 5), Does::StallAfter(0)]).await;
    let size = attempt.file.size;
    let mut fetcher = attempt.fetcher.clone();
    let folder = tempfile::tempdir().unwrap();
    let short = Shelf::new(folder.path().join("short"), Some(size - 1));
    fetcher.shelf = short;
    let error = fetcher.fetch(&attempt.file, &|_| {}).await.unwrap_err();
    let is_quota = matches!(&error, DownloadError::Shelf(ShelfError::Quota { .. }));
    assert!(is_quota, "the cap holds for it: {error}");
    attempt.fetch().await.unwrap_err();
    let store = attempt.fetcher.shelf.store().unwrap();
    let idle = store.idle().unwrap();
    assert_eq!(idle.len(), 1, "its cleaning knows it: {idle:?}");
    // While somebody is at it, it stays.
    let fetcher = attempt.fetcher.clone();
    let file = attempt.file.clone();
    let fetching = tokio::spawn(async move { fetcher.fetch(&file, &|_| {}).await });
    let mut requests = attempt.requests.clone();
    requests.wait_for(|count| *count == 2).await.unwrap();
    assert_eq!(store.gc().unwrap(), []);
    fetching.abort();
    drop(fetching.await);
    attempt.fetch().await.unwrap();
    attempt.check_done();
}

#[tokio::test]
async fn a_hole_that_peers_have_left_is_not_taken_for_a_download() {
    let attempt = attempt(vec![]).await;
    let (size, sha256) = (attempt.file.size, attempt.file.sha256);
    let spec = owm_proto::FileSpec::new(sha256, size, None, None).unwrap();
    let ladder = owm_proto::Ladder::none(spec).unwrap();
    let store = attempt.fetcher.shelf.store().unwrap();
    let partial = store.begin(Arc::new(ladder)).unwrap();
    // What came of it came from its end, and from its beginning.
    let front = 64 << 10;
    partial.write(0, &body()[..front]).unwrap();
    partial
        .write(size - 5, &body()[size as usize - 5..])
        .unwrap();
    drop((partial, store));
    attempt.fetch().await.unwrap();
    attempt.check_done();
    assert_eq!(*attempt.asked.lock().unwrap(), [Some(front as u64)]);
}

#[tokio::test]
async fn a_file_the_server_does_not_have_is_named_with_its_address() {
    let attempt = attempt(vec![Does::Missing]).await;
    let error = attempt.fetch().await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("404") && text.contains(&attempt.fetcher.web_seed),
        "{text}"
    );
}

#[tokio::test]
async fn a_part_of_a_killed_process_is_finished_without_asking() {
    let attempt = attempt(vec![]).await;
    let part = attempt.fetcher.shelf.part(&attempt.file.sha256);
    std::fs::create_dir_all(part.parent().unwrap()).unwrap();
    std::fs::write(&part, body()).unwrap();
    attempt.fetch().await.unwrap();
    attempt.check_done();
    assert!(attempt.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_quota_says_how_much_is_missing_and_frees_what_nobody_needs() {
    let attempt = attempt(vec![]).await;
    let folder = tempfile::tempdir().unwrap();
    let files = [&attempt.file];
    let small = Shelf::new(folder.path().to_owned(), Some(attempt.file.size - 10));
    let error = small
        .make_room(&files, &[attempt.file.sha256].into())
        .unwrap_err();
    assert!(
        matches!(error, ShelfError::Quota { missing: 10, .. }),
        "{error}"
    );
    let enough = Shelf::new(folder.path().to_owned(), Some(attempt.file.size));
    let old = enough.blob(&Sha256::of(b"an old version"));
    enough.store().unwrap();
    std::fs::write(&old, b"old").unwrap();
    enough
        .make_room(&files, &[attempt.file.sha256].into())
        .unwrap();
    assert!(!old.exists());
}

#[tokio::test]
async fn a_disk_that_is_too_full_is_said_before_anything_is_fetched() {
    let attempt = attempt(vec![]).await;
    let folder = tempfile::tempdir().unwrap();
    let shelf = Shelf::new(folder.path().to_owned(), None);
    let huge = ManifestFile {
        size: 1 << 60,
        ..attempt.file.clone()
    };
    let error = shelf
        .make_room(&[&huge], &[huge.sha256].into())
        .unwrap_err();
    let ShelfError::DiskFull {
        needed,
        free,
        missing,
        ..
    } = error
    else {
        panic!("{error}")
    };
    assert_eq!(needed - free, missing);
}
