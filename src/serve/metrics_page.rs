//! `--metrics`: the counters over HTTP, for Prometheus.

use std::{
    convert::Infallible,
    io,
    net::{SocketAddr, TcpListener as StdListener},
    sync::Arc,
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{sync::Semaphore, time::timeout};

use crate::{metrics::Metrics, net};

/// Connections at once; a scraper needs one.
const CONNECTIONS: usize = 8;
/// One scrape takes at most this long.
const LIMIT: Duration = Duration::from_secs(10);

/// Binds the listener, so that a wrong address is an error before anything starts.
///
/// # Errors
/// As the system says.
pub(crate) fn bind(address: SocketAddr) -> io::Result<StdListener> {
    net::listen(address, None)
}

/// Answers `GET /metrics` until the process ends.
///
/// # Errors
/// The listener could not be handed to the runtime.
pub(crate) async fn serve(listener: StdListener, metrics: Arc<Metrics>) -> io::Result<Infallible> {
    let listener = net::into_tokio(listener)?;
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let place = Arc::clone(&places)
            .acquire_owned()
            .await
            .map_err(io::Error::other)?;
        match listener.accept().await {
            Ok((stream, _)) => {
                let metrics = Arc::clone(&metrics);
                tokio::spawn(async move {
                    let _place = place;
                    let answer = service_fn(move |request| {
                        let page = page(&request, &metrics);
                        async move { Ok::<_, Infallible>(page) }
                    });
                    let connection = http1::Builder::new()
                        .keep_alive(false)
                        .serve_connection(TokioIo::new(stream), answer);
                    if !matches!(timeout(LIMIT, connection).await, Ok(Ok(()))) {
                        log::debug!("metrics: a scrape did not finish");
                    }
                });
            }
            Err(error) => {
                log::warn!("metrics: accept: {error}");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

fn page(request: &Request<Incoming>, metrics: &Metrics) -> Response<Full<Bytes>> {
    let (status, body) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => (StatusCode::OK, metrics.render()),
        (&Method::GET, _) => (StatusCode::NOT_FOUND, "see /metrics\n".to_owned()),
        _ => (StatusCode::METHOD_NOT_ALLOWED, "GET only\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(
        hyper::header::CONTENT_TYPE,
        hyper::header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"),
    );
    response
}
