//! Models whose vocabulary is SentencePiece's: the same answers, without the blank that stands before text.

use crate::world::{answer, config, load, request, tiny};
use glowplug_model::engine::{Finish, Request, Thinking};
use glowplug_model::text::{Format, SamplerParams};
use glowplug_tests::schemas::{judge, object};
use glowplug_tests::{SplitMix, Think, Tiny};

fn plain(said: &str, max_tokens: u32) -> Request {
    Request {
        thinking: Thinking::default(),
        ..request("c", said, max_tokens)
    }
}

#[test]
fn an_answer_begins_without_the_blank_of_its_first_token() {
    let tiny = Tiny {
        sentence: true,
        ..Tiny::saying(Think::Never, [" Hello", " the", "re", " é\n\n", "  you"])
    };
    let mut engine = load(&tiny, &config(64, 1));
    let mut said = |request: Request| answer(&mut engine, 1, request).0;
    assert_eq!(said(plain("hi", 20)), "Hello there é\n\n  you");
    let stops = Request {
        stop: vec![" there".into()],
        ..plain("hi", 20)
    };
    assert_eq!(said(stops), "Hello");
    // what is continued without a template goes on with a blank
    let raw = Request {
        raw: true,
        ..plain("so\n", 20)
    };
    assert_eq!(said(raw), " Hello there é\n\n  you");
    // and what a format asks for is what it gets
    for (pattern, texts) in [
        ("Hello there", &["Hello there"][..]),
        (" Hello there", &[" Hello there"]),
        (" é(x|y)", &[" éx", " éy"]),
    ] {
        let held = Request {
            format: Some(Format::Regex(pattern.into())),
            ..plain("hi", 20)
        };
        let text = said(held);
        assert!(texts.contains(&&*text), "{pattern}: {text:?}");
    }
}

#[test]
fn finished_answers_validate() {
    let tiny = Tiny {
        sentence: true,
        ..tiny(Think::Never)
    };
    let mut engine = load(&tiny, &config(64, 1));
    let mut random = SplitMix::new(9, "sentence");
    let mut finished = 0;
    for seed in 0..30 {
        let schema = object(&mut random);
        let asked = Request {
            format: Some(Format::JsonSchema(schema.to_string().into())),
            sampler: SamplerParams {
                temperature: 1.0,
                top_p: 1.0,
                top_k: 0,
                seed,
                ..SamplerParams::default()
            },
            ..plain("the rain", 200)
        };
        let (text, outcome) = answer(&mut engine, 1, asked);
        if outcome.finish == Finish::Stop {
            judge(&schema, &text).unwrap();
            finished += 1;
        }
    }
    assert!(finished > 20, "{finished} of 30");
}
