//! NIS2: the implementing regulation.

use super::super::{
    figures::{
        CHANGES, CHECKPOINTS, CLEAR, DANE, INTACT, MESSAGES, MTA_STS, OLDER, OUTAGES, PROVED,
        RECORDS, REFUSED, STARTS, STOPS, TLS12, TLS13,
    },
    regime::{self, Clause, Regime},
};

pub(super) static NIS2: Regime = Regime {
    word: "nis2",
    title: "NIS2: Implementing Regulation (EU) 2024/2690, annex",
    about: "Binds the providers that it names, among them providers of cloud computing, data centres, managed services, DNS and trust services. Others use it as a yardstick for Article 21 of Directive (EU) 2022/2555.",
    clauses: &[
        Clause {
            number: "3.2.3",
            name: "Logs",
            asks: "Logs are kept, documented and reviewed, where appropriate also of traffic and of changes of configuration.",
            figures: &[&RECORDS, &MESSAGES, &REFUSED, &CHANGES],
            see: &[regime::OPERATION],
            not_shown: "That somebody reviews the log, and the logs of other systems.",
        },
        Clause {
            number: "3.2.5",
            name: "Keeping and protecting logs",
            asks: "Logs are kept and backed up for a period that was laid down, and protected from access and change without right.",
            figures: &[&INTACT, &CHECKPOINTS],
            see: &[regime::ANCHORS, regime::LIMITS],
            not_shown: "Who can read the files, and whether copies of them exist.",
        },
        Clause {
            number: "3.2.6",
            name: "Time and availability of logging",
            asks: "Clocks are in step so that logs can be compared, and it is watched whether logging works.",
            figures: &[&OUTAGES, &STARTS, &STOPS],
            see: &[regime::ANCHORS],
            not_shown: "That the host's clock was right: the records have its time.",
        },
        Clause {
            number: "6.4.2",
            name: "Changes are documented",
            asks: "Releases, changes and emergency changes of software and configuration follow a procedure and are documented.",
            figures: &[&STARTS, &CHANGES],
            see: &[regime::OPERATION],
            not_shown: "Who asked for a change, who approved it, and how it was tested.",
        },
        Clause {
            number: "6.7.2",
            name: "Network security",
            asks: "Networks are protected. The list of measures has a plan for bringing in modern, internationally agreed standards that secure e-mail. DANE and MTA-STS are such standards.",
            figures: &[&DANE, &MTA_STS, &PROVED],
            see: &[regime::DOMAINS],
            not_shown: "The plan. SPF, DKIM and DMARC, which the mail servers have. What our own domain publishes.",
        },
        Clause {
            number: "9.1, 9.2",
            name: "Cryptography",
            asks: "There is a policy on cryptography that lays down protocols and strength, so that confidentiality, authenticity and integrity are protected. The figures say what was spoken.",
            figures: &[&TLS13, &TLS12, &OLDER, &CLEAR],
            see: &[("protection", "How it was protected"), regime::TRUST],
            not_shown: "The policy itself, its review (9.3), and how private keys are kept.",
        },
    ],
    sources: &[
        "Commission Implementing Regulation (EU) 2024/2690 of 17 October 2024: eur-lex.europa.eu/eli/reg_impl/2024/2690/oj",
        "The numbers 3.2.3 to 3.2.6, 6.4.2, 6.7.1, 6.7.2, 9.1 and 9.2 were confirmed in a copy of the annex. The measure about e-mail is a letter of 6.7.2 that was not confirmed, so it is not named here.",
    ],
};
