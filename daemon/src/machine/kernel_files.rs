//! Files in which the kernel says what there is. They are read below a root, so that a test can have a machine of its
//! own, and never beyond a bound.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

/// Most bytes of a file below `/proc` and `/sys` that are read.
const FILE_MAX: u64 = 1 << 20;
/// Most entries of a folder that are looked at.
const ENTRIES_MAX: usize = 4096;

/// Reads a file's text; none if it is not there or not text.
pub fn text(path: &Path) -> Option<String> {
    let mut text = String::new();
    let file = File::open(path).ok()?;
    file.take(FILE_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

/// Reads the number that a file holds alone.
pub fn number<T: std::str::FromStr>(path: &Path) -> Option<T> {
    text(path)?.trim().parse().ok()
}

/// Reads the value of a line `name: value` of a file such as `/proc/meminfo`.
pub fn field(path: &Path, name: &str) -> Option<String> {
    let text = text(path)?;
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(value.strip_prefix(':')?.trim().to_owned())
}

/// Reads a field that is given in kB, in bytes.
pub fn bytes(path: &Path, name: &str) -> Option<u64> {
    let kib: u64 = field(path, name)?.strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The folders whose names are this prefix and a number, in the order of the numbers.
pub fn numbered(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let number =
        |name: OsString| -> Option<u32> { name.to_str()?.strip_prefix(prefix)?.parse().ok() };
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<(u32, PathBuf)> = entries
        .take(ENTRIES_MAX)
        .filter_map(|entry| Some((number(entry.file_name())?, entry.path())))
        .collect();
    found.sort_unstable();
    found.into_iter().map(|(_, path)| path).collect()
}

/// Reads a controller's file in all control groups that this process is in, of version 2 and 1, from its own group up
/// to the root. A container sees its own group as the root, sometimes under a path that it cannot see; what is not
/// there says nothing.
pub fn cgroups(root: &Path, controller: &str, v2: &str, v1: &str) -> Vec<(PathBuf, String)> {
    let groups = text(&root.join("proc/self/cgroup")).unwrap_or_default();
    let mut found = Vec::new();
    for line in groups.lines() {
        // `0::/path` in version 2, `9:memory:/path` in version 1
        let mut fields = line.splitn(3, ':').skip(1);
        let controllers = fields.next().unwrap_or_default();
        let path = fields.next().unwrap_or_default();
        let (mount, file) = match controllers {
            "" => (root.join("sys/fs/cgroup"), v2),
            list if list.split(',').any(|c| c == controller) => {
                (root.join("sys/fs/cgroup").join(controller), v1)
            }
            _ => continue,
        };
        let path: PathBuf = Path::new(path)
            .components()
            .filter(|part| matches!(part, Component::Normal(_)))
            .collect();
        // the last ancestor is the empty path, which is the mount itself
        for group in path.ancestors().map(|group| mount.join(group)) {
            if let Some(text) = text(&group.join(file)) {
                found.push((group, text));
            }
        }
    }
    found
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
pub(crate) mod tests {
    use super::*;
    use tempfile::TempDir;

    /// A file system of these files.
    pub(crate) fn tree(files: &[(&str, &str)]) -> TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn what_is_not_as_expected_is_nothing() {
        let root = tree(&[
            ("n", " 12\n"),
            ("x", "twelve"),
            ("f", "Name:\t a b \nMemTotal:  3 kB\nBare: 4\n"),
        ]);
        let path = |name: &str| root.path().join(name);
        assert_eq!(number::<u32>(&path("n")), Some(12));
        assert_eq!(number::<u32>(&path("x")), None);
        assert_eq!(number::<u32>(&path("none")), None);
        assert_eq!(field(&path("f"), "Name").as_deref(), Some("a b"));
        assert_eq!(field(&path("f"), "Nam"), None);
        assert_eq!(bytes(&path("f"), "MemTotal"), Some(3072));
        assert_eq!(bytes(&path("f"), "Bare"), None);
        std::fs::write(path("bad"), [0xff, 0xfe]).unwrap();
        assert_eq!(text(&path("bad")), None);
        let long = File::create(path("long")).unwrap();
        long.set_len(FILE_MAX + 5).unwrap();
        assert_eq!(text(&path("long")).unwrap().len() as u64, FILE_MAX);
    }

    #[test]
    fn folders_are_in_the_order_of_their_numbers() {
        let root = tree(&[
            ("z10/a", ""),
            ("z9/a", ""),
            ("z/a", ""),
            ("y1/a", ""),
            ("z1x/a", ""),
        ]);
        let names: Vec<_> = numbered(root.path(), "z")
            .iter()
            .map(|path| path.file_name().unwrap().to_owned())
            .collect();
        assert_eq!(names, ["z9", "z10"]);
        assert!(numbered(&root.path().join("none"), "z").is_empty());
    }
}
