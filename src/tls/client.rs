//! Outbound: this proxy is the TLS client of the outside server.

use super::{
    cert::CertFacts,
    fault::HandshakeFault,
    handshake::Secured,
    offer::{MinTls, provider, versions},
    peer::{Peer, PresentedChains},
    pem,
    signature::Signatures,
    staple,
    trust::Trust,
};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
    sign::{CertifiedKey, SingleCertAndKey},
};
use std::{
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::io::{AsyncRead, AsyncWrite};

/// The flags for TLS towards servers.
#[derive(Clone, Debug, Default)]
pub struct ClientOptions {
    /// `--ca-file`; `None`: the system's trust store.
    pub ca_file: Option<PathBuf>,
    /// `--client-cert` and `--client-key`.
    pub pair: Option<(PathBuf, PathBuf)>,
    /// `--min-tls`.
    pub min_tls: MinTls,
}

/// What one ClientHello offers.
#[derive(Clone, Copy, Debug, Default)]
pub struct HelloOptions<'a> {
    /// The name for SNI (RFC 6066 §3). An address, or a text that is no host name, sends no SNI.
    pub sni: Option<&'a str>,
    /// TLS 1.3 only.
    pub tls13_only: bool,
    /// Leaves out the post-quantum key share, for a peer that failed on it.
    pub classical_only: bool,
}

/// Opens TLS towards outside servers, and holds the trust anchors by which they are judged. Immutable: a reload makes a new one.
#[derive(Debug)]
pub struct ClientTls {
    /// Judges the chains that servers present.
    pub trust: Trust,
    any_version: Connectors,
    tls13_only: Connectors,
    chains: PresentedChains,
    /// The certificate that is shown to servers who ask (`--client-cert`), with its file.
    own: Option<(PathBuf, CertFacts)>,
}

#[derive(Debug)]
struct Connectors {
    post_quantum: Arc<ClientConfig>,
    classical: Arc<ClientConfig>,
}

impl ClientTls {
    /// Reads the files.
    ///
    /// # Errors
    /// Names the file, what is wrong with it, and what to do.
    pub fn new(options: &ClientOptions) -> Result<Self, String> {
        let pair = options
            .pair
            .as_ref()
            .map(|(cert, key)| pem::pair(cert, key, &provider(true)).map(Arc::new))
            .transpose();
        let (pair, trust) = pem::both(pair, Trust::in_servers(options.ca_file.as_deref()))?;
        let connectors = |min| Connectors {
            post_quantum: config(min, true, pair.as_ref()),
            classical: config(min, false, pair.as_ref()),
        };
        let file = options.pair.as_ref().map(|(cert, _)| cert.clone());
        let own = file.zip(pair.as_ref().and_then(|pair| pair.cert.first()));
        Ok(Self {
            own: own.map(|(file, cert)| (file, CertFacts::read(cert))),
            trust,
            any_version: connectors(options.min_tls),
            tls13_only: connectors(MinTls::Tls13),
            chains: PresentedChains::default(),
        })
    }

    /// The certificate of `--client-cert`, with its file.
    pub(crate) fn own_certificates(&self) -> impl Iterator<Item = (&Path, &CertFacts)> {
        let own = self.own.iter();
        own.map(|(file, facts)| (file.as_path(), facts))
    }

    /// Performs the handshake. It authenticates nobody; [`Trust::check`] does. There is no deadline here: the caller sets a timeout. A
    /// peer that stays silent until then, or hangs up, may be one that fails on the post-quantum key share.
    ///
    /// # Errors
    /// Says what happened. After [`FaultKind::Died`](super::FaultKind::Died) the next attempt should be `classical_only`.
    pub(crate) async fn connect<S>(
        &self,
        stream: S,
        hello: HelloOptions<'_>,
    ) -> Result<(Secured<S>, Peer), HandshakeFault>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let connectors = if hello.tls13_only {
            &self.tls13_only
        } else {
            &self.any_version
        };
        let config = if hello.classical_only {
            &connectors.classical
        } else {
            &connectors.post_quantum
        };
        let name = hello.sni.and_then(host_name);
        let sni = match &name {
            Some(ServerName::DnsName(name)) => Some(name.as_ref().to_owned()),
            _ => None,
        };
        let name = name.unwrap_or(NO_NAME.into());
        let (secured, staple) = Secured::connect(stream, Arc::clone(config), name).await?;
        let peer = Peer::of(
            secured.channel.negotiated(),
            sni,
            Some(staple),
            &self.chains,
        );
        Ok((secured, peer))
    }
}

/// The name for rustls where there is none for SNI: rustls sends no SNI for an address. Nothing else depends on it, since names are
/// judged after the handshake.
const NO_NAME: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

fn host_name(name: &str) -> Option<ServerName<'static>> {
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    match ServerName::try_from(name) {
        Ok(name @ ServerName::DnsName(_)) => Some(name),
        _ => None,
    }
}

/// The configuration that all connections of a kind share. A connection holds it as long as it lives, so one of its own would cost memory.
fn config(min: MinTls, post_quantum: bool, pair: Option<&Arc<CertifiedKey>>) -> Arc<ClientConfig> {
    let provider = provider(post_quantum);
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions(min))
        .expect("the provider has suites and groups for both versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PossessionOnly(Signatures::new(provider))));
    let mut config = match pair {
        Some(pair) => builder
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(CertifiedKey::clone(pair)))),
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    Arc::new(config)
}

/// Accepts any chain, which is judged after the handshake, but only from a peer that holds the key of its first certificate.
#[derive(Debug)]
struct PossessionOnly(Signatures);

impl ServerCertVerifier for PossessionOnly {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        staple::hand_over(ocsp_response);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.tls12(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.tls13(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.schemes()
    }
}
