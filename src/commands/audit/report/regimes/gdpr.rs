//! GDPR Article 32, with the classes of the German data protection authorities.

use super::super::{
    figures::{
        BY_EXEMPTION, CLEAR, INTACT, MESSAGES, OBLIGATORY, OBSERVED, OPPORTUNISTIC, OUTAGES,
        QUALIFIED, RECORDS, REFUSED, SIGNED_NAMES, TLS12, TLS13,
    },
    regime::{self, Clause, Regime},
};

pub(super) static GDPR: Regime = Regime {
    word: "gdpr",
    title: "GDPR Article 32, with the classes of the DSK",
    about: "Binds controllers and processors of personal data. The conference of the German data protection authorities (DSK) tells two classes of transport encryption apart. “Obligatory” here means that a rule demanded TLS, so that the message would not have gone in the clear. “Qualified” means besides that nobody on the path can have taken the place of the right server: by a pinned certificate (fingerprint), by a chain for the domain's own name (secure), or by DANE or a checked chain for a host whose name stood in DNSSEC-signed MX records or was set with --upstream. MTA-STS counts as obligatory only, because its announcement in DNS need not be signed. Each message is counted by the weakest of its decisions.",
    clauses: &[
        Clause {
            number: "Art. 32(1)(a)",
            name: "Encryption of personal data",
            asks: "Measures fit the risk, among them encryption where appropriate.",
            figures: &[
                &MESSAGES,
                &QUALIFIED,
                &OBLIGATORY,
                &OPPORTUNISTIC,
                &CLEAR,
                &TLS13,
                &TLS12,
            ],
            see: &[regime::DOMAINS],
            not_shown: "Which messages held personal data, and how high the risk was. Of inbound mail, whether the sender checked who we are: it is never counted as qualified. Inbound mail that no rule is about is counted as TLS that no rule demanded.",
        },
        Clause {
            number: "Art. 32(1)(b)",
            name: "Lasting confidentiality, integrity, availability and resilience",
            asks: "Systems and services keep these properties. The proxy defers mail when its log or its checks fail.",
            figures: &[&REFUSED, &OUTAGES, &BY_EXEMPTION],
            see: &[regime::REFUSALS, regime::EXEMPTIONS, regime::ANCHORS],
            not_shown: "How long deferred mail waited, and the availability of other systems.",
        },
        Clause {
            number: "Art. 32(1)(d)",
            name: "Regular testing and evaluation",
            asks: "There is a way to test regularly whether the measures work. A page like this, made regularly, can be a part of it.",
            figures: &[&INTACT, &OBSERVED],
            see: &[],
            not_shown: "That somebody reads it and acts.",
        },
        Clause {
            number: "Art. 5(2)",
            name: "Accountability",
            asks: "The controller can show that he keeps to the principles.",
            figures: &[&RECORDS, &INTACT],
            see: &[regime::LIMITS],
            not_shown: "Everything that is not transport of mail through this proxy.",
        },
        Clause {
            number: "DSK, normal risk",
            name: "Obligatory transport encryption",
            asks: "Mail with personal data goes with TLS that is demanded, with current algorithms.",
            figures: &[&OBLIGATORY, &QUALIFIED, &OPPORTUNISTIC, &CLEAR],
            see: &[regime::EXEMPTIONS],
            not_shown: "Whether each parameter of TLS fits BSI TR-02102-2; suites and groups stand under “How it was protected”.",
        },
        Clause {
            number: "DSK, high risk",
            name: "Qualified transport encryption, and encryption of the content",
            asks: "At high risk, transport encryption alone does not settle it. As a rule the content is to be encrypted from end to end, and transport encryption is to be at least qualified.",
            figures: &[&QUALIFIED, &SIGNED_NAMES],
            see: &[regime::CERTIFICATES],
            not_shown: "Encryption of the content. The log does not look into messages, so even a qualified message is not shown to be enough for high risk.",
        },
    ],
    sources: &[
        "Regulation (EU) 2016/679, Articles 5 and 32: eur-lex.europa.eu/eli/reg/2016/679/oj",
        "DSK, Orientierungshilfe “Maßnahmen zum Schutz personenbezogener Daten bei der Übermittlung per E-Mail”, 27 May 2021 (state of 16 June 2021): www.datenschutzkonferenz-online.de. Title, date and scope were confirmed; the conditions of “qualified” above are this program's reading, and the numbers of its sections were not confirmed.",
    ],
};
