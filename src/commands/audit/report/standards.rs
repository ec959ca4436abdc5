//! The section on 45 CFR 164.312: what the log shows for each standard, and what it does not.

use std::fmt::{self, Formatter};

pub(super) fn standards(f: &mut Formatter<'_>) -> fmt::Result {
    f.write_str("<section>\n<h2>45 CFR 164.312, technical safeguards</h2>\n<p>What this log can show for each standard, and what must be shown by other means. It is evidence, not an assessment.</p>\n<table class=\"wide standards\"><thead><tr><th>Section</th><th>Standard</th><th>This log shows</th><th>It does not show</th></tr></thead><tbody>\n")?;
    for standard in &STANDARDS {
        writeln!(
            f,
            "<tr><th scope=\"row\">{}</th><td>{}<br><span class=\"quiet\">{}</span></td><td>{}</td><td>{}</td></tr>",
            standard.section, standard.name, standard.kind, standard.shown, standard.not_shown
        )?;
    }
    f.write_str("</tbody></table>\n</section>\n")
}

/// One row of the table.
struct Standard {
    section: &'static str,
    name: &'static str,
    /// Required, addressable, or the standard itself.
    kind: &'static str,
    shown: &'static str,
    not_shown: &'static str,
}

const STANDARDS: [Standard; 11] = [
    Standard {
        section: "(a)(1)",
        name: "Access control",
        kind: "standard",
        shown: "The server that each message went to, or the client that it came from, with the rule that allowed it; what only observe mode let pass is named so.",
        not_shown: "Who may read mail on the mail servers.",
    },
    Standard {
        section: "(a)(2)(i)",
        name: "Unique user identification",
        kind: "required",
        shown: "Sender, recipients and both connections of each message, in the form the log was told to keep.",
        not_shown: "Which person stands behind an address or a device.",
    },
    Standard {
        section: "(a)(2)(ii)",
        name: "Emergency access procedure",
        kind: "required",
        shown: "Every exemption is an entry, shown with its reason and its end date where it has them, and its use is recorded (section “Without proof of identity”).",
        not_shown: "Access to the mail servers themselves.",
    },
    Standard {
        section: "(a)(2)(iii)",
        name: "Automatic logoff",
        kind: "addressable",
        shown: "Nothing; connections end by the time limits of RFC 5321.",
        not_shown: "Users' sessions; the mail servers and work stations have them.",
    },
    Standard {
        section: "(a)(2)(iv)",
        name: "Encryption and decryption",
        kind: "addressable",
        shown: "The proxy keeps no message: there is no queue and no spool, and no content is in this log.",
        not_shown: "Encryption of stored mail on the mail servers.",
    },
    Standard {
        section: "(b)",
        name: "Audit controls",
        kind: "standard",
        shown: "This log: every message, with the decisions it rests on, on disk before it is acknowledged; sessions and refusals, singly or, where they are too many, by number. Its chain is examined above.",
        not_shown: "That the log was complete before its first record.",
    },
    Standard {
        section: "(c)(1)",
        name: "Integrity",
        kind: "standard",
        shown: "A change of the records is noticed: each carries the hash of the one before. How far signatures and anchors vouch for that stands above.",
        not_shown: "Integrity of mail before it reached the proxy and after the other server took it.",
    },
    Standard {
        section: "(c)(2)",
        name: "Mechanism to authenticate ePHI",
        kind: "addressable",
        shown: "Length and SHA-256 of each message exactly as it was relayed: a copy of it can be compared.",
        not_shown: "Who wrote it.",
    },
    Standard {
        section: "(d)",
        name: "Person or entity authentication",
        kind: "standard",
        shown: "How the other side proved who it is (certificate, DANE, fingerprint), its certificate, and the rule that demanded it.",
        not_shown: "Identity of persons; and of the other side where an exemption asked for no proof.",
    },
    Standard {
        section: "(e)(1)",
        name: "Transmission security",
        kind: "standard",
        shown: "What was handed over under protection, what was not and by whose decision, and what was refused instead.",
        not_shown: "The inside link to the mail server, and what the other server does next.",
    },
    Standard {
        section: "(e)(2)(i), (ii)",
        name: "Integrity controls; encryption",
        kind: "addressable",
        shown: "TLS version, cipher suite and key exchange of each message; all suites the proxy speaks are authenticated encryption.",
        not_shown: "Encryption of the message itself, end to end.",
    },
];
