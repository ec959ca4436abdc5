//! Proofs that a log goes on from what it was, made from the log's files.

use super::{
    chain::{Hash, Header},
    tree::{ConsistencyPath, RecordTree},
    verify::{Doubt, ListedFile, LogLines, LogListing, read_at_rest, tree_start},
};
use std::{io, path::Path};

/// The hashes that prove that the first `old` records are the beginning of the first `size` (RFC 6962 §2.1.2), out of the files of the
/// log at `file`. Reads the file that has record number `old`, and those behind it; holds none of their records.
///
/// # Errors
/// A file cannot be read, or the records are not there.
pub(crate) fn consistency(file: &Path, old: u64, size: u64) -> Result<Vec<Hash>, String> {
    if old == 0 || old == size {
        return Ok(Vec::new());
    }
    let mut read = |listing: &LogListing| {
        let order = listing.order();
        let behind = order.first_records.partition_point(|first| *first <= old);
        path_in(&order.files[behind.saturating_sub(1)..], old, size)
    };
    let path = read_at_rest(&[file.to_owned()], &mut read, |path| {
        path.is_none().then_some(Doubt::Lacking)
    });
    path.map_err(|error| error.to_string())?
        .ok_or_else(|| format!("records {old} to {size} are not all in the log's files"))
}

/// The same out of these files, which follow each other. `None`: they do not have all of these records, or do not say what stood before
/// them.
fn path_in(files: &[ListedFile], old: u64, size: u64) -> io::Result<Option<Vec<Hash>>> {
    let mut lines = LogLines::new(files);
    let mut path = None;
    let mut next = 0;
    while let Some(line) = lines.next()? {
        let Some(header) = Header::read(line.bytes).filter(|header| header.seq < size) else {
            break;
        };
        let path = match &mut path {
            Some(path) => path,
            none => {
                next = header.seq;
                let Some(before) = tree_before(files, next)? else {
                    return Ok(None);
                };
                let Some(new) = ConsistencyPath::new(old, size, &before) else {
                    return Ok(None);
                };
                none.insert(new)
            }
        };
        if header.seq != next {
            return Ok(None);
        }
        path.push(Hash::of(line.bytes));
        next += 1;
    }
    Ok(path
        .filter(|_| next == size)
        .and_then(ConsistencyPath::done))
}

/// The tree over the records before number `first`, which is the first one in these files.
fn tree_before(files: &[ListedFile], first: u64) -> io::Result<Option<RecordTree>> {
    if first == 0 {
        return Ok(Some(RecordTree::default()));
    }
    let start = tree_start(LogLines::new(files), first)?;
    Ok(start.map(|start| start.tree))
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
