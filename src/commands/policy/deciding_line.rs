//! What `policy test` prints for one name: the line of the table that decides, else what comes next.

use std::net::IpAddr;

use crate::{
    clock,
    exit::Exit,
    policy::{
        Ask, Level, NextHop, Prefix, Settings,
        table::{Entry, Key, Table, TablePurpose},
    },
    smtp::{Domain, Recipient},
};

/// `way`: what the table is for, where its keys tell.
///
/// # Errors
/// The name is none that a table speaks about.
pub(super) fn deciding_line(
    table: &Table,
    way: Option<&TablePurpose>,
    settings: &Settings,
    name: &str,
) -> Result<String, Exit> {
    let now = clock::wall();
    let found = |found: Option<&Entry>, otherwise: String| match found {
        Some(entry) => {
            format!("{name}: {entry} ({}:{})", entry.file, entry.line)
        }
        None => format!("{name}: no line of the table; {otherwise}"),
    };
    let outbound = |next_hop, server, port| {
        let ask = Ask {
            next_hop,
            server,
            port,
        };
        found(table.find(&ask, now), outbound_default(settings))
    };
    let inbound = |sender: Option<&Domain>, client| {
        let otherwise = match sender {
            Some(_) => {
                "a line for the client's address would decide, else STARTTLS is demanded and no certificate"
            }
            None => "STARTTLS is demanded and no certificate, unless --exempt names it",
        };
        found(table.find_sender(sender, client, now), otherwise.into())
    };
    // For a recipient whose domain has no line of its own.
    let destination =
        |address, port| outbound(NextHop::Recipient(Recipient::Postmaster), address, port);
    // As a recipient's mailbox is written, too.
    let bare = match name.rsplit_once('@') {
        Some((mailbox, domain)) if !mailbox.is_empty() => domain,
        _ => name,
    };
    let key = match bare.parse::<IpAddr>() {
        Ok(address) => Ok(Key::Address(address.to_canonical(), None)),
        Err(_) => bare.strip_suffix('.').unwrap_or(bare).parse(),
    };
    let key: Key = key.map_err(|why| Exit::Usage(format!("policy test: {why}")))?;
    // Only 0.0.0.0/0 holds it, and speaks for all addresses of IPv4; else only the name decides.
    let nobody = IpAddr::from([0, 0, 0, 0]);
    Ok(match key {
        Key::Domain(domain) => outbound(NextHop::Recipient(Recipient::Domain(domain)), nobody, 25),
        Key::Host(host, port) => outbound(
            NextHop::Upstream(host.to_string()),
            nobody,
            port.unwrap_or(25),
        ),
        Key::Sender(domain) => inbound(Some(&domain), nobody),
        Key::Address(address, None) => match way {
            Some(TablePurpose::Inbound) => inbound(None, address),
            Some(_) => destination(address, 25),
            None => format!(
                "{}\n{}",
                labelled("as a client, inbound", inbound(None, address)),
                labelled("as a server, outbound", destination(address, 25))
            ),
        },
        Key::Address(address, Some(port)) => destination(address, port),
        Key::Prefix(prefix) => within(table, prefix, name),
        Key::Below(_) | Key::SenderBelow(_) | Key::Any => {
            return Err(Exit::Usage(format!(
                "policy test: '{name}' is no name but a pattern; give a domain that it stands for"
            )));
        }
    })
}

fn labelled(as_what: &str, line: String) -> String {
    format!("{line} [{as_what}]")
}

/// The line that speaks for a whole prefix, and those that speak for parts of it.
fn within(table: &Table, asked: Prefix, name: &str) -> String {
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
        .max_by_key(|(prefix, _)| prefix.length());
    let parts: Vec<String> = prefixes
        .iter()
        .filter(|(prefix, _)| *prefix != asked && asked.covers(*prefix))
        .map(|(_, entry)| format!("{} ({}:{})", entry, entry.file, entry.line))
        .collect();
    let whole = match whole {
        Some((_, entry)) => format!("{entry} ({}:{})", entry.file, entry.line),
        None => String::from("no line of the table for all of it"),
    };
    if parts.is_empty() {
        format!("{name}: {whole}")
    } else {
        format!("{name}: {whole}; but within it: {}", parts.join("; "))
    }
}

fn outbound_default(settings: &Settings) -> String {
    let mut layers = Vec::new();
    if settings.dane {
        layers.push("DANE, where TLSA records are published");
    }
    if settings.mta_sts {
        layers.push("MTA-STS, where a policy is published");
    }
    let level = settings.level;
    let names = if level == Level::Verify {
        " (names of the domain's MX hosts)"
    } else {
        ""
    };
    let first = if layers.is_empty() {
        String::new()
    } else {
        format!("{}, else ", layers.join(", else "))
    };
    format!("{first}--level {level}{names}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str, name: &str) -> String {
        let table = Table::parse("policy", text, &mut |_| Err("no file".into())).expect("a table");
        let way = TablePurpose::of(&table);
        deciding_line(&table, way.as_ref(), &Settings::default(), name).expect(name)
    }

    const INBOUND: &str = "@partner.example verify match=partner.example\n@.partner.example encrypt\n\
                           [198.51.100.7] encrypt\n198.51.100.0/24 none\n2001:db8::/32 none until=2020-01-01\n";

    #[test]
    fn senders_and_clients_are_found_as_inbound_finds_them() {
        for (name, words) in [
            ("@partner.example", "policy:1"),
            ("@Mail.Partner.Example", "policy:2"),
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
