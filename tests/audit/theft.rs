//! A thief who has the host with all keys in it, and signs the past anew.

use crate::{
    keys::{check, is_good, secrets, told, write},
    support::{DAMAGED, DONE, Directory, verify},
};
use rewriting::Rewriter;
use starttls_proxy::{audit::Notice, flags::AuditVerifyFlags};
use std::{fs, path::Path};

/// A copy of all that is on the host: the log, its secrets, and the key.
fn steal(directory: &Directory, name: &str) -> Directory {
    let copy = Directory::new(name);
    for entry in fs::read_dir(&directory.0).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.0.join(entry.file_name())).unwrap();
    }
    copy
}

/// Cuts a log behind its checkpoint number `keep`.
fn cut(file: &Path, keep: usize) {
    let text = fs::read_to_string(file).unwrap();
    let lines: Vec<_> = text.split_inclusive('\n').collect();
    let is_checkpoint = |line: &str| line.contains("\"event\":\"checkpoint\"");
    let mut checkpoints = (0..lines.len()).filter(|&place| is_checkpoint(lines[place]));
    let place = checkpoints.nth(keep).unwrap();
    fs::write(file, lines[..=place].concat()).unwrap();
}

/// Removes what the program remembers of the log's end, as somebody does who has the host.
fn forget(file: &Path) {
    fs::remove_file(format!("{}.lock", file.display())).unwrap();
}

#[test]
fn a_thief_of_host_and_keys_who_signs_yesterday_anew_is_found_with_the_first_key_alone() {
    let directory = Directory::new("keys-theft");
    let (key, public) = directory.key();
    let first = vec![told(&write(&directory.file(), &key, 30))];
    is_good(&directory.file(), &first);
    let with_log_key = |file: &Path| {
        verify(&AuditVerifyFlags {
            files: vec![file.to_owned()],
            key: vec![public.clone()],
            ..AuditVerifyFlags::default()
        })
    };

    // The program itself goes on behind a cut with what was stolen: it says that a key was lost.
    let copy = steal(&directory, "keys-thief-1");
    cut(&copy.file(), 2);
    forget(&copy.file());
    let said = write(&copy.file(), &copy.0.join("key.pem"), 30);
    assert!(
        said.iter()
            .any(|notice| matches!(notice, Notice::KeyLost(_)))
    );
    assert_eq!(
        with_log_key(&copy.file()).0,
        DONE,
        "the log key proves less"
    );
    let (code, said) = check(&copy.file(), &first);
    assert_eq!(code, DAMAGED, "{said}");
    assert!(said.contains("none of the keys that were kept"), "{said}");
    assert!(said.contains("rewritten"), "{said}");

    // The same, where what the program remembers of the log's end is left: the log says that it was cut.
    let copy = steal(&directory, "keys-thief-cut");
    cut(&copy.file(), 2);
    write(&copy.file(), &copy.0.join("key.pem"), 30);
    let (code, said) = check(&copy.file(), &first);
    assert_eq!(code, DAMAGED, "{said}");
    assert!(said.contains("the log says so itself"), "{said}");

    // The same with the file of secrets made new, so that a whole new log stands there.
    let copy = steal(&directory, "keys-thief-2");
    for gone in [copy.file(), secrets(&copy.file())] {
        fs::remove_file(gone).unwrap();
    }
    forget(&copy.file());
    write(&copy.file(), &copy.0.join("key.pem"), 30);
    assert_eq!(with_log_key(&copy.file()).0, DONE);
    assert_eq!(check(&copy.file(), &first).0, DAMAGED);

    // The same without epoch keys, as if the program had never had them: the lines of the log key alone.
    let copy = steal(&directory, "keys-thief-3");
    let text = fs::read_to_string(copy.file()).unwrap();
    let without = resign(&text, &copy.0.join("key.pem"), |record| {
        record["epoch"] = serde_json::Value::Null;
    });
    fs::write(copy.file(), without).unwrap();
    forget(&copy.file());
    let (code, said) = with_log_key(&copy.file());
    assert_eq!(code, DONE, "{said}");
    let (code, said) = check(&copy.file(), &first);
    assert_eq!(code, DAMAGED, "{said}");
    assert!(said.contains("no record here names a first key"), "{said}");
}

/// Writes a log anew, with another content, chain and signatures of the log key, as somebody can who has that.
fn resign(text: &str, key: &Path, change: impl Fn(&mut serde_json::Value)) -> String {
    let mut chain = Rewriter::new(key);
    for line in text.lines() {
        let mut record: serde_json::Value = serde_json::from_str(line).unwrap();
        change(&mut record);
        chain.append(line, record);
    }
    chain.text
}

mod rewriting {
    use aws_lc_rs::{
        digest::{SHA256, digest},
        signature::{Ed25519KeyPair, KeyPair},
    };
    use data_encoding::{BASE64, HEXLOWER};
    use rustls_pki_types::{PrivatePkcs8KeyDer, pem::PemObject};
    use std::path::Path;

    fn hash(octets: &[u8]) -> [u8; 32] {
        digest(&SHA256, octets).as_ref().try_into().unwrap()
    }

    /// RFC 6962 §2.1, as it stands there.
    fn root(leaves: &[[u8; 32]]) -> [u8; 32] {
        match leaves {
            [] => hash(b""),
            [one] => hash(&[&[0][..], one].concat()),
            _ => {
                let middle = leaves.len().next_power_of_two() / 2;
                let (left, right) = leaves.split_at(middle);
                hash(&[&[1][..], &root(left), &root(right)].concat())
            }
        }
    }

    /// Somebody who has the log key and none of the epoch keys.
    pub struct Rewriter {
        key: Ed25519KeyPair,
        hashes: Vec<[u8; 32]>,
        pub text: String,
    }

    impl Rewriter {
        pub fn new(key: &Path) -> Self {
            let der = PrivatePkcs8KeyDer::from_pem_file(key).unwrap();
            Self {
                key: Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der()).unwrap(),
                hashes: Vec::new(),
                text: String::new(),
            }
        }

        fn note(&self, origin: &str) -> String {
            let root = BASE64.encode(&root(&self.hashes));
            let text = format!("{origin}\n{}\n{root}\n", self.hashes.len());
            let public = self.key.public_key().as_ref();
            let id = hash(&[origin.as_bytes(), b"\n\x01", public].concat());
            let signature = self.key.sign(text.as_bytes());
            let blob = BASE64.encode(&[&id[..4], signature.as_ref()].concat());
            format!("{text}\n\u{2014} {origin} {blob}\n")
        }

        /// Appends a record at the time, and with the order of fields, that `line` has.
        pub fn append(&mut self, line: &str, mut record: serde_json::Value) {
            if record["event"] == "checkpoint" {
                let note = record["note"].as_str().unwrap();
                record["note"] = self.note(note.lines().next().unwrap()).into();
            }
            let prev = self.hashes.last().copied().unwrap_or_default();
            let mut written = format!(
                "{{\"v\":1,\"prev\":\"{}\",\"seq\":{},\"at\":{},\"event\":{}",
                HEXLOWER.encode(&prev),
                self.hashes.len(),
                record["at"],
                record["event"]
            );
            let head = ["v", "prev", "seq", "at", "event"];
            for (name, value) in record.as_object().unwrap() {
                if !head.contains(&name.as_str()) && line.contains(&format!("\"{name}\":")) {
                    written += &format!(",\"{name}\":{value}");
                }
            }
            written.push('}');
            self.hashes.push(hash(written.as_bytes()));
            self.text += &written;
            self.text.push('\n');
        }
    }
}
