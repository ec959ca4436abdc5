//! Drives a machine by a script that the fuzzer writes: one octet says what happens, the next ones say more. The machine
//! stands on the stage of the dialogues and is watched as they are (`tests/dialogues/watch.rs`): whatever the script is, it
//! must not panic, take more than it was offered, hand over anything without leave, acknowledge what was not accepted and
//! recorded, or go on for ever.

#[allow(dead_code, reason = "shared with the dialogues, which use all of it")]
#[path = "../../tests/dialogues/machine.rs"]
mod machine;
#[allow(dead_code, reason = "shared with the dialogues, which use all of it")]
#[path = "../../tests/dialogues/script.rs"]
mod script;
#[allow(dead_code, reason = "shared with the dialogues, which use all of it")]
#[path = "../../tests/dialogues/stage.rs"]
mod stage;
#[allow(dead_code, reason = "shared with the dialogues, which use all of it")]
#[path = "../../tests/dialogues/watch.rs"]
mod watch;

pub use script::Direction;

use script::{Answer, Expected, Step};
use stage::{Deed, Stage};
use starttls_proxy::smtp::{Cause, Question, Refusal, Side};
use std::time::Duration;

/// Lines that lead somewhere, so that the fuzzer need not find SMTP by itself.
const CLIENT: &[&[u8]] = &[
    b"EHLO client.example\r\n",
    b"HELO client.example\r\n",
    b"STARTTLS\r\n",
    b"MAIL FROM:<a@d.example>\r\n",
    b"MAIL FROM:<> SIZE=100 BODY=8BITMIME\r\n",
    b"RCPT TO:<b@clinic.example>\r\n",
    b"RCPT TO:<c@[192.0.2.1]>\r\n",
    b"RCPT TO:<postmaster>\r\n",
    b"DATA\r\n",
    b"Subject: x\r\n\r\ntext\r\n.\r\n",
    b"text\n.\n",
    b"BDAT 5\r\nabcde",
    b"BDAT 3 LAST\r\nxyz",
    b"BDAT 0 LAST\r\n",
    b"BDAT 9\r\n",
    b"RSET\r\n",
    b"NOOP\r\n",
    b"QUIT\r\n",
    b"AUTH PLAIN AGEAYg==\r\n",
    b"XCLIENT ADDR=127.0.0.1\r\n",
    b"MAIL FROM:<a@d.example>\r\nRCPT TO:<b@clinic.example>\r\nDATA\r\n",
    b"MAIL FROM:<a@d.example>\r\nRCPT TO:<b@clinic.example>\r\nBDAT 3 LAST\r\nxyz",
    b"RSET\r\nMAIL FROM:<>\r\nRCPT TO:<b@clinic.example>\r\nBDAT 3\r\nabc",
];
/// The same of a server; what it says in the clear is marked for the watch.
const SERVER: &[&[u8]] = &[
    b"220 evil ESMTP\r\n",
    b"250-evil\r\n250-STARTTLS\r\n250-PIPELINING\r\n250-CHUNKING\r\n250 SIZE 1000\r\n",
    b"250-evil\r\n250-PIPELINING\r\n250-CHUNKING\r\n250 SIZE 1000\r\n",
    b"250-evil\r\n250-AUTH PLAIN\r\n250-CHUNKING\r\n250 SIZE 1000\r\n",
    b"220 evil go\r\n",
    b"250 2.1.0 evil ok\r\n",
    b"354 evil go\r\n",
    b"550 5.1.1 evil no\r\n",
    b"451 4.3.0 evil later\r\n",
    b"421 4.3.2 evil bye\r\n",
    b"334 \r\n",
    b"235 evil in\r\n",
    b"221 evil bye\r\n",
    b"250 evil ok\r\n550 evil no\r\n354 evil go\r\n",
];

/// Runs a script at a machine with these options (`tests/dialogues/machine.rs` has them).
pub fn run(direction: Direction, options: &[&str], script: &[u8]) {
    let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
    let machine = machine::build(direction, &options).expect("known options");
    let watch = watch::Watch::new(direction, &options);
    let mut play = Play {
        stage: Stage::new(machine, watch).expect("it begins"),
        secure: false,
        steps: String::new(),
    };
    let mut rest = script;
    while let Some((&what, more)) = rest.split_first() {
        rest = more;
        let argument = rest.first().copied().unwrap_or(0);
        let choice = usize::from(argument);
        match what % 12 {
            0..=2 => play.sends(Side::Client, CLIENT[choice % CLIENT.len()]),
            3..=5 => play.sends(Side::Server, SERVER[choice % SERVER.len()]),
            6 => {
                let side = [Side::Client, Side::Server][usize::from(argument & 64 != 0)];
                let raw = &rest[..rest.len().min(choice % 64)];
                play.sends(side, raw);
                rest = &rest[raw.len()..];
            }
            7..=9 => play.job(argument),
            10 => play.happen(&Step::Closes([Side::Client, Side::Server][choice % 2])),
            _ => match argument % 4 {
                0 | 1 => play.happen(&Step::Wait(Duration::from_secs(u64::from(argument) * 3))),
                2 => play.happen(&Step::Drain),
                _ => play.happen(&Step::Cut),
            },
        }
    }
    // Left alone, every session ends.
    play.happen(&Step::Wait(Duration::from_secs(1800)));
    assert!(play.stage.finished(), "left alone, the session does not end");
}

struct Play {
    stage: Stage,
    secure: bool,
    /// What happened so far, for the message of a finding.
    steps: String,
}

impl Play {
    /// Something happens, unless the session is over: its driver has left.
    fn happen(&mut self, step: &Step) {
        if self.stage.finished() {
            return;
        }
        self.steps += &step.to_string();
        if let Err(why) = self.stage.happen(step) {
            panic!("{why}, after:\n{}", self.steps);
        }
        for side in [Side::Client, Side::Server] {
            let out = std::mem::take(&mut self.stage.end(side).out);
            if !out.is_empty() {
                self.steps += &Step::Gets(side, Expected::Bytes(out)).to_string();
            }
        }
    }

    /// Bytes, unless they would garble a handshake.
    fn sends(&mut self, side: Side, bytes: &[u8]) {
        if !self.stage.in_handshake(side) {
            self.happen(&Step::Sends(side, bytes.to_vec()));
        }
    }

    /// What the machine asked for first is done, or fails.
    fn job(&mut self, argument: u8) {
        let refusal = || Refusal {
            code: [421, 451, 550][usize::from(argument >> 4) % 3],
            enhanced: (7, 5),
            text: "no".to_owned(),
            cause: Cause::Verdict,
        };
        let outcome = if argument & 3 != 0 { Ok(()) } else { Err(refusal()) };
        let step = match self.stage.deeds.pop_front() {
            Some(Deed::Connect) => Step::Connected(outcome),
            // Its connection has ended meanwhile.
            Some(Deed::Handshake(side)) if !self.stage.in_handshake(side) => return,
            Some(Deed::Handshake(side)) => {
                self.secure |= outcome.is_ok();
                Step::Secured(side, outcome)
            }
            Some(Deed::Record(_)) => Step::Recorded(outcome),
            Some(Deed::Ask(Question::Login)) if argument % 8 != 0 => Step::Answer(Answer::Login {
                token: argument & 16 != 0,
                secret: "swordfish-of-the-nurse".to_owned(),
            }),
            Some(Deed::Ask(_)) => Step::Answer(match argument % 8 {
                0 => Answer::Refused(refusal()),
                1 => Answer::Exempted,
                2 => Answer::Upgrade { or_plaintext: true },
                3 => Answer::Authorised,
                _ if self.secure => Answer::Authorised,
                _ => Answer::Upgrade { or_plaintext: false },
            }),
            Some(Deed::Ends { .. }) | None => return,
        };
        self.happen(&step);
    }
}
