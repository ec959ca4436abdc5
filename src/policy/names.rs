//! Does a name in a certificate match (RFC 9525 §6.3)?

use crate::smtp::Domain;
use std::{fmt, net::IpAddr};

/// A name that a certificate's DNS-ID (or IP-ID) must match.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NamePattern {
    /// Exactly this name. A wildcard in the certificate may cover it (RFC 9525 §6.3).
    Host(String),
    /// `.example.com`: any host below the domain, at any depth, in Postfix's meaning of a leading dot.
    Below(String),
    /// `*.example.com`: exactly one label below (RFC 8461 §4.1).
    OneLabel(String),
    /// An address, for table entries only. An IP-ID must show it (RFC 9525 §6.2).
    Address(IpAddr),
}

impl NamePattern {
    /// Whether a DNS-ID, as presented in the certificate, matches. Case is ignored. A text that is no host name (a NUL, a trailing
    /// dot, an empty label) matches nothing, and a DNS-ID never stands for an address (RFC 9525 §6.2).
    ///
    /// A presented `*` must be the whole left-most label, stands for exactly one label, and needs at least two labels behind it
    /// (RFC 9525 §6.3), since no certificate may cover a whole top-level domain.
    #[must_use]
    pub fn matches(&self, presented: &str) -> bool {
        let (wildcard, rest) = match presented.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, presented),
        };
        let Some(rest) = Domain::parse(rest) else {
            return false;
        };
        let rest = rest.as_str();
        if wildcard && !rest.contains('.') {
            return false;
        }
        match self {
            Self::Host(host) if wildcard => host
                .split_once('.')
                .is_some_and(|(_, parent)| parent.eq_ignore_ascii_case(rest)),
            Self::Host(host) => host.eq_ignore_ascii_case(rest),
            // Postfix's leading dot: a wildcard directly below the domain covers only names below the domain.
            Self::Below(domain) => {
                (wildcard && domain.eq_ignore_ascii_case(rest)) || is_below(rest, domain)
            }
            Self::OneLabel(domain) if wildcard => domain.eq_ignore_ascii_case(rest),
            Self::OneLabel(domain) => rest
                .split_once('.')
                .is_some_and(|(_, parent)| parent.eq_ignore_ascii_case(domain)),
            Self::Address(_) => false,
        }
    }
}

/// Whether `name` ends in a dot and `domain`.
fn is_below(name: &str, domain: &str) -> bool {
    name.len()
        .checked_sub(domain.len() + 1)
        .filter(|dot| *dot > 0)
        .is_some_and(|dot| {
            name.as_bytes()[dot] == b'.' && name[dot + 1..].eq_ignore_ascii_case(domain)
        })
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host) => f.write_str(host),
            Self::Below(domain) => write!(f, ".{domain}"),
            Self::OneLabel(domain) => write!(f, "*.{domain}"),
            Self::Address(address) => write!(f, "[{address}]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn host(name: &str) -> NamePattern {
        NamePattern::Host(name.into())
    }

    #[test]
    fn a_host_matches_itself_in_any_case_and_nothing_that_is_no_host_name() {
        let mx = host("mx.clinic.example");
        assert!(mx.matches("mx.clinic.example"));
        assert!(mx.matches("MX.Clinic.EXAMPLE"));
        for other in [
            "",
            "*",
            "clinic.example",
            "a.mx.clinic.example",
            "mx.clinic.example.",
            "mx.clinic.example\0",
            "mx.clinic.example\0.evil.example",
            "mx.clinic.example ",
            " mx.clinic.example",
            "203.0.113.9",
        ] {
            assert!(!mx.matches(other), "{other:?}");
        }
    }

    #[test]
    fn a_presented_wildcard_is_one_whole_left_most_label() {
        let mx = host("mx.clinic.example");
        assert!(mx.matches("*.clinic.example"));
        assert!(mx.matches("*.CLINIC.example"));
        for other in [
            "*.example",
            "*",
            "*.",
            "*.*.example",
            "m*.clinic.example",
            "*x.clinic.example",
            "mx.*.example",
            "*.mx.clinic.example",
            "**.clinic.example",
        ] {
            assert!(!mx.matches(other), "{other:?}");
        }
        assert!(!host("clinic.example").matches("*.clinic.example"));
        assert!(!host("clinic.example").matches("*.example"));
    }

    #[test]
    fn a_leading_dot_is_any_depth_below_but_not_the_domain_itself() {
        let below = NamePattern::Below("clinic.example".into());
        for good in [
            "mx.clinic.example",
            "a.b.clinic.example",
            "*.clinic.example",
            "*.a.clinic.example",
            "MX.CLINIC.EXAMPLE",
        ] {
            assert!(below.matches(good), "{good:?}");
        }
        for bad in [
            "clinic.example",
            ".clinic.example",
            "notclinic.example",
            "x.notclinic.example",
            "mx.clinic.example.evil.example",
            "evil\0.clinic.example",
        ] {
            assert!(!below.matches(bad), "{bad:?}");
        }
    }

    #[test]
    fn an_mta_sts_wildcard_is_exactly_one_label() {
        let one = NamePattern::OneLabel("clinic.example".into());
        assert!(one.matches("mx.clinic.example"));
        assert!(one.matches("*.clinic.example"));
        assert!(!one.matches("clinic.example"));
        assert!(!one.matches("a.b.clinic.example"));
        assert!(!one.matches("*.b.clinic.example"));
    }

    #[test]
    fn a_dns_name_never_stands_for_an_address() {
        let address = NamePattern::Address("203.0.113.9".parse().expect("address"));
        assert!(!address.matches("203.0.113.9"));
    }

    proptest! {
        #[test]
        fn no_presented_name_makes_it_panic(presented in "\\PC{0,40}|[*.a-c\\x00]{0,12}") {
            for pattern in [host("a.b.c"), NamePattern::Below("b.c".into()), NamePattern::OneLabel("b.c".into())] {
                let _ = pattern.matches(&presented);
            }
        }

        #[test]
        fn what_matches_below_ends_in_the_domain(presented in "(\\*\\.)?[ab.]{0,8}\\.?a\\.b") {
            if NamePattern::Below("a.b".into()).matches(&presented) {
                prop_assert!(presented.ends_with(".a.b"));
            }
        }
    }
}
