//! The file of further users: a name and the hash of a password a line. It is read again when it has changed; where it cannot
//! be used then, the users before go on.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use argon2::password_hash::PasswordHash;
use argon2::{ARGON2ID_IDENT, Algorithm, Argon2, Block, Params, Version};
use subtle::ConstantTimeEq;

use super::credentials::{DAEMON_USER, LOCAL_USER};
use crate::files::{self, Stamp};
use crate::wire::clients::valid_segment;

/// Most users, and most bytes of their file.
const USERS_MAX: usize = 256;
const FILE_MAX: usize = 64 << 10;
/// Most memory that a hash may take to check, in KiB: what OWASP's list of parameters begins with after the largest.
const MEMORY_MAX: u32 = 19 << 10;
/// Most memory that a hash may write, in KiB: its memory times its passes.
const WORK_MAX: u32 = 4 * MEMORY_MAX;
/// Highest degree of parallelism of a hash. Its parts are computed one after the other.
const PARALLEL_MAX: u32 = 4;
/// Fewest bytes of a hash's output, and the most that there are.
const OUTPUT: std::ops::RangeInclusive<usize> = 16..=64;

/// Bytes that checking a password takes. One is checked at a time.
pub const HASH_BYTES: usize = (MEMORY_MAX as usize) << 10;
/// Bytes that the users of a file may take: the file twice, once as it is read again, and what is kept of each user.
pub const FILE_BYTES: usize = 2 * FILE_MAX + USERS_MAX * 512;

/// Why a file of users cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    #[error("cannot read `{}` (`broker.users_file`): {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("`{}` (`broker.users_file`), line {line}: {what}", path.display())]
    Line {
        path: PathBuf,
        line: usize,
        what: Wrong,
    },
}

/// What is wrong with a line. It never shows a hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    #[error(
        "a line is a name, a colon or a blank, and a hash of Argon2id, as `$argon2id$v=19$m=16384,t=2,p=1$…`"
    )]
    Shape,
    #[error("a name is the client's segment: 1 to 64 characters of A-Z a-z 0-9 . _ -")]
    Name,
    #[error("the names `{LOCAL_USER}` and `{DAEMON_USER}` are the embedded broker's own")]
    Own,
    #[error("the user is there already")]
    Twice,
    #[error("there are more than {USERS_MAX} users")]
    Many,
    #[error("the hash is not one of Argon2id, version 19")]
    Kind,
    #[error("the hash needs a salt of at least 8 bytes, written in base64")]
    Salt,
    #[error("the hash must have 16 to 64 bytes")]
    Output,
    #[error("Argon2 does not take these parameters")]
    Parameters,
    #[error("the hash takes {0} KiB of memory to check, {MEMORY_MAX} is the limit (`m`)")]
    Memory(u32),
    #[error(
        "the hash takes {passes} passes over {memory} KiB, {WORK_MAX} KiB in all is the limit (`t` times `m`)"
    )]
    Work { passes: u32, memory: u32 },
    #[error("the hash has a parallelism of {0}, {PARALLEL_MAX} is the limit (`p`)")]
    Parallel(u32),
}

/// The hash of a password, with what it takes to check one.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Hash {
    params: Params,
    salt: Vec<u8>,
    output: Vec<u8>,
}

impl Hash {
    fn parse(text: &str) -> Result<Self, Wrong> {
        let hash = PasswordHash::new(text).map_err(|_| Wrong::Shape)?;
        let version = hash.version.unwrap_or(0x10);
        if hash.algorithm != ARGON2ID_IDENT || version != Version::V0x13 as u32 {
            return Err(Wrong::Kind);
        }
        let output = hash.hash.ok_or(Wrong::Output)?.as_bytes().to_vec();
        if !OUTPUT.contains(&output.len()) {
            return Err(Wrong::Output);
        }
        let mut salt = [0; 64];
        let salt = hash.salt.and_then(|text| text.decode_b64(&mut salt).ok());
        let salt = salt.filter(|salt| salt.len() >= argon2::MIN_SALT_LEN);
        let salt = salt.ok_or(Wrong::Salt)?.to_vec();
        let params = Params::try_from(&hash).map_err(|_| Wrong::Parameters)?;
        let (memory, passes) = (params.m_cost(), params.t_cost());
        if memory > MEMORY_MAX {
            return Err(Wrong::Memory(memory));
        }
        if memory.saturating_mul(passes) > WORK_MAX {
            return Err(Wrong::Work { passes, memory });
        }
        if params.p_cost() > PARALLEL_MAX {
            return Err(Wrong::Parallel(params.p_cost()));
        }
        Ok(Self {
            params,
            salt,
            output,
        })
    }

    /// Whether this is the hash of the password. It takes up to [`HASH_BYTES`], and tens of milliseconds and more.
    ///
    /// # Errors
    /// There is no memory.
    pub(super) fn is_of(&self, password: &[u8]) -> io::Result<bool> {
        let mut blocks = Vec::new();
        let count = self.params.block_count();
        let room = blocks.try_reserve_exact(count);
        room.map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        blocks.resize(count, Block::default());
        let mut output = vec![0; self.output.len()];
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, self.params.clone());
        argon2
            .hash_password_into_with_memory(password, &self.salt, &mut output, &mut blocks)
            .map_err(|error| io::Error::other(error.to_string()))?;
        Ok(output.ct_eq(&self.output).into())
    }

    /// What no two hashes have in common.
    pub(super) fn output(&self) -> &[u8] {
        &self.output
    }

    fn cost(&self) -> u32 {
        self.params.m_cost() * self.params.t_cost()
    }
}

/// The users of a file.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Roster(BTreeMap<String, Arc<Hash>>);

impl Roster {
    /// Reads a user a line; empty lines and those that begin with `#` are passed over. An error gives the line.
    pub(super) fn parse(text: &str) -> Result<Self, (usize, Wrong)> {
        let mut users = BTreeMap::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |what| (number, what);
            let (name, hash) = line
                .split_once([':', ' ', '\t'])
                .ok_or(wrong(Wrong::Shape))?;
            if !valid_segment(name) {
                return Err(wrong(Wrong::Name));
            }
            if [LOCAL_USER, DAEMON_USER].contains(&name) {
                return Err(wrong(Wrong::Own));
            }
            if users.len() == USERS_MAX {
                return Err(wrong(Wrong::Many));
            }
            let hash = Hash::parse(hash.trim()).map_err(wrong)?;
            if users.insert(name.to_owned(), Arc::new(hash)).is_some() {
                return Err(wrong(Wrong::Twice));
            }
        }
        Ok(Self(users))
    }

    pub(super) fn get(&self, name: &str) -> Option<&Arc<Hash>> {
        self.0.get(name)
    }

    /// The hash that takes longest to check, for those who are no user: they learn nothing from the time.
    pub(super) fn costliest(&self) -> Option<&Arc<Hash>> {
        self.0.values().max_by_key(|hash| hash.cost())
    }

    /// The names that these users have and `others` do not.
    pub(super) fn without<'a>(&'a self, others: &'a Self) -> impl Iterator<Item = &'a str> {
        let names = self.0.keys().map(String::as_str);
        names.filter(|name| others.get(name).is_none())
    }
}

/// A file of users.
pub(super) struct UsersFile {
    path: PathBuf,
    stamp: Option<Stamp>,
}

impl UsersFile {
    /// # Errors
    /// Says which line cannot be used, and why.
    pub(super) fn open(path: &Path) -> Result<(Self, Roster), UsersError> {
        let stamp = stamp(path);
        let users = read(path)?;
        let path = path.to_owned();
        Ok((Self { path, stamp }, users))
    }

    /// Its users, if it is another file than before. Where it cannot be used, the log says so, and there are none.
    pub(super) fn changed(&mut self) -> Option<Roster> {
        let stamp = stamp(&self.path);
        if stamp == self.stamp {
            return None;
        }
        // looked at once more only when it changes again
        self.stamp = stamp;
        read(&self.path)
            .inspect_err(|error| {
                tracing::error!("{error}; the embedded broker keeps the users that it had");
            })
            .ok()
    }
}

/// What the file is recognised by. Of one that cannot be read there is nothing.
fn stamp(path: &Path) -> Option<Stamp> {
    // a FIFO would block
    fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
    Stamp::of(&File::open(path).ok()?).ok()
}

fn read(path: &Path) -> Result<Roster, UsersError> {
    let is_file = |of: fs::Metadata| {
        let no_file = || io::Error::new(io::ErrorKind::InvalidInput, "it is no file");
        of.is_file().then_some(()).ok_or_else(no_file)
    };
    let text = fs::metadata(path)
        .and_then(is_file)
        .and_then(|()| files::text(path, &File::open(path)?, FILE_MAX))
        .map_err(|source| UsersError::Read {
            path: path.to_owned(),
            source,
        })?;
    Roster::parse(&text).map_err(|(line, what)| UsersError::Line {
        path: path.to_owned(),
        line,
        what,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
