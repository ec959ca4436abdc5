//! The values of flags, each turned into the type that the proxy uses.

use std::{fs, net::SocketAddr, path::PathBuf};

use crate::{
    exit::Exit,
    lookup::{Lookup, LookupOptions, system_resolvers},
    policy::{Level, RefuseWith, Settings},
    session::setup::Upstream,
    tls::{ClientOptions, MinTls, Trust},
};

/// The value of `--flag`, if it was given.
///
/// # Errors
/// The flag does not know the word.
pub(super) fn parsed<T: std::str::FromStr<Err = String>>(
    flag: &str,
    word: Option<&str>,
) -> Result<Option<T>, Exit> {
    word.map(|word| {
        word.parse()
            .map_err(|words| Exit::Usage(format!("--{flag}: {words}")))
    })
    .transpose()
}

/// `--upstream`; `None` with `--intercept`.
///
/// # Errors
/// Neither or both were given, or `--upstream` names no host.
pub(super) fn upstream(intercept: bool, upstream: Option<&str>) -> Result<Option<Upstream>, Exit> {
    match (intercept, upstream) {
        (true, Some(_)) => Err(Exit::Usage("--intercept and --upstream exclude each other: one says where mail goes".into())),
        (false, None) => Err(Exit::Usage(
            "nothing says where mail goes\nhint: --intercept tproxy on a router, --upstream HOST for a fixed server".into(),
        )),
        (_, upstream) => upstream.map(Upstream::parse).transpose().map_err(Exit::Usage),
    }
}

/// TLS towards servers, as the flags say: trusted authorities, client certificate, lowest version.
///
/// # Errors
/// The word of `--min-tls` is no TLS version.
pub(crate) fn client_options(
    ca_file: &Option<PathBuf>,
    cert: &Option<PathBuf>,
    key: &Option<PathBuf>,
    min_tls: Option<&str>,
) -> Result<ClientOptions, Exit> {
    Ok(ClientOptions {
        ca_file: ca_file.clone(),
        pair: cert.clone().zip(key.clone()),
        min_tls: parsed::<MinTls>("min-tls", min_tls)?.unwrap_or_default(),
    })
}

/// What the command line demands where no line of the table does.
///
/// # Errors
/// `--level` or `--refuse-with` has a word that it does not know.
pub(crate) fn settings(
    level: Option<&str>,
    refuse_with: Option<&str>,
    no_dane: bool,
    no_mta_sts: bool,
    observe: bool,
    min_tls: MinTls,
) -> Result<Settings, Exit> {
    let level = parsed::<Level>("level", level)?.unwrap_or(Level::Verify);
    let refuse_with = match refuse_with {
        None | Some("defer") => RefuseWith::Defer,
        Some("reject") => RefuseWith::Reject,
        Some(word) => {
            return Err(Exit::Usage(format!(
                "--refuse-with: '{word}' is neither defer nor reject"
            )));
        }
    };
    Ok(Settings {
        level,
        dane: !no_dane,
        mta_sts: !no_mta_sts,
        refuse_with,
        observe,
        tls13_only: min_tls == MinTls::Tls13,
    })
}

/// DNS and MTA-STS, as the flags say. The certificates of MTA-STS policy hosts are judged by the same authorities as those of
/// mail servers.
///
/// # Errors
/// [`Exit::Temporary`] if `/etc/resolv.conf` names no resolvers, which is so until the network is up on many hosts; else a file that
/// cannot be used.
pub(crate) fn lookup_of(
    resolvers: &[SocketAddr],
    dnssec: bool,
    anchor: Option<&PathBuf>,
    state_dir: Option<&PathBuf>,
    allow_private: bool,
    trust: &Trust,
) -> Result<Lookup, Exit> {
    let resolvers = match resolvers {
        [] => system_resolvers().map_err(Exit::Temporary)?,
        given => given.to_vec(),
    };
    Lookup::new(LookupOptions {
        resolvers,
        dnssec,
        anchor: anchor.cloned(),
        state_dir: state_dir.cloned(),
        https_port: 443,
        allow_private,
        roots: trust.anchors(),
    })
    .map_err(Exit::Configuration)
}

/// `--hostname`, else the name of this host, else `localhost`.
///
/// # Errors
/// The value of `--hostname` is no host name.
pub(crate) fn hostname(given: Option<&str>) -> Result<String, Exit> {
    let name = match given {
        Some(name) => name.to_owned(),
        // Asked of the kernel, since the units hide /proc/sys.
        None => hostname::get()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
    };
    match crate::smtp::Domain::parse(&name) {
        Some(name) => Ok(name.as_str().to_owned()),
        None if given.is_none() => Ok(String::from("localhost")),
        None => Err(Exit::Usage(format!("--hostname: '{name}' is no host name"))),
    }
}

/// SHA-256 of `/etc/resolv.conf`, if that file names the resolvers. The digest of the configuration includes it beside the
/// command line, which has every `--resolver`.
pub(super) fn resolv_conf_in_force(given: &[SocketAddr]) -> String {
    match (given, fs::read("/etc/resolv.conf")) {
        ([], Ok(octets)) => crate::tls::sha256(&octets),
        _ => String::new(),
    }
}
