//! Bits of a configuration image: F32.

use crate::table::{Outcome, Row, Run, Tally};
use glowplug_tests::SplitMix;
use glowplug_tests::world::daemon::glowplug;
use std::path::Path;

pub(crate) const ROWS: [Row; 1] = [Row {
    name: "F32",
    fault: "bits flip and images are cut, in either slot",
    asked: "rejected or equal, the other slot is taken; no panic",
    run: flips,
}];

const SLOT: usize = 4096;

/// The settings that an image gives, or that it gives none; a panic is neither.
fn settings(path: &Path) -> Result<Option<String>, String> {
    let shown = glowplug(&["config", "show", path.to_str().unwrap()])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&shown.stdout);
    // what slots there are is told in lines of its own
    let lines: Vec<&str> = text.lines().filter(|l| !l.starts_with('#')).collect();
    match shown.status.code() {
        Some(0) => Ok(Some(lines.join("\n"))),
        Some(1 | 2) => Ok(None),
        _ => Err(String::from_utf8_lossy(&shown.stderr).into_owned()),
    }
}

fn flips(run: &Run, tally: &Tally) -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let image = path("image");
    let mut settings_of = Vec::new();
    let mut slots = Vec::new();
    for node in ["kitchen", "hall"] {
        let toml = path("toml");
        std::fs::write(
            &toml,
            format!("node = \"{node}\"\n[engine]\nmax_streams = 2\n"),
        )
        .unwrap();
        let [toml, out] = [&toml, &image].map(|path| path.to_str().unwrap());
        let compiled = glowplug(&["config", "compile", toml, "-o", out]).output();
        assert!(compiled.unwrap().status.success());
        slots.push(std::fs::read(&image).unwrap());
        settings_of.push(settings(&image).unwrap().unwrap());
    }
    let [one, two] = &slots[..] else {
        panic!("two images")
    };
    // where an image ends: behind it a slot is erased
    let end = |slot: &[u8]| slot.iter().rposition(|b| *b != 0xff).unwrap_or(0) + 1;
    let ends = [end(&two[..SLOT]), end(&two[SLOT..])];
    let mut random = SplitMix::new(run.seed, "F32");
    let altered = path("altered");
    let judge = |what: String, bytes: &[u8], allowed: &[Option<&String>]| {
        std::fs::write(&altered, bytes).unwrap();
        let found = settings(&altered);
        let right = found
            .as_ref()
            .is_ok_and(|found| allowed.contains(&found.as_ref()));
        tally.check(right, || format!("{what}: {found:?}"));
    };
    let (old, new) = (Some(&settings_of[0]), Some(&settings_of[1]));
    let every: Vec<(usize, usize, usize)> = (0..2)
        .flat_map(|slot| (0..ends[slot]).flat_map(move |at| (0..8).map(move |bit| (slot, at, bit))))
        .collect();
    let some = run.of(300, every.len());
    for n in 0..some {
        let (slot, at, bit) = if some == every.len() {
            every[n]
        } else {
            every[random.below(every.len())]
        };
        // the only image, the older, and the newer one
        let (whole, allowed): (&[u8], &[_]) = match (slot, n % 2) {
            (0, 0) => (one, &[None, old]),
            (0, _) => (two, &[new]),
            _ => (two, &[old, new]),
        };
        let mut bytes = whole.to_vec();
        bytes[slot * SLOT + at] ^= 1 << bit;
        judge(
            format!("bit {bit} of byte {at} of slot {slot}"),
            &bytes,
            allowed,
        );
    }
    for _ in 0..run.of(100, two.len()) {
        let cut = random.below(two.len());
        judge(format!("cut at {cut}"), &two[..cut], &[None, old, new]);
    }
    Ok(format!("{} bits of {}, and cuts", some, every.len()))
}
