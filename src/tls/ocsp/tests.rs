//! Responses are made by `openssl ocsp`, from Debian's package `openssl`.

use super::status;
use crate::{
    clock,
    policy::{NamePattern, Reason, ReferenceIdentity},
    tls::{
        CertFacts, CertificateFiles, ClientOptions, ClientTls, HelloOptions, Peer, ServerOptions,
        ServerTls, TlsFacts, Trust,
        peer::PresentedChain,
        pki::{Authority, Leaf, Scratch},
    },
};
use rcgen::{CertificateParams, CustomExtension, ExtendedKeyUsagePurpose};
use std::{
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, SystemTime},
};

const HOST: &str = "mx1.clinic.example";
const GOOD: &str = "V\t491231235959Z\t";
const REVOKED: &str = "R\t491231235959Z\t250301000000Z";

fn openssl(dir: &Path, arguments: &str) {
    let arguments = arguments.split(' ');
    let output = Command::new("openssl")
        .args(arguments.clone())
        .current_dir(dir)
        .output()
        .expect("these tests need the program `openssl`: apt-get install openssl");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{:?}: {said}",
        arguments.collect::<Vec<_>>()
    );
}

/// The issuer, and the responder that answers for it.
struct World {
    dir: Scratch,
    root: Authority,
    trust: Trust,
}

impl World {
    fn new() -> Self {
        let dir = Scratch::new();
        let root = Authority::root("Root A");
        let file = root.write(&dir.0, "root");
        dir.write("root.key", root.key_pem());
        let trust = Trust::in_servers(Some(&file)).unwrap();
        Self { dir, root, trust }
    }

    /// The response about `leaf`, which stands like this in the index of certificates.
    fn response(&self, leaf: &Leaf, state: &str, signer: &str, flags: &str) -> Vec<u8> {
        let dir = &self.dir.0;
        let serial = CertFacts::read(&leaf.chain[0]).serial.to_uppercase();
        leaf.write(dir, "leaf");
        self.dir
            .write("index", format!("{state}\t{serial}\tunknown\t/CN={HOST}\n"));
        openssl(
            dir,
            &format!("ocsp {flags}-issuer root.pem -cert leaf.pem -no_nonce -reqout request"),
        );
        openssl(
            dir,
            &format!(
                "ocsp -index index -CA root.pem -rsigner {signer}.pem -rkey {signer}.key -reqin request -respout response -ndays 7"
            ),
        );
        std::fs::read(dir.join("response")).unwrap()
    }

    fn judge(
        &self,
        leaf: &Leaf,
        staple: &[u8],
        now: SystemTime,
    ) -> Result<String, (Reason, String)> {
        let peer = Peer {
            facts: TlsFacts {
                version: "TLSv1.3",
                suite: "TLS_AES_128_GCM_SHA256",
                group: "X25519",
                sni: None,
                hello_retry: false,
            },
            chain: Arc::new(leaf.chain.iter().map(CertFacts::read).collect()),
            der: Arc::new(PresentedChain::new(leaf.chain.clone())),
            staple: Some(staple.into()),
        };
        self.trust.check(&peer, &identity(), now)
    }
}

fn identity() -> ReferenceIdentity {
    ReferenceIdentity::Pkix {
        names: vec![NamePattern::Host(HOST.into())],
        anchors: None,
    }
}

fn must_staple(params: &mut CertificateParams) {
    let content = vec![0x30, 3, 2, 1, 5];
    let extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 24], content);
    params.custom_extensions.push(extension);
}

fn in_days(days: u64) -> SystemTime {
    clock::wall() + Duration::from_secs(days * 86_400)
}

fn revoked() -> Result<String, (Reason, String)> {
    Err((
        Reason::CertificateNotTrusted,
        "revoked 2025-03-01 (stapled OCSP response)".into(),
    ))
}

#[test]
fn a_revoked_certificate_is_refused_however_old_the_news() {
    let world = World::new();
    let leaf = world.root.leaf(&[HOST]);
    for flags in ["", "-sha256 "] {
        let response = world.response(&leaf, REVOKED, "root", flags);
        assert_eq!(world.judge(&leaf, &response, in_days(0)), revoked());
        assert_eq!(world.judge(&leaf, &response, in_days(400)), revoked());
    }
}

#[test]
fn a_promised_response_must_be_there_and_say_good_today() {
    let world = World::new();
    let leaf = world.root.leaf_with(&[HOST], must_staple);
    let good = world.response(&leaf, GOOD, "root", "");
    assert!(world.judge(&leaf, &good, in_days(0)).is_ok());
    for (staple, now) in [
        (&good[..], in_days(8)),
        (&good, clock::wall() - Duration::from_secs(86_400)),
        (b"", in_days(0)),
        (b"garbage", in_days(0)),
        (&[0x30, 3, 0x0a, 1, 3], in_days(0)),
    ] {
        let (reason, words) = world.judge(&leaf, staple, now).unwrap_err();
        assert_eq!(reason, Reason::CertificateNotTrusted);
        assert!(
            words.contains("must be presented with a valid OCSP"),
            "{words}"
        );
    }
}

#[test]
fn a_response_that_was_not_promised_may_be_missing_or_broken() {
    let world = World::new();
    let leaf = world.root.leaf(&[HOST]);
    let good = world.response(&leaf, GOOD, "root", "");
    for staple in [&good[..], b"", b"garbage"] {
        assert!(world.judge(&leaf, staple, in_days(0)).is_ok());
    }
    assert!(world.judge(&leaf, &good, in_days(8)).is_ok());
}

#[test]
fn a_response_about_another_certificate_says_nothing() {
    let world = World::new();
    let (one, two) = (
        world.root.leaf_with(&[HOST], must_staple),
        world.root.leaf_with(&[HOST], must_staple),
    );
    let about_one = world.response(&one, GOOD, "root", "");
    assert!(world.judge(&one, &about_one, in_days(0)).is_ok());
    assert!(world.judge(&two, &about_one, in_days(0)).is_err());
    let bad_news = world.response(&one, REVOKED, "root", "");
    let plain = world.root.leaf(&[HOST]);
    assert!(world.judge(&plain, &bad_news, in_days(0)).is_ok());
}

#[test]
fn only_the_issuer_and_its_responders_are_believed() {
    let world = World::new();
    let leaf = world.root.leaf_with(&[HOST], must_staple);
    let responder = |params: &mut CertificateParams| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::OcspSigning];
    };
    let old_responder = |params: &mut CertificateParams| {
        responder(params);
        crate::tls::pki::expired(params);
    };
    let root = &world.root;
    let impostor = Authority::root("Root A");
    for (signer, believed) in [
        (root.leaf_with(&["responder"], responder), true),
        (root.leaf(&["no responder"]), false),
        (root.leaf_with(&["old responder"], old_responder), false),
        (impostor.leaf_with(&["responder"], responder), false),
        (Leaf::self_signed_with(&["responder"], responder), false),
    ] {
        signer.write(&world.dir.0, "signer");
        let good = world.response(&leaf, GOOD, "signer", "");
        assert_eq!(world.judge(&leaf, &good, in_days(0)).is_ok(), believed);
        let bad = world.response(&leaf, REVOKED, "signer", "");
        assert_eq!(world.judge(&leaf, &bad, in_days(0)) == revoked(), believed);
    }
}

#[test]
fn no_changed_octet_of_a_response_turns_bad_news_into_good() {
    let world = World::new();
    let leaf = world.root.leaf_with(&[HOST], must_staple);
    let response = world.response(&leaf, REVOKED, "root", "");
    for at in 0..response.len() {
        for change in [0x01, 0x80, 0xff] {
            let mut changed = response.clone();
            changed[at] ^= change;
            assert!(world.judge(&leaf, &changed, in_days(0)).is_err());
        }
        assert!(world.judge(&leaf, &response[..at], in_days(0)).is_err());
    }
}

#[tokio::test]
async fn what_a_server_staples_is_heard_by_the_client() {
    let world = World::new();
    let leaf = world.root.leaf(&[HOST]);
    let response = world.response(&leaf, REVOKED, "root", "");
    let ocsp = Some(world.dir.write("staple", response));
    let (cert, key) = leaf.write(&world.dir.0, "leaf");
    let server = ServerTls::new(&ServerOptions {
        pairs: vec![CertificateFiles { cert, key, ocsp }],
        ..ServerOptions::default()
    })
    .unwrap();
    let client = ClientTls::new(&ClientOptions {
        ca_file: Some(world.dir.0.join("root.pem")),
        ..ClientOptions::default()
    })
    .unwrap();
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (ours, _) = tokio::join!(
        client.connect_and_flush(near, HelloOptions::default()),
        server.accept(far)
    );
    let (_, peer) = ours.unwrap();
    assert_eq!(
        client.trust.check(&peer, &identity(), in_days(0)),
        revoked()
    );
}

#[test]
fn a_response_is_told_from_an_error_and_from_something_else() {
    assert_eq!(status(&[0x30, 3, 0x0a, 1, 0]), Some(0));
    assert_eq!(status(&[0x30, 3, 0x0a, 1, 6]), Some(6));
    assert_eq!(status(&[0x30, 3, 0x0a, 1, 0, 0]), None);
    assert_eq!(status(b"-----BEGIN"), None);
    assert_eq!(status(b""), None);
}

#[test]
fn the_dates_of_a_response_are_those_of_its_statements_and_of_its_responders() {
    let world = World::new();
    let leaf = world.root.leaf(&[HOST]);
    let response = world.response(&leaf, GOOD, "root", "");
    let dates = super::dates(&response);
    // The next update comes in a week. The root signs, and puts its own certificate into the response.
    let now = crate::tls::Date::of(clock::wall()).0;
    let in_a_week = now + 6 * 86_400..now + 8 * 86_400;
    assert!(
        dates.iter().any(|date| in_a_week.contains(&date.0)),
        "{dates:?}"
    );
    let root = CertFacts::read(&world.root.cert);
    assert!(dates.contains(&root.not_after) && dates.contains(&root.not_before));
    assert_eq!(super::dates(b"no response"), []);
    // Until then a peer that staples it proves what it proves now.
    let mut peer = crate::tls::tests::peer(&[]);
    peer.staple = Some(response.into());
    let soon = clock::wall() + Duration::from_secs(3600);
    let next = crate::tls::next_date(&peer, std::iter::empty(), soon).expect("a date");
    assert!(
        in_a_week.contains(&crate::tls::Date::of(next).0),
        "{next:?}"
    );
}
