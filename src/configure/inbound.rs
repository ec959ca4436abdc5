//! What only `inbound` has: its flags, and the files that say who the proxy is and which clients are trusted.

use std::{num::NonZero, path::PathBuf, sync::Arc, thread};

use super::{
    PreparedProxy,
    direction::{DirectionFiles, FileContent, SharedFlags, prepare, shared_flags},
    reading::FileReading,
    table::table_in,
    values::{lookup_of, parsed, resolvers_in_file, upstream},
};
use crate::{
    clock,
    exit::Exit,
    flags::InboundFlags,
    lookup::{Lookup, RESOLV_CONF, system_resolvers},
    net::proxy_header::Version,
    policy::{
        Level, Prefix, Settings,
        table::{Table, TablePurpose},
    },
    serve::{self, Direction},
    session::{
        handshakes::Handshakes,
        networks::TriedNetworks,
        setup::{CommonSetup, InboundSetup, Upstream},
        write_budget::WriteBudget,
    },
    tls::{self, CertificateFiles, ClientAuth, MinTls, ServerOptions, ServerTls, Trust},
};

/// `starttls-proxy inbound`
///
/// # Errors
/// The first flag that is wrong, or all that is wrong with the files.
pub fn inbound(flags: &InboundFlags) -> Result<PreparedProxy, Exit> {
    let upstream = upstream(flags.intercept.is_some(), flags.upstream.as_deref())?;
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
    let files = InboundFiles {
        upstream,
        settings: Settings {
            observe: flags.observe,
            ..Settings::default()
        },
        tls: server_options(flags)?,
        policy: flags.policy.clone(),
        send_proxy: flags.send_proxy,
        accept_proxy: flags.accept_proxy.clone(),
        exempt: flags.exempt.clone(),
        handshakes: handshakes(flags.max_handshakes),
        tried: Arc::new(TriedNetworks::new(clock::instant())),
    };
    if files.asks_resolvers() {
        // A file that is not there yet is a passing fault at the start, unlike those that the flags name.
        system_resolvers().map_err(Exit::Temporary)?;
    }
    let mut prepared = prepare(&shared_flags!(flags), files, WriteBudget::for_strangers())?;
    prepared.relay_probe = (flags.relay_probe != "off").then(|| flags.relay_probe.clone());
    Ok(prepared)
}

/// Places for handshakes: so many, or what the cores that this process may use are good for.
fn handshakes(wanted: Option<usize>) -> Handshakes {
    let by_cores =
        || Handshakes::for_cores(thread::available_parallelism().map_or(1, NonZero::get));
    wanted.map_or_else(by_cores, Handshakes::new)
}

/// The files that say who the proxy is and which clients are trusted, and what is made of them.
struct InboundFiles {
    upstream: Option<Upstream>,
    settings: Settings,
    tls: ServerOptions,
    policy: Option<PathBuf>,
    send_proxy: Option<Version>,
    accept_proxy: Vec<Prefix>,
    exempt: Vec<Prefix>,
    /// Places for handshakes and what is known of networks outlast a reload.
    handshakes: Handshakes,
    tried: Arc<TriedNetworks>,
}

impl InboundFiles {
    /// Whether the inside server has a name that must be looked up.
    fn asks_resolvers(&self) -> bool {
        let upstream = self.upstream.as_ref();
        upstream.is_some_and(|upstream| upstream.ip().is_none())
    }
}

impl DirectionFiles for InboundFiles {
    type Tls = ServerTls;
    const HEADLINE: &'static str = "inbound: the world -> legacy mail server; STARTTLS is demanded (unlike RFC 3207 §4 asks of a public MX)";
    const OBSERVED: &'static str = "observe: STARTTLS is offered, plaintext passes and is recorded";

    fn paths(&self) -> Vec<PathBuf> {
        let single = [&self.policy, &self.tls.client_ca];
        let single = single.into_iter().map(Option::as_ref);
        let pairs = self.tls.pairs.iter();
        let pairs = pairs.flat_map(|pair| [Some(&pair.cert), Some(&pair.key), pair.ocsp.as_ref()]);
        let named = single.chain(pairs).flatten().cloned();
        let unnamed = self.asks_resolvers().then(|| RESOLV_CONF.into());
        named.chain(unnamed).collect()
    }

    fn table(&self) -> Option<&PathBuf> {
        self.policy.as_ref()
    }

    fn places_beside(&self) -> Vec<PathBuf> {
        match (self.tls.client_auth, &self.tls.client_ca) {
            (ClientAuth::None, _) | (_, Some(_)) => Vec::new(),
            (_, None) => tls::system_store(),
        }
    }

    fn private_keys(&self) -> Vec<PathBuf> {
        let pairs = self.tls.pairs.iter();
        pairs.map(|pair| pair.key.clone()).collect()
    }

    fn read(
        &self,
        reading: &mut FileReading,
        running: Option<&Lookup>,
    ) -> Option<FileContent<ServerTls>> {
        let exempt: Vec<String> = self.exempt.iter().map(ToString::to_string).collect();
        let table = table_in(
            reading,
            self.policy.as_deref(),
            &TablePurpose::Inbound,
            &Settings::default(),
            &exempt,
        );
        let tls = reading.take(ServerTls::new(&self.tls));
        let resolvers = match self.asks_resolvers() {
            true => reading.take(resolvers_in_file(running)),
            false => Some(None),
        };
        let nobody = || Trust::in_nobody().anchors();
        let renewal = running.map(|lookup| lookup.renewal(resolvers.clone().flatten(), nobody()));
        let renewal = reading.take(renewal.transpose());
        resolvers?;
        let (table, policy) = table?;
        Some(FileContent {
            table,
            policy,
            tls: tls?,
            renewal: renewal?,
        })
    }

    /// Only the name of the inside server is looked up, and nobody is trusted for it.
    fn lookup(&self, _: &ServerTls) -> Result<Lookup, Exit> {
        lookup_of(&[], false, None, None, false, &Trust::in_nobody())
    }

    fn surroundings(&self, tls: &ServerTls) -> Vec<String> {
        vec![tls.trust.sha256()]
    }

    fn table_remarks(&self, table: &Table) -> Vec<String> {
        let now = clock::wall();
        let asks = self.tls.client_auth != ClientAuth::None;
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

    fn certificate_remarks(&self, tls: &ServerTls) -> Vec<String> {
        tls.expires_within(serve::EXPIRY_WARNING, clock::wall())
    }

    fn summary(&self, tls: &ServerTls) -> Vec<String> {
        let own = tls.own_certificates().map(|(file, own)| {
            format!(
                "certificate: {}: {} until {}",
                file.display(),
                own.names_in_words(),
                own.not_after.day()
            )
        });
        own.collect()
    }

    fn direction(
        &self,
        common: CommonSetup,
        table: Table,
        tls: ServerTls,
        lookup: Arc<Lookup>,
    ) -> Direction {
        Direction::Inbound(Arc::new(InboundSetup {
            common: Arc::new(common),
            upstream: self.upstream.clone(),
            settings: self.settings,
            table,
            tls: Some(tls),
            lookup,
            send_proxy: self.send_proxy,
            accept_proxy: self.accept_proxy.clone(),
            exempt: self.exempt.clone(),
            handshakes: self.handshakes.clone(),
            tried: Arc::clone(&self.tried),
        }))
    }
}

fn server_options(flags: &InboundFlags) -> Result<ServerOptions, Exit> {
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
