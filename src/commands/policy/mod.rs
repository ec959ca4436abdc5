//! `policy test`, `policy show` and `policy purge`: which line of the table decides, and what is cached.

use std::path::Path;

mod deciding_line;

use super::{check, runtime};
use crate::{
    clock, configure,
    exit::Exit,
    flags::{PolicyPurgeFlags, PolicyShowFlags, PolicyTestFlags},
    lookup::Lookup,
    policy::{
        Settings,
        table::{Table, TablePurpose},
    },
    smtp::Domain,
    tls::Trust,
};
use deciding_line::deciding_line;

/// `policy test NAME...`: which line decides, and why. Asks no network.
///
/// # Errors
/// The table is wrong, or a name is none that a table speaks about.
pub fn test(flags: &PolicyTestFlags) -> Result<(), Exit> {
    if flags.names.is_empty() {
        return Err(Exit::Usage(
            "policy test: name a domain, @sender.domain, an address or a prefix\n\
             hint: starttls-proxy policy --help"
                .into(),
        ));
    }
    let settings = configure::settings(
        flags.level.as_deref(),
        None,
        false,
        false,
        false,
        Default::default(),
    )?;
    let (table, way) = table_and_way(flags.policy.as_deref(), &settings)?;
    let lines = flags
        .names
        .iter()
        .map(|name| deciding_line(&table, way.as_ref(), &settings, name))
        .collect::<Result<Vec<_>, _>>()?;
    println!("{}", lines.join("\n"));
    print_remarks(&table, way.as_ref());
    Ok(())
}

/// The table, held against the direction that its own keys tell; `None` where it speaks of addresses only.
fn table_and_way(
    path: Option<&Path>,
    settings: &Settings,
) -> Result<(Table, Option<TablePurpose>), Exit> {
    let way = TablePurpose::of(&configure::table_of(path, None, settings)?);
    let table = configure::table_of(path, way.as_ref(), settings)?;
    Ok((table, way))
}

fn print_remarks(table: &Table, way: Option<&TablePurpose>) {
    for remark in table.remarks(way.unwrap_or(&TablePurpose::Outbound), clock::wall()) {
        println!("warning: {remark}");
    }
}

fn cache(state_dir: &Path) -> Result<Lookup, Exit> {
    if !state_dir.is_dir() {
        return Err(Exit::Configuration(format!(
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

fn domains(names: &[String]) -> Result<Vec<Domain>, Exit> {
    let parse = |name: &String| {
        Domain::parse(name).ok_or_else(|| Exit::Usage(format!("'{name}' is no domain")))
    };
    names.iter().map(parse).collect()
}

/// `policy show [DOMAIN...]`: the lines of the table, and the MTA-STS policies in the cache.
///
/// # Errors
/// The table or the cache cannot be read; exit 1 if a named domain is not in the cache.
pub fn show(flags: &PolicyShowFlags) -> Result<(), Exit> {
    let wanted = domains(&flags.domains)?;
    if flags.policy.is_none() && flags.state_dir.is_none() {
        return Err(Exit::Usage(
            "policy show: nothing says what to show\n\
             hint: --policy FILE for the table, --state-dir DIR for cached MTA-STS policies"
                .into(),
        ));
    }
    if flags.policy.is_some() {
        let (table, way) = table_and_way(flags.policy.as_deref(), &Settings::default())?;
        for entry in table.entries() {
            println!("{}:{}: {entry}", entry.file, entry.line);
        }
        print_remarks(&table, way.as_ref());
    }
    let Some(state_dir) = &flags.state_dir else {
        return Ok(());
    };
    runtime()?.block_on(async {
        let cache = cache(state_dir)?;
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
            Err(Exit::No)
        } else {
            Ok(())
        }
    })
}

/// `policy purge DOMAIN...`: forgets cached policies.
///
/// # Errors
/// A file cannot be removed; exit 1 if a domain was not in the cache.
pub fn purge(flags: &PolicyPurgeFlags) -> Result<(), Exit> {
    if flags.domains.is_empty() {
        return Err(Exit::Usage("policy purge: name the domains".into()));
    }
    let wanted = domains(&flags.domains)?;
    runtime()?.block_on(async {
        let cache = cache(&flags.state_dir)?;
        let mut all = true;
        for domain in wanted {
            let was = cache.sts_purge(&domain).map_err(Exit::Configuration)?;
            println!(
                "{domain}: {}",
                if was { "forgotten" } else { "not in the cache" }
            );
            all &= was;
        }
        if all { Ok(()) } else { Err(Exit::No) }
    })
}
