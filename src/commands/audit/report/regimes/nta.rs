//! NTA 7516: personal health information in ad hoc messages.

use super::super::{
    figures::{
        ATTEMPTS, DANE, INTACT, MESSAGES, ONLY_COUNTED, QUALIFIED, RECORDS, REFUSED, REJECTED,
        SIGNED_NAMES, UNKNOWN,
    },
    regime::{self, Clause, Regime},
};

pub(super) static NTA: Regime = Regime {
    word: "nta7516",
    title: "NTA 7516 (Netherlands): ad hoc messages with health information",
    about: "A Dutch technical agreement for e-mail and chat with personal health information. Certification of suppliers ended on 15 May 2022; the agreement itself holds, and a successor (NEN 7516) is being prepared.",
    clauses: &[
        Clause {
            number: "6.4.2",
            name: "Logging of sending",
            asks: "All events of the sending of ad hoc messages are logged, whether they succeeded or not.",
            figures: &[
                &ATTEMPTS,
                &MESSAGES,
                &REJECTED,
                &UNKNOWN,
                &REFUSED,
                &ONLY_COUNTED,
            ],
            see: &[regime::REFUSALS],
            not_shown: "Messages that never reached the proxy. Withdrawing, changing and deleting a message, which the mail servers log.",
        },
        Clause {
            number: "6.4.2",
            name: "Logging of receiving",
            asks: "All events of the receiving of ad hoc messages are logged. A log of the inbound direction has them in the same figures.",
            figures: &[&RECORDS, &INTACT],
            see: &[regime::ANCHORS],
            not_shown: "Reading, forwarding and deleting, and accounts and their rights, which the mail servers log.",
        },
        Clause {
            number: "no number",
            name: "Confidential transport between providers",
            asks: "Mail goes with TLS to servers that DANE and DNSSEC identify.",
            figures: &[&DANE, &SIGNED_NAMES, &QUALIFIED],
            see: &[regime::DOMAINS],
            not_shown: "SPF, DKIM and DMARC, the header of the agreement, and where the other servers stand.",
        },
    ],
    sources: &[
        "NTA 7516:2019: www.nen.nl/nta-7516. What 6.4.2 wants logged was confirmed in a supplier's guide (support.smartlockr.io), not in the original.",
        "Raad van State, Technische vereisten Veilig Mailen: www.raadvanstate.nl (TLS, DANE, DNSSEC; end of certification). The clause number of this was not confirmed, so none is given.",
    ],
};
