//! The rules and routes that decide where a packet goes, as `ip` shows them.

use serde_json::Value;

use super::programs;

/// One routing rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::commands) struct RoutingRule {
    /// Lower ones are asked first.
    pub(in crate::commands) place: u64,
    /// The mark that it is for.
    pub(in crate::commands) mark: Option<u32>,
    /// The table that it leads to.
    pub(in crate::commands) table: Option<String>,
    /// The interface whose port 25 it refuses.
    pub(in crate::commands) locks: Option<String>,
}

/// The rules of a family, in their order.
///
/// # Errors
/// In words: `ip` is not there or failed.
pub(in crate::commands) fn rules(is_v6: bool) -> Result<Vec<RoutingRule>, String> {
    let family = if is_v6 { "-6" } else { "-4" };
    let text = programs::output("ip", &[family, "-j", "rule", "show"])?;
    Ok(read(&serde_json::from_str(&text).unwrap_or_default()))
}

fn read(shown: &Value) -> Vec<RoutingRule> {
    let rules = shown.as_array().into_iter().flatten();
    let rules = rules.map(|rule| {
        let refuses = ["prohibit", "unreachable", "blackhole"];
        let action = rule["action"].as_str().unwrap_or_default();
        // iproute2 shows the protocol by its name only where /etc/protocols has it.
        let is_tcp = rule["ipproto"] == "tcp" || rule["ipproto"] == "ipproto-6";
        let is_lock = refuses.contains(&action) && is_tcp && rule["dport"] == 25;
        RoutingRule {
            place: rule["priority"].as_u64().unwrap_or_default(),
            mark: rule["fwmark"].as_str().and_then(number),
            table: rule["table"].as_str().map(str::to_owned),
            locks: rule["iif"].as_str().filter(|_| is_lock).map(str::to_owned),
        }
    });
    rules.collect()
}

fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// Whether a table delivers every packet to this machine.
pub(in crate::commands) fn delivers_here(is_v6: bool, table: &str) -> bool {
    let family = if is_v6 { "-6" } else { "-4" };
    let shown = programs::output("ip", &[family, "-j", "route", "show", "table", table]);
    let shown: Value = serde_json::from_str(&shown.unwrap_or_default()).unwrap_or_default();
    let mut routes = shown.as_array().into_iter().flatten();
    routes.any(|route| route["type"] == "local" && route["dst"] == "default")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn marks_and_locks_are_told_from_other_rules() {
        // As iproute2 6.1 shows them.
        let shown = json!([
            {"priority": 0, "src": "all", "table": "local"},
            {"priority": 24, "src": "all", "fwmark": "0x19", "table": "100"},
            {"priority": 26, "src": "all", "iif": "gwi", "ipproto": "tcp", "dport": 25, "action": "prohibit"},
            {"priority": 26, "src": "all", "iif": "gwx", "ipproto": "ipproto-6", "dport": 25, "action": "prohibit"},
            {"priority": 27, "src": "all", "iif": "gwo", "ipproto": "tcp", "dport": 26, "action": "prohibit"},
            {"priority": 28, "src": "all", "iif": "gwo", "ipproto": "tcp", "dport": 25, "table": "main"},
        ]);
        let rules = read(&shown);
        let marks: Vec<_> = rules.iter().filter_map(|rule| rule.mark).collect();
        let locks: Vec<_> = rules
            .iter()
            .filter_map(|rule| rule.locks.as_deref())
            .collect();
        assert_eq!((marks, locks), (vec![0x19], vec!["gwi", "gwx"]));
        assert_eq!(rules[1].table.as_deref(), Some("100"));
        assert_eq!(read(&Value::Null), []);
    }
}
