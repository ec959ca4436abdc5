//! The PROXY protocol, versions 1 and 2: read from a listed load balancer, or sent to the inside server. Pure. Written by hand, because
//! it is two short formats, and nothing beyond the addresses is used.

use std::{
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

/// First 12 octets of a version 2 header.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Longest version 1 header, CRLF included, in octets.
const LONGEST_V1: usize = 107;
/// Longest version 2 header that is accepted, in octets. Longer TLVs are not needed here.
const LONGEST_V2: usize = 16 + 2048;

/// Which version to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

impl FromStr for Version {
    type Err = String;
    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "v1" => Ok(Self::V1),
            "v2" => Ok(Self::V2),
            _ => Err(format!("'{word}' is neither v1 nor v2")),
        }
    }
}

/// Content of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The connection came from the first address and was meant for the second.
    Addresses(SocketAddr, SocketAddr),
    /// LOCAL or UNKNOWN: the balancer itself connected (a health check). The socket's own addresses hold.
    Balancer,
}

/// Result of reading the first octets of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// More octets are needed.
    Partial,
    /// A whole header, and its length in octets.
    Whole(Origin, usize),
    /// No header, or a broken one.
    Malformed,
}

/// Reads a header from the first octets of a connection.
#[must_use]
pub fn parse(bytes: &[u8]) -> Parsed {
    let common = bytes.len().min(SIGNATURE.len());
    if bytes[..common] == SIGNATURE[..common] {
        return if common < SIGNATURE.len() {
            Parsed::Partial
        } else {
            parse_v2(bytes)
        };
    }
    let common = bytes.len().min(6);
    if bytes[..common] != b"PROXY "[..common] {
        return Parsed::Malformed;
    }
    match bytes.iter().take(LONGEST_V1).position(|b| *b == b'\n') {
        Some(end) => parse_v1(&bytes[..=end])
            .map_or(Parsed::Malformed, |origin| Parsed::Whole(origin, end + 1)),
        None if bytes.len() < LONGEST_V1 => Parsed::Partial,
        None => Parsed::Malformed,
    }
}

fn parse_v1(line: &[u8]) -> Option<Origin> {
    let text = std::str::from_utf8(line).ok()?.strip_suffix("\r\n")?;
    let mut words = text.strip_prefix("PROXY ")?.split(' ');
    let family = words.next()?;
    if family == "UNKNOWN" {
        return Some(Origin::Balancer);
    }
    let source: IpAddr = words.next()?.parse().ok()?;
    let destination: IpAddr = words.next()?.parse().ok()?;
    let source_port = port(words.next()?)?;
    let destination_port = port(words.next()?)?;
    let same = matches!(
        (family, source, destination),
        ("TCP4", IpAddr::V4(_), IpAddr::V4(_)) | ("TCP6", IpAddr::V6(_), IpAddr::V6(_))
    );
    (same && words.next().is_none()).then_some(Origin::Addresses(
        SocketAddr::new(source, source_port),
        SocketAddr::new(destination, destination_port),
    ))
}

/// Digits only, without sign or leading zero (PROXY protocol §2.1).
fn port(word: &str) -> Option<u16> {
    let plain = word.bytes().all(|b| b.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
    if plain { word.parse().ok() } else { None }
}

fn parse_v2(bytes: &[u8]) -> Parsed {
    let Some(head) = bytes.get(12..16) else {
        return Parsed::Partial;
    };
    let (version_command, family) = (head[0], head[1]);
    let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
    let whole = 16 + length;
    if whole > LONGEST_V2 {
        return Parsed::Malformed;
    }
    let Some(body) = bytes.get(16..whole) else {
        return Parsed::Partial;
    };
    let origin = match (version_command, family) {
        (0x20, _) => Some(Origin::Balancer),
        (0x21, 0x11) => addresses::<4>(body)
            .map(|(s, d, sp, dp)| Origin::Addresses((s, sp).into(), (d, dp).into())),
        (0x21, 0x21) => addresses::<16>(body)
            .map(|(s, d, sp, dp)| Origin::Addresses((s, sp).into(), (d, dp).into())),
        (0x21, 0x00) => Some(Origin::Balancer),
        _ => None,
    };
    origin.map_or(Parsed::Malformed, |origin| Parsed::Whole(origin, whole))
}

fn addresses<const N: usize>(body: &[u8]) -> Option<([u8; N], [u8; N], u16, u16)> {
    let source = body.get(..N)?.try_into().ok()?;
    let destination = body.get(N..2 * N)?.try_into().ok()?;
    let ports = body.get(2 * N..2 * N + 4)?;
    Some((
        source,
        destination,
        u16::from_be_bytes([ports[0], ports[1]]),
        u16::from_be_bytes([ports[2], ports[3]]),
    ))
}

/// The header that tells the inside server the client's address. If the families differ, both addresses are written as IPv6.
#[must_use]
pub fn header(version: Version, client: SocketAddr, intended: SocketAddr) -> Vec<u8> {
    let v4 = client.is_ipv4() && intended.is_ipv4();
    let (source, destination) = if v4 {
        (client.ip(), intended.ip())
    } else {
        (mapped(client.ip()), mapped(intended.ip()))
    };
    match version {
        Version::V1 => {
            let family = if v4 { "TCP4" } else { "TCP6" };
            format!(
                "PROXY {family} {source} {destination} {} {}\r\n",
                client.port(),
                intended.port()
            )
            .into_bytes()
        }
        Version::V2 => {
            let (family, length) = if v4 { (0x11, 12_u16) } else { (0x21, 36) };
            let mut out = SIGNATURE.to_vec();
            out.extend([0x21, family]);
            out.extend(length.to_be_bytes());
            for ip in [source, destination] {
                match ip {
                    IpAddr::V4(ip) => out.extend(ip.octets()),
                    IpAddr::V6(ip) => out.extend(ip.octets()),
                }
            }
            out.extend(client.port().to_be_bytes());
            out.extend(intended.port().to_be_bytes());
            out
        }
    }
}

fn mapped(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().into(),
        IpAddr::V6(_) => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn what_is_sent_is_read_back_and_never_from_half_a_header() {
        for (client, intended) in [
            ("192.0.2.1:4711", "198.51.100.2:25"),
            ("[2001:db8::1]:4711", "[2001:db8::2]:25"),
        ] {
            let (client, intended) = (address(client), address(intended));
            for version in [Version::V1, Version::V2] {
                let mut bytes = header(version, client, intended);
                let length = bytes.len();
                for cut in 0..length {
                    assert_eq!(
                        parse(&bytes[..cut]),
                        Parsed::Partial,
                        "{version:?} cut at {cut}"
                    );
                }
                bytes.extend(b"EHLO x\r\n");
                assert_eq!(
                    parse(&bytes),
                    Parsed::Whole(Origin::Addresses(client, intended), length)
                );
            }
        }
    }

    #[test]
    fn unknown_and_local_keep_the_sockets_own_addresses() {
        assert_eq!(
            parse(b"PROXY UNKNOWN\r\n"),
            Parsed::Whole(Origin::Balancer, 15)
        );
        assert_eq!(
            parse(b"PROXY UNKNOWN ffff:: ffff:: 1 2\r\n"),
            Parsed::Whole(Origin::Balancer, 33)
        );
        let mut local = SIGNATURE.to_vec();
        local.extend([0x20, 0x00, 0, 0]);
        assert_eq!(parse(&local), Parsed::Whole(Origin::Balancer, 16));
    }

    #[test]
    fn what_is_no_header_is_refused_at_once() {
        for bytes in [
            &b"EHLO x\r\n"[..],
            b"\x16\x03\x01",
            b"PROXY TCP4 192.0.2.1 198.51.100.2 4711\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.2 4711 25 x\r\n",
            b"PROXY TCP4 2001:db8::1 198.51.100.2 4711 25\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.2 04711 25\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.2 +4711 25\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.2 4711 25\n",
            &[b'P'; 200],
        ] {
            assert_eq!(parse(bytes), Parsed::Malformed, "{}", bytes.escape_ascii());
        }
        let mut long = b"PROXY UNKNOWN ".to_vec();
        long.extend([b'x'; 100]);
        assert_eq!(parse(&long), Parsed::Malformed);
        let mut huge = SIGNATURE.to_vec();
        huge.extend([0x21, 0x11, 0xff, 0xff]);
        assert_eq!(parse(&huge), Parsed::Malformed);
    }
}
