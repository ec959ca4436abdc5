//! What is seen from outside: the pages of `--metrics`, the manual's table of metrics, the dashboard and the alert rules.
//!
//! `real_servers` needs prometheus with promtool (tests/run installs them where it may); without them its tests fail and say so. The
//! page is looked at in chromium, where that is installed.

#[path = "../../examples/demo/dns.rs"]
mod dns;
#[path = "../support/running.rs"]
mod running;

mod browser;
mod documents;
mod pages;
mod real_servers;
mod world;
