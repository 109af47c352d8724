//! What builds are made of.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::process::Command;

/// The names of all crates that a package is built from with these features.
fn crates(package: &str, features: &str) -> Vec<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--offline", "--prefix", "none"])
        .args(["-e", "normal,build", "-p", package, "--features", features])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let tree = String::from_utf8(output.stdout).unwrap();
    let names = tree.lines().filter_map(|line| line.split(' ').next());
    names.map(str::to_owned).collect()
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

/// The client, the embedded broker and `pull` speak TLS by one rustls, with ring.
#[test]
fn there_is_one_tls() {
    let built = crates("glowplug", "");
    let has = |name: &str| built.iter().any(|known| known == name);
    assert!(has("rustls") && has("ring"));
    for other in [
        "aws-lc-rs",
        "aws-lc-sys",
        "native-tls",
        "openssl-sys",
        "mbedtls",
    ] {
        assert!(!has(other), "{other}");
    }
    // a name that two versions have is ambiguous
    for one in ["rustls", "ring", "tokio-rustls", "rustls-webpki"] {
        let output = Command::new(env!("CARGO"))
            .args(["tree", "--locked", "--offline", "-p", "glowplug", "-i", one])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
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
