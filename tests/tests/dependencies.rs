//! What the default build is made of.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::process::Command;

/// A board without a GPU does not pay for one: the crates of feature `wgpu` come with it alone.
#[test]
fn the_default_build_has_no_crate_of_a_gpu() {
    let tree = |features: &[&str]| {
        let output = Command::new(env!("CARGO"))
            .args([
                "tree",
                "--locked",
                "--offline",
                "-p",
                "glowplug",
                "-e",
                "normal,build",
            ])
            .args(["--prefix", "none"])
            .args(features)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let gpu = |tree: &str| {
        let ours = ["wgpu", "cubek", "naga", "pliron", "burn-cube", "burn-wgpu"];
        let names = tree.lines().filter_map(|line| line.split(' ').next());
        let found =
            names.filter(|name| *name == "ash" || ours.iter().any(|ours| name.starts_with(ours)));
        found.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(gpu(&tree(&[])), Vec::<String>::new());
    // or this would show nothing
    assert!(gpu(&tree(&["--features", "wgpu"])).len() > 5);
}
