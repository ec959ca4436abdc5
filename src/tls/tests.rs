//! Handshakes and verdicts over in-memory streams. Peers are rustls, or OpenSSL for peers that rustls refuses to be.

#[path = "../../tests/support/pki.rs"]
pub mod pki;

mod channel;
mod checks;
mod dane;
mod floods;
mod inbound;
mod openssl;
mod outbound;

use super::*;
use crate::policy::{NamePattern, Reason, ReferenceIdentity};
use peer::PresentedChain;
use pki::{Authority, Leaf, Scratch};
use rustls::{
    HandshakeKind, ServerConfig, SupportedProtocolVersion,
    crypto::{
        CryptoProvider,
        aws_lc_rs::{self, kx_group},
    },
    pki_types::CertificateDer as Der,
    version::{TLS12, TLS13},
};
use std::{
    future::poll_fn,
    io,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

/// Well inside the validity of what `pki` makes by default: 2026-06-01.
fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_780_272_000)
}

impl ServerTls {
    /// Performs a handshake that does not wait for a turn, and writes its last flight.
    pub(super) async fn accept<S>(&self, stream: S) -> Result<(Secured<S>, Peer), HandshakeFault>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (mut secured, peer) = self.accept_in_turn(stream, std::future::ready(())).await?;
        secured.flush().await;
        Ok((secured, peer))
    }
}

impl ClientTls {
    /// Performs a handshake, and writes its last flight.
    pub(super) async fn connect_and_flush<S>(
        &self,
        stream: S,
        hello: HelloOptions<'_>,
    ) -> Result<(Secured<S>, Peer), HandshakeFault>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (mut secured, peer) = self.connect(stream, hello).await?;
        secured.flush().await;
        Ok((secured, peer))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Secured<S> {
    async fn flush(&mut self) {
        let outgoing = self.channel.outgoing();
        poll_fn(|cx| outgoing.poll_write_to(&mut self.stream, cx))
            .await
            .expect("written");
    }

    /// Reads until there is data.
    async fn data(&mut self) -> io::Result<Vec<u8>> {
        let mut data = Vec::new();
        while data.is_empty() {
            let incoming = self.channel.incoming();
            poll_fn(|cx| incoming.poll_read_from(&mut self.stream, 4096, cx)).await?;
            self.channel.open(|octets| data.extend_from_slice(octets))?;
        }
        Ok(data)
    }
}

impl<S> std::fmt::Debug for Secured<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secured")
    }
}

/// A connection to a server on loopback, with TLS on it. Nothing can be read from it or written to it.
pub(crate) fn secured_connection() -> Secured<TcpStream> {
    let handshake = async {
        let leaf = Leaf::self_signed(&["mx.example"]);
        let acceptor = TlsAcceptor::from(Arc::new(leaf.server_config()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (far, _) = listener.accept().await.unwrap();
        let tls = ClientTls::new(&ClientOptions::default()).unwrap();
        let (ours, theirs) = tokio::join!(
            tls.connect_and_flush(near, HelloOptions::default()),
            acceptor.accept(far)
        );
        theirs.unwrap();
        ours.unwrap().0
    };
    // A runtime of its own, because the caller may be in one that nobody drives.
    let alone = std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(handshake)
    });
    alone.join().unwrap()
}

/// A peer that presented this chain.
pub(crate) fn peer(chain: &[Der<'static>]) -> Peer {
    Peer {
        facts: TlsFacts {
            version: "TLSv1.3",
            suite: "TLS_AES_128_GCM_SHA256",
            group: "X25519",
            sni: None,
            hello_retry: false,
        },
        chain: Arc::new(chain.iter().map(CertFacts::read).collect()),
        der: Arc::new(PresentedChain::new(chain.to_vec())),
        staple: None,
    }
}

/// Trust in the servers of one authority.
fn trust_in(authority: &Authority) -> Trust {
    let dir = Scratch::new();
    Trust::in_servers(Some(&authority.write(&dir.0, "ca"))).unwrap()
}

fn pkix(names: &[NamePattern]) -> ReferenceIdentity {
    ReferenceIdentity::Pkix {
        names: names.to_vec(),
        anchors: None,
    }
}

fn host(name: &str) -> NamePattern {
    NamePattern::Host(name.into())
}

fn unknown_critical_extension(params: &mut rcgen::CertificateParams) {
    let mut extension =
        rcgen::CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 4711], vec![5, 0]);
    extension.set_criticality(true);
    params.custom_extensions.push(extension);
}
