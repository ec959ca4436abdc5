//! One HTTPS request by the rules of RFC 8461 §3.3: no redirect, no HTTP cache, and limits for time and size.

use super::http;
use crate::policy::Reason;
use http_body_util::Full;
use hyper::{Request, Response, StatusCode, body::Incoming, header};
use rustls_pki_types::ServerName;
use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};
use tokio::{net::TcpStream, task::JoinSet, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// The next address is tried if the previous one has not answered within this time (RFC 8305 §5).
const HEAD_START: Duration = Duration::from_millis(500);
/// Time for one attempt at one address.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// Most octets of a policy (RFC 8461 §3.3 suggests 64 KiB).
const MAX_BODY: usize = 64 * 1024;
/// Most addresses that are tried.
const MAX_ADDRESSES: usize = 4;

/// Why a policy could not be fetched: a TLSRPT result type (RFC 8460 §4.3.2.2), and words.
pub(super) type FetchFailure = (Reason, String);

fn fetch_error(words: impl Into<String>) -> FetchFailure {
    (Reason::StsPolicyFetchError, words.into())
}

/// How policy hosts are reached and verified.
pub(super) struct PolicyClient {
    pub(super) port: u16,
    /// A reload replaces it.
    pub(super) tls: RwLock<Arc<rustls::ClientConfig>>,
    /// Time for a whole exchange (RFC 8461 §3.3 suggests a minute).
    pub(super) patience: Duration,
}

impl PolicyClient {
    fn tls(&self) -> Arc<rustls::ClientConfig> {
        Arc::clone(&self.tls.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// GETs `https://<host><path>` from the first address that accepts the connection.
    pub(super) async fn get(
        &self,
        host: &str,
        path: &str,
        addresses: &[IpAddr],
    ) -> Result<Vec<u8>, FetchFailure> {
        timeout(self.patience, exchange(self, host, path, addresses))
            .await
            .unwrap_or_else(|_| {
                let seconds = self.patience.as_secs();
                Err(fetch_error(format!("{host}: not done within {seconds} s")))
            })
    }
}

async fn exchange(
    client: &PolicyClient,
    host: &str,
    path: &str,
    addresses: &[IpAddr],
) -> Result<Vec<u8>, FetchFailure> {
    let stream = connect(client, host, addresses).await?;
    let failed = |error: hyper::Error| fetch_error(format!("{host}: HTTP: {error}"));
    let request = Request::get(path)
        .header(header::HOST, host)
        .header(header::ACCEPT, "text/plain")
        .body(Full::default())
        .map_err(|error| fetch_error(format!("{host}: {error}")))?;
    http::exchange(stream, request, failed, async |response| {
        body(host, response).await
    })
    .await
}

async fn body(host: &str, response: Response<Incoming>) -> Result<Vec<u8>, FetchFailure> {
    if response.status() != StatusCode::OK {
        let status = response.status().as_u16();
        return Err(fetch_error(format!(
            "{host}: HTTP status {status}, not 200"
        )));
    }
    let media_type = response.headers().get(header::CONTENT_TYPE);
    let media_type = media_type.map_or(&b""[..], |value| value.as_bytes());
    if !media_type.to_ascii_lowercase().starts_with(b"text/plain") {
        log::warn!(
            "mta-sts: {host} sends its policy as \"{}\", not text/plain",
            media_type.escape_ascii()
        );
    }
    http::body(response, MAX_BODY)
        .await
        .map_err(|words| fetch_error(format!("{host}: {words}")))
}

async fn connect(
    client: &PolicyClient,
    host: &str,
    addresses: &[IpAddr],
) -> Result<TlsStream<TcpStream>, FetchFailure> {
    let name = ServerName::try_from(host.to_owned())
        .map_err(|error| fetch_error(format!("{host}: {error}")))?;
    let mut failure = fetch_error(format!("{host}: no address"));
    let mut attempts = JoinSet::new();
    let mut addresses = addresses.iter().take(MAX_ADDRESSES);
    loop {
        let patience = match addresses.next() {
            Some(&address) => {
                let to = SocketAddr::new(address, client.port);
                attempts.spawn(attempt(client.tls(), name.clone(), to));
                HEAD_START
            }
            None if attempts.is_empty() => return Err(failure),
            None => CONNECT_PATIENCE,
        };
        match timeout(patience, attempts.join_next()).await {
            Ok(Some(Ok(Ok(stream)))) => return Ok(stream),
            // A wrong certificate tells more than an address that does not answer.
            Ok(Some(Ok(Err((reason, words))))) if failure.0 != Reason::StsWebpkiInvalid => {
                failure = (reason, format!("{host}{words}"));
            }
            Ok(Some(_) | None) | Err(_) => {}
        }
    }
}

/// Tries one address. The words of a failure follow the host's name.
async fn attempt(
    tls: Arc<rustls::ClientConfig>,
    name: ServerName<'static>,
    to: SocketAddr,
) -> Result<TlsStream<TcpStream>, FetchFailure> {
    let connect = async {
        let stream = TcpStream::connect(to).await?;
        TlsConnector::from(tls).connect(name, stream).await
    };
    let address = to.ip();
    match timeout(CONNECT_PATIENCE, connect).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) if is_certificate_error(&error) => {
            Err((Reason::StsWebpkiInvalid, format!("[{address}]: {error}")))
        }
        Ok(Err(error)) => Err(fetch_error(format!("[{address}]: {error}"))),
        Err(_) => Err(fetch_error(format!("[{address}]: does not answer"))),
    }
}

fn is_certificate_error(error: &io::Error) -> bool {
    let inner = error
        .get_ref()
        .and_then(|e| e.downcast_ref::<rustls::Error>());
    matches!(
        inner,
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented)
    )
}

/// TLS towards policy hosts: WebPKI, TLS 1.2 or 1.3 (RFC 8461 §3.3).
pub(super) fn client_config(
    roots: Arc<rustls::RootCertStore>,
) -> Result<rustls::ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// Whether an address belongs to the public Internet, by the special-purpose registries of IANA (RFC 6890).
#[must_use]
pub(super) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            !matches!(
                (a, b, c),
                (0 | 10 | 127 | 224..=255, _, _)
                    | (100, 64..=127, _)
                    | (169, 254, _)
                    | (172, 16..=31, _)
                    | (192, 0, 0 | 2)
                    | (192, 168, _)
                    | (198, 18 | 19, _)
                    | (198, 51, 100)
                    | (203, 0, 113)
            )
        }
        IpAddr::V6(address) => {
            let [a, b, ..] = address.segments();
            // Global unicast, without Teredo and ORCHID, 6to4 (which embeds IPv4) and the documentation prefixes.
            (0x2000..=0x3fff).contains(&a)
                && !(a == 0x2001 && (b < 0x0200 || b == 0x0db8))
                && a != 0x2002
                && !(a == 0x3fff && b < 0x1000)
        }
    }
}

/// Whether the address is this host's own. The kernel then chooses the same address as the source.
pub(super) fn is_own(address: IpAddr) -> bool {
    let any: IpAddr = match address {
        IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    std::net::UdpSocket::bind((any, 0))
        .and_then(|socket| {
            // Sends no packet: a datagram socket only remembers its peer.
            socket.connect((address, 443))?;
            socket.local_addr()
        })
        .is_ok_and(|source| source.ip() == address)
}
