//! All targets as one program: `GLOWPLUG_FUZZ` has the name of the one that runs.

#![no_main]

use glowplug_tests::fuzz::{TARGETS, Target};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static RUN: LazyLock<Target> = LazyLock::new(|| {
    let wanted = std::env::var("GLOWPLUG_FUZZ").unwrap_or_default();
    let target = TARGETS.into_iter().find(|(name, _)| *name == wanted);
    target.expect("GLOWPLUG_FUZZ has the name of a target").1
});

fuzz_target!(|bytes: &[u8]| RUN(bytes));
