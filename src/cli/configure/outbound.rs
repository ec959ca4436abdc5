//! `outbound`: its flags and files.

use std::{path::PathBuf, sync::Arc, time::Duration};

use super::{
    CONNECT, Failure, Prepared, audit_of, client_options, configuration, descriptors,
    evidence_line, flags, hostname, listens, lookup_of, names, no_dane_lines, on, policy_line,
    settings, table_of, table_warnings, where_to, words_of, wrong,
};
use crate::{
    metrics::Metrics,
    net::Dial,
    serve::{Direction, limits::Limits},
    session::site::{Common, Outbound},
    tls::ClientTls,
    tlsrpt::Tlsrpt,
};

/// `starttls-proxy outbound`
///
/// # Errors
/// The first flag or file that is wrong.
pub fn outbound(flags: &flags::Outbound) -> Result<Prepared, Failure> {
    let upstream = where_to(flags.intercept.is_some(), flags.upstream.as_deref())?;
    if flags.client_cert.is_some() != flags.client_key.is_some() {
        return Err(Failure::Usage(
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
    settings.check(upstream.is_some()).map_err(Failure::Usage)?;
    let files = [
        &flags.policy,
        &flags.ca_file,
        &flags.client_cert,
        &flags.dnssec_anchor,
    ];
    let files: Vec<PathBuf> = files.into_iter().flatten().cloned().collect();
    let (table, policy) = table_of(flags.policy.as_deref(), &[])?;
    no_dane_lines(&table, flags.policy.as_deref(), &settings)?;
    let common = Common {
        hostname: hostname(flags.hostname.as_deref())?,
        configuration: configuration(&files)?,
        dial: Dial::new(flags.fwmark, CONNECT),
        intercept: flags.intercept,
        keep_client_address: flags.keep_client_address,
        observe: flags.observe,
        add_received: flags.add_received,
        listening: Arc::from([]),
        policy: policy.clone().map(Arc::new),
        audit: None,
        metrics: Arc::new(Metrics::default()),
    };
    let client_tls = ClientTls::new(&tls).map_err(wrong)?;
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
    let mut warnings = table_warnings(&table, flags.policy.as_deref());
    warnings.extend(descriptors(flags.max_sessions));
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
    let site = Outbound {
        common,
        upstream,
        settings,
        table,
        tls: Arc::new(client_tls),
        lookup,
        memory: Arc::default(),
        tlsrpt,
    };
    let policy_path = flags.policy.clone();
    let reload_files = files.clone();
    let reload = move |old: &Direction| {
        let Direction::Outbound(old) = old else {
            return Err(String::from("the direction cannot change"));
        };
        let (table, policy) = table_of(policy_path.as_deref(), &[]).map_err(words_of)?;
        no_dane_lines(&table, policy_path.as_deref(), &old.settings).map_err(words_of)?;
        let mut common = old.common.clone();
        common.policy = policy.map(Arc::new);
        common.configuration = configuration(&reload_files).map_err(words_of)?;
        Ok(Direction::Outbound(Arc::new(Outbound {
            common,
            upstream: old.upstream.clone(),
            settings: old.settings,
            table,
            tls: Arc::new(ClientTls::new(&tls)?),
            lookup: Arc::clone(&old.lookup),
            // Another table, other anchors: what was refused before may be right now.
            memory: Arc::default(),
            tlsrpt: old.tlsrpt.clone(),
        })))
    };
    Ok(Prepared {
        direction: Direction::Outbound(Arc::new(site)),
        listen: flags.listen.clone(),
        metrics: flags.metrics,
        audit,
        reload: Box::new(reload),
        files: names(&files),
        limits: Limits::new(flags.max_sessions, flags.max_sessions_per_client),
        drain_timeout: Duration::from_secs(flags.drain_timeout),
        relay_probe: None,
        warnings,
        summary,
    })
}
