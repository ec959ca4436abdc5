//! What `policy test` prints for one name: the line of the table that decides, else what decides in its place.

use std::{net::IpAddr, time::SystemTime};

use crate::{
    clock,
    exit::Exit,
    policy::{
        Ask, Level, NextHop, Prefix, Settings,
        table::{Entry, Key, Table, TablePurpose},
    },
    smtp::{Domain, Recipient},
};

/// The answer for `name`, without a line end. `purpose` is the direction of mail that the table's own keys tell, if they do.
///
/// # Errors
/// A table has no lines for such a name.
pub(super) fn deciding_line(
    table: &Table,
    purpose: Option<&TablePurpose>,
    settings: &Settings,
    name: &str,
) -> Result<String, Exit> {
    let now = clock::wall();
    // At this time no line is past its end date yet.
    let always = SystemTime::UNIX_EPOCH;
    let found = |found: Option<&Entry>, once: Option<&Entry>, otherwise: &str| {
        let mut words = match found {
            Some(entry) => with_place(entry),
            None => format!("no line of the table; {otherwise}"),
        };
        // A line that decided until lately is what the administrator looks for.
        let past = once.filter(|once| found.is_none_or(|found| found.line != once.line));
        if let Some(past) = past {
            words += &format!("; {}:{} is past its until= date", past.file, past.line);
        }
        format!("{name}: {words}")
    };
    let outbound = |next_hop, server, port| {
        let ask = Ask {
            next_hop,
            server,
            port,
        };
        let once = table.find(&ask, always);
        found(table.find(&ask, now), once, &outbound_default(settings))
    };
    let inbound = |sender: Option<&Domain>, client| {
        let otherwise = match sender {
            Some(_) => {
                "a line for the client's address would decide, else STARTTLS is demanded and no certificate"
            }
            None => "STARTTLS is demanded and no certificate, unless --exempt names it",
        };
        let entry = table.find_sender(sender, client, now);
        let once = table.find_sender(sender, client, always);
        let line = found(entry, once, otherwise);
        entry.map_or(line.clone(), |entry| {
            format!("{line}: {}", client_must(entry))
        })
    };
    // The recipient's domain has no line of its own, so the address decides.
    let destination =
        |address, port| outbound(NextHop::Recipient(Recipient::Postmaster), address, port);
    // A recipient's whole mailbox stands for its domain.
    let bare = match name.rsplit_once('@') {
        Some((mailbox, domain)) if !mailbox.is_empty() => domain,
        _ => name,
    };
    let key = match bare.parse::<IpAddr>() {
        Ok(address) => Ok(Key::Address(address.to_canonical(), None)),
        Err(_) => bare.strip_suffix('.').unwrap_or(bare).parse(),
    };
    let key: Key = key.map_err(|why| Exit::Usage(format!("policy test: {why}")))?;
    // The name is to decide alone. Only a line for 0.0.0.0/0 has this address, and such a line decides for every IPv4 address.
    let nobody = IpAddr::from([0, 0, 0, 0]);
    Ok(match key {
        // A table for incoming mail has no recipients, so that a name is a sender's.
        Key::Domain(domain) if purpose == Some(&TablePurpose::Inbound) => {
            inbound(Some(&domain), nobody)
        }
        Key::Domain(domain) => outbound(NextHop::Recipient(Recipient::Domain(domain)), nobody, 25),
        Key::Host(host, port) => outbound(
            NextHop::Upstream(host.to_string()),
            nobody,
            port.unwrap_or(25),
        ),
        Key::Sender(domain) => inbound(Some(&domain), nobody),
        Key::Address(address, None) => match purpose {
            Some(TablePurpose::Inbound) => inbound(None, address),
            Some(_) => destination(address, 25),
            None => format!(
                "{} [as a client, inbound]\n{} [as a server, outbound]",
                inbound(None, address),
                destination(address, 25)
            ),
        },
        Key::Address(address, Some(port)) => destination(address, port),
        Key::Prefix(prefix) => format!("{name}: {}", within(table, prefix)),
        Key::Below(_) | Key::SenderBelow(_) | Key::Any => {
            return Err(Exit::Usage(format!(
                "policy test: '{name}' is no name but a pattern; give a domain that it stands for"
            )));
        }
    })
}

/// What a line asks of a client of incoming mail.
fn client_must(entry: &Entry) -> &'static str {
    match entry.level {
        Level::None | Level::May => "mail in the clear passes",
        Level::Encrypt => "STARTTLS is demanded, and no certificate",
        _ => "STARTTLS is demanded, and the certificate that the line says",
    }
}

fn with_place(entry: &Entry) -> String {
    format!("{entry} ({}:{})", entry.file, entry.line)
}

/// The line that decides for a whole prefix, and the lines that decide for parts of it.
fn within(table: &Table, asked: Prefix) -> String {
    let now = clock::wall();
    let prefixes: Vec<(Prefix, &Entry)> = table
        .applying(now)
        .filter_map(|entry| match entry.key {
            Key::Prefix(prefix) => Some((prefix, entry)),
            Key::Address(address, _) => Some((address.into(), entry)),
            _ => None,
        })
        .collect();
    let whole = prefixes
        .iter()
        .filter(|(prefix, _)| prefix.covers(asked))
        .max_by_key(|(prefix, _)| prefix.length())
        .map_or_else(
            || String::from("no line of the table for all of it"),
            |(_, entry)| with_place(entry),
        );
    let parts: Vec<String> = prefixes
        .iter()
        .filter(|(prefix, _)| *prefix != asked && asked.covers(*prefix))
        .map(|(_, entry)| with_place(entry))
        .collect();
    match parts.is_empty() {
        true => whole,
        false => format!("{whole}; but within it: {}", parts.join("; ")),
    }
}

/// What decides outbound where the table has no line.
fn outbound_default(settings: &Settings) -> String {
    let mut words = String::new();
    if settings.dane {
        words += "DANE, where TLSA records are published, else ";
    }
    if settings.mta_sts {
        words += "MTA-STS, where a policy is published, else ";
    }
    let names = match settings.level {
        Level::Verify => " (names of the domain's MX hosts)",
        _ => "",
    };
    format!("{words}--level {}{names}", settings.level)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str, name: &str) -> String {
        let table = Table::parse("policy", text, &mut |_| Err("no file".into())).expect("a table");
        let purpose = TablePurpose::of(&table);
        deciding_line(&table, purpose.as_ref(), &Settings::default(), name).expect(name)
    }

    const INBOUND: &str = "@partner.example verify match=partner.example\n@.partner.example encrypt\n\
                           [198.51.100.7] encrypt\n198.51.100.0/24 none\n2001:db8::/32 none until=2020-01-01\n";

    #[test]
    fn senders_and_clients_are_found_as_inbound_finds_them() {
        for (name, words) in [
            ("@partner.example", "policy:1"),
            (
                "@partner.example",
                "STARTTLS is demanded, and the certificate that the line says",
            ),
            ("@Mail.Partner.Example", "policy:2"),
            // As MAIL FROM has it, and as people say it.
            ("nurse@partner.example", "policy:1"),
            ("mail.partner.example", "policy:2"),
            ("198.51.100.9", "mail in the clear passes"),
            (
                "@mail.partner.example",
                "STARTTLS is demanded, and no certificate",
            ),
            ("2001:db8::1", "policy:5 is past its until= date"),
            (
                "@other.example",
                "a line for the client's address would decide",
            ),
            ("198.51.100.7", "policy:3"),
            ("[198.51.100.7]", "policy:3"),
            ("::ffff:198.51.100.9", "policy:4"),
            ("198.51.100.0/25", "policy:4"),
            (
                "198.51.100.0/24",
                "but within it: [198.51.100.7] encrypt (policy:3)",
            ),
            ("2001:db8::1", "STARTTLS is demanded"),
            ("[IPv6:2001:db8::1]", "STARTTLS is demanded"),
            ("2001:db8::/48", "no line of the table for all of it"),
        ] {
            assert!(
                told(INBOUND, name).contains(words),
                "{}",
                told(INBOUND, name)
            );
        }
    }

    #[test]
    fn domains_hosts_and_destinations_are_found_as_outbound_finds_them() {
        let text = "clinic.example secure\n.example encrypt\n[relay.example]:587 verify\n[192.0.2.1]:26 may\n192.0.2.0/24 none\n* dane-only";
        for (name, words) in [
            ("clinic.example", "policy:1"),
            ("nurse@Clinic.Example.", "policy:1"),
            ("mx.clinic.example", "policy:2"),
            ("[relay.example]:587", "policy:3"),
            ("[relay.example]", "policy:2"),
            ("[192.0.2.1]:26", "policy:4"),
            ("192.0.2.1", "policy:5"),
            ("other.test", "policy:6"),
            ("198.51.100.1", "policy:6"),
            ("2001:db8::1", "policy:6"),
        ] {
            assert!(told(text, name).contains(words), "{}", told(text, name));
        }
        let both = told("192.0.2.0/24 none", "192.0.2.9");
        assert!(
            both.contains("inbound") && both.contains("outbound"),
            "{both}"
        );
    }

    #[test]
    fn a_line_that_no_longer_decides_is_named() {
        let text = "clinic.example none until=2020-01-01\n* dane-only\n";
        let words = told(text, "clinic.example");
        assert_eq!(
            words,
            "clinic.example: * dane-only (policy:2); policy:1 is past its until= date"
        );
    }

    #[test]
    fn what_is_no_name_is_wrong_usage() {
        let table = Table::default();
        for name in ["", "@", "a b", "*", ".example", "@.example", "192.0.2.1/24"] {
            assert!(
                deciding_line(&table, None, &Settings::default(), name).is_err(),
                "{name}"
            );
        }
    }
}
