//! `check DOMAIN...`: each mail exchanger, what it shows, what is demanded, and what mail would get, word for word.

use std::{
    fmt::Write as _,
    io::{IsTerminal as _, Write as _},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::probe::{Asker, Probed};
use crate::{
    cli::{Failure, configure, flags::Check, runtime},
    clock, files,
    lookup::{Lookup, Signatures, StsEntry, hosts},
    net::Dial,
    policy::{
        Ask, Dns, Findings, Mx, MxHost, Needs, NextHop, Security, Sts, Verdict, needs, table::Way,
    },
    session::records::entry,
    smtp::{Domain, Recipient},
    tls::ClientTls,
};

/// One connection attempt.
const CONNECT: Duration = Duration::from_secs(15);
/// Domains that are asked about at once.
const AT_ONCE: usize = 8;
/// Addresses of one domain that are asked; a domain with more has made its point.
const ADDRESSES: usize = 20;

/// What came of one domain.
struct Checked {
    domain: Domain,
    findings: Arc<Findings>,
    probed: Vec<(MxHost, Vec<Probed>)>,
    /// Decided without asking anybody: no host is left to ask.
    decided: Option<Probed>,
}

impl Checked {
    fn all(&self) -> impl Iterator<Item = &Probed> {
        self.probed
            .iter()
            .flat_map(|(_, probed)| probed)
            .chain(&self.decided)
    }

    /// Mail is refused where no address takes it; an MTA tries them all.
    fn refused(&self) -> bool {
        !self
            .all()
            .any(|probed| !matches!(probed.decision.verdict, Verdict::Refused(..)))
    }

    fn any_refused(&self) -> bool {
        self.all()
            .any(|probed| matches!(probed.decision.verdict, Verdict::Refused(..)))
    }
}

/// The command.
///
/// # Errors
/// Wrong flags or files; exit 1 if mail for any domain would be refused.
pub fn check(flags: &Check) -> Result<(), Failure> {
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
    settings.check(false).map_err(Failure::Usage)?;
    let table = configure::table_of(flags.policy.as_deref(), Some(&Way::Outbound), &settings)?;
    let tls = ClientTls::new(&options).map_err(Failure::Configuration)?;
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
        let asker = Asker {
            hostname,
            dial: Dial::new(None, CONNECT),
            tls,
            settings,
            table,
        };
        if let Signatures::CannotBeHad(words) = lookup.signatures().await {
            match flags.json {
                true => eprintln!("starttls-proxy: {words}"),
                false => println!("{words}"),
            }
        }
        run(domains, Arc::new(lookup), Arc::new(asker), flags.json).await
    })
}

fn domains(flags: &Check) -> Result<Vec<Domain>, Failure> {
    let mut names = flags.domains.clone();
    if let Some(path) = &flags.file {
        let text = files::text(path)
            .map_err(|error| Failure::Configuration(format!("{}: {error}", path.display())))?;
        let lines = text
            .lines()
            .map(|line| line.split('#').next().unwrap_or_default().trim());
        names.extend(lines.filter(|line| !line.is_empty()).map(str::to_owned));
    }
    if names.is_empty() {
        return Err(Failure::Usage(
            "check: name a domain\nhint: starttls-proxy check example.com".into(),
        ));
    }
    let parse = |name: &String| {
        let bare = name
            .rsplit_once('@')
            .map_or(name.as_str(), |(_, domain)| domain);
        Domain::parse(bare.strip_suffix('.').unwrap_or(bare)).ok_or_else(|| {
            Failure::Usage(format!(
                "check: '{name}' is no domain (write international names as xn--...)"
            ))
        })
    };
    names.iter().map(parse).collect()
}

async fn run(
    domains: Vec<Domain>,
    lookup: Arc<Lookup>,
    asker: Arc<Asker>,
    as_json: bool,
) -> Result<(), Failure> {
    let total = domains.len();
    let progress = total > 1 && std::io::stderr().is_terminal();
    let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let mut waiting = domains.into_iter().enumerate();
    let mut running = JoinSet::new();
    let mut done: Vec<Option<Checked>> = (0..total).map(|_| None).collect();
    let (mut printed, mut finished, mut refused) = (0, 0, 0);
    loop {
        while running.len() < AT_ONCE
            && let Some((index, domain)) = waiting.next()
        {
            let (lookup, asker) = (Arc::clone(&lookup), Arc::clone(&asker));
            running.spawn(async move { (index, one(domain, &lookup, &asker).await) });
        }
        let Some(joined) = running.join_next().await else {
            break;
        };
        let (index, checked) = joined
            .map_err(|error| Failure::Configuration(format!("a check broke off: {error}")))?;
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
                format!("{}\n", as_value(checked))
            } else {
                page(checked, colour)
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
    if refused > 0 {
        Err(Failure::No)
    } else {
        Ok(())
    }
}

async fn one(domain: Domain, lookup: &Lookup, asker: &Asker) -> Checked {
    // The hosts to ask are the MX hosts, whatever decides; what decides asks for more.
    let ask = |server| Ask {
        next_hop: NextHop::Recipient(Recipient::Domain(domain.clone())),
        server,
        port: 25,
    };
    let nowhere = ask([0, 0, 0, 0].into());
    let more = needs(
        &nowhere,
        asker.table.find(&nowhere, clock::wall()),
        &asker.settings,
    );
    let findings = Arc::new(lookup.gather(&domain, Needs { mx: true, ..more }).await);
    let mut probed = Vec::new();
    let mut left = ADDRESSES;
    if let Dns::Found(mx, _) = &findings.mx {
        for host in hosts(mx) {
            let mut of_host = Vec::new();
            if let Dns::Found(addresses, _) = &host.addresses {
                for address in addresses.iter().take(left) {
                    of_host.push(
                        asker
                            .ask(&domain, SocketAddr::new(*address, 25), &findings)
                            .await,
                    );
                }
                left = left.saturating_sub(addresses.len());
            }
            probed.push((host.clone(), of_host));
        }
    }
    let decided = match probed.iter().any(|(_, of_host)| !of_host.is_empty()) {
        true => None,
        false => Some(asker.decide_unasked(&domain, &findings)),
    };
    Checked {
        domain,
        findings,
        probed,
        decided,
    }
}

/// The page for one domain.
fn page(checked: &Checked, colour: bool) -> String {
    let paint = |code: &str, text: &str| {
        if colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    };
    let mut out = format!("{}\n", paint("1", checked.domain.as_str()));
    let mut line = |key: &str, value: &str| {
        let _ = writeln!(out, "  {key:<9} {value}");
    };
    line("mx", &mx_words(&checked.findings.mx));
    line("mta-sts", &sts_state(&checked.findings.sts));
    for (host, probed) in &checked.probed {
        let _ = writeln!(out, "\n  {} {}", host.preference, paint("1", &host.name));
        let _ = writeln!(out, "    {:<9} {}", "tlsa", tlsa_words(&host.tlsa));
        if let Some(words) = address_fault(&host.addresses) {
            let _ = writeln!(out, "    {:<9} {words}", "address");
        }
        if let Some(missing) = &host.missing {
            let _ = writeln!(out, "    {:<9} {}", "address", missing.why);
        }
        for one in probed {
            out.push_str(&probed_words(one, &paint));
        }
    }
    if let Some(decided) = &checked.decided {
        out.push('\n');
        out.push_str(&verdict_words(decided, &paint));
    }
    let outcome = match (checked.refused(), checked.any_refused()) {
        (false, false) => paint("32", "mail passes"),
        (false, true) => paint("33", "mail passes by some of the addresses only"),
        (true, _) => paint("31", "mail is refused"),
    };
    let _ = writeln!(out, "\n  {outcome}\n");
    out
}

type Paint<'a> = dyn Fn(&str, &str) -> String + 'a;

fn probed_words(one: &Probed, paint: &Paint<'_>) -> String {
    let mut out = format!("    {}\n", one.address);
    let mut line = |key: &str, value: &str| {
        let _ = writeln!(out, "      {key:<11} {value}");
    };
    if let Some(peer) = &one.peer {
        let facts = &peer.facts;
        line(
            "tls",
            &format!(
                "{} {} {} sni={}",
                facts.version,
                facts.suite,
                facts.group,
                facts.sni.as_deref().unwrap_or("-")
            ),
        );
        if let Some(leaf) = peer.leaf() {
            line("certificate", &leaf.names_in_words());
            line(
                "",
                &format!(
                    "{} to {}, issued by {}",
                    leaf.not_before.day(),
                    leaf.not_after.day(),
                    leaf.issuer
                ),
            );
        }
    }
    out.push_str(&verdict_words(one, paint));
    out
}

fn verdict_words(one: &Probed, paint: &Paint<'_>) -> String {
    let entry = entry(&one.decision);
    let level = entry.level.as_deref().unwrap_or("-");
    let basis = entry
        .rule
        .as_deref()
        .or(entry.basis.as_deref())
        .unwrap_or("-");
    let mut out = format!("      {:<11} {level}, from {basis}\n", "level");
    let (word, words) = match &one.decision.verdict {
        Verdict::Authorised(matched) => (paint("32", "authorised"), matched),
        Verdict::Unprotected(why) => (paint("33", "unprotected"), why),
        Verdict::Refused(reason, words) => {
            (paint("31", &format!("refused: {}", reason.word())), words)
        }
    };
    let _ = writeln!(out, "      {:<11} {word}: {words}", "verdict");
    if let Some(refusal) = &one.decision.refusal {
        let _ = writeln!(out, "      {:<11} {refusal}", "mail gets");
    }
    out
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
                        crate::audit::hex(&r.data)
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
    format!(
        "{}: {}, expires in {} s",
        entry.domain,
        sts_state(&entry.sts),
        entry.expires_in
    )
}

fn as_value(checked: &Checked) -> Value {
    let probed = |one: &Probed, host: Option<&str>| {
        let entry = entry(&one.decision);
        json!({
            "host": host,
            "address": one.address,
            "unreachable": one.unreachable,
            "peer": one.peer,
            "verdict": entry.verdict,
            "level": entry.level,
            "basis": entry.basis,
            "rule": entry.rule,
            "reason": entry.reason,
            "detail": entry.detail,
            "reply": one.decision.refusal.as_ref().map(ToString::to_string),
        })
    };
    let hosts = checked
        .probed
        .iter()
        .flat_map(|(host, of_host)| of_host.iter().map(|one| (one, Some(host.name.as_str()))));
    let decided = checked.decided.iter().map(|one| (one, None));
    json!({
        "domain": checked.domain.as_str(),
        "refused": checked.refused(),
        "any_refused": checked.any_refused(),
        "findings": *checked.findings,
        "addresses": hosts.chain(decided).map(|(one, host)| probed(one, host)).collect::<Vec<_>>(),
    })
}
