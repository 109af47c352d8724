//! The binary `glowplug`; see [`glowplug::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    glowplug::cli::main()
}
