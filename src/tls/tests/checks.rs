//! What a presented chain proves: chain, names, dates, fingerprints, DANE.

use super::{pki::*, *};
use ::aws_lc_rs::digest;
use rcgen::{GeneralSubtree, KeyUsagePurpose, NameConstraints};
use std::net::IpAddr;

const HOST: &str = "mx1.clinic.example";

/// The verdict on `leaf` under the name `HOST`, its chain judged by `root`.
fn verdict(root: &Authority, leaf: &Leaf) -> Result<String, (Reason, String)> {
    trust_in(root).check(&peer(&leaf.chain), &pkix(&[host(HOST)]), now())
}

#[test]
fn a_good_chain_with_the_right_name_is_authorised_in_words() {
    let root = Authority::root("Root A");
    let leaf = root.below("Sub A").leaf(&[HOST, "mx2.clinic.example"]);
    assert_eq!(
        verdict(&root, &leaf),
        Ok("name mx1.clinic.example, issuer CN=Sub A".into())
    );
}

#[test]
fn a_wrong_name_is_host_mismatch_and_says_which_names_there_are() {
    let root = Authority::root("Root A");
    let leaf = root.leaf(&["*.hoster.example"]);
    assert_eq!(
        verdict(&root, &leaf),
        Err((
            Reason::CertificateHostMismatch,
            "names *.hoster.example".into()
        ))
    );
}

#[test]
fn a_wildcard_covers_one_label() {
    let root = Authority::root("Root A");
    assert!(verdict(&root, &root.leaf(&["*.clinic.example"])).is_ok());
    let (reason, _) = verdict(&root, &root.leaf(&["*.example"])).unwrap_err();
    assert_eq!(reason, Reason::CertificateHostMismatch);
}

#[test]
fn the_common_name_never_counts() {
    let root = Authority::root("Root A");
    let leaf = root.leaf_with(&[HOST], common_name_only);
    assert!(peer(&leaf.chain).chain[0].subject.contains(HOST));
    assert_eq!(
        verdict(&root, &leaf),
        Err((Reason::CertificateHostMismatch, "names no host".into()))
    );
}

#[test]
fn an_address_is_matched_by_ip_ids_alone() {
    let root = Authority::root("Root A");
    let address: IpAddr = "192.0.2.1".parse().unwrap();
    let demand = pkix(&[NamePattern::Address(address)]);
    let judge = |leaf: &Leaf| trust_in(&root).check(&peer(&leaf.chain), &demand, now());
    assert!(judge(&root.leaf(&["192.0.2.1"])).is_ok());
    assert!(judge(&root.leaf(&["192.0.2.2"])).is_err());
    let as_dns_name = root.leaf_with(&[], |params| {
        let name = "192.0.2.1".try_into().unwrap();
        params.subject_alt_names = vec![rcgen::SanType::DnsName(name)];
    });
    assert_eq!(
        judge(&as_dns_name).unwrap_err().0,
        Reason::CertificateHostMismatch
    );
    assert!(verdict(&root, &root.leaf(&["192.0.2.1"])).is_err());
}

#[test]
fn expired_and_not_yet_valid_are_told_with_their_dates() {
    let root = Authority::root("Root A");
    assert_eq!(
        verdict(&root, &root.leaf_with(&[HOST], expired)),
        Err((Reason::CertificateExpired, "expired 2020-03-01".into()))
    );
    assert_eq!(
        verdict(&root, &root.leaf_with(&[HOST], not_yet_valid)),
        Err((
            Reason::CertificateExpired,
            "not valid before 2999-03-01T00:00:00Z".into()
        ))
    );
    let below_expired = root.below_with("Sub A", expired).leaf(&[HOST]);
    assert_eq!(
        verdict(&root, &below_expired),
        Err((
            Reason::CertificateExpired,
            "issuer CN=Sub A: expired 2020-03-01".into()
        ))
    );
}

#[test]
fn validity_ends_with_the_second_that_not_after_names() {
    let root = Authority::root("Root A");
    let leaf = root.leaf_with(&[HOST], expired);
    let trust = trust_in(&root);
    let at = |seconds: i64| {
        let end = leaf_end(&leaf);
        let now = UNIX_EPOCH + Duration::from_secs(u64::try_from(end + seconds).unwrap());
        trust.check(&peer(&leaf.chain), &pkix(&[host(HOST)]), now)
    };
    assert!(at(0).is_ok());
    assert_eq!(at(1).unwrap_err().0, Reason::CertificateExpired);
    // A chain that is remembered as verified is still judged by the clock each time.
    assert!(at(-1).is_ok());
    assert_eq!(at(1).unwrap_err().0, Reason::CertificateExpired);
}

fn leaf_end(leaf: &Leaf) -> i64 {
    CertFacts::read(&leaf.chain[0]).not_after.0
}

#[test]
fn a_remembered_chain_ends_with_its_first_certificate_that_ends() {
    let root = Authority::root("Root A");
    let trust = trust_in(&root);
    let leaf = root.below_with("Sub A", expired).leaf(&[HOST]);
    let on = |days: u64| {
        let now = UNIX_EPOCH + Duration::from_secs(days * 86_400);
        trust.check(&peer(&leaf.chain), &pkix(&[host(HOST)]), now)
    };
    // 2020-02-01, 2020-04-01, 2018-12-01: in, after and before the issuer's validity. The host's own validity ends much later.
    assert!(on(18_293).is_ok());
    assert_eq!(on(18_353).unwrap_err().0, Reason::CertificateExpired);
    assert_eq!(on(17_866).unwrap_err().0, Reason::CertificateExpired);
}

#[test]
fn a_clock_before_1970_trusts_nobody() {
    let root = Authority::root("Root A");
    let leaf = root.leaf(&[HOST]);
    let before = UNIX_EPOCH - Duration::from_secs(1);
    let outcome = trust_in(&root).check(&peer(&leaf.chain), &pkix(&[host(HOST)]), before);
    assert_eq!(outcome.unwrap_err().0, Reason::CertificateExpired);
}

#[test]
fn an_unknown_authority_is_not_trusted_and_named() {
    let root = Authority::root("Root A");
    let leaf = Authority::root("Root B").leaf(&[HOST]);
    assert_eq!(
        verdict(&root, &leaf),
        Err((
            Reason::CertificateNotTrusted,
            "no chain to a trust anchor: issuer CN=Root B".into()
        ))
    );
}

#[test]
fn an_authority_of_the_same_name_with_another_key_is_not_trusted() {
    let root = Authority::root("Root A");
    let leaf = Authority::root("Root A").leaf(&[HOST]);
    assert_eq!(
        verdict(&root, &leaf).unwrap_err().0,
        Reason::CertificateNotTrusted
    );
}

#[test]
fn self_signed_is_not_trusted_as_host_or_as_authority() {
    let root = Authority::root("Root A");
    let said = Err((
        Reason::CertificateNotTrusted,
        format!("self-signed, CN={HOST}"),
    ));
    assert_eq!(verdict(&root, &Leaf::self_signed(&[HOST])), said);
    let like_openssl_makes_it = Leaf::self_signed_with(&[HOST], |params| {
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    });
    assert_eq!(verdict(&root, &like_openssl_makes_it), said);
}

#[test]
fn the_intermediate_must_be_there_in_whatever_order_and_company() {
    let root = Authority::root("Root A");
    let mut leaf = root.below("Sub A").below("Sub B").leaf(&[HOST]);
    let [own, lower, upper] = <[_; 3]>::try_from(leaf.chain.clone()).unwrap();
    let stranger = Authority::root("Stranger").cert;
    leaf.chain = vec![own.clone(), stranger, upper, lower.clone()];
    assert!(verdict(&root, &leaf).is_ok());
    leaf.chain = vec![own, lower];
    assert_eq!(
        verdict(&root, &leaf).unwrap_err().0,
        Reason::CertificateNotTrusted
    );
}

#[test]
fn who_may_not_issue_has_not_issued() {
    let root = Authority::root("Root A");
    let no_authority = root.below_with("Sub A", |params| params.is_ca = rcgen::IsCa::NoCa);
    let wrong_key_usage = root.below_with("Sub A", |params| {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    });
    let no_more_below = root.below_with("Sub A", |params| {
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    });
    let other_names = root.below_with("Sub A", |params| {
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName("hoster.example".into())],
            excluded_subtrees: Vec::new(),
        });
    });
    for leaf in [
        no_authority.leaf(&[HOST]),
        wrong_key_usage.leaf(&[HOST]),
        no_more_below.below("Sub B").leaf(&[HOST]),
        other_names.leaf(&[HOST]),
        root.leaf_with(&[HOST], for_clients),
    ] {
        let (reason, words) = verdict(&root, &leaf).unwrap_err();
        assert_eq!(reason, Reason::CertificateNotTrusted, "{words}");
    }
}

#[test]
fn an_unknown_critical_extension_is_refused_in_words() {
    let root = Authority::root("Root A");
    let leaf = root.leaf_with(&[HOST], unknown_critical_extension);
    assert_eq!(
        verdict(&root, &leaf),
        Err((
            Reason::ValidationFailure,
            "has a critical extension that is not known here".into()
        ))
    );
}

#[test]
fn anchors_of_a_table_line_replace_the_general_ones() {
    let (general, own) = (Authority::root("General"), Authority::root("Own"));
    let trust = trust_in(&general);
    let demand = ReferenceIdentity::Pkix {
        names: vec![host(HOST)],
        anchors: Some(Arc::new(vec![b"garbage".to_vec(), own.cert.to_vec()])),
    };
    let judge = |leaf: &Leaf| trust.check(&peer(&leaf.chain), &demand, now());
    assert!(judge(&own.leaf(&[HOST])).is_ok());
    let general_leaf = general.leaf(&[HOST]);
    assert!(verdict(&general, &general_leaf).is_ok());
    assert_eq!(
        judge(&general_leaf).unwrap_err().0,
        Reason::CertificateNotTrusted
    );
}

#[test]
fn a_remembered_chain_vouches_for_no_other() {
    let root = Authority::root("Root A");
    let trust = trust_in(&root);
    let judge = |leaf: &Leaf| trust.check(&peer(&leaf.chain), &pkix(&[host(HOST)]), now());
    let good = root.below("Sub A").leaf(&[HOST]);
    assert!(judge(&good).is_ok());
    assert!(judge(&good).is_ok());
    let spliced = Leaf {
        chain: vec![
            Leaf::self_signed(&[HOST]).chain[0].clone(),
            good.chain[1].clone(),
        ],
        key: good.key,
    };
    assert!(judge(&spliced).is_err());
}

#[test]
fn the_memory_of_verified_chains_is_bounded() {
    let root = Authority::root("Root A");
    let trust = trust_in(&root);
    let leaf = root.leaf(&[HOST]);
    let anchors = &trust.anchors().roots;
    let verified = super::chain::verify(&leaf.chain, anchors, trust.purposes, now()).unwrap();
    for filler in 0..super::trust::REMEMBERED {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&filler.to_be_bytes());
        trust.verified().insert(key, verified.clone());
    }
    assert!(
        trust
            .check(&peer(&leaf.chain), &pkix(&[host(HOST)]), now())
            .is_ok()
    );
    assert_eq!(trust.verified().len(), 1);
}

#[test]
fn a_fingerprint_is_of_the_certificate_or_its_key_by_any_listed_digest() {
    let leaf = Leaf::self_signed_with(&["other.example"], expired);
    let shown = peer(&leaf.chain);
    let spki = super::der::Certificate::read(&leaf.chain[0]).unwrap().spki;
    let judge = |listed: Vec<Vec<u8>>| {
        let identity = ReferenceIdentity::Fingerprints(listed);
        Trust::in_nobody().check(&shown, &identity, now())
    };
    for algorithm in [
        &digest::SHA1_FOR_LEGACY_USE_ONLY,
        &digest::SHA256,
        &digest::SHA384,
        &digest::SHA512,
    ] {
        for bytes in [&leaf.chain[0][..], spki] {
            let pin = digest::digest(algorithm, bytes).as_ref().to_vec();
            assert!(judge(vec![vec![0; 32], pin.clone()]).is_ok());
            let mut broken = pin;
            broken[0] ^= 1;
            let (reason, words) = judge(vec![broken]).unwrap_err();
            assert_eq!(reason, Reason::CertificateNotTrusted);
            assert!(words.contains(&shown.chain[0].sha256), "{words}");
            assert!(words.contains(&shown.chain[0].spki_sha256), "{words}");
        }
    }
    for nothing in [vec![], vec![vec![]], vec![vec![0; 7]]] {
        assert!(judge(nothing).is_err());
    }
}

#[test]
fn without_a_certificate_only_anyone_is_proved() {
    let nobody = peer(&[]);
    let trust = Trust::in_nobody();
    assert!(
        trust
            .check(&nobody, &ReferenceIdentity::Anyone, now())
            .is_ok()
    );
    let demands = [
        pkix(&[host(HOST)]),
        ReferenceIdentity::Fingerprints(vec![vec![0; 32]]),
        ReferenceIdentity::Dane {
            records: vec![super::dane::tlsa(
                3,
                0,
                1,
                &Leaf::self_signed(&[HOST]).chain[0],
            )],
            names: vec![host(HOST)],
        },
    ];
    for demand in demands {
        let (reason, words) = trust.check(&nobody, &demand, now()).unwrap_err();
        assert_eq!(reason, Reason::CertificateNotTrusted);
        assert_eq!(words, "no certificate was presented");
    }
}

#[test]
fn words_about_a_hostile_certificate_are_short_printable_ascii() {
    let root = Authority::root("Root A");
    let long = "x".repeat(500);
    let leaf = root.leaf_with(&["a.example"], |params| {
        params.distinguished_name.push(
            rcgen::DnType::OrganizationName,
            format!("ü\r\n250 ok {long}"),
        );
    });
    let issuer = Authority::root(&format!("Ev\u{202e}il\r\n250 ok\u{1b}[2J{long}"));
    for leaf in [leaf, issuer.leaf(&["a.example"])] {
        let (_, words) = verdict(&root, &leaf).unwrap_err();
        assert!(words.len() < 250, "{words}");
        assert!(words.bytes().all(|b| (b' '..=b'~').contains(&b)), "{words}");
    }
}

#[test]
fn a_broken_or_empty_ca_file_is_an_error_that_names_it() {
    let dir = Scratch::new();
    let cases = [
        ("", "no certificate in it"),
        ("-----BEGIN CERTIFICATE-----\n", "not a sound PEM file"),
        (
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "certificate 1 in it cannot be a trust anchor",
        ),
    ];
    for (content, said) in cases {
        let file = dir.write("ca.pem", content);
        let error = Trust::in_servers(Some(&file)).unwrap_err();
        assert!(
            error.starts_with(&format!("{}: ", file.display())),
            "{error}"
        );
        assert!(error.contains(said), "{error}");
    }
    let error = Trust::in_servers(Some(&dir.0.join("missing.pem"))).unwrap_err();
    assert!(error.contains("missing.pem: cannot be read"), "{error}");
}

/// A self-signed certificate that is marked as an authority's. Appliances make such certificates for themselves.
fn own_authority(change: impl FnOnce(&mut rcgen::CertificateParams)) -> Leaf {
    Leaf::self_signed_with(&["mx.clinic.example"], |params| {
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        change(params);
    })
}

fn with_tafile(names: &[NamePattern], anchors: &[&Der<'static>]) -> ReferenceIdentity {
    ReferenceIdentity::Pkix {
        names: names.to_vec(),
        anchors: Some(Arc::new(anchors.iter().map(|der| der.to_vec()).collect())),
    }
}

#[test]
fn the_very_certificate_that_a_file_names_needs_no_issuer_and_may_be_an_authoritys() {
    let names = [host("mx.clinic.example")];
    let own = own_authority(|_| ());
    let same_name = own_authority(|_| ());
    let issued = Authority::root("Root").leaf(&["mx.clinic.example"]);
    let dir = Scratch::new();
    for leaf in [&own, &issued] {
        let der = &leaf.chain[0];
        let presented = peer(&leaf.chain);
        let (ca_file, _) = leaf.write(&dir.0, "named");
        let servers = Trust::in_servers(Some(&ca_file)).unwrap();
        let clients = Trust::in_clients(Some(&ca_file), false).unwrap();
        for (trust, identity) in [
            (
                &Trust::in_servers(Some(&ca_file)).unwrap(),
                with_tafile(&names, &[&same_name.chain[0], der]),
            ),
            (&servers, pkix(&names)),
            (&clients, pkix(&names)),
        ] {
            let matched = trust.check(&presented, &identity, now());
            assert_eq!(
                matched.map(|words| words.split(',').next().unwrap().to_owned()),
                Ok("name mx.clinic.example".into())
            );
            // A certificate that only has the same names belongs to somebody else.
            let other = trust.check(&peer(&same_name.chain), &pkix(&names), now());
            assert_eq!(other.unwrap_err().0, Reason::CertificateNotTrusted);
            let wrong_name = trust.check(
                &presented,
                &with_tafile(&[host("other.example")], &[der]),
                now(),
            );
            assert_eq!(wrong_name.unwrap_err().0, Reason::CertificateHostMismatch);
        }
    }
}

#[test]
fn dates_and_purpose_of_the_named_certificate_count_as_ever() {
    let names = [host("mx.clinic.example")];
    let trust = Trust::in_servers(Some(
        &Authority::root("Other").write(&Scratch::new().0, "ca"),
    ))
    .unwrap();
    for (change, reason, words) in [
        (
            pki::expired as fn(&mut _),
            Reason::CertificateExpired,
            "expired 2020-03-01",
        ),
        (
            pki::not_yet_valid,
            Reason::CertificateExpired,
            "not valid before 2999",
        ),
        (
            pki::for_clients,
            Reason::CertificateNotTrusted,
            "extended key usage",
        ),
    ] {
        let own = own_authority(change);
        let (found, said) = trust
            .check(
                &peer(&own.chain),
                &with_tafile(&names, &[&own.chain[0]]),
                now(),
            )
            .unwrap_err();
        assert!(found == reason && said.contains(words), "{said}");
    }
    let own = own_authority(pki::for_servers);
    let outcome = trust.check(
        &peer(&own.chain),
        &with_tafile(&names, &[&own.chain[0]]),
        now(),
    );
    assert!(outcome.is_ok(), "{outcome:?}");
}

#[test]
fn a_byte_order_mark_hides_no_certificate_and_no_key() {
    const MARK: &str = "\u{feff}";
    let dir = Scratch::new();
    let (one, two) = (Authority::root("One"), Authority::root("Two"));
    let file = dir.write(
        "both.pem",
        format!("{MARK}{}{MARK}{}", one.pem(), two.pem()),
    );
    let read = anchors_in(&file).unwrap();
    assert_eq!(read, [one.cert.to_vec(), two.cert.to_vec()]);
    let leaf = one.leaf(&["mx.clinic.example"]);
    let cert = dir.write("own.pem", format!("{MARK}{}", leaf.chain_pem()));
    let key = dir.write("own.key", format!("{MARK}{}", leaf.key_pem()));
    let ocsp = None;
    let options = ServerOptions {
        pairs: vec![CertificateFiles { cert, key, ocsp }],
        ..ServerOptions::default()
    };
    ServerTls::new(&options).unwrap();
    let utf16: Vec<u8> = format!("{MARK}{}", one.pem())
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let words = anchors_in(&dir.write("utf16.pem", utf16)).unwrap_err();
    assert!(
        words.contains("utf16.pem: ") && words.contains("UTF-16"),
        "{words}"
    );
}

#[test]
fn what_cannot_be_an_anchor_is_an_error_of_its_file() {
    let dir = Scratch::new();
    let broken = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
    let file = dir.write(
        "broken.pem",
        format!("{}{broken}", Authority::root("One").pem()),
    );
    let words = anchors_in(&file).unwrap_err();
    assert!(words.contains("broken.pem: certificate 2 in it"), "{words}");
}
