//! Address prefixes.

use std::{fmt, net::IpAddr, str::FromStr};

/// An address prefix such as `192.0.2.0/24` or `2001:db8::/32`. A bare address is a prefix of full length. An IPv4-mapped IPv6
/// address (`::ffff:192.0.2.1`) counts as IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    network: IpAddr,
    length: u8,
}

impl Prefix {
    /// Whether the prefix contains the address.
    #[must_use]
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.network.is_ipv4() && network(address, self.length) == self.network
    }

    /// Whether the prefix contains all addresses of the other one.
    #[must_use]
    pub(crate) fn covers(&self, other: Self) -> bool {
        self.length <= other.length && self.contains(other.network)
    }

    /// The two prefixes of which this one consists; `None` for a single address.
    #[must_use]
    pub(crate) fn halves(&self) -> Option<[Self; 2]> {
        let length = (self.length < bits(self.network)).then(|| self.length + 1)?;
        let upper = match self.network {
            IpAddr::V4(ip) => IpAddr::V4((u32::from(ip) | 1 << (32 - length)).into()),
            IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) | 1 << (128 - length)).into()),
        };
        let half = |network| Self { network, length };
        Some([half(self.network), half(upper)])
    }

    /// All addresses: `0.0.0.0/0` and `::/0`.
    #[must_use]
    pub(crate) fn everything() -> [Self; 2] {
        [
            IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
        ]
        .map(|network| Self { network, length: 0 })
    }

    /// The length in bits. A longer prefix is more specific.
    #[must_use]
    pub(crate) fn length(&self) -> u8 {
        self.length
    }

    /// The address of a prefix of full length; `None` for a shorter prefix.
    #[must_use]
    pub(crate) fn address(&self) -> Option<IpAddr> {
        (self.length == bits(self.network)).then_some(self.network)
    }
}

impl From<IpAddr> for Prefix {
    fn from(address: IpAddr) -> Self {
        let network = address.to_canonical();
        let length = bits(network);
        Self { network, length }
    }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The address with all bits after the first `length` cleared.
fn network(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            IpAddr::V4((u32::from(ip) & mask).into())
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            IpAddr::V6((u128::from(ip) & mask).into())
        }
    }
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| {
            format!("{text:?} is no address or prefix, write 192.0.2.0/24 or 2001:db8::/32")
        })?;
        let address = address.to_canonical();
        let longest = bits(address);
        let length = match length {
            None => longest,
            Some(digits) => digits
                .parse()
                .ok()
                .filter(|length| *length <= longest && !digits.starts_with('+'))
                .ok_or_else(|| format!("{text:?}: the prefix length is not 0 to {longest}"))?,
        };
        let prefix = Self {
            network: network(address, length),
            length,
        };
        if prefix.network == address {
            Ok(prefix)
        } else {
            Err(format!(
                "{text:?} has bits behind the prefix, write {prefix} or {address}/{longest}"
            ))
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_contains_what_shares_its_bits() {
        let contains = |prefix: &str, address: &str| {
            prefix
                .parse::<Prefix>()
                .expect("prefix")
                .contains(address.parse().expect("address"))
        };
        assert!(contains("192.0.2.128/25", "192.0.2.200"));
        assert!(contains("192.0.2.128/25", "::ffff:192.0.2.200"));
        assert!(!contains("192.0.2.128/25", "192.0.2.1"));
        assert!(contains("::/0", "2001:db8::1") && !contains("::/0", "192.0.2.1"));
        assert!(contains("0.0.0.0/0", "192.0.2.1") && !contains("0.0.0.0/0", "::1"));
        assert!(contains("2001:db8::1", "2001:db8::1") && !contains("2001:db8::1", "2001:db8::2"));
    }

    #[test]
    fn a_prefix_consists_of_its_halves() {
        let halves = |prefix: &str| prefix.parse::<Prefix>().expect("prefix").halves();
        let shown = |halves: [Prefix; 2]| halves.map(|half| half.to_string());
        assert_eq!(
            halves("0.0.0.0/0").map(shown),
            Some(["0.0.0.0/1".into(), "128.0.0.0/1".into()])
        );
        assert_eq!(
            halves("2001:db8::/127").map(shown),
            Some(["2001:db8::/128".into(), "2001:db8::1/128".into()])
        );
        assert_eq!(halves("192.0.2.1"), None);
        let [v4, v6] = Prefix::everything();
        assert!(v4.covers("192.0.2.0/24".parse().expect("prefix")));
        assert!(!v4.covers(v6) && v6.covers("::1".parse().expect("prefix")));
    }

    #[test]
    fn host_bits_and_wrong_lengths_are_errors_that_say_what_to_write() {
        let error = |prefix: &str| prefix.parse::<Prefix>().expect_err("error");
        assert!(error("192.0.2.1/24").contains("write 192.0.2.0/24 or 192.0.2.1/32"));
        for bad in [
            "192.0.2.0/33",
            "::/129",
            "192.0.2.0/",
            "192.0.2.0/+8",
            "192.0.2.0/-1",
            "example.com",
            "",
        ] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad}");
        }
    }
}
