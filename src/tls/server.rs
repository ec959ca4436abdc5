//! Inbound, where we are the TLS server of the outside client.

use super::{
    HandshakeFault, MinTls, Peer, Trust,
    cert::{CertFacts, Date},
    ocsp, pem, provider,
    signature::Signatures,
    versions,
};
use crate::policy::NamePattern;
use rustls::{
    CertificateError, CipherSuite, DigitallySignedStruct, DistinguishedName, Error, NamedGroup,
    OtherError, ServerConfig, SignatureAlgorithm, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    pki_types::{CertificateDer, UnixTime},
    server::{
        Acceptor, ClientHello, NoServerSessionStorage, ResolvesServerCert,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
};
use std::{
    future::{Future, poll_fn},
    path::{Path, PathBuf},
    pin::pin,
    str::FromStr,
    sync::Arc,
    task::Poll,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

/// `--cert`, `--key` and perhaps `--ocsp` that belong together.
#[derive(Clone, Debug)]
pub struct CertificateFiles {
    /// PEM, the host's own certificate first, then its issuers.
    pub cert: PathBuf,
    /// PEM.
    pub key: PathBuf,
    /// An OCSP response to staple (RFC 6066 §8), DER.
    pub ocsp: Option<PathBuf>,
}

/// `--client-auth`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// Clients are not asked for a certificate.
    #[default]
    None,
    /// Clients are asked; what they present is judged afterwards.
    Request,
    /// The handshake fails without a certificate that chains to an anchor.
    Require,
}

impl FromStr for ClientAuth {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "request" => Ok(Self::Request),
            "require" => Ok(Self::Require),
            _ => Err(format!(
                "`{text}` is no way to ask clients for a certificate: use none, request or require"
            )),
        }
    }
}

/// What the flags say.
#[derive(Clone, Debug, Default)]
pub struct ServerOptions {
    /// At least one; the first serves unknown names.
    pub pairs: Vec<CertificateFiles>,
    /// `--client-auth`.
    pub client_auth: ClientAuth,
    /// `--client-ca`; `None`: the system's trust store.
    pub client_ca: Option<PathBuf>,
    /// `--accept-server-eku`: a certificate for servers only is good for a client.
    pub accept_server_eku: bool,
    /// `--min-tls`.
    pub min_tls: MinTls,
}

/// Takes TLS from outside clients, and holds the anchors to judge them by. Immutable: a reload makes a new one.
#[derive(Debug)]
pub struct ServerTls {
    /// Judges what clients present.
    pub trust: Arc<Trust>,
    config: Arc<ServerConfig>,
    own: Arc<OwnCertificates>,
}

impl ServerTls {
    /// Reads the files.
    ///
    /// # Errors
    /// Names the file, what is wrong with it, and what to do.
    pub fn new(options: &ServerOptions) -> Result<Self, String> {
        let provider = provider(true);
        let trust = match options.client_auth {
            ClientAuth::None => Ok(Trust::in_nobody()),
            _ => Trust::in_clients(options.client_ca.as_deref(), options.accept_server_eku),
        };
        let (own, trust) = pem::both(OwnCertificates::read(&options.pairs), trust)?;
        let (own, trust) = (Arc::new(own), Arc::new(trust));
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions(options.min_tls))
            .expect("the provider has suites and groups for both versions");
        let builder = match options.client_auth {
            ClientAuth::None => builder.with_no_client_auth(),
            auth => builder.with_client_cert_verifier(Arc::new(Clients {
                required: (auth == ClientAuth::Require).then(|| Arc::clone(&trust)),
                signatures: Signatures::new(provider),
            })),
        };
        let mut config =
            builder.with_cert_resolver(Arc::clone(&own) as Arc<dyn ResolvesServerCert>);
        // Whoever offers ALPN and not this is no mail client: cross-protocol attacks end here (RFC 7301 §3.2).
        config.alpn_protocols = vec![b"smtp".to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Ok(Self {
            trust,
            config: Arc::new(config),
            own,
        })
    }

    /// The handshake. It has no deadline: that is the caller's.
    ///
    /// # Errors
    /// Says what happened.
    pub async fn accept<S>(&self, stream: S) -> Result<(TlsStream<S>, Peer), HandshakeFault>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.accept_in_turn(stream, std::future::ready(Ok(())))
            .await
    }

    /// The handshake in two halves. `place` is waited for when the whole ClientHello is here, so that a silent client holds no
    /// place; what it gives is dropped once our flight is written, so that a slow client holds none either. The costly part, a
    /// signature and a key exchange, lies between.
    ///
    /// # Errors
    /// Says what happened; `place` may fail in words.
    pub async fn accept_in_turn<S, P>(
        &self,
        stream: S,
        place: impl Future<Output = Result<P, String>>,
    ) -> Result<(TlsStream<S>, Peer), HandshakeFault>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let fault = |error: std::io::Error| HandshakeFault::of(&error);
        let start = LazyConfigAcceptor::new(Acceptor::default(), stream)
            .await
            .map_err(fault)?;
        let place = place.await.map_err(HandshakeFault::ours)?;
        let mut answer = pin!(start.into_stream(Arc::clone(&self.config)));
        // One poll computes our flight and writes it; it is far smaller than any socket's buffer.
        let first = poll_fn(|cx| Poll::Ready(answer.as_mut().poll(cx))).await;
        drop(place);
        let stream = match first {
            Poll::Ready(outcome) => outcome,
            Poll::Pending => answer.await,
        }
        .map_err(fault)?;
        let connection = stream.get_ref().1;
        let peer = Peer::of(
            connection,
            connection.server_name().map(str::to_owned),
            None,
        );
        Ok((stream, peer))
    }

    /// One line for each certificate of ours that is not valid now, or no more in `days` days.
    #[must_use]
    pub fn expires_within(&self, days: u32, now: SystemTime) -> Vec<String> {
        self.own
            .0
            .iter()
            .flat_map(|own| own.expires_within(days, Date::of(now)))
            .collect()
    }

    /// The SHA-256 of each end-entity certificate with its file, for the log and the configuration's hash.
    pub fn own_certificates(&self) -> impl Iterator<Item = (&Path, &CertFacts)> {
        self.own
            .0
            .iter()
            .map(|own| (own.file.as_path(), &own.chain[0]))
    }
}

/// The pairs, in the order given.
#[derive(Debug)]
struct OwnCertificates(Vec<Own>);

#[derive(Debug)]
struct Own {
    file: PathBuf,
    chain: Vec<CertFacts>,
    key: Arc<CertifiedKey>,
}

impl Own {
    fn read(pair: &CertificateFiles) -> Result<Self, String> {
        let key = pem::pair(&pair.cert, &pair.key, &provider(true));
        let (mut key, ocsp) = pem::both(key, pair.ocsp.as_deref().map(staple).transpose())?;
        key.ocsp = ocsp;
        Ok(Self {
            file: pair.cert.clone(),
            chain: key.cert.iter().map(CertFacts::read).collect(),
            key: Arc::new(key),
        })
    }

    fn serves(&self, name: &str) -> bool {
        let wanted = NamePattern::Host(name.to_ascii_lowercase());
        self.chain[0].names.iter().any(|own| wanted.matches(own))
    }

    /// Whether the client can verify a handshake signed with this key.
    fn is_usable_by(&self, client: &Client<'_>) -> bool {
        self.key.key.choose_scheme(client.schemes).is_some()
            && match (client.curves, self.curve()) {
                (Some(known), Some(own)) => known.contains(&own),
                _ => true,
            }
    }

    /// The curve of an ECDSA key.
    fn curve(&self) -> Option<NamedGroup> {
        let key = &self.key.key;
        [
            (
                SignatureScheme::ECDSA_NISTP256_SHA256,
                NamedGroup::secp256r1,
            ),
            (
                SignatureScheme::ECDSA_NISTP384_SHA384,
                NamedGroup::secp384r1,
            ),
            (
                SignatureScheme::ECDSA_NISTP521_SHA512,
                NamedGroup::secp521r1,
            ),
        ]
        .into_iter()
        .find(|(scheme, _)| key.choose_scheme(&[*scheme]).is_some())
        .map(|(_, curve)| curve)
    }

    fn is_rsa(&self) -> bool {
        self.key.key.algorithm() == SignatureAlgorithm::RSA
    }

    fn expires_within(&self, days: u32, now: Date) -> impl Iterator<Item = String> {
        let limit = Date(now.0.saturating_add(i64::from(days) * 86_400));
        self.chain.iter().filter_map(move |cert| {
            let what = if cert.not_after < now {
                format!("expired {}", cert.not_after.day())
            } else if cert.not_before > now {
                format!("is not valid before {}", cert.not_before)
            } else if cert.not_after < limit {
                let left = (cert.not_after.0 - now.0) / 86_400;
                format!("expires {}, in {left} days", cert.not_after.day())
            } else {
                return None;
            };
            Some(format!(
                "{}: certificate of {} {what}; renew it and reload",
                self.file.display(),
                cert.subject
            ))
        })
    }
}

fn staple(file: &Path) -> Result<Vec<u8>, String> {
    let shown = file.display();
    let response =
        std::fs::read(file).map_err(|error| format!("{shown}: cannot be read: {error}"))?;
    match ocsp::status(&response) {
        Some(0) => Ok(response),
        Some(status) => Err(format!(
            "{shown}: the responder's answer is an error (status {status}); fetch a new one, or leave --ocsp out"
        )),
        None => Err(format!(
            "{shown}: no OCSP response; the DER that `openssl ocsp -respout` writes is wanted"
        )),
    }
}

impl OwnCertificates {
    fn read(pairs: &[CertificateFiles]) -> Result<Self, String> {
        if pairs.is_empty() {
            return Err("no certificate: STARTTLS needs --cert and --key".into());
        }
        let mut all = Ok(Vec::new());
        for pair in pairs {
            all = pem::both(all, Own::read(pair)).map(|(mut all, own)| {
                all.push(own);
                all
            });
        }
        all.map(Self)
    }

    /// The first that the client can verify, ECDSA before RSA, for it costs a fraction: among those that have the name; else among
    /// those for what the first one is for (an unknown or missing name is served, RFC 8461 §7.1); else any. Where there is none
    /// the first: rustls then finds nothing in common, and says so to the client.
    fn choose(&self, client: &Client<'_>) -> &Own {
        let usable = |own: &&Own| own.is_usable_by(client);
        let best = |own: &&Own| own.is_rsa();
        let first = &self.0[0];
        let named = self
            .0
            .iter()
            .filter(|own| client.name.is_some_and(|name| own.serves(name)));
        let like_first = self
            .0
            .iter()
            .filter(|own| own.chain[0].names == first.chain[0].names);
        named
            .filter(usable)
            .min_by_key(best)
            .or_else(|| like_first.filter(usable).min_by_key(best))
            .or_else(|| self.0.iter().find(usable))
            .unwrap_or(first)
    }
}

/// What a ClientHello says about the certificates that its client can verify.
struct Client<'a> {
    name: Option<&'a str>,
    schemes: &'a [SignatureScheme],
    /// For TLS 1.2, where the list of groups is about the curves of certificates, too (RFC 8422 §5.1.1) and a scheme names no
    /// curve. In TLS 1.3 the scheme does (RFC 8446 §4.2.3).
    curves: Option<&'a [NamedGroup]>,
}

impl<'a> Client<'a> {
    fn of(hello: &'a ClientHello<'_>) -> Self {
        let speaks_tls13 = hello.cipher_suites().iter().any(|suite| {
            matches!(
                suite,
                CipherSuite::TLS13_AES_128_GCM_SHA256
                    | CipherSuite::TLS13_AES_256_GCM_SHA384
                    | CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
            )
        });
        Self {
            name: hello.server_name(),
            schemes: hello.signature_schemes(),
            curves: hello.named_groups().filter(|_| !speaks_tls13),
        }
    }
}

impl ResolvesServerCert for OwnCertificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let own = self.choose(&Client::of(&hello));
        Some(Arc::clone(&own.key))
    }
}

/// Asks clients for a certificate.
#[derive(Debug)]
struct Clients {
    /// `--client-auth require`: what the chain must lead to.
    required: Option<Arc<Trust>>,
    signatures: Signatures,
}

impl ClientCertVerifier for Clients {
    fn client_auth_mandatory(&self) -> bool {
        self.required.is_some()
    }

    /// Any authority: hints would make clients hold back a certificate that the table names by its fingerprint.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if let Some(trust) = &self.required {
            let mut chain = vec![end_entity.clone().into_owned()];
            chain.extend(intermediates.iter().map(|cert| cert.clone().into_owned()));
            let now = UNIX_EPOCH + Duration::from_secs(now.as_secs());
            trust.check_chain(&chain, now).map_err(|(_, words)| {
                CertificateError::Other(OtherError(Arc::new(Unacceptable(words))))
            })?;
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signatures.tls12(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signatures.tls13(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signatures.schemes()
    }
}

/// Why a client's certificate does not do.
#[derive(Debug)]
struct Unacceptable(String);

impl std::fmt::Display for Unacceptable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the client's certificate is not acceptable: {}", self.0)
    }
}

impl std::error::Error for Unacceptable {}
