//! A real browser, for the tests that look at a page.

use std::{path::Path, process::Command};

/// What chromium said and printed, with its own files below this folder. `None`: there is none.
pub fn chromium(folder: &Path, arguments: &[&str]) -> Option<(String, String)> {
    let data = folder.join("browser");
    let output = Command::new("chromium")
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
        ])
        .args([
            "--disable-component-update",
            "--disable-sync",
            "--no-first-run",
        ])
        .arg("--enable-logging=stderr")
        .arg(format!("--user-data-dir={}", data.display()))
        .args(arguments)
        .output();
    let output = output.ok()?;
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    let (printed, said) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{said}");
    Some((said, printed))
}
