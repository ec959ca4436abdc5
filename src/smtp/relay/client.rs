//! The client's commands: each is answered here, left pending for the machine, or forwarded unchanged.

use super::{
    Relay,
    slots::Awaited,
    state::{AllowedCommands, Auth, Pending, Phase, Role, ServerEnding, StartTls, Step},
    transaction::{Allowance, Transaction},
};
use crate::smtp::{
    command::{self, Command, Fault, Verb},
    extensions::{Extensions, Keyword},
    framing::{self, Line},
    machine::{Action, End, Note, Side},
    path::{ForwardPath, Sender},
    refusal::{Cause, Refusal},
    reply::Reply,
};

/// Most octets of a line that is skipped to its end. Beyond them the session ends.
const MAX_OVERLONG: usize = 64 * 1024;

impl Relay {
    /// Takes what the client's bytes begin with.
    pub(in crate::smtp) fn client(&mut self, bytes: &[u8]) -> Step {
        match &self.phase {
            Phase::Commands => self.command_line(bytes),
            Phase::Overlong(skipped) => self.overlong(bytes, *skipped),
            Phase::Pending {
                command: Pending::StartTls,
                ..
            } if !bytes.is_empty() => self.bytes_before_handshake(),
            Phase::Pending { .. }
            | Phase::AwaitAuthReply
            | Phase::AwaitFinalReply
            | Phase::AwaitRecord(_) => Step::Blocked,
            Phase::AwaitGoAhead if bytes.is_empty() => Step::Blocked,
            Phase::AwaitGoAhead => self.early_data(),
            Phase::AuthResponse => self.auth_response(bytes),
            Phase::Message(_) => self.message(bytes),
            Phase::Chunk { .. } => self.chunk(bytes),
            Phase::SkipChunk { .. } => self.skip_chunk(bytes),
            Phase::SkipMessage { .. } => self.skip_message(bytes),
            Phase::Leaving => self.drop(Side::Client, bytes.len()),
            Phase::Over => Step::Starved,
        }
    }

    fn command_line(&mut self, bytes: &[u8]) -> Step {
        let limit = match bytes.get(..5) {
            // AUTH may carry an initial response (RFC 4954 §4).
            Some(verb) if self.auth != Auth::Hidden && verb.eq_ignore_ascii_case(b"AUTH ") => {
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
        let parsed = self.parse(&line[..length - 2]);
        if let Some(refusal) = self.not_allowed(line, &parsed) {
            self.drop(Side::Client, length);
            self.fault(refusal);
            return Step::Took(length);
        }
        match parsed {
            Ok(command) => self.command(command, line, behind),
            Err(fault) => {
                self.drop(Side::Client, length);
                self.answer_fault(fault);
                Step::Took(length)
            }
        }
    }

    fn parse<'a>(&self, line: &'a [u8]) -> Result<Command<'a>, Fault> {
        let nothing = Extensions::default();
        let offered = self.shown.as_ref().unwrap_or(&nothing);
        let parsed = command::parse(line, offered, self.uses_smtputf8());
        // In the clear no AUTH passes, well-formed or not.
        if matches!(parsed, Err(Fault::Syntax(_)))
            && offered.has(Keyword::Auth)
            && self.is_clear()
            && Verb::of(line).word() == b"AUTH"
        {
            return Ok(Command::Auth);
        }
        parsed
    }

    /// The refusal of a command that the client may not use yet (RFC 3207 §4) or any more (§4.1).
    fn not_allowed(&self, line: &[u8], command: &Result<Command, Fault>) -> Option<Refusal> {
        match &self.allowed {
            AllowedCommands::All => None,
            AllowedCommands::QuitOnly(refusal) => {
                (!matches!(command, Ok(Command::Quit))).then(|| refusal.clone())
            }
            AllowedCommands::BeforeTls => {
                let verb = Verb::of(line.trim_ascii_end());
                let known = matches!(
                    verb.word(),
                    b"EHLO" | b"HELO" | b"NOOP" | b"RSET" | b"QUIT" | b"HELP" | b"STARTTLS"
                );
                // These are never accepted, and a line that begins with a blank is no command.
                let never = verb.word().starts_with(b"X")
                    || line.starts_with(b" ")
                    || matches!(command, Err(Fault::Http));
                (!known && !never).then(|| self.conditions.starttls_first())
            }
        }
    }

    /// Takes one command. A command that changes the meaning of later ones waits until all earlier replies are out; MAIL and RSET may
    /// follow what ends the transaction before them.
    fn command(&mut self, command: Command, line: &[u8], behind: &[u8]) -> Step {
        let length = line.len();
        let permitted = self.is_permitted();
        match command {
            Command::Mail(_) | Command::Rset if !self.may_begin_anew() => Step::Blocked,
            Command::Hello { .. } | Command::StartTls | Command::Auth if !self.slots.is_empty() => {
                Step::Blocked
            }
            Command::Noop { argued: false } | Command::Quit if permitted && !self.may_send() => {
                Step::Blocked
            }
            Command::Data => self.data(length, behind),
            Command::Bdat { octets, last } => self.bdat(length, octets, last),
            Command::Rcpt { to, dsn } => self.rcpt(line, to, dsn),
            Command::Noop { argued: false } if permitted => {
                self.forward_idle(length, Awaited::Noop)
            }
            Command::Rset if permitted => self.forward_idle(length, Awaited::Rset),
            Command::Quit if permitted => {
                self.set_end(End::Quit);
                self.phase = Phase::Leaving;
                self.forward(length, Awaited::Quit)
            }
            Command::Auth if self.transaction.is_none() && permitted && !self.is_clear() => {
                self.phase = Phase::AwaitAuthReply;
                self.forward(length, Awaited::Auth)
            }
            Command::StartTls if self.starttls == StartTls::Offered && !behind.is_empty() => {
                self.behind_starttls()
            }
            command => {
                self.drop(Side::Client, length);
                self.local(command, line);
                Step::Took(length)
            }
        }
    }

    /// Whether the transaction before is over, or will be by what the server is still to answer.
    fn may_begin_anew(&self) -> bool {
        self.slots.is_empty() || (self.may_pipeline() && self.slots.only_reset())
    }

    /// Forwards a command that helps no message along, unless the client has used up its number of those.
    fn forward_idle(&mut self, length: usize, awaited: Awaited) -> Step {
        if !self.abuse.allows_idle_command() {
            self.drop(Side::Client, length);
            self.exhausted("too many commands without a message");
            return Step::Took(length);
        }
        if awaited == Awaited::Rset {
            self.end_transaction(None);
        }
        self.forward(length, awaited)
    }

    /// Commands that are answered here or left to the machine.
    fn local(&mut self, command: Command, line: &[u8]) {
        let helps_a_message = matches!(
            command,
            Command::Mail(_) | Command::Quit | Command::StartTls
        );
        if !helps_a_message && !self.allows_idle_command() {
            return;
        }
        match command {
            Command::Hello { name, esmtp } => {
                self.end_transaction(None);
                self.hello_name = name;
                self.leave_pending(Pending::Hello { esmtp });
            }
            Command::Mail(_) if self.shown.is_none() => {
                self.fault(Refusal::new(503, (5, 1), "say EHLO first"));
            }
            Command::Mail(_) if self.transaction.as_ref().is_some_and(|t| !t.is_dead()) => {
                let text = "a transaction is open, say RSET first";
                self.fault(Refusal::new(503, (5, 1), text));
            }
            Command::Mail(sender) if self.lacks_auth(&sender) => {
                self.decline(&self.auth_needs_tls(451));
            }
            Command::Mail(sender) => self.mail(line.to_vec(), sender),
            Command::Noop { .. } => self.say(250, "2.0.0 ok"),
            Command::Rset => {
                self.end_transaction(None);
                self.say(250, "2.0.0 ok");
            }
            Command::Help => self.say(214, "2.0.0 see RFC 5321"),
            // A client that nobody has judged learns no names (RFC 5321 §7.3).
            Command::Vrfy => self.say(252, "2.5.2 send some mail, it will be tried"),
            Command::Expn => self.fault(Refusal::new(502, (5, 1), "EXPN is not implemented")),
            Command::Quit => {
                self.set_end(End::Quit);
                self.end_with(Reply::goodbye());
            }
            Command::StartTls => self.start_tls(),
            Command::Auth if self.transaction.is_none() && self.is_clear() => {
                self.auth = Auth::RefusedInTheClear;
                self.decline(&self.auth_needs_tls(454));
            }
            Command::Auth => self.fault(Refusal::new(503, (5, 1), "AUTH is not possible now")),
            Command::Rcpt { .. } | Command::Data | Command::Bdat { .. } => {}
        }
    }

    fn start_tls(&mut self) {
        match self.starttls {
            StartTls::Offered if self.conditions.overloaded => {
                let text = "too many TLS handshakes are under way, try again later";
                let refusal = Refusal::new(421, (3, 2), text);
                self.end_after_replies(refusal.because(Cause::Overload));
            }
            StartTls::Offered => self.leave_pending(Pending::StartTls),
            StartTls::Unknown => self.fault(Refusal::new(502, (5, 1), "STARTTLS is not offered")),
            StartTls::Up => self.fault(Refusal::new(503, (5, 1), "TLS is up already")),
            StartTls::Unavailable => {
                let refusal = Refusal::new(454, (7, 0), "TLS is not available at the moment");
                self.fault(refusal.because(Cause::LocalFault));
            }
        }
    }

    /// MAIL is taken. Outbound it waits for the first recipient that may be handed over; inbound the policy judges it.
    fn mail(&mut self, line: Vec<u8>, sender: Sender) {
        if self.transaction.is_some() {
            self.reset_server();
        }
        self.timing.reset_rate();
        self.note(Note::TransactionBegins);
        match self.role {
            Role::Outbound => {
                self.transaction = Some(Box::new(Transaction::new(sender, Some(line))));
                self.slots
                    .ours_in_group(Reply::new(250, "2.1.0 sender noted"));
                self.pump();
            }
            Role::Inbound => self.leave_pending(Pending::Mail { line, sender }),
        }
    }

    fn rcpt(&mut self, line: &[u8], to: ForwardPath, dsn: bool) -> Step {
        let length = line.len();
        let problem = match &self.transaction {
            None => Some("need MAIL before RCPT"),
            Some(t) if t.has_begun() => Some("the message has begun"),
            Some(_) => None,
        };
        let inbound = self.role == Role::Inbound;
        if inbound && problem.is_none() && !self.may_send() {
            return Step::Blocked;
        }
        let allowance = self.abuse.next_recipient();
        if let (Allowance::Granted, None, true) = (&allowance, problem, inbound) {
            let to = self.slots.name(&to);
            return self.forward(length, Awaited::Rcpt(to));
        }
        let step = self.drop(Side::Client, length);
        match problem {
            Some(problem) => {
                self.recipient_fault(&Refusal::new(503, (5, 1), problem), allowance);
            }
            None if allowance == Allowance::Granted => {
                let (line, to) = (line.to_vec(), to.into_owned());
                self.leave_pending(Pending::Rcpt { line, to, dsn });
            }
            None => {
                self.recipient_fault(&Refusal::new(452, (5, 3), "too many recipients"), allowance);
            }
        }
        step
    }

    /// Refuses one recipient in its own place. A long list of recipients is no series of wrong commands, so they are counted apart,
    /// and also have a limit (RFC 5321 §4.5.3.1.10).
    fn recipient_fault(&mut self, refusal: &Refusal, allowance: Allowance) {
        match allowance {
            Allowance::Granted | Allowance::Denied => self.decline_in_group(refusal),
            Allowance::Exhausted => self.exhausted("far too many recipients"),
        }
    }

    /// Forwards the command at the start of the offered bytes unchanged.
    pub(super) fn forward(&mut self, length: usize, awaited: Awaited) -> Step {
        self.timing.moved(Side::Client);
        self.pass(Side::Client, length, false);
        self.slots.sent(awaited);
        Step::Took(length)
    }

    /// Answers a command that was wrong; too many of them end the session (RFC 5321 §7.8).
    pub(super) fn fault(&mut self, refusal: Refusal) {
        if !self.abuse.allows_fault() {
            return self.exhausted("too many errors");
        }
        self.decline(&refusal);
    }

    /// Counts a command that helps no message along. False: the client has had too many, and the session ends.
    pub(super) fn allows_idle_command(&mut self) -> bool {
        let allowed = self.abuse.allows_idle_command();
        if !allowed {
            self.exhausted("too many commands without a message");
        }
        allowed
    }

    /// Ends the session of a client that asked for too much.
    pub(super) fn exhausted(&mut self, why: &str) {
        self.end_after_replies(Refusal::new(421, (7, 0), why).because(Cause::Limit));
    }

    fn answer_fault(&mut self, fault: Fault) {
        match fault {
            Fault::Syntax(refusal) => self.fault(refusal),
            Fault::Recipient(refusal) => {
                let allowance = self.abuse.next_recipient();
                self.recipient_fault(&refusal, allowance);
            }
            Fault::Forbidden => {
                self.fault(Refusal::new(
                    502,
                    (5, 1),
                    "this command is not offered here",
                ));
            }
            Fault::Unknown => self.fault(Refusal::new(500, (5, 2), "no such command")),
            Fault::Uncountable => {
                let text = "BDAT takes a number of octets and LAST (RFC 3030)";
                self.hang_up("uncountable-chunk", Refusal::new(521, (5, 4), text));
            }
            Fault::Unchunked => {
                let text = "BDAT was not offered in reply to EHLO";
                self.hang_up("chunk-without-chunking", Refusal::new(521, (5, 1), text));
            }
            Fault::Http => {
                self.hang_up(
                    "http-request",
                    Refusal::new(500, (5, 1), "this is SMTP, not HTTP"),
                );
            }
        }
    }

    /// Ends the session because nobody can know where the client's next command begins.
    fn hang_up(&mut self, what: &'static str, refusal: Refusal) {
        self.incident(what);
        self.server_ending = ServerEnding::Abort;
        self.end_after_replies(refusal);
    }

    fn overlong(&mut self, bytes: &[u8], skipped: usize) -> Step {
        // A CR at the end waits for its LF, as everywhere.
        let length = match framing::line(bytes, usize::MAX) {
            Line::Whole(length) => {
                self.phase = Phase::Commands;
                self.drop(Side::Client, length);
                self.fault(Refusal::new(500, (5, 2), "the line is too long"));
                return Step::Took(length);
            }
            Line::Broken => return self.broken_line(),
            Line::Partial | Line::TooLong => bytes.len() - usize::from(bytes.ends_with(b"\r")),
        };
        if length == 0 {
            return Step::Starved;
        }
        self.phase = Phase::Overlong(skipped + length);
        // This is no whole line, so it does not renew the client's time.
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
        self.end_out_of_step(
            "broken-command-line",
            "only CR LF ends a line (RFC 5321 2.3.8)",
        )
    }

    pub(super) fn early_data(&mut self) -> Step {
        self.end_out_of_step("data-before-go-ahead", "data before 354 (RFC 5321 4.1.1.4)")
    }

    /// Bytes in the clear after our 220. No text of ours may stand in the handshake either.
    fn bytes_before_handshake(&mut self) -> Step {
        self.incident("starttls-command-injection");
        self.end_now(Refusal::new(
            421,
            (5, 0),
            "text in the clear behind STARTTLS",
        ));
        Step::Took(0)
    }

    fn behind_starttls(&mut self) -> Step {
        self.end_out_of_step(
            "starttls-command-injection",
            "STARTTLS must be the last of its group (RFC 3207 4)",
        )
    }
}
