//! What builds are made of.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::process::Command;

/// All crates that a package is built from with these features, each with its version.
fn built(package: &str, features: &str, more: &[&str]) -> BTreeSet<(String, String)> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--offline", "--prefix", "none"])
        .args(["-e", "normal,build", "-p", package, "--features", features])
        .args(more)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let tree = String::from_utf8(output.stdout).unwrap();
    let named = tree.lines().filter_map(|line| {
        let mut words = line.split(' ');
        Some((words.next()?.to_owned(), words.next()?.to_owned()))
    });
    named.collect()
}

/// The names of all crates that a package is built from with these features.
fn crates(package: &str, features: &str) -> Vec<String> {
    let built = built(package, features, &[]);
    built.into_iter().map(|(name, _)| name).collect()
}

/// A board without a GPU does not pay for one: the crates of feature `wgpu` come with it alone.
#[test]
fn the_default_build_has_no_crate_of_a_gpu() {
    let gpu = |features: &str| {
        let ours = ["wgpu", "cubek", "naga", "pliron", "burn-cube", "burn-wgpu"];
        let mut found = crates("glowplug", features);
        found.retain(|name| name == "ash" || ours.iter().any(|ours| name.starts_with(ours)));
        found
    };
    assert_eq!(gpu(""), Vec::<String>::new());
    // or this would show nothing
    assert!(gpu("wgpu").len() > 5);
}

/// The client, the embedded broker and `pull` speak TLS by one rustls, with ring, for every kind of board and with a GPU too.
#[test]
fn there_is_one_tls() {
    let boards = [
        "x86_64-unknown-linux-gnu",
        "aarch64-unknown-linux-gnu",
        "aarch64-unknown-linux-musl",
        "armv7-unknown-linux-gnueabihf",
        "riscv64gc-unknown-linux-gnu",
    ];
    for (target, features) in boards
        .map(|board| (board, ""))
        .into_iter()
        .chain([(boards[0], "wgpu")])
    {
        let built = built("glowplug", features, &["--target", target]);
        let versions = |name: &str| {
            let of_name = built.iter().filter(|(known, _)| known == name);
            of_name.map(|(_, version)| version).collect::<BTreeSet<_>>()
        };
        for one in [
            "rustls",
            "ring",
            "tokio-rustls",
            "rustls-webpki",
            "rustls-native-certs",
        ] {
            let found = versions(one);
            assert_eq!(
                found.len(),
                1,
                "{one} on {target} with `{features}`: {found:?}"
            );
        }
        for other in [
            "aws-lc-rs",
            "aws-lc-sys",
            "native-tls",
            "openssl-sys",
            "openssl",
            "mbedtls",
            "boring",
            "s2n-tls",
            "rustls-rustcrypto",
        ] {
            assert!(
                versions(other).is_empty(),
                "{other} on {target} with `{features}`"
            );
        }
    }
}

/// The oracle's second device can be chosen, and is in no build that did not choose it.
#[test]
fn burn_ndarray_comes_with_its_feature_alone() {
    let has = |package, features| {
        let crates = crates(package, features);
        crates.iter().any(|name| name == "burn-ndarray")
    };
    assert!(has("glowplug-model", "ndarray"));
    for features in ["", "wgpu"] {
        assert!(!has("glowplug", features), "with `{features}`");
    }
}
