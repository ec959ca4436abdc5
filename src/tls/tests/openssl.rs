//! Peers that rustls cannot play: old versions, old suites, odd keys. OpenSSL's own programs, from Debian's package `openssl`.

use super::{pki::*, *};
use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
};
use tokio::net::{TcpListener, TcpStream};

const HOST: &str = "mx1.clinic.example";

/// A running `openssl s_server`.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Drop for Server {
    fn drop(&mut self) {
        // The process may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn openssl(arguments: &[&str]) -> Command {
    let mut command = Command::new("openssl");
    command.args(arguments).stdin(Stdio::piped());
    command
}

fn make(dir: &Path, arguments: &str) {
    let arguments: Vec<&str> = arguments.split(' ').collect();
    let output = openssl(&arguments)
        .current_dir(dir)
        .output()
        .expect("these tests need the program `openssl`: apt-get install openssl");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {arguments:?}: {said}");
}

impl Server {
    /// Starts the server with `own.pem` and `own.key` of this directory.
    fn start(dir: &Path, flags: &str) -> Self {
        let fixed = "s_server -accept 127.0.0.1:0 -cert own.pem -key own.key";
        let arguments: Vec<&str> = fixed.split(' ').chain(flags.split_whitespace()).collect();
        let mut child = openssl(&arguments)
            .current_dir(dir)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("these tests need the program `openssl`: apt-get install openssl");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines
            .find_map(|line| line.unwrap().strip_prefix("ACCEPT ")?.parse().ok())
            .expect("s_server says where it listens");
        Self { child, address }
    }
}

fn client() -> ClientTls {
    let dir = Scratch::new();
    let ca_file = Some(Authority::root("nobody you know").write(&dir.0, "ca"));
    ClientTls::new(&ClientOptions {
        ca_file,
        ..ClientOptions::default()
    })
    .unwrap()
}

/// The outcome of a handshake with `s_server` under these flags and with this certificate.
async fn meet(dir: &Path, flags: &str) -> Result<Peer, HandshakeFault> {
    let server = Server::start(dir, flags);
    let tcp = TcpStream::connect(server.address).await.unwrap();
    let hello = HelloOptions {
        sni: Some(HOST),
        ..HelloOptions::default()
    };
    client().connect(tcp, hello).await.map(|(_, peer)| peer)
}

/// A certificate for `HOST` with a key made by these arguments to `genpkey`.
fn with_key(kind: &str) -> Scratch {
    let dir = Scratch::new();
    make(&dir.0, &format!("genpkey {kind} -out own.key"));
    make(
        &dir.0,
        &format!(
            "req -x509 -new -key own.key -out own.pem -days 30 -subj /CN={HOST} -addext subjectAltName=DNS:{HOST}"
        ),
    );
    dir
}

const RSA: &str = "-algorithm RSA -pkeyopt rsa_keygen_bits:2048";

#[tokio::test]
async fn what_is_good_enough_passes() {
    let dir = with_key(RSA);
    for (flags, version, suite, group) in [
        ("", "TLSv1.3", "TLS_AES_256_GCM_SHA384", "X25519"),
        (
            "-tls1_2",
            "TLSv1.2",
            "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
            "X25519",
        ),
        (
            "-tls1_2 -cipher ECDHE-RSA-CHACHA20-POLY1305 -groups P-384",
            "TLSv1.2",
            "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
            "secp384r1",
        ),
    ] {
        let peer = meet(&dir.0, flags).await.unwrap();
        let TlsFacts {
            version: v,
            suite: s,
            group: g,
            ..
        } = peer.facts;
        assert_eq!((v, s, g), (version, suite, group));
        assert_eq!(peer.chain[0].key, "RSA 2048");
    }
}

#[tokio::test]
async fn peers_that_offer_only_what_is_refused_are_named_as_such() {
    let dir = with_key(RSA);
    for flags in [
        "-tls1 -cipher ALL:@SECLEVEL=0",
        "-tls1_1 -cipher ALL:@SECLEVEL=0",
        "-tls1_2 -cipher ECDHE-RSA-AES256-SHA384",
        "-tls1_2 -cipher AES256-GCM-SHA384",
        "-tls1_2 -cipher AES128-SHA:@SECLEVEL=0",
        "-tls1_2 -cipher DHE-RSA-AES256-GCM-SHA384",
        "-tls1_2 -cipher aNULL:@SECLEVEL=0",
        "-tls1_2 -cipher eNULL:@SECLEVEL=0",
        "-tls1_2 -groups P-521",
        "-tls1_3 -groups P-521",
    ] {
        let fault = meet(&dir.0, flags).await.unwrap_err();
        assert_eq!(fault.kind(), FaultKind::TooOld, "{flags}: {fault}");
    }
}

#[tokio::test]
async fn keys_that_are_too_weak_are_named() {
    let dir = with_key("-algorithm RSA -pkeyopt rsa_keygen_bits:1024");
    for version in ["-tls1_2", "-tls1_3"] {
        let flags = format!("{version} -cipher ALL:@SECLEVEL=0");
        let fault = meet(&dir.0, &flags).await.unwrap_err();
        assert_eq!(fault.kind(), FaultKind::Certificate);
        assert!(fault.to_string().contains("RSA with 1024 bits"), "{fault}");
    }
}

/// The peer says only that it found no common option, so the words list possible causes and claim none.
#[tokio::test]
async fn keys_and_groups_of_unknown_kinds_are_named_for_what_they_are() {
    let kinds = [
        (
            "-algorithm EC -pkeyopt ec_paramgen_curve:secp256k1",
            "secp256k1",
            &["-tls1_2", "-tls1_3"][..],
        ),
        (
            "-algorithm EC -pkeyopt ec_paramgen_curve:brainpoolP256r1",
            "brainpool",
            &["-tls1_2", "-tls1_3"],
        ),
        ("-algorithm ED448", "Ed448", &["-tls1_2", "-tls1_3"]),
        (
            "-algorithm RSA-PSS -pkeyopt rsa_keygen_bits:2048",
            "RSA-PSS",
            &["-tls1_2", "-tls1_3"],
        ),
        (
            "-algorithm EC -pkeyopt ec_paramgen_curve:secp521r1",
            "P-521",
            &["-tls1_2"],
        ),
        (
            RSA,
            "P-521",
            &["-tls1_2 -groups P-521", "-tls1_3 -groups P-521"],
        ),
        (
            RSA,
            "X448",
            &["-tls1_2 -groups X448", "-tls1_3 -groups X448"],
        ),
        (RSA, "brainpool", &["-tls1_2 -groups brainpoolP256r1"]),
    ];
    for (kind, name, versions) in kinds {
        let dir = with_key(kind);
        for version in versions {
            let fault = meet(&dir.0, version).await.unwrap_err();
            let words = fault.to_string();
            assert_eq!(fault.kind(), FaultKind::TooOld, "{kind} {version}: {fault}");
            assert!(words.contains(name), "{kind} {version}: {fault}");
        }
    }
}

#[tokio::test]
async fn a_certificate_of_version_1_that_openssl_made_carries_a_handshake() {
    let dir = Scratch::new();
    make(&dir.0, &format!("genpkey {RSA} -out own.key"));
    make(
        &dir.0,
        &format!("req -new -key own.key -out own.csr -subj /CN={HOST}"),
    );
    make(
        &dir.0,
        "x509 -req -in own.csr -signkey own.key -days 30 -out own.pem",
    );
    let text = openssl(&["x509", "-in", "own.pem", "-noout", "-text"])
        .current_dir(&dir.0)
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&text.stdout).contains("Version: 1 "));
    for version in ["-tls1_2", "-tls1_3"] {
        let peer = meet(&dir.0, version).await.unwrap();
        assert_eq!(peer.chain[0].subject, format!("CN={HOST}"));
    }
}

#[test]
fn weak_signatures_in_a_chain_are_refused() {
    for (digest, bits, trusted) in [
        ("sha256", 2048, true),
        ("sha1", 2048, false),
        ("md5", 2048, false),
        ("sha256", 1024, false),
    ] {
        let dir = Scratch::new();
        dir.write("san", format!("subjectAltName=DNS:{HOST}"));
        make(
            &dir.0,
            &format!("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:{bits} -out ca.key"),
        );
        make(
            &dir.0,
            "req -x509 -new -key ca.key -out ca.pem -days 9999 -subj /CN=Root",
        );
        make(&dir.0, &format!("genpkey {RSA} -out own.key"));
        make(
            &dir.0,
            &format!("req -new -key own.key -out own.csr -subj /CN={HOST}"),
        );
        make(
            &dir.0,
            &format!(
                "x509 -req -in own.csr -CA ca.pem -CAkey ca.key -CAcreateserial -{digest} -days 9999 -extfile san -out own.pem"
            ),
        );
        let trust = Trust::in_servers(Some(&dir.0.join("ca.pem"))).unwrap();
        let chain = super::pem::certificates(&dir.0.join("own.pem")).unwrap();
        let outcome = trust.check(&peer(&chain), &pkix(&[host(HOST)]), crate::clock::wall());
        if trusted {
            assert!(outcome.is_ok(), "{outcome:?}");
        } else {
            assert_eq!(outcome.unwrap_err().0, Reason::CertificateNotTrusted);
        }
    }
}

/// With an exponent of 1, each number is its own signature, and anybody can sign (RFC 8017 §3.1 asks for 3 at least).
#[tokio::test]
async fn an_rsa_key_whose_exponent_is_1_proves_nothing() {
    let dir = Scratch::new();
    dir.write("ca.key", include_str!("exponent-1"));
    dir.write("own.key", include_str!("exponent-1"));
    dir.write("san", format!("subjectAltName=DNS:{HOST}"));
    for steps in [
        "req -x509 -new -key ca.key -out ca.pem -days 9999 -subj /CN=Root",
        "req -new -key own.key -out own.csr -subj /CN=own",
        "x509 -req -in own.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 9999 -extfile san -out own.pem",
        "verify -CAfile ca.pem own.pem",
    ] {
        make(&dir.0, steps);
    }
    let trust = Trust::in_servers(Some(&dir.0.join("ca.pem"))).unwrap();
    let chain = super::pem::certificates(&dir.0.join("own.pem")).unwrap();
    let outcome = trust.check(&peer(&chain), &pkix(&[host(HOST)]), crate::clock::wall());
    assert!(outcome.is_err(), "{outcome:?}");
    for version in ["-tls1_2", "-tls1_3"] {
        let outcome = meet(&dir.0, version).await;
        assert!(outcome.is_err(), "{version}: {outcome:?}");
    }
}

#[test]
fn issuers_with_keys_of_unknown_kinds_are_named() {
    for (kind, digest, words) in [
        (
            "-algorithm EC -pkeyopt ec_paramgen_curve:secp256k1",
            "sha256",
            "EC secp256k1",
        ),
        (
            "-algorithm EC -pkeyopt ec_paramgen_curve:brainpoolP384r1",
            "sha384",
            "EC brainpoolP384r1",
        ),
        (
            "-algorithm RSA-PSS -pkeyopt rsa_keygen_bits:2048",
            "sha256",
            "RSA-PSS",
        ),
        (
            "-algorithm RSA -pkeyopt rsa_keygen_bits:2048",
            "sha1",
            "RSA with SHA-1",
        ),
    ] {
        let dir = Scratch::new();
        make(&dir.0, &format!("genpkey {kind} -out ca.key"));
        make(
            &dir.0,
            "req -x509 -new -key ca.key -out ca.pem -days 9999 -subj /CN=Root",
        );
        dir.write("san", format!("subjectAltName=DNS:{HOST}"));
        make(&dir.0, &format!("genpkey {RSA} -out own.key"));
        make(
            &dir.0,
            &format!("req -new -key own.key -out own.csr -subj /CN={HOST}"),
        );
        make(
            &dir.0,
            &format!(
                "x509 -req -in own.csr -CA ca.pem -CAkey ca.key -CAcreateserial -{digest} -days 99 -extfile san -out own.pem"
            ),
        );
        let trust = Trust::in_servers(Some(&dir.0.join("ca.pem"))).unwrap();
        let chain = super::pem::certificates(&dir.0.join("own.pem")).unwrap();
        let outcome = trust.check(&peer(&chain), &pkix(&[host(HOST)]), crate::clock::wall());
        let (_, said) = outcome.unwrap_err();
        assert!(said.contains(words), "{kind}: {said}");
    }
}

/// The outcome of our server's handshake with `openssl s_client` under these flags.
async fn called_by(flags: &str) -> Result<Peer, HandshakeFault> {
    serving(&[&rcgen::PKCS_RSA_SHA256], flags).await.0
}

/// The same with a certificate for each kind of key, and what s_client printed.
async fn serving(
    kinds: &[&'static rcgen::SignatureAlgorithm],
    flags: &str,
) -> (Result<Peer, HandshakeFault>, String) {
    let dir = Scratch::new();
    let authority = Authority::root("Root A");
    let pair = |(at, kind): (usize, &&'static rcgen::SignatureAlgorithm)| {
        let leaf = authority.leaf_of(kind, &[HOST], |_| ());
        let (cert, key) = leaf.write(&dir.0, &format!("own-{at}"));
        let ocsp = None;
        CertificateFiles { cert, key, ocsp }
    };
    let tls = ServerTls::new(&ServerOptions {
        pairs: kinds.iter().enumerate().map(pair).collect(),
        ..ServerOptions::default()
    })
    .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap().to_string();
    let fixed = ["s_client", "-connect", &target, "-servername", HOST];
    let arguments: Vec<&str> = fixed.into_iter().chain(flags.split_whitespace()).collect();
    let mut child = openssl(&arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("these tests need the program `openssl`: apt-get install openssl");
    let (tcp, _) = listener.accept().await.unwrap();
    let outcome = tls.accept(tcp).await.map(|(_, peer)| peer);
    // s_client ends at the end of its input, when the handshake is over.
    drop(child.stdin.take());
    let printed = child.wait_with_output().unwrap().stdout;
    (outcome, String::from_utf8_lossy(&printed).into_owned())
}

#[tokio::test]
async fn a_certificate_whose_curve_the_client_does_not_know_is_not_chosen() {
    use rcgen::{PKCS_ECDSA_P256_SHA256 as P256, PKCS_ECDSA_P384_SHA384 as P384, PKCS_RSA_SHA256};
    let kinds: [&'static rcgen::SignatureAlgorithm; 2] = [&P384, &PKCS_RSA_SHA256];
    for (flags, key) in [
        ("-tls1_2", "id-ecPublicKey"),
        ("-tls1_2 -groups P-256", "rsaEncryption"),
        ("-tls1_2 -groups X25519:P-256", "rsaEncryption"),
        ("-tls1_2 -groups P-256:P-384", "id-ecPublicKey"),
        // In TLS 1.3 the scheme names the curve, and the groups are about the key exchange alone.
        ("-tls1_3 -groups P-256", "id-ecPublicKey"),
        (
            "-tls1_3 -groups P-256 -sigalgs RSA-PSS+SHA256:ECDSA+SHA256",
            "rsaEncryption",
        ),
    ] {
        let (outcome, printed) = serving(&kinds, flags).await;
        assert!(outcome.is_ok(), "{flags}: {outcome:?}");
        assert!(
            printed.contains(&format!("a:PKEY: {key}")),
            "{flags}: {printed}"
        );
    }
    let (outcome, printed) = serving(&[&P384, &P256], "-tls1_2 -groups P-256").await;
    assert!(
        outcome.is_ok() && printed.contains("256 (bit)"),
        "{outcome:?} {printed}"
    );
}

#[tokio::test]
async fn clients_that_offer_only_what_is_refused_are_named_as_such() {
    for (flags, words) in [
        ("-tls1 -cipher ALL:@SECLEVEL=0", "TLS 1.1 or older"),
        ("-tls1_1 -cipher ALL:@SECLEVEL=0", "TLS 1.1 or older"),
        (
            "-tls1_2 -cipher ECDHE-RSA-AES256-SHA384",
            "cipher suites that are refused",
        ),
        ("-tls1_2 -cipher AES256-GCM-SHA384", "static RSA"),
        (
            "-tls1_2 -cipher DHE-RSA-AES256-GCM-SHA384",
            "finite-field DH",
        ),
        ("-tls1_2 -groups P-521", "P-521"),
        ("-tls1_3 -groups P-521", "P-521"),
        ("-tls1_3 -groups X448", "X448"),
        ("-tls1_3 -sigalgs ed448", "Ed448"),
        ("-tls1_2 -sigalgs RSA+SHA1 -cipher ALL:@SECLEVEL=0", "SHA-1"),
    ] {
        let fault = called_by(flags).await.unwrap_err();
        assert_eq!(fault.kind(), FaultKind::TooOld, "{flags}: {fault}");
        assert!(fault.to_string().contains(words), "{flags}: {fault}");
    }
    assert_eq!(called_by("").await.unwrap().facts.version, "TLSv1.3");
    assert_eq!(called_by("-tls1_2").await.unwrap().facts.version, "TLSv1.2");
}

/// Reads until something ends it: the fault that ended it, or nothing for an end in good order. Data is told.
async fn ended(secured: &mut Secured<TcpStream>) -> (String, String) {
    let (mut data, mut read) = (Vec::new(), 1);
    while read > 0 {
        let incoming = secured.channel.incoming();
        read = match poll_fn(|cx| incoming.poll_read_from(&mut secured.stream, 4096, cx)).await {
            Ok(read) => read,
            Err(error) => return (error.to_string(), printable(&data)),
        };
        if let Err(error) = secured
            .channel
            .open(|octets| data.extend_from_slice(octets))
        {
            return (error.to_string(), printable(&data));
        }
        secured.flush().await;
    }
    (String::new(), printable(&data))
}

fn printable(data: &[u8]) -> String {
    String::from_utf8_lossy(data).into_owned()
}

/// RFC 9325 §3.5. OpenSSL ends a connection on which the other side wants no second handshake, and says so.
#[tokio::test]
async fn no_second_handshake_is_done_inside_a_connection() {
    // A server that asks for one: `r` is a command of s_server.
    let dir = with_key(RSA);
    let mut server = Server::start(&dir.0, "-tls1_2");
    let tcp = TcpStream::connect(server.address).await.unwrap();
    let hello = HelloOptions::default();
    let (mut ours, _) = client().connect_and_flush(tcp, hello).await.unwrap();
    let mut commands = server.child.stdin.take().unwrap();
    std::io::Write::write_all(&mut commands, b"r\n").unwrap();
    let (fault, data) = ended(&mut ours).await;
    assert!(fault.contains("HandshakeFailure"), "{fault:?} {data:?}");

    // A client that begins one: `R` is a command of s_client.
    let leaf = Authority::root("Root A").leaf(&[HOST]);
    let tls = inbound::serving(&[&leaf]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap().to_string();
    let mut child = openssl(&["s_client", "-tls1_2", "-connect", &target])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (tcp, _) = listener.accept().await.unwrap();
    let (mut ours, _) = tls.accept(tcp).await.unwrap();
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"R\n").unwrap();
    let (fault, data) = ended(&mut ours).await;
    assert!(fault.contains("HandshakeFailure"), "{fault:?} {data:?}");
    let said = child.wait_with_output().unwrap();
    let said = printable(&[said.stdout, said.stderr].concat());
    assert!(said.contains("RENEGOTIATING"), "{said}");
    assert!(said.contains("no renegotiation"), "{said}");
}

#[test]
fn what_the_script_makes_is_judged_as_its_files_are_called() {
    let dir = Scratch::new();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/certs/make.sh");
    let output = Command::new(script)
        .args([
            &dir.0.join("pki"),
            Path::new(HOST),
            Path::new("mx2.clinic.example"),
        ])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let file = |name: &str| dir.0.join("pki").join(format!("{name}.pem"));
    let shown = |name: &str| peer(&super::pem::certificates(&file(name)).unwrap());
    let root = file("root");
    let servers = Trust::in_servers(Some(&root)).unwrap();
    let clients = |eku| Trust::in_clients(Some(&root), eku).unwrap();

    let is_host = pkix(&[host(HOST)]);
    let verdict = |trust: &Trust, name: &str| {
        trust
            .check(&shown(name), &is_host, now())
            .map_or_else(|(reason, _)| Some(reason), |_| None)
    };
    let not_trusted = Some(Reason::CertificateNotTrusted);
    for (name, expected) in [
        ("good", None),
        ("good-rsa", None),
        ("wildcard", None),
        ("dane-ta", None),
        ("expired", Some(Reason::CertificateExpired)),
        ("not-yet-valid", Some(Reason::CertificateExpired)),
        ("wrong-name", Some(Reason::CertificateHostMismatch)),
        ("cn-only", Some(Reason::CertificateHostMismatch)),
        ("self-signed", not_trusted),
        ("unknown-ca", not_trusted),
        ("no-sub", not_trusted),
        ("client", not_trusted),
    ] {
        assert_eq!(verdict(&servers, name), expected, "{name}");
    }
    for (name, strict, lenient) in [
        ("client", None, None),
        ("client-server-eku", not_trusted, None),
        ("client-unknown-ca", not_trusted, not_trusted),
    ] {
        assert_eq!(verdict(&clients(false), name), strict, "{name}");
        assert_eq!(verdict(&clients(true), name), lenient, "{name}");
    }
    let expired = Some(Reason::CertificateExpired);
    assert_eq!(verdict(&clients(false), "client-expired"), expired);

    let printed = String::from_utf8(output.stdout).unwrap();
    let mut matched = 0;
    for line in printed.lines() {
        let [name, usage, selector, matching, data] =
            <[&str; 5]>::try_from(line.split_whitespace().collect::<Vec<_>>()).unwrap();
        let record = crate::policy::Tlsa {
            usage: usage.parse().unwrap(),
            selector: selector.parse().unwrap(),
            matching: matching.parse().unwrap(),
            data: (0..data.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&data[at..at + 2], 16).unwrap())
                .collect(),
        };
        let by_anchor = record.usage == 2;
        let identity = ReferenceIdentity::Dane {
            records: vec![record],
            names: vec![host(HOST)],
        };
        let whose = if by_anchor { "dane-ta" } else { name };
        let outcome = servers.check(&shown(whose), &identity, now());
        assert!(outcome.is_ok(), "{line}: {outcome:?}");
        matched += 1;
    }
    assert_eq!(matched, 26);
}
