//! The manual leads where it says: links, anchors, commands and flags.

use crate::source::{root, sources};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
};

/// Flags that the manual names and that belong to other programs.
const OF_OTHERS: [(&str, &str); 17] = [
    ("apt", "--allow-downgrades"),
    (
        "benches/run",
        "--only --peers --proxy --write --no-install-recommends",
    ),
    (
        "cargo",
        "--bench --example --features --profile --release --target --test --lib --locked --open",
    ),
    (
        "a test of cargo",
        "--ignored --nocapture --test-threads --exact",
    ),
    ("certbot", "--deploy-hook --reuse-key"),
    ("cp", "--remove-destination"),
    ("dpkg-deb", "--fsys-tarfile"),
    ("du", "--apparent-size"),
    ("journalctl", "--since"),
    ("lego", "--path --renew-hook"),
    ("sha256sum", "--check --ignore-missing"),
    ("split", "--filter"),
    ("systemctl", "--kill-who --kill-whom --now"),
    ("tar", "--exclude"),
    ("tests/run", "--without-lab"),
    ("the program itself", "--help --version"),
    ("zstd", "--rm"),
];

/// A page of the manual, as its reader finds it.
struct Page {
    /// From the root of the crate.
    path: String,
    text: String,
}

fn pages() -> Vec<Page> {
    let named = [
        "README.md",
        "CHANGELOG.md",
        "SECURITY.md",
        "CONTRIBUTING.md",
    ];
    let mut paths: Vec<String> = named.map(str::to_owned).to_vec();
    for entry in fs::read_dir(root().join("docs")).expect("docs") {
        let name = entry.expect("an entry").file_name();
        let name = name.into_string().expect("a name in UTF-8");
        if name.ends_with(".md") {
            paths.push(format!("docs/{name}"));
        }
    }
    assert!(paths.len() > 15, "{paths:?}");
    let read = |path: String| Page {
        text: fs::read_to_string(root().join(&path)).expect("a page"),
        path,
    };
    paths.into_iter().map(read).collect()
}

/// What a page shows as code, each line that goes on behind `\` as one; and its prose without that.
fn code_and_prose(text: &str) -> (Vec<String>, String) {
    let (mut code, mut prose) = (Vec::<String>::new(), String::new());
    let (mut fenced, mut goes_on) = (false, false);
    for line in text.lines() {
        let marker = line.trim_start().starts_with("```");
        fenced ^= marker;
        if fenced || marker || line.starts_with("    ") {
            let line = line.trim();
            let (line, more) = match line.strip_suffix('\\') {
                Some(start) => (start, true),
                None => (line, false),
            };
            match code.last_mut() {
                Some(last) if goes_on => *last += line,
                _ => code.push(line.to_owned()),
            }
            goes_on = more;
        } else {
            goes_on = false;
            prose += line;
            prose.push('\n');
        }
    }
    // Every second part stands between backticks, which may span two lines.
    let mut plain = String::new();
    for (number, part) in prose.split('`').enumerate() {
        match number % 2 {
            0 => plain += part,
            _ => code.push(part.replace('\n', " ")),
        }
    }
    (code, plain)
}

/// Where links can lead on a page: headings, as GitHub names them, and `<a id="...">`.
fn anchors(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for line in text.lines() {
        if line.starts_with('#') {
            let title = line.trim_start_matches('#').trim().to_lowercase();
            let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
            let name: String = title.chars().filter(kept).collect();
            found.push(name.replace(' ', "-"));
        }
        let ids = line.split("<a id=\"").skip(1);
        found.extend(ids.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
    }
    found
}

#[test]
fn each_link_of_the_manual_leads_somewhere() {
    let pages = pages();
    let (mut links, mut wrong) = (0, Vec::new());
    for page in &pages {
        let (_, prose) = code_and_prose(&page.text);
        for rest in prose.split("](").skip(1) {
            let target = rest.split(')').next().unwrap_or_default();
            if target.contains("://") {
                continue;
            }
            links += 1;
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let folder = root()
                .join(&page.path)
                .parent()
                .expect("a folder")
                .to_owned();
            let to = match file {
                "" => root().join(&page.path),
                file => folder.join(file),
            };
            let is_there = match anchor {
                "" => to.exists(),
                anchor => fs::read_to_string(&to)
                    .is_ok_and(|text| anchors(&text).iter().any(|one| one == anchor)),
            };
            if !is_there {
                wrong.push(format!("{}: {target}", page.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(links > 80, "{links} links are found");
}

#[test]
fn no_page_has_two_places_of_one_name() {
    for page in pages() {
        let mut seen = BTreeSet::new();
        // Each version of CHANGELOG.md has the same headings.
        for anchor in anchors(&page.text)
            .iter()
            .filter(|_| page.path != "CHANGELOG.md")
        {
            assert!(seen.insert(anchor), "{}: {anchor}", page.path);
        }
    }
}

/// Whoever gets an alert finds what to do.
#[test]
fn each_alert_leads_to_a_section_of_the_manual() {
    let rules = fs::read_to_string(root().join("monitoring/alerts.yml")).expect("the rules");
    let links = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("manual: "));
    let links: BTreeSet<&str> = links.collect();
    assert!(links.len() > 8, "{links:?}");
    for link in links {
        let (page, section) = link.split_once('#').expect("a section");
        let text = fs::read_to_string(root().join(page)).expect(link);
        assert!(anchors(&text).iter().any(|one| one == section), "{link}");
    }
}

/// Whoever sees a refusal finds its word.
#[test]
fn each_reason_has_its_place_in_the_troubleshooting_page() {
    let source = fs::read_to_string(root().join("src/policy/reason.rs")).expect("reason.rs");
    let (_, variants) = source.split_once("pub enum Reason {").expect("the reasons");
    let variants = variants.split('}').next().unwrap_or_default();
    let page = fs::read_to_string(root().join("docs/troubleshooting.md")).expect("the page");
    let there = anchors(&page);
    let mut reasons = 0;
    for line in variants.lines().map(str::trim) {
        let Some(name) = line.strip_suffix(',').filter(|_| !line.starts_with("//")) else {
            continue;
        };
        let mut word = String::new();
        for c in name.chars() {
            if c.is_uppercase() && !word.is_empty() {
                word.push('-');
            }
            word.extend(c.to_lowercase());
        }
        assert!(
            there.contains(&word),
            "docs/troubleshooting.md lacks {word}"
        );
        reasons += 1;
    }
    assert!(reasons > 15, "{reasons} reasons are found");
}

/// Whoever sees a reply of ours finds its row. Verdicts of the policy are found by their reason.
#[test]
fn each_reply_of_ours_has_its_place_in_the_troubleshooting_page() {
    let page = fs::read_to_string(root().join("docs/troubleshooting.md")).expect("the page");
    let (code, _) = code_and_prose(&page);
    let is_there = |reply: &str| code.iter().any(|one| one == reply);
    let (mut replies, mut lacking) = (0, BTreeSet::new());
    for source in sources() {
        for made in source.code.split("Refusal::new(").skip(1) {
            let number = |text: &str| text.trim().parse::<u16>().ok();
            let arguments = made
                .split([',', '(', ')'])
                .filter(|one| !one.trim().is_empty());
            let [code, subject, detail] = arguments.take(3).map(number).collect::<Vec<_>>()[..]
            else {
                continue;
            };
            let (Some(code), Some(subject), Some(detail)) = (code, subject, detail) else {
                continue; // chosen above, from numbers that others give
            };
            let class = code / 100;
            let forms = [
                format!("{code} {class}.{subject}.{detail}"),
                format!("{code} {class}.{subject}.x"),
                format!("{class}.{subject}.{detail}"),
                code.to_string(),
            ];
            let is_known = forms.iter().any(|form| is_there(form));
            if !is_known {
                lacking.insert(format!("{} of {}", forms[0], source.path));
            }
            replies += 1;
        }
    }
    assert!(lacking.is_empty(), "{lacking:#?}");
    assert!(replies > 25, "{replies} replies are found");
}

/// What a page tells its reader to look at or to run in the clone is there.
#[test]
fn each_path_of_the_manual_exists() {
    let folders = [
        "src/",
        "tests/",
        "benches/",
        "fuzz/",
        "examples/",
        "systemd/",
        ".ci/",
    ];
    let mut paths = 0;
    for page in pages() {
        for word in code_and_prose(&page.text)
            .0
            .iter()
            .flat_map(|line| line.split(' '))
        {
            let word = word.trim_end_matches(['.', ',', ';', ':']);
            if folders.iter().any(|folder| word.starts_with(folder)) && !word.contains('*') {
                assert!(
                    root().join(word).exists(),
                    "{}: there is no {word}",
                    page.path
                );
                paths += 1;
            }
        }
    }
    assert!(paths > 80, "{paths} paths are found");
}

/// The flags in a text: `--name`, without a value.
fn flags(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
    let is_flag = |word: &&str| {
        let name = word.strip_prefix("--");
        name.is_some_and(|name| name.starts_with(|c: char| c.is_ascii_lowercase()))
    };
    words.filter(is_flag).map(str::to_owned).collect()
}

/// What the program prints for `COMMAND --help`; `None` where it knows no such command.
fn help(command: &str) -> Option<String> {
    let mut program = Command::new(env!("CARGO_BIN_EXE_starttls-proxy"));
    let done = program.args(command.split(' ')).arg("--help").output();
    let done = done.expect("the program runs");
    let text = String::from_utf8(done.stdout).expect("UTF-8");
    // For a command that it does not know, the program prints what it knows.
    let is_about = text.contains(&format!("starttls-proxy {command}"));
    (done.status.success() && is_about).then_some(text)
}

/// The first words behind the program's name: `audit show`, `check`.
fn command(behind: &str) -> String {
    let mut words = behind.split(' ');
    let first = words.next().unwrap_or_default();
    match (first, words.next()) {
        ("audit" | "policy", Some(verb)) => format!("{first} {verb}"),
        _ => first.to_owned(),
    }
}

#[test]
fn each_command_and_flag_that_the_manual_names_exists() {
    let mut wrong = BTreeSet::new();
    // Each command is asked once.
    let mut helps: BTreeMap<String, Option<String>> = BTreeMap::new();
    let mut known: BTreeSet<String> = OF_OTHERS.iter().flat_map(|(_, list)| flags(list)).collect();
    let pages = pages();
    for page in &pages {
        for line in code_and_prose(&page.text).0 {
            for behind in line.split("starttls-proxy ").skip(1) {
                let behind = behind
                    .split(['|', '>', ';', '#'])
                    .next()
                    .unwrap_or_default();
                let command = command(behind);
                // A name in another command, a drawing, or a flag.
                let is_word = |c: char| c.is_ascii_lowercase() || matches!(c, ' ' | '-');
                if !command.starts_with(|c: char| c.is_ascii_lowercase())
                    || !command.chars().all(is_word)
                {
                    continue;
                }
                let asked = helps.entry(command.clone());
                let Some(text) = asked.or_insert_with(|| help(&command)).as_deref() else {
                    wrong.insert(format!("{}: no command '{command}'", page.path));
                    continue;
                };
                let has = flags(text);
                let lacks = flags(behind)
                    .into_iter()
                    .filter(|flag| !has.contains(flag) && flag != "--help");
                wrong.extend(lacks.map(|flag| format!("{}: {command} has no {flag}", page.path)));
                known.extend(has);
            }
        }
    }
    for page in &pages {
        let unknown = flags(&page.text)
            .into_iter()
            .filter(|flag| !known.contains(flag));
        wrong.extend(unknown.map(|flag| format!("{}: nothing has {flag}", page.path)));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(helps.len() > 6, "{:?}", helps.keys());
}
