//! `--keep-client-address` needs client and server to be of one address family: an IPv6 address cannot be the source of a
//! connection over IPv4. As much as can be known at the start is checked there.

use std::net::{IpAddr, SocketAddr};

use crate::{serve::Direction, session::setup::Upstream};

/// Compares the address family of the server with those of the listeners. Returns a warning where some of the clients that the
/// listeners accept have an address that cannot be kept.
///
/// # Errors
/// No client's address could ever be kept. Behind a load balancer this is not known: it tells another address than its own.
pub(super) fn check(
    direction: &Direction,
    listening: &[SocketAddr],
) -> Result<Option<String>, String> {
    let balanced = matches!(direction, Direction::Inbound(setup) if !setup.accept_proxy.is_empty());
    // Without --upstream the server has the family of the address that the client connected to.
    match direction.upstream().and_then(Upstream::ip) {
        Some(server) if direction.common().keep_client_address => {
            compare(server, balanced, listening)
        }
        _ => Ok(None),
    }
}

fn compare(
    server: IpAddr,
    balanced: bool,
    listening: &[SocketAddr],
) -> Result<Option<String>, String> {
    let family = |is_v4: bool| if is_v4 { "IPv4" } else { "IPv6" };
    let ours = family(server.to_canonical().is_ipv4());
    let other = family(!server.to_canonical().is_ipv4());
    // `[::]` accepts clients of both families.
    let lets_in = |wanted: &str| {
        balanced
            || listening.iter().any(|own| {
                own.ip().to_canonical() == IpAddr::from([0_u16; 8])
                    || family(own.ip().to_canonical().is_ipv4()) == wanted
            })
    };
    if !listening.is_empty() && !lets_in(ours) {
        return Err(format!(
            "--keep-client-address: --upstream {server} is reached over {ours}, and only {other} clients can come in, whose address no \
             {ours} connection can have\n\
             hint: give --upstream an {other} address, listen on {ours}, or tell the server by --send-proxy (inbound)"
        ));
    }
    Ok(lets_in(other).then(|| {
        format!(
            "--keep-client-address: clients over {other} are refused, since --upstream {server} is reached over {ours} and their \
             address cannot be kept; listen on {ours} only"
        )
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(server: &str, listening: &[&str]) -> Result<bool, String> {
        let listening: Vec<SocketAddr> = listening
            .iter()
            .map(|own| own.parse().expect("an address"))
            .collect();
        compare(server.parse().expect("an address"), false, &listening)
            .map(|warning| warning.is_some())
    }

    #[test]
    fn a_client_address_is_kept_only_within_one_family() {
        assert_eq!(of("10.0.0.5", &["0.0.0.0:25", "192.0.2.1:25"]), Ok(false));
        assert_eq!(of("fd00::5", &["[2001:db8::1]:25"]), Ok(false));
        assert_eq!(of("10.0.0.5", &["[::]:25"]), Ok(true));
        assert_eq!(of("fd00::5", &["[::]:25"]), Ok(true));
        assert_eq!(of("fd00::5", &["0.0.0.0:25", "[2001:db8::1]:25"]), Ok(true));
        assert_eq!(of("::ffff:10.0.0.5", &["[::ffff:192.0.2.1]:25"]), Ok(false));
        assert_eq!(of("10.0.0.5", &[]), Ok(false));
        assert!(of("10.0.0.5", &["[2001:db8::1]:25", "[::1]:25"]).is_err());
        assert!(of("fd00::5", &["0.0.0.0:25"]).is_err());
    }
}
