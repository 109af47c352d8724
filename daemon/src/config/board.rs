//! The board files that are compiled in.

use glowplug_firmware_config::board::{Board, FILES};
use serde::Deserialize;

use super::ConfigError;
use super::raw::invalid;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBoard {
    ram_bytes: u64,
    cores: usize,
    reserve_bytes: u64,
}

/// The board of this name.
pub(crate) fn find(name: &str) -> Result<Board, ConfigError> {
    let Some((name, text)) = FILES.iter().find(|(known, _)| *known == name) else {
        let names = FILES.iter().map(|(known, _)| *known);
        let nearest = names.min_by_key(|known| strsim::damerau_levenshtein(known, name));
        let nearest = nearest.unwrap_or_default();
        let why = format!("`{name}` is not known; the nearest known one is `{nearest}`");
        return Err(invalid("board", why));
    };
    let raw: RawBoard = toml::from_str(text).map_err(|e| invalid("board", e.to_string()))?;
    Ok(Board {
        name,
        ram_bytes: raw.ram_bytes,
        cores: raw.cores,
        reserve_bytes: raw.reserve_bytes,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use glowplug_firmware_config::limits::THREADS_MAX;
    use std::collections::BTreeSet;
    use std::path::Path;

    #[test]
    fn every_file_is_compiled_in_and_makes_sense() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../firmware-config/boards");
        let files: BTreeSet<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        let names: BTreeSet<String> = FILES.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(files, names);
        for (name, text) in FILES {
            let board = find(name).unwrap();
            assert_eq!(board.name, *name);
            assert!(board.reserve_bytes < board.ram_bytes, "{name}");
            assert!((1..=THREADS_MAX).contains(&board.cores), "{name}");
            // every number has its reason
            let numbers = text.lines().filter(|line| line.contains('='));
            for line in numbers {
                assert!(line.contains(" # "), "{name}: {line}");
            }
        }
    }

    #[test]
    fn an_unknown_board_names_the_nearest() {
        let error = find("raspberry-pi-5").unwrap_err().to_string();
        assert!(error.contains("`raspberry-pi-5-"), "{error}");
    }
}
