//! Reads what schemas and instances the daemon takes; `tests/schema_suite.sh` gives it JSON Schema's own suite.
//!
//! `schema_suite < CASES`: each line `{"schema": TEXT, "texts": [TEXT, …]}` is answered with `{"refused": WHY}` or
//! `{"takes": [BOOLEAN, …]}`. `schema_suite time`: how long bombs and usual schemas take, in milliseconds.

use glowplug_model::text::{Constrainer, Constraint, Format, Tokenizer};
use glowplug_tests::{r1_vocabulary, schema_bombs};
use serde_json::{Value, json};
use std::error::Error;
use std::io::{BufRead, stdin};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn main() -> Result<(), Box<dyn Error>> {
    let tokenizer = Arc::new(Tokenizer::from_gguf(&r1_vocabulary())?);
    let start = Instant::now();
    let constrainer = Constrainer::new(Arc::clone(&tokenizer), 151_936)?;
    if std::env::args().nth(1).as_deref() == Some("time") {
        println!("tables: {:.1?}", start.elapsed());
        time(&constrainer);
        return Ok(());
    }
    for line in stdin().lock().lines() {
        let case: Value = serde_json::from_str(&line?)?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let format = Format::JsonSchema(text(&case["schema"]).into());
        let answer = match constrainer.compile(&format) {
            Err(error) => json!({"refused": error.to_string()}),
            Ok(mut constraint) => {
                let texts = case["texts"].as_array().into_iter().flatten();
                let takes = texts.map(|one| takes(&mut constraint, &tokenizer, &text(one)));
                json!({"takes": takes.collect::<Result<Vec<_>, _>>()?})
            }
        };
        println!("{answer}");
    }
    Ok(())
}

/// Whether an answer may be this text. The masks are asked, token by token.
fn takes(
    constraint: &mut Constraint,
    tokenizer: &Tokenizer,
    text: &str,
) -> Result<bool, Box<dyn Error>> {
    constraint.restart()?;
    for token in tokenizer.encode(text, false)? {
        if constraint.agreed(&[token]) == 0 || constraint.accept(token).is_err() {
            return Ok(false);
        }
    }
    Ok(constraint.is_complete())
}

/// Times the check, the compiler and the first masks.
fn time(constrainer: &Constrainer) {
    let usual = [
        r#"{"type":"object","properties":{"intent":{"enum":["set_light","get_time"]},"room":{"type":"string","maxLength":40},"level":{"type":"integer","minimum":0,"maximum":100}},"required":["intent"],"additionalProperties":false}"#,
        r#"{"type":"array","maxItems":20,"items":{"type":"object","properties":{"name":{"type":"string","pattern":"^[A-Z][a-z]+$"},"born":{"type":"string","format":"date"}},"required":["name","born"]}}"#,
        r#"{"type":"object"}"#,
    ];
    // what the work that is counted is in time
    let pair = r#"{"anyOf":[{"properties":{"a":{"minimum":1}}},{"properties":{"b":{"minimum":1}}},{"required":["c"]}]}"#;
    let near = (3..9).map(|n| {
        let pairs = vec![pair; n].join(",");
        ("usual", format!(r#"{{"type":"object","allOf":[{pairs}]}}"#))
    });
    let mut worst = Duration::ZERO;
    for (kind, text) in usual
        .map(|text| ("usual", text.to_owned()))
        .into_iter()
        .chain(near)
        .chain(schema_bombs().into_iter().map(|text| ("bomb", text)))
    {
        let format = Format::JsonSchema(text.clone().into());
        let start = Instant::now();
        let checked = format.check().is_ok();
        let check = start.elapsed();
        let compiled = constrainer.compile(&format);
        let compile = start.elapsed() - check;
        let is_taken = compiled.is_ok();
        let mask = compiled.map_or(Duration::ZERO, |mut constraint| {
            let start = Instant::now();
            let _ = constraint.mask();
            start.elapsed()
        });
        if kind == "bomb" {
            worst = worst.max(start.elapsed());
        }
        if kind == "usual" || check + compile > Duration::from_millis(5) || is_taken {
            let short: String = text.chars().take(70).collect();
            println!(
                "{kind}: check {check:.1?}, compile {compile:.1?}, mask {mask:.1?}, passes {checked}, taken {is_taken}: {short}"
            );
        }
    }
    println!("the slowest bomb: {worst:.1?}");
}
