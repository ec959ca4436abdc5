//! What verdict, unprotected and refusal records must say of an inbound session.

use crate::{
    certs::Shown,
    client::{Ended, Exchange, What},
    heard::Fatal,
    model::{Case, Why},
    rules::{Fact, Line, Want, fact, refused},
};

impl Case<'_, '_> {
    pub fn inbound_facts(&self) -> Vec<Want> {
        let mut wants = Vec::new();
        let mut want = |any_of: Vec<Fact>, must| wants.push(Want { any_of, must });
        let exchanges = &self.session.exchanges;
        for one in exchanges {
            match (&one.what, &one.reply) {
                (What::Mail(sender), Some(reply)) if reply.is_servers() && reply.code != 421 => {
                    let (facts, must) = self.of_sender(sender, one);
                    want(facts, must);
                }
                (What::Mail(sender), Some(reply))
                    if matches!(reply.code, 530 | 550 | 450 | 451) =>
                {
                    want(self.of_sender(sender, one).0, true);
                }
                (What::Mail(sender), None) => want(self.of_sender(sender, one).0, false),
                (What::Mail(sender), Some(reply)) if reply.code == 421 => {
                    want(self.of_sender(sender, one).0, false);
                    if !reply.is_servers() {
                        want(self.why_inbound_over().0, true);
                    }
                }
                (_, Some(reply)) if reply.text.starts_with("421 4.3.2") => {
                    want(vec![refused(None, "stopped")], true);
                }
                (_, Some(reply)) if reply.code == 421 && !reply.is_servers() => {
                    want(self.why_inbound_over().0, true);
                }
                // A client that the entry for its address refuses gets that refusal and nothing else.
                (_, Some(reply)) if one.secure && Some(reply.code) == self.refusal() => {}
                // A client that may have tried TLS gets 4yz: just after a start nobody is refused for good.
                (_, Some(reply))
                    if !one.secure
                        && !reply.is_servers()
                        && matches!(reply.code, 450 | 451 | 530) =>
                {
                    want(vec![refused(None, "starttls-required")], true);
                }
                (_, Some(reply)) if reply.code >= 400 && !reply.is_servers() => {
                    want(vec![refused(None, "protocol")], true);
                }
                _ => {}
            }
        }
        if let Some(seen) = self.broke_handshake() {
            want(vec![refused(None, "validation-failure")], seen);
        }
        if self.session.secure
            && let Some(line) = self.rules.client(&self.client())
        {
            // This client is judged before its next command, and every later command gets that answer.
            let client = self.client();
            let (verdict, reason) = self.judged_client(line);
            want(vec![fact(Some(&client), verdict, reason)], true);
            if self.refusal().is_some() {
                want(vec![refused(None, "*"), refused(Some(&client), "*")], false);
            }
        }
        if self.session.ended != Ended::Stopped {
            want(self.why_inbound_over().0, false);
        }
        if exchanges.iter().any(|one| one.reply.is_none()) {
            let reasons = ["protocol", "starttls-required"];
            want(reasons.map(|reason| refused(None, reason)).into(), false);
        }
        wants
    }

    pub fn client(&self) -> String {
        self.session.from.ip().to_string()
    }

    /// The client left before TLS was up; true if the proxy must have seen that.
    pub fn broke_handshake(&self) -> Option<bool> {
        let go =
            |one: &&Exchange| one.what == What::StartTls && matches!(one.code(), None | Some(220));
        let begun = !self.session.secure && self.session.exchanges.iter().any(|one| go(&one));
        self.session.broke_handshake.or(begun.then_some(false))
    }

    /// What the line decides about the client and its certificate.
    pub fn judged_client(&self, line: &Line) -> (&'static str, Option<&'static str>) {
        let nobody = Shown {
            sha256: String::new(),
            names: &[],
            trusted: false,
            expired: false,
        };
        let shown = self.session.certificate.as_ref();
        match line.verdict(Some(shown.unwrap_or(&nobody))) {
            Ok(verdict) => (verdict, None),
            Err(_) if shown.is_none() => ("refused", Some("*")),
            Err(reason) => ("refused", Some(reason)),
        }
    }

    /// The code by which an entry for the client's address refuses it. What the clock decides is temporary.
    pub fn refusal(&self) -> Option<u16> {
        let line = self.rules.client(&self.client())?;
        match self.judged_client(line) {
            ("refused", Some("certificate-expired")) => Some(454),
            ("refused", _) => Some(554),
            _ => None,
        }
    }

    /// The name by which a sender is judged: its domain, else the client's address.
    pub fn whose(&self, sender: &str) -> String {
        match sender.rsplit_once('@') {
            Some((_, literal)) if literal.starts_with('[') => self.client(),
            Some((_, domain)) => domain.to_ascii_lowercase(),
            None => self.client(),
        }
    }

    /// The line for a sender: its own, or that of its client.
    pub fn line_of(&self, sender: &str) -> Option<&Line> {
        let own = self.rules.sender(sender);
        own.or_else(|| self.rules.client(&self.client()))
    }

    /// What is recorded about a sender, and whether a record is required.
    pub fn of_sender(&self, sender: &str, said: &Exchange) -> (Vec<Fact>, bool) {
        let (client, whose) = (self.client(), self.whose(sender));
        let unprotected = || {
            let domains = [&client, &whose];
            domains
                .map(|domain| fact(Some(domain), "unprotected", None))
                .into()
        };
        match (self.line_of(sender), said.secure) {
            (Some(line), true) if line.level == "none" => (unprotected(), false),
            (Some(line), true) => {
                let (verdict, reason) = self.judged_client(line);
                (vec![fact(Some(&whose), verdict, reason)], true)
            }
            (None, true) => (Vec::new(), false),
            (Some(line), false) if line.level == "none" => (unprotected(), true),
            (None, false) if self.rules.exempt(&client).is_some() => (unprotected(), true),
            (_, false) => {
                let facts = [
                    refused(None, "starttls-required"),
                    refused(Some(&whose), "starttls-required"),
                    refused(Some(&whose), "starttls-not-supported"),
                ];
                (facts.into(), true)
            }
        }
    }

    pub fn why_inbound_over(&self) -> Why {
        let gone = refused(None, "server-gone");
        match self.last().and_then(|last| last.fatal) {
            Some(Fatal::Greeting(421)) => (
                vec![refused(None, "greeting-refused"), gone],
                &["refused", "server-closed"],
            ),
            Some(Fatal::Greeting(_)) => (
                vec![refused(None, "greeting-refused")],
                &["refused", "greeting-refused"],
            ),
            Some(Fatal::Hello(421)) => (
                vec![refused(None, "ehlo-refused"), gone],
                &["refused", "server-closed"],
            ),
            Some(Fatal::Hello(_)) => (vec![refused(None, "ehlo-refused")], &["refused"]),
            Some(_) => (vec![gone], &["server-closed"]),
            None => (vec![refused(None, "limit")], &["refused"]),
        }
    }
}
