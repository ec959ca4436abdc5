//! What a presented chain proves by TLSA records (RFC 7672 §3).

use super::{pki::*, *};
use crate::policy::Tlsa;
use ::aws_lc_rs::digest;

const HOST: &str = "mx1.clinic.example";

pub fn tlsa(usage: u8, selector: u8, matching: u8, of: &[u8]) -> Tlsa {
    let selected = match selector {
        0 => of,
        _ => super::der::Certificate::read(of).unwrap().spki,
    };
    let data = match matching {
        0 => selected.to_vec(),
        1 => digest::digest(&digest::SHA256, selected).as_ref().to_vec(),
        _ => digest::digest(&digest::SHA512, selected).as_ref().to_vec(),
    };
    Tlsa {
        usage,
        selector,
        matching,
        data,
    }
}

fn dane(
    records: Vec<Tlsa>,
    names: &[NamePattern],
    chain: &[Der<'static>],
) -> Result<String, (Reason, String)> {
    let identity = ReferenceIdentity::Dane {
        records,
        names: names.to_vec(),
    };
    Trust::in_nobody_but_dane().check(&peer(chain), &identity, now())
}

impl Trust {
    /// The only anchor is one that no chain leads to, so that only DANE can prove anything.
    fn in_nobody_but_dane() -> Self {
        trust_in(&Authority::root("nobody you know"))
    }
}

#[test]
fn dane_ee_ignores_names_dates_issuers_and_extensions() {
    let leaf = Leaf::self_signed_with(&["other.example"], |params| {
        expired(params);
        unknown_critical_extension(params);
    });
    for selector in [0, 1] {
        for matching in [0, 1, 2] {
            let record = tlsa(3, selector, matching, &leaf.chain[0]);
            let words = dane(vec![record], &[], &leaf.chain).unwrap();
            let start = format!("TLSA 3 {selector} {matching} ");
            assert!(words.starts_with(&start), "{words}");
        }
    }
}

#[test]
fn dane_ee_matches_the_first_certificate_only() {
    let root = Authority::root("Root A");
    let leaf = root.below("Sub A").leaf(&[HOST]);
    let of_issuer = tlsa(3, 1, 1, &leaf.chain[1]);
    let (reason, words) = dane(vec![of_issuer], &[host(HOST)], &leaf.chain).unwrap_err();
    assert_eq!(reason, Reason::TlsaInvalid);
    assert!(words.contains("none of 1 TLSA records matches"), "{words}");
}

#[test]
fn one_matching_record_of_a_rollover_pair_suffices() {
    let leaf = Leaf::self_signed(&[HOST]);
    let next = tlsa(3, 1, 1, &Leaf::self_signed(&[HOST]).chain[0]);
    let current = tlsa(3, 1, 1, &leaf.chain[0]);
    assert!(dane(vec![next.clone(), current], &[], &leaf.chain).is_ok());
    assert!(dane(vec![next], &[], &leaf.chain).is_err());
}

#[test]
fn records_that_are_not_defined_match_nothing() {
    let leaf = Leaf::self_signed(&[HOST]);
    let good = tlsa(3, 1, 1, &leaf.chain[0]);
    let spoilt = [
        Tlsa {
            usage: 0,
            ..good.clone()
        },
        Tlsa {
            usage: 1,
            ..good.clone()
        },
        Tlsa {
            usage: 255,
            ..good.clone()
        },
        Tlsa {
            selector: 7,
            ..good.clone()
        },
        Tlsa {
            matching: 9,
            ..good.clone()
        },
        Tlsa {
            matching: 2,
            ..good.clone()
        },
        Tlsa {
            data: good.data[..31].to_vec(),
            ..good.clone()
        },
        Tlsa {
            data: Vec::new(),
            ..good.clone()
        },
        Tlsa {
            data: Vec::new(),
            matching: 0,
            ..good.clone()
        },
        Tlsa {
            data: Vec::new(),
            usage: 2,
            selector: 0,
            matching: 0,
        },
        Tlsa {
            data: Vec::new(),
            usage: 2,
            selector: 1,
            matching: 0,
        },
        Tlsa {
            data: b"garbage".to_vec(),
            usage: 2,
            selector: 0,
            matching: 0,
        },
        Tlsa {
            data: b"garbage".to_vec(),
            usage: 2,
            selector: 1,
            matching: 0,
        },
    ];
    for record in spoilt {
        let (reason, words) = dane(vec![record.clone()], &[host(HOST)], &leaf.chain).unwrap_err();
        assert_eq!(reason, Reason::TlsaInvalid, "{record:?}: {words}");
    }
    assert_eq!(
        dane(Vec::new(), &[], &leaf.chain).unwrap_err().0,
        Reason::TlsaInvalid
    );
}

/// A chain in which the anchor of `2 x x` records is presented, as it must be (RFC 7672 §3.1.2).
fn presented_with_root(root: &Authority, mut leaf: Leaf) -> Vec<Der<'static>> {
    leaf.chain.push(root.cert.clone());
    leaf.chain
}

#[test]
fn dane_ta_in_the_chain_is_the_only_anchor_at_any_height() {
    let root = Authority::root("Root A");
    let sub = root.below("Sub A");
    let chain = presented_with_root(&root, sub.leaf(&[HOST]));
    for anchor in [&root.cert, &sub.cert] {
        for selector in [0, 1] {
            for matching in [0, 1, 2] {
                let record = tlsa(2, selector, matching, anchor);
                let words = dane(vec![record], &[host(HOST)], &chain).unwrap();
                assert!(words.ends_with(", name mx1.clinic.example"), "{words}");
            }
        }
    }
}

#[test]
fn dane_ta_that_is_not_presented_does_not_match() {
    let root = Authority::root("Root A");
    let leaf = root.below("Sub A").leaf(&[HOST]);
    for selector in [0, 1] {
        let record = tlsa(2, selector, 1, &root.cert);
        let (reason, _) = dane(vec![record], &[host(HOST)], &leaf.chain).unwrap_err();
        assert_eq!(reason, Reason::TlsaInvalid);
    }
}

#[test]
fn dane_ta_may_be_whole_in_the_record_and_missing_in_the_chain() {
    let root = Authority::root("Root A");
    for leaf in [root.leaf(&[HOST]), root.below("Sub A").leaf(&[HOST])] {
        for selector in [0, 1] {
            let record = tlsa(2, selector, 0, &root.cert);
            assert!(dane(vec![record], &[host(HOST)], &leaf.chain).is_ok());
        }
    }
    let stranger = Authority::root("Root A").leaf(&[HOST]);
    for selector in [0, 1] {
        let record = tlsa(2, selector, 0, &root.cert);
        let (reason, _) = dane(vec![record], &[host(HOST)], &stranger.chain).unwrap_err();
        assert_eq!(reason, Reason::TlsaInvalid);
    }
}

#[test]
fn dane_ta_presented_beside_a_chain_that_does_not_lead_to_it_proves_nothing() {
    let root = Authority::root("Root A");
    let chain = presented_with_root(&root, Authority::root("Mallory").leaf(&[HOST]));
    let (reason, words) = dane(vec![tlsa(2, 0, 1, &root.cert)], &[host(HOST)], &chain).unwrap_err();
    assert_eq!(reason, Reason::TlsaInvalid);
    assert!(
        words.starts_with("not issued by the trust anchor"),
        "{words}"
    );
}

#[test]
fn dane_ta_checks_names_and_any_reference_name_will_do() {
    let root = Authority::root("Root A");
    let record = tlsa(2, 1, 1, &root.cert);
    let chain = presented_with_root(&root, root.leaf(&["clinic.example"]));
    let judge = |names: &[NamePattern]| dane(vec![record.clone()], names, &chain);
    assert!(judge(&[host(HOST), host("clinic.example")]).is_ok());
    assert_eq!(
        judge(&[host(HOST)]),
        Err((
            Reason::CertificateHostMismatch,
            "names clinic.example".into()
        ))
    );
    assert!(judge(&[]).is_err());
}

#[test]
fn dane_ta_checks_dates_of_the_chain_and_of_the_anchor_itself() {
    let root = Authority::root("Root A");
    let chain = presented_with_root(&root, root.leaf_with(&[HOST], expired));
    let judge = |anchor: &Der<'_>, chain: &[Der<'static>]| {
        dane(vec![tlsa(2, 1, 1, anchor)], &[host(HOST)], chain)
            .unwrap_err()
            .0
    };
    assert_eq!(judge(&root.cert, &chain), Reason::CertificateExpired);
    let old = root.below_with("Sub A", expired);
    let chain = old.leaf(&[HOST]).chain;
    assert_eq!(judge(&old.cert, &chain), Reason::CertificateExpired);
}

#[test]
fn dane_ta_never_matches_the_servers_own_certificate() {
    let leaf = Leaf::self_signed(&[HOST]);
    let record = tlsa(2, 1, 1, &leaf.chain[0]);
    let (reason, _) = dane(vec![record], &[host(HOST)], &leaf.chain).unwrap_err();
    assert_eq!(reason, Reason::TlsaInvalid);
}

#[test]
fn the_general_anchors_mean_nothing_to_dane() {
    let root = Authority::root("Root A");
    let leaf = root.leaf(&[HOST]);
    let identity = ReferenceIdentity::Dane {
        records: vec![tlsa(3, 1, 1, &Leaf::self_signed(&[HOST]).chain[0])],
        names: vec![host(HOST)],
    };
    let by_chain = trust_in(&root).check(&peer(&leaf.chain), &pkix(&[host(HOST)]), now());
    assert!(by_chain.is_ok());
    let outcome = trust_in(&root).check(&peer(&leaf.chain), &identity, now());
    assert_eq!(outcome.unwrap_err().0, Reason::TlsaInvalid);
}
