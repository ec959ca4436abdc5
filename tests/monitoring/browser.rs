//! The page for people in a real browser.

use crate::{pages::refusing, world::World};
use std::{fs, path::Path, process::Command};

#[test]
fn a_browser_shows_the_page_without_a_complaint_and_runs_nothing_of_a_hostile_refusal() {
    let world = World::new();
    let (_proxy, status) = refusing(&world, &[]);
    let folder = &world.scratch.0;
    let picture = folder.join("picture.png");
    let url = format!("http://{status}/");
    let screenshot = format!("--screenshot={}", picture.display());
    let shown = chromium(folder, &["--window-size=1280,2400", &screenshot, &url]);
    let Some((said, _)) = shown else {
        eprintln!("SKIPPED: no chromium here, the status page was not looked at; install it");
        return;
    };
    assert!(!said.contains("CONSOLE"), "{said}");
    let png = fs::read(&picture).expect("a picture");
    assert_eq!(
        png[16..24],
        [1280_u32.to_be_bytes(), 2400_u32.to_be_bytes()].concat()[..]
    );
    assert!(
        png.len() > 50_000,
        "an empty picture of {} octets",
        png.len()
    );
    if let Some(keep) = std::env::var_os("STATUS_PAGE") {
        fs::copy(&picture, Path::new(&keep).join("status.png")).expect("copied");
    }
    let (_, document) = chromium(folder, &["--dump-dom", &url]).expect("it was there before");
    let parts = [
        "Last refusals, and what to do",
        "<title>proxy.hospital.example outbound",
    ];
    for part in parts {
        assert!(document.contains(part), "{part}: {document}");
    }
    for element in ["<script", "<img", "onerror=\""] {
        assert!(!document.contains(element), "{element}: {document}");
    }
}

/// What the browser said and printed. `None`: there is none.
fn chromium(folder: &Path, arguments: &[&str]) -> Option<(String, String)> {
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
