//! What the proxy needs of the machine: the time, somebody who answers questions, and authorities to trust.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
};

use super::{
    super::machine::{interfaces::interfaces, programs},
    finding::MachineFinding,
    service::ProxyService,
};
use crate::{
    configure,
    flags::OutboundFlags,
    lookup::{DnssecSupport, Lookup},
    tls::{ClientTls, Trust},
};

/// What stands around the words about resolvers where none answers.
const UNKNOWN: (&str, &str) = (
    "whether DNSSEC signatures can be had is not known yet: ",
    "; mail waits until a resolver answers",
);
/// systemd-timesyncd makes this file once it has heard from a server (systemd-time-wait-sync.service(8)).
const SYNCHRONISED: &str = "/run/systemd/timesync/synchronized";

/// Whether something keeps the clock right. Certificates and signatures are compared with it.
pub(super) fn clock() -> MachineFinding {
    const CHECK: &str = "clock";
    if Path::new(SYNCHRONISED).exists() {
        return MachineFinding::ok(CHECK, "synchronised by systemd-timesyncd");
    }
    let told = programs::output(
        "timedatectl",
        &["show", "--property=NTPSynchronized", "--value"],
    );
    match told.as_deref().map(str::trim) {
        Ok("yes") => return MachineFinding::ok(CHECK, "synchronised, as timedatectl says"),
        Ok("no") => {
            let words = "the clock is not synchronised; certificates and DNSSEC signatures are compared with it";
            return MachineFinding::warn(CHECK, words)
                .run("apt install systemd-timesyncd")
                .run("timedatectl set-ntp true");
        }
        _ => {}
    }
    // `Leap status     : Normal`; `Not synchronised` before it has a source.
    if let Ok(told) = programs::output("chronyc", &["-n", "tracking"]) {
        return match told.contains("Not synchronised") {
            false => MachineFinding::ok(CHECK, "synchronised by chrony"),
            true => MachineFinding::warn(CHECK, "chrony runs and has no source to follow")
                .run("chronyc -n sources"),
        };
    }
    let words = "nothing here says that the clock is synchronised; certificates and DNSSEC signatures are compared with it";
    MachineFinding::warn(CHECK, words)
        .run("apt install systemd-timesyncd")
        .advise("if something else sets the clock, such as the host of a virtual machine, compare date -u with a clock that you trust")
}

/// Outbound: whether the authorities can be read, and how many there are.
pub(super) fn trust_store(flags: &OutboundFlags) -> MachineFinding {
    const CHECK: &str = "trust store";
    let options = configure::client_options(&flags.ca_file, &None, &None, None);
    let tls = options
        .map_err(|error| error.to_string())
        .and_then(|options| ClientTls::new(&options));
    let place = match &flags.ca_file {
        Some(file) => file.display().to_string(),
        None => "the system's trust store".into(),
    };
    match tls.map(|tls| tls.trust.anchors().len()) {
        Ok(0) => broken_store(
            CHECK,
            flags,
            format!("{place} has no authority, so that no certificate is good"),
        ),
        Ok(1) => MachineFinding::ok(CHECK, format!("{place} has 1 authority")),
        Ok(count) => MachineFinding::ok(CHECK, format!("{place} has {count} authorities")),
        Err(words) => broken_store(CHECK, flags, words),
    }
}

fn broken_store(check: &'static str, flags: &OutboundFlags, words: String) -> MachineFinding {
    let finding = MachineFinding::fail(check, words);
    match &flags.ca_file {
        Some(file) => finding.advise(format!(
            "put the authorities' certificates into {}, in PEM, or leave --ca-file out",
            file.display()
        )),
        None => finding
            .run("apt install --reinstall ca-certificates")
            .run("update-ca-certificates --fresh"),
    }
}

/// Outbound: whether the resolvers answer, and with signatures.
pub(super) async fn resolver(service: &ProxyService, flags: &OutboundFlags) -> MachineFinding {
    const CHECK: &str = "resolver";
    let place = service.flags_place();
    let with = |resolvers: &[SocketAddr]| {
        let anchor = flags.dnssec_anchor.as_ref();
        configure::lookup_of(resolvers, true, anchor, None, false, &Trust::in_nobody())
    };
    let lookup: Lookup = match with(&flags.resolver) {
        Ok(lookup) => lookup,
        Err(error) => {
            return MachineFinding::fail(CHECK, error.to_string())
                .advise(format!("or write --resolver ADDRESS into {place}"));
        }
    };
    match lookup.dnssec_support().await {
        DnssecSupport::Available { words, faults } if faults.is_empty() => MachineFinding::ok(CHECK, words),
        DnssecSupport::Available { faults, .. } => {
            MachineFinding::warn(CHECK, format!("some resolvers only cost time: {}", faults.join("; ")))
                .advise(format!("leave them out of /etc/resolv.conf, or of --resolver in {place}"))
        }
        DnssecSupport::Missing(_) if flags.no_dane => MachineFinding::warn(
            CHECK,
            "the resolvers answer without DNSSEC signatures, so that --no-dane is needed and DANE is off",
        )
        .advise(format!("better name a resolver that gives them: --resolver ADDRESS in {place}")),
        DnssecSupport::Missing(words) => MachineFinding::fail(CHECK, words)
            .advise(format!("the flags are in {place}")),
        DnssecSupport::Off => MachineFinding::ok(CHECK, "DNSSEC is off"),
        DnssecSupport::Unknown(words) => {
            let words = words.trim_start_matches(UNKNOWN.0).trim_end_matches(UNKNOWN.1);
            let finding = MachineFinding::fail(CHECK, format!("no resolver answers, so that all mail waits: {words}"));
            let mut near: Vec<IpAddr> = vec![[127, 0, 0, 1].into(), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])];
            let own = interfaces().into_iter().flat_map(|one| one.addresses);
            near.extend(own.filter_map(|own| own.split('/').next()?.parse::<IpAddr>().ok()));
            for address in near {
                let Ok(other) = with(&[SocketAddr::new(address, 53)]) else {
                    continue;
                };
                if let DnssecSupport::Available { .. } = other.dnssec_support().await {
                    return finding.advise(format!(
                        "a resolver on this machine answers: write --resolver {address} into {place}"
                    ));
                }
            }
            finding.advise(format!(
                "name a resolver that answers: --resolver ADDRESS in {place}, or a nameserver line in /etc/resolv.conf"
            ))
        }
    }
}
