#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::fault::{self, Fault};
use super::*;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

const OLD: &[u8] = b"old";
const NEW: &[u8] = b"the new one";

struct Files {
    _dir: tempfile::TempDir,
    path: PathBuf,
    part: PathBuf,
}

impl Files {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (path, part) = (dir.path().join("f"), dir.path().join("f.part"));
        fs::write(&path, OLD).unwrap();
        Self {
            _dir: dir,
            path,
            part,
        }
    }

    fn replace(&self) -> io::Result<()> {
        replace(&self.path, &self.part, 0o600, |file| {
            NEW.chunks(4).try_for_each(|bytes| file.write_all(bytes))
        })
    }

    fn content(&self) -> Vec<u8> {
        fs::read(&self.path).unwrap()
    }
}

/// What a power cut can undo is undone in this order: nothing has a name before it is on the disk.
#[test]
fn the_bytes_are_on_the_disk_before_the_name_and_the_name_before_the_return() {
    let files = Files::new();
    let done = fault::operations(|| files.replace().unwrap());
    let last = ["sync", "rename", "sync folder"];
    assert_eq!(
        done,
        [&["open", "write", "write", "write"], &last[..]].concat()
    );
    assert_eq!(files.content(), NEW);
}

#[test]
fn killed_at_any_operation_it_leaves_the_old_one_or_the_new_one() {
    for nth in 0.. {
        let files = Files::new();
        let (done, happened) = fault::at(nth, Fault::Kill, || files.replace());
        assert_eq!(done.is_none(), happened);
        // all but the name's way to the disk
        let expected = if nth < 6 { OLD } else { NEW };
        assert_eq!(files.content(), expected, "operation {nth}");
        // what is left of the part is in nobody's way
        files.replace().unwrap();
        assert_eq!(files.content(), NEW);
        assert!(!files.part.exists());
        if !happened {
            break;
        }
    }
}

#[test]
fn any_operation_that_fails_is_an_error_and_leaves_no_part() {
    for number in [libc::EIO, libc::ENOSPC, libc::EROFS, libc::EINTR] {
        for nth in 0.. {
            let files = Files::new();
            let (done, happened) = fault::at(nth, Fault::Errno(number), || files.replace());
            let done = done.unwrap();
            // an interrupted write is taken up again
            let retried = number == libc::EINTR && (1..4).contains(&nth);
            assert_eq!(done.is_err(), happened && !retried, "{number} at {nth}");
            if let Err(error) = done {
                assert_eq!(error.raw_os_error(), Some(number));
                assert_eq!(files.content(), if nth < 6 { OLD } else { NEW });
            }
            assert!(!files.part.exists(), "{number} at {nth}");
            if !happened {
                break;
            }
        }
    }
}

#[test]
fn a_short_write_is_taken_up_again() {
    for nth in 1..4 {
        let files = Files::new();
        let (done, _) = fault::at(nth, Fault::Short, || files.replace());
        done.unwrap().unwrap();
        assert_eq!(files.content(), NEW);
    }
}

#[test]
fn a_private_folder_is_its_owners_alone_and_files_have_their_mode() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("a/b");
    make_private_folder(&folder).unwrap();
    make_private_folder(&folder).unwrap();
    let path = folder.join("f");
    replace(&path, &folder.join("~f"), 0o600, |file| file.write_all(NEW)).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    assert_eq!(mode(folder.parent().unwrap()), 0o700);
    assert_eq!(mode(&path), 0o600);
    assert!(remove(&path).unwrap() && !remove(&path).unwrap());
    assert!(make_private_folder(&dir.path().join("a/b")).is_ok());
    fs::write(dir.path().join("file"), b"").unwrap();
    assert!(make_private_folder(&dir.path().join("file")).is_err());
}
