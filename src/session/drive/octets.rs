//! The way of the octets: from a leg to the machine, and where the machine's actions send them.
//!
//! Octets are offered where they were read or decrypted, and what passes is written or encrypted from there. Only what the machine
//! leaves is copied.

use std::ops::Range;

use super::{ActionHandler, BOTH, Drive};
use crate::smtp::{Action, Machine, Note, Side};

impl<M: Machine, H: ActionHandler> Drive<M, H> {
    /// Offers the untaken octets to the machine until it takes no more, and carries out the actions that result.
    pub(super) fn pump(&mut self) {
        self.carry_out(None);
        for side in BOTH {
            self.open_records(side);
        }
        while BOTH.map(|side| self.offer_input(side)).contains(&true) {}
        let held_back = self.server.backed_up();
        if std::mem::replace(&mut self.held_back, held_back) != held_back {
            self.machine.set_held_back(held_back, self.now);
        }
    }

    /// Opens the records that were read. While a message flows, the machine gets their octets where they were decrypted.
    fn open_records(&mut self, side: Side) {
        let Some(mut channel) = self.leg(side).lend_channel() else {
            return;
        };
        self.opening = Some(side);
        let outcome = channel.open(|octets| self.opened(side, octets));
        self.opening = None;
        self.leg(side).return_channel(channel, outcome);
        if let Some(abort) = self.closing.take() {
            self.close(side, abort);
        }
    }

    /// Takes the octets of one record.
    fn opened(&mut self, side: Side, octets: &[u8]) {
        let leg = self.leg(side);
        leg.octets[0] += octets.len() as u64;
        if !leg.in_message {
            return leg.keep(octets);
        }
        // The machine could not decide about an octet or two of the record before.
        let joined = leg.untaken() > 0;
        if joined {
            leg.keep(octets);
            self.offer_input(side);
        } else {
            let taken = self.offer(side, octets);
            self.leg(side).keep(&octets[taken..]);
        }
    }

    /// Offers the octets that a side has kept. Returns whether the machine took any.
    fn offer_input(&mut self, side: Side) -> bool {
        if self.leg(side).untaken() == 0 || self.blocked(side) {
            return false;
        }
        let mut input = self.leg(side).lend_input();
        let taken = self.offer(side, input.octets());
        input.take(taken);
        self.leg(side).give_back(input);
        taken > 0
    }

    /// Offers octets of a side to the machine. Returns how many it took.
    fn offer(&mut self, side: Side, octets: &[u8]) -> usize {
        if self.machine.finished() || self.closing.is_some() {
            return 0;
        }
        if side == Side::Client {
            self.machine.set_conditions(self.handler.conditions());
        }
        self.machine.receive(side, octets, self.now);
        self.carry_out(Some((side, octets)))
    }

    /// Whether this side must not be read, because its octets would add to too many that already wait to be written. The server is
    /// read even if many octets wait for it, so that two full windows never wait for each other (RFC 2920 §3.1).
    pub(super) fn blocked(&mut self, side: Side) -> bool {
        self.client.backed_up() || (side == Side::Client && self.server.backed_up())
    }

    /// Carries out the machine's actions. `offered` is what they pass and drop octets of. Returns how many of these were taken.
    pub(super) fn carry_out(&mut self, offered: Option<(Side, &[u8])>) -> usize {
        let mut taken = 0;
        let mut passage = Passage::default();
        while let Some(action) = self.machine.next_action() {
            if let Action::Pass { from, len, content } = action {
                let octets = taking(offered, from, &mut taken, len);
                if content && let Some(journal) = self.handler.journal() {
                    journal.content(octets);
                }
                self.leg(from).in_message = content;
                passage.extend(taken, len, content);
                continue;
            }
            self.pass(offered, &mut passage);
            match action {
                Action::Pass { .. } => {}
                Action::Drop { from, len } => {
                    taking(offered, from, &mut taken, len);
                }
                Action::Send(side, octets) => self.leg(side).send(&octets),
                Action::SendSecret(line) => self.server.send(line.expose()),
                Action::Connect => {
                    let old = std::mem::take(&mut self.server);
                    self.traffic(Side::Server, old.octets);
                    let job = self.handler.connect();
                    self.begin(job);
                }
                Action::Upgrade(side) => {
                    self.leg(side).paused = true;
                    self.upgrading = Some(side);
                }
                Action::Authorise(question) => {
                    let job = self.handler.authorise(question);
                    self.begin(job);
                }
                Action::Record(message) => {
                    let job = self.handler.record(*message);
                    self.begin(job);
                }
                Action::Note(note) => self.note(note),
                Action::Close { side, abort } => {
                    // The handshake of this connection must not start on the next one.
                    self.upgrading.take_if(|upgrading| *upgrading == side);
                    if self.opening == Some(side) {
                        self.closing = Some(abort);
                    } else {
                        self.close(side, abort);
                    }
                }
            }
        }
        self.pass(offered, &mut passage);
        taken
    }

    fn note(&mut self, note: Note) {
        if note == Note::MessageBegins {
            self.client.in_message = true;
        }
        let begins = note == Note::TransactionBegins;
        self.handler.note(note);
        // The line has the time of its message, and names the client as it introduced itself over TLS (RFC 3207 §4.2).
        if begins {
            self.set_trace();
        }
    }

    /// Passes on what one action after another has passed.
    fn pass(&mut self, offered: Option<(Side, &[u8])>, passage: &mut Passage) {
        let Passage { octets, content } = std::mem::take(passage);
        if let (Some((from, all)), false) = (offered, octets.is_empty()) {
            let to = self.leg(from.other());
            match content {
                true => to.send_message(&all[octets]),
                false => to.send(&all[octets]),
            }
        }
    }

    fn close(&mut self, side: Side, abort: bool) {
        if abort {
            return self.leg(side).abort();
        }
        let leg = std::mem::take(self.leg(side));
        self.traffic(side, leg.octets);
        if leg.is_open() {
            self.leaving.push((side, tokio::spawn(leg.finish())));
        }
    }
}

/// Octets of the offered ones that go on together, although several actions passed them. With TLS they become one record.
#[derive(Default)]
struct Passage {
    octets: Range<usize>,
    /// Some of them are a message's.
    content: bool,
}

impl Passage {
    /// The last `len` of the octets that were taken so far.
    fn extend(&mut self, taken: usize, len: usize, content: bool) {
        if self.octets.is_empty() {
            self.octets.start = taken - len;
        }
        self.octets.end = taken;
        self.content |= content;
    }
}

/// The next `len` of the offered octets, which are taken now.
fn taking<'a>(
    offered: Option<(Side, &'a [u8])>,
    from: Side,
    taken: &mut usize,
    len: usize,
) -> &'a [u8] {
    let rest = match offered {
        Some((side, all)) if side == from => &all[*taken..],
        _ => &[],
    };
    assert!(
        len <= rest.len(),
        "a machine takes no more than it was offered"
    );
    *taken += len;
    &rest[..len]
}
