//! `glowplug health`: a real round trip to the daemon and its model, for service managers and updates.

use super::ask::{Manner, request, turn};
use super::{Reply, Target};
use crate::cli::client_runtime;
use crate::cli::failure::{Failure, put_json, put_line};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// Time after our own deadline for the daemon to say why it did not answer.
const GRACE: Duration = Duration::from_secs(1);

/// The pause between two tries.
const PAUSE: Duration = Duration::from_millis(500);

/// A real round trip to the daemon and its model; succeeds only when a token came back
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    /// how long to wait for the answer, also of a daemon that is not there yet, still loading or busy, in seconds
    #[arg(long, default_value_t = 5, value_name = "S", value_parser = clap::value_parser!(u32).range(1..=3600))]
    wait: u32,
    /// print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Tries until the model answers or the time is over.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let deadline = Duration::from_secs(args.wait.into());
    client_runtime()?.block_on(async {
        let deadline = Instant::now() + deadline;
        let mut client = args.target.connect(None)?;
        client.ready(Some(deadline)).await?;
        let (said, took) = loop {
            let start = Instant::now();
            let ping = ping(deadline.saturating_duration_since(start));
            match timeout_at(deadline + GRACE, client.exchange(ping, &mut |_| Ok(()))).await {
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

/// The smallest request that goes all the way to the model and back. It is urgent, because the model may be busy with
/// other requests for minutes. The daemon gives it up too when we stop waiting.
fn ping(left: Duration) -> Value {
    let mut ping = request(&[turn("user", "ping")], &Manner::default(), false);
    ping["thinking"] = json!(false);
    ping["max_tokens"] = json!(1);
    ping["temperature"] = json!(0);
    ping["priority"] = json!("urgent");
    ping["deadline_ms"] = json!(left.as_millis().max(1) as u64);
    ping
}

/// How the request ended with a token of the model, or why that is not healthy. A daemon that only says that it is busy
/// may not answer anybody.
fn verdict(reply: Reply) -> Result<String, String> {
    match reply {
        Reply::Final(frame) => {
            let tokens = frame["usage"]["completion_tokens"].as_u64().unwrap_or(0);
            match frame["choices"][0]["finish_reason"].as_str() {
                Some(reason @ ("stop" | "length")) if tokens > 0 => Ok(reason.to_owned()),
                reason => Err(format!(
                    "the daemon ended its answer with {} after {tokens} tokens",
                    reason.unwrap_or("no reason")
                )),
            }
        }
        Reply::Error { code, message } => Err(format!("the daemon answers {code}: {message}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_token_is_healthy() {
        let finished = |reason: &str, tokens: u64| {
            Reply::Final(json!({
                "choices": [{ "finish_reason": reason }],
                "usage": { "completion_tokens": tokens },
            }))
        };
        let error = |code: &str| Reply::Error {
            code: code.into(),
            message: "m".into(),
        };
        for (reply, healthy) in [
            (finished("stop", 1), true),
            (finished("length", 1), true),
            (finished("length", 0), false),
            (finished("deadline_exceeded", 0), false),
            (finished("deadline_exceeded", 1), false),
            (finished("interrupted", 1), false),
            (Reply::Final(json!({})), false),
            (error("overloaded"), false),
            (error("rate_limited"), false),
            (error("deadline_exceeded"), false),
            (error("internal"), false),
            (error("model_loading"), false),
            (error("draining"), false),
        ] {
            let said = format!("{reply:?}");
            assert_eq!(verdict(reply).is_ok(), healthy, "{said}");
        }
    }

    #[test]
    fn the_ping_is_urgent_and_given_up_with_us() {
        let ping = ping(Duration::from_millis(4200));
        assert_eq!(
            (&ping["priority"], &ping["deadline_ms"], &ping["max_tokens"]),
            (&json!("urgent"), &json!(4200), &json!(1))
        );
    }
}
