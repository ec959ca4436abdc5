//! What `outbound` checks of a smart host: who may use it, and whether the proxy may log in to it.

use std::path::PathBuf;

use crate::{
    clock,
    exit::Exit,
    flags::OutboundFlags,
    policy::{Level, Prefix, Settings, table::Table},
    session::{clients::AllowedClients, credentials::located},
};

/// Who may send mail. Intercepted clients are those that the kernel's rules name, so the list is for them only if it was given.
pub(super) fn clients(named: &[Prefix], is_smart_host: bool) -> Option<AllowedClients> {
    match (named, is_smart_host) {
        ([], false) => None,
        ([], true) => Some(AllowedClients::Private),
        (named, _) => Some(AllowedClients::Named(named.to_vec())),
    }
}

/// A warning for each prefix that everybody is in.
pub(super) fn remarks(named: &[Prefix]) -> Vec<String> {
    let everybody = named.iter().filter(|prefix| prefix.length() == 0);
    everybody
        .map(|prefix| {
            format!(
                "--allow-client {prefix}: everybody may send mail through this proxy; if the Internet reaches it, it is an open relay"
            )
        })
        .collect()
}

/// `--upstream-auth`, with the name of the file that is meant. `None`: the proxy does not log in.
///
/// # Errors
/// Mail of people whom nobody named would be sent under the proxy's name, or the credentials would be for a server that proves nothing.
pub(super) fn login_file(
    flags: &OutboundFlags,
    settings: &Settings,
) -> Result<Option<PathBuf>, Exit> {
    let Some(file) = &flags.upstream_auth else {
        return Ok(None);
    };
    let wrong = |words: &str| Err(Exit::Usage(format!("--upstream-auth: {words}")));
    if flags.upstream.is_none() {
        return wrong(
            "the proxy logs in to its own smart host only, never to servers of intercepted connections; give --upstream HOST",
        );
    }
    if flags.allow_client.is_empty() {
        return wrong(
            "whoever may use the proxy sends mail as that user, so it has to be said who may\n\
             hint: --allow-client PREFIX, such as 192.168.7.0/24",
        );
    }
    if let Some(everybody) = flags
        .allow_client
        .iter()
        .find(|prefix| prefix.length() == 0)
    {
        return wrong(&format!(
            "--allow-client {everybody} would let everybody send mail as that user"
        ));
    }
    if settings.observe {
        return wrong(
            "--observe lets mail pass whatever the server proves, and the proxy logs in only to a server that has proved who it is",
        );
    }
    if settings.level <= Level::Encrypt {
        return wrong(&format!(
            "--level {} asks the server for no proof, and the proxy logs in only to a server that has proved who it is",
            settings.level
        ));
    }
    Ok(Some(located(file)))
}

/// Lines of the table with which the server proves nothing, so that the proxy does not log in and mail waits.
pub(super) fn unproving(table: &Table) -> Vec<String> {
    let lines = table.applying(clock::wall());
    lines
        .filter(|entry| entry.level <= Level::Encrypt)
        .map(|entry| {
            format!(
                "{}:{}: {}: with level {} the server proves nothing, so the proxy does not log in (--upstream-auth), and mail waits",
                entry.file, entry.line, entry.key, entry.level
            )
        })
        .collect()
}
