//! Programs of the system that show what only they can read. None of them is told to change anything.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Where programs for the administrator are, also if the caller's PATH lacks it.
const MORE: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The file of a program.
pub(in crate::commands) fn found(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = std::env::split_paths(MORE);
    let mut folders = std::env::split_paths(&path).chain(more);
    folders.find_map(|folder| {
        let file = folder.join(program);
        file.is_file().then_some(file)
    })
}

/// What a program prints.
///
/// # Errors
/// In words: it is not there, or what it said when it failed.
pub(in crate::commands) fn output(program: &str, arguments: &[&str]) -> Result<String, String> {
    let file = found(program).ok_or_else(|| format!("{program} is not installed"))?;
    let output = Command::new(file)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            let first = said.lines().find(|line| !line.trim().is_empty());
            Err(format!(
                "{program}: {}",
                first.unwrap_or("it failed").trim()
            ))
        }
    }
}

/// Whether systemd runs this machine (sd_booted(3)).
pub(in crate::commands) fn is_systemd_running() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// A word as a shell reads it back.
pub(in crate::commands) fn shell_word(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}
