#![no_main]
//! A channel and rustls' own connection at its other end, from the first octet of the handshake. The script cuts what each sends anywhere,
//! writes data in between, renews keys, says goodbye, and puts octets of its own into the stream. What comes out is a beginning of what
//! went in, and all of it if the stream was left as it is.
//!
//! The channel is an inner part of the program, so its two files are taken in here as they are.

#[allow(dead_code, reason = "a channel uses some of it")]
#[path = "../../src/net/buffer.rs"]
mod buffer;
#[allow(dead_code, reason = "handshakes use more of it")]
#[path = "../../src/tls/channel.rs"]
mod channel;
/// Where a channel looks for its buffers.
mod net {
    pub(crate) use super::buffer;
}

use buffer::Buffer;
use channel::{Channel, Records};
use rustls::{
    ClientConfig, ClientConnection, Connection, DigitallySignedStruct, Error, ServerConfig, ServerConnection,
    SignatureAlgorithm, SignatureScheme,
    client::{
        Resumption, UnbufferedClientConnection,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{NoServerSessionStorage, ResolvesServerCert, UnbufferedServerConnection},
    sign::{CertifiedKey, Signer, SigningKey, SingleCertAndKey},
    version::{TLS12, TLS13},
};
use std::{
    io::{Read, Write},
    sync::{Arc, LazyLock},
};

/// Signs everything in the same way, and finds every signature good: what is tried here is not who the peer is.
#[derive(Debug)]
struct Anyone;

const SCHEME: SignatureScheme = SignatureScheme::ECDSA_NISTP256_SHA256;

impl SigningKey for Anyone {
    fn choose_scheme(&self, _: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        Some(Box::new(Self))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl Signer for Anyone {
    fn sign(&self, _: &[u8]) -> Result<Vec<u8>, Error> {
        Ok(b"signed".to_vec())
    }

    fn scheme(&self) -> SignatureScheme {
        SCHEME
    }
}

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SCHEME]
    }
}

/// The configurations of both roles, with TLS 1.3 and with 1.2.
static CONFIGURATIONS: LazyLock<[(Arc<ClientConfig>, Arc<ServerConfig>); 2]> = LazyLock::new(|| {
    [&TLS13, &TLS12].map(|version| {
        let provider = Arc::new(CryptoProvider {
            // The cheapest handshake, so that many inputs are tried.
            kx_groups: vec![aws_lc_rs::kx_group::X25519],
            ..aws_lc_rs::default_provider()
        });
        let client = ClientConfig::builder_with_provider(Arc::clone(&provider));
        let client = client.with_protocol_versions(&[version]).expect("suites of this version");
        let mut client =
            client.dangerous().with_custom_certificate_verifier(Arc::new(Anyone)).with_no_client_auth();
        client.resumption = Resumption::disabled();
        let key = CertifiedKey::new(vec![CertificateDer::from(&b"a certificate"[..])], Arc::new(Anyone));
        let key: Arc<dyn ResolvesServerCert> = Arc::new(SingleCertAndKey::from(key));
        let server = ServerConfig::builder_with_provider(provider);
        let server = server.with_protocol_versions(&[version]).expect("suites of this version");
        let mut server = server.with_no_client_auth().with_cert_resolver(key);
        server.session_storage = Arc::new(NoServerSessionStorage {});
        (Arc::new(client), Arc::new(server))
    })
});

/// One direction: what went in, the records on their way, and what came out.
#[derive(Default)]
struct Way {
    sent: Vec<u8>,
    wire: Vec<u8>,
    came: Vec<u8>,
    /// Octets were put into it that nobody sent.
    spoilt: bool,
    /// The sender has said that nothing more will come.
    closed: bool,
}

impl Way {
    fn write(&mut self, size: usize) -> Vec<u8> {
        let from = self.sent.len();
        let data: Vec<u8> = (from..from + size).map(|at| (at % 251) as u8).collect();
        self.sent.extend(&data);
        data
    }

    fn take(&mut self, size: usize) -> Vec<u8> {
        self.wire.drain(..size.min(self.wire.len())).collect()
    }
}

struct Play {
    near: Channel,
    far: Connection,
    /// To the channel, and from it.
    inward: Way,
    outward: Way,
    near_failed: bool,
    far_failed: bool,
}

impl Play {
    fn new(kind: u8) -> Self {
        let (client, server) = CONFIGURATIONS[usize::from(kind & 1)].clone();
        let name = ServerName::try_from("mx.example").expect("a name");
        let (near, far) = if kind & 2 == 0 {
            let near = UnbufferedClientConnection::new(client, name).expect("a client");
            (Records::new(near, Buffer::default()).into(), ServerConnection::new(server).expect("a server").into())
        } else {
            let near = UnbufferedServerConnection::new(server).expect("a server");
            (Records::new(near, Buffer::default()).into(), ClientConnection::new(client, name).expect("a client").into())
        };
        let mut play = Self {
            near,
            far,
            inward: Way::default(),
            outward: Way::default(),
            near_failed: false,
            far_failed: false,
        };
        play.to_near(0);
        play.to_far(0);
        play
    }

    /// Whether octets came that nobody sent. After that, an end that has said goodbye throws away what comes, as sessions do: rustls has no
    /// alert left by which it could complain.
    fn is_spoilt(&self) -> bool {
        self.inward.spoilt || self.outward.spoilt
    }

    /// So many octets arrive at the channel.
    fn to_near(&mut self, size: usize) {
        let octets = self.inward.take(size);
        if self.outward.closed && self.is_spoilt() {
            return;
        }
        if !octets.is_empty() {
            self.near.incoming().append(&octets);
        }
        let came = &mut self.inward.came;
        let outcome = self.near.open(|data| came.extend_from_slice(data));
        assert!(outcome.is_ok() || self.inward.spoilt || self.outward.spoilt, "{outcome:?}");
        assert!(!self.near_failed || outcome.is_err(), "a fault is for good");
        self.near_failed |= outcome.is_err();
        if self.near_failed || self.near.has_ended() {
            assert!(self.near.incoming().is_empty(), "nothing is kept behind the end");
        }
        self.sent_by_near();
    }

    fn sent_by_near(&mut self) {
        self.outward.wire.extend(self.near.outgoing().octets());
        self.near.outgoing().clear();
    }

    /// So many octets arrive at the other end.
    fn to_far(&mut self, size: usize) {
        let octets = self.outward.take(size);
        if self.inward.closed && self.is_spoilt() {
            return;
        }
        let mut octets = &octets[..];
        while !octets.is_empty() && !self.far_failed {
            // Behind a goodbye nothing is taken.
            if !matches!(self.far.read_tls(&mut octets), Ok(1..)) {
                break;
            }
            let outcome = self.far.process_new_packets();
            assert!(outcome.is_ok() || self.inward.spoilt || self.outward.spoilt, "{outcome:?}");
            self.far_failed |= outcome.is_err();
            let _ = self.far.reader().read_to_end(&mut self.outward.came);
        }
        self.sent_by_far();
    }

    fn sent_by_far(&mut self) {
        while self.far.wants_write() {
            self.far.write_tls(&mut self.inward.wire).expect("memory takes everything");
        }
    }

    fn near_writes(&mut self, size: usize) {
        if self.near.negotiated().is_handshaking() || self.outward.closed || size == 0 {
            return;
        }
        let before = self.outward.sent.len();
        let data = self.outward.write(size);
        if self.near.seal(&data).is_err() {
            assert!(self.near_failed, "only a fault keeps data from being sealed");
            self.outward.sent.truncate(before);
        }
        self.sent_by_near();
    }

    fn far_writes(&mut self, size: usize) {
        if self.far.is_handshaking() || self.inward.closed || self.far_failed {
            return;
        }
        let data = self.inward.write(size);
        // What rustls does not take now it writes later.
        self.far.set_buffer_limit(None);
        self.far.writer().write_all(&data).expect("memory takes everything");
        self.sent_by_far();
    }

    fn step(&mut self, what: u8, argument: u8, rest: &mut &[u8]) {
        let size = usize::from(argument);
        match what % 16 {
            0 | 1 => self.near_writes(size),
            2 => self.near_writes(size * size),
            3 | 4 => self.far_writes(size),
            5 => self.far_writes(size * size),
            6 | 7 => self.to_near(size),
            8 => self.to_near(size * size),
            9 | 10 => self.to_far(size),
            11 => self.to_far(size * size),
            12 => {
                // Both ends hear all that is on its way.
                self.to_near(usize::MAX);
                self.to_far(usize::MAX);
            }
            13 if !self.far.is_handshaking() && !self.far_failed => {
                // TLS 1.2 has no such thing.
                let _ = self.far.refresh_traffic_keys();
                self.sent_by_far();
            }
            14 if argument & 1 == 0 && !self.near.negotiated().is_handshaking() => {
                self.outward.closed = true;
                self.near.close();
                self.sent_by_near();
            }
            14 if argument & 1 == 1 && !self.far.is_handshaking() => {
                self.inward.closed = true;
                self.far.send_close_notify();
                self.sent_by_far();
            }
            15 => {
                let (own, more) = rest.split_at(rest.len().min(size % 64));
                *rest = more;
                let way = if argument & 64 == 0 { &mut self.inward } else { &mut self.outward };
                way.spoilt |= !own.is_empty();
                if argument & 128 == 0 {
                    way.wire.extend(own);
                } else {
                    way.wire.splice(0..0, own.iter().copied());
                }
            }
            _ => {}
        }
    }
}

libfuzzer_sys::fuzz_target!(|script: &[u8]| {
    let [kind, rest @ ..] = script else { return };
    let mut play = Play::new(*kind);
    let mut rest = rest;
    while let [what, argument, more @ ..] = rest {
        rest = more;
        play.step(*what, *argument, &mut rest);
    }
    while !play.inward.wire.is_empty() || !play.outward.wire.is_empty() {
        play.to_near(usize::MAX);
        play.to_far(usize::MAX);
    }
    for way in [&play.inward, &play.outward] {
        assert!(way.sent.starts_with(&way.came), "something else came out than went in");
    }
    if !play.inward.spoilt && !play.outward.spoilt {
        assert!(!play.near.negotiated().is_handshaking() && !play.far.is_handshaking());
        assert!(play.inward.sent == play.inward.came && play.outward.sent == play.outward.came);
        assert_eq!(play.near.has_ended(), play.inward.closed);
    }
});
