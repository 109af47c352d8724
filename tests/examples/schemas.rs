//! Whether every answer that a model finishes validates: answers by generated schemas, four at a time, half of them greedy.
//!
//! ```sh
//! cargo run --release -p glowplug-tests --example schemas -- MODEL.gguf [COUNT]
//! ```
//!
//! Prints how they ended, and each that does not validate; there is none. Exit code 1 if there is.

use glowplug_firmware_config::kv::KvFormat;
use glowplug_model::engine::{
    Engine, EngineConfig, Event, Finish, KvFormats, Request, RequestId, Worked,
};
use glowplug_model::gguf::Gguf;
use glowplug_model::text::{Format, Message, SamplerParams};
use glowplug_tests::SplitMix;
use glowplug_tests::schemas::{judge, object};
use serde_json::Value;
use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;

const STREAMS: usize = 4;
const CONTEXT: usize = 2048;
/// Most tokens of an answer.
const MOST: u32 = 400;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let model = args.next().ok_or("which model?")?;
    let count: u64 = args.next().map_or(Ok(500), |count| count.parse())?;
    let gguf = Gguf::open(Path::new(&model))?;
    let threads = std::thread::available_parallelism()?.get();
    let config = EngineConfig {
        prefill_threads: threads,
        decode_threads: threads,
        queue: STREAMS,
        ..EngineConfig::new(CONTEXT, STREAMS, KvFormats::both(KvFormat::Q8_0))
    };
    let mut engine = Engine::load(&gguf, &config)?;
    let before = resident()?;
    let mut random = SplitMix::new(1, "schemas");
    let mut open: BTreeMap<RequestId, (Value, String)> = BTreeMap::new();
    let (mut next, mut finished, mut cut, mut wrong, mut tokens, mut passes) = (0, 0, 0, 0, 0, 0);
    while next < count || !open.is_empty() {
        while next < count && open.len() < STREAMS {
            let schema = object(&mut random);
            engine.submit(next, request(next, &schema))?;
            open.insert(next, (schema, String::new()));
            next += 1;
        }
        let mut ended = Vec::new();
        let worked = engine.step(&mut |id, event| match event {
            Event::Text { content, .. } => {
                if let Some((_, text)) = open.get_mut(&id) {
                    text.push_str(&content);
                }
            }
            Event::Finished(outcome) => ended.push((id, outcome)),
            Event::Started { .. } | Event::Prefilled | Event::Call(_) => {}
        });
        passes += usize::from(matches!(worked, Worked::Pass(_)));
        for (id, outcome) in ended {
            let Some((schema, text)) = open.remove(&id) else {
                continue;
            };
            tokens += outcome.completion_tokens;
            match (outcome.finish, judge(&schema, &text)) {
                (Finish::Stop, Ok(())) => finished += 1,
                (Finish::Length, _) => cut += 1,
                (finish, judged) => {
                    wrong += 1;
                    println!("{id}: {finish:?} {judged:?} {text}");
                }
            }
            if id == 0 {
                println!("an answer by {schema}:\n{text}");
            }
        }
    }
    println!(
        "{count} schemas: {finished} answers are finished and validate, {cut} met their {MOST} tokens, {wrong} are wrong; \
         {tokens} tokens in {passes} runs of the network; {:.1} MB more than before the first",
        (resident()? - before) / 1e6
    );
    if wrong > 0 {
        return Err("not every answer validates".into());
    }
    Ok(())
}

fn request(n: u64, schema: &Value) -> Request {
    let sampler = SamplerParams {
        temperature: if n.is_multiple_of(2) { 0.0 } else { 1.0 },
        seed: n,
        ..SamplerParams::default()
    };
    Request {
        sampler,
        format: Some(Format::JsonSchema(schema.to_string().into())),
        schema_in_prompt: true,
        ..Request::new("schemas", vec![Message::user("Make up an example.")], MOST)
    }
}

/// Resident bytes of this process that no file backs.
fn resident() -> Result<f64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("RssAnon:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(kib.ok_or("no RssAnon")?.parse::<f64>()? * 1024.0)
}
