//! The firewall's rules, as `nft -j list ruleset` prints them (libnftables-json(5)).

use std::collections::HashMap;

use serde_json::Value;

use super::programs;

/// A chain with its rules.
#[derive(Debug, Default)]
pub(in crate::commands) struct RuleChain {
    /// `inet`, `ip`, `ip6` ...
    pub(in crate::commands) family: String,
    /// Its table.
    pub(in crate::commands) table: String,
    /// Its name.
    pub(in crate::commands) name: String,
    /// Where the kernel calls it: `prerouting`, `input`, `forward`; `None` for a chain that others jump to.
    pub(in crate::commands) hook: Option<String>,
    /// Lower ones are called first.
    pub(in crate::commands) priority: i64,
    /// What reaches the end is dropped.
    pub(in crate::commands) drops: bool,
    /// The statements of each rule.
    pub(in crate::commands) rules: Vec<Vec<Value>>,
}

impl RuleChain {
    /// As nft's commands name it: `inet filter input`.
    pub(in crate::commands) fn place(&self) -> String {
        format!("{} {} {}", self.family, self.table, self.name)
    }
}

/// All rules of this network namespace.
#[derive(Debug, Default)]
pub(in crate::commands) struct Ruleset {
    /// In the order of nft.
    pub(in crate::commands) chains: Vec<RuleChain>,
    /// The elements of named sets and maps, by family, table and name.
    sets: HashMap<[String; 3], Vec<Value>>,
}

impl Ruleset {
    /// Asks nft.
    ///
    /// # Errors
    /// In words: nft is not there, or may not read the rules.
    pub(in crate::commands) fn read() -> Result<Self, String> {
        Self::parse(&programs::output("nft", &["-j", "list", "ruleset"])?)
    }

    /// Reads nft's JSON.
    ///
    /// # Errors
    /// In words: it is no JSON.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let shown: Value = serde_json::from_str(text)
            .map_err(|error| format!("nft: its output cannot be read: {error}"))?;
        let mut ruleset = Self::default();
        for object in shown["nftables"].as_array().into_iter().flatten() {
            let word =
                |kind: &str, name: &str| object[kind][name].as_str().unwrap_or_default().to_owned();
            if object["chain"].is_object() {
                ruleset.chains.push(RuleChain {
                    family: word("chain", "family"),
                    table: word("chain", "table"),
                    name: word("chain", "name"),
                    hook: object["chain"]["hook"].as_str().map(str::to_owned),
                    priority: object["chain"]["prio"].as_i64().unwrap_or_default(),
                    drops: object["chain"]["policy"] == "drop",
                    rules: Vec::new(),
                });
            } else if object["rule"].is_object() {
                let (family, table) = (word("rule", "family"), word("rule", "table"));
                let statements = object["rule"]["expr"].as_array().cloned();
                let name = word("rule", "chain");
                let mut chains = ruleset.chains.iter_mut();
                let own = chains.find(|chain| {
                    chain.family == family && chain.table == table && chain.name == name
                });
                if let Some(chain) = own {
                    chain.rules.push(statements.unwrap_or_default());
                }
            }
            for kind in ["set", "map"] {
                if object[kind].is_object() {
                    let key = ["family", "table", "name"].map(|name| word(kind, name));
                    let elements = object[kind]["elem"].as_array().cloned();
                    ruleset.sets.insert(key, elements.unwrap_or_default());
                }
            }
        }
        Ok(ruleset)
    }

    /// The chains that the kernel calls at `hook`, in its order.
    pub(super) fn at(&self, hook: &str, is_v6: bool) -> Vec<&RuleChain> {
        let family = if is_v6 { "ip6" } else { "ip" };
        let chains = self.chains.iter();
        let mut called: Vec<&RuleChain> = chains
            .filter(|chain| chain.hook.as_deref() == Some(hook))
            .filter(|chain| chain.family == "inet" || chain.family == family)
            .collect();
        called.sort_by_key(|chain| chain.priority);
        called
    }

    /// The chain that a rule of `from` jumps to.
    pub(super) fn target(&self, from: &RuleChain, name: &str) -> Option<&RuleChain> {
        let mut chains = self.chains.iter();
        chains.find(|chain| {
            chain.family == from.family && chain.table == from.table && chain.name == name
        })
    }

    /// The elements of a set or map that a rule of `from` names.
    pub(super) fn elements(&self, from: &RuleChain, name: &str) -> &[Value] {
        let key = [from.family.clone(), from.table.clone(), name.to_owned()];
        self.sets.get(&key).map_or(&[], Vec::as_slice)
    }
}
