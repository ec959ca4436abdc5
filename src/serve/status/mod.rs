//! `--metrics`: what the process shows of itself over HTTP.
//!
//! `/metrics` is for Prometheus, `/healthz` and `/readyz` are for load balancers and watchers, and `/` is a page for people. That page
//! names mail domains and clients, so it answers loopback only, unless `--status-from` names more, and only a browser that asked for
//! this host by a name that is ours: a foreign name that an attacker points at this address (DNS rebinding) is none.

mod advice;
mod evidence;
mod gauges;
pub(crate) mod interception;
mod moment;
mod page;
mod requester;
mod state;

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr, TcpListener as StdListener},
    sync::Arc,
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{self, HeaderName, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{sync::Semaphore, task::spawn_blocking, time::timeout};

use crate::{
    metrics::{MEDIA_TYPE, MetricsPage},
    net,
    policy::Prefix,
};

pub(crate) use state::ServedState;

/// Connections at once; a scraper needs one. Those that say nothing must not take the places of those that do.
const CONNECTIONS: usize = 64;
/// Requests at once that are being answered, each by a thread.
const ANSWERS: usize = 8;
/// Whoever connects must have asked after this long.
const ASKING: Duration = Duration::from_secs(2);
/// One request takes at most this long.
const LIMIT: Duration = Duration::from_secs(10);
const TEXT: &str = "text/plain; charset=utf-8";

/// Where the process shows itself, and to whom.
#[derive(Clone, Debug)]
pub(crate) struct StatusOptions {
    /// `--metrics`.
    pub(crate) address: SocketAddr,
    /// `--status-from`: who may read the page for people, beside loopback.
    pub(crate) readers: Vec<Prefix>,
}

/// The bound socket of [`StatusOptions`].
pub struct StatusListener {
    listener: StdListener,
    readers: Vec<Prefix>,
}

impl StatusListener {
    pub(crate) fn socket(&self) -> &StdListener {
        &self.listener
    }
}

/// Binds the listener, so that a wrong address is an error before anything starts. `passed`: the socket that the process before this
/// one had for it.
///
/// # Errors
/// As the system says.
pub(crate) fn bind(
    options: StatusOptions,
    passed: Option<StdListener>,
) -> io::Result<StatusListener> {
    let bound = match passed {
        Some(passed) => passed,
        None => net::listen(options.address, None)?,
    };
    Ok(StatusListener {
        listener: bound,
        readers: options.readers,
    })
}

/// What all requests share.
struct StatusPages {
    metrics: MetricsPage,
    state: Arc<ServedState>,
    readers: Vec<Prefix>,
}

/// Answers until the process ends.
///
/// # Errors
/// The listener could not be handed to the runtime.
pub(crate) async fn serve(listener: StatusListener, state: ServedState) -> io::Result<Infallible> {
    let StatusListener { listener, readers } = listener;
    let listener = net::into_tokio(listener)?;
    let state = Arc::new(state);
    let measured = Arc::clone(&state);
    let pages = Arc::new(StatusPages {
        metrics: MetricsPage::new(state.metrics(), move || gauges::gauges(&measured)),
        state,
        readers,
    });
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let answers = Arc::new(Semaphore::new(ANSWERS));
    loop {
        let place = Arc::clone(&places)
            .acquire_owned()
            .await
            .map_err(io::Error::other)?;
        match listener.accept().await {
            Ok((stream, client)) => {
                let pages = Arc::clone(&pages);
                let answers = Arc::clone(&answers);
                let client = net::canonical(client).ip();
                tokio::spawn(async move {
                    let _place = place;
                    let answer = service_fn(move |request: Request<Incoming>| {
                        let pages = Arc::clone(&pages);
                        let answers = Arc::clone(&answers);
                        async move {
                            let one = answers.acquire_owned().await;
                            let one = one.map_err(io::Error::other)?;
                            // A file system may take its time to say how much room it has.
                            let answer = spawn_blocking(move || {
                                // Until the thread is done, even if the client is gone by then.
                                let _one = one;
                                pages.answer(&request, client)
                            });
                            answer.await.map_err(io::Error::other)
                        }
                    });
                    let connection = http1::Builder::new()
                        .timer(TokioTimer::new())
                        .header_read_timeout(ASKING)
                        .keep_alive(false)
                        .serve_connection(TokioIo::new(stream), answer);
                    if !matches!(timeout(LIMIT, connection).await, Ok(Ok(()))) {
                        log::debug!("metrics: a request did not finish");
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

impl StatusPages {
    fn answer(&self, request: &Request<Incoming>, client: IpAddr) -> Response<Full<Bytes>> {
        if !matches!(request.method(), &Method::GET | &Method::HEAD) {
            let words = String::from("GET only\n");
            return response(StatusCode::METHOD_NOT_ALLOWED, TEXT, words);
        }
        match request.uri().path() {
            "/metrics" => response(StatusCode::OK, MEDIA_TYPE, self.metrics.render()),
            "/healthz" => response(StatusCode::OK, TEXT, "ok\n".into()),
            "/readyz" => match self.state.not_ready() {
                None => response(StatusCode::OK, TEXT, "ready\n".into()),
                Some(why) => {
                    let words = format!("not ready: {why}\n");
                    response(StatusCode::SERVICE_UNAVAILABLE, TEXT, words)
                }
            },
            "/" => self.page(request, client),
            _ => {
                let words = String::from("there are /, /metrics, /healthz and /readyz\n");
                response(StatusCode::NOT_FOUND, TEXT, words)
            }
        }
    }

    fn page(&self, request: &Request<Incoming>, client: IpAddr) -> Response<Full<Bytes>> {
        if !requester::may_read(client, &self.readers) {
            let words = format!(
                "this page is for loopback only, and {client} is not\n\
                 hint: ssh -L 9100:127.0.0.1:PORT THIS-HOST, or start the proxy with --status-from {client}\n"
            );
            return response(StatusCode::FORBIDDEN, TEXT, words);
        }
        let host = request.headers().get(header::HOST);
        let host = host.and_then(|host| host.to_str().ok());
        if !requester::asks_for_us(host, &self.state.hostname()) {
            let words = String::from(
                "this page does not answer to that host name, because a foreign name may point here\n\
                 hint: ask by address, as localhost, or by the name of --hostname\n",
            );
            return response(StatusCode::MISDIRECTED_REQUEST, TEXT, words);
        }
        let page = page::page(&self.state);
        let mut answer = response(StatusCode::OK, "text/html; charset=utf-8", page);
        if let Ok(policy) = HeaderValue::from_str(&page::content_security_policy()) {
            let headers = answer.headers_mut();
            headers.insert(header::CONTENT_SECURITY_POLICY, policy);
        }
        answer
    }
}

fn response(status: StatusCode, media_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let fixed: [(HeaderName, &'static str); 7] = [
        (header::CONTENT_TYPE, media_type),
        (header::CACHE_CONTROL, "no-store"),
        // Replaced where the page needs its style.
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
