//! The proxy is the client: what it offers, what it says about the peer, and how faults are named.

use super::{pki::*, *};
use crate::policy::Tlsa;
use rustls::{
    server::WebPkiClientVerifier,
    sign::{CertifiedKey, SingleCertAndKey},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::{TlsAcceptor, server};

const HOST: &str = "mx1.clinic.example";

fn client_tls(options: ClientOptions) -> ClientTls {
    let dir = Scratch::new();
    let ca_file = Some(Authority::root("nobody you know").write(&dir.0, "ca"));
    ClientTls::new(&ClientOptions { ca_file, ..options }).unwrap()
}

fn plain() -> ClientTls {
    client_tls(ClientOptions::default())
}

type Ours = Result<(Secured<DuplexStream>, Peer), HandshakeFault>;
type Theirs = std::io::Result<server::TlsStream<DuplexStream>>;

async fn meet(tls: &ClientTls, hello: HelloOptions<'_>, config: ServerConfig) -> (Ours, Theirs) {
    let (near, far) = duplex(64 * 1024);
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::join!(tls.connect_and_flush(near, hello), acceptor.accept(far))
}

fn config(
    leaf: &Leaf,
    versions: &[&'static SupportedProtocolVersion],
    change: impl FnOnce(&mut CryptoProvider),
) -> ServerConfig {
    let mut provider = aws_lc_rs::default_provider();
    change(&mut provider);
    ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(leaf.chain.clone(), leaf.private_key())
        .unwrap()
}

/// A server that presents this chain. Nothing checks the chain before.
fn presenting(
    chain: Vec<Der<'static>>,
    key: &Leaf,
    version: &'static SupportedProtocolVersion,
) -> ServerConfig {
    let provider = aws_lc_rs::default_provider();
    let key = provider
        .key_provider
        .load_private_key(key.private_key())
        .unwrap();
    ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(CertifiedKey::new(
            chain, key,
        ))))
}

#[tokio::test]
async fn the_post_quantum_group_is_agreed_on_in_one_round_trip() {
    let leaf = Leaf::self_signed(&[HOST]);
    let (ours, _) = meet(&plain(), HelloOptions::default(), leaf.server_config()).await;
    let (_, peer) = ours.unwrap();
    assert_eq!(
        peer.facts,
        TlsFacts {
            version: "TLSv1.3",
            suite: "TLS_AES_256_GCM_SHA384",
            group: "X25519MLKEM768",
            sni: None,
            hello_retry: false,
        }
    );
    assert_eq!(*peer.chain, [CertFacts::read(&leaf.chain[0])]);
}

#[tokio::test]
async fn a_peer_that_broke_on_it_is_asked_without_it() {
    let leaf = Leaf::self_signed(&[HOST]);
    let hello = HelloOptions {
        classical_only: true,
        ..HelloOptions::default()
    };
    let (ours, _) = meet(&plain(), hello, leaf.server_config()).await;
    let (_, peer) = ours.unwrap();
    assert_eq!(peer.facts.group, "X25519");
    assert!(!peer.facts.hello_retry);
}

#[tokio::test]
async fn a_peer_without_it_gets_the_classical_share_of_the_same_hello() {
    let leaf = Leaf::self_signed(&[HOST]);
    let x25519 = config(&leaf, &[&TLS13], |p| p.kx_groups = vec![kx_group::X25519]);
    let (ours, _) = meet(&plain(), HelloOptions::default(), x25519).await;
    let facts = ours.unwrap().1.facts;
    assert_eq!((facts.group, facts.hello_retry), ("X25519", false));
    let p256 = config(&leaf, &[&TLS13], |p| {
        p.kx_groups = vec![kx_group::SECP256R1]
    });
    let (ours, _) = meet(&plain(), HelloOptions::default(), p256).await;
    let facts = ours.unwrap().1.facts;
    assert_eq!((facts.group, facts.hello_retry), ("secp256r1", true));
}

#[tokio::test]
async fn tls_1_2_is_taken_unless_1_3_is_demanded() {
    let leaf = Leaf::self_signed(&[HOST]);
    let old = || config(&leaf, &[&TLS12], |_| ());
    let (ours, _) = meet(&plain(), HelloOptions::default(), old()).await;
    let facts = ours.unwrap().1.facts;
    assert_eq!(facts.version, "TLSv1.2");
    assert_eq!(facts.suite, "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384");
    assert_eq!(facts.group, "X25519");

    let strict = HelloOptions {
        tls13_only: true,
        ..HelloOptions::default()
    };
    let by_flag = client_tls(ClientOptions {
        min_tls: "1.3".parse().unwrap(),
        ..ClientOptions::default()
    });
    for (tls, hello) in [(plain(), strict), (by_flag, HelloOptions::default())] {
        let fault = meet(&tls, hello, old()).await.0.unwrap_err();
        assert_eq!(fault.kind(), FaultKind::TooOld);
        assert!(fault.to_string().contains("version"), "{fault}");
    }
}

#[tokio::test]
async fn sni_is_the_host_without_its_dot_and_never_an_address() {
    let leaf = Leaf::self_signed(&[HOST]);
    for (asked, sent) in [
        (Some("MX1.clinic.example."), Some(HOST)),
        (Some("_tcp.clinic.example"), Some("_tcp.clinic.example")),
        (Some("192.0.2.1"), None),
        (Some("2001:db8::1"), None),
        (Some("not a name"), None),
        (Some(""), None),
        (None, None),
    ] {
        let hello = HelloOptions {
            sni: asked,
            ..HelloOptions::default()
        };
        let (ours, theirs) = meet(&plain(), hello, leaf.server_config()).await;
        assert_eq!(ours.unwrap().1.facts.sni.as_deref(), sent);
        let theirs = theirs.unwrap();
        assert_eq!(theirs.get_ref().1.server_name(), sent);
        assert_eq!(theirs.get_ref().1.alpn_protocol(), None);
    }
}

#[tokio::test]
async fn nothing_is_resumed_so_every_session_presents_a_certificate() {
    let leaf = Leaf::self_signed(&[HOST]);
    for version in [&TLS12, &TLS13] {
        let tls = plain();
        let server = config(&leaf, &[version], |_| ());
        let acceptor = TlsAcceptor::from(Arc::new(server));
        for _ in 0..2 {
            let (near, far) = duplex(64 * 1024);
            let hello = HelloOptions {
                sni: Some(HOST),
                ..HelloOptions::default()
            };
            let (ours, theirs) =
                tokio::join!(tls.connect_and_flush(near, hello), acceptor.accept(far));
            let (mut secured, peer) = ours.unwrap();
            let mut theirs = theirs.unwrap();
            theirs.write_all(b"x").await.unwrap();
            // Session tickets come before the octet, so the client has read them.
            assert_eq!(secured.data().await.unwrap(), b"x");
            assert_eq!(peer.chain.len(), 1);
            assert_eq!(
                theirs.get_ref().1.handshake_kind(),
                Some(HandshakeKind::Full)
            );
        }
    }
}

#[tokio::test]
async fn a_certificate_that_no_library_parses_carries_a_dane_ee_session() {
    let leaf = Leaf::self_signed_with(&["other.example"], unknown_critical_extension);
    let version_1 = Der::from(super::der::tests::without_version_and_extensions(
        &leaf.chain[0],
    ));
    assert!(webpki::EndEntityCert::try_from(&version_1).is_err());
    assert!(webpki::EndEntityCert::try_from(&leaf.chain[0]).is_err());
    for cert in [version_1, leaf.chain[0].clone()] {
        for version in [&TLS12, &TLS13] {
            let server = presenting(vec![cert.clone()], &leaf, version);
            let tls = plain();
            let (_, peer) = meet(&tls, HelloOptions::default(), server).await.0.unwrap();
            let record = Tlsa {
                usage: 3,
                selector: 0,
                matching: 0,
                data: cert.to_vec(),
            };
            let dane = ReferenceIdentity::Dane {
                records: vec![record],
                names: Vec::new(),
            };
            assert!(tls.trust.check(&peer, &dane, now()).is_ok());
            let (reason, _) = tls
                .trust
                .check(&peer, &pkix(&[host(HOST)]), now())
                .unwrap_err();
            assert_eq!(reason, Reason::ValidationFailure);
        }
    }
}

#[tokio::test]
async fn who_shows_a_certificate_without_having_its_key_fails() {
    let victim = Leaf::self_signed(&[HOST]);
    let thief = Leaf::self_signed(&[HOST]);
    for version in [&TLS12, &TLS13] {
        let server = presenting(victim.chain.clone(), &thief, version);
        let fault = meet(&plain(), HelloOptions::default(), server)
            .await
            .0
            .unwrap_err();
        assert_eq!(fault.kind(), FaultKind::Certificate);
        assert!(
            fault.to_string().contains("signature does not fit"),
            "{fault}"
        );
    }
    let garbage = Der::from(&b"no certificate"[..]);
    let server = presenting(vec![garbage], &thief, &TLS13);
    let fault = meet(&plain(), HelloOptions::default(), server)
        .await
        .0
        .unwrap_err();
    assert_eq!(fault.to_string(), "the peer's certificate cannot be read");
}

/// A host's certificate, and `count` authorities of one name that all might have issued it, and each other.
fn maze(count: usize) -> Leaf {
    let root = Authority::root("Maze");
    let mut leaf = root.leaf(&[HOST]);
    leaf.chain
        .extend((0..count).map(|_| root.below("Maze").cert));
    leaf
}

#[tokio::test]
async fn a_maze_of_issuers_is_given_up_and_a_larger_one_never_read() {
    let tls = plain();
    let leaf = maze(100);
    let server = presenting(leaf.chain.clone(), &leaf, &TLS13);
    let (_, peer) = meet(&tls, HelloOptions::default(), server).await.0.unwrap();
    assert_eq!(peer.chain.len(), 101);
    assert!(tls.trust.check(&peer, &pkix(&[host(HOST)]), now()).is_err());

    let mut leaf = maze(1);
    let one = leaf.chain[1].clone();
    leaf.chain
        .extend(vec![one; 64 * 1024 / leaf.chain[1].len()]);
    let server = presenting(leaf.chain.clone(), &leaf, &TLS13);
    let fault = meet(&tls, HelloOptions::default(), server)
        .await
        .0
        .unwrap_err();
    assert_eq!(fault.kind(), FaultKind::Protocol, "{fault}");
}

/// A peer that takes the ClientHello, answers with these octets, and closes.
async fn answered_with(octets: &[u8]) -> HandshakeFault {
    let (near, mut far) = duplex(64 * 1024);
    let answer = async {
        let mut hello = [0; 4096];
        assert!(far.read(&mut hello).await.unwrap() > 1000);
        far.write_all(octets).await.unwrap();
        drop(far);
    };
    let tls = plain();
    tokio::join!(tls.connect_and_flush(near, HelloOptions::default()), answer)
        .0
        .unwrap_err()
}

#[tokio::test]
async fn a_peer_that_hangs_up_without_an_alert_died() {
    let fault = answered_with(b"").await;
    assert_eq!(fault.kind(), FaultKind::Died);
    assert!(fault.to_string().contains("without an alert"), "{fault}");
    // The connection may also end in the middle of a record.
    assert_eq!(
        answered_with(&[22, 3, 3, 0, 100, 2]).await.kind(),
        FaultKind::Died
    );
}

#[test]
fn a_reset_is_a_death() {
    for kind in [
        std::io::ErrorKind::ConnectionReset,
        std::io::ErrorKind::ConnectionAborted,
        std::io::ErrorKind::BrokenPipe,
    ] {
        assert_eq!(HandshakeFault::of(&kind.into()).kind(), FaultKind::Died);
    }
}

#[tokio::test]
async fn alerts_are_named_and_those_of_old_peers_explained() {
    let alert = |code| [21, 3, 1, 0, 2, 2, code];
    for (code, kind, words) in [
        (70, FaultKind::TooOld, "takes no TLS version"),
        (40, FaultKind::TooOld, "(alert handshake_failure)"),
        (71, FaultKind::TooOld, "(alert insufficient_security)"),
        (80, FaultKind::Alert, "(alert internal_error)"),
        (48, FaultKind::Alert, "(alert unknown_ca)"),
        (200, FaultKind::Alert, "(alert 200)"),
    ] {
        let fault = answered_with(&alert(code)).await;
        assert_eq!(fault.kind(), kind);
        assert!(fault.to_string().contains(words), "{fault}");
    }
}

#[tokio::test]
async fn an_answer_that_is_not_tls_is_told_as_such() {
    let fault = answered_with(b"500 5.5.1 unknown command\r\n").await;
    assert_eq!(fault.kind(), FaultKind::Protocol);
    assert_eq!(
        fault.to_string(),
        "the peer answered with something that is not TLS"
    );
}

#[tokio::test]
async fn a_peer_that_wants_a_certificate_says_so_with_the_first_read() {
    let root = Authority::root("Clients");
    let mut anchors = rustls::RootCertStore::empty();
    anchors.add(root.cert.clone()).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let demanding = || {
        let verifier = WebPkiClientVerifier::builder_with_provider(
            Arc::new(anchors.clone()),
            provider.clone(),
        )
        .build()
        .unwrap();
        let leaf = Leaf::self_signed(&[HOST]);
        ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(leaf.chain.clone(), leaf.private_key())
            .unwrap()
    };
    let (ours, theirs) = meet(&plain(), HelloOptions::default(), demanding()).await;
    assert!(theirs.is_err());
    let error = ours.unwrap().0.data().await.unwrap_err();
    let fault = HandshakeFault::of(&error);
    assert_eq!(fault.kind(), FaultKind::Alert);
    assert!(
        fault.to_string().contains("certificate_required"),
        "{fault}"
    );

    let dir = Scratch::new();
    let own = root.leaf_with(&["out.example"], for_clients);
    let tls = client_tls(ClientOptions {
        pair: Some(own.write(&dir.0, "client")),
        ..ClientOptions::default()
    });
    let (_, theirs) = meet(&tls, HelloOptions::default(), demanding()).await;
    let shown = theirs
        .unwrap()
        .get_ref()
        .1
        .peer_certificates()
        .unwrap()
        .to_vec();
    assert_eq!(shown, own.chain);
}

#[test]
fn a_client_pair_that_does_not_belong_together_names_both_files() {
    let dir = Scratch::new();
    let (cert, _) = Leaf::self_signed(&["a.example"]).write(&dir.0, "one");
    let (_, key) = Leaf::self_signed(&["a.example"]).write(&dir.0, "two");
    let error = ClientTls::new(&ClientOptions {
        pair: Some((cert.clone(), key.clone())),
        ..ClientOptions::default()
    })
    .unwrap_err();
    assert!(
        error.starts_with(&format!("{}: ", key.display())),
        "{error}"
    );
    assert!(error.contains(&cert.display().to_string()), "{error}");
}

#[test]
fn a_lowest_version_other_than_1_2_and_1_3_is_an_error() {
    for text in ["1.1", "1.0", "", "13", "TLSv1.3"] {
        assert!(text.parse::<MinTls>().is_err());
    }
}
