//! Askers: HTTP/1.1 over kept connections, as many as there are requests under way.

use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use owm_service::dialer::{CONNECT_TIMEOUT_DEFAULT, Dialer};

/// A client of one server; connections that are free are used again, newest first.
pub(crate) struct Client {
    dialer: Dialer,
    address: String,
    key: Option<String>,
    free: Mutex<Vec<SendRequest<Full<Bytes>>>>,
}

impl Client {
    /// Of `address` (`host:port`), with an API key or without.
    pub(crate) fn new(dialer: Dialer, address: &str, key: Option<&str>) -> Self {
        Self {
            dialer,
            address: address.to_owned(),
            key: key.map(|key| format!("Bearer {key}")),
            free: Mutex::default(),
        }
    }

    /// One request and its whole answer.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes)> {
        let mut connection = self.connection().await?;
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &self.address)
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(key) = &self.key {
            request = request.header(header::AUTHORIZATION, key);
        }
        let request = request.body(Full::new(body)).context("a request of ours")?;
        let response = connection.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        self.with(|free| free.push(connection));
        Ok((status, body))
    }

    async fn connection(&self) -> Result<SendRequest<Full<Bytes>>> {
        while let Some(mut connection) = self.with(Vec::pop) {
            // Closed meanwhile: the next one.
            if connection.ready().await.is_ok() {
                return Ok(connection);
            }
        }
        let (host, port) = self.address.split_once(':').context("host:port")?;
        let port = port.parse().context("a port")?;
        let io = self
            .dialer
            .dial(host, port, CONNECT_TIMEOUT_DEFAULT)
            .await?;
        let (connection, driver) = http1::handshake(TokioIo::new(io)).await?;
        drop(tokio::spawn(driver));
        Ok(connection)
    }

    fn with<T>(&self, f: impl FnOnce(&mut Vec<SendRequest<Full<Bytes>>>) -> T) -> T {
        f(&mut self.free.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
