//! Which session files there are, their lengths and their ages. Their number and their bytes are bounded for each client
//! and in all. At a bound a client's own files give way, the oldest first, and nobody else's.

use super::unsaved::Unsaved;
use crate::files;
use crate::kv::snapshot::{self, PART};
use crate::seal::Keys;
use glowplug_firmware_config::limits::{
    SNAPSHOT_BYTES_MAX, SNAPSHOT_BYTES_PER_CLIENT, SNAPSHOTS_MAX, SNAPSHOTS_PER_CLIENT,
};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::ops::Bound;
use std::path::Path;
use std::time::SystemTime;

const SUFFIX: &str = ".session";
/// Hexadecimal digits of a hash in a file's name. Half of a SHA-256 is enough: nobody finds another name with the same one.
const DIGITS: usize = 32;
/// Most files that expire in one sweep.
const EXPIRED_MAX: usize = 256;

/// The name of a session's file. It holds hashes, so that no part of a client's name is part of a path. The files of a
/// client begin with [`owner`].
pub(in crate::engine) fn name(client: &str, session: &str) -> String {
    format!("{}-{}{SUFFIX}", hashed(client), hashed(session))
}

/// How the names of a client's files begin.
pub(in crate::engine) fn owner(client: &str) -> String {
    format!("{}-", hashed(client))
}

fn hashed(name: &str) -> String {
    let mut hash = format!("{:x}", Sha256::digest(name.as_bytes()));
    hash.truncate(DIGITS);
    hash
}

fn is_ours(name: &str) -> bool {
    name.ends_with(SUFFIX) && name.len() == 2 * DIGITS + 1 + SUFFIX.len() && name.is_ascii()
}

/// The session files of a folder, as far as this process knows them.
#[derive(Debug, Default)]
pub(in crate::engine) struct Stored {
    files: BTreeMap<String, Entry>,
    /// counts the files that were put or used, to order them
    puts: u64,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    bytes: u64,
    /// whether it has pages, as far as is known
    pages: bool,
    /// when its session was last used, in seconds of the caller's clock
    seen: i64,
    /// [`Stored::puts`] when it was last put or used
    order: u64,
}

impl Stored {
    /// Reads which files a folder has, and removes those that a killed process has left half written. The age of a file is
    /// taken from the clock of its file system once; from then on the caller's clock counts, which nobody sets.
    ///
    /// # Errors
    /// The folder cannot be read. If it can only not be written, the second value of the result says so.
    pub(in crate::engine) fn read(folder: &Path, now: i64) -> io::Result<(Self, io::Result<()>)> {
        files::operation("read folder")?;
        let (mut found, mut parts) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if name.strip_prefix(PART).is_some_and(is_ours) {
                parts.push(entry.path());
            } else if is_ours(&name) && found.len() < SNAPSHOTS_MAX {
                // a folder with more files was filled by somebody else: the others are seen after a restart
                let of = entry.metadata()?;
                found.push((of.modified()?, name, of.len()));
            }
        }
        let clock = parts
            .iter()
            .try_for_each(|part| files::remove(part).map(|_| ()))
            .and_then(|()| clock(folder));
        found.sort();
        let mut stored = Self::default();
        for (modified, name, bytes) in found {
            let clock = clock.as_ref().unwrap_or(&modified);
            let age = clock.duration_since(modified).unwrap_or_default();
            let age = i64::try_from(age.as_secs()).unwrap_or(i64::MAX);
            stored.put(name, bytes, true, now.saturating_sub(age));
        }
        Ok((stored, clock.map(|_| ())))
    }

    pub(in crate::engine) fn has(&self, name: &str) -> bool {
        self.files.contains_key(name)
    }

    /// When the session of a file was last used.
    pub(in crate::engine) fn seen(&self, name: &str) -> Option<i64> {
        Some(self.files.get(name)?.seen)
    }

    /// Notes a file that was written.
    pub(in crate::engine) fn put(&mut self, name: String, bytes: u64, pages: bool, seen: i64) {
        self.puts += 1;
        let order = self.puts;
        self.files.insert(
            name,
            Entry {
                bytes,
                pages,
                seen,
                order,
            },
        );
    }

    /// Notes that the session of a file was used.
    pub(in crate::engine) fn touch(&mut self, name: &str, seen: i64) {
        self.puts += 1;
        if let Some(entry) = self.files.get_mut(name) {
            (entry.seen, entry.order) = (seen, self.puts);
        }
    }

    /// Notes that a file is gone.
    pub(in crate::engine) fn forget(&mut self, name: &str) {
        self.files.remove(name);
    }

    /// The names of the files that begin with `owner`.
    pub(in crate::engine) fn of<'a>(&'a self, owner: &'a str) -> impl Iterator<Item = &'a str> {
        let begin = (Bound::Included(owner), Bound::Unbounded);
        let names = self.files.range::<str, _>(begin).map(|(name, _)| &**name);
        names.take_while(move |name| name.starts_with(owner))
    }

    /// Some of the files whose sessions nobody used in the last `expire` seconds before `now`, but none of `besides`.
    pub(in crate::engine) fn expired(
        &self,
        now: i64,
        expire: i64,
        besides: &BTreeSet<String>,
    ) -> Vec<String> {
        let old = |entry: &Entry| now.saturating_sub(entry.seen) >= expire;
        let old = self.files.iter().filter(|(_, entry)| old(entry));
        let old = old
            .map(|(name, _)| name)
            .filter(|name| !besides.contains(*name));
        old.take(EXPIRED_MAX).cloned().collect()
    }

    /// Makes room for a file of so many bytes, which replaces one of its name if there is one. Pages of the client's other
    /// files go before their texts, which nobody can compute again.
    ///
    /// # Errors
    /// [`Unsaved::Full`] if files of other clients are in the way, or the file alone is too long: nothing has changed then.
    /// [`Unsaved::File`] if the disk refuses.
    pub(in crate::engine) fn make_room(
        &mut self,
        folder: &Path,
        name: &str,
        bytes: u64,
        keys: Option<&Keys>,
    ) -> Result<(), Unsaved> {
        let owner = &name[..=DIGITS];
        let (mut others, mut all) = ((0, 0), (0, 0));
        for (other, entry) in &self.files {
            if other != name {
                all = (all.0 + 1, all.1 + entry.bytes);
            }
            if !other.starts_with(owner) {
                others = (others.0 + 1, others.1 + entry.bytes);
            }
        }
        let mut own = (all.0 - others.0, all.1 - others.1);
        let fits = |(files, sum): (usize, u64), files_max, sum_max| {
            (files < files_max, sum.saturating_add(bytes) <= sum_max)
        };
        if fits(others, SNAPSHOTS_MAX, SNAPSHOT_BYTES_MAX) != (true, true)
            || bytes > SNAPSHOT_BYTES_PER_CLIENT
        {
            return Err(Unsaved::Full);
        }
        loop {
            let mine = fits(own, SNAPSHOTS_PER_CLIENT, SNAPSHOT_BYTES_PER_CLIENT);
            let sum = (others.0 + own.0, others.1 + own.1);
            let whole = fits(sum, SNAPSHOTS_MAX, SNAPSHOT_BYTES_MAX);
            let (few, short) = (mine.0 && whole.0, mine.1 && whole.1);
            if few && short {
                return Ok(());
            }
            let oldest = |pages: bool| {
                let own = self.of(owner).filter(|other| *other != name);
                let own = own.filter_map(|name| Some((name, self.files.get(name)?)));
                let own = own.filter(|(_, entry)| entry.pages || !pages);
                let oldest = own.min_by_key(|(_, entry)| entry.order);
                oldest.map(|(name, entry)| (name.to_owned(), entry.bytes))
            };
            if few && let Some((oldest, before)) = oldest(true) {
                // a file that is no snapshot, or does not open, keeps its bytes here, and is removed as a whole when its turn comes
                let left = snapshot::drop_pages(&folder.join(&oldest), keys).unwrap_or(before);
                if let Some(entry) = self.files.get_mut(&oldest) {
                    (entry.bytes, entry.pages) = (left, false);
                }
                own.1 -= before - left.min(before);
            } else if let Some((oldest, before)) = oldest(false) {
                files::remove(&folder.join(&oldest))?;
                self.files.remove(&oldest);
                own = (own.0 - 1, own.1 - before);
            } else {
                return Err(Unsaved::Full);
            }
        }
    }
}

/// The time of the folder's file system, taken from a file that is written for it.
fn clock(folder: &Path) -> io::Result<SystemTime> {
    let path = folder.join(format!("{PART}{}", name("", "")));
    files::operation("open")?;
    let now = File::create(&path)?.metadata()?.modified();
    files::remove(&path)?;
    now
}

#[cfg(test)]
mod tests;
