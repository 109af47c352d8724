//! The command line: which command runs, and with which exit code. Results go to stdout, everything else to stderr.

mod bridge;
mod client;
mod config;
mod failure;
mod folders;
mod measure;
mod models;
mod plan;
mod schema;
mod serve;

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
    Demo(client::demo::Args),
    Serve(serve::Args),
    Ask(client::ask::Args),
    Chat(client::chat::Args),
    Generate(measure::generate::Args),
    Pull(models::pull::Args),
    Inspect(models::inspect::Args),
    Tokenize(models::tokenize::Args),
    Prompt(models::prompt::Args),
    Eval(measure::eval::Args),
    Bench(measure::bench::Args),
    Health(client::health::Args),
    Top(client::top::Args),
    Bridge(bridge::Args),
    Plan(plan::Args),
    Tune(measure::tune::Args),
    Pack(models::pack::Args),
    Config(config::Args),
    Sign(models::sign::Args),
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Demo(args) => client::demo::run(&args),
        Command::Serve(args) => serve::run(&args),
        Command::Ask(args) => client::ask::run(&args),
        Command::Chat(args) => client::chat::run(&args),
        Command::Generate(args) => measure::generate::run(&args),
        Command::Pull(args) => models::pull::run(&args),
        Command::Inspect(args) => models::inspect::run(&args),
        Command::Tokenize(args) => models::tokenize::run(&args),
        Command::Prompt(args) => models::prompt::run(&args),
        Command::Eval(args) => measure::eval::run(&args),
        Command::Bench(args) => measure::bench::run(&args),
        Command::Health(args) => client::health::run(&args),
        Command::Top(args) => client::top::run(&args),
        Command::Bridge(args) => bridge::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Tune(args) => measure::tune::run(&args),
        Command::Pack(args) => models::pack::run(&args),
        Command::Config(args) => config::run(&args),
        Command::Sign(args) => models::sign::run(&args),
    };
    match result {
        Ok(()) | Err(Failure::StdoutClosed) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("glowplug: {failure}");
            failure.exit_code()
        }
    }
}

/// The runtime for a client of the daemon, which has one connection and needs one thread.
fn client_runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Run(format!("cannot start the runtime: {error}")))
}
