//! What only `outbound` has: its flags, and the files that say which peers are trusted.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use super::{
    PreparedProxy,
    direction::{DirectionFiles, FileContent, SharedFlags, prepare, shared_flags},
    reading::FileReading,
    smart_host,
    table::table_in,
    values::{client_options, lookup_of, resolvers_in_file, settings, upstream},
};
use crate::{
    clock,
    exit::Exit,
    flags::OutboundFlags,
    lookup::{Lookup, RESOLV_CONF, system_resolvers},
    policy::{
        Settings,
        table::{Table, TablePurpose},
    },
    serve::Direction,
    session::{
        clients::AllowedClients,
        credentials::UpstreamLogin,
        setup::{CommonSetup, OutboundSetup, Upstream},
        write_budget::WriteBudget,
    },
    tls::{self, ClientOptions, ClientTls, Trust},
    tlsrpt::Tlsrpt,
};

/// `starttls-proxy outbound`
///
/// # Errors
/// The first flag that is wrong, or all that is wrong with the files.
pub fn outbound(flags: &OutboundFlags) -> Result<PreparedProxy, Exit> {
    let upstream = upstream(flags.intercept.is_some(), flags.upstream.as_deref())?;
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
    let clients = smart_host::clients(&flags.allow_client, upstream.is_some());
    let login = smart_host::login_file(flags, &settings)?;
    let purpose = match &upstream {
        Some(upstream) => TablePurpose::Upstream(upstream.host.clone(), upstream.port),
        None => TablePurpose::Intercepted,
    };
    if flags.resolver.is_empty() {
        // A file that is not there yet is a passing fault at the start, unlike those that the flags name.
        system_resolvers().map_err(Exit::Temporary)?;
    }
    let tlsrpt = flags.tlsrpt_socket.as_deref().map(Tlsrpt::new).transpose();
    let files = OutboundFiles {
        upstream,
        purpose,
        settings,
        tls,
        policy: flags.policy.clone(),
        anchor: flags.dnssec_anchor.clone(),
        resolver: flags.resolver.clone(),
        state_dir: flags.state_dir.clone(),
        mta_sts_private: flags.mta_sts_private,
        tlsrpt: tlsrpt.map_err(Exit::Configuration)?.map(Arc::new),
        remarks: smart_host::remarks(&flags.allow_client),
        clients,
        login,
        strangers: Arc::new(WriteBudget::for_strangers()),
    };
    let mut prepared = prepare(&shared_flags!(flags), files, WriteBudget::unlimited())?;
    if let Some(anchors) = &mut prepared.anchors {
        anchors.ca_file.clone_from(&flags.ca_file);
    }
    Ok(prepared)
}

/// The files that say which peers are trusted, and what is made of them.
struct OutboundFiles {
    upstream: Option<Upstream>,
    purpose: TablePurpose,
    settings: Settings,
    tls: ClientOptions,
    policy: Option<PathBuf>,
    anchor: Option<PathBuf>,
    resolver: Vec<SocketAddr>,
    state_dir: Option<PathBuf>,
    mta_sts_private: bool,
    tlsrpt: Option<Arc<Tlsrpt>>,
    /// `--allow-client`, and what is worth a warning about it.
    clients: Option<AllowedClients>,
    remarks: Vec<String>,
    /// `--upstream-auth`.
    login: Option<PathBuf>,
    /// What strangers at a smart host may make the proxy write. It outlasts a reload.
    strangers: Arc<WriteBudget>,
}

/// What is made of certificates, authorities and credentials.
struct OutboundSecrets {
    tls: ClientTls,
    login: Option<Arc<UpstreamLogin>>,
    /// What is worth a warning about the file of the login.
    remarks: Vec<String>,
}

impl DirectionFiles for OutboundFiles {
    type Tls = OutboundSecrets;
    const HEADLINE: &'static str = "outbound: legacy mail server -> the world";
    const OBSERVED: &'static str = "observe: everything is judged and recorded, nothing is refused";

    fn paths(&self) -> Vec<PathBuf> {
        let pair = self.tls.pair.iter().flat_map(|(cert, key)| [cert, key]);
        let single = [&self.policy, &self.tls.ca_file, &self.anchor, &self.login];
        let named = single.into_iter().flatten().chain(pair).cloned();
        // Without --resolver the system's file is as good as named.
        let unnamed = self.resolver.is_empty().then(|| RESOLV_CONF.into());
        named.chain(unnamed).collect()
    }

    fn table(&self) -> Option<&PathBuf> {
        self.policy.as_ref()
    }

    fn places_beside(&self) -> Vec<PathBuf> {
        match self.tls.ca_file {
            Some(_) => Vec::new(),
            None => tls::system_store(),
        }
    }

    /// A hash of a password would tell it to whoever tries likely ones, so its file is as private as a key.
    fn private_keys(&self) -> Vec<PathBuf> {
        let keys = self.tls.pair.iter().map(|(_, key)| key);
        keys.chain(&self.login).cloned().collect()
    }

    fn read(
        &self,
        reading: &mut FileReading,
        running: Option<&Lookup>,
    ) -> Option<FileContent<OutboundSecrets>> {
        let table = table_in(
            reading,
            self.policy.as_deref(),
            &self.purpose,
            &self.settings,
            &[],
        );
        let tls = reading.take(ClientTls::new(&self.tls));
        // The DNSSEC anchor is read even if the authorities cannot be, so that its own faults are told.
        let roots = tls
            .as_ref()
            .map_or_else(|| Trust::in_nobody().anchors(), |tls| tls.trust.anchors());
        let resolvers = match self.resolver.is_empty() {
            true => reading.take(resolvers_in_file(running)),
            false => Some(None),
        };
        let renewal = running.map(|lookup| lookup.renewal(resolvers.clone().flatten(), roots));
        let renewal = reading.take(renewal.transpose());
        let login = self.login.as_deref().map(UpstreamLogin::read).transpose();
        let login = reading.take(login);
        resolvers?;
        let (login, remarks) = match login? {
            Some((login, remarks)) => (Some(Arc::new(login)), remarks),
            None => (None, Vec::new()),
        };
        let (table, policy) = table?;
        Some(FileContent {
            table,
            policy,
            tls: OutboundSecrets {
                tls: tls?,
                login,
                remarks,
            },
            renewal: renewal?,
        })
    }

    fn lookup(&self, secrets: &OutboundSecrets) -> Result<Lookup, Exit> {
        lookup_of(
            &self.resolver,
            self.settings.dane,
            self.anchor.as_ref(),
            self.state_dir.as_ref(),
            self.mta_sts_private,
            &secrets.tls.trust,
        )
    }

    fn surroundings(&self, secrets: &OutboundSecrets) -> Vec<String> {
        let login = secrets.login.as_ref();
        let user = login.map(|login| format!("{} by {}", login.user(), login.kind()));
        let trust = secrets.tls.trust.sha256();
        [trust].into_iter().chain(user).collect()
    }

    fn table_remarks(&self, table: &Table) -> Vec<String> {
        let mut remarks = table.remarks(&self.purpose, clock::wall());
        remarks.extend(self.remarks.iter().cloned());
        if self.login.is_some() {
            remarks.extend(smart_host::unproving(table));
        }
        remarks
    }

    fn certificate_remarks(&self, secrets: &OutboundSecrets) -> Vec<String> {
        secrets.remarks.clone()
    }

    fn summary(&self, secrets: &OutboundSecrets) -> Vec<String> {
        let used = |name, is_used| format!(", {}{name}", if is_used { "" } else { "no " });
        let clients = self.clients.as_ref();
        let clients = clients.map(|clients| format!("clients: {clients}"));
        let login = secrets.login.as_ref();
        let login = login.map(|login| format!("login: as {}, by {}", login.user(), login.kind()));
        let level = format!(
            "level: {}{}{}",
            self.settings.level,
            used("dane", self.settings.dane),
            used("mta-sts", self.settings.mta_sts)
        );
        clients.into_iter().chain(login).chain([level]).collect()
    }

    fn direction(
        &self,
        common: CommonSetup,
        table: Table,
        secrets: OutboundSecrets,
        lookup: Arc<Lookup>,
    ) -> Direction {
        Direction::Outbound(Arc::new(OutboundSetup {
            common: Arc::new(common),
            upstream: self.upstream.clone(),
            settings: self.settings,
            table,
            tls: Arc::new(secrets.tls),
            lookup,
            // A host that failed under the old configuration may succeed under the new one.
            memory: Arc::default(),
            tlsrpt: self.tlsrpt.clone(),
            clients: self.clients.clone(),
            strangers: Arc::clone(&self.strangers),
            login: secrets.login,
        }))
    }
}
