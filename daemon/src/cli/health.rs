//! `glowplug health`: a real round trip to the daemon, for service managers and updates.

use super::ask::{Manner, request, turn};
use super::client::{Reply, Target};
use super::client_runtime;
use super::failure::{Failure, put_json, put_line};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// How long our request may wait in the daemon's queue: one that works on a long answer is healthy, and says so by
/// answering `deadline_exceeded`.
const DEADLINE_MS: u64 = 2000;

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(500);

/// A real round trip to the daemon; succeeds only when it answered
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    /// how long to wait for a daemon that is not there yet or still loading, in seconds
    #[arg(long, default_value_t = 5, value_name = "S", value_parser = clap::value_parser!(u32).range(1..=3600))]
    wait: u32,
    /// print JSON
    #[arg(long)]
    json: bool,
}

/// Tries until it answers or the time is over.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let deadline = Duration::from_secs(args.wait.into());
    client_runtime()?.block_on(async {
        let deadline = Instant::now() + deadline;
        let mut client = args.target.connect(None)?;
        client.ready(Some(deadline)).await?;
        let (said, took) = loop {
            let start = Instant::now();
            match timeout_at(deadline, client.exchange(ping(), &mut |_| Ok(()))).await {
                Err(_) => {
                    return Err(Failure::Run(
                        "the daemon is online but does not answer".into(),
                    ));
                }
                Ok(reply) => match verdict(reply?) {
                    Ok(said) => break (said, start.elapsed()),
                    Err(why) if Instant::now() + PAUSE > deadline => return Err(Failure::Run(why)),
                    Err(_) => sleep(PAUSE).await,
                },
            }
        };
        let node = client.node().to_owned();
        client.close().await;
        let ms = took.as_secs_f64() * 1e3;
        if args.json {
            put_json(&json!({ "healthy": true, "node": node, "answer": said, "round_trip_ms": ms }))
        } else {
            put_line(&format!("{node} answered in {ms:.0} ms ({said})"))
        }
    })
}

/// The smallest request that goes the whole way to the model and back.
fn ping() -> Value {
    let mut ping = request(&[turn("user", "ping")], &Manner::default(), false);
    ping["thinking"] = json!(false);
    ping["max_tokens"] = json!(1);
    ping["temperature"] = json!(0);
    ping["deadline_ms"] = json!(DEADLINE_MS);
    ping
}

/// What it said, or why that is not healthy. A busy daemon is healthy; one that failed, loads or stops is not.
fn verdict(reply: Reply) -> Result<String, String> {
    match reply {
        Reply::Final(frame) => match frame["choices"][0]["finish_reason"].as_str() {
            Some(reason @ ("stop" | "length" | "deadline_exceeded")) => Ok(reason.to_owned()),
            other => Err(format!(
                "the daemon broke its answer off: {}",
                other.unwrap_or("no reason given")
            )),
        },
        Reply::Error { code, .. }
            if matches!(
                code.as_str(),
                "deadline_exceeded" | "overloaded" | "rate_limited"
            ) =>
        {
            Ok(code)
        }
        Reply::Error { code, message } => Err(format!("the daemon answers {code}: {message}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_is_healthy_and_broken_is_not() {
        let finished =
            |reason: &str| Reply::Final(json!({ "choices": [{ "finish_reason": reason }] }));
        let error = |code: &str| Reply::Error {
            code: code.into(),
            message: "m".into(),
        };
        for (reply, healthy) in [
            (finished("stop"), true),
            (finished("length"), true),
            (finished("deadline_exceeded"), true),
            (finished("interrupted"), false),
            (Reply::Final(json!({})), false),
            (error("overloaded"), true),
            (error("deadline_exceeded"), true),
            (error("internal"), false),
            (error("model_loading"), false),
            (error("draining"), false),
        ] {
            let said = format!("{reply:?}");
            assert_eq!(verdict(reply).is_ok(), healthy, "{said}");
        }
    }
}
