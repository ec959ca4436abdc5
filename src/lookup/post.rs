//! Questions to services that vouch for the audit log: one POST each, over `http` or `https`, without redirects, within limits of time
//! and size.

use super::{http, https};
use http_body_util::Full;
use hyper::{Request, Uri, body::Bytes, header};
use rustls_pki_types::ServerName;
use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

/// Time for one exchange, connections included.
const PATIENCE: Duration = Duration::from_secs(30);
/// Time for one attempt at one address.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
/// Most octets of an answer.
const MAX_BODY: usize = 64 * 1024;
/// Most addresses that are tried.
const MAX_ADDRESSES: usize = 4;

/// An `http://` or `https://` address of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpUrl {
    /// As it was given.
    text: String,
    is_https: bool,
    /// A name, or an address without brackets.
    host: String,
    port: u16,
    /// Path and query.
    path: String,
}

impl HttpUrl {
    /// Whether the connection is TLS.
    #[must_use]
    pub(crate) fn is_https(&self) -> bool {
        self.is_https
    }

    /// The host to look up.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// The address of something below this one: `path` is put behind it.
    #[must_use]
    pub(crate) fn below(&self, path: &str) -> Self {
        let base = |text: &str| format!("{}/{path}", text.trim_end_matches('/'));
        Self {
            text: base(&self.text),
            path: base(&self.path),
            ..self.clone()
        }
    }
}

impl std::str::FromStr for HttpUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("'{text}' is not http://HOST[:PORT]/PATH or https://HOST[:PORT]/PATH");
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let is_https = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(wrong()),
        };
        let authority = uri.authority().ok_or_else(wrong)?;
        if authority.as_str().contains('@') {
            return Err(format!("{text}: a user's name or password is not sent"));
        }
        let host = authority.host().trim_matches(['[', ']']);
        let default = if is_https { 443 } else { 80 };
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(Self {
            text: text.to_owned(),
            is_https,
            host: host.to_ascii_lowercase(),
            port: authority.port_u16().unwrap_or(default),
            path: path.to_owned(),
        })
    }
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What a service answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HttpAnswer {
    pub(crate) status: u16,
    /// The media type, with its parameters; empty where there is none, or none that is text.
    pub(crate) media_type: String,
    pub(crate) body: Vec<u8>,
}

/// What is sent: a body with its media type. The answer's type is the one that is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HttpQuestion<'a> {
    pub(crate) media_type: &'static str,
    pub(crate) accept: &'static str,
    pub(crate) body: &'a [u8],
}

/// Who is believed as to the names of hosts.
pub(crate) type HttpRoots = Arc<rustls::RootCertStore>;

/// Asks the service at the first of these addresses that can be connected to.
pub(super) async fn post(
    roots: HttpRoots,
    url: &HttpUrl,
    addresses: &[IpAddr],
    question: HttpQuestion<'_>,
) -> Result<HttpAnswer, String> {
    timeout(PATIENCE, ask(roots, url, addresses, question))
        .await
        .unwrap_or_else(|_| Err(format!("not done within {} s", PATIENCE.as_secs())))
}

async fn ask(
    roots: HttpRoots,
    url: &HttpUrl,
    addresses: &[IpAddr],
    question: HttpQuestion<'_>,
) -> Result<HttpAnswer, String> {
    let host = match (url.host.contains(':'), url.port, url.is_https) {
        (false, 80, false) | (false, 443, true) => url.host.clone(),
        (false, port, _) => format!("{}:{port}", url.host),
        (true, port, _) => format!("[{}]:{port}", url.host),
    };
    let request = Request::post(url.path.as_str())
        .header(header::HOST, host)
        .header(header::CONTENT_TYPE, question.media_type)
        .header(header::ACCEPT, question.accept)
        .body(Full::new(Bytes::copy_from_slice(question.body)))
        .map_err(|error| error.to_string())?;
    let stream = connect(url, addresses).await?;
    let failed = |error: hyper::Error| format!("HTTP: {error}");
    if !url.is_https {
        return http::exchange(stream, request, failed, read).await;
    }
    let name = ServerName::try_from(url.host.clone()).map_err(|error| error.to_string())?;
    let tls = TlsConnector::from(Arc::new(https::client_config(roots)?));
    let stream = tls.connect(name, stream).await;
    let stream = stream.map_err(|error| format!("TLS: {error}"))?;
    http::exchange(stream, request, failed, read).await
}

async fn read(response: hyper::Response<hyper::body::Incoming>) -> Result<HttpAnswer, String> {
    let status = response.status().as_u16();
    let media_type = response.headers().get(header::CONTENT_TYPE);
    let media_type = media_type.and_then(|value| value.to_str().ok());
    Ok(HttpAnswer {
        status,
        media_type: media_type.unwrap_or_default().to_ascii_lowercase(),
        body: http::body(response, MAX_BODY).await?,
    })
}

async fn connect(url: &HttpUrl, addresses: &[IpAddr]) -> Result<TcpStream, String> {
    let mut failure = String::from("no address");
    for address in addresses.iter().take(MAX_ADDRESSES) {
        let to = SocketAddr::new(*address, url.port);
        match timeout(CONNECT_PATIENCE, TcpStream::connect(to)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => failure = format!("{to}: {error}"),
            Err(_) => failure = format!("{to}: does not answer"),
        }
    }
    Err(failure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_service_that_takes_the_question_and_says_nothing_is_given_up() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let url: HttpUrl = format!("http://127.0.0.1:{port}/").parse().unwrap();
        let question = HttpQuestion {
            media_type: "text/plain",
            accept: "text/plain",
            body: b"?",
        };
        let roots = Arc::new(rustls::RootCertStore::empty());
        let addresses = ["127.0.0.1".parse().unwrap()];
        let asked = post(roots, &url, &addresses, question);
        let silent = async {
            let taken = listener.accept().await.unwrap();
            std::future::pending::<()>().await;
            drop(taken);
        };
        let answer = tokio::select! {
            answer = asked => answer,
            () = silent => unreachable!("it stays"),
        };
        assert_eq!(answer, Err("not done within 30 s".into()));
    }

    #[test]
    fn an_address_of_a_service_has_a_scheme_and_a_host_and_no_user() {
        let read = |text: &str| text.parse::<HttpUrl>();
        let url = read("https://TSA.example/tsr?x=1").unwrap();
        assert_eq!(
            (url.is_https, &*url.host, url.port, &*url.path),
            (true, "tsa.example", 443, "/tsr?x=1")
        );
        let url = read("http://[2001:db8::1]:8080").unwrap();
        assert_eq!(
            (url.is_https, &*url.host, url.port, &*url.path),
            (false, "2001:db8::1", 8080, "/")
        );
        assert_eq!(
            url.below("add-checkpoint").to_string(),
            "http://[2001:db8::1]:8080/add-checkpoint"
        );
        assert_eq!(
            read("https://w.example/a/").unwrap().below("b").path,
            "/a/b"
        );
        for wrong in [
            "tsa.example",
            "ftp://tsa.example/",
            "/tsr",
            "https://",
            "https://me:pw@tsa.example/",
            "",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
