//! What only `outbound` has: its flags, and the files that say which peers are trusted.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use super::{
    PreparedProxy,
    direction::{DirectionFiles, FileContent, SharedFlags, prepare, shared_flags},
    reading::FileReading,
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
    };
    prepare(&shared_flags!(flags), files, WriteBudget::unlimited())
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
}

impl DirectionFiles for OutboundFiles {
    type Tls = ClientTls;
    const HEADLINE: &'static str = "outbound: legacy mail server -> the world";
    const OBSERVED: &'static str = "observe: everything is judged and recorded, nothing is refused";

    fn paths(&self) -> Vec<PathBuf> {
        let pair = self.tls.pair.iter().flat_map(|(cert, key)| [cert, key]);
        let single = [&self.policy, &self.tls.ca_file, &self.anchor];
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

    fn private_keys(&self) -> Vec<PathBuf> {
        self.tls.pair.iter().map(|(_, key)| key.clone()).collect()
    }

    fn read(
        &self,
        reading: &mut FileReading,
        running: Option<&Lookup>,
    ) -> Option<FileContent<ClientTls>> {
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
        resolvers?;
        let (table, policy) = table?;
        Some(FileContent {
            table,
            policy,
            tls: tls?,
            renewal: renewal?,
        })
    }

    fn lookup(&self, tls: &ClientTls) -> Result<Lookup, Exit> {
        lookup_of(
            &self.resolver,
            self.settings.dane,
            self.anchor.as_ref(),
            self.state_dir.as_ref(),
            self.mta_sts_private,
            &tls.trust,
        )
    }

    fn surroundings(&self, tls: &ClientTls) -> Vec<String> {
        vec![tls.trust.sha256()]
    }

    fn table_remarks(&self, table: &Table) -> Vec<String> {
        table.remarks(&self.purpose, clock::wall())
    }

    fn certificate_remarks(&self, _: &ClientTls) -> Vec<String> {
        Vec::new()
    }

    fn summary(&self, _: &ClientTls) -> Vec<String> {
        let used = |name, is_used| format!(", {}{name}", if is_used { "" } else { "no " });
        vec![format!(
            "level: {}{}{}",
            self.settings.level,
            used("dane", self.settings.dane),
            used("mta-sts", self.settings.mta_sts)
        )]
    }

    fn direction(
        &self,
        common: CommonSetup,
        table: Table,
        tls: ClientTls,
        lookup: Arc<Lookup>,
    ) -> Direction {
        Direction::Outbound(Arc::new(OutboundSetup {
            common: Arc::new(common),
            upstream: self.upstream.clone(),
            settings: self.settings,
            table,
            tls: Arc::new(tls),
            lookup,
            // A host that failed under the old configuration may succeed under the new one.
            memory: Arc::default(),
            tlsrpt: self.tlsrpt.clone(),
        }))
    }
}
