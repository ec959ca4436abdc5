//! Plays every file of `tests/dialogues` at the machine: as it is written, byte by byte, and cut in two at every byte.
//!
//! `DIALOGUE=part-of-a-name cargo test --test dialogues` plays only those files, and prints nothing else. What a file may
//! say is told in `dialogues/script.rs`, what must hold in every session in `dialogues/watch.rs`.

#[path = "dialogues/backpressure.rs"]
mod backpressure;
#[path = "dialogues/machine.rs"]
mod machine;
#[path = "dialogues/play.rs"]
mod play;
#[path = "dialogues/script.rs"]
mod script;
#[path = "dialogues/stage.rs"]
mod stage;
#[path = "dialogues/watch.rs"]
mod watch;
#[path = "dialogues/wire.rs"]
mod wire;

#[path = "support/pki.rs"]
mod pki;

use script::Script;
use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dialogues")
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the folder of dialogues") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files(&path, found);
        } else if path
            .extension()
            .is_some_and(|extension| extension == "smtp")
        {
            found.push(path);
        }
    }
}

/// The first way in which the machine differs from the script, if any.
fn differs(script: &Script) -> Option<String> {
    play::cuts(script).into_iter().find_map(|cut| {
        let machine = match machine::build(script.direction, &script.options) {
            Ok(machine) => machine,
            Err(e) => return Some(e),
        };
        let played = catch_unwind(AssertUnwindSafe(|| play::play(script, machine, cut)));
        let failure = match played {
            Ok(outcome) => outcome.err()?,
            Err(_) => "the machine panics".to_owned(),
        };
        Some(format!("{} ({cut:?})\n  {failure}", script.name))
    })
}

/// All files, or those that `DIALOGUE` names.
fn scripts() -> Vec<Result<Script, String>> {
    let only = std::env::var("DIALOGUE").unwrap_or_default();
    let mut paths = Vec::new();
    files(&root(), &mut paths);
    paths.sort();
    let mut scripts = Vec::new();
    for path in paths
        .iter()
        .filter(|path| path.display().to_string().contains(&only))
    {
        match script::load(&root(), path) {
            Ok(loaded) => scripts.extend(loaded.into_iter().map(Ok)),
            Err(e) => scripts.push(Err(e)),
        }
    }
    assert!(!scripts.is_empty(), "no dialogue is called {only:?}");
    scripts
}

#[test]
fn every_dialogue_goes_as_it_is_written_however_it_is_cut() {
    let scripts = scripts();
    let failures: Vec<String> = scripts
        .iter()
        .filter_map(|script| match script {
            Ok(script) => differs(script),
            Err(e) => Some(e.clone()),
        })
        .collect();
    assert!(
        failures.is_empty(),
        "{} of {}:\n\n{}",
        failures.len(),
        scripts.len(),
        failures.join("\n\n")
    );
}

/// Number of failures over sockets after which the test stops.
const MANY: usize = 5;

#[test]
fn every_dialogue_goes_the_same_way_over_sockets() {
    let mut failures = Vec::new();
    let (mut played, mut left_out) = (0, 0);
    for script in scripts().iter().flatten() {
        if wire::unplayable(script).is_some() {
            left_out += 1;
            continue;
        }
        played += 1;
        let machine =
            machine::build(script.direction, &script.options).expect("told by the other test");
        if let Err(e) = wire::play(script, machine) {
            failures.push(format!("{}\n  {e}", script.name));
        }
        // Each of them may have waited for something that does not come.
        if failures.len() == MANY {
            break;
        }
    }
    assert!(
        failures.len() == MANY || played > left_out,
        "{played} played, {left_out} left out"
    );
    assert!(
        failures.is_empty(),
        "{} of {played}:\n\n{}",
        failures.len(),
        failures.join("\n\n")
    );
}

/// A script that the machine does not follow must fail, or the interpreter notices nothing.
mod the_interpreter_notices {
    use super::*;
    use script::Direction;

    const UNTIL_HELLO: &str =
        "# x (RFC 5321 §1).\noutbound\nconnect\nconnected\ns -> 220 mx ESMTP\nc <~ 220 *\n";

    fn play(lines: &str) -> Result<(), String> {
        let folder = tempfile(lines);
        let loaded = script::load(&folder, &folder.join("x.smtp"));
        fs::remove_dir_all(&folder).expect("removed");
        let script = loaded?.remove(0);
        let machine = machine::build(Direction::Outbound, &script.options)?;
        play::play(&script, machine, play::Cut::Whole)
    }

    fn tempfile(lines: &str) -> PathBuf {
        static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("dialogue-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(folder.join("x.smtp"), format!("{UNTIL_HELLO}{lines}")).expect("a file");
        folder
    }

    #[test]
    fn what_was_not_expected() {
        assert_eq!(play(""), Ok(()));
        let got = play("c -> EHLO a.example\n");
        assert!(
            got.as_ref()
                .is_err_and(|e| e.contains("unexpected, to the Server")),
            "{got:?}"
        );
    }

    #[test]
    fn what_did_not_come() {
        let got = play("c -> EHLO a.example\ns <- EHLO b.example\n");
        assert!(
            got.as_ref()
                .is_err_and(|e| e.contains("it gets: EHLO a.example")),
            "{got:?}"
        );
        let got = play("ask peer\n");
        assert!(
            got.as_ref().is_err_and(|e| e.contains("the proxy did: []")),
            "{got:?}"
        );
    }

    #[test]
    fn a_first_line_without_a_rule() {
        let folder = tempfile("");
        fs::write(folder.join("x.smtp"), "outbound\n").expect("a file");
        let loaded = script::load(&folder, &folder.join("x.smtp"));
        fs::remove_dir_all(&folder).expect("removed");
        assert!(loaded.is_err());
    }
}
