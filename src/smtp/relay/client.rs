//! The client's commands: each is answered here, left pending, or forwarded as it is.

use super::{
    Link, Manner, Pending, Phase, Relay, Role, StartTls, Step, goodbye,
    slots::Awaited,
    transaction::{Allowance, Message, Transaction},
};
use crate::smtp::{
    Action, Cause, End, Refusal, Side,
    command::{self, Command, Fault, refusal},
    extensions::{Extensions, Keyword},
    framing::{self, Line},
    path::{ForwardPath, Sender},
    reply::Reply,
};

/// Most octets of a line that is skipped to its end, before we hang up.
const MAX_OVERLONG: usize = 64 * 1024;

impl Relay {
    /// Takes what the client's bytes begin with.
    pub(in crate::smtp) fn client(&mut self, bytes: &[u8]) -> Step {
        match &self.phase {
            Phase::Commands => self.command_line(bytes),
            Phase::Overlong(skipped) => self.overlong(bytes, *skipped),
            Phase::Pending(Pending::StartTls) if !bytes.is_empty() => self.amid_handshake(),
            Phase::Pending(_)
            | Phase::AwaitAuthReply
            | Phase::AwaitFinalReply
            | Phase::AwaitRecord(_) => Step::Blocked,
            Phase::AwaitGo if bytes.is_empty() => Step::Blocked,
            Phase::AwaitGo => self.early_data(),
            Phase::AuthResponse => self.auth_response(bytes),
            Phase::Message(_)
            | Phase::Chunk { .. }
            | Phase::SkipChunk { .. }
            | Phase::SkipMessage { .. } => self.transfer(bytes),
            Phase::Leaving => self.drop(Side::Client, bytes.len()),
            Phase::Over => Step::Starved,
        }
    }

    fn command_line(&mut self, bytes: &[u8]) -> Step {
        let limit = match bytes.get(..5) {
            // It may carry an initial response (RFC 4954 §4).
            Some(verb) if self.auth && verb.eq_ignore_ascii_case(b"AUTH ") => {
                framing::MAX_AUTH_LINE
            }
            _ => framing::MAX_COMMAND,
        };
        let length = match framing::line(bytes, limit) {
            Line::Whole(length) => length,
            Line::Partial => return Step::Starved,
            Line::TooLong => {
                self.phase = Phase::Overlong(0);
                return Step::Took(0);
            }
            Line::Broken => return self.broken_line(),
        };
        if self.slots.is_full() {
            return Step::Blocked;
        }
        let (line, behind) = (&bytes[..length], &bytes[length..]);
        let nothing = Extensions::default();
        let offered = self.told.as_ref().unwrap_or(&nothing);
        let command = match command::parse(&line[..length - 2], offered, self.smtputf8()) {
            // In the clear no AUTH passes, whatever is wrong with it.
            Err(Fault::Syntax(_))
                if offered.has(Keyword::Auth)
                    && self.is_clear()
                    && command::verb(&line[..length - 2]) == "AUTH" =>
            {
                Ok(Command::Auth)
            }
            command => command,
        };
        if let Some(refusal) = self.unmannerly(line, &command) {
            self.drop(Side::Client, length);
            self.fault(refusal);
            return Step::Took(length);
        }
        match command {
            Ok(command) => self.command(command, line, behind),
            Err(fault) => {
                self.drop(Side::Client, length);
                self.wrong(fault);
                Step::Took(length)
            }
        }
    }

    /// The refusal of a command that may not be said yet (RFC 3207 §4) or any more (§4.1).
    fn unmannerly(&self, line: &[u8], command: &Result<Command, Fault>) -> Option<Refusal> {
        match &self.manner {
            Manner::Mail => None,
            Manner::QuitOnly(refusal) => {
                (!matches!(command, Ok(Command::Quit))).then(|| refusal.clone())
            }
            Manner::TlsFirst => {
                let verb = command::verb(line.trim_ascii_end());
                let answered = ["EHLO", "HELO", "NOOP", "RSET", "QUIT", "HELP", "STARTTLS"]
                    .contains(&verb.as_str())
                    // Nobody may ever say these, and what begins with a blank is no command.
                    || verb.starts_with('X')
                    || line.starts_with(b" ")
                    || matches!(command, Err(Fault::Http));
                (!answered).then(|| self.conditions.starttls_first())
            }
        }
    }

    /// Takes one command. Those that change what later ones mean wait until all earlier replies are out.
    fn command(&mut self, command: Command, line: &[u8], behind: &[u8]) -> Step {
        let length = line.len();
        let alone = self.slots.is_empty();
        match command {
            Command::Hello { .. }
            | Command::Mail(_)
            | Command::Rset
            | Command::StartTls
            | Command::Auth
                if !alone =>
            {
                return Step::Blocked;
            }
            Command::Data => return self.data(length, behind),
            Command::Bdat { octets, last } => return self.bdat(length, octets, last),
            Command::Rcpt { target, dsn } => return self.rcpt(line, target, dsn),
            Command::Noop { argued: false } | Command::Quit
                if self.is_permitted() && !self.may_send() =>
            {
                return Step::Blocked;
            }
            Command::Noop { argued: false } if self.is_permitted() && self.budget.idle() => {
                return self.forward(length, Awaited::Noop);
            }
            Command::Rset if self.is_permitted() && self.budget.idle() => {
                self.end_transaction(None);
                return self.forward(length, Awaited::Rset);
            }
            Command::Quit if self.is_permitted() => {
                self.ends(End::Quit);
                self.phase = Phase::Leaving;
                return self.forward(length, Awaited::Quit);
            }
            Command::Auth
                if self.transaction.is_none() && self.is_permitted() && !self.is_clear() =>
            {
                self.phase = Phase::AwaitAuthReply;
                return self.forward(length, Awaited::Auth);
            }
            Command::StartTls if self.starttls == StartTls::Offered && !behind.is_empty() => {
                return self.behind_starttls();
            }
            command => {
                self.drop(Side::Client, length);
                self.local(command, line);
            }
        }
        Step::Took(length)
    }

    /// Commands that are answered here or left to the machine.
    fn local(&mut self, command: Command, line: &[u8]) {
        let needless = !matches!(
            command,
            Command::Mail(_) | Command::Quit | Command::StartTls
        );
        if needless && !self.idled() {
            return;
        }
        match command {
            Command::Hello { name, esmtp } => {
                self.end_transaction(None);
                self.hello_name = name;
                self.phase = Phase::Pending(Pending::Hello { esmtp });
            }
            Command::Mail(_) if self.told.is_none() => {
                self.fault(refusal(503, (5, 1), "say EHLO first"));
            }
            Command::Mail(_) if self.transaction.as_ref().is_some_and(|t| !t.is_dead()) => {
                self.fault(refusal(
                    503,
                    (5, 1),
                    "a transaction is open, say RSET first",
                ));
            }
            Command::Mail(sender) if self.lacks_auth(&sender) => {
                let text = self.says("AUTH needs TLS, and this session has begun without");
                self.decline(&refusal(451, (7, 0), &text).because(Cause::StarttlsRequired));
            }
            Command::Mail(sender) => self.mail(line.to_vec(), sender),
            Command::Noop { .. } => self.say(250, "2.0.0 ok"),
            Command::Rset => {
                self.end_transaction(None);
                self.say(250, "2.0.0 ok");
            }
            Command::Help => self.say(214, "2.0.0 see RFC 5321"),
            // Names are for nobody who has not been judged (RFC 5321 §7.3).
            Command::Vrfy => self.say(252, "2.5.2 send some mail, it will be tried"),
            Command::Expn => self.fault(refusal(502, (5, 1), "EXPN is not implemented")),
            Command::Quit => {
                self.ends(End::Quit);
                self.leave(goodbye());
            }
            Command::StartTls => match self.starttls {
                StartTls::Offered if self.conditions.overloaded => {
                    let text = "too many TLS handshakes are under way, try again later";
                    self.part(refusal(421, (3, 2), text).because(Cause::Overload));
                }
                StartTls::Offered => self.phase = Phase::Pending(Pending::StartTls),
                StartTls::Unknown => self.fault(refusal(502, (5, 1), "STARTTLS is not offered")),
                StartTls::Up => self.fault(refusal(503, (5, 1), "TLS is up already")),
                StartTls::Unavailable => {
                    let refusal = refusal(454, (7, 0), "TLS is not available at the moment");
                    self.fault(refusal.because(Cause::LocalFault));
                }
            },
            Command::Auth if self.transaction.is_none() && self.is_clear() => {
                self.auth_denied = true;
                let text = self.says("AUTH needs TLS, and this session has begun without");
                self.decline(&refusal(454, (7, 0), &text).because(Cause::StarttlsRequired));
            }
            Command::Auth => self.fault(refusal(503, (5, 1), "AUTH is not possible now")),
            Command::Rcpt { .. } | Command::Data | Command::Bdat { .. } => {}
        }
    }

    /// MAIL is taken: outbound it waits for the first recipient that may be handed over, inbound it is judged.
    fn mail(&mut self, line: Vec<u8>, sender: Sender) {
        if self.transaction.is_some() {
            self.reset_server();
        }
        self.begin_transaction();
        match self.role {
            Role::Outbound => {
                self.transaction = Some(Transaction::new(sender, Some(line)));
                self.say(250, "2.1.0 sender noted");
            }
            Role::Inbound => self.phase = Phase::Pending(Pending::Mail { line, sender }),
        }
    }

    fn rcpt(&mut self, line: &[u8], target: ForwardPath, dsn: bool) -> Step {
        let length = line.len();
        let problem = match &self.transaction {
            None => Some("need MAIL before RCPT"),
            Some(t) if t.message != Message::Ahead => Some("the message has begun"),
            Some(_) => None,
        };
        let inbound = matches!(self.role, Role::Inbound);
        if inbound && problem.is_none() && !self.may_send() {
            return Step::Blocked;
        }
        let allowance = self.budget.recipient();
        if let (Allowance::Granted, None, true) = (&allowance, problem, inbound) {
            return self.forward(length, Awaited::Rcpt(target));
        }
        let step = self.drop(Side::Client, length);
        match problem {
            Some(problem) => self.recipient_fault(&refusal(503, (5, 1), problem), allowance),
            None if allowance == Allowance::Granted => {
                let line = line.to_vec();
                self.phase = Phase::Pending(Pending::Rcpt { line, target, dsn });
            }
            None => self.recipient_fault(&refusal(452, (5, 3), "too many recipients"), allowance),
        }
        step
    }

    /// A recipient that is not taken is refused in its own slot: a list with many of them is no command without sense, but
    /// it has an end, too (RFC 5321 §4.5.3.1.10).
    fn recipient_fault(&mut self, refusal: &Refusal, allowance: Allowance) {
        match allowance {
            Allowance::Granted | Allowance::Denied => self.decline(refusal),
            Allowance::Exhausted => self.exhausted("far too many recipients"),
        }
    }

    /// The command at the start of what was offered goes to the server as it is.
    pub(super) fn forward(&mut self, length: usize, awaited: Awaited) -> Step {
        self.moved[Side::Client as usize] = true;
        self.act(Action::Pass {
            from: Side::Client,
            len: length,
            content: false,
        });
        self.slots.sent(awaited);
        Step::Took(length)
    }

    /// Whether a command may go out now: pipelined only where the server offers it (RFC 2920 §3).
    pub(super) fn may_send(&self) -> bool {
        matches!(self.link, Link::Open { pipelining, .. } if pipelining || !self.slots.awaits_server())
    }

    /// A reply of ours in its place.
    pub(super) fn say(&mut self, code: u16, text: &str) {
        self.slots.ours(Reply::new(code, text), false);
        self.pump();
    }

    /// Answers a command that was wrong; too many of them end the session (RFC 5321 §7.8).
    pub(super) fn fault(&mut self, refusal: Refusal) {
        if !self.budget.fault() {
            return self.exhausted("too many errors");
        }
        self.decline(&refusal);
    }

    /// A refusal of ours in its place.
    pub(super) fn decline(&mut self, refusal: &Refusal) {
        self.refused(refusal);
        self.slots.ours(Reply::from(refusal), false);
        self.pump();
    }

    /// Counts a command that helps no message along; false: that was one too many, and it has been said.
    pub(super) fn idled(&mut self) -> bool {
        let granted = self.budget.idle();
        if !granted {
            self.exhausted("too many commands without a message");
        }
        granted
    }

    pub(super) fn exhausted(&mut self, why: &str) {
        self.part(refusal(421, (7, 0), why).because(Cause::Limit));
    }

    fn wrong(&mut self, fault: Fault) {
        match fault {
            Fault::Syntax(refusal) => self.fault(refusal),
            Fault::Recipient(refusal) => {
                let allowance = self.budget.recipient();
                self.recipient_fault(&refusal, allowance);
            }
            Fault::Forbidden => {
                self.fault(refusal(502, (5, 1), "this command is not offered here"))
            }
            Fault::Unknown => self.fault(refusal(500, (5, 2), "no such command")),
            Fault::Uncountable => {
                self.incident("uncountable-chunk");
                self.abrupt = true;
                self.part(refusal(
                    521,
                    (5, 4),
                    "BDAT takes a number of octets and LAST (RFC 3030)",
                ));
            }
            Fault::Unchunked => {
                self.incident("chunk-without-chunking");
                self.abrupt = true;
                self.part(refusal(
                    521,
                    (5, 1),
                    "BDAT was not offered in reply to EHLO",
                ));
            }
            Fault::Http => {
                self.incident("http-request");
                self.abrupt = true;
                self.part(refusal(500, (5, 1), "this is SMTP, not HTTP"));
            }
        }
    }

    fn overlong(&mut self, bytes: &[u8], skipped: usize) -> Step {
        // A CR at the end waits for its LF, as everywhere.
        let length = match framing::line(bytes, usize::MAX) {
            Line::Whole(length) => {
                self.phase = Phase::Commands;
                self.drop(Side::Client, length);
                self.fault(refusal(500, (5, 2), "the line is too long"));
                return Step::Took(length);
            }
            Line::Broken => return self.broken_line(),
            Line::Partial | Line::TooLong => bytes.len() - usize::from(bytes.ends_with(b"\r")),
        };
        if length == 0 {
            return Step::Starved;
        }
        self.phase = Phase::Overlong(skipped + length);
        // No whole line, so it does not renew the client's time.
        self.act(Action::Drop {
            from: Side::Client,
            len: length,
        });
        if skipped + length > MAX_OVERLONG {
            self.exhausted("a line without end");
        }
        Step::Took(length)
    }

    pub(super) fn broken_line(&mut self) -> Step {
        self.out_of_step(
            "broken-command-line",
            "only CR LF ends a line (RFC 5321 2.3.8)",
        )
    }

    pub(super) fn early_data(&mut self) -> Step {
        self.out_of_step("data-before-go-ahead", "data before 354 (RFC 5321 4.1.1.4)")
    }

    /// Bytes in the clear after our 220; no text of ours may stand in the handshake either.
    fn amid_handshake(&mut self) -> Step {
        self.incident("starttls-command-injection");
        self.dead(refusal(421, (5, 0), "text in the clear behind STARTTLS"));
        Step::Took(0)
    }

    fn behind_starttls(&mut self) -> Step {
        self.out_of_step(
            "starttls-command-injection",
            "STARTTLS must be the last of its group (RFC 3207 4)",
        )
    }
}
