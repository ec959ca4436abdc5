//! MTA-STS policies on disk, one file for each domain, so that a restart does not forget what a domain demanded.
//!
//! A file appears whole or not at all: it is written aside, synced and renamed. A file that cannot be read is set aside and reported,
//! and its domain is known to have had a policy. A purge leaves a mark, so that a running process forgets the policy too.

use crate::{clock, files, smtp::Domain};
use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Older marks of purges are removed: no policy lives longer (RFC 8461 §3.2).
const MARK_LIFETIME: Duration = Duration::from_secs(31_557_600);

/// The content of one file.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct StoredPolicy {
    /// Version of this format.
    version: u32,
    /// The policy domain, which is also the name of the file.
    pub(super) domain: String,
    /// The `id` of the TXT record that it was fetched for.
    pub(super) id: String,
    /// Microseconds since 1970.
    fetched: u64,
    /// The text as it was fetched.
    pub(super) text: String,
}

impl StoredPolicy {
    pub(super) fn new(domain: &Domain, id: &str, fetched: SystemTime, text: &str) -> Self {
        let fetched = fetched.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            version: 1,
            domain: domain.as_str().to_owned(),
            id: id.to_owned(),
            fetched: u64::try_from(fetched.as_micros()).unwrap_or(u64::MAX),
            text: text.to_owned(),
        }
    }

    pub(super) fn fetched(&self) -> SystemTime {
        let since = Duration::from_micros(self.fetched);
        UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH)
    }
}

/// The directories below `--state-dir`.
#[derive(Debug)]
pub(super) struct PolicyStore {
    policies: PathBuf,
    aside: PathBuf,
    unreadable: PathBuf,
    purged: PathBuf,
}

/// The policies on disk.
#[derive(Debug, Default)]
pub(super) struct LoadedPolicies {
    pub(super) policies: HashMap<Domain, StoredPolicy>,
    /// Domains whose policy cannot be read.
    pub(super) unreadable: HashSet<Domain>,
}

impl PolicyStore {
    /// Creates the missing directories below `state_dir`.
    ///
    /// # Errors
    /// In words, with the path.
    pub(super) fn open(state_dir: &Path) -> Result<Self, String> {
        let root = state_dir.join("mta-sts");
        let store = Self {
            policies: root.join("policies"),
            aside: root.join("aside"),
            unreadable: root.join("unreadable"),
            purged: root.join("purged"),
        };
        for directory in [
            &store.policies,
            &store.aside,
            &store.unreadable,
            &store.purged,
        ] {
            fs::create_dir_all(directory).map_err(|error| {
                let path = directory.display();
                format!("{path}: {error}, --state-dir needs a directory to write to")
            })?;
        }
        Ok(store)
    }

    /// Reads all policies. A file that `usable` refuses, or that was not written by [`save`](Self::save), is set aside.
    ///
    /// # Errors
    /// In words, with the path, if a directory cannot be read.
    pub(super) fn load(
        &self,
        usable: impl Fn(&StoredPolicy) -> bool,
    ) -> Result<LoadedPolicies, String> {
        let mut loaded = LoadedPolicies::default();
        for (name, path) in entries(&self.policies)? {
            let Some(domain) = Domain::parse(&name) else {
                log::warn!("mta-sts: {} is no file of ours", path.display());
                continue;
            };
            let stored = files::whole(&path, files::SMALL)
                .map_err(|error| error.to_string())
                .and_then(|octets| {
                    let stored: StoredPolicy =
                        serde_json::from_slice(&octets).map_err(|e| e.to_string())?;
                    let ours = stored.version == 1 && stored.domain == domain.as_str();
                    (ours && usable(&stored))
                        .then_some(stored)
                        .ok_or_else(|| "not a policy of this domain".to_owned())
                });
            match stored {
                Ok(stored) => {
                    loaded.policies.insert(domain, stored);
                }
                Err(error) => {
                    log::error!("mta-sts: {}: {error}; set aside", path.display());
                    if let Err(error) = fs::rename(&path, self.unreadable.join(&name)) {
                        log::error!("mta-sts: {}: {error}", path.display());
                    }
                    loaded.unreadable.insert(domain);
                }
            }
        }
        for (name, _) in entries(&self.unreadable)? {
            loaded.unreadable.extend(Domain::parse(&name));
        }
        for (_, path) in entries(&self.purged)? {
            let age = modified(&path).and_then(|at| clock::wall().duration_since(at).ok());
            if age.is_some_and(|age| age > MARK_LIFETIME) {
                let _ = fs::remove_file(path);
            }
        }
        Ok(loaded)
    }

    /// Writes a policy. After a crash at any moment, the old or the new file is there, and whole.
    pub(super) fn save(&self, stored: &StoredPolicy) -> io::Result<()> {
        let aside = self.aside.join(&stored.domain);
        let mut file = File::create(&aside)?;
        file.write_all(&serde_json::to_vec(stored)?)?;
        file.sync_all()?;
        fs::rename(&aside, self.policies.join(&stored.domain))?;
        File::open(&self.policies)?.sync_all()?;
        absent_is_fine(fs::remove_file(self.unreadable.join(&stored.domain)))?;
        Ok(())
    }

    /// Removes an expired policy.
    pub(super) fn remove(&self, domain: &Domain) -> io::Result<()> {
        absent_is_fine(fs::remove_file(self.policies.join(domain.as_str()))).map(drop)
    }

    /// Removes the files of a domain and leaves a mark. Returns false if there was no file.
    pub(super) fn purge(&self, domain: &Domain) -> io::Result<bool> {
        File::create(self.purged.join(domain.as_str()))?.set_modified(clock::wall())?;
        let policy = absent_is_fine(fs::remove_file(self.policies.join(domain.as_str())))?;
        let unreadable = absent_is_fine(fs::remove_file(self.unreadable.join(domain.as_str())))?;
        Ok(policy || unreadable)
    }

    /// When the domain was last purged by any process.
    pub(super) fn purged_at(&self, domain: &Domain) -> Option<SystemTime> {
        modified(&self.purged.join(domain.as_str()))
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|data| data.modified()).ok()
}

/// Whether the file was there.
fn absent_is_fine(removed: io::Result<()>) -> io::Result<bool> {
    match removed {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn entries(directory: &Path) -> Result<Vec<(String, PathBuf)>, String> {
    let failed = |error: io::Error| format!("{}: {error}", directory.display());
    fs::read_dir(directory)
        .map_err(failed)?
        .map(|entry| {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            Ok((name, entry.path()))
        })
        .collect()
}
