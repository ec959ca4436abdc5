//! How `check` shows a domain: a page for people, JSON for programs. The page says what the log of a session would say.

use serde_json::{Value, json};

use super::{CheckedAddress, CheckedDomain};
use crate::{
    audit::{VerdictField, printable},
    lookup::StsEntry,
    policy::{Dns, Mx, Security, Sts, Tlsa, mta_sts::Mode},
};

/// Longest value on the page, in octets.
const LONGEST_VALUE: usize = 2000;

pub(super) const BOLD: &str = "1";
pub(super) const RED: &str = "31";
pub(super) const GREEN: &str = "32";
const YELLOW: &str = "33";

impl CheckedDomain {
    /// The page for programs.
    #[must_use]
    pub fn json(&self) -> Value {
        let of_hosts = self
            .hosts
            .iter()
            .flat_map(|(host, addresses)| addresses.iter().map(|one| (Some(&host.name), one)));
        let addresses = of_hosts.chain(self.unasked.iter().map(|one| (None, one)));
        let address = |(host, one): (Option<&String>, &CheckedAddress)| {
            let mut json = address_json(one);
            json["host"] = json!(host);
            json
        };
        json!({
            "domain": self.domain.as_str(),
            "refused": self.refused(),
            "any_refused": self.any_refused(),
            "findings": *self.findings,
            "addresses": addresses.map(address).collect::<Vec<_>>(),
        })
    }

    /// For people, with terminal colours if `colour`.
    #[must_use]
    pub fn page(&self, colour: bool) -> String {
        let mut page = CheckPage::new(colour);
        let name = page.paint(BOLD, self.domain.as_str());
        page.put(&name);
        page.line(2, 9, "mx", &mx_words(&self.findings.mx));
        page.line(2, 9, "mta-sts", &policy_words(&self.findings.sts));
        for (host, addresses) in &self.hosts {
            let name = page.paint(BOLD, &clean(&host.name));
            page.put(&format!("\n  {} {name}", host.preference));
            page.line(4, 9, "tlsa", &tlsa_words(&host.tlsa));
            if let Some(words) = address_fault(&host.addresses) {
                page.line(4, 9, "address", &words);
            }
            if let Some(missing) = &host.missing {
                page.line(4, 9, "address", &missing.why);
            }
            for one in addresses {
                page.put(&format!("    {}", one.address));
                page.address(one);
                page.verdict(one);
            }
        }
        if let Some(unasked) = &self.unasked {
            page.put("");
            page.verdict(unasked);
        }
        let outcome = match (self.refused(), self.any_refused()) {
            (false, false) => page.paint(GREEN, "mail passes"),
            (false, true) => page.paint(YELLOW, "mail passes by some of the addresses only"),
            (true, _) => page.paint(RED, "mail is refused"),
        };
        page.put(&format!("\n  {outcome}\n"));
        page.text
    }
}

/// What one address showed, for programs.
pub(super) fn address_json(one: &CheckedAddress) -> Value {
    let said = &one.said;
    json!({
        "address": one.address,
        "unreachable": one.unreachable,
        "peer": one.peer.as_deref(),
        "heard": one.heard,
        "verdict": said.verdict,
        "level": said.level,
        "basis": said.basis,
        "rule": said.rule,
        "reason": said.reason,
        "detail": said.detail,
        "reply": one.reply,
        "first_reply": one.first_reply,
        "cut_short": one.cut_short,
    })
}

/// A text from anybody, in a form that is safe to show on a terminal.
pub(super) fn clean(text: &str) -> String {
    printable(text, LONGEST_VALUE)
}

/// A page under way.
pub(super) struct CheckPage {
    pub(super) text: String,
    colour: bool,
}

impl CheckPage {
    pub(super) fn new(colour: bool) -> Self {
        Self {
            text: String::new(),
            colour,
        }
    }

    pub(super) fn paint(&self, code: &str, text: &str) -> String {
        match self.colour {
            true => format!("\x1b[{code}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }

    /// Adds a line as it is.
    pub(super) fn put(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    /// Adds a key and its value. The value may come from anybody.
    pub(super) fn line(&mut self, indent: usize, width: usize, key: &str, value: &str) {
        let value = clean(value);
        self.put(&format!("{:indent$}{key:<width$} {value}", ""));
    }

    /// Adds a key and its value below an address.
    pub(super) fn detail(&mut self, key: &str, value: &str) {
        self.line(6, 11, key, value);
    }

    /// Adds what the server at an address showed of itself.
    pub(super) fn address(&mut self, one: &CheckedAddress) {
        if let Some(peer) = &one.peer {
            let facts = &peer.facts;
            let sni = facts.sni.as_deref().unwrap_or("-");
            let (version, suite, group) = (&facts.version, &facts.suite, &facts.group);
            self.detail("tls", &format!("{version} {suite} {group} sni={sni}"));
            if let Some(leaf) = peer.leaf() {
                self.detail("certificate", &leaf.names_in_words());
                let (from, to) = (leaf.not_before.day(), leaf.not_after.day());
                self.detail("", &format!("{from} to {to}, issued by {}", leaf.issuer));
            }
        }
        for heard in &one.heard {
            let how = match heard.unproved {
                true => "in the clear, unproved",
                false => "inside TLS",
            };
            let words = format!("{}, {how}: \"{}\"", heard.stage, heard.text.as_str());
            self.detail("heard", &words);
        }
        if one.cut_short {
            let words = "not long enough for its answer; mail waits some minutes for one";
            self.detail("waited", words);
        }
    }

    pub(super) fn verdict(&mut self, one: &CheckedAddress) {
        let said = &one.said;
        let level = said.level.as_deref().unwrap_or("-");
        let basis = said.rule.as_deref().or(said.basis.as_deref());
        let mut words = format!("{level}, from {}", basis.unwrap_or("-"));
        if let Some(day) = &said.until {
            words += &format!(", until {day}");
        }
        if let Some(why) = &said.why {
            words += &format!(", because: {why}");
        }
        self.detail("level", &words);
        let word = match said.verdict {
            VerdictField::Authorised => self.paint(GREEN, "authorised"),
            VerdictField::Unprotected => self.paint(YELLOW, "unprotected"),
            VerdictField::Refused => {
                let reason = said.reason.as_deref().unwrap_or("-");
                self.paint(RED, &format!("refused: {reason}"))
            }
        };
        let words = clean(&said.detail);
        self.put(&format!("      {:<11} {word}: {words}", "verdict"));
        if let Some(first) = &one.first_reply {
            self.detail("at first", first);
        }
        if let Some(reply) = &one.reply {
            self.detail("mail gets", reply);
        }
    }
}

fn security_word(security: Security) -> &'static str {
    match security {
        Security::Secure => "DNSSEC",
        Security::Insecure => "unsigned",
    }
}

/// The answer of a look-up, else the words for its absence.
fn answer<'a, T>(
    answer: &'a Dns<T>,
    absent: &str,
    not_asked: &str,
) -> Result<(&'a T, &'static str), String> {
    match answer {
        Dns::Found(found, security) => Ok((found, security_word(*security))),
        Dns::Absent(security) => Err(format!("{absent} ({})", security_word(*security))),
        Dns::Bogus(words) => Err(format!("bogus: {words}")),
        Dns::Failed(words) => Err(format!("look-up failed: {words}")),
        Dns::NotAsked => Err(not_asked.to_owned()),
    }
}

fn mx_words(mx: &Dns<Mx>) -> String {
    match answer(mx, "the domain does not exist", "not asked") {
        Ok((Mx::Null, security)) => {
            format!("null MX ({security}): the domain accepts no mail")
        }
        Ok((Mx::Implicit(_), security)) => {
            format!("none ({security}): the domain itself is the host")
        }
        Ok((Mx::Hosts(hosts), security)) => {
            let names: Vec<&str> = hosts.iter().map(|host| host.name.as_str()).collect();
            format!("{} ({security})", names.join(", "))
        }
        Err(words) => words,
    }
}

fn tlsa_words(tlsa: &Dns<Vec<Tlsa>>) -> String {
    let not_asked = "not asked for (addresses are unsigned, or DANE is not in use)";
    match answer(tlsa, "none", not_asked) {
        Ok((records, security)) => {
            let words = |r: &Tlsa| {
                let data = data_encoding::HEXLOWER.encode(&r.data);
                format!("{} {} {} {data}", r.usage, r.selector, r.matching)
            };
            let texts: Vec<String> = records.iter().map(words).collect();
            format!("{} ({security})", texts.join("; "))
        }
        Err(words) => words,
    }
}

fn address_fault<T>(addresses: &Dns<T>) -> Option<String> {
    match addresses {
        Dns::Absent(_) => Some(String::from("none")),
        other => answer(other, "none", "not asked").err(),
    }
}

fn policy_words(sts: &Sts) -> String {
    match sts {
        Sts::Policy {
            policy,
            id,
            age,
            refresh_failed,
        } => {
            let mode = match policy.mode {
                Mode::Enforce => "enforce",
                Mode::Testing => "testing",
                Mode::None => "none",
            };
            let hosts = policy.mx.join(" ");
            let failed = refresh_failed.as_ref().map_or(String::new(), |(_, words)| {
                format!("; refresh failed: {words}")
            });
            format!("mode {mode}, mx {hosts}, id {id}, fetched {age} s ago{failed}")
        }
        Sts::Absent => String::from("none"),
        Sts::Unavailable(reason, words) => {
            format!("announced, but not to be had: {}: {words}", reason.word())
        }
        Sts::NotAsked => String::from("not asked"),
    }
}

/// A cached MTA-STS policy, for `policy show`.
pub(in crate::commands) fn cached_policy_words(entry: &StsEntry) -> String {
    let policy = policy_words(&entry.sts);
    clean(&format!(
        "{}: {policy}, expires in {} s",
        entry.domain, entry.expires_in
    ))
}
