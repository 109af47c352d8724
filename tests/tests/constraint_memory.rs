//! What clients' schemas can cost: the tables of a vocabulary, eight constraints that are walked for long, and calls that are none. A
//! process of its own, because its allocator counts.

#![allow(clippy::unwrap_used)]

use glowplug_firmware_config::limits::{CONSTRAINER_BYTES, CONSTRAINT_BYTES_MAX, STREAMS_MAX};
use glowplug_model::text::{
    CallSplitter, Constrainer, Constraint, Convention, Format, Tokenizer, Tool,
};
use glowplug_tests::{Counting, SplitMix, r1_vocabulary, schema_bombs};
use std::fmt::Write;
use std::sync::{Arc, Mutex};

#[global_allocator]
static ALLOCATOR: Counting = Counting::new();

/// Held by the test that counts.
static COUNTS: Mutex<()> = Mutex::new(());

/// Bytes in use, and the most that were since the last call.
fn in_use() -> (u64, u64) {
    (ALLOCATOR.in_use() as u64, ALLOCATOR.peak() as u64)
}

/// Schemas that are taken and need many states.
fn heavy() -> Vec<Format> {
    let schema = |text: String| Format::JsonSchema(text.into());
    let list =
        |n: usize, one: &dyn Fn(usize) -> String| (0..n).map(one).collect::<Vec<_>>().join(",");
    vec![
        Format::JsonObject,
        schema(r#"{"type":"string","maxLength":2000}"#.into()),
        schema(r#"{"type":"array","items":{"type":"string","pattern":"^([a-z0-9]{1,30}[ ,]){1,30}$"}}"#.into()),
        schema(r#"{"type":"array","items":{"type":"string","pattern":"[ab]{3}.*c.*d.*e"}}"#.into()),
        schema(format!(
            r#"{{"type":"array","items":{{"anyOf":[{}]}}}}"#,
            list(40, &|n| format!(r#"{{"type":"string","pattern":"^{n}[a-z]{{1,40}}$"}}"#))
        )),
        schema(format!(
            r#"{{"type":"object","properties":{{{}}}}}"#,
            list(250, &|n| format!(r#""property_{n}":{{"type":"string","format":"email"}}"#))
        )),
        schema(format!(r#"{{"type":"array","items":{{"enum":[{}]}}}}"#, list(1_000, &|n| format!(r#""a name of number {n}""#)))),
        Format::Regex("(.*a.{1,6}){2}".into()),
    ]
}

/// Draws tokens of the masks, those that end a string only where hardly any others come.
fn walk(
    constraint: &mut Constraint,
    tokenizer: &Tokenizer,
    dice: &mut SplitMix,
    most: usize,
) -> Result<(), String> {
    for step in 0..most {
        if constraint.is_over() {
            return Ok(());
        }
        let Ok(mask) = constraint.mask() else {
            return Err(format!("stuck after {step} tokens"));
        };
        let mut token = 0;
        for _ in 0..20 {
            let nth = dice.below(mask.count());
            token = mask.tokens().nth(nth).unwrap();
            if !tokenizer.is_end(token) && !tokenizer.token_bytes(token).contains(&b'"') {
                break;
            }
        }
        if constraint.accept(token).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

#[test]
fn constraints_stay_within_what_is_planned_for_them() {
    let _counts = COUNTS.lock().unwrap();
    let tokenizer = Arc::new(Tokenizer::from_gguf(&r1_vocabulary()).unwrap());
    let (before, _) = in_use();
    let constrainer = Constrainer::new(Arc::clone(&tokenizer), 151_936).unwrap();
    let (tables, peak) = in_use();
    println!(
        "tables: {} bytes, {} at the peak",
        tables - before,
        peak - before
    );
    assert!(peak - before <= CONSTRAINER_BYTES);

    let mut dice = SplitMix::new(7, "walks");
    let mut held = Vec::new();
    let heavy = heavy();
    assert!(heavy.len() >= STREAMS_MAX);
    for format in &heavy {
        let (here, _) = in_use();
        let mut constraint = constrainer.compile(format).unwrap();
        let (compiled, compiling) = in_use();
        walk(&mut constraint, &tokenizer, &mut dice, 2_000).unwrap();
        let (after, walking) = in_use();
        println!(
            "{} bytes compiled, {} at the peak of it; {} walked, {} at the peak of it: {:.60}",
            compiled - here,
            compiling - here,
            after - here,
            walking - here,
            format!("{format:?}")
        );
        assert!(
            compiling.max(walking) - here <= CONSTRAINT_BYTES_MAX,
            "{format:?}"
        );
        held.push(constraint);
    }

    let (bombs, mut taken) = (schema_bombs(), 0);
    assert!(bombs.len() >= 100, "{}", bombs.len());
    let (before, _) = in_use();
    for bomb in bombs {
        let format = Format::JsonSchema(bomb.clone().into());
        if let Ok(mut constraint) = constrainer.compile(&format) {
            taken += 1;
            println!("taken: {bomb:.100}");
            let _ = walk(&mut constraint, &tokenizer, &mut dice, 300);
        }
    }
    assert!(taken <= 2, "{taken} are taken");
    let (_, peak) = in_use();
    println!("with the bombs: {} bytes more at the peak", peak - before);
    assert!(peak - before <= CONSTRAINT_BYTES_MAX, "{}", peak - before);
}

/// An answer that begins the same call again and again, of which none can be read, reads the schema of its tool once.
#[test]
fn calls_that_are_none_read_their_schema_once() {
    let _counts = COUNTS.lock().unwrap();
    let mut schema = String::from(r#"{"properties":{"n":{"type":"integer"}"#);
    for at in 0..1_000 {
        let _ = write!(schema, r#","property_{at}":{{"type":"string"}}"#);
    }
    let tool = Tool::new("a", None, &(schema + "}}")).unwrap();
    let before = ALLOCATOR.calls();
    for refused in [1, 300] {
        let mut splitter = CallSplitter::new(Convention::Tagged, [tool.clone()].into(), 1);
        let text = "<function=a>\n<parameter=n>".repeat(refused) + "</parameter></function>";
        let mut said = 0;
        splitter.push(&text, &mut |piece| said += format!("{piece:?}").len());
        splitter.finish(&mut |_| ());
        assert!(said > text.len());
    }
    let calls = ALLOCATOR.calls() - before;
    println!("{calls} allocations");
    assert!(calls < 20_000, "{calls}");
}
