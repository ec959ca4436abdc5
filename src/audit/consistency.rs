//! Proofs that a log goes on from what it was, made from the log's files.

use super::{
    chain::{Hash, Header},
    in_order,
    tree::{KnownLeaves, RecordTree, TreeStart},
    verify::LogLines,
};
use std::{io, path::Path, path::PathBuf};

/// Most records over which a proof is made. Their hashes are held in memory, 64 octets each, and whoever asks for it may be anybody.
const MOST_RECORDS: u64 = 1 << 22;

/// The hashes that prove that the first `old` records are the beginning of the first `size` (RFC 6962 §2.1.2), out of the files of the
/// log at `file`. Reads the file that has record number `old`, and those behind it.
///
/// # Errors
/// A file cannot be read, or the records are not there.
pub(crate) fn consistency(file: &Path, old: u64, size: u64) -> Result<Vec<Hash>, String> {
    let missing = || format!("records {old} to {size} are not all in the log's files");
    if old == 0 || old == size {
        return Ok(Vec::new());
    }
    if size.saturating_sub(old) > MOST_RECORDS {
        return Err(format!(
            "it has signed {old} records, and here are {size}: more than {MOST_RECORDS} are between them, too many for one proof; \
             have it forget this log, or begin a new one"
        ));
    }
    let order = in_order(&[file.to_owned()]).map_err(|error| error.to_string())?;
    let behind = order.first_records.partition_point(|first| *first <= old);
    let files = &order.files[behind.saturating_sub(1)..];
    let known = known_from(files, size).map_err(|error| error.to_string())?;
    known
        .and_then(|known| known.consistency(old, size))
        .ok_or_else(missing)
}

/// The tree of `size` records, as far as these files, which follow each other, show it. `None`: they do not have all of these records, or
/// do not say what stood before them.
fn known_from(files: &[PathBuf], size: u64) -> io::Result<Option<KnownLeaves>> {
    let mut lines = LogLines::new(files);
    let mut first = None;
    let mut before = None;
    let mut hashes = Vec::new();
    while let Some(line) = lines.next()? {
        let Some(header) = Header::read(line.bytes).filter(|header| header.seq < size) else {
            break;
        };
        let begin = *first.get_or_insert(header.seq);
        if header.seq != begin + hashes.len() as u64 {
            return Ok(None);
        }
        hashes.push(Hash::of(line.bytes));
        if before.is_none() {
            let start = TreeStart::read(header.event, line.bytes);
            before = start
                .map(|start| start.tree)
                .filter(|tree| tree.size() == begin);
        }
    }
    let begin = first.unwrap_or_default();
    if begin == 0 {
        before = Some(RecordTree::default());
    }
    let is_all = begin + hashes.len() as u64 == size;
    let Some(before) = before.filter(|_| is_all) else {
        return Ok(None);
    };
    let mut known = KnownLeaves::behind(before);
    hashes.into_iter().for_each(|hash| known.push(hash));
    Ok(Some(known))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{
        AuditLog, AuditOptions, Checkpoint, Notice, Record, StopRecord, rotated, tree::continues,
    };
    use std::{fs, sync::mpsc};

    #[test]
    fn any_two_checkpoints_are_consistent_across_files_as_long_as_the_files_are_there() {
        let folder = std::env::temp_dir().join(format!("consistency-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let file = folder.join("log");
        let (tell, told) = mpsc::channel();
        let mut options = AuditOptions::new(file.clone(), "mail.example/outbound".into());
        options.checkpoint_records = 5;
        options.rotate_octets = 6000;
        options.notice = Box::new(move |notice| {
            if let Notice::Checkpoint(checkpoint) = notice {
                tell.send(checkpoint).unwrap();
            }
        });
        let log = AuditLog::open(options).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        for number in 0..70 {
            let record = Record::Stop(StopRecord {
                reason: "none".into(),
                sessions: number,
                messages: 0,
            });
            runtime.block_on(log.append_durable(&record)).unwrap();
        }
        assert!(log.close());
        drop(log);
        let checkpoints: Vec<Checkpoint> = told.iter().collect();
        let files = rotated(&file).unwrap();
        assert!(
            checkpoints.len() > 10 && files.len() > 1,
            "{} files",
            files.len()
        );
        let are_consistent = |old: &Checkpoint, new: &Checkpoint| {
            let path = consistency(&file, old.head.size, new.head.size)?;
            let (old, new) = ((old.head.size, old.root), (new.head.size, new.root));
            assert!(continues(old, new, &path), "{old:?} {new:?}");
            Ok::<(), String>(())
        };
        for (at, old) in checkpoints.iter().enumerate() {
            for new in &checkpoints[at..] {
                are_consistent(old, new).unwrap();
            }
        }
        // With the first file elsewhere, what stands in it cannot be proved as a rule, and the rest can.
        let second = fs::read(&files[1]).unwrap();
        let first = Header::read(second.split(|b| *b == b'\n').next().unwrap())
            .unwrap()
            .seq;
        fs::remove_file(&files[0]).unwrap();
        let last = checkpoints.last().unwrap();
        let unproved = checkpoints
            .iter()
            .filter(|old| are_consistent(old, last).is_err());
        let unproved: Vec<u64> = unproved.map(|old| old.head.size).collect();
        assert!(
            !unproved.is_empty() && unproved.iter().all(|size| *size < first),
            "{unproved:?}"
        );
        // Behind the last checkpoint stands its own record, and nothing else.
        assert!(consistency(&file, 60, last.head.size + 2).is_err());
        fs::remove_dir_all(&folder).unwrap();
    }
}
