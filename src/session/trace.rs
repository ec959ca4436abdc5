//! The trace line of `--add-received` (RFC 5321 §4.4, RFC 8314 §4.3).

use std::{net::IpAddr, time::SystemTime};

use crate::{audit::DirectionField, clock, smtp::fits_a_trace};

/// The line for a message that begins now. `hello` is the client's name in EHLO, `suite` the cipher suite of the outside leg.
pub(super) fn line(
    hello: Option<&[u8]>,
    client: IpAddr,
    hostname: &str,
    direction: DirectionField,
    session_id: &str,
    suite: &str,
) -> Vec<u8> {
    let from = hello.and_then(plain_name).unwrap_or("unknown");
    let ip = match client {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("IPv6:{ip}"),
    };
    // TLS is on the outside leg. Inbound that is the hop to this proxy, which a trace line is about. Outbound it is the next hop, so
    // nothing more than ESMTP is true of the hop to this proxy.
    let with = match direction {
        DirectionField::Inbound => "ESMTPS",
        DirectionField::Outbound => "ESMTP",
    };
    format!(
        "Received: from {from} ([{ip}])\r\n\tby {hostname} (starttls-proxy) with {with} id {session_id}\r\n\ttls {suite};\r\n\t{}\r\n",
        rfc5322_date(clock::wall()),
    )
    .into_bytes()
}

/// A name in EHLO, if it can stand in a trace line.
fn plain_name(name: &[u8]) -> Option<&str> {
    let fits = fits_a_trace(name);
    std::str::from_utf8(name).ok().filter(|_| fits)
}

/// RFC 5322 §3.3.
fn rfc5322_date(at: SystemTime) -> String {
    httpdate::fmt_http_date(at).replace("GMT", "+0000")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_date_is_in_the_form_of_rfc_5322() {
        let at = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_795_502_136);
        assert_eq!(rfc5322_date(at), "Tue, 24 Nov 2026 06:35:36 +0000");
    }
}
