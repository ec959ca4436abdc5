//! PCI DSS: card numbers on their way.

use super::super::{
    figures::{
        BY_EXEMPTION, CERTIFICATES, CLEAR, EXPIRED, MESSAGES, OLDER, PROVED, REFUSED, TLS12, TLS13,
    },
    regime::{self, Clause, Regime},
};

pub(super) static PCI: Regime = Regime {
    word: "pci",
    title: "PCI DSS 4.0.1, requirement 4.2: card numbers on their way",
    about: "Binds whoever stores, processes or transmits card numbers (PAN). The log does not look into messages. So it says nothing about which of them held a PAN, and its figures are about all mail.",
    clauses: &[
        Clause {
            number: "4.2.1",
            name: "Strong cryptography over open networks",
            asks: "A PAN crosses public networks only with strong cryptography: only trusted keys and certificates are accepted, they are valid, only secure versions are spoken, and there is no falling back to weaker ones.",
            figures: &[&PROVED, &TLS13, &TLS12, &OLDER, &CLEAR, &EXPIRED, &REFUSED],
            see: &[regime::REFUSALS, regime::EXEMPTIONS],
            not_shown: "Revocation of certificates, except where the peer staples an OCSP answer. The networks behind the proxy and behind the other server.",
        },
        Clause {
            number: "4.2.1.1",
            name: "Inventory of trusted keys and certificates",
            asks: "There is an up-to-date inventory of the keys and certificates that protect a PAN on its way. Good practice has the issuer and the day of expiry in it.",
            figures: &[&CERTIFICATES],
            see: &[regime::TRUST, regime::CERTIFICATES],
            not_shown: "Keys and certificates of other systems, who has them in custody, and the content of the system's trust store.",
        },
        Clause {
            number: "4.2.2",
            name: "End-user messaging",
            asks: "A PAN that is sent by a messaging technology for end users, such as e-mail, is secured with strong cryptography each time.",
            figures: &[&MESSAGES, &CLEAR, &BY_EXEMPTION],
            see: &[regime::EXEMPTIONS, regime::DOMAINS],
            not_shown: "Whether a message held a PAN, and how it lies in the recipient's mailbox. Whether encryption between servers suffices for this requirement is for the assessor to say.",
        },
    ],
    sources: &[
        "PCI Security Standards Council, PCI DSS v4.0.1, June 2024: www.pcisecuritystandards.org/document_library. The numbers and the content were confirmed in a public rendering (withpci.com/requirements/4), not in the original.",
        "Requirement 4.2.1.1 was a best practice until 31 March 2025 and is required since.",
    ],
};
