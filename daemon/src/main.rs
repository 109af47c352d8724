//! The binary `glowplug`; see [`glowplug::cli`].
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    glowplug::cli::main()
}
