//! `GET /v1/blobs/{sha256}`: published files for nodes, whole or in ranges (RFC 9110 §14). Needs no
//! key. A file never changes under its name, so it may be kept forever.

mod range;

use axum::{
    body::Body,
    extract::{Path, State},
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use owm_coordinator_store::model::model_file_size;
use owm_proto::Sha256;

use self::range::Wanted;
use super::{
    Api,
    problem::{Kind, Problem, ProblemBody},
};

fn ascii(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("hex digits, numbers and punctuation")
}

/// Download a published file.
///
/// One range is served (`Range: bytes=…`); `ETag` is the file's SHA-256 in quotes, for `If-Range` and
/// `If-None-Match`.
#[utoipa::path(
    get, path = "/v1/blobs/{sha256}", tag = "network",
    params(("sha256" = String, Path, description = "64 lowercase hex digits")),
    responses(
        (status = 200, description = "The file", body = [u8], content_type = "application/octet-stream"),
        (status = 206, description = "The range", body = [u8], content_type = "application/octet-stream"),
        (status = 304, description = "The caller has it"),
        (status = 416, description = "The range is outside the file", body = ProblemBody,
            content_type = "application/problem+json"),
        (status = "default", description = "A problem", body = ProblemBody,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn get_blob(
    State(api): State<Api>,
    method: Method,
    Path(sha256): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let unknown = || Problem::new(Kind::NotFound, "no published file has this SHA-256");
    let sha256: Sha256 = sha256.parse().map_err(|_| unknown())?;
    let mut tx = api.app.store.begin("api.blob").await?;
    let size = model_file_size(&mut tx, &sha256)
        .await?
        .ok_or_else(unknown)?;
    drop(tx);
    let etag = format!("\"{sha256}\"");
    if range::matches(&headers, &header::IF_NONE_MATCH, &etag) {
        let mut response = StatusCode::NOT_MODIFIED.into_response();
        describe(response.headers_mut(), &etag);
        return Ok(response);
    }
    let (status, range) = match range::wanted(&headers, size, &etag) {
        Wanted::Everything => (StatusCode::OK, 0..size),
        Wanted::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
        Wanted::Nothing => {
            let detail = format!("the file has {size} bytes; the range is outside of it");
            return Err(Problem::new(Kind::BadRange, detail).of_file(size));
        }
    };
    let length = range.end - range.start;
    let mut response = if method == Method::HEAD || length == 0 {
        StatusCode::OK.into_response()
    } else {
        let part = (status == StatusCode::PARTIAL_CONTENT).then(|| range.clone());
        Response::new(body(&api, &sha256, size, part).await?)
    };
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    if status == StatusCode::PARTIAL_CONTENT {
        let of = format!("bytes {}-{}/{size}", range.start, range.end - 1);
        headers.insert(header::CONTENT_RANGE, ascii(&of));
    }
    describe(headers, &etag);
    Ok(response)
}

async fn body(
    api: &Api,
    sha256: &Sha256,
    size: u64,
    range: Option<std::ops::Range<u64>>,
) -> Result<Body, Problem> {
    let found = api.app.blobs.open(sha256, range).await.map_err(|error| {
        tracing::error!(blob.sha256 = %sha256, %error, "a published file can't be read");
        Problem::internal()
    })?;
    let found = found.filter(|blob| blob.size == size).ok_or_else(|| {
        tracing::error!(blob.sha256 = %sha256, "a published file is missing or cut in the object store");
        let detail = "this file is published, but missing here; fetch it from another source";
        Problem::new(Kind::NotFound, detail)
    })?;
    Ok(Body::from_stream(found.stream))
}

fn describe(headers: &mut HeaderMap, etag: &str) {
    headers.insert(header::ETAG, ascii(etag));
    for (name, value) in [
        (header::ACCEPT_RANGES, "bytes"),
        (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
        (header::CONTENT_TYPE, "application/octet-stream"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}
