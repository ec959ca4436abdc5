//! The units of systemd that start the proxy, read from their files as systemd reads them (systemd.unit(5), systemd.exec(5)), so that
//! this works in a chroot and without a running systemd, too. Of the specifiers only `%%` is known.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Where units are, the first before the later ones.
const FOLDERS: [&str; 5] = [
    "etc/systemd/system",
    "run/systemd/system",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
];

/// One service, with its drop-ins.
#[derive(Clone, Debug, Default)]
pub(in crate::commands) struct ServiceUnit {
    /// Without `.service`.
    pub(in crate::commands) name: String,
    /// The words of ExecStart= behind the program, with variables replaced; the last line where there are several.
    pub(in crate::commands) arguments: Vec<String>,
    /// User=.
    pub(in crate::commands) user: Option<String>,
    /// AmbientCapabilities=, in lower case.
    pub(in crate::commands) capabilities: Vec<String>,
    /// Environment= and EnvironmentFile=, the latter after the former.
    pub(in crate::commands) environment: BTreeMap<String, String>,
    /// The last EnvironmentFile=.
    pub(in crate::commands) environment_file: Option<PathBuf>,
    /// It is started with the machine.
    pub(in crate::commands) is_enabled: bool,
    /// ListenStream= of the socket of the same name, if that is enabled.
    pub(in crate::commands) sockets: Vec<String>,
}

/// All services whose names begin with the program's.
#[derive(Clone, Debug, Default)]
pub(in crate::commands) struct ProxyUnits(pub(in crate::commands) Vec<ServiceUnit>);

impl ProxyUnits {
    /// Reads them below a root directory.
    pub(in crate::commands) fn read(root: &Path) -> Self {
        let mut names = BTreeSet::new();
        for folder in FOLDERS {
            let entries = fs::read_dir(root.join(folder))
                .into_iter()
                .flatten()
                .flatten();
            for entry in entries {
                let name = entry.file_name().to_string_lossy().into_owned();
                let is_ours = name.starts_with("starttls-proxy");
                if let Some(name) = name.strip_suffix(".service").filter(|_| is_ours) {
                    names.insert(name.to_owned());
                }
            }
        }
        Self(names.iter().map(|name| unit(root, name)).collect())
    }

    /// The unit of this name.
    pub(in crate::commands) fn named(&self, name: &str) -> Option<&ServiceUnit> {
        self.0.iter().find(|unit| unit.name == name)
    }
}

/// The lines `Key=value` of a section, in the unit's file and then in its drop-ins.
fn lines(root: &Path, file: &str, section: &str) -> Vec<(String, String)> {
    let folders = || FOLDERS.iter().map(|folder| root.join(folder));
    let mut texts: Vec<String> = folders()
        .find_map(|folder| fs::read_to_string(folder.join(file)).ok())
        .into_iter()
        .collect();
    // A drop-in hides those of the same name in later folders; all are applied in the order of their names.
    let mut drop_ins: BTreeMap<String, PathBuf> = BTreeMap::new();
    for folder in folders() {
        let entries = fs::read_dir(folder.join(format!("{file}.d")))
            .into_iter()
            .flatten();
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.ends_with(".conf") {
                drop_ins.entry(name).or_insert_with(|| entry.path());
            }
        }
    }
    texts.extend(
        drop_ins
            .values()
            .filter_map(|file| fs::read_to_string(file).ok()),
    );
    texts
        .iter()
        .flat_map(|text| section_of(text, section))
        .collect()
}

fn section_of(text: &str, section: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut inside = false;
    let mut open: Option<String> = None;
    for line in text.lines() {
        let line = line.trim();
        if line.starts_with(['#', ';']) || (line.is_empty() && open.is_none()) {
            continue;
        }
        let whole = match open.take() {
            Some(begin) => format!("{begin} {line}"),
            None => line.to_owned(),
        };
        if let Some(begin) = whole.strip_suffix('\\') {
            open = Some(begin.to_owned());
        } else if let Some(name) = whole.strip_prefix('[') {
            inside = name.strip_suffix(']') == Some(section);
        } else if let (true, Some((key, value))) = (inside, whole.split_once('=')) {
            found.push((key.trim().to_owned(), value.trim().to_owned()));
        }
    }
    found
}

fn unit(root: &Path, name: &str) -> ServiceUnit {
    let mut unit = ServiceUnit {
        name: name.to_owned(),
        is_enabled: is_enabled(root, &format!("{name}.service")),
        ..ServiceUnit::default()
    };
    let (mut command, mut files) = (String::new(), Vec::new());
    for (key, value) in lines(root, &format!("{name}.service"), "Service") {
        match key.as_str() {
            "ExecStart" => command = value,
            "User" => unit.user = Some(value).filter(|user| !user.is_empty()),
            "AmbientCapabilities" if value.is_empty() => unit.capabilities.clear(),
            "AmbientCapabilities" => {
                let words = value.split_ascii_whitespace();
                unit.capabilities.extend(words.map(str::to_ascii_lowercase));
            }
            "Environment" if value.is_empty() => unit.environment.clear(),
            "Environment" => {
                let words = words(&value).into_iter();
                let pairs = words.filter_map(|word| {
                    let (name, value) = word.split_once('=')?;
                    Some((name.to_owned(), value.to_owned()))
                });
                unit.environment.extend(pairs);
            }
            "EnvironmentFile" if value.is_empty() => files.clear(),
            "EnvironmentFile" => files.push(value.trim_start_matches('-').to_owned()),
            _ => {}
        }
    }
    for file in &files {
        let path = root.join(file.trim_start_matches('/'));
        let text = fs::read_to_string(path).unwrap_or_default();
        unit.environment.extend(assignments(&text));
    }
    unit.environment_file = files.last().map(PathBuf::from);
    let all = words(&command).into_iter().skip(1);
    unit.arguments = all
        .flat_map(|word| expanded(&word, &unit.environment))
        .collect();
    let socket = format!("{name}.socket");
    if is_enabled(root, &socket) {
        let lines = lines(root, &socket, "Socket").into_iter();
        let listening = lines.filter(|(key, _)| key == "ListenStream");
        unit.sockets = listening.map(|(_, value)| value).collect();
    }
    unit
}

/// Whether a target wants the unit.
fn is_enabled(root: &Path, file: &str) -> bool {
    let folders = FOLDERS
        .iter()
        .flat_map(|folder| fs::read_dir(root.join(folder)));
    let mut entries = folders.flatten().flatten().map(|entry| entry.path());
    entries.any(|path| {
        let name = path.to_string_lossy().into_owned();
        let wants = name.ends_with(".wants") || name.ends_with(".requires");
        wants && fs::symlink_metadata(path.join(file)).is_ok()
    })
}

/// `NAME=value` lines of an EnvironmentFile=.
fn assignments(text: &str) -> Vec<(String, String)> {
    let joined = text.replace("\\\n", "");
    let lines = joined.lines().map(str::trim);
    let lines = lines.filter(|line| !line.starts_with(['#', ';']));
    lines
        .filter_map(|line| {
            let (name, value) = line.split_once('=')?;
            let value = value.trim();
            // Quotes are part of the line's form, not of the value.
            let value = match value.chars().next() {
                Some('"' | '\'') => words(value).join(" "),
                _ => value.to_owned(),
            };
            Some((name.trim().to_owned(), value))
        })
        .collect()
}

/// The words of a line, as systemd and shells split it: at white space outside of quotes.
fn words(line: &str) -> Vec<String> {
    let (mut all, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut characters = line.chars();
    while let Some(c) = characters.next() {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            ('\\', open) if open != Some('\'') => {
                word.get_or_insert_default().extend(characters.next());
            }
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, None) if c.is_whitespace() => all.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    all.extend(word);
    all
}

/// A word of ExecStart=: `$NAME` alone is split at white space, `${NAME}` is replaced within its word.
fn expanded(word: &str, environment: &BTreeMap<String, String>) -> Vec<String> {
    let word = word.replace("%%", "%");
    if let Some(name) = word.strip_prefix('$')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    {
        return words(environment.get(name).map_or("", String::as_str));
    }
    let mut out = String::new();
    let mut rest = word.as_str();
    while let Some((before, behind)) = rest.split_once("${") {
        let Some((name, after)) = behind.split_once('}') else {
            break;
        };
        out += before;
        out += environment.get(name).map_or("", String::as_str);
        rest = after;
    }
    vec![out + rest]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::tests::pki::Scratch;

    struct Root(Scratch);

    impl Root {
        fn new() -> Self {
            Self(Scratch::new())
        }

        fn write(&self, file: &str, text: &str) {
            let path = self.0.0.join(file);
            fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
            fs::write(path, text).expect("written");
        }

        fn only(&self) -> ServiceUnit {
            let [unit] = &ProxyUnits::read(&self.0.0).0[..] else {
                panic!("one unit")
            };
            unit.clone()
        }
    }

    #[test]
    fn flags_are_those_that_the_unit_and_its_environment_file_name() {
        let root = Root::new();
        root.write(
            "usr/lib/systemd/system/starttls-proxy-outbound.service",
            "[Unit]\nDescription=x\n[Service]\nUser=starttls-proxy\nAmbientCapabilities=CAP_NET_RAW\n\
             Environment=\"FLAGS=--listen [::]:2525\" OTHER=x\nEnvironmentFile=-/etc/default/starttls-proxy-outbound\n\
             # a comment\nExecStart=/usr/bin/starttls-proxy outbound --state-dir '/var/lib/a b' \\\n  # within\n  $FLAGS --hostname ${OTHER}.example\n",
        );
        let unit = root.only();
        assert_eq!(unit.name, "starttls-proxy-outbound");
        assert_eq!(
            unit.arguments,
            [
                "outbound",
                "--state-dir",
                "/var/lib/a b",
                "--listen",
                "[::]:2525",
                "--hostname",
                "x.example"
            ]
        );
        assert_eq!(unit.user.as_deref(), Some("starttls-proxy"));
        assert_eq!(unit.capabilities, ["cap_net_raw"]);
        assert!(!unit.is_enabled);
        root.write(
            "etc/default/starttls-proxy-outbound",
            "# flags\nFLAGS=\"--listen [::]:2525 --observe\"\n",
        );
        let words = root.only().arguments.join(" ");
        assert!(
            words.contains("--listen [::]:2525 --observe --hostname"),
            "{words}"
        );
    }

    #[test]
    fn a_drop_in_changes_the_unit_and_the_administrators_file_hides_the_packages() {
        let root = Root::new();
        root.write(
            "usr/lib/systemd/system/starttls-proxy-inbound.service",
            "[Service]\nExecStart=/usr/bin/starttls-proxy inbound --cert old\nAmbientCapabilities=CAP_NET_RAW\n",
        );
        root.write(
            "etc/systemd/system/starttls-proxy-inbound.service.d/override.conf",
            "[Service]\nExecStart=\nExecStart=/usr/bin/starttls-proxy inbound --cert new\nAmbientCapabilities=\n",
        );
        assert_eq!(root.only().arguments, ["inbound", "--cert", "new"]);
        assert!(root.only().capabilities.is_empty());
        root.write(
            "etc/systemd/system/starttls-proxy-inbound.service",
            "[Service]\nExecStart=/usr/bin/starttls-proxy inbound --cert mine\nUser=me\n",
        );
        root.write(
            "etc/systemd/system/multi-user.target.wants/starttls-proxy-inbound.service",
            "",
        );
        let unit = root.only();
        assert_eq!((unit.user.as_deref(), unit.is_enabled), (Some("me"), true));
    }
}
