//! Published files, whole and in ranges.

use owm_proto::{FileSpec, Ladder, Sha256};

use super::*;
use crate::publish::{Published, Release, publish};

/// The name, size and bytes of the published weights, and of a file that nobody published.
struct Files {
    path: String,
    etag: String,
    bytes: Vec<u8>,
    stray: String,
}

async fn files(site: &Site) -> Files {
    let model = site.app.current_model().await.unwrap().unwrap();
    let file = model
        .manifest
        .weights(&model.manifest.default_sub_model)
        .next()
        .unwrap();
    let bytes = std::fs::read(site.app.blobs.dir().join(file.sha256.to_string())).unwrap();
    let stray = Sha256::of(b"stray");
    std::fs::write(site.app.blobs.dir().join(stray.to_string()), b"stray").unwrap();
    Files {
        path: format!("/v1/blobs/{}", file.sha256),
        etag: format!("\"{}\"", file.sha256),
        bytes,
        stray: format!("/v1/blobs/{stray}"),
    }
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_published_file_is_served_whole_to_anyone(pool: PgPool) {
    let site = site_within(pool, Limits::default()).await;
    let files = files(&site).await;
    let mut request = get(&files.path);
    from_peer(&mut request, "192.0.2.1:5");
    let reply = site.send(request).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.body, files.bytes);
    assert_eq!(
        reply.header("content-length"),
        files.bytes.len().to_string()
    );
    assert_eq!(reply.header("accept-ranges"), "bytes");
    assert_eq!(reply.header("etag"), files.etag);
    assert_eq!(
        reply.header("cache-control"),
        "public, max-age=31536000, immutable"
    );
    let head = site.send(request_head(&files.path)).await;
    assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
    assert_eq!(head.header("content-length"), files.bytes.len().to_string());
    let etag = files.etag.as_str();
    let reply = site
        .send(with(get(&files.path), "if-none-match", etag))
        .await;
    assert_eq!((reply.status.as_u16(), reply.body.len()), (304, 0));
}

fn request_head(path: &str) -> Request<Body> {
    request(&Method::HEAD, path)
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_download_resumes_at_any_byte(pool: PgPool) {
    let site = site_within(pool, Limits::default()).await;
    let files = files(&site).await;
    let size = files.bytes.len();
    for (range, expected) in [
        ("bytes=0-0".to_owned(), 0..1),
        ("bytes=5-9".to_owned(), 5..10),
        (format!("bytes={}-", size - 1), size - 1..size),
        ("bytes=-7".to_owned(), size - 7..size),
        (format!("bytes=10-{}", size * 2), 10..size),
    ] {
        let reply = site.send(with(get(&files.path), "range", &range)).await;
        assert_eq!(reply.status, 206, "{range}");
        assert_eq!(reply.body, files.bytes[expected.clone()], "{range}");
        let of = format!("bytes {}-{}/{size}", expected.start, expected.end - 1);
        assert_eq!(reply.header("content-range"), of);
        assert_eq!(reply.header("content-length"), expected.len().to_string());
        assert_eq!(reply.header("etag"), files.etag);
    }
    let head = site
        .send(with(request_head(&files.path), "range", "bytes=0-4"))
        .await;
    assert_eq!(
        (head.status.as_u16(), head.header("content-length")),
        (206, "5")
    );
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_range_outside_the_file_is_a_416_that_says_the_size(pool: PgPool) {
    let site = site_within(pool, Limits::default()).await;
    let files = files(&site).await;
    let size = files.bytes.len();
    let reply = site
        .send(with(get(&files.path), "range", &format!("bytes={size}-")))
        .await;
    assert_eq!(reply.fault(), (416, "range_not_satisfiable".into()));
    assert_eq!(reply.header("content-range"), format!("bytes */{size}"));
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_part_of_another_file_is_never_mixed_in(pool: PgPool) {
    let site = site_within(pool, Limits::default()).await;
    let files = files(&site).await;
    let part = |etag: &str| {
        with(
            with(get(&files.path), "range", "bytes=1-2"),
            "if-range",
            etag,
        )
    };
    assert_eq!(site.send(part(&files.etag)).await.status, 206);
    let whole = site.send(part("\"another\"")).await;
    assert_eq!(
        (whole.status.as_u16(), whole.body.len()),
        (200, files.bytes.len())
    );
    let several = site
        .send(with(get(&files.path), "range", "bytes=0-1,4-5"))
        .await;
    assert_eq!(
        (several.status.as_u16(), several.body.len()),
        (200, files.bytes.len())
    );
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn only_published_files_are_served(pool: PgPool) {
    let site = site_within(pool, Limits::default()).await;
    let files = files(&site).await;
    let unknown = format!("/v1/blobs/{}", Sha256::of(b"unknown"));
    let upper = files
        .path
        .to_uppercase()
        .replace("/V1/BLOBS/", "/v1/blobs/");
    let up = "/v1/blobs/..%2Fidentity%2Finstance.pem".to_owned();
    for path in [files.stray, unknown, upper, up] {
        let reply = site.send(get(&path)).await;
        assert_eq!(reply.fault(), (404, "not_found".into()), "{path}");
    }
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_published_file_that_is_lost_is_not_found(pool: PgPool) {
    let site = site_within(pool, Limits::default()).await;
    let files = files(&site).await;
    let name = files.path.strip_prefix("/v1/blobs/").unwrap();
    std::fs::write(site.app.blobs.dir().join(name), b"cut").unwrap();
    assert_eq!(
        site.send(get(&files.path)).await.fault(),
        (404, "not_found".into())
    );
    std::fs::remove_file(site.app.blobs.dir().join(name)).unwrap();
    assert_eq!(
        site.send(get(&files.path)).await.fault(),
        (404, "not_found".into())
    );
}

/// A model directory whose weights are above one piece: the tiny model with a long header.
fn long_model(folder: &std::path::Path) -> String {
    const LONGER: usize = 2 << 20;
    let source = folder.join("long");
    owm_model_import::tiny::write_tiny(&source).unwrap();
    let weights = source.join("model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    let (length, rest) = bytes.split_at(8);
    let length = u64::from_le_bytes(length.try_into().unwrap()) as usize;
    let (header, data) = rest.split_at(length);
    let longer = ((length + LONGER) as u64).to_le_bytes();
    let parts = [&longer[..], header, &vec![b' '; LONGER], data];
    std::fs::write(&weights, parts.concat()).unwrap();
    source.display().to_string()
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_ladder_is_published_with_its_file_and_served_like_one(pool: PgPool) {
    let site = site_within(pool, Limits::default()).await;
    let folder = tempfile::tempdir().unwrap();
    let release = Release {
        source: long_model(folder.path()),
        version: "owm-v0.0.2".parse().unwrap(),
        sub_models: vec!["owm-geo".parse().unwrap()],
        default_sub_model: "owm-geo".parse().unwrap(),
        sequence: None,
    };
    let import = async || {
        let (app, now) = (&site.app, site.app.now());
        let (store, blobs, authority) = (&app.store, &app.blobs, &app.authority);
        publish(store, blobs, authority, &release, now, &mut |_| {}).await
    };
    let Ok(Published::New(manifest)) = import().await else {
        panic!("a new version");
    };
    let file = manifest.file("model.safetensors").unwrap();
    let spec = FileSpec::of(file).unwrap();
    let name = spec.ladder_sha256().expect("above one piece");
    let ladder_path = format!("/v1/blobs/{name}");
    let reply = site.send(get(&ladder_path)).await;
    assert_eq!(reply.status, 200);
    let ladder = Ladder::parse(spec, reply.body.to_vec()).unwrap();
    let whole = site.send(get(&format!("/v1/blobs/{}", file.sha256))).await;
    assert!(ladder.pieces() >= 3);
    for piece in 0..ladder.pieces() {
        let range = ladder.range(piece);
        let bytes = &whole.body[range.start as usize..range.end as usize];
        assert!(ladder.check_whole(piece, bytes), "{piece}");
    }
    let tokenizer = manifest.file("tokenizer.json").unwrap();
    assert_eq!(tokenizer.ladder_sha256, None, "below one piece");

    // Lost, it comes back with the same import.
    std::fs::remove_file(site.app.blobs.dir().join(name.to_string())).unwrap();
    assert_eq!(site.send(get(&ladder_path)).await.status, 404);
    assert!(matches!(import().await, Ok(Published::Already(_))));
    assert_eq!(site.send(get(&ladder_path)).await.status, 200);
}
