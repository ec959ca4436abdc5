//! Does the inside server relay for strangers who come through the proxy?

use super::{
    finding::MachineFinding,
    service::{ProxyService, ServiceFlags},
};
use crate::serve::{
    Direction,
    relay_probe::{ProbeResult, probe},
};

pub(super) async fn check(service: &ProxyService, direction: &Direction) -> Option<MachineFinding> {
    const CHECK: &str = "open relay";
    let (ServiceFlags::Inbound(flags), Direction::Inbound(site)) = (&service.flags, direction)
    else {
        return None;
    };
    let server = flags.upstream.as_deref()?;
    let domain = flags.relay_probe.as_str();
    if domain == "off" {
        return Some(MachineFinding::ok(
            CHECK,
            "not asked, because of --relay-probe off",
        ));
    }
    Some(match probe(site, domain).await {
        Ok(ProbeResult::Refuses(reply)) => {
            MachineFinding::ok(CHECK, format!("{server} refuses mail to {domain}: {reply}"))
        }
        Ok(ProbeResult::OpenRelay(reply)) => MachineFinding::fail(
            CHECK,
            format!("{server} takes mail to {domain} from this machine ({reply}), so that all the world can send through it"),
        )
        .advise(format!(
            "take this machine's address off the list of those for whom {server} relays (Postfix: mynetworks; Exchange: \
             the receive connector's remote IP ranges)"
        ))
        .advise(format!("or write --keep-client-address in {}", service.flags_place())),
        Ok(ProbeResult::Unclear(words)) => {
            MachineFinding::warn(CHECK, format!("{server} gives no answer to judge by: {words}"))
                .advise("read the mail server's log of this moment")
        }
        Err(error) => MachineFinding::fail(CHECK, format!("{server} does not answer: {error}"))
            .advise(format!("start the mail server, or correct --upstream in {}", service.flags_place())),
    })
}
