//! Plays a random session at the machine: a client, a server, a policy and a disk that answer as the world says, each
//! when it pleases the schedule. What happened is kept as a dialogue.

use crate::{
    machine,
    reference::{Expected, Reference, Said},
    script::{Answer, Direction, Expected as Gets, Step},
    stage::{Deed, Stage, show_record},
    watch::Watch,
    world::{Op, Verdict, World, offer, refusal},
};
use starttls_proxy::smtp::{Completed, Note, Side};
use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

/// The order in which things happen.
#[derive(Clone, Debug)]
pub enum Schedule {
    /// Everything at once, one command after the other.
    Serial,
    /// In groups of that many commands, in pieces and in an order that the number decides.
    Mixed { group: usize, seed: u64 },
}

/// A random number generator whose numbers are the same everywhere (xorshift64*).
pub struct Dice(pub u64);

impl Dice {
    pub fn throw(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % sides.max(1)
    }
}

/// The server's side of the conversation.
#[derive(Default)]
struct Server {
    input: Vec<u8>,
    mode: Mode,
    counts: HashMap<String, usize>,
    messages: usize,
    secure: bool,
    log: Vec<String>,
    /// What it has to say and has not been read yet.
    output: VecDeque<u8>,
}

#[derive(Default, Clone, Copy)]
enum Mode {
    #[default]
    Commands,
    Data,
    Chunk {
        octets: usize,
        last: bool,
    },
}

/// The simulation; the text of this module describes it.
pub struct Sim<'w> {
    world: &'w World,
    pub stage: Stage,
    options: Vec<String>,
    pub steps: Vec<Step>,
    server: Server,
    /// What the client has to say.
    pub client: VecDeque<u8>,
    /// What the client got.
    replies: Vec<u8>,
    /// Jobs under way.
    pub jobs: VecDeque<Deed>,
    secure: bool,
    messages: usize,
    records: Vec<String>,
    transactions: usize,
    taught: Vec<String>,
}

type Outcome = Result<(), String>;

impl<'w> Sim<'w> {
    pub fn new(world: &'w World, options: &[&str]) -> Result<Self, String> {
        let options: Vec<String> = options.iter().map(|o| (*o).to_owned()).collect();
        let machine = machine::build(world.direction, &options)?;
        let mut sim = Self {
            world,
            stage: Stage::new(machine, Watch::new(world.direction, &options))?,
            options,
            steps: Vec::new(),
            server: Server::default(),
            client: VecDeque::new(),
            replies: Vec::new(),
            jobs: VecDeque::new(),
            secure: false,
            messages: 0,
            records: Vec::new(),
            transactions: 0,
            taught: Vec::new(),
        };
        sim.harvest();
        Ok(sim)
    }

    /// The session so far, as a file.
    pub fn dialogue(&self) -> String {
        let direction = match self.world.direction {
            Direction::Outbound => "outbound",
            Direction::Inbound => "inbound",
        };
        let steps: String = self.steps.iter().map(Step::to_string).collect();
        format!(
            "# What was found at random (RFC 5321 §0).\n{direction} {}\nwhole\n{steps}",
            self.options.join(" ")
        )
    }

    /// Something happens, unless the session is over: its driver has left.
    pub fn happen(&mut self, step: Step) -> Outcome {
        if self.stage.finished() {
            return Ok(());
        }
        let outcome = self.stage.happen(&step);
        self.steps.push(step);
        self.harvest();
        outcome
    }

    fn harvest(&mut self) {
        for side in [Side::Client, Side::Server] {
            let out = std::mem::take(&mut self.stage.end(side).out);
            if out.is_empty() {
                continue;
            }
            self.steps.push(Step::Gets(side, Gets::Bytes(out.clone())));
            match side {
                Side::Client => self.replies.extend_from_slice(&out),
                Side::Server => self.server.reads(self.world, &out),
            }
        }
        for note in self.stage.notes.drain(..) {
            match note {
                Note::TransactionBegins => self.transactions += 1,
                Note::MissingExtension(keyword) => self.taught.push(format!("{keyword:?}")),
                _ => {}
            }
        }
        while let Some(deed) = self.stage.deeds.pop_front() {
            self.steps.push(deed.step());
            match deed {
                Deed::Ends { .. } => {}
                Deed::Record(completed) => {
                    self.records.push(show_record(&completed));
                    self.jobs.push_back(Deed::Record(completed));
                }
                job => self.jobs.push_back(job),
            }
        }
    }

    /// Does the job at `index`.
    pub fn job(&mut self, index: usize) -> Outcome {
        let Some(job) = self.jobs.remove(index) else {
            return Ok(());
        };
        let step = match job {
            Deed::Connect if self.world.connects => {
                self.server = Server {
                    log: std::mem::take(&mut self.server.log),
                    output: b"220 mx evil\r\n".to_vec().into(),
                    secure: self.world.direction == Direction::Inbound,
                    ..Server::default()
                };
                Step::Connected(Ok(()))
            }
            Deed::Connect => Step::Connected(Err(refusal(421))),
            // Its connection has ended meanwhile.
            Deed::Handshake(side) if !self.stage.in_handshake(side) => return Ok(()),
            Deed::Ask(question) => Step::Answer(self.world.verdict(&question).answer(self.secure)),
            Deed::Handshake(side) if self.world.handshake => {
                self.secure = true;
                self.server.secure = true;
                Step::Secured(side, Ok(()))
            }
            Deed::Handshake(Side::Client) => Step::Closes(Side::Client),
            Deed::Handshake(side) => Step::Secured(side, Err(refusal(421))),
            Deed::Record(completed) => Step::Recorded(self.record(&completed)),
            Deed::Ends { .. } => return Ok(()),
        };
        self.happen(step)
    }

    fn record(&mut self, completed: &Completed) -> Result<(), starttls_proxy::smtp::Refusal> {
        let accepted = completed
            .reply
            .as_ref()
            .is_some_and(|reply| reply.starts_with(b"2"));
        let lost = accepted && self.world.unrecorded == Some(self.server.messages - 1);
        self.messages += 1;
        if lost { Err(refusal(421)) } else { Ok(()) }
    }

    /// One thing of those that can happen next; false: there is none.
    pub fn next(&mut self, dice: &mut Option<Dice>) -> Result<bool, String> {
        let talks = |side| !self.jobs.contains(&Deed::Handshake(side));
        let sources = [
            !self.client.is_empty() && talks(Side::Client),
            !self.server.output.is_empty() && talks(Side::Server),
            !self.jobs.is_empty(),
        ];
        let ready: Vec<usize> = (0..3).filter(|source| sources[*source]).collect();
        // Unless chance decides, what is under way is finished first.
        let Some(source) = ready.last().copied() else {
            return Ok(false);
        };
        let source = match dice {
            Some(dice) => ready[dice.throw(ready.len())],
            None => source,
        };
        let some = |queue: &mut VecDeque<u8>, dice: &mut Option<Dice>| {
            let length = match dice {
                Some(dice) => [1 + dice.throw(queue.len()), queue.len()][dice.throw(2)],
                None => queue.len(),
            };
            queue.drain(..length).collect::<Vec<u8>>()
        };
        match source {
            0 => {
                let bytes = some(&mut self.client, dice);
                self.happen(Step::Sends(Side::Client, bytes))?;
            }
            1 => {
                let bytes = some(&mut self.server.output, dice);
                self.happen(Step::Sends(Side::Server, bytes))?;
            }
            _ => self.job(0)?,
        }
        Ok(true)
    }

    fn run(&mut self, dice: &mut Option<Dice>) -> Outcome {
        while self.next(dice)? {}
        Ok(())
    }
}

impl Server {
    /// Bytes of the proxy.
    fn reads(&mut self, world: &World, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        loop {
            let reply = match self.mode {
                Mode::Commands => {
                    let Some(end) = self.input.windows(2).position(|pair| pair == b"\r\n") else {
                        return;
                    };
                    let line: Vec<u8> = self.input.drain(..end + 2).take(end).collect();
                    self.command(world, &String::from_utf8_lossy(&line))
                }
                Mode::Data => {
                    let end = match self.input.starts_with(b".\r\n") {
                        true => Some(0),
                        false => self
                            .input
                            .windows(5)
                            .position(|five| five == b"\r\n.\r\n")
                            .map(|at| at + 2),
                    };
                    let Some(end) = end else { return };
                    let content: Vec<u8> = self.input.drain(..end + 3).take(end).collect();
                    self.log
                        .push(format!("DATA:{}", String::from_utf8_lossy(&content)));
                    self.mode = Mode::Commands;
                    self.messages += 1;
                    Some(world.reply("DOT.", self.messages - 1))
                }
                Mode::Chunk { octets, last } => {
                    if self.input.len() < octets {
                        return;
                    }
                    let content: Vec<u8> = self.input.drain(..octets).collect();
                    self.log
                        .push(format!("CHUNK:{}", String::from_utf8_lossy(&content)));
                    self.mode = Mode::Commands;
                    if last {
                        self.messages += 1;
                        Some(world.reply("LAST", self.messages - 1))
                    } else {
                        let line = format!("BDAT {octets}");
                        let count = self.count("BDAT");
                        Some(world.reply(&line, count))
                    }
                }
            };
            self.output.extend(reply.unwrap_or_default().bytes());
        }
    }

    fn count(&mut self, line: &str) -> usize {
        let count = self.counts.entry(line.to_owned()).or_default();
        *count += 1;
        *count
    }

    fn command(&mut self, world: &World, line: &str) -> Option<String> {
        self.log.push(line.to_owned());
        if line.starts_with("EHLO") {
            let count = self.count(if self.secure { "secure EHLO" } else { "EHLO" });
            let code = match (count, world.direction, self.secure) {
                (1, Direction::Outbound, true) => world.secure_ehlo,
                (1, _, _) => world.ehlo,
                _ => 250,
            };
            return Some(match code {
                250 => offer(world, world.offers_starttls && !self.secure, self.secure),
                code => format!("{code} evil\r\n"),
            });
        }
        if line == "STARTTLS" {
            return Some(format!("{} evil\r\n", world.starttls));
        }
        if let Some(chunk) = line.strip_prefix("BDAT ") {
            let (octets, last) = chunk.split_once(' ').unwrap_or((chunk, ""));
            self.mode = Mode::Chunk {
                octets: octets.parse().unwrap_or(0),
                last: !last.is_empty(),
            };
            return None;
        }
        let count = self.count(line);
        let reply = world.reply(line, count);
        if line == "DATA" && reply.starts_with('3') {
            self.mode = Mode::Data;
        }
        Some(reply)
    }
}

/// Plays `ops` and compares with the reference; the error holds the dialogue.
pub fn compare(world: &World, ops: &[Op], schedule: &Schedule) -> Result<(), String> {
    let mut reference = Reference::new(world);
    let mut expected = reference.greeting();
    let mut sim = Sim::new(world, &[])?;
    let (size, mut dice) = match schedule {
        Schedule::Serial => (1, None),
        Schedule::Mixed { group, seed } => (*group, Some(Dice(seed | 1))),
    };
    let fail = |sim: &Sim, e: String| format!("{e}\n{world:?}\n\n{}", sim.dialogue());
    sim.run(&mut dice).map_err(|e| fail(&sim, e))?;
    let mut rest = ops;
    while !rest.is_empty() && !reference.over {
        // What the client says does not depend on when the server answers, only on what it said before.
        let mut draft = reference.clone();
        draft.group(&[]);
        let mut group = 0;
        while group < size.min(rest.len()) && !draft.over {
            let op = &rest[group];
            let Said { bytes, replies, .. } = draft.says(op);
            sim.client.extend(bytes);
            group += 1;
            let waits = matches!(op, Op::Data { .. } | Op::Chunk { .. });
            if waits || replies == [Expected::Ours(220)] {
                break;
            }
        }
        sim.run(&mut dice).map_err(|e| fail(&sim, e))?;
        reference.group(&sim.server.log);
        for op in &rest[..group] {
            let Said {
                message, replies, ..
            } = reference.says(op);
            expected.extend(replies);
            if let Some(message) = message {
                sim.client.extend(message);
                sim.run(&mut dice).map_err(|e| fail(&sim, e))?;
            }
        }
        rest = &rest[group..];
    }
    sim.agrees(&reference, &expected).map_err(|e| fail(&sim, e))
}

impl Sim<'_> {
    fn agrees(&self, reference: &Reference, expected: &[Expected]) -> Outcome {
        let mut replies: Vec<String> = Vec::new();
        for line in String::from_utf8_lossy(&self.replies).split_inclusive("\r\n") {
            if line.get(3..4) != Some("-") {
                replies.push(line.to_owned());
            }
        }
        let alike = |(got, expected): (&String, &Expected)| match expected {
            Expected::Ours(code) => got.starts_with(&code.to_string()),
            Expected::Theirs(reply) => got == reply,
        };
        if replies.len() != expected.len() || !replies.iter().zip(expected).all(alike) {
            return Err(format!("replies: {replies:#?}\nexpected: {expected:#?}"));
        }
        if self.stage.finished() != reference.over {
            return Err(format!(
                "over: {}, expected: {}",
                self.stage.finished(),
                reference.over
            ));
        }
        let mut server = self.server.log.clone();
        // Our own farewell is a courtesy.
        if reference.over
            && server.last().is_some_and(|line| line == "QUIT")
            && reference.server.last() != server.last()
        {
            server.pop();
        }
        if server != reference.server {
            return Err(format!(
                "the server got: {server:#?}\nexpected: {:#?}",
                reference.server
            ));
        }
        if self.transactions != reference.transactions || self.taught != reference.taught {
            return Err(format!(
                "transactions: {}, expected: {}, taught: {:?}, expected: {:?}",
                self.transactions, reference.transactions, self.taught, reference.taught
            ));
        }
        if self.records != reference.records {
            return Err(format!(
                "records: {:#?}\nexpected: {:#?}",
                self.records, reference.records
            ));
        }
        Ok(())
    }
}

/// Plays with no regard for manners: bytes that do not belong, closes, failures and time, whenever chance wants. Only
/// what must hold in every session is looked at, and that each ends when it is left alone.
pub fn chaos(world: &World, client: &[u8], seed: u64, options: &[&str]) -> Result<(), String> {
    const SERVER: &[&str] = &[
        "250 evil\r\n",
        "550 evil\r\n",
        "421 evil\r\n",
        "354 evil\r\n",
        "220 evil\r\n",
        "250-evil\r\n",
        "2",
        "\r\n",
        "250 evil\n",
        "250 a\0b\r\n",
        "999 evil\r\n",
    ];
    let mut sim = Sim::new(world, options)?;
    sim.client.extend(client);
    let mut dice = Some(Dice(seed | 1));
    let outcome = sim.disturbed(&mut dice, SERVER);
    outcome.map_err(|e| format!("{e}\n{world:?}\n\n{}", sim.dialogue()))
}

impl Sim<'_> {
    fn may_be_clear(&self) -> bool {
        self.options.iter().any(|o| o == "plaintext-possible")
    }

    fn disturbed(&mut self, dice: &mut Option<Dice>, server: &[&str]) -> Outcome {
        let mut more = true;
        while more {
            let Some(thrown) = dice.as_mut().map(|dice| dice.throw(60)) else {
                return Ok(());
            };
            let mut throw = |sides| dice.as_mut().map_or(0, |dice| dice.throw(sides));
            let paused = self
                .jobs
                .iter()
                .any(|job| matches!(job, Deed::Handshake(_)));
            match thrown {
                0 if !paused => {
                    let bytes = server[throw(server.len())].as_bytes().to_vec();
                    self.happen(Step::Sends(Side::Server, bytes))?;
                }
                1 => self.happen(Step::Closes(Side::Server))?,
                2 if throw(4) == 0 => self.happen(Step::Closes(Side::Client))?,
                3 if throw(3) == 0 => self.happen([Step::Drain, Step::Cut][throw(2)].clone())?,
                4 => {
                    let time = Duration::from_secs(throw(400) as u64);
                    self.happen(Step::Wait(time))?;
                }
                5 if self
                    .jobs
                    .front()
                    .is_some_and(|job| matches!(job, Deed::Ask(_))) =>
                {
                    self.jobs.pop_front();
                    let verdict = [
                        Verdict::Authorised,
                        Verdict::Encrypted,
                        Verdict::Refused(550),
                        Verdict::Refused(421),
                    ][throw(4)];
                    let early = throw(2) == 0;
                    self.happen(Step::Answer(verdict.answer(early)))?;
                }
                6 if self
                    .jobs
                    .front()
                    .is_some_and(|job| matches!(job, Deed::Record(_))) =>
                {
                    self.jobs.pop_front();
                    self.happen(Step::Recorded(Err(refusal(421))))?;
                }
                7..12
                    if self.may_be_clear()
                        && self
                            .jobs
                            .front()
                            .is_some_and(|job| matches!(job, Deed::Ask(_))) =>
                {
                    self.jobs.pop_front();
                    let or_plaintext = Answer::Upgrade { or_plaintext: true };
                    let answer = [Answer::Exempted, or_plaintext][throw(2)].clone();
                    self.happen(Step::Answer(answer))?;
                }
                12 if throw(2) == 0 => self.happen(Step::Conditions {
                    overloaded: throw(2) == 0,
                    may_have_tried: throw(2) == 0,
                })?,
                _ => more = self.next(dice)?,
            }
        }
        // From here on nobody answers, and the session must still end.
        let half_an_hour = Duration::from_secs(1800);
        self.happen(Step::Wait(half_an_hour))?;
        match self.stage.finished() {
            true => Ok(()),
            false => Err("left alone, the session does not end".to_owned()),
        }
    }
}
