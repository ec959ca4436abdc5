//! `/etc/hosts` and `localhost`, for names from the administrator (`--upstream`). Recipients' domains are never looked up here.

use crate::files;
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

/// The addresses of `name` in the hosts file at `path`, in the file's order; empty if it is not in the file. `localhost` is always this
/// host (RFC 6761 §6.3).
#[must_use]
pub(crate) fn addresses(path: &Path, name: &str) -> Vec<IpAddr> {
    let text = files::text(path, files::LARGE).unwrap_or_default();
    let found = named(&text, name);
    if found.is_empty() && name.eq_ignore_ascii_case("localhost") {
        return vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    }
    found
}

fn named(text: &str, name: &str) -> Vec<IpAddr> {
    let lines = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default());
    lines
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let address = words.next()?.parse().ok()?;
            words
                .any(|word| word.eq_ignore_ascii_case(name))
                .then_some(address)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_with_the_name_counts_and_comments_do_not() {
        let text = "10.0.0.5 exchange.corp Exchange # old\n# 10.0.0.6 exchange.corp\nfd00::5 exchange.corp\nx exchange.corp\n";
        let found: Vec<IpAddr> = vec!["10.0.0.5".parse().unwrap(), "fd00::5".parse().unwrap()];
        assert_eq!(named(text, "EXCHANGE.corp"), found);
        assert_eq!(named(text, "exchange"), found[..1]);
        assert!(named(text, "old").is_empty());
    }

    #[test]
    fn localhost_is_this_host_where_no_file_says_so() {
        let nowhere = Path::new("/nonexistent/hosts");
        assert_eq!(addresses(nowhere, "localhost").len(), 2);
        assert!(addresses(nowhere, "relay.example").is_empty());
    }
}
