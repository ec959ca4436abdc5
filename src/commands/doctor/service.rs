//! The services that are examined: those of the command line, of the units, or of the processes that run.

use std::{net::SocketAddr, path::PathBuf};

use argh::FromArgs as _;

use super::super::machine::{
    accounts::Account,
    processes::RunningProxy,
    units::{ProxyUnits, ServiceUnit},
};
use crate::{
    flags::{InboundFlags, OutboundFlags, split_values},
    net::Intercept,
};

/// The flags of one direction.
#[derive(Debug)]
pub(super) enum ServiceFlags {
    Outbound(Box<OutboundFlags>),
    Inbound(Box<InboundFlags>),
}

impl ServiceFlags {
    /// Reads a command line that begins with the direction.
    ///
    /// # Errors
    /// The parser's complaint.
    pub(super) fn parse(words: &[String]) -> Result<Self, String> {
        let words = split_values(words);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let Some((direction, rest)) = words.split_first() else {
            return Err("the command line is empty".into());
        };
        let name = ["starttls-proxy", direction];
        let read = match *direction {
            "outbound" => {
                OutboundFlags::from_args(&name, rest).map(|flags| Self::Outbound(Box::new(flags)))
            }
            "inbound" => {
                InboundFlags::from_args(&name, rest).map(|flags| Self::Inbound(Box::new(flags)))
            }
            other => return Err(format!("'{other}' is neither outbound nor inbound")),
        };
        read.map_err(|early| early.output.lines().next().unwrap_or_default().to_owned())
    }
}

/// A service, as it is meant to run and as it runs.
#[derive(Debug)]
pub(super) struct ProxyService {
    /// Its flags.
    pub(super) flags: ServiceFlags,
    /// The command line that they came from, beginning with the direction.
    pub(super) words: Vec<String>,
    /// The unit that starts it.
    pub(super) unit: Option<ServiceUnit>,
    /// The process.
    pub(super) process: Option<RunningProxy>,
}

/// A field that both directions have.
macro_rules! both {
    ($service:expr, $field:ident) => {
        match &$service.flags {
            ServiceFlags::Outbound(flags) => &flags.$field,
            ServiceFlags::Inbound(flags) => &flags.$field,
        }
    };
}

impl ProxyService {
    /// The service of this command line.
    ///
    /// # Errors
    /// What is wrong with the command line.
    pub(super) fn new(
        words: &[String],
        unit: Option<&ServiceUnit>,
        running: &[RunningProxy],
    ) -> Result<Self, String> {
        let flags = ServiceFlags::parse(words)?;
        let of_unit = |process: &&RunningProxy| {
            process.unit.is_some() && process.unit.as_deref() == unit.map(|unit| unit.name.as_str())
        };
        let alike = |process: &&RunningProxy| {
            process.unit.is_none() && process.arguments.first() == words.first()
        };
        let by_unit = running.iter().find(of_unit);
        let same = running.iter().find(|process| process.arguments == words);
        let process = by_unit.or(same).or_else(|| {
            let mut like = running.iter().filter(alike);
            // Of several without a unit, nothing says which one is meant.
            like.next().filter(|_| like.next().is_none())
        });
        Ok(Self {
            flags,
            words: words.to_vec(),
            unit: unit.cloned(),
            process: process.cloned(),
        })
    }

    pub(super) fn is_outbound(&self) -> bool {
        matches!(self.flags, ServiceFlags::Outbound(_))
    }

    pub(super) fn intercept(&self) -> Option<Intercept> {
        *both!(self, intercept)
    }

    pub(super) fn keeps_client_address(&self) -> bool {
        *both!(self, keep_client_address)
    }

    pub(super) fn marks(&self) -> bool {
        both!(self, fwmark).is_some()
    }

    pub(super) fn listen(&self) -> &[SocketAddr] {
        both!(self, listen)
    }

    pub(super) fn audit_log(&self) -> Option<&PathBuf> {
        both!(self, audit_log).as_ref()
    }

    pub(super) fn audit_key(&self) -> Option<&PathBuf> {
        both!(self, audit_key).as_ref()
    }

    /// The ports where it listens, by its flags or by systemd's socket.
    pub(super) fn ports(&self) -> Vec<u16> {
        let own: Vec<u16> = self.listen().iter().map(SocketAddr::port).collect();
        let sockets = self.unit.iter().flat_map(|unit| &unit.sockets);
        let sockets = sockets.filter_map(|text| text.rsplit(':').next()?.parse().ok());
        if own.is_empty() {
            sockets.collect()
        } else {
            own
        }
    }

    /// The user as whom it runs; `None` where that is not known.
    pub(super) fn account(&self) -> Option<Account> {
        let by_unit = || Account::named(self.unit.as_ref()?.user.as_deref()?);
        let process = self.process.as_ref();
        by_unit().or_else(|| Account::numbered(process?.uid))
    }

    /// The file in which its flags are changed, in words.
    pub(super) fn flags_place(&self) -> String {
        match &self.unit {
            None => "the command line that starts it".into(),
            Some(unit) => match &unit.environment_file {
                Some(file) => format!("FLAGS in {}", file.display()),
                None => format!("its ExecStart= line (systemctl edit {})", unit.name),
            },
        }
    }

    /// `systemctl VERB UNIT`, where there is a unit.
    pub(super) fn systemctl(&self, verb: &str) -> Option<String> {
        let unit = self.unit.as_ref()?;
        Some(format!("systemctl {verb} {}", unit.name))
    }
}

/// The services of a machine; those that cannot be read with their unit's name and the reason.
pub(super) fn installed(
    units: &ProxyUnits,
    running: &[RunningProxy],
) -> Vec<Result<ProxyService, (String, String)>> {
    let is_proxy = |unit: &&ServiceUnit| {
        let direction = unit.arguments.first().map(String::as_str);
        matches!(direction, Some("outbound" | "inbound"))
    };
    let is_used = |unit: &&ServiceUnit| {
        let runs = |process: &RunningProxy| process.unit.as_deref() == Some(unit.name.as_str());
        unit.is_enabled || !unit.sockets.is_empty() || running.iter().any(runs)
    };
    let used = units.0.iter().filter(is_proxy).filter(is_used);
    let mut services: Vec<_> = used
        .map(|unit| {
            ProxyService::new(&unit.arguments, Some(unit), running)
                .map_err(|words| (unit.name.clone(), words))
        })
        .collect();
    let stray = running.iter().filter(|process| {
        let known = |unit: &ServiceUnit| process.unit.as_deref() == Some(unit.name.as_str());
        !units.0.iter().any(known)
    });
    // A process that a unit's service took for its own is listed already.
    let taken: Vec<u32> = services
        .iter()
        .filter_map(|service| service.as_ref().ok()?.process.as_ref().map(|one| one.pid))
        .collect();
    for process in stray.filter(|process| !taken.contains(&process.pid)) {
        let service = ProxyService::new(&process.arguments, None, std::slice::from_ref(process));
        services.push(service.map_err(|words| (format!("process {}", process.pid), words)));
    }
    services
}
