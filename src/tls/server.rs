//! Inbound: this proxy is the TLS server of the outside client.

use super::{
    cert::{CertFacts, Date},
    fault::HandshakeFault,
    handshake::Secured,
    ocsp,
    offer::{MinTls, provider, versions},
    peer::{Peer, PresentedChain, PresentedChains},
    pem,
    signature::Signatures,
    trust::Trust,
};
use crate::{files, policy::NamePattern};
use rustls::{
    CertificateError, CipherSuite, DigitallySignedStruct, DistinguishedName, Error, NamedGroup,
    OtherError, ServerConfig, SignatureAlgorithm, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    pki_types::{CertificateDer, UnixTime},
    server::{
        ClientHello, NoServerSessionStorage, ResolvesServerCert,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
};
use std::{
    future::Future,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::io::{AsyncRead, AsyncWrite};

/// The files of one `--cert` with its `--key` and, if given, its `--ocsp`.
#[derive(Clone, Debug)]
pub struct CertificateFiles {
    /// The certificates (PEM): the host's own first, then its issuers.
    pub cert: PathBuf,
    /// The private key (PEM).
    pub key: PathBuf,
    /// The OCSP response (DER) to staple (RFC 6066 §8).
    pub ocsp: Option<PathBuf>,
}

/// Whether clients are asked for a certificate (`--client-auth`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// Clients are not asked for a certificate.
    #[default]
    None,
    /// Clients are asked. The chain that they present is judged after the handshake.
    Request,
    /// The handshake fails without a chain that leads to an anchor.
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

/// The flags for TLS towards clients.
#[derive(Clone, Debug, Default)]
pub struct ServerOptions {
    /// At least one. The first serves unknown names.
    pub pairs: Vec<CertificateFiles>,
    /// `--client-auth`.
    pub client_auth: ClientAuth,
    /// `--client-ca`; `None`: the system's trust store.
    pub client_ca: Option<PathBuf>,
    /// `--accept-server-eku`: a client may present a certificate for servers only.
    pub accept_server_eku: bool,
    /// `--min-tls`.
    pub min_tls: MinTls,
}

/// Accepts TLS from outside clients, and holds the trust anchors by which they are judged. Immutable: a reload makes a new one.
#[derive(Debug)]
pub struct ServerTls {
    /// Judges the chains that clients present.
    pub trust: Arc<Trust>,
    config: Arc<ServerConfig>,
    own: Arc<OwnCertificates>,
    chains: PresentedChains,
}

impl ServerTls {
    /// Reads the files.
    ///
    /// # Errors
    /// Names the file, what is wrong with it, and what to do.
    pub(crate) fn new(options: &ServerOptions) -> Result<Self, String> {
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
            auth => builder.with_client_cert_verifier(Arc::new(ClientVerifier {
                required: (auth == ClientAuth::Require).then(|| Arc::clone(&trust)),
                signatures: Signatures::new(provider),
            })),
        };
        let mut config =
            builder.with_cert_resolver(Arc::clone(&own) as Arc<dyn ResolvesServerCert>);
        // A client that offers ALPN without `smtp` is no mail client. This ends cross-protocol attacks (RFC 7301 §3.2).
        config.alpn_protocols = vec![b"smtp".to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Ok(Self {
            trust,
            config: Arc::new(config),
            own,
            chains: PresentedChains::default(),
        })
    }

    /// Performs the handshake in two halves, with a turn for the costly part (a signature and a key exchange) between them. `turn` is
    /// awaited once the whole ClientHello has arrived, so that a silent client holds no turn. The value that `turn` returns is dropped
    /// once our flight is written, so that a slow client holds no turn either. There is no deadline here: the caller sets a timeout.
    ///
    /// # Errors
    /// Says what happened.
    pub(crate) async fn accept_in_turn<S, P>(
        &self,
        stream: S,
        turn: impl Future<Output = P>,
    ) -> Result<(Secured<S>, Peer), HandshakeFault>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (secured, sni) = Secured::accept(stream, Arc::clone(&self.config), turn).await?;
        let peer = Peer::of(secured.channel.negotiated(), sni, None, &self.chains);
        Ok((secured, peer))
    }

    /// One line for each of our certificates that is not valid now, or expires within `days` days.
    #[must_use]
    pub(crate) fn expires_within(&self, days: u32, now: SystemTime) -> Vec<String> {
        self.own
            .0
            .iter()
            .flat_map(|own| own.expires_within(days, Date::of(now)))
            .collect()
    }

    /// Each end-entity certificate with its file, for the log and the configuration's hash.
    pub(crate) fn own_certificates(&self) -> impl Iterator<Item = (&Path, &CertFacts)> {
        self.own
            .0
            .iter()
            .map(|own| (own.file.as_path(), &own.chain[0]))
    }
}

/// Our certificates, in the order of the flags.
#[derive(Debug)]
struct OwnCertificates(Vec<OwnCertificate>);

/// One of our certificates, with its key.
#[derive(Debug)]
struct OwnCertificate {
    file: PathBuf,
    chain: Vec<CertFacts>,
    key: Arc<CertifiedKey>,
}

impl OwnCertificate {
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

    /// Whether the certificate shows the name.
    fn serves(&self, name: &str) -> bool {
        let wanted = NamePattern::Host(name.to_ascii_lowercase());
        self.chain[0].names.iter().any(|own| wanted.matches(own))
    }

    /// Whether the client can verify a handshake signed with this key.
    fn is_usable_by(&self, client: &ClientAbilities<'_>) -> bool {
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

    /// Lines about the certificates of this chain that are not valid now or expire within `days` days.
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

/// The OCSP response in a file.
fn staple(file: &Path) -> Result<Vec<u8>, String> {
    let shown = file.display();
    let response = files::whole(file, files::SMALL)
        .map_err(|error| format!("{shown}: cannot be read: {error}"))?;
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
            all = pem::both(all, OwnCertificate::read(pair)).map(|(mut all, own)| {
                all.push(own);
                all
            });
        }
        all.map(Self)
    }

    /// Picks a certificate the client can verify, in this order: one for the requested name; one for the same names as the first
    /// `--cert` (an unknown or missing name is served, RFC 8461 §7.1); any. Within a step ECDSA wins over RSA because it is cheaper. If
    /// the client can verify none, the first is picked: rustls then finds nothing in common, and tells the client so.
    fn choose(&self, client: &ClientAbilities<'_>) -> &OwnCertificate {
        let usable = |own: &&OwnCertificate| own.is_usable_by(client);
        let rsa_last = |own: &&OwnCertificate| own.is_rsa();
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
            .min_by_key(rsa_last)
            .or_else(|| like_first.filter(usable).min_by_key(rsa_last))
            .or_else(|| self.0.iter().find(usable))
            .unwrap_or(first)
    }
}

/// The certificates that a client can verify, according to its ClientHello.
struct ClientAbilities<'a> {
    name: Option<&'a str>,
    schemes: &'a [SignatureScheme],
    /// The curves for certificates. Only TLS 1.2 limits them by the list of groups (RFC 8422 §5.1.1), since there a scheme names no
    /// curve. In TLS 1.3 the scheme names it (RFC 8446 §4.2.3), and this is `None`.
    curves: Option<&'a [NamedGroup]>,
}

impl<'a> ClientAbilities<'a> {
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
        let own = self.choose(&ClientAbilities::of(&hello));
        Some(Arc::clone(&own.key))
    }
}

/// Asks clients for a certificate.
#[derive(Debug)]
struct ClientVerifier {
    /// `--client-auth require`: the anchors to one of which the chain must lead.
    required: Option<Arc<Trust>>,
    signatures: Signatures,
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.required.is_some()
    }

    /// None: hints would make clients hold back a certificate that the table names by its fingerprint.
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
            let chain = [end_entity].into_iter().chain(intermediates);
            let chain = PresentedChain::new(chain.map(|cert| cert.clone().into_owned()));
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

/// Why a client's certificate is not acceptable.
#[derive(Debug)]
struct Unacceptable(String);

impl std::fmt::Display for Unacceptable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the client's certificate is not acceptable: {}", self.0)
    }
}

impl std::error::Error for Unacceptable {}
