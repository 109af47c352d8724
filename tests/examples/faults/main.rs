//! The faults that a daemon must survive, as one command:
//! `cargo run --release -p glowplug-tests --example faults [-- F7 F19 …] [--long] [--times] [--seed N]`.
//!
//! Each row injects one fault into the real daemon, as a process of its own on Mosquitto or its own broker, and says how
//! often that was survived. Judged are counts, bytes, steps and outcomes; times only with `--times`, against the same run
//! undisturbed. `--long` is the form for a release. What cannot be injected on this machine is not run, and counts as
//! that. Exit code 1: a row fell short.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod asker;
mod cgroup;
mod common;
mod journal;
mod rows;
mod table;
mod vault;

use rows::storage::{disks, files, power};
use rows::{brokers, clients, gpu, image, load, machine, memory, models, signals, text};
use std::process::{Command, ExitCode};
use table::{Row, Run, Verdict};

fn main() -> ExitCode {
    let mut run = Run {
        seed: 1,
        long: false,
        times: false,
    };
    let mut names = Vec::new();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--long" => run.long = true,
            "--times" => run.times = true,
            "--seed" => match args.next().and_then(|n| n.parse().ok()) {
                Some(seed) => run.seed = seed,
                None => return usage("--seed wants a number"),
            },
            _ => names.push(arg),
        }
    }
    let rows: Vec<Row> = brokers::ROWS
        .into_iter()
        .chain(clients::ROWS)
        .chain(files::ROWS)
        .chain(power::ROWS)
        .chain(disks::ROWS)
        .chain(models::ROWS)
        .chain(gpu::ROWS)
        .chain(machine::ROWS)
        .chain(memory::ROWS)
        .chain(signals::ROWS)
        .chain(text::ROWS)
        .chain(load::ROWS)
        .chain(image::ROWS)
        .collect();
    if let Some(unknown) = names.iter().find(|n| !rows.iter().any(|r| r.name == **n)) {
        return usage(&format!("there is no row `{unknown}`"));
    }
    build();
    let mut fates = Vec::new();
    for row in &rows {
        if names.is_empty() || names.iter().any(|name| name == row.name) {
            fates.push((row.name, table::run(row, &run)));
        }
    }
    let of = |verdict| -> Vec<&str> {
        let of = fates.iter().filter(|(_, is)| *is == verdict);
        of.map(|(name, _)| *name).collect()
    };
    let short = of(Verdict::Short);
    println!(
        "{} survived; fell short: {short:?}; not run: {:?}; seed {}",
        of(Verdict::Survived).len(),
        of(Verdict::NotRun),
        run.seed
    );
    ExitCode::from(u8::from(!short.is_empty()))
}

fn usage(why: &str) -> ExitCode {
    eprintln!("faults: {why}\nusage: faults [ROW …] [--long] [--times] [--seed N]");
    ExitCode::from(2)
}

/// The daemon of this working tree, where `cargo run` started us: it builds the example alone. With feature `wgpu` it is that of
/// profile `gpu`, whose crates are built together, so that they have the same features.
fn build() {
    let how: &[&str] = if cfg!(feature = "wgpu") {
        &[
            "--profile",
            "gpu",
            "-p",
            "glowplug-model",
            "-p",
            "glowplug-tests",
            "--features",
            "glowplug-tests/wgpu",
        ]
    } else {
        &["--release"]
    };
    if let Some(cargo) = std::env::var_os("CARGO") {
        let built = Command::new(cargo)
            .arg("build")
            .args(how)
            .args(["--package", "glowplug"])
            .status();
        assert!(built.is_ok_and(|built| built.success()), "no daemon");
    }
}
