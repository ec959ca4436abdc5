//! `check DOMAIN...`: each mail exchanger, what it shows, what is demanded, and what mail would get, word for word.

use std::{
    fmt::Write as _,
    io::{IsTerminal as _, Write as _},
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::task::JoinSet;

pub mod probe;

use self::probe::{CheckedAddress, Checker};
use super::runtime;
use crate::{
    audit::{VerdictField, printable},
    clock, configure,
    exit::Exit,
    files,
    flags::CheckFlags,
    lookup::{DnssecSupport, StsEntry},
    net::Dial,
    policy::{
        Ask, Dns, Findings, Mx, MxHost, Needs, NextHop, Security, Sts, needs, table::TablePurpose,
    },
    smtp::{Domain, Recipient},
    tls::ClientTls,
};

/// One connection attempt.
const CONNECT: Duration = Duration::from_secs(15);
/// Domains that are asked about at once.
const AT_ONCE: usize = 8;
/// Addresses of one domain that are asked; a domain with more has made its point.
const ADDRESSES: usize = 20;

/// Everything with one address takes at most about this long.
const PATIENCE: Duration = Duration::from_secs(40);
/// Longest value on the page, in octets.
const LONGEST_VALUE: usize = 2000;

/// What came of one domain.
pub struct CheckedDomain {
    domain: Domain,
    findings: Arc<Findings>,
    probed: Vec<(MxHost, Vec<CheckedAddress>)>,
    /// Decided without asking anybody: no host is left to ask.
    decided: Option<CheckedAddress>,
}

impl CheckedDomain {
    /// Asks all of `domain`'s mail exchangers, mail for whom is never sent.
    pub async fn new(domain: Domain, checker: &Checker) -> Self {
        // The hosts to ask are the MX hosts, whatever decides; what decides asks for more.
        let nowhere = Ask {
            next_hop: NextHop::Recipient(Recipient::Domain(domain.clone())),
            server: [0, 0, 0, 0].into(),
            port: checker.port,
        };
        let more = needs(
            &nowhere,
            checker.table.find(&nowhere, clock::wall()),
            &checker.settings,
        );
        let needs = Needs { mx: true, ..more };
        let findings = Arc::new(checker.lookup.gather(&domain, needs).await);
        let mut probed = Vec::new();
        let mut left = ADDRESSES;
        if let Dns::Found(mx, _) = &findings.mx {
            for host in mx.hosts() {
                let mut of_host = Vec::new();
                if let Dns::Found(addresses, _) = &host.addresses {
                    for address in addresses.iter().take(left) {
                        of_host.push(checker.ask(&domain, *address, &findings).await);
                    }
                    left = left.saturating_sub(addresses.len());
                }
                probed.push((host.clone(), of_host));
            }
        }
        let decided = match probed.iter().any(|(_, of_host)| !of_host.is_empty()) {
            true => None,
            false => Some(checker.decide_unasked(&domain, &findings)),
        };
        Self {
            domain,
            findings,
            probed,
            decided,
        }
    }

    fn all(&self) -> impl Iterator<Item = &CheckedAddress> {
        self.probed
            .iter()
            .flat_map(|(_, probed)| probed)
            .chain(&self.decided)
    }

    /// Mail is refused where no address takes it; an MTA tries them all.
    #[must_use]
    pub fn refused(&self) -> bool {
        !self.all().any(|probed| probed.passes)
    }

    /// Some address does not take it.
    #[must_use]
    pub fn any_refused(&self) -> bool {
        self.all().any(|probed| !probed.passes)
    }

    /// For programs.
    #[must_use]
    pub fn json(&self) -> Value {
        let probed = |one: &CheckedAddress, host: Option<&str>| {
            let said = &one.said;
            json!({
                "host": host,
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
                "first_reply": one.first,
                "cut_short": one.cut_short,
            })
        };
        let hosts = self
            .probed
            .iter()
            .flat_map(|(host, of_host)| of_host.iter().map(|one| (one, Some(host.name.as_str()))));
        let decided = self.decided.iter().map(|one| (one, None));
        json!({
            "domain": self.domain.as_str(),
            "refused": self.refused(),
            "any_refused": self.any_refused(),
            "findings": *self.findings,
            "addresses": hosts.chain(decided).map(|(one, host)| probed(one, host)).collect::<Vec<_>>(),
        })
    }
}

/// The command.
///
/// # Errors
/// Wrong flags or files; exit 1 if mail for any domain would be refused.
pub fn check(flags: &CheckFlags) -> Result<(), Exit> {
    let domains = domains(flags)?;
    let options = configure::client_options(
        &flags.ca_file,
        &flags.client_cert,
        &flags.client_key,
        flags.min_tls.as_deref(),
    )?;
    let settings = configure::settings(
        flags.level.as_deref(),
        flags.refuse_with.as_deref(),
        flags.no_dane,
        flags.no_mta_sts,
        false,
        options.min_tls,
    )?;
    settings.check(false).map_err(Exit::Usage)?;
    let table = configure::table_of(
        flags.policy.as_deref(),
        Some(&TablePurpose::Outbound),
        &settings,
    )?;
    let tls = ClientTls::new(&options).map_err(Exit::Configuration)?;
    let hostname = configure::hostname(flags.hostname.as_deref())?;
    runtime()?.block_on(async {
        let lookup = configure::lookup_of(
            &flags.resolver,
            settings.dane,
            flags.dnssec_anchor.as_ref(),
            flags.state_dir.as_ref(),
            flags.mta_sts_private,
            &tls.trust,
        )?;
        let checker = Checker {
            hostname,
            dial: Dial::new(None, CONNECT),
            tls: Arc::new(tls),
            settings,
            table,
            lookup: Arc::new(lookup),
            port: 25,
            patience: PATIENCE,
        };
        if let DnssecSupport::Missing(words) = checker.lookup.dnssec_support().await {
            let words = clean(&words);
            match flags.json {
                true => eprintln!("starttls-proxy: {words}"),
                false => println!("{words}"),
            }
        }
        // The page says what the log of a session would say.
        log::set_max_level(log::LevelFilter::Error);
        run(domains, Arc::new(checker), flags.json).await
    })
}

fn domains(flags: &CheckFlags) -> Result<Vec<Domain>, Exit> {
    let mut names = flags.domains.clone();
    if let Some(path) = &flags.file {
        let text = files::text(path)
            .map_err(|error| Exit::Configuration(format!("{}: {error}", path.display())))?;
        let lines = text
            .lines()
            .map(|line| line.split('#').next().unwrap_or_default().trim());
        names.extend(lines.filter(|line| !line.is_empty()).map(str::to_owned));
    }
    if names.is_empty() {
        return Err(Exit::Usage(
            "check: name a domain\nhint: starttls-proxy check example.com".into(),
        ));
    }
    let parse = |name: &String| {
        let bare = name
            .rsplit_once('@')
            .map_or(name.as_str(), |(_, domain)| domain);
        Domain::parse(bare.strip_suffix('.').unwrap_or(bare)).ok_or_else(|| {
            Exit::Usage(format!(
                "check: '{name}' is no domain (write international names as xn--...)"
            ))
        })
    };
    names.iter().map(parse).collect()
}

async fn run(domains: Vec<Domain>, checker: Arc<Checker>, as_json: bool) -> Result<(), Exit> {
    let total = domains.len();
    let progress = total > 1 && std::io::stderr().is_terminal();
    let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let mut waiting = domains.into_iter().enumerate();
    let mut running = JoinSet::new();
    let mut done: Vec<Option<CheckedDomain>> = (0..total).map(|_| None).collect();
    let (mut printed, mut finished, mut refused) = (0, 0, 0);
    loop {
        while running.len() < AT_ONCE
            && let Some((index, domain)) = waiting.next()
        {
            let checker = Arc::clone(&checker);
            running.spawn(async move { (index, CheckedDomain::new(domain, &checker).await) });
        }
        let Some(joined) = running.join_next().await else {
            break;
        };
        let (index, checked) =
            joined.map_err(|error| Exit::Configuration(format!("a check broke off: {error}")))?;
        finished += 1;
        refused += usize::from(checked.any_refused());
        done[index] = Some(checked);
        if progress {
            eprint!("\r{finished} of {total} domains, {refused} with refusals\x1b[K");
        }
        // In the order asked for.
        while let Some(Some(checked)) = done.get(printed) {
            if progress {
                eprint!("\r\x1b[K");
            }
            let text = if as_json {
                format!("{}\n", checked.json())
            } else {
                checked.page(colour)
            };
            if std::io::stdout().write_all(text.as_bytes()).is_err() {
                return Ok(());
            }
            printed += 1;
        }
    }
    if total > 1 && !as_json {
        println!(
            "{total} domains: {} without refusals, {refused} with",
            total - refused
        );
    }
    if refused > 0 { Err(Exit::No) } else { Ok(()) }
}

impl CheckedDomain {
    /// For people, in colours where they are wanted.
    #[must_use]
    pub fn page(&self, colour: bool) -> String {
        let mut page = DomainPage {
            text: String::new(),
            colour,
        };
        let name = page.paint(BOLD, self.domain.as_str());
        page.put(&name);
        page.line(2, 9, "mx", &mx_words(&self.findings.mx));
        page.line(2, 9, "mta-sts", &sts_state(&self.findings.sts));
        for (host, probed) in &self.probed {
            let name = page.paint(BOLD, &clean(&host.name));
            page.put(&format!("\n  {} {name}", host.preference));
            page.line(4, 9, "tlsa", &tlsa_words(&host.tlsa));
            if let Some(words) = address_fault(&host.addresses) {
                page.line(4, 9, "address", &words);
            }
            if let Some(missing) = &host.missing {
                page.line(4, 9, "address", &missing.why);
            }
            for one in probed {
                page.put(&format!("    {}", one.address));
                page.shown(one);
                page.verdict(one);
            }
        }
        if let Some(decided) = &self.decided {
            page.put("");
            page.verdict(decided);
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

const BOLD: &str = "1";
const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";

/// What a terminal may be shown of a text, whoever wrote it.
fn clean(text: &str) -> String {
    printable(text, LONGEST_VALUE)
}

/// The page for one domain.
struct DomainPage {
    text: String,
    colour: bool,
}

impl DomainPage {
    fn paint(&self, code: &str, text: &str) -> String {
        match self.colour {
            true => format!("\x1b[{code}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }

    /// One line as it is.
    fn put(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    /// A key and what stands for it, which may come from anybody.
    fn line(&mut self, indent: usize, width: usize, key: &str, value: &str) {
        let value = clean(value);
        self.put(&format!("{:indent$}{key:<width$} {value}", ""));
    }

    /// What the address showed.
    fn shown(&mut self, one: &CheckedAddress) {
        if let Some(peer) = &one.peer {
            let facts = &peer.facts;
            let sni = facts.sni.as_deref().unwrap_or("-");
            let (version, suite, group) = (&facts.version, &facts.suite, &facts.group);
            self.line(
                6,
                11,
                "tls",
                &format!("{version} {suite} {group} sni={sni}"),
            );
            if let Some(leaf) = peer.leaf() {
                self.line(6, 11, "certificate", &leaf.names_in_words());
                let (from, to) = (leaf.not_before.day(), leaf.not_after.day());
                let words = format!("{from} to {to}, issued by {}", leaf.issuer);
                self.line(6, 11, "", &words);
            }
        }
        for heard in &one.heard {
            let how = if heard.unproved {
                "in the clear, unproved"
            } else {
                "inside TLS"
            };
            let words = format!("{}, {how}: \"{}\"", heard.stage, heard.text.as_str());
            self.line(6, 11, "heard", &words);
        }
        if one.cut_short {
            let words = "not long enough for its answer; mail waits some minutes for one";
            self.line(6, 11, "waited", words);
        }
    }

    fn verdict(&mut self, one: &CheckedAddress) {
        let said = &one.said;
        let level = said.level.as_deref().unwrap_or("-");
        let basis = said
            .rule
            .as_deref()
            .or(said.basis.as_deref())
            .unwrap_or("-");
        let until = said.until.as_deref().map(|day| format!(", until {day}"));
        let why = said.why.as_deref().map(|why| format!(", because: {why}"));
        let (until, why) = (until.unwrap_or_default(), why.unwrap_or_default());
        self.line(
            6,
            11,
            "level",
            &format!("{level}, from {basis}{until}{why}"),
        );
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
        if let Some(first) = &one.first {
            self.line(6, 11, "at first", first);
        }
        if let Some(reply) = &one.reply {
            self.line(6, 11, "mail gets", reply);
        }
    }
}

fn state(security: Security) -> &'static str {
    match security {
        Security::Secure => "DNSSEC",
        Security::Insecure => "unsigned",
    }
}

fn mx_words(mx: &Dns<Mx>) -> String {
    match mx {
        Dns::Found(Mx::Null, security) => {
            format!("null MX ({}): the domain accepts no mail", state(*security))
        }
        Dns::Found(Mx::Implicit(_), security) => {
            format!("none ({}): the domain itself is the host", state(*security))
        }
        Dns::Found(Mx::Hosts(hosts), security) => {
            let names: Vec<&str> = hosts.iter().map(|host| host.name.as_str()).collect();
            format!("{} ({})", names.join(", "), state(*security))
        }
        Dns::Absent(security) => format!("the domain does not exist ({})", state(*security)),
        Dns::Bogus(words) => format!("bogus: {words}"),
        Dns::Failed(words) => format!("look-up failed: {words}"),
        Dns::NotAsked => String::from("not asked"),
    }
}

fn tlsa_words(tlsa: &Dns<Vec<crate::policy::Tlsa>>) -> String {
    match tlsa {
        Dns::Found(records, security) => {
            let texts: Vec<String> = records
                .iter()
                .map(|r| {
                    format!(
                        "{} {} {} {}",
                        r.usage,
                        r.selector,
                        r.matching,
                        data_encoding::HEXLOWER.encode(&r.data)
                    )
                })
                .collect();
            format!("{} ({})", texts.join("; "), state(*security))
        }
        Dns::Absent(security) => format!("none ({})", state(*security)),
        Dns::Bogus(words) => format!("bogus: {words}"),
        Dns::Failed(words) => format!("look-up failed: {words}"),
        Dns::NotAsked => {
            String::from("not asked for (addresses are unsigned, or DANE is not in use)")
        }
    }
}

fn address_fault<T>(addresses: &Dns<T>) -> Option<String> {
    match addresses {
        Dns::Found(..) => None,
        Dns::Absent(_) => Some(String::from("none")),
        Dns::Bogus(words) => Some(format!("bogus: {words}")),
        Dns::Failed(words) => Some(format!("look-up failed: {words}")),
        Dns::NotAsked => Some(String::from("not asked")),
    }
}

fn sts_state(sts: &Sts) -> String {
    match sts {
        Sts::Policy {
            policy,
            id,
            age,
            refresh_failed,
        } => {
            let mut text = format!(
                "mode {:?}, mx {}, id {id}, fetched {age} s ago",
                policy.mode,
                policy.mx.join(" ")
            );
            text = text
                .replace("mode Enforce", "mode enforce")
                .replace("mode Testing", "mode testing")
                .replace("mode None", "mode none");
            if let Some((_, words)) = refresh_failed {
                let _ = write!(text, "; refresh failed: {words}");
            }
            text
        }
        Sts::Absent => String::from("none"),
        Sts::Unavailable(reason, words) => {
            format!("announced, but not to be had: {}: {words}", reason.word())
        }
        Sts::NotAsked => String::from("not asked"),
    }
}

/// One cached policy, for `policy show`.
pub(super) fn sts_words(entry: &StsEntry) -> String {
    let state = sts_state(&entry.sts);
    clean(&format!(
        "{}: {state}, expires in {} s",
        entry.domain, entry.expires_in
    ))
}
