//! The command line: which command, which exit code. Results go to stdout, everything else to stderr.

mod catalogue;
mod download;
mod failure;
mod generate;
mod models;
mod pins;
mod pull;
mod tokenize;
mod wheel;

use clap::{Parser, Subcommand};
use failure::Failure;
use std::process::ExitCode;

/// A language model served over MQTT, in a memory budget it never exceeds.
#[derive(Parser)]
#[command(name = "glowplug", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Generate(generate::Args),
    Pull(pull::Args),
    Tokenize(tokenize::Args),
    #[command(hide = true)]
    Pack(Later),
    #[command(hide = true)]
    Plan(Later),
    #[command(hide = true)]
    Config(Later),
}

/// A command of the contract that this version does not have: refused by its name, whatever follows it.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
struct Later {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    _rest: Vec<String>,
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Generate(args) => generate::run(&args),
        Command::Pull(args) => pull::run(&args),
        Command::Tokenize(args) => tokenize::run(&args),
        Command::Pack(_) => later("pack"),
        Command::Plan(_) => later("plan"),
        Command::Config(_) => later("config"),
    };
    match result {
        Ok(()) | Err(Failure::StdoutClosed) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("glowplug: {failure}");
            failure.exit_code()
        }
    }
}

fn later(name: &str) -> Result<(), Failure> {
    Err(Failure::Use(format!("`{name}` comes with a later version")))
}
