//! Prints for people, in the same words as replies, log and records: what mail for a domain would get, which line of the
//! table decides, what is cached.

mod check;
mod probe;

pub use check::{Checked, check};
pub use probe::{Asker, Heard, Probed};

use std::{net::IpAddr, path::Path};

use crate::{
    cli::{
        Failure, configure,
        flags::{PolicyPurge, PolicyShow, PolicyTest},
        runtime,
    },
    clock,
    lookup::Lookup,
    policy::{Ask, Level, NextHop, Settings, table::Table},
    smtp::{Domain, Recipient},
    tls::Trust,
};

/// `policy test DOMAIN|ADDRESS...`: which line decides, and why. Asks no network.
///
/// # Errors
/// The table is wrong, or a name is neither domain nor address.
pub fn policy_test(flags: &PolicyTest) -> Result<(), Failure> {
    if flags.names.is_empty() {
        return Err(Failure::Usage(
            "policy test: name a domain or an address\nhint: starttls-proxy policy --help".into(),
        ));
    }
    let (table, _) = configure::table_of(flags.policy.as_deref(), &[])?;
    let settings = configure::settings(
        flags.level.as_deref(),
        None,
        false,
        false,
        false,
        Default::default(),
    )?;
    let file = flags
        .policy
        .as_deref()
        .map(Path::display)
        .map(|path| path.to_string())
        .unwrap_or_default();
    for name in &flags.names {
        println!("{}", deciding_line(&table, &file, &settings, name)?);
    }
    Ok(())
}

/// What [`policy_test`] prints for one name.
fn deciding_line(
    table: &Table,
    file: &str,
    settings: &Settings,
    name: &str,
) -> Result<String, Failure> {
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    let (next_hop, server) = match (
        bare.parse::<IpAddr>(),
        Domain::parse(name.trim_start_matches('@')),
    ) {
        (Ok(ip), _) => (NextHop::Address, ip),
        // No entry for an address can hold 0.0.0.0, so only the name decides.
        (Err(_), Some(domain)) => (
            NextHop::Recipient(Recipient::Domain(domain)),
            IpAddr::from([0, 0, 0, 0]),
        ),
        (Err(_), None) => {
            return Err(Failure::Usage(format!(
                "policy test: '{name}' is neither a domain nor an address"
            )));
        }
    };
    let now = clock::wall();
    let ask = Ask {
        next_hop,
        server,
        port: 25,
    };
    Ok(match table.find(&ask, now) {
        Some(entry) => format!("{name}: {entry} ({file}:{})", entry.line),
        None => {
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
            format!("{name}: no line of the table; {first}--level {level}{names}")
        }
    })
}

fn cache(state_dir: &Path) -> Result<Lookup, Failure> {
    if !state_dir.is_dir() {
        return Err(Failure::Configuration(format!(
            "{}: no such directory",
            state_dir.display()
        )));
    }
    configure::lookup_of(
        &[],
        false,
        None,
        Some(&state_dir.to_path_buf()),
        false,
        &Trust::in_nobody(),
    )
}

fn domains(names: &[String]) -> Result<Vec<Domain>, Failure> {
    let parse = |name: &String| {
        Domain::parse(name).ok_or_else(|| Failure::Usage(format!("'{name}' is no domain")))
    };
    names.iter().map(parse).collect()
}

/// `policy show [DOMAIN...]`: the MTA-STS policies in the cache.
///
/// # Errors
/// The cache cannot be read; exit 1 if a named domain is not in it.
pub fn policy_show(flags: &PolicyShow) -> Result<(), Failure> {
    let wanted = domains(&flags.domains)?;
    runtime()?.block_on(async {
        let cache = cache(&flags.state_dir)?;
        let entries = cache.sts_list();
        let shown: Vec<_> = entries
            .iter()
            .filter(|entry| {
                wanted.is_empty() || wanted.iter().any(|domain| domain.as_str() == entry.domain)
            })
            .collect();
        for entry in &shown {
            println!("{}", check::sts_words(entry));
        }
        if shown.len() < wanted.len() {
            Err(Failure::No)
        } else {
            Ok(())
        }
    })
}

/// `policy purge DOMAIN...`: forgets cached policies.
///
/// # Errors
/// A file cannot be removed; exit 1 if a domain was not in the cache.
pub fn policy_purge(flags: &PolicyPurge) -> Result<(), Failure> {
    if flags.domains.is_empty() {
        return Err(Failure::Usage("policy purge: name the domains".into()));
    }
    let wanted = domains(&flags.domains)?;
    runtime()?.block_on(async {
        let cache = cache(&flags.state_dir)?;
        let mut all = true;
        for domain in wanted {
            let was = cache.sts_purge(&domain).map_err(Failure::Configuration)?;
            println!(
                "{domain}: {}",
                if was { "forgotten" } else { "not in the cache" }
            );
            all &= was;
        }
        if all { Ok(()) } else { Err(Failure::No) }
    })
}
