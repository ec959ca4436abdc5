//! What was measured on.

use jiff::Timestamp;
use serde::Serialize;
use starttls_proxy::clock;
use std::fs;

#[derive(Serialize)]
pub struct Machine {
    pub processor: String,
    pub cores: usize,
    pub kernel: String,
    pub memory_gib: u64,
    pub descriptors: usize,
    /// Beginning of the run, UTC.
    pub date: String,
}

impl Machine {
    pub fn look() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            text.lines()
                .find_map(|line| {
                    line.strip_prefix(name)?
                        .split_once(':')
                        .map(|(_, value)| value.trim().to_owned())
                })
                .unwrap_or_else(|| "unknown".into())
        };
        let kibibytes = field(&read("/proc/meminfo"), "MemTotal");
        let kibibytes: u64 = kibibytes
            .split(' ')
            .next()
            .and_then(|number| number.parse().ok())
            .unwrap_or(0);
        Self {
            processor: field(&read("/proc/cpuinfo"), "model name"),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            memory_gib: kibibytes >> 20,
            descriptors: crate::measure::descriptors(),
            date: Timestamp::try_from(clock::wall()).map_or_else(
                |_| "unknown".into(),
                |time| time.strftime("%Y-%m-%d %H:%M").to_string(),
            ),
        }
    }
}
