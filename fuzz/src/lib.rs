//! Drives a machine by a script that the fuzzer writes: one octet says what happens, the next ones say more. Whatever the
//! script is, the machine must not panic, take more than it was offered, hand over anything of a transaction without leave,
//! or go on for ever.

use starttls_proxy::smtp::{
    Action, Answer, Authorised, Exempted, Input, MAX_UNTAKEN, Machine, Question, Recorded, Refusal, Side,
};
use std::time::Duration;

/// Lines that lead somewhere, so that the fuzzer need not find SMTP by itself.
const CLIENT: &[&[u8]] = &[
    b"EHLO client.example\r\n",
    b"HELO client.example\r\n",
    b"STARTTLS\r\n",
    b"MAIL FROM:<a@ex.example>\r\n",
    b"MAIL FROM:<> SIZE=100 BODY=8BITMIME\r\n",
    b"RCPT TO:<b@clinic.example>\r\n",
    b"RCPT TO:<c@[192.0.2.1]>\r\n",
    b"DATA\r\n",
    b"Subject: x\r\n\r\ntext\r\n.\r\n",
    b"BDAT 5\r\nabcde",
    b"BDAT 3 LAST\r\nxyz",
    b"BDAT 0 LAST\r\n",
    b"RSET\r\n",
    b"NOOP\r\n",
    b"QUIT\r\n",
    b"AUTH PLAIN AGEAYg==\r\n",
];
const SERVER: &[&[u8]] = &[
    b"220 mx.clinic.example ESMTP\r\n",
    b"250-mx.clinic.example\r\n250-STARTTLS\r\n250-PIPELINING\r\n250-CHUNKING\r\n250 SIZE 1000\r\n",
    b"250-mx.clinic.example\r\n250-PIPELINING\r\n250-CHUNKING\r\n250 SIZE 1000\r\n",
    b"220 go\r\n",
    b"250 2.1.0 ok\r\n",
    b"354 go\r\n",
    b"550 5.1.1 no\r\n",
    b"451 4.3.0 later\r\n",
    b"421 4.3.2 bye\r\n",
    b"334 \r\n",
    b"221 bye\r\n",
];

/// What the script has opened and asked for, as a driver would know it.
#[derive(Default)]
struct World {
    untaken: [Vec<u8>; 2],
    connecting: bool,
    upgrading: Option<Side>,
    asked: Vec<Question>,
    recording: usize,
    /// Leave was given since the connection to the server stands.
    leave: bool,
    /// The server's side is in the clear.
    clear: bool,
    /// Inbound the server is ours.
    inbound: bool,
    steps: usize,
}

/// Runs a script.
pub fn run(machine: &mut impl Machine, script: &[u8], inbound: bool) {
    let mut world = World { clear: true, inbound, ..World::default() };
    let mut rest = script;
    let mut now = Duration::ZERO;
    world.carry_out(machine);
    while let Some((&what, more)) = rest.split_first() {
        rest = more;
        now += Duration::from_millis(u64::from(what));
        let argument = rest.first().copied().unwrap_or(0);
        match what % 12 {
            0..=2 => world.arrive(Side::Client, CLIENT[usize::from(argument) % CLIENT.len()]),
            3..=5 => world.arrive(Side::Server, SERVER[usize::from(argument) % SERVER.len()]),
            6 => {
                let raw = &rest[..rest.len().min(usize::from(argument % 64))];
                world.arrive(if argument & 64 == 0 { Side::Client } else { Side::Server }, raw);
                rest = &rest[raw.len()..];
            }
            7..=9 => world.answer(machine, argument, now),
            10 => machine.handle(Input::Closed(if argument & 1 == 0 { Side::Client } else { Side::Server }), now),
            _ if argument & 1 == 0 => {
                if let Some(due) = machine.deadline() {
                    now = now.max(due);
                    machine.handle(Input::Deadline, now);
                }
            }
            _ if argument & 2 == 0 => machine.handle(Input::Drain, now),
            _ => machine.handle(Input::Cut, now),
        }
        world.carry_out(machine);
        world.offer(machine, now);
        if machine.finished() {
            return;
        }
    }
}

impl World {
    fn arrive(&mut self, side: Side, bytes: &[u8]) {
        let untaken = &mut self.untaken[side as usize];
        let room = MAX_UNTAKEN.saturating_sub(untaken.len());
        untaken.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn offer(&mut self, machine: &mut impl Machine, now: Duration) {
        loop {
            let before = [self.untaken[0].len(), self.untaken[1].len()];
            for side in [Side::Server, Side::Client] {
                if self.upgrading == Some(side) || self.untaken[side as usize].is_empty() || machine.finished() {
                    continue;
                }
                let offered = self.untaken[side as usize].clone();
                machine.receive(side, &offered, now);
                self.carry_out(machine);
            }
            if [self.untaken[0].len(), self.untaken[1].len()] == before {
                return;
            }
        }
    }

    fn carry_out(&mut self, machine: &mut impl Machine) {
        while let Some(action) = machine.action() {
            self.steps += 1;
            assert!(self.steps < 1_000_000, "the machine goes on for ever");
            match action {
                Action::Connect => {
                    self.connecting = true;
                    self.leave = false;
                    self.clear = true;
                    self.untaken[Side::Server as usize].clear();
                }
                Action::Send(Side::Server, bytes) => self.outward(&bytes),
                Action::Send(Side::Client, bytes) => {
                    assert!(bytes.ends_with(b"\r\n") || !self.inbound, "half a reply");
                }
                Action::Pass { from, len, .. } => {
                    let bytes: Vec<u8> = self.untaken[from as usize].drain(..len).collect();
                    if from == Side::Client {
                        self.outward(&bytes);
                    } else {
                        assert!(self.leave || self.inbound, "a reply of a peer that was not judged reached the client");
                    }
                }
                Action::Drop { from, len } => drop(self.untaken[from as usize].drain(..len)),
                Action::Upgrade(side) => {
                    assert!(self.untaken[side as usize].is_empty(), "TLS starts with bytes of before at hand");
                    self.upgrading = Some(side);
                }
                Action::Authorise(question) => self.asked.push(question),
                Action::Record(_) => self.recording += 1,
                Action::Note(_) | Action::Close { .. } => {}
            }
        }
    }

    /// Outbound, nothing but EHLO, STARTTLS and QUIT goes out before leave was given.
    fn outward(&mut self, bytes: &[u8]) {
        let harmless = [&b"EHLO "[..], b"STARTTLS\r\n", b"QUIT\r\n"].iter().any(|verb| bytes.starts_with(verb));
        assert!(harmless || self.leave || self.inbound, "{} went out without leave", bytes.escape_ascii());
    }

    fn answer(&mut self, machine: &mut impl Machine, argument: u8, now: Duration) {
        let refusal = || Refusal { code: [421, 451, 550][usize::from(argument >> 4) % 3], enhanced: (7, 5), text: "no".into() };
        let good = argument & 3 != 0;
        if std::mem::take(&mut self.connecting) {
            machine.handle(Input::Connected(if good { Ok(()) } else { Err(refusal()) }), now);
        } else if let Some(side) = self.upgrading.take() {
            if good && side == Side::Server {
                self.clear = false;
            }
            machine.handle(Input::Upgraded(side, if good { Ok(()) } else { Err(refusal()) }), now);
        } else if !self.asked.is_empty() {
            self.asked.remove(0);
            let answer = match argument % 5 {
                0 => Answer::Refused(refusal()),
                1 if self.clear && !self.inbound => Answer::Upgrade { or_plaintext: None },
                2 if self.clear && !self.inbound => {
                    // Leave to go on in the clear, should TLS not be had.
                    self.leave = true;
                    Answer::Upgrade { or_plaintext: Some(Exempted::assertion()) }
                }
                3 => {
                    self.leave = true;
                    Answer::Exempted(Exempted::assertion())
                }
                _ if self.clear && !self.inbound => Answer::Upgrade { or_plaintext: None },
                _ => {
                    self.leave = true;
                    Answer::Authorised(Authorised::assertion())
                }
            };
            machine.handle(Input::Answer(answer), now);
        } else if self.recording > 0 {
            self.recording -= 1;
            machine.handle(Input::Recorded(if good { Ok(Recorded::assertion()) } else { Err(refusal()) }), now);
        }
    }
}
