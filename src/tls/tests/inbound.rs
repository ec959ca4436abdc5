//! The proxy is the server: which client gets which certificate, what clients must present, and how faults are named.

use super::{pki::*, *};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{ServerName, UnixTime},
};
use std::{path::Path, sync::Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::{TlsConnector, client};

mod turns;

const OURS: &str = "mail.clinic.example";
const PARTNER: &str = "mx.partner.example";

/// Accepts any server, offers only some signatures, and keeps the stapled response.
#[derive(Debug)]
struct Lax {
    schemes: Vec<SignatureScheme>,
    staple: Mutex<Vec<u8>>,
}

impl ServerCertVerifier for Lax {
    fn verify_server_cert(
        &self,
        _: &Der<'_>,
        _: &[Der<'_>],
        _: &ServerName<'_>,
        staple: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        *self.staple.lock().unwrap() = staple.to_vec();
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &Der<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &Der<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}

/// A client of these versions; `own` is its certificate.
fn lax_client(
    versions: &[&'static SupportedProtocolVersion],
    schemes: &[SignatureScheme],
    own: Option<&Leaf>,
) -> (ClientConfig, Arc<Lax>) {
    let verifier = Arc::new(Lax {
        schemes: schemes.to_vec(),
        staple: Mutex::default(),
    });
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&verifier) as Arc<dyn ServerCertVerifier>);
    let config = match own {
        Some(own) => builder
            .with_client_auth_cert(own.chain.clone(), own.private_key())
            .unwrap(),
        None => builder.with_no_client_auth(),
    };
    (config, verifier)
}

const ECDSA: SignatureScheme = SignatureScheme::ECDSA_NISTP256_SHA256;
const RSA: SignatureScheme = SignatureScheme::RSA_PSS_SHA256;

type Theirs = std::io::Result<client::TlsStream<DuplexStream>>;
type Ours = Result<(Secured<DuplexStream>, Peer), HandshakeFault>;

async fn meet(tls: &ServerTls, config: ClientConfig, name: &str) -> (Ours, Theirs) {
    let (near, far) = duplex(64 * 1024);
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    tokio::join!(tls.accept(near), connector.connect(name, far))
}

fn options(pairs: &[(&Leaf, &str)], dir: &Path) -> ServerOptions {
    let pairs = pairs.iter().map(|(leaf, stem)| {
        let (cert, key) = leaf.write(dir, stem);
        let ocsp = None;
        CertificateFiles { cert, key, ocsp }
    });
    ServerOptions {
        pairs: pairs.collect(),
        ..ServerOptions::default()
    }
}

pub(super) fn serving(pairs: &[&Leaf]) -> ServerTls {
    let dir = Scratch::new();
    let stems = ["one", "two", "three", "four"];
    let pairs: Vec<_> = pairs.iter().copied().zip(stems).collect();
    ServerTls::new(&options(&pairs, &dir.0)).unwrap()
}

/// A server that asks for certificates of this authority.
fn asking(auth: ClientAuth, clients: &Authority, accept_server_eku: bool) -> ServerTls {
    let dir = Scratch::new();
    let leaf = Leaf::self_signed(&[OURS]);
    ServerTls::new(&ServerOptions {
        client_auth: auth,
        client_ca: Some(clients.write(&dir.0, "clients")),
        accept_server_eku,
        ..options(&[(&leaf, "own")], &dir.0)
    })
    .unwrap()
}

fn shown(theirs: Theirs) -> Der<'static> {
    theirs.unwrap().get_ref().1.peer_certificates().unwrap()[0].clone()
}

#[tokio::test]
async fn the_certificate_is_chosen_by_sni_and_an_unknown_name_gets_the_first() {
    let first = Leaf::self_signed(&[OURS]);
    let second = Leaf::self_signed(&["mail.lab.example", "*.wild.example"]);
    let tls = serving(&[&first, &second]);
    for (name, leaf) in [
        (OURS, &first),
        ("MAIL.lab.example", &second),
        ("any.wild.example", &second),
        ("a.b.wild.example", &first),
        ("unknown.example", &first),
        ("192.0.2.1", &first),
    ] {
        for version in [&TLS12, &TLS13] {
            let (config, _) = lax_client(&[version], &[ECDSA], None);
            let (ours, theirs) = meet(&tls, config, name).await;
            let sni = ours.unwrap().1.facts.sni;
            let sent = (!name.starts_with('1')).then(|| name.to_ascii_lowercase());
            assert_eq!(sni, sent);
            assert_eq!(shown(theirs), leaf.chain[0], "{name}");
        }
    }
}

#[tokio::test]
async fn of_two_for_one_name_the_client_gets_the_one_it_can_verify_ecdsa_first() {
    let authority = Authority::root("Root A");
    let rsa = authority.leaf_of(&rcgen::PKCS_RSA_SHA256, &[OURS], |_| ());
    let ecdsa = authority.leaf(&[OURS]);
    let other = authority.leaf(&["other.example"]);
    let tls = serving(&[&rsa, &other, &ecdsa]);
    for version in [&TLS12, &TLS13] {
        for name in [OURS, "unknown.example"] {
            for (schemes, leaf) in [
                (&[ECDSA, RSA][..], &ecdsa),
                (&[RSA, ECDSA], &ecdsa),
                (&[RSA], &rsa),
                (&[ECDSA], &ecdsa),
            ] {
                let (config, _) = lax_client(&[version], schemes, None);
                let (_, theirs) = meet(&tls, config, name).await;
                assert_eq!(shown(theirs), leaf.chain[0], "{name} {schemes:?}");
            }
        }
    }
    // A client that cannot verify the certificate for its name gets a certificate that it can verify.
    let (config, _) = lax_client(&[&TLS13], &[RSA], None);
    let (_, theirs) = meet(&tls, config, "other.example").await;
    assert_eq!(shown(theirs), rsa.chain[0]);
}

#[tokio::test]
async fn a_client_without_a_signature_in_common_is_refused() {
    let tls = serving(&[&Leaf::self_signed(&[OURS])]);
    let (config, _) = lax_client(&[&TLS13], &[SignatureScheme::ED448, RSA], None);
    let (ours, theirs) = meet(&tls, config, OURS).await;
    assert!(ours.is_err() && theirs.is_err());
}

#[tokio::test]
async fn the_post_quantum_group_is_served() {
    let tls = serving(&[&Leaf::self_signed(&[OURS])]);
    let (config, _) = lax_client(&[&TLS13], &[ECDSA], None);
    let facts = meet(&tls, config, OURS).await.0.unwrap().1.facts;
    assert_eq!(facts.version, "TLSv1.3");
    assert_eq!(facts.group, "X25519MLKEM768");
}

#[tokio::test]
async fn no_tickets_are_sent_and_nothing_is_resumed() {
    let tls = serving(&[&Leaf::self_signed(&[OURS])]);
    for version in [&TLS12, &TLS13] {
        let (config, _) = lax_client(&[version], &[ECDSA], None);
        for _ in 0..2 {
            let (ours, theirs) = meet(&tls, config.clone(), OURS).await;
            let (mut ours, _) = ours.unwrap();
            ours.channel.seal(b"x").unwrap();
            ours.flush().await;
            let mut theirs = theirs.unwrap();
            theirs.read_u8().await.unwrap();
            let connection = theirs.get_ref().1;
            assert_eq!(connection.tls13_tickets_received(), 0);
            assert_eq!(connection.handshake_kind(), Some(HandshakeKind::Full));
        }
    }
}

#[tokio::test]
async fn early_data_is_not_taken() {
    let tls = serving(&[&Leaf::self_signed(&[OURS])]);
    let (mut config, _) = lax_client(&[&TLS13], &[ECDSA], None);
    config.enable_early_data = true;
    for _ in 0..2 {
        let (_, theirs) = meet(&tls, config.clone(), OURS).await;
        assert!(!theirs.unwrap().get_ref().1.is_early_data_accepted());
    }
}

#[tokio::test]
async fn a_client_that_wants_another_protocol_than_smtp_is_refused() {
    let tls = serving(&[&Leaf::self_signed(&[OURS])]);
    for (offered, taken) in [
        (&[&b"h2"[..], b"http/1.1"][..], false),
        (&[b"http/1.1", b"smtp"], true),
        (&[], true),
    ] {
        let (mut config, _) = lax_client(&[&TLS12, &TLS13], &[ECDSA], None);
        config.alpn_protocols = offered.iter().map(|p| p.to_vec()).collect();
        let (ours, theirs) = meet(&tls, config, OURS).await;
        assert_eq!(ours.is_ok(), taken);
        if let (Err(ours), Err(theirs)) = (ours, theirs) {
            assert!(ours.to_string().contains("ALPN"), "{ours}");
            let theirs = HandshakeFault::of(&theirs).to_string();
            assert!(theirs.contains("no_application_protocol"), "{theirs}");
        }
    }
}

#[tokio::test]
async fn the_lowest_version_is_kept() {
    let dir = Scratch::new();
    let leaf = Leaf::self_signed(&[OURS]);
    let tls = ServerTls::new(&ServerOptions {
        min_tls: MinTls::Tls13,
        ..options(&[(&leaf, "own")], &dir.0)
    })
    .unwrap();
    let (config, _) = lax_client(&[&TLS12], &[ECDSA], None);
    let fault = meet(&tls, config, OURS).await.0.unwrap_err();
    assert_eq!(fault.kind(), FaultKind::TooOld);
    let (config, _) = lax_client(&[&TLS12, &TLS13], &[ECDSA], None);
    assert!(meet(&tls, config, OURS).await.0.is_ok());
}

#[tokio::test]
async fn what_is_not_tls_is_told_as_such() {
    let tls = serving(&[&Leaf::self_signed(&[OURS])]);
    for octets in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"EHLO a\r\nMAIL FROM:<a@b>\r\n",
    ] {
        let (near, mut far) = duplex(64 * 1024);
        far.write_all(octets).await.unwrap();
        let fault = tls.accept(near).await.unwrap_err();
        assert_eq!(fault.kind(), FaultKind::Protocol);
        assert!(fault.to_string().ends_with("not TLS"), "{fault}");
    }
}

#[tokio::test]
async fn a_hello_in_records_of_one_octet_is_read() {
    let tls = serving(&[&Leaf::self_signed(&[OURS])]);
    let (config, _) = lax_client(&[&TLS13], &[ECDSA], None);
    let name = ServerName::try_from(OURS).unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    let (head, body) = hello.split_at(5);
    let records = body
        .iter()
        .flat_map(|&octet| [head[0], head[1], head[2], 0, 1, octet]);
    let (near, mut far) = duplex(64 * 1024);
    far.write_all(&records.collect::<Vec<u8>>()).await.unwrap();
    let client = async {
        const HANDSHAKE: u8 = 22;
        assert_eq!(far.read_u8().await.unwrap(), HANDSHAKE);
        drop(far);
    };
    let (outcome, ()) = tokio::join!(tls.accept(near), client);
    assert_eq!(outcome.unwrap_err().kind(), FaultKind::Died);
}

#[tokio::test]
async fn clients_that_are_not_asked_present_nothing() {
    let tls = serving(&[&Leaf::self_signed(&[OURS])]);
    let own = Leaf::self_signed(&[PARTNER]);
    let (config, _) = lax_client(&[&TLS13], &[ECDSA], Some(&own));
    let (_, peer) = meet(&tls, config, OURS).await.0.unwrap();
    assert!(peer.chain.is_empty());
    assert!(
        tls.trust
            .check(&peer, &pkix(&[host(PARTNER)]), now())
            .is_err()
    );
}

/// What a client with this certificate gets: the verdict afterwards, or the fault.
async fn presented(
    tls: &ServerTls,
    version: &'static SupportedProtocolVersion,
    own: Option<&Leaf>,
) -> Result<Result<String, (Reason, String)>, HandshakeFault> {
    let (config, _) = lax_client(&[version], &[ECDSA], own);
    let (ours, _) = meet(tls, config, OURS).await;
    ours.map(|(_, peer)| tls.trust.check(&peer, &pkix(&[host(PARTNER)]), now()))
}

#[tokio::test]
async fn requested_certificates_are_recorded_and_judged_afterwards() {
    let clients = Authority::root("Clients");
    let tls = asking(ClientAuth::Request, &clients, false);
    let below = clients.below("Sub");
    let good = [
        clients.leaf_with(&[PARTNER], for_clients),
        clients.leaf(&[PARTNER]),
        below.leaf_with(&[PARTNER], for_clients),
    ];
    let expired = clients.leaf_with(&[PARTNER], expired);
    let stranger = Authority::root("Stranger").leaf(&[PARTNER]);
    let servers_only = clients.leaf_with(&[PARTNER], for_servers);
    let other = clients.leaf(&["mx.other.example"]);
    let bad = [
        (
            None,
            Reason::CertificateNotTrusted,
            "no certificate was presented",
        ),
        (
            Some(&expired),
            Reason::CertificateExpired,
            "expired 2020-03-01",
        ),
        (
            Some(&stranger),
            Reason::CertificateNotTrusted,
            "issuer CN=Stranger",
        ),
        (
            Some(&servers_only),
            Reason::CertificateNotTrusted,
            "extended key usage",
        ),
        (
            Some(&other),
            Reason::CertificateHostMismatch,
            "names mx.other.example",
        ),
    ];
    for version in [&TLS12, &TLS13] {
        for own in &good {
            let verdict = presented(&tls, version, Some(own)).await.unwrap();
            assert!(verdict.is_ok(), "{verdict:?}");
        }
        for (own, reason, words) in &bad {
            let verdict = presented(&tls, version, *own).await.unwrap();
            let (got, said) = verdict.unwrap_err();
            assert_eq!(got, *reason);
            assert!(said.contains(words), "{said}");
        }
    }
}

#[tokio::test]
async fn required_certificates_fail_the_handshake_where_they_are_not_acceptable() {
    let clients = Authority::root("Clients");
    let tls = asking(ClientAuth::Require, &clients, false);
    let good = clients.below("Sub").leaf_with(&[PARTNER], for_clients);
    let expired = clients.leaf_with(&[PARTNER], expired);
    let stranger = Authority::root("Stranger").leaf(&[PARTNER]);
    let self_signed = Leaf::self_signed(&[PARTNER]);
    let servers_only = clients.leaf_with(&[PARTNER], for_servers);
    let bad = [
        (None, "presented no certificate"),
        (Some(&expired), "expired 2020-03-01"),
        (Some(&stranger), "issuer CN=Stranger"),
        (Some(&self_signed), "self-signed"),
        (Some(&servers_only), "extended key usage"),
    ];
    for version in [&TLS12, &TLS13] {
        assert!(presented(&tls, version, Some(&good)).await.unwrap().is_ok());
        for (own, words) in &bad {
            let fault = presented(&tls, version, *own).await.unwrap_err();
            assert_eq!(fault.kind(), FaultKind::Certificate);
            assert!(fault.to_string().contains(words), "{fault}");
        }
    }
}

#[tokio::test]
async fn a_certificate_for_servers_only_is_a_clients_where_that_is_allowed() {
    let clients = Authority::root("Clients");
    let servers_only = clients.leaf_with(&[PARTNER], for_servers);
    let clients_only = clients.leaf_with(&[PARTNER], for_clients);
    for auth in [ClientAuth::Request, ClientAuth::Require] {
        let tls = asking(auth, &clients, true);
        for own in [&servers_only, &clients_only] {
            let verdict = presented(&tls, &TLS13, Some(own)).await.unwrap();
            assert!(verdict.is_ok(), "{verdict:?}");
        }
    }
}

#[tokio::test]
async fn a_requested_self_signed_certificate_can_be_pinned() {
    let tls = asking(ClientAuth::Request, &Authority::root("Clients"), false);
    let own = Leaf::self_signed(&[PARTNER]);
    let (config, _) = lax_client(&[&TLS13], &[ECDSA], Some(&own));
    let (_, peer) = meet(&tls, config, OURS).await.0.unwrap();
    let pin = ::aws_lc_rs::digest::digest(&::aws_lc_rs::digest::SHA256, &own.chain[0]);
    let pinned = ReferenceIdentity::Fingerprints(vec![pin.as_ref().to_vec()]);
    assert!(tls.trust.check(&peer, &pinned, now()).is_ok());
}

#[tokio::test]
async fn a_client_without_its_certificates_key_fails() {
    let clients = Authority::root("Clients");
    let victim = clients.leaf_with(&[PARTNER], for_clients);
    let thief = Leaf {
        chain: victim.chain.clone(),
        key: Leaf::self_signed(&[PARTNER]).key,
    };
    let provider = aws_lc_rs::default_provider();
    for auth in [ClientAuth::Request, ClientAuth::Require] {
        for version in [&TLS12, &TLS13] {
            let tls = asking(auth, &clients, false);
            let (mut config, _) = lax_client(&[version], &[ECDSA], None);
            let key = provider
                .key_provider
                .load_private_key(thief.private_key())
                .unwrap();
            let stolen = rustls::sign::CertifiedKey::new(thief.chain.clone(), key);
            config.client_auth_cert_resolver =
                Arc::new(rustls::sign::SingleCertAndKey::from(stolen));
            let fault = meet(&tls, config, OURS).await.0.unwrap_err();
            assert_eq!(fault.kind(), FaultKind::Certificate);
        }
    }
}

#[tokio::test]
async fn a_staple_is_handed_out() {
    let dir = Scratch::new();
    let leaf = Leaf::self_signed(&[OURS]);
    let staple = [0x30, 3, 0x0a, 1, 0];
    let mut options = options(&[(&leaf, "own")], &dir.0);
    options.pairs[0].ocsp = Some(dir.write("own.ocsp", staple));
    let tls = ServerTls::new(&options).unwrap();
    let (config, verifier) = lax_client(&[&TLS13], &[ECDSA], None);
    assert!(meet(&tls, config, OURS).await.1.is_ok());
    assert_eq!(*verifier.staple.lock().unwrap(), staple);

    for (content, words) in [
        (&b"garbage"[..], "no OCSP response"),
        (&[0x30, 3, 0x0a, 1, 3], "an error (status 3)"),
    ] {
        dir.write("own.ocsp", content);
        let error = ServerTls::new(&options).unwrap_err();
        assert!(
            error.contains("own.ocsp: ") && error.contains(words),
            "{error}"
        );
    }
}

#[test]
fn broken_pairs_are_errors_that_name_their_files() {
    let dir = Scratch::new();
    let (one, two) = (Leaf::self_signed(&[OURS]), Leaf::self_signed(&[OURS]));
    let good = options(&[(&one, "one"), (&two, "two")], &dir.0);
    let with = |cert: &Path, key: &Path| {
        let mut options = good.clone();
        options.pairs[1].cert = cert.into();
        options.pairs[1].key = key.into();
        ServerTls::new(&options).map(drop).unwrap_err()
    };
    let (cert, key) = (&good.pairs[1].cert, &good.pairs[1].key);
    let first_key = &good.pairs[0].key;
    let empty = dir.write("empty.pem", "");
    let missing = dir.0.join("missing.pem");
    for (error, file, words) in [
        (
            with(cert, first_key),
            first_key,
            "not the key of the first certificate in",
        ),
        (with(cert, &empty), &empty, "no private key in it"),
        (with(&empty, key), &empty, "no certificate in it"),
        (with(cert, &missing), &missing, "cannot be read"),
        (with(&missing, key), &missing, "cannot be read"),
        (with(cert, cert), cert, "no private key in it"),
    ] {
        assert!(
            error.starts_with(&format!("{}: ", file.display())),
            "{error}"
        );
        assert!(error.contains(words), "{error}");
    }
    assert!(with(cert, first_key).contains(&cert.display().to_string()));
    let error = ServerTls::new(&ServerOptions::default()).unwrap_err();
    assert!(error.contains("--cert"), "{error}");
}

#[test]
fn own_certificates_that_end_soon_are_told() {
    let ends = |year, month, day| {
        Leaf::self_signed_with(&[OURS], |params| {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(year, month, day);
        })
    };
    let (long, soon, over) = (ends(2030, 1, 1), ends(2026, 6, 11), ends(2026, 5, 1));
    let early = Leaf::self_signed_with(&[OURS], not_yet_valid);
    let told = serving(&[&long, &soon, &over, &early]).expires_within(14, now());
    assert_eq!(told.len(), 3, "{told:?}");
    for (line, file, words) in [
        (&told[0], "two.pem: ", "expires 2026-06-11, in 10 days"),
        (&told[1], "three.pem: ", "expired 2026-05-01"),
        (&told[2], "four.pem: ", "not valid before 2999-03-01"),
    ] {
        assert!(line.contains(file) && line.contains(words), "{line}");
    }
    assert!(serving(&[&soon]).expires_within(9, now()).is_empty());
}

#[test]
fn ways_to_ask_clients_are_three() {
    assert_eq!("none".parse(), Ok(ClientAuth::None));
    assert_eq!("request".parse(), Ok(ClientAuth::Request));
    assert_eq!("require".parse(), Ok(ClientAuth::Require));
    assert!(
        "demand"
            .parse::<ClientAuth>()
            .unwrap_err()
            .contains("require")
    );
}
