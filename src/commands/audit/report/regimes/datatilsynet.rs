//! Datatilsynet, the Danish data protection authority: confidential data by e-mail.

use super::super::{
    figures::{
        BY_EXEMPTION, CLEAR, OBLIGATORY, OLDER, OPPORTUNISTIC, QUALIFIED, REFUSED, TLS12, TLS13,
    },
    regime::{self, Clause, Regime},
};

pub(super) static DATATILSYNET: Regime = Regime {
    word: "datatilsynet",
    title: "Datatilsynet (Denmark): confidential and sensitive data by e-mail",
    about: "The practice of the Danish data protection authority under Article 32 of the GDPR. It binds authorities and, since 1 January 2019, private controllers that send confidential or sensitive personal data by e-mail over the Internet. Its parts have no numbers.",
    clauses: &[
        Clause {
            number: "Practice",
            name: "Forced TLS",
            asks: "Such mail goes with TLS that is forced, so that it is not sent where the other side has none.",
            figures: &[&OBLIGATORY, &QUALIFIED, &OPPORTUNISTIC, &CLEAR, &REFUSED],
            see: &[regime::DOMAINS, regime::REFUSALS],
            not_shown: "Which messages held confidential or sensitive data. The first figure does not include the second.",
        },
        Clause {
            number: "Practice",
            name: "TLS 1.2 or newer",
            asks: "The version is 1.2 or newer.",
            figures: &[&TLS13, &TLS12, &OLDER],
            see: &[],
            not_shown: "The inside link, and what other servers do on the way.",
        },
        Clause {
            number: "Practice",
            name: "A risk assessment where TLS is not forced",
            asks: "Whoever does not force TLS has assessed the risk beforehand, for the recipients concerned.",
            figures: &[&BY_EXEMPTION],
            see: &[regime::EXEMPTIONS],
            not_shown: "The assessment. The reasons stand in the table as the administrator wrote them.",
        },
        Clause {
            number: "Practice",
            name: "Encryption from end to end where the risk is high",
            asks: "Where the content means a high risk, encryption of the message itself is recommended.",
            figures: &[],
            see: &[],
            not_shown: "Encryption of the content: the log does not look into messages.",
        },
    ],
    sources: &[
        "Datatilsynet: www.datatilsynet.dk. Its practice was confirmed in summaries by others, not in the original: patrade.dk (forced TLS, version 1.2 or newer, decision about Rigspolitiet), itf.dk (since 1 January 2019, private controllers), hjulmandkaptain.dk (decision of 2019 about TLS that is not forced, risk assessment).",
    ],
};
