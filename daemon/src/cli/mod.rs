//! The command line: which command, which exit code. Results go to stdout, everything else to stderr.

mod ask;
mod bench;
mod chat;
mod client;
mod config;
mod demo;
mod download;
mod eval;
mod failure;
mod generate;
mod health;
mod image;
mod inspect;
mod models;
mod pack;
mod pins;
mod plan;
mod print;
mod probe;
mod pull;
mod score;
mod serve;
mod settings;
mod sign;
mod tokenize;
mod tune;
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
    Demo(demo::Args),
    Serve(serve::Args),
    Ask(ask::Args),
    Chat(chat::Args),
    Generate(generate::Args),
    Pull(pull::Args),
    Inspect(inspect::Args),
    Tokenize(tokenize::Args),
    Eval(eval::Args),
    Bench(bench::Args),
    Health(health::Args),
    Plan(plan::Args),
    Tune(tune::Args),
    Pack(pack::Args),
    Config(config::Args),
    Sign(sign::Args),
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Demo(args) => demo::run(&args),
        Command::Serve(args) => serve::run(&args),
        Command::Ask(args) => ask::run(&args),
        Command::Chat(args) => chat::run(&args),
        Command::Generate(args) => generate::run(&args),
        Command::Pull(args) => pull::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Tokenize(args) => tokenize::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Health(args) => health::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Tune(args) => tune::run(&args),
        Command::Pack(args) => pack::run(&args),
        Command::Config(args) => config::run(&args),
        Command::Sign(args) => sign::run(&args),
    };
    match result {
        Ok(()) | Err(Failure::StdoutClosed) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("glowplug: {failure}");
            failure.exit_code()
        }
    }
}

/// For a client of the daemon: one connection, one thread.
fn client_runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Run(format!("cannot start the runtime: {error}")))
}
