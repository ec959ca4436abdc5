//! Which files a user of this machine may read and write, by their modes. Access control lists are not looked at.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

/// Somebody whom the kernel asks for permissions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::commands) struct Account {
    /// The user's name.
    pub(in crate::commands) name: String,
    /// The name of its own group.
    pub(in crate::commands) group: String,
    uid: u32,
    groups: Vec<u32>,
}

/// What somebody wants to do with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::commands) enum Access {
    Read,
    Write,
}

impl Account {
    /// The user of this name.
    pub(in crate::commands) fn named(name: &str) -> Option<Self> {
        let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
        Self::find(&users, |user, _| user == name)
    }

    /// The user of this number.
    pub(in crate::commands) fn numbered(uid: u32) -> Option<Self> {
        let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
        Self::find(&users, |_, number| number == uid)
    }

    fn find(users: &str, is_it: impl Fn(&str, u32) -> bool) -> Option<Self> {
        let groups = fs::read_to_string("/etc/group").unwrap_or_default();
        users.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let [name, _, uid, gid, ..] = fields[..] else {
                return None;
            };
            let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
            is_it(name, uid).then(|| Self::in_groups(name, uid, gid, &groups))
        })
    }

    fn in_groups(name: &str, uid: u32, gid: u32, text: &str) -> Self {
        let (mut groups, mut group) = (vec![gid], gid.to_string());
        for line in text.lines() {
            let fields: Vec<&str> = line.split(':').collect();
            if let [title, _, number, members] = fields[..]
                && let Ok(number) = number.parse()
            {
                if number == gid {
                    group = title.to_owned();
                }
                if members.split(',').any(|member| member == name) {
                    groups.push(number);
                }
            }
        }
        Self {
            name: name.to_owned(),
            group,
            uid,
            groups,
        }
    }

    /// What keeps the account from doing this with a file or directory: the paths that stop it, directories above the file first.
    /// Empty: it may.
    pub(in crate::commands) fn stopped_at(&self, access: Access, file: &Path) -> Vec<PathBuf> {
        let whole = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
        let mut above: Vec<&Path> = whole.ancestors().skip(1).collect();
        above.reverse();
        let mut stops: Vec<PathBuf> = above
            .into_iter()
            .filter(|folder| !self.has(folder, 1))
            .map(Path::to_owned)
            .collect();
        let bit = match access {
            Access::Read => 4,
            Access::Write => 2,
        };
        if !self.has(&whole, bit) {
            stops.push(whole);
        }
        stops
    }

    /// Whether somebody else uses a file or directory in a way that another owner or group would end: it belongs to neither root
    /// nor this account, or its group is that of others and has rights. `None` where that cannot be looked at.
    pub(in crate::commands) fn is_used_by_others(&self, path: &Path) -> Option<bool> {
        let metadata = fs::metadata(path).ok()?;
        let is_of_another = ![0, self.uid].contains(&metadata.uid());
        let is_of_group = metadata.gid() != 0 && Some(&metadata.gid()) != self.groups.first();
        let group_has_rights = metadata.permissions().mode() & 0o070 != 0;
        Some(is_of_another || (is_of_group && group_has_rights))
    }

    fn has(&self, path: &Path, bit: u32) -> bool {
        let Ok(metadata) = fs::metadata(path) else {
            return false;
        };
        let mode = metadata.permissions().mode();
        self.uid == 0
            || match (
                metadata.uid() == self.uid,
                self.groups.contains(&metadata.gid()),
            ) {
                (true, _) => mode >> 6 & bit != 0,
                (false, true) => mode >> 3 & bit != 0,
                (false, false) => mode & bit != 0,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::tests::pki::Scratch;

    #[test]
    fn who_may_read_a_key_is_said_by_its_mode_and_by_those_of_the_directories_above() {
        let scratch = Scratch::new();
        let folder = scratch.0.join("live");
        fs::create_dir(&folder).expect("a folder");
        let key = folder.join("key.pem");
        fs::write(&key, "key").expect("a file");
        let owner = fs::metadata(&key).expect("metadata");
        let set = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
        };
        let groups = format!("mail:x:{}:proxy\n", owner.gid());
        let stranger = Account::in_groups("other", owner.uid() + 1, owner.gid() + 1, &groups);
        let member = Account::in_groups("proxy", owner.uid() + 1, owner.gid() + 1, &groups);
        set(&key, 0o640);
        set(&folder, 0o755);
        set(&scratch.0, 0o755);
        let none: [PathBuf; 0] = [];
        assert_eq!(member.stopped_at(Access::Read, &key), none);
        let key_alone = std::slice::from_ref(&key);
        assert_eq!(member.stopped_at(Access::Write, &key), key_alone);
        let key_alone = std::slice::from_ref(&key);
        assert_eq!(stranger.stopped_at(Access::Read, &key), key_alone);
        set(&folder, 0o700);
        let folder_alone = std::slice::from_ref(&folder);
        assert_eq!(member.stopped_at(Access::Read, &key), folder_alone);
        assert_eq!(
            stranger.stopped_at(Access::Read, &key),
            [folder.clone(), key]
        );
        set(&folder, 0o755);
    }

    #[test]
    fn a_file_of_another_service_is_told_from_one_that_may_be_handed_over() {
        let scratch = Scratch::new();
        let key = scratch.0.join("key.pem");
        fs::write(&key, "key").expect("a file");
        let owner = fs::metadata(&key).expect("metadata");
        let account = |uid, gid| Account::in_groups("proxy", uid, gid, "");
        let (own, other) = (owner.uid(), owner.uid() + 1);
        let (group, another) = (owner.gid(), owner.gid() + 1);
        // Root's files, which a test by root makes, may be handed over to anybody.
        let is_roots = (own == 0, group == 0);
        for (account, mode, expected) in [
            (account(own, group), 0o640, false),
            (account(own, another), 0o600, false),
            (account(own, another), 0o640, !is_roots.1),
            (account(own, another), 0o610, !is_roots.1),
            (account(other, group), 0o600, !is_roots.0),
            (account(other, another), 0o600, !is_roots.0),
        ] {
            fs::set_permissions(&key, fs::Permissions::from_mode(mode)).expect("a mode");
            let found = account.is_used_by_others(&key);
            assert_eq!(found, Some(expected), "{account:?} {mode:o}");
        }
        assert_eq!(
            account(0, 0).is_used_by_others(&scratch.0.join("gone")),
            None
        );
    }

    #[test]
    fn a_file_that_root_gave_to_the_group_of_others_stays_theirs() {
        let scratch = Scratch::new();
        let key = scratch.0.join("key.pem");
        fs::write(&key, "key").expect("a file");
        // Only root can give files away, and only then is there something to see.
        if std::os::unix::fs::chown(&key, Some(0), Some(4242)).is_err() {
            return;
        }
        let proxy = Account::in_groups("proxy", 990, 990, "ssl-cert:x:4242:postgres\n");
        for (owner, group, mode, expected) in [
            (0, 4242, 0o640, true),
            (0, 4242, 0o710, true),
            (0, 4242, 0o600, false),
            (0, 0, 0o640, false),
            (0, 990, 0o640, false),
            (4242, 0, 0o600, true),
            (990, 0, 0o600, false),
        ] {
            std::os::unix::fs::chown(&key, Some(owner), Some(group)).expect("an owner");
            fs::set_permissions(&key, fs::Permissions::from_mode(mode)).expect("a mode");
            let words = format!("{owner}:{group} {mode:o}");
            assert_eq!(proxy.is_used_by_others(&key), Some(expected), "{words}");
        }
    }
}
