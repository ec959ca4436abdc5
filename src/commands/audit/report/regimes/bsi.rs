//! BSI TR-03108: secure transport of e-mail.

use super::super::{
    figures::{
        CHANGES, CLEAR, DANE, MTA_STS, OBLIGATORY, OLDER, QUALIFIED, REFUSED, SIGNED_NAMES, TLS12,
        TLS13,
    },
    regime::{self, Clause, Regime},
};

pub(super) static BSI: Regime = Regime {
    word: "bsi",
    title: "BSI TR-03108: Secure E-Mail Transport",
    about: "A technical guideline of the German Federal Office for Information Security for providers of e-mail services. Providers can be certified by it. Others take it as the state of the art.",
    clauses: &[
        Clause {
            number: "3.1",
            name: "Security concept",
            asks: "The provider has a security concept and keeps to it.",
            figures: &[&CHANGES],
            see: &[regime::OPERATION],
            not_shown: "The concept.",
        },
        Clause {
            number: "3.2",
            name: "Protected DNS look-up",
            asks: "Look-ups are protected with DNSSEC. The proxy checks the signatures itself.",
            figures: &[&SIGNED_NAMES],
            see: &[],
            not_shown: "Look-ups by other systems, and whether our own zone is signed.",
        },
        Clause {
            number: "3.2",
            name: "DANE and TLSA",
            asks: "TLSA records of the other side are looked up and obeyed, and published for our own servers.",
            figures: &[&DANE, &MTA_STS, &QUALIFIED],
            see: &[regime::DOMAINS],
            not_shown: "TLSA records of our own servers.",
        },
        Clause {
            number: "3.2",
            name: "Obligatory encryption",
            asks: "Mail between providers that keep to the guideline goes encrypted, and is not sent otherwise.",
            figures: &[&OBLIGATORY, &CLEAR, &REFUSED],
            see: &[regime::EXEMPTIONS, regime::REFUSALS],
            not_shown: "Which of the other sides keep to the guideline.",
        },
        Clause {
            number: "3.2",
            name: "Secure cryptography",
            asks: "Versions and algorithms are those that the BSI recommends.",
            figures: &[&TLS13, &TLS12, &OLDER],
            see: &[("protection", "How it was protected")],
            not_shown: "Whether each suite and group is on the list that is in force today.",
        },
    ],
    sources: &[
        "BSI TR-03108-1, Secure E-Mail Transport: www.bsi.bund.de, technical guidelines. The chapters 3.1 (security concept) and 3.2 (technical requirements) were confirmed in the table of contents of version 1.0 of 12 May 2016, the content in the BSI's own summary of version 1.0.1. The numbers of single requirements were not confirmed, so they are named here and not numbered.",
        "A later version may ask for more, such as MTA-STS and reports; that was not confirmed.",
    ],
};
