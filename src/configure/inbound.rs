//! `inbound`: its flags and files.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::{
    CONNECT, Exit, PreparedProxy, Reading, audit_of, evidence_line, families, flags, hostname,
    listens, lookup_of, parsed, policy_line, sessions, table_in, warn, where_to, wrong,
};
use crate::{
    audit::PolicyField,
    clock,
    metrics::Metrics,
    net::Dial,
    policy::{
        Level, Settings,
        table::{Table, TablePurpose},
    },
    serve::{self, Direction, Reloaded, limits::Limits},
    session::{
        handshakes::Handshakes,
        networks::TriedNetworks,
        setup::{CommonSetup, InboundSetup},
        write_budget::WriteBudget,
    },
    tls::{CertificateFiles, ClientAuth, MinTls, ServerOptions, ServerTls, Trust},
};

/// `starttls-proxy inbound`
///
/// # Errors
/// The first flag or file that is wrong.
pub fn inbound(flags: &flags::InboundFlags) -> Result<PreparedProxy, Exit> {
    let upstream = where_to(flags.intercept.is_some(), flags.upstream.as_deref())?;
    if upstream
        .as_ref()
        .is_some_and(|upstream| upstream.implicit_tls)
    {
        return Err(Exit::Usage(
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
        return Err(Exit::Usage(words.into()));
    }
    let options = server_options(flags)?;
    let sources = Sources {
        options,
        policy: flags.policy.clone(),
        exempt: flags.exempt.iter().map(ToString::to_string).collect(),
    };
    let (reading, read) = Reading::steady(&sources.files(), |reading| sources.read(reading));
    let Some((table, policy, tls)) = read else {
        return Err(wrong(reading.words()));
    };
    let common = CommonSetup {
        hostname: hostname(flags.hostname.as_deref())?,
        configuration: sources.configuration(&reading, &tls),
        dial: Dial::new(flags.fwmark, CONNECT),
        intercept: flags.intercept,
        keep_client_address: flags.keep_client_address,
        observe: flags.observe,
        add_received: flags.add_received,
        listening: Arc::from([]),
        policy: policy.clone().map(Arc::new),
        audit: None,
        metrics: Arc::new(Metrics::default()),
        write_budget: Arc::new(WriteBudget::for_strangers()),
    };
    let mut warnings = sources.remarks(&table);
    let balanced = !flags.accept_proxy.is_empty();
    warnings.extend(
        families::check(&common, upstream.as_ref(), balanced, &flags.listen).map_err(wrong)?,
    );
    let (max_sessions, too_few) = sessions(flags.max_sessions);
    warnings.extend(too_few);
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
    let site = InboundSetup {
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
        handshakes: Handshakes::new(flags.max_handshakes),
        tried: Arc::new(TriedNetworks::new(clock::instant())),
    };
    let in_force = Mutex::new(reading.digests());
    let reload = move |old: &Direction| {
        let Direction::Inbound(old) = old else {
            return Reloaded {
                outcome: Err(String::from("the direction cannot change")),
                files: Vec::new(),
            };
        };
        let (reading, read) = Reading::steady(&sources.files(), |reading| sources.read(reading));
        let mut in_force = in_force.lock().unwrap_or_else(PoisonError::into_inner);
        let files = reading.outcomes(&in_force);
        let outcome = read.ok_or_else(|| reading.words());
        let outcome = outcome.map(|(table, policy, tls)| {
            *in_force = reading.digests();
            warn(&sources.remarks(&table));
            warn(&tls.expires_within(serve::EXPIRY_WARNING, clock::wall()));
            let mut common = old.common.clone();
            common.policy = policy.map(Arc::new);
            common.configuration = sources.configuration(&reading, &tls);
            Direction::Inbound(Arc::new(InboundSetup {
                common,
                upstream: old.upstream.clone(),
                settings: old.settings,
                table,
                tls: Some(tls),
                lookup: Arc::clone(&old.lookup),
                send_proxy: old.send_proxy,
                accept_proxy: old.accept_proxy.clone(),
                exempt: old.exempt.clone(),
                handshakes: old.handshakes.clone(),
                tried: Arc::clone(&old.tried),
            }))
        });
        Reloaded { outcome, files }
    };
    Ok(PreparedProxy {
        direction: Direction::Inbound(Arc::new(site)),
        listen: flags.listen.clone(),
        metrics: flags.metrics,
        audit,
        reload: Box::new(reload),
        limits: Limits::new(max_sessions, flags.max_sessions_per_client),
        drain_timeout: Duration::from_secs(flags.drain_timeout),
        relay_probe: (flags.relay_probe != "off").then(|| flags.relay_probe.clone()),
        warnings,
        summary,
    })
}

/// The files that say who may come in and who we are, and how they are read.
struct Sources {
    options: ServerOptions,
    policy: Option<PathBuf>,
    exempt: Vec<String>,
}

impl Sources {
    /// All that are named on the command line.
    fn files(&self) -> Vec<PathBuf> {
        let one = [&self.policy, &self.options.client_ca];
        let pairs = self.options.pairs.iter();
        let pairs = pairs.flat_map(|pair| [Some(&pair.cert), Some(&pair.key), pair.ocsp.as_ref()]);
        let one = one.into_iter().map(Option::as_ref);
        one.chain(pairs).flatten().cloned().collect()
    }

    /// Each is read, whatever is wrong with the others.
    fn read(&self, reading: &mut Reading) -> Option<(Table, Option<PolicyField>, ServerTls)> {
        let settings = Settings::default();
        let policy = self.policy.as_deref();
        let table = table_in(
            reading,
            policy,
            &TablePurpose::Inbound,
            &settings,
            &self.exempt,
        );
        let tls = reading.take(ServerTls::new(&self.options));
        let (table, policy) = table?;
        Some((table, policy, tls?))
    }

    /// What is allowed and yet worth a warning.
    fn remarks(&self, table: &Table) -> Vec<String> {
        let now = clock::wall();
        let asks = self.options.client_auth != ClientAuth::None;
        let unasked = table.applying(now).filter(|entry| {
            let proves = [Level::Fingerprint, Level::Verify, Level::Secure];
            !asks && proves.contains(&entry.level)
        });
        let unasked = unasked.map(|entry| {
            format!(
                "{}:{}: {}: level {} needs the client's certificate, and without --client-auth request none is asked for: its mail is \
                 refused",
                entry.file, entry.line, entry.key, entry.level
            )
        });
        let remarks = table.remarks(&TablePurpose::Inbound, now);
        remarks.into_iter().chain(unasked).collect()
    }

    fn configuration(&self, reading: &Reading, tls: &ServerTls) -> Arc<str> {
        let pairs = self.options.pairs.iter();
        let keys: Vec<PathBuf> = pairs.map(|pair| pair.key.clone()).collect();
        reading.configuration(&keys, &[tls.trust.sha256()]).into()
    }
}

fn server_options(flags: &flags::InboundFlags) -> Result<ServerOptions, Exit> {
    if flags.cert.is_empty() || flags.cert.len() != flags.key.len() {
        let words = "--cert and --key come in pairs, and there is at least one\nhint: --cert mx.pem --key mx.key";
        return Err(Exit::Usage(words.into()));
    }
    if flags.ocsp.len() > flags.cert.len() {
        return Err(Exit::Usage("there are more --ocsp than --cert".into()));
    }
    let staples = flags.ocsp.iter().map(Some).chain(std::iter::repeat(None));
    let pairs = flags.cert.iter().zip(&flags.key).zip(staples);
    Ok(ServerOptions {
        pairs: pairs
            .map(|((cert, key), ocsp)| CertificateFiles {
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
