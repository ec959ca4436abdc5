//! Inbound: does the inside server relay for strangers who come through the proxy? The proxy asks at start and every hour, from
//! its own address, with a recipient in a foreign domain. It never sends a message.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    time::sleep,
};

use crate::{
    net::{ServerAddr, proxy_header},
    policy::Dns,
    session::{
        asking::{AskError, ask},
        setup::InboundSetup,
    },
};

/// Time from the end of one probe to the start of the next.
const EVERY: Duration = Duration::from_secs(3600);
/// Longest duration of the dialogue with the server.
const LIMIT: Duration = Duration::from_secs(60);
/// What the replies before the one to RCPT answer.
const PREPARATION: [&str; 3] = ["greeting", "EHLO", "MAIL"];

/// What a probe found, with the last line of the reply that shows it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ProbeResult {
    /// The server accepts mail to anybody from the proxy.
    OpenRelay(String),
    /// The server refuses the foreign recipient.
    Refuses(String),
    /// The server could not be asked, or its reply is neither.
    Unclear(String),
}

/// Probes now and every hour, and logs what it found.
pub(super) async fn hourly(site: Arc<InboundSetup>, domain: String) {
    loop {
        match probe(&site, &domain).await {
            Ok(ProbeResult::OpenRelay(reply)) => log::error!(
                "in: OPEN RELAY: the inside server takes mail for {domain} from this proxy's address ({reply}); all the \
                 world can send through it. hint: let it relay only for addresses that are not this proxy's, or use \
                 --keep-client-address"
            ),
            Ok(ProbeResult::Refuses(reply)) => {
                log::info!("in: relay probe: the inside server refuses {domain} ({reply})")
            }
            Ok(ProbeResult::Unclear(words)) => {
                log::warn!("in: relay probe: no answer to judge by: {words}")
            }
            Err(AskError::Late) => log::warn!("in: relay probe: not finished within 60 s"),
            Err(error) => log::warn!("in: relay probe: {error}"),
        }
        sleep(EVERY).await;
    }
}

/// Asks the inside server, without sending a message.
///
/// # Errors
/// The server could not be reached, or sent something that is no reply.
pub(crate) async fn probe(site: &InboundSetup, domain: &str) -> Result<ProbeResult, AskError> {
    let missing = || io::Error::from(io::ErrorKind::NotFound);
    let upstream = site.upstream.as_ref().ok_or_else(missing)?;
    let ip = match upstream.ip() {
        Some(ip) => ip,
        None => match site.lookup.host(&upstream.host, None).await.addresses {
            Dns::Found(addresses, _) => *addresses.first().ok_or_else(missing)?,
            other => {
                let words = format!("{}: address look-up: {other:?}", upstream.host);
                return Err(io::Error::other(words).into());
            }
        },
    };
    let (mut stream, _dialled) = site
        .common
        .dial
        .connect(ServerAddr((ip, upstream.port).into()), None)
        .await?;
    if let Some(version) = site.send_proxy {
        let (own, server) = (stream.local_addr()?, stream.peer_addr()?);
        let header = proxy_header::header(version, own, server);
        stream.write_all(&header).await?;
    }
    ask_for_relay(&mut stream, &site.common.hostname, domain).await
}

/// The dialogue.
async fn ask_for_relay<S: AsyncRead + AsyncWrite + Unpin>(
    server: &mut S,
    hostname: &str,
    domain: &str,
) -> Result<ProbeResult, AskError> {
    let commands = [
        format!("EHLO {hostname}"),
        String::from("MAIL FROM:<>"),
        format!("RCPT TO:<relay-probe@{domain}>"),
    ];
    let last = ask(server, commands, LIMIT).await?;
    let words = last.last_line();
    if let Some(answered) = PREPARATION.get(last.commands_sent) {
        return Ok(ProbeResult::Unclear(format!("{answered}: {words}")));
    }
    server.write_all(b"QUIT\r\n").await?;
    Ok(match last.reply.class() {
        2 => ProbeResult::OpenRelay(words),
        4 | 5 => ProbeResult::Refuses(words),
        _ => ProbeResult::Unclear(words),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::asking::hostile_greetings;
    use tokio::io::{AsyncBufReadExt, BufReader, duplex};

    async fn probe_server_that_says(
        greeting: &[u8],
        rcpt: &'static str,
    ) -> Result<ProbeResult, AskError> {
        let (mut ours, theirs) = duplex(1 << 16);
        let greeting = greeting.to_vec();
        let server = tokio::spawn(async move {
            let mut stream = BufReader::new(theirs);
            let mut answer = greeting;
            let mut line = String::new();
            loop {
                stream.get_mut().write_all(&answer).await.expect("written");
                line.clear();
                if stream.read_line(&mut line).await.expect("read") == 0 {
                    return;
                }
                answer = match &line[..4] {
                    "EHLO" => "250-inside\r\n250 SIZE\r\n",
                    "RCPT" => rcpt,
                    _ => "250 ok\r\n",
                }
                .into();
            }
        });
        let result = ask_for_relay(&mut ours, "proxy.example", "probe.invalid").await;
        server.abort();
        result
    }

    #[tokio::test]
    async fn a_server_that_takes_a_foreign_recipient_is_an_open_relay() {
        for (greeting, rcpt, expected) in [
            (
                "220 inside\r\n",
                "250 ok\r\n",
                ProbeResult::OpenRelay("250 ok".into()),
            ),
            (
                "220 inside\r\n",
                "550-no\r\n550 relaying denied\r\n",
                ProbeResult::Refuses("550 relaying denied".into()),
            ),
            (
                "220 inside\r\n",
                "354 what\r\n",
                ProbeResult::Unclear("354 what".into()),
            ),
            (
                "554 go\x07\r\n",
                "",
                ProbeResult::Unclear("greeting: 554 go\\x07".into()),
            ),
        ] {
            let result = probe_server_that_says(greeting.as_bytes(), rcpt).await;
            assert_eq!(result.expect("answered"), expected);
        }
    }

    #[tokio::test]
    async fn a_hostile_reply_is_no_answer() {
        for (greeting, fault) in hostile_greetings() {
            let result = probe_server_that_says(&greeting, "250 ok\r\n").await;
            assert!(
                matches!(result, Err(AskError::Reply(found)) if found == fault),
                "{}: {result:?}",
                greeting.escape_ascii()
            );
        }
    }
}
