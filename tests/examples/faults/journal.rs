//! What a daemon did to the files below a folder, system call by system call, and what of it a power cut may leave.
//!
//! The kernel promises little: bytes of a file are on the disk after an `fsync` of the file, names after one of their
//! folder. Until then each may be there, in part, or not.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Files of a folder by their paths, with what is in them.
pub(crate) type Tree = BTreeMap<PathBuf, Vec<u8>>;

/// All files below a folder.
pub(crate) fn tree(folder: &Path) -> Tree {
    let mut tree = Tree::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            tree.extend(self::tree(&path));
        } else {
            let bytes = std::fs::read(&path).unwrap();
            tree.insert(path, bytes);
        }
    }
    tree
}

/// Makes a folder hold exactly these files; those that it has are left as they are, with their times.
pub(crate) fn put(folder: &Path, tree: &Tree) {
    let there = self::tree(folder);
    for path in there.keys().filter(|path| !tree.contains_key(*path)) {
        std::fs::remove_file(path).unwrap();
    }
    for (path, bytes) in tree {
        if there.get(path) != Some(bytes) {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
    }
}

#[derive(Debug, Clone, Default)]
struct Inode {
    bytes: Vec<u8>,
    /// the bytes that are on the disk, if any ever were
    synced: Option<Vec<u8>>,
}

/// What is on the disk after the operations so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Disk {
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    /// the names that are on the disk
    synced: BTreeMap<PathBuf, usize>,
    open: BTreeMap<u64, (PathBuf, Option<usize>, usize)>,
    root: PathBuf,
}

impl Disk {
    /// With what was there in the beginning, all of it on the disk.
    pub(crate) fn new(root: &Path, tree: &Tree) -> Self {
        let mut disk = Self {
            root: root.to_owned(),
            ..Self::default()
        };
        for (path, bytes) in tree {
            disk.names.insert(path.clone(), disk.inodes.len());
            disk.inodes.push(Inode {
                bytes: bytes.clone(),
                synced: Some(bytes.clone()),
            });
        }
        disk.synced = disk.names.clone();
        disk
    }

    /// What a power cut may leave now.
    pub(crate) fn after_a_cut(&self) -> BTreeSet<Tree> {
        let tree = |names: &BTreeMap<PathBuf, usize>, bytes: fn(&Inode) -> Vec<u8>| -> Tree {
            let files = names.iter();
            files
                .map(|(path, inode)| (path.clone(), bytes(&self.inodes[*inode])))
                .collect()
        };
        let durable: fn(&Inode) -> Vec<u8> = |inode| inode.synced.clone().unwrap_or_default();
        let half: fn(&Inode) -> Vec<u8> = |inode| match &inode.synced {
            Some(synced) if *synced == inode.bytes => synced.clone(),
            _ => inode.bytes[..inode.bytes.len() / 2].to_vec(),
        };
        let all: fn(&Inode) -> Vec<u8> = |inode| inode.bytes.clone();
        let mut trees = BTreeSet::new();
        for names in [&self.names, &self.synced] {
            for bytes in [durable, half, all] {
                trees.insert(tree(names, bytes));
            }
        }
        trees
    }

    /// Replays one call; true if it changed what a cut may leave.
    pub(crate) fn replay(&mut self, call: &Call) -> bool {
        let arg = |n: usize| call.args.get(n).map_or("", String::as_str);
        let fd = |n: usize| arg(n).parse::<u64>().unwrap_or(u64::MAX);
        match call.name.as_str() {
            "openat" | "open" => {
                let at = usize::from(call.name == "openat");
                let path = PathBuf::from(text(arg(at)));
                if !path.starts_with(&self.root) {
                    self.open.remove(&call.result);
                    return false;
                }
                let flags = arg(at + 1);
                let mut inode = self.names.get(&path).copied();
                let mut changed = false;
                if inode.is_none() && flags.contains("O_CREAT") {
                    inode = Some(self.inodes.len());
                    self.inodes.push(Inode::default());
                    self.names.insert(path.clone(), self.inodes.len() - 1);
                    changed = true;
                }
                if let (Some(inode), true) = (inode, flags.contains("O_TRUNC")) {
                    changed |= !self.inodes[inode].bytes.is_empty();
                    self.inodes[inode].bytes.clear();
                }
                self.open.insert(call.result, (path, inode, 0));
                changed
            }
            "write" | "pwrite64" => {
                let Some((_, Some(inode), at)) = self.open.get_mut(&fd(0)) else {
                    return false;
                };
                let bytes = bytes(arg(1));
                let bytes = &bytes[..bytes.len().min(call.result as usize)];
                let begin = if call.name == "write" {
                    *at
                } else {
                    arg(3).parse().unwrap_or(0)
                };
                let file = &mut self.inodes[*inode].bytes;
                let end = begin + bytes.len();
                file.resize(file.len().max(end), 0);
                file[begin..end].copy_from_slice(bytes);
                *at = end;
                true
            }
            "ftruncate" => {
                let Some((_, Some(inode), _)) = self.open.get(&fd(0)) else {
                    return false;
                };
                let length = arg(1).parse().unwrap_or(0);
                self.inodes[*inode].bytes.resize(length, 0);
                true
            }
            "fsync" | "fdatasync" => match self.open.get(&fd(0)) {
                Some((_, Some(inode), _)) => {
                    let inode = &mut self.inodes[*inode];
                    inode.synced = Some(inode.bytes.clone());
                    true
                }
                Some((folder, None, _)) => {
                    let inside = |path: &PathBuf| path.parent() == Some(folder);
                    let gone: Vec<_> = self.synced.keys().filter(|p| inside(p)).cloned().collect();
                    for path in gone {
                        self.synced.remove(&path);
                    }
                    let now = self.names.iter().filter(|(path, _)| inside(path));
                    self.synced
                        .extend(now.map(|(path, inode)| (path.clone(), *inode)));
                    true
                }
                None => false,
            },
            "close" => {
                self.open.remove(&fd(0));
                false
            }
            "rename" | "renameat" | "renameat2" => {
                let [from, to] = if call.name == "rename" {
                    [0, 1]
                } else {
                    [1, 3]
                };
                let [from, to] = [from, to].map(|n| PathBuf::from(text(arg(n))));
                let Some(inode) = self.names.remove(&from) else {
                    return false;
                };
                self.names.insert(to, inode);
                true
            }
            "unlink" | "unlinkat" => {
                let at = usize::from(call.name == "unlinkat");
                self.names.remove(&PathBuf::from(text(arg(at)))).is_some()
            }
            _ => false,
        }
    }
}

/// A system call that succeeded.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    name: String,
    args: Vec<String>,
    result: u64,
}

/// The calls of a log of `strace -f -xx`, in the order in which they ended, each with the number of its line.
pub(crate) fn calls(log: &str) -> Vec<(usize, Call)> {
    let mut begun: BTreeMap<&str, &str> = BTreeMap::new();
    let mut calls = Vec::new();
    for (line, text) in log.lines().enumerate() {
        let Some((pid, rest)) = text.split_once(' ') else {
            continue;
        };
        let rest = rest.trim_start();
        if let Some(beginning) = rest.strip_suffix(" <unfinished ...>") {
            begun.insert(pid, beginning);
            continue;
        }
        let whole = match rest.strip_prefix("<... ") {
            Some(rest) => {
                let (Some(beginning), Some((_, end))) =
                    (begun.remove(pid), rest.split_once(" resumed>"))
                else {
                    continue;
                };
                format!("{beginning}{end}")
            }
            None => rest.to_owned(),
        };
        calls.extend(call(&whole).map(|call| (line, call)));
    }
    calls
}

fn call(text: &str) -> Option<Call> {
    let (name, rest) = text.split_once('(')?;
    let (args, result) = rest.rsplit_once(" = ")?;
    let args = args.trim_end().strip_suffix(')')?;
    // no text holds a comma or a bracket: every byte of it is written in hexadecimal
    Some(Call {
        name: name.to_owned(),
        args: args.split(", ").map(str::to_owned).collect(),
        result: result.split(' ').next()?.parse().ok()?,
    })
}

/// The bytes of `"\x61\x62"`.
fn bytes(arg: &str) -> Vec<u8> {
    let hex = arg.trim_matches('"').split("\\x").skip(1);
    hex.filter_map(|byte| u8::from_str_radix(byte, 16).ok())
        .collect()
}

fn text(arg: &str) -> String {
    String::from_utf8_lossy(&bytes(arg)).into_owned()
}
