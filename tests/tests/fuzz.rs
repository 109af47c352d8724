//! Every fuzz target on its seeds and on what becomes of them. For minutes, and guided: `tests/fuzz/run.sh`.

#![allow(clippy::unwrap_used)]

use glowplug_tests::SplitMix;
use glowplug_tests::fuzz::{TARGETS, seeds};
use std::fs;
use std::path::Path;

/// How often each seed is changed.
const CHANGES: usize = 100;

#[test]
fn every_target_holds_on_its_seeds_and_near_them() {
    let made = tempfile::tempdir().unwrap();
    seeds::write_all(made.path()).unwrap();
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    for (name, run) in TARGETS {
        let folders = [made.path().join(name), kept.join(name)];
        let mut seeds: Vec<_> = folders
            .iter()
            .filter_map(|folder| fs::read_dir(folder).ok())
            .flatten()
            .map(|entry| entry.unwrap().path())
            .collect();
        seeds.sort();
        assert!(!seeds.is_empty(), "target {name} has no seeds");
        let mut random = SplitMix::new(seeds.len() as u64, name);
        for seed in seeds {
            let seed = fs::read(seed).unwrap();
            run(&seed);
            for _ in 0..CHANGES {
                run(&changed(&seed, &mut random));
            }
        }
        run(&[]);
    }
}

/// The seed with some bytes replaced, and now and then cut or with a part of it twice.
fn changed(seed: &[u8], random: &mut SplitMix) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=random.below(8) {
        let at = random.below(bytes.len() + 1);
        match random.below(8) {
            0 => bytes.truncate(at),
            1 => bytes.extend_from_slice(&seed[at.min(seed.len())..]),
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = random.below(256) as u8;
                }
            }
        }
    }
    bytes
}
