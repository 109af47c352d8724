//! A board's file as it is written, and the checks that make a [`Board`] of it.

extern crate std;

use super::{Board, CLUSTERS_MAX, Cluster, FILES, Fit};
use crate::kv;
use crate::limits::{CLIENT_MAX, PAGE_TOKENS, PAGES_MAX, THREADS_MAX};
use crate::units::{Bytes, Capacity, Celsius};
use serde::Deserialize;
use std::format;
use std::string::{String, ToString};
use std::vec::Vec;

/// Why a board cannot be used. The message names the file, the key and the limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BoardError {
    /// There is no board of this name.
    #[error("`{0}` is not known")]
    Unknown(String),
    /// The file is not TOML, or has a key that is not known.
    #[error("board {file}: {why}")]
    Syntax {
        /// Name of the board.
        file: &'static str,
        /// What is wrong, with the line.
        why: String,
    },
    /// The file has a value outside its limits.
    #[error("board {file}: `{key}`: {why}")]
    Invalid {
        /// Name of the board.
        file: &'static str,
        /// The key of the value.
        key: &'static str,
        /// The limit that the value breaks.
        why: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBoard {
    memory: RawMemory,
    clusters: Vec<RawCluster>,
    thermal: RawThermal,
    storage: RawStorage,
    model: RawFit,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMemory {
    ram: String,
    reserve: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCluster {
    cores: usize,
    capacity: u16,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawThermal {
    throttle_c: u8,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawStorage {
    writes_per_day: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFit {
    name: String,
    context: usize,
    kv_format: String,
}

/// Finds and reads the board of this name.
///
/// # Errors
/// [`BoardError::Unknown`] if there is none. The other errors say that a file is not sound, which a test rules out for the
/// files that are compiled in.
pub fn find(name: &str) -> Result<Board, BoardError> {
    let file = FILES.iter().find(|(known, _)| *known == name);
    let Some((name, text)) = file else {
        return Err(BoardError::Unknown(name.to_string()));
    };
    read(name, text)
}

fn read(file: &'static str, text: &str) -> Result<Board, BoardError> {
    let raw: RawBoard = toml::from_str(text).map_err(|error| BoardError::Syntax {
        file,
        why: error.to_string(),
    })?;
    let invalid = |key, why: &str| BoardError::Invalid {
        file,
        key,
        why: why.to_string(),
    };
    let bytes = |key, text: &str| {
        Bytes::parse(text).ok_or_else(|| invalid(key, "is not a size such as `1400 MiB`"))
    };
    let ram = bytes("memory.ram", &raw.memory.ram)?;
    let reserve = bytes("memory.reserve", &raw.memory.reserve)?;
    if reserve >= ram {
        return Err(invalid("memory.reserve", "leaves nothing of `memory.ram`"));
    }
    let mut clusters = heapless::Vec::new();
    for cluster in &raw.clusters {
        let before = clusters
            .last()
            .map_or(Capacity::FULL, |c: &Cluster| c.capacity);
        let cluster = Cluster {
            cores: cluster.cores,
            capacity: Capacity(cluster.capacity),
        };
        if cluster.capacity > before || cluster.capacity.0 == 0 {
            return Err(invalid(
                "clusters.capacity",
                "must be from 1 to 1024, the fastest first",
            ));
        }
        clusters
            .push(cluster)
            .map_err(|_| invalid("clusters", &format!("are more than {CLUSTERS_MAX}")))?;
    }
    if clusters
        .first()
        .is_none_or(|c| c.capacity != Capacity::FULL)
    {
        return Err(invalid("clusters", "must begin with one of capacity 1024"));
    }
    let context_max = PAGES_MAX * PAGE_TOKENS;
    if !(PAGE_TOKENS..=context_max).contains(&raw.model.context) {
        let why = format!("must be from {PAGE_TOKENS} to {context_max} tokens");
        return Err(invalid("model.context", &why));
    }
    if !(40..=125).contains(&raw.thermal.throttle_c) {
        return Err(invalid(
            "thermal.throttle_c",
            "must be from 40 to 125 degrees",
        ));
    }
    let (k, v) =
        kv::formats(&raw.model.kv_format).ok_or_else(|| invalid("model.kv_format", kv::FORMATS))?;
    let board = Board {
        name: file,
        ram,
        reserve,
        clusters,
        throttle: Celsius(raw.thermal.throttle_c),
        writes_per_day: bytes("storage.writes_per_day", &raw.storage.writes_per_day)?,
        model: Fit {
            name: heapless::String::try_from(raw.model.name.as_str()).map_err(|_| {
                invalid("model.name", &format!("is longer than {CLIENT_MAX} bytes"))
            })?,
            context: raw.model.context,
            k,
            v,
        },
    };
    match board.cores(0.0) {
        1..=THREADS_MAX => Ok(board),
        _ => Err(invalid(
            "clusters.cores",
            &format!("must be from 1 to {THREADS_MAX} together"),
        )),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    #[test]
    fn every_file_is_compiled_in_and_has_a_reason_for_every_number() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("boards");
        let files: BTreeSet<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| path.file_stem().unwrap().to_str().unwrap().to_string())
            .collect();
        let names: BTreeSet<String> = FILES.iter().map(|(name, _)| name.to_string()).collect();
        assert_eq!(files, names);
        for (name, text) in FILES {
            assert_eq!(find(name).unwrap().name, *name);
            for line in text.lines().filter(|line| line.contains('=')) {
                let reason = line.split_once(" # ").map(|(_, reason)| reason.trim());
                assert!(reason.is_some_and(|r| r.len() > 3), "{name}: {line}");
            }
        }
    }

    #[test]
    fn what_is_wrong_with_a_file_is_named_with_its_limit() {
        let (file, text) = FILES[0];
        assert!(read(file, text).is_ok());
        for (from, to, says) in [
            (
                "ram = \"4 GiB\"",
                "ram = \"4 apples\"",
                "`memory.ram`: is not a size",
            ),
            (
                "ram = \"4 GiB\"",
                "ram = \"1 MiB\"",
                "`memory.reserve`: leaves nothing",
            ),
            ("ram = \"4 GiB\"", "rom = \"4 GiB\"", "unknown field `rom`"),
            (
                "cores = 4",
                "cores = 0",
                "`clusters.cores`: must be from 1 to",
            ),
            (
                "cores = 4",
                "cores = 5000",
                "`clusters.cores`: must be from 1 to",
            ),
            (
                "capacity = 1024",
                "capacity = 1025",
                "1024, the fastest first",
            ),
            (
                "capacity = 1024",
                "capacity = 512",
                "must begin with one of capacity 1024",
            ),
            ("throttle_c = 80", "throttle_c = 20", "from 40 to 125"),
            (
                "context = 4096",
                "context = 1",
                "`model.context`: must be from 32",
            ),
            (
                "kv_format = \"q8_0\"",
                "kv_format = \"q4_0\"",
                "`model.kv_format`",
            ),
            (
                "name = \"",
                "name = \"0123456789012345678901234567890123456789012345678901234567890123456789",
                "longer than 64",
            ),
        ] {
            assert!(text.contains(from), "{from}");
            let error = read(file, &text.replacen(from, to, 1))
                .unwrap_err()
                .to_string();
            assert!(error.contains(file) && error.contains(says), "{error}");
        }
        let unknown = find("raspberry-pi-5").unwrap_err();
        assert_eq!(unknown.to_string(), "`raspberry-pi-5` is not known");
    }
}
