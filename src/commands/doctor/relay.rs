//! Does the inside server relay for strangers who come through the proxy?

use super::{
    finding::Finding,
    service::{ProxyService, ServiceFlags},
};
use crate::serve::{
    Direction,
    relay_probe::{ProbeResult, probe},
};

pub(super) async fn check(service: &ProxyService, direction: &Direction) -> Option<Finding> {
    const CHECK: &str = "open relay";
    let (ServiceFlags::Inbound(flags), Direction::Inbound(site)) = (&service.flags, direction)
    else {
        return None;
    };
    let server = flags.upstream.as_deref()?;
    let domain = flags.relay_probe.as_str();
    if domain == "off" {
        return Some(Finding::ok(
            CHECK,
            "not asked, because of --relay-probe off",
        ));
    }
    Some(match probe(site, domain).await {
        Ok(ProbeResult::Refuses(reply)) => {
            Finding::ok(CHECK, format!("{server} refuses mail to {domain}: {reply}"))
        }
        Ok(ProbeResult::OpenRelay(reply)) => Finding::fail(
            CHECK,
            format!("{server} takes mail to {domain} from this machine ({reply}), so that all the world can send through it"),
        )
        .advise(format!(
            "take this machine's address off the list of those for whom {server} relays (Postfix: mynetworks; Exchange: \
             the receive connector's remote IP ranges)"
        ))
        .advise(format!("or write --keep-client-address in {}", service.flags_place())),
        Ok(ProbeResult::Unclear(words)) => {
            Finding::warn(CHECK, format!("{server} gives no answer to judge by: {words}"))
                .advise("read the mail server's log of this moment")
        }
        Err(error) => Finding::fail(CHECK, format!("{server} does not answer: {error}"))
            .advise(format!("start the mail server, or correct --upstream in {}", service.flags_place())),
    })
}
