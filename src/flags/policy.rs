//! The flags of `policy`.

use argh::{ArgsInfo, FromArgs};
use std::path::PathBuf;

/// Shows the policy table and cached MTA-STS policies.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "policy")]
pub struct PolicyFlags {
    /// what to do
    #[argh(subcommand)]
    pub verb: PolicyCommandFlags,
}

/// What to do with the policy.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand)]
pub enum PolicyCommandFlags {
    /// `policy test`
    Test(PolicyTestFlags),
    /// `policy show`
    Show(PolicyShowFlags),
    /// `policy purge`
    Purge(PolicyPurgeFlags),
    /// `policy suggest`
    Suggest(PolicySuggestFlags),
}

/// Prints the line of the table that decides for each NAME, and why. Asks no network.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "test")]
pub struct PolicyTestFlags {
    /// as for outbound
    #[argh(option, arg_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// as for outbound
    #[argh(option, arg_name = "encrypt|verify|secure|dane|dane-only|mta-sts")]
    pub level: Option<String>,
    /// recipient.domain, @sender.domain, \[relay\]:PORT, the address of a server or client, or a prefix
    #[argh(positional, arg_name = "NAME")]
    pub names: Vec<String>,
}

/// Prints the lines of the table, with a warning for each that nothing reaches, and the MTA-STS policies that are
/// cached. Exit code 1: a DOMAIN is not in the cache.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "show")]
pub struct PolicyShowFlags {
    /// as for outbound
    #[argh(option, arg_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// directory in which outbound keeps MTA-STS policies
    #[argh(option, arg_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// print only the cached policies of these domains (default: all)
    #[argh(positional, arg_name = "DOMAIN")]
    pub domains: Vec<String>,
}

/// Forgets cached MTA-STS policies. Exit code 1: a DOMAIN is not in the cache.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "purge")]
pub struct PolicyPurgeFlags {
    /// as for policy show
    #[argh(option, arg_name = "DIR")]
    pub state_dir: PathBuf,
    /// forget the policy of this domain
    #[argh(positional, arg_name = "DOMAIN")]
    pub domains: Vec<String>,
}

/// Prints whose mail would be refused by what an observing proxy recorded: for each partner how much, why, what to ask
/// the partner, and the line of the table that would let it pass. What is printed is itself a table; read it before
/// you copy from it.
#[derive(FromArgs, ArgsInfo, Debug, Default)]
#[argh(subcommand, name = "suggest")]
pub struct PolicySuggestFlags {
    /// last day of the printed lines (default: 30 days from today)
    #[argh(option, arg_name = "YYYY-MM-DD")]
    pub until: Option<String>,
    /// as for audit verify
    #[argh(positional, arg_name = "FILE")]
    pub files: Vec<PathBuf>,
}
