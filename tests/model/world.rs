//! The world around a random session: what the client says, what the server answers, what the policy decides.
//!
//! Every event depends on the commands and replies and never on time, so that a session has one outcome however its bytes are
//! cut and however its answers are delayed.

use crate::script::{Answer, Direction};
use proptest::prelude::*;
use starttls_proxy::smtp::{Cause, Question, Recipient, Refusal};

/// One thing a client says.
#[derive(Clone, Debug)]
pub enum Op {
    Hello {
        esmtp: bool,
    },
    Mail {
        id: u8,
        domain: u8,
        wrong: Option<&'static str>,
        /// A parameter of [`EXTENSIONS`], by its index there.
        uses: Option<usize>,
    },
    Rcpt {
        id: u8,
        to: To,
        /// With a parameter of DSN.
        dsn: bool,
    },
    /// With the lines of the message, should it come to that.
    Data {
        lines: u8,
    },
    Chunk {
        octets: u8,
        last: bool,
    },
    Quit,
    StartTls,
    Other(&'static str),
}

/// The recipient of a RCPT.
#[derive(Clone, Copy, Debug)]
pub enum To {
    Domain(u8),
    Literal,
    Postmaster,
    Broken,
}

/// The policy's answer about a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Authorised,
    /// Encryption alone is enough.
    Encrypted,
    Refused(u16),
    /// The peer does not show what is demanded, and is refused inside TLS with this code.
    FoundWanting(u16),
}

/// The world of one session; the text of this module describes it.
#[derive(Clone, Debug)]
pub struct World {
    pub direction: Direction,
    pub connects: bool,
    pub ehlo: u16,
    pub offers_starttls: bool,
    pub starttls: u16,
    pub handshake: bool,
    pub secure_ehlo: u16,
    pub pipelining: bool,
    /// What the protected offer lacks: bits of [`EXTENSIONS`].
    pub lacks: u8,
    pub verdicts: [Verdict; 4],
    /// The server may refuse MAIL. Whether the recipients behind it in a group have been asked about by then depends on
    /// time, so only sessions without groups have that.
    pub refuses_mail: bool,
    /// The record of this message cannot be written.
    pub unrecorded: Option<usize>,
    pub salt: u64,
}

pub const EXTENSIONS: &[&str] = &[
    "SIZE 10000",
    "8BITMIME",
    "SMTPUTF8",
    "DSN",
    "CHUNKING",
    "BINARYMIME",
    "ENHANCEDSTATUSCODES",
];

/// The parameter of MAIL that each takes, and how the machine calls it.
pub const PARAMETERS: &[(&str, &str)] = &[
    (" SIZE=5", "Size"),
    (" BODY=8BITMIME", "EightBitMime"),
    (" SMTPUTF8", "SmtpUtf8"),
    (" RET=HDRS", "Dsn"),
    ("", "Chunking"),
    (" BODY=BINARYMIME", "BinaryMime"),
];
pub const SMTPUTF8: usize = 2;
pub const DSN: usize = 3;
pub const CHUNKING: usize = 4;
pub const BINARYMIME: usize = 5;

impl World {
    /// One of `from`, by what it is about.
    fn pick<T: Copy>(&self, about: &str, from: &[T]) -> T {
        let mut hash = self.salt ^ 0xcbf2_9ce4_8422_2325;
        for byte in about.bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        from[(hash >> 17) as usize % from.len()]
    }

    /// The server's reply to a command of a protected session; `count` tells apart commands that look alike.
    pub fn reply(&self, line: &str, count: usize) -> String {
        let about = format!("{line} {count}");
        let codes: &[u16] = match line.get(..4).unwrap_or_default() {
            "MAIL" if self.refuses_mail => &[250, 250, 250, 451, 550],
            "MAIL" | "RSET" => &[250],
            "RCPT" => &[250, 250, 250, 251, 450, 550],
            "DATA" => &[354, 354, 354, 354, 451, 554],
            "NOOP" => &[250, 250, 502, 450],
            "QUIT" => &[221],
            "AUTH" => &[235, 334, 535],
            "BDAT" => &[250, 250, 250, 250, 552],
            "LAST" | "DOT." => &[250, 250, 250, 450, 554, 421],
            _ => &[500],
        };
        format!("{} {about}\r\n", self.pick(&about, codes))
    }

    pub fn verdict(&self, question: &Question) -> Verdict {
        match question {
            Question::Recipient(Recipient::Domain(name)) | Question::Sender(Some(name)) => {
                let index = name
                    .as_str()
                    .strip_prefix('d')
                    .and_then(|n| n[..1].parse().ok())
                    .unwrap_or(0);
                self.verdicts[index % self.verdicts.len()]
            }
            Question::Recipient(_) => Verdict::Refused(451),
            Question::Sender(None) | Question::Peer | Question::Login => Verdict::Authorised,
        }
    }
}

pub fn refusal(code: u16) -> Refusal {
    Refusal {
        code,
        enhanced: (7, 5),
        text: "policy".to_owned(),
        cause: Cause::Verdict,
    }
}

impl Verdict {
    pub fn answer(self, secure: bool) -> Answer {
        match self {
            Self::Authorised | Self::Encrypted | Self::FoundWanting(_) if !secure => {
                Answer::Upgrade {
                    or_plaintext: false,
                }
            }
            Self::Authorised => Answer::Authorised,
            Self::Encrypted => Answer::Unauthenticated,
            Self::FoundWanting(code) | Self::Refused(code) => Answer::Refused(refusal(code)),
        }
    }
}

/// Commands that are answered alike in every state, or nearly.
const OTHERS: &[&str] = &[
    "NOOP",
    "NOOP",
    "NOOP x",
    "RSET",
    "RSET",
    "VRFY a",
    "EXPN a",
    "HELP",
    "FOO",
    "XCLIENT ADDR=1",
    "AUTH PLAIN AA==",
    "",
    "RSET x",
    "DATA x",
    "QUIT x",
];

pub fn ops() -> impl Strategy<Value = Vec<Op>> {
    let wrong = prop_oneof![
        8 => Just(None),
        1 => Just(Some(" FOO=bar")),
        1 => Just(Some(" SIZE=x")),
    ];
    let to = prop_oneof![
        8 => (0..4u8).prop_map(To::Domain),
        1 => Just(To::Literal),
        1 => Just(To::Postmaster),
        1 => Just(To::Broken),
    ];
    let uses = prop_oneof![3 => Just(None), 2 => (0..6usize).prop_map(Some)];
    let op = prop_oneof![
        2 => any::<bool>().prop_map(|esmtp| Op::Hello { esmtp }),
        6 => (0..9u8, 0..4u8, wrong, uses.clone()).prop_map(|(id, domain, wrong, uses)| Op::Mail {
            id,
            domain,
            wrong,
            uses
        }),
        9 => (0..9u8, to, proptest::bool::weighted(0.1)).prop_map(|(id, to, dsn)| Op::Rcpt { id, to, dsn }),
        5 => (0..4u8).prop_map(|lines| Op::Data { lines }),
        4 => (0..6u8, any::<bool>()).prop_map(|(octets, last)| Op::Chunk { octets, last }),
        1 => Just(Op::Quit),
        1 => Just(Op::StartTls),
        5 => proptest::sample::select(OTHERS).prop_map(Op::Other),
    ];
    // Most sessions begin in the usual way.
    (proptest::collection::vec(op, 1..30), 0..4u8, uses).prop_map(|(mut ops, likely, uses)| {
        if likely > 0 {
            let mail = Op::Mail {
                id: 0,
                domain: 0,
                wrong: None,
                uses,
            };
            let rcpt = Op::Rcpt {
                id: 0,
                to: To::Domain(0),
                dsn: false,
            };
            let hello = || Op::Hello { esmtp: true };
            ops.splice(0..0, [hello(), Op::StartTls, hello(), mail, rcpt]);
        }
        ops
    })
}

pub fn worlds(direction: Direction) -> impl Strategy<Value = World> {
    let likely = |p: f64| proptest::bool::weighted(p);
    let lacks = prop_oneof![2 => Just(0), 1 => any::<u8>()];
    let code = |good: u16| prop_oneof![20 => Just(good), 1 => Just(550), 1 => Just(454)];
    let verdict = || {
        prop_oneof![
            4 => Just(Verdict::Authorised),
            1 => Just(Verdict::Encrypted),
            1 => Just(Verdict::Refused(451)),
            1 => Just(Verdict::Refused(550)),
            1 => Just(Verdict::FoundWanting(451)),
            1 => Just(Verdict::FoundWanting(550)),
        ]
    };
    let rare = prop_oneof![4 => verdict(), 1 => Just(Verdict::Refused(421)), 1 => Just(Verdict::FoundWanting(421))];
    (
        (
            likely(0.97),
            code(250),
            likely(0.95),
            code(220),
            likely(0.95),
            code(250),
        ),
        (any::<bool>(), lacks, any::<bool>(), any::<u64>()),
        [
            verdict().boxed(),
            verdict().boxed(),
            verdict().boxed(),
            rare.boxed(),
        ],
        prop_oneof![5 => Just(None), 1 => (0..3usize).prop_map(Some)],
    )
        .prop_map(move |(before, during, verdicts, unrecorded)| World {
            direction,
            connects: before.0,
            ehlo: before.1,
            offers_starttls: before.2,
            starttls: before.3,
            handshake: before.4,
            secure_ehlo: before.5,
            pipelining: during.0,
            lacks: if direction == Direction::Outbound {
                during.1
            } else {
                0
            },
            refuses_mail: during.2,
            salt: during.3,
            verdicts,
            unrecorded,
        })
}

/// EHLO as the client says it.
pub const HELLO: &str = "EHLO host.example";

/// An op as one line of text.
pub fn line(op: &Op) -> String {
    match op {
        Op::Hello { esmtp: true } => HELLO.to_owned(),
        Op::Hello { esmtp: false } => "HELO host.example".to_owned(),
        Op::Mail {
            id,
            domain,
            wrong,
            uses,
        } => {
            format!(
                "MAIL FROM:<m{id}@d{domain}.example>{}{}",
                uses.map_or("", |uses| PARAMETERS[uses].0),
                wrong.unwrap_or_default()
            )
        }
        Op::Rcpt { id, to, dsn } => {
            let path = match to {
                To::Domain(n) => format!("<r{id}@d{n}.example>"),
                To::Literal => format!("<r{id}@[192.0.2.1]>"),
                To::Postmaster => "<postmaster>".to_owned(),
                To::Broken => format!("<r{id}@a.example>,<b@d0.example>"),
            };
            format!("RCPT TO:{path}{}", if *dsn { " NOTIFY=NEVER" } else { "" })
        }
        Op::Data { .. } => "DATA".to_owned(),
        Op::Chunk { octets, last } => format!("BDAT {octets}{}", if *last { " LAST" } else { "" }),
        Op::Quit => "QUIT".to_owned(),
        Op::StartTls => "STARTTLS".to_owned(),
        Op::Other(line) => (*line).to_owned(),
    }
}

/// The lines of an EHLO reply of the server.
pub fn offer(world: &World, starttls: bool, secure: bool) -> String {
    let mut lines = vec!["mx.example evil"];
    if secure {
        lines[0] = "mx.example";
    }
    if world.pipelining {
        lines.push("PIPELINING");
    }
    let lacks = if secure { world.lacks } else { 0 };
    let offered = EXTENSIONS.iter().enumerate();
    lines.extend(
        offered
            .filter(|(n, _)| lacks & (1 << n) == 0)
            .map(|(_, e)| *e),
    );
    if starttls {
        lines.push("STARTTLS");
    }
    let last = lines.len() - 1;
    let lines = lines.iter().enumerate();
    lines
        .map(|(n, line)| format!("250{}{line}\r\n", if n == last { ' ' } else { '-' }))
        .collect()
}
