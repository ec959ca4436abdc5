//! `policy test`, `policy show`, `policy purge` and `policy suggest`: which line of the table decides, which MTA-STS policies are
//! cached, and which lines the table would need.

mod deciding_line;
mod suggest;

use std::path::Path;

use self::deciding_line::deciding_line;
use super::{check::cached_policy_words, runtime};
use crate::{
    clock, configure,
    exit::Exit,
    flags::{PolicyPurgeFlags, PolicyShowFlags, PolicySuggestFlags, PolicyTestFlags},
    lookup::Lookup,
    policy::{
        Settings,
        table::{Table, TablePurpose},
    },
    smtp::Domain,
    tls::Trust,
};

/// `policy test NAME...`: prints the line that decides for each name. Asks no network.
///
/// # Errors
/// The table is wrong, or a table has no lines for such a name.
pub(crate) fn test(flags: &PolicyTestFlags) -> Result<(), Exit> {
    if flags.names.is_empty() {
        return Err(Exit::Usage(
            "policy test: name a domain, @sender.domain, an address or a prefix\n\
             hint: starttls-proxy policy --help"
                .into(),
        ));
    }
    let level = flags.level.as_deref();
    let settings = configure::settings(level, None, false, false, false, Default::default())?;
    let (table, purpose) = table_and_purpose(flags.policy.as_deref(), &settings)?;
    let lines = flags
        .names
        .iter()
        .map(|name| deciding_line(&table, purpose.as_ref(), &settings, name))
        .collect::<Result<Vec<_>, _>>()?;
    println!("{}", lines.join("\n"));
    print_remarks(&table, purpose.as_ref());
    Ok(())
}

/// The table, checked for the direction of mail that its own keys tell. `None`: its keys are addresses, which tell none.
fn table_and_purpose(
    path: Option<&Path>,
    settings: &Settings,
) -> Result<(Table, Option<TablePurpose>), Exit> {
    let purpose = TablePurpose::of(&configure::table_of(path, None, settings)?);
    let table = configure::table_of(path, purpose.as_ref(), settings)?;
    Ok((table, purpose))
}

fn print_remarks(table: &Table, purpose: Option<&TablePurpose>) {
    for remark in table.remarks(purpose.unwrap_or(&TablePurpose::Outbound), clock::wall()) {
        println!("warning: {remark}");
    }
}

/// Opens the cache of MTA-STS policies.
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

/// `policy show [DOMAIN...]`: prints the lines of the table and the MTA-STS policies in the cache.
///
/// # Errors
/// The table or the cache cannot be read; exit 1 if a named domain is not in the cache.
pub(crate) fn show(flags: &PolicyShowFlags) -> Result<(), Exit> {
    let wanted = domains(&flags.domains)?;
    if flags.policy.is_none() && flags.state_dir.is_none() {
        return Err(Exit::Usage(
            "policy show: nothing says what to show\n\
             hint: --policy FILE for the table, --state-dir DIR for cached MTA-STS policies"
                .into(),
        ));
    }
    if flags.policy.is_some() {
        let (table, purpose) = table_and_purpose(flags.policy.as_deref(), &Settings::default())?;
        for entry in table.entries() {
            println!("{}:{}: {entry}", entry.file, entry.line);
        }
        print_remarks(&table, purpose.as_ref());
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
            println!("{}", cached_policy_words(entry));
        }
        match shown.len() < wanted.len() {
            true => Err(Exit::No),
            false => Ok(()),
        }
    })
}

/// `policy suggest FILE...`: prints what an observing proxy would have refused, and the lines that would let it pass.
///
/// # Errors
/// Wrong usage, or a file cannot be read; exit 1 if a line is no record.
pub(crate) fn suggest(flags: &PolicySuggestFlags) -> Result<(), Exit> {
    let (mut out, mut errors) = (std::io::stdout().lock(), std::io::stderr().lock());
    suggest::suggest(flags, &mut out, &mut errors)
}

/// `policy purge DOMAIN...`: removes cached MTA-STS policies.
///
/// # Errors
/// A file cannot be removed; exit 1 if a domain was not in the cache.
pub(crate) fn purge(flags: &PolicyPurgeFlags) -> Result<(), Exit> {
    if flags.domains.is_empty() {
        return Err(Exit::Usage("policy purge: name the domains".into()));
    }
    let wanted = domains(&flags.domains)?;
    runtime()?.block_on(async {
        let cache = cache(&flags.state_dir)?;
        let mut all = true;
        for domain in wanted {
            let was = cache.sts_purge(&domain).map_err(Exit::Configuration)?;
            let words = match was {
                true => "forgotten",
                false => "not in the cache",
            };
            println!("{domain}: {words}");
            all &= was;
        }
        if all { Ok(()) } else { Err(Exit::No) }
    })
}
