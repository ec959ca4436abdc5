//! What a process and all that it starts cost: time of the processor, and memory.
//!
//! A control group counts a whole tree of processes to the microsecond, with those that have ended. Where none can be made,
//! `/proc` gives the time to 10 ms.

use crate::Outcome;
use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

/// The processes of one peer.
pub struct Meter {
    group: Option<PathBuf>,
    /// The process that was started first.
    root: u32,
}

/// A control group for the groups of this run.
pub struct Groups(Option<PathBuf>);

impl Groups {
    pub fn new() -> Self {
        let Ok(mounts) = fs::read_to_string("/proc/mounts") else {
            return Self(None);
        };
        let mount = mounts.lines().find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (point, kind) = (fields.next()?, fields.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(point))
        });
        let group =
            mount.map(|mount| mount.join(format!("starttls-proxy-bench-{}", std::process::id())));
        Self(group.filter(|group| fs::create_dir(group).is_ok()))
    }

    pub fn exact(&self) -> bool {
        self.0.is_some()
    }

    /// A command that starts `program` in a group of its own.
    pub fn enter(&self, name: &str, program: &Path) -> Outcome<(Command, Option<PathBuf>)> {
        let Some(groups) = &self.0 else {
            return Ok((Command::new(program), None));
        };
        let group = groups.join(name.replace(|c: char| !c.is_alphanumeric(), "-"));
        match fs::create_dir(&group) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error.into()),
            _ => {}
        }
        let mut command = Command::new("sh");
        command
            .args(["-c", "echo $$ > \"$0\" && exec \"$@\""])
            .arg(group.join("cgroup.procs"))
            .arg(program);
        Ok((command, Some(group)))
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        // A group that still has a process stays; it costs nothing.
        for folder in self.0.iter() {
            for group in fs::read_dir(folder).into_iter().flatten().flatten() {
                let _ = fs::remove_dir(group.path());
            }
            let _ = fs::remove_dir(folder);
        }
    }
}

impl Meter {
    pub fn new(group: Option<PathBuf>, root: u32) -> Self {
        Self { group, root }
    }

    /// User and system time up to now.
    pub fn cpu(&self) -> Outcome<Duration> {
        if let Some(group) = &self.group {
            let stat = fs::read_to_string(group.join("cpu.stat"))?;
            let used = stat
                .lines()
                .find_map(|line| line.strip_prefix("usage_usec "))
                .ok_or("no usage_usec in cpu.stat")?;
            return Ok(Duration::from_micros(used.parse()?));
        }
        // proc(5): fields 14 to 17 are user and system time, of the process with its ended threads and of its ended children, in
        // ticks of 10 ms. The second field is in brackets and may have spaces.
        let mut ticks = 0;
        for process in self.processes() {
            // A process may end while it is looked at.
            let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
            let Some((_, fields)) = stat.rsplit_once(')') else {
                continue;
            };
            let times = fields.split_whitespace().skip(11).take(4);
            ticks += times
                .filter_map(|time| time.parse::<u64>().ok())
                .sum::<u64>();
        }
        Ok(Duration::from_millis(ticks * 10))
    }

    /// Octets in memory. Pages that several processes share are counted in part by each.
    pub fn memory(&self) -> u64 {
        let kibibytes = |path: String, field: &str| {
            fs::read_to_string(path)
                .unwrap_or_default()
                .lines()
                .find_map(|line| {
                    line.strip_prefix(field)?
                        .split_whitespace()
                        .next()?
                        .parse()
                        .ok()
                })
                .unwrap_or(0_u64)
        };
        let processes = self.processes();
        let sum: u64 = if let [process] = processes[..] {
            kibibytes(format!("/proc/{process}/status"), "VmRSS:")
        } else {
            let share = |process| kibibytes(format!("/proc/{process}/smaps_rollup"), "Pss:");
            processes.into_iter().map(share).sum()
        };
        sum * 1024
    }

    /// The tree of processes.
    pub fn processes(&self) -> Vec<u32> {
        if let Some(group) = &self.group {
            let processes = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
            return processes
                .lines()
                .filter_map(|line| line.parse().ok())
                .collect();
        }
        let mut tree = vec![self.root];
        let mut at = 0;
        while let Some(process) = tree.get(at).copied() {
            let path = format!("/proc/{process}/task/{process}/children");
            let children = fs::read_to_string(path).unwrap_or_default();
            tree.extend(
                children
                    .split_whitespace()
                    .filter_map(|child| child.parse::<u32>().ok()),
            );
            at += 1;
        }
        tree
    }

    /// Ends whatever is left of the tree.
    pub fn end(&self) {
        for process in self.processes() {
            // It may have ended by itself.
            let _ = Command::new("kill")
                .arg(process.to_string())
                .stderr(Stdio::null())
                .status();
        }
    }
}

/// The cores that this process may use, as `taskset` takes them.
pub fn cores() -> String {
    fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|text| {
            let list = text
                .lines()
                .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
            Some(list.trim().to_owned())
        })
        .unwrap_or_else(|| "0".into())
}

/// Lets these processes, with all their threads, use these cores only. Returns whether it worked for the last one: others may have
/// ended.
pub fn place(processes: &[u32], cores: &str) -> bool {
    let mut placed = false;
    for process in processes {
        placed = Command::new("taskset")
            .args(["--all-tasks", "--cpu-list", "--pid", cores])
            .arg(process.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
    }
    placed
}

/// The load average of the last minute.
pub fn load() -> f64 {
    fs::read_to_string("/proc/loadavg")
        .ok()
        .and_then(|text| text.split(' ').next()?.parse().ok())
        .unwrap_or(f64::NAN)
}

/// How many descriptors this process and those it starts may have.
pub fn descriptors() -> usize {
    fs::read_to_string("/proc/self/limits")
        .ok()
        .and_then(|text| {
            let line = text
                .lines()
                .find(|line| line.starts_with("Max open files"))?;
            line.split_whitespace().nth(3)?.parse().ok()
        })
        .unwrap_or(1024)
}
