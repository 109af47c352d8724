//! `glowplug`, the one binary: see `cli/`.

use std::process::ExitCode;

fn main() -> ExitCode {
    glowplug::cli::main()
}
