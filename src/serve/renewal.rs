//! Notices that files have changed, so that a renewed certificate is in force although nobody asked for a reload.
//!
//! The files are looked at every few seconds, and read again once two looks agree that they have changed. A file that is being written
//! looks different each time, and so do a certificate and a key of which only one is renewed yet. What is looked at is the file at the
//! end of all symbolic links: certbot and lego renew by changing a link, in a directory that may be open to its owner alone.

use std::{
    fs::{self, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    task::spawn_blocking,
    time::sleep,
};

/// Time between two looks.
const LOOK: Duration = Duration::from_secs(3);

/// What tells one state of a file from another without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Stamp {
    /// File system, inode, size, time of the last change of content, of the last change of content or rights.
    Is([u64; 3], [i64; 4]),
    /// It is not there, or cannot be seen.
    Fault(io::ErrorKind),
}

impl Stamp {
    fn of(seen: io::Result<Metadata>) -> Self {
        match seen {
            Ok(seen) => Self::Is(
                [seen.dev(), seen.ino(), seen.size()],
                [
                    seen.mtime(),
                    seen.mtime_nsec(),
                    seen.ctime(),
                    seen.ctime_nsec(),
                ],
            ),
            Err(error) => Self::Fault(error.kind()),
        }
    }
}

/// All watched files with their stamps.
type Stamps = Vec<(PathBuf, Stamp)>;

/// What the looks have shown so far.
#[derive(Debug, Default)]
struct Looks {
    last: Option<Stamps>,
    told: Option<Stamps>,
}

impl Looks {
    /// Adds a look. Returns whether the files should be read: two looks agree, and it was not told before what they show. The first
    /// two looks tell, because a file can have changed between the reading at the start and the first look.
    fn add(&mut self, now: Stamps) -> bool {
        let agreed = self.last.as_ref() == Some(&now);
        let tells = agreed && self.told.as_ref() != Some(&now);
        if tells {
            self.told = Some(now.clone());
        }
        self.last = Some(now);
        tells
    }
}

/// Looks at the files for ever, and tells when they should be read.
pub(super) async fn notice(files: watch::Receiver<Vec<PathBuf>>, tell: mpsc::Sender<()>) {
    let mut looks = Looks::default();
    loop {
        sleep(LOOK).await;
        let files = files.borrow().clone();
        // A network file system that hangs must hold up nothing else.
        let look = spawn_blocking(|| {
            let stamp = |file: PathBuf| {
                let stamp = Stamp::of(fs::metadata(&file));
                (file, stamp)
            };
            files.into_iter().map(stamp).collect()
        });
        let Ok(stamps) = look.await else { continue };
        if looks.add(stamps) && tell.send(()).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamps(inodes: &[u64]) -> Stamps {
        let stamp = |inode: &u64| (PathBuf::from("f"), Stamp::Is([0, *inode, 0], [0; 4]));
        inodes.iter().map(stamp).collect()
    }

    #[test]
    fn a_change_is_told_once_and_only_when_two_looks_agree() {
        let mut looks = Looks::default();
        let told: Vec<bool> = [1, 1, 1, 2, 3, 3, 3, 1, 1]
            .iter()
            .map(|inode| looks.add(stamps(&[*inode, 9])))
            .collect();
        assert_eq!(
            told,
            [false, true, false, false, false, true, false, false, true]
        );
    }

    #[test]
    fn a_file_that_comes_goes_or_is_watched_anew_is_a_change() {
        let gone = vec![(PathBuf::from("f"), Stamp::Fault(io::ErrorKind::NotFound))];
        let mut looks = Looks::default();
        for now in [stamps(&[1]), gone, stamps(&[1]), stamps(&[1, 2])] {
            assert!(!looks.add(now.clone()));
            assert!(looks.add(now.clone()));
            assert!(!looks.add(now));
        }
    }
}
