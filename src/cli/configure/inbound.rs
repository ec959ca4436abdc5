//! `inbound`: its flags and files.

use std::{path::PathBuf, sync::Arc, time::Duration};

use super::{
    CONNECT, Failure, Prepared, audit_of, configuration, descriptors, evidence_line, flags,
    hostname, listens, lookup_of, names, parsed, policy_line, table_of, table_warnings, where_to,
    words_of, wrong,
};
use crate::{
    clock,
    metrics::Metrics,
    net::Dial,
    policy::Settings,
    serve::{self, Direction, limits::Limits},
    session::{
        networks::TriedNetworks,
        site::{Common, Inbound},
    },
    tls::{ClientAuth, MinTls, Pair, ServerOptions, ServerTls, Trust},
};

/// `starttls-proxy inbound`
///
/// # Errors
/// The first flag or file that is wrong.
pub fn inbound(flags: &flags::Inbound) -> Result<Prepared, Failure> {
    let upstream = where_to(flags.intercept.is_some(), flags.upstream.as_deref())?;
    if upstream
        .as_ref()
        .is_some_and(|upstream| upstream.implicit_tls)
    {
        return Err(Failure::Usage(
            "--upstream: the inside server is spoken to in the clear, smtps:// is for outbound"
                .into(),
        ));
    }
    let ways = usize::from(flags.keep_client_address) + usize::from(flags.send_proxy.is_some());
    if ways + usize::from(flags.hide_client_address) != 1 {
        let words = if ways == 0 {
            "the inside server would see every client as this proxy, and relay for all the world if it trusts this address\n\
             hint: give --keep-client-address or --send-proxy v1|v2; --hide-client-address if it is meant"
        } else {
            "give one of --keep-client-address, --send-proxy and --hide-client-address"
        };
        return Err(Failure::Usage(words.into()));
    }
    let options = server_options(flags)?;
    let files = [&flags.policy, &flags.client_ca]
        .into_iter()
        .flatten()
        .chain(&flags.cert)
        .chain(&flags.ocsp);
    let files: Vec<PathBuf> = files.cloned().collect();
    let exempt: Vec<String> = flags.exempt.iter().map(ToString::to_string).collect();
    let (table, policy) = table_of(flags.policy.as_deref(), &exempt)?;
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
    let tls = ServerTls::new(&options).map_err(wrong)?;
    let mut warnings = table_warnings(&table, flags.policy.as_deref());
    warnings.extend(descriptors(flags.max_sessions));
    warnings.extend(tls.expires_within(serve::EXPIRY_WARNING, clock::wall()));
    // Only the inside server's name is looked up: nobody is trusted for anything.
    let lookup = Arc::new(lookup_of(
        &[],
        false,
        None,
        None,
        false,
        &Trust::in_nobody(),
    )?);
    let mut summary = vec![String::from(
        "inbound: the world -> legacy mail server; STARTTLS is demanded (unlike RFC 3207 §4 asks of a public MX)",
    )];
    summary.extend(listens(
        &flags.listen,
        flags.intercept,
        flags.upstream.as_deref(),
    ));
    summary.extend(tls.own_certificates().map(|(file, own)| {
        format!(
            "certificate: {}: {} until {}",
            file.display(),
            own.names_in_words(),
            own.not_after.day()
        )
    }));
    summary.extend(policy.as_ref().map(policy_line));
    summary.push(evidence_line(flags.audit_log.as_deref()));
    if flags.observe {
        summary.push("observe: STARTTLS is offered, plaintext passes and is recorded".into());
    }
    let audit = audit_of(
        flags.audit_log.as_ref(),
        flags.audit_key.as_ref(),
        flags.audit_addresses.as_deref(),
        &common.hostname,
        "inbound",
    )?;
    let site = Inbound {
        common,
        upstream,
        settings: Settings {
            observe: flags.observe,
            ..Settings::default()
        },
        table,
        tls: Some(tls),
        lookup,
        send_proxy: flags.send_proxy,
        accept_proxy: flags.accept_proxy.clone(),
        exempt: flags.exempt.clone(),
        handshakes: Arc::new(tokio::sync::Semaphore::new(
            flags.max_handshakes.clamp(1, 100_000),
        )),
        tried: Arc::new(TriedNetworks::new(clock::instant())),
    };
    let policy_path = flags.policy.clone();
    let reload_files = files.clone();
    let reload = move |old: &Direction| {
        let Direction::Inbound(old) = old else {
            return Err(String::from("the direction cannot change"));
        };
        let (table, policy) = table_of(policy_path.as_deref(), &exempt).map_err(words_of)?;
        let mut common = old.common.clone();
        common.policy = policy.map(Arc::new);
        common.configuration = configuration(&reload_files).map_err(words_of)?;
        let tls = ServerTls::new(&options)?;
        for warning in tls.expires_within(serve::EXPIRY_WARNING, clock::wall()) {
            log::warn!("{warning}");
        }
        Ok(Direction::Inbound(Arc::new(Inbound {
            common,
            upstream: old.upstream.clone(),
            settings: old.settings,
            table,
            tls: Some(tls),
            lookup: Arc::clone(&old.lookup),
            send_proxy: old.send_proxy,
            accept_proxy: old.accept_proxy.clone(),
            exempt: old.exempt.clone(),
            handshakes: Arc::clone(&old.handshakes),
            tried: Arc::clone(&old.tried),
        })))
    };
    Ok(Prepared {
        direction: Direction::Inbound(Arc::new(site)),
        listen: flags.listen.clone(),
        metrics: flags.metrics,
        audit,
        reload: Box::new(reload),
        files: names(&files),
        limits: Limits::new(flags.max_sessions, flags.max_sessions_per_client),
        drain_timeout: Duration::from_secs(flags.drain_timeout),
        relay_probe: (flags.relay_probe != "off").then(|| flags.relay_probe.clone()),
        warnings,
        summary,
    })
}

fn server_options(flags: &flags::Inbound) -> Result<ServerOptions, Failure> {
    if flags.cert.is_empty() || flags.cert.len() != flags.key.len() {
        let words = "--cert and --key come in pairs, and there is at least one\nhint: --cert mx.pem --key mx.key";
        return Err(Failure::Usage(words.into()));
    }
    if flags.ocsp.len() > flags.cert.len() {
        return Err(Failure::Usage("there are more --ocsp than --cert".into()));
    }
    let staples = flags.ocsp.iter().map(Some).chain(std::iter::repeat(None));
    let pairs = flags.cert.iter().zip(&flags.key).zip(staples);
    Ok(ServerOptions {
        pairs: pairs
            .map(|((cert, key), ocsp)| Pair {
                cert: cert.clone(),
                key: key.clone(),
                ocsp: ocsp.cloned(),
            })
            .collect(),
        client_auth: parsed::<ClientAuth>("client-auth", flags.client_auth.as_deref())?
            .unwrap_or_default(),
        client_ca: flags.client_ca.clone(),
        accept_server_eku: flags.accept_server_eku,
        min_tls: parsed::<MinTls>("min-tls", flags.min_tls.as_deref())?.unwrap_or_default(),
    })
}
