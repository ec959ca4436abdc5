//! `outbound`: its flags and files.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::{
    CONNECT, Exit, PreparedProxy, Reading, audit_of, client_options, evidence_line, families,
    flags, hostname, listens, lookup_of, on, policy_line, resolvers_in_force, sessions, settings,
    table_in, warn, where_to, wrong,
};
use crate::{
    audit::PolicyField,
    clock,
    lookup::{Lookup, Renewal},
    metrics::Metrics,
    net::Dial,
    policy::{
        Settings,
        table::{Table, TablePurpose},
    },
    serve::{Direction, Reloaded, limits::Limits},
    session::{
        setup::{CommonSetup, OutboundSetup},
        write_budget::WriteBudget,
    },
    tls::{ClientOptions, ClientTls, Trust},
    tlsrpt::Tlsrpt,
};

/// `starttls-proxy outbound`
///
/// # Errors
/// The first flag or file that is wrong.
pub fn outbound(flags: &flags::OutboundFlags) -> Result<PreparedProxy, Exit> {
    let upstream = where_to(flags.intercept.is_some(), flags.upstream.as_deref())?;
    if flags.client_cert.is_some() != flags.client_key.is_some() {
        return Err(Exit::Usage(
            "--client-cert and --client-key go together".into(),
        ));
    }
    let tls = client_options(
        &flags.ca_file,
        &flags.client_cert,
        &flags.client_key,
        flags.min_tls.as_deref(),
    )?;
    let settings = settings(
        flags.level.as_deref(),
        flags.refuse_with.as_deref(),
        flags.no_dane,
        flags.no_mta_sts,
        flags.observe,
        tls.min_tls,
    )?;
    settings.check(upstream.is_some()).map_err(Exit::Usage)?;
    let way = upstream
        .as_ref()
        .map_or(TablePurpose::Intercepted, |upstream| {
            TablePurpose::Upstream(upstream.host.clone(), upstream.port)
        });
    let sources = Sources {
        way,
        settings,
        tls,
        policy: flags.policy.clone(),
        anchor: flags.dnssec_anchor.clone(),
        resolvers: resolvers_in_force(&flags.resolver),
    };
    let files = sources.files();
    let (reading, read) = Reading::steady(&files, |reading| sources.read(reading, None));
    let Some(Read {
        table,
        policy,
        tls: client_tls,
        ..
    }) = read
    else {
        return Err(wrong(reading.words()));
    };
    let common = CommonSetup {
        hostname: hostname(flags.hostname.as_deref())?,
        configuration: sources.configuration(&reading, &client_tls),
        dial: Dial::new(flags.fwmark, CONNECT),
        intercept: flags.intercept,
        keep_client_address: flags.keep_client_address,
        observe: flags.observe,
        add_received: flags.add_received,
        listening: Arc::from([]),
        policy: policy.clone().map(Arc::new),
        audit: None,
        metrics: Arc::new(Metrics::default()),
        write_budget: Arc::new(WriteBudget::unlimited()),
    };
    let lookup = Arc::new(lookup_of(
        &flags.resolver,
        settings.dane,
        flags.dnssec_anchor.as_ref(),
        flags.state_dir.as_ref(),
        flags.mta_sts_private,
        &client_tls.trust,
    )?);
    let tlsrpt = flags
        .tlsrpt_socket
        .as_deref()
        .map(|path| Tlsrpt::new(path).map(Arc::new))
        .transpose()
        .map_err(wrong)?;
    let mut warnings = table.remarks(&sources.way, clock::wall());
    warnings
        .extend(families::check(&common, upstream.as_ref(), false, &flags.listen).map_err(wrong)?);
    let (max_sessions, too_few) = sessions(flags.max_sessions);
    warnings.extend(too_few);
    let mut summary = vec![String::from("outbound: legacy mail server -> the world")];
    summary.extend(listens(
        &flags.listen,
        flags.intercept,
        flags.upstream.as_deref(),
    ));
    summary.push(format!(
        "level: {}{}{}",
        settings.level,
        on("dane", settings.dane),
        on("mta-sts", settings.mta_sts)
    ));
    summary.extend(policy.as_ref().map(policy_line));
    summary.push(evidence_line(flags.audit_log.as_deref()));
    if flags.observe {
        summary.push("observe: everything is judged and recorded, nothing is refused".into());
    }
    let audit = audit_of(
        flags.audit_log.as_ref(),
        flags.audit_key.as_ref(),
        flags.audit_addresses.as_deref(),
        &common.hostname,
        "outbound",
    )?;
    let site = OutboundSetup {
        common,
        upstream,
        settings,
        table,
        tls: Arc::new(client_tls),
        lookup,
        memory: Arc::default(),
        tlsrpt,
    };
    let in_force = Mutex::new(reading.digests());
    let reload = move |old: &Direction| {
        let Direction::Outbound(old) = old else {
            return Reloaded {
                outcome: Err(String::from("the direction cannot change")),
                files: Vec::new(),
            };
        };
        let files = sources.files();
        let (reading, read) = Reading::steady(&files, |reading| {
            sources.read(reading, Some(old.lookup.as_ref()))
        });
        let mut in_force = in_force.lock().unwrap_or_else(PoisonError::into_inner);
        let outcomes = reading.outcomes(&in_force);
        let outcome = read.ok_or_else(|| reading.words()).map(|read| {
            *in_force = reading.digests();
            warn(&read.table.remarks(&sources.way, clock::wall()));
            if let Some(renewal) = read.renewal {
                old.lookup.adopt(renewal);
            }
            let mut common = old.common.clone();
            common.policy = read.policy.map(Arc::new);
            common.configuration = sources.configuration(&reading, &read.tls);
            Direction::Outbound(Arc::new(OutboundSetup {
                common,
                upstream: old.upstream.clone(),
                settings: old.settings,
                table: read.table,
                tls: Arc::new(read.tls),
                lookup: Arc::clone(&old.lookup),
                // What failed under the old configuration may do under the new one.
                memory: Arc::default(),
                tlsrpt: old.tlsrpt.clone(),
            }))
        });
        Reloaded {
            outcome,
            files: outcomes,
        }
    };
    Ok(PreparedProxy {
        direction: Direction::Outbound(Arc::new(site)),
        listen: flags.listen.clone(),
        metrics: flags.metrics,
        audit,
        reload: Box::new(reload),
        limits: Limits::new(max_sessions, flags.max_sessions_per_client),
        drain_timeout: Duration::from_secs(flags.drain_timeout),
        relay_probe: None,
        warnings,
        summary,
    })
}

/// The files that say whom to trust, and how they are read.
struct Sources {
    way: TablePurpose,
    settings: Settings,
    tls: ClientOptions,
    policy: Option<PathBuf>,
    anchor: Option<PathBuf>,
    /// `/etc/resolv.conf` as it was at the start, where no `--resolver` is given: it is not read again.
    resolvers: String,
}

/// What they say.
struct Read {
    table: Table,
    policy: Option<PolicyField>,
    tls: ClientTls,
    /// At a reload.
    renewal: Option<Renewal>,
}

impl Sources {
    /// All that are named on the command line.
    fn files(&self) -> Vec<PathBuf> {
        let pair = self.tls.pair.iter().flat_map(|(cert, key)| [cert, key]);
        let one = [&self.policy, &self.tls.ca_file, &self.anchor];
        one.into_iter().flatten().chain(pair).cloned().collect()
    }

    /// Each is read, whatever is wrong with the others.
    fn read(&self, reading: &mut Reading, old: Option<&Lookup>) -> Option<Read> {
        let table = table_in(
            reading,
            self.policy.as_deref(),
            &self.way,
            &self.settings,
            &[],
        );
        let tls = reading.take(ClientTls::new(&self.tls));
        // The anchor is read whether or not the authorities can be.
        let roots = tls
            .as_ref()
            .map_or_else(|| Trust::in_nobody().anchors(), |tls| tls.trust.anchors());
        let renewal = old.map(|lookup| lookup.renewal(roots)).transpose();
        let renewal = reading.take(renewal);
        let (table, policy) = table?;
        Some(Read {
            table,
            policy,
            tls: tls?,
            renewal: renewal?,
        })
    }

    fn configuration(&self, reading: &Reading, tls: &ClientTls) -> Arc<str> {
        let keys: Vec<PathBuf> = self.tls.pair.iter().map(|(_, key)| key.clone()).collect();
        let also = [tls.trust.sha256(), self.resolvers.clone()];
        reading.configuration(&keys, &also).into()
    }
}
