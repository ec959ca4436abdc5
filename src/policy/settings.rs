//! The settings of the command line that hold for all domains.

use super::level::Level;

/// `--refuse-with`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RefuseWith {
    /// 4yz.
    #[default]
    Defer,
    /// 5yz where authenticated facts alone decided, else 4yz.
    Reject,
}

/// What the command line says for all domains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `--level`.
    pub level: Level,
    /// DANE is used (not `--no-dane`).
    pub dane: bool,
    /// MTA-STS is used (not `--no-mta-sts`).
    pub mta_sts: bool,
    /// `--refuse-with`.
    pub refuse_with: RefuseWith,
    /// `--observe`.
    pub observe: bool,
    /// `--min-tls 1.3`.
    pub tls13_only: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            level: Level::Verify,
            dane: true,
            mta_sts: true,
            refuse_with: RefuseWith::Defer,
            observe: false,
            tls13_only: false,
        }
    }
}

impl Settings {
    /// Whether the flags go together. Called before the first socket is bound.
    ///
    /// # Errors
    ///
    /// Says which flags contradict each other, and what to do.
    pub(crate) fn check(&self, upstream: bool) -> Result<(), String> {
        let level = self.level;
        let wrong = |why: &str| Err(format!("--level {level}: {why}"));
        match level {
            Level::None | Level::May => wrong(
                "plaintext is never the default; write entries for those who need it into the --policy table",
            ),
            Level::Fingerprint => {
                wrong("a fingerprint belongs to one peer; write entries into the --policy table")
            }
            Level::Dane | Level::DaneOnly if !self.dane => {
                wrong("it needs DANE; leave --no-dane away")
            }
            Level::MtaSts if !self.mta_sts => wrong("it needs MTA-STS; leave --no-mta-sts away"),
            Level::MtaSts if upstream => wrong(
                "MTA-STS is about recipients' domains, not about an --upstream host; choose verify",
            ),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::level::ALL;

    #[test]
    fn plaintext_and_contradictions_are_no_default() {
        let check = |level, dane, mta_sts, upstream| {
            Settings {
                level,
                dane,
                mta_sts,
                ..Settings::default()
            }
            .check(upstream)
            .is_ok()
        };
        for level in ALL {
            let may_be = !matches!(level, Level::None | Level::May | Level::Fingerprint);
            assert_eq!(check(level, true, true, false), may_be, "{level}");
            let without = matches!(level, Level::Encrypt | Level::Verify | Level::Secure);
            assert_eq!(check(level, false, false, false), without, "{level}");
            assert_eq!(
                check(level, true, true, true),
                may_be && level != Level::MtaSts,
                "{level}"
            );
        }
    }
}
