//! Drafts give the same answers in fewer runs of the network.

use super::world::{Heard, answer, config, hybrid, load, request, tiny, turn};
use glowplug_model::engine::{Engine, EngineConfig, Event, Finish, Request, Worked};
use glowplug_model::gguf::Gguf;
use glowplug_model::network::dims::Arch;
use glowplug_model::text::SamplerParams;
use glowplug_tests::world::on_gpu;
use glowplug_tests::{GgufWriter, Think, Tiny, foresee};

const COPIED: &str = "oil 42 a b oil 42 a b oil 42 a b oil 42 a b oil 42 a b oil 42 ";

/// All events of these requests, one after the other, and the number of runs of the network.
fn answers(
    file: &Gguf,
    drafts: bool,
    requests: &[Request],
    seconds: impl Fn(usize) -> f64,
) -> (String, usize) {
    let with = EngineConfig {
        drafts,
        ..config(64, 4)
    };
    let mut engine = Engine::load(file, &with).unwrap();
    let (mut said, mut passes) = (String::new(), 0);
    for (id, request) in requests.iter().enumerate() {
        engine.submit(id as u64, request.clone()).unwrap();
        loop {
            let mut sink = |_: u64, event: Event| {
                // the text has the end of a request and its logprobs too
                said.push_str(&format!("{event:?}\n"));
            };
            match engine.step(&mut sink) {
                Worked::Nothing => break,
                Worked::Little => {}
                Worked::GpuLost => panic!("the GPU is lost"),
                Worked::Pass(columns) => {
                    engine.took(seconds(columns));
                    passes += 1;
                }
            }
        }
    }
    (said, passes)
}

fn requests(sampler: &SamplerParams) -> Vec<Request> {
    let mut requests = Vec::new();
    for (i, prompt) in [COPIED, "the rain in the plain", COPIED].iter().enumerate() {
        for max_tokens in [1, 2, 3, 40, 90] {
            let mut request = match i {
                2 => turn("c", "s", prompt, max_tokens),
                _ => request("c", prompt, max_tokens),
            };
            let seed = sampler.seed + u64::from(max_tokens);
            request.sampler = SamplerParams {
                seed,
                ..sampler.clone()
            };
            request.stop = vec!["42 a b 42".to_owned()];
            requests.push(request);
        }
    }
    requests
}

fn opened(file: &GgufWriter) -> Gguf {
    Gguf::from_bytes(file.build().into()).unwrap()
}

/// A model that thinks, and those with states, which only the host computes: one has a layer that drafts what never comes.
fn models() -> Vec<Tiny> {
    let mut models = vec![tiny(Think::Prompt)];
    if !on_gpu() {
        models.push(hybrid());
        models.push(Tiny {
            draft_layer: true,
            ..hybrid()
        });
    }
    models
}

#[test]
fn they_change_no_answer() {
    let greedy = request("c", "", 1).sampler;
    let warm = SamplerParams {
        temperature: 0.7,
        top_p: 0.9,
        top_k: 40,
        ..greedy.clone()
    };
    let bent = SamplerParams {
        repeat_penalty: 1.1,
        presence_penalty: 0.2,
        frequency_penalty: 0.1,
        logit_bias: vec![(7, 2.0)],
        top_logprobs: Some(3),
        ..warm.clone()
    };
    for tiny in models() {
        let file = opened(&tiny.writer());
        for sampler in [&greedy, &warm, &bent] {
            let requests = requests(sampler);
            let (plain, without) = answers(&file, false, &requests, |_| 1.0);
            let (drafted, with) = answers(&file, true, &requests, |_| 1.0);
            assert!(plain == drafted, "{sampler:?}");
            assert!(
                with < without,
                "{sampler:?}: {with} passes, {without} without drafts"
            );
        }
    }
}

/// Whether the layer that drafts is always right, every other time or never, the answers are the same to the last bit of a logprob;
/// only where it is right they come sooner, and where it is wrong it is not asked for long.
#[test]
fn a_layer_that_drafts_changes_no_answer_however_often_it_is_right() {
    if on_gpu() {
        return;
    }
    let tiny = Tiny {
        vocab: 1400,
        think: Think::Never,
        tied_head: false,
        draft_layer: true,
        ..Tiny::new(Arch::Qwen35)
    };
    let exact = SamplerParams {
        top_logprobs: Some(3),
        ..request("c", "", 1).sampler
    };
    // of clients of their own, so that nobody's earlier answer is followed
    let said = [("c", "the rain in the plain"), ("d", "oil"), ("e", "a b")];
    let requests: Vec<Request> = said
        .into_iter()
        .map(|(client, said)| {
            let mut request = request(client, said, 150);
            request.sampler = exact.clone();
            request
        })
        .collect();
    for (known, least, most) in [(0, 0.99, 1.01), (5, 0.55, 0.8), (10, 0.5, 0.55)] {
        let mut w = tiny.writer();
        foresee(&mut w, 376..1400, &|token| token % 10 < known, 0.05);
        let file = opened(&w);
        let (plain, without) = answers(&file, false, &requests, |_| 1.0);
        let (drafted, with) = answers(&file, true, &requests, |_| 1.0);
        assert!(plain == drafted, "{known} of 10");
        let part = with as f64 / without as f64;
        assert!(
            (least..most).contains(&part),
            "{known} of 10: {with} of {without}"
        );
    }
}

/// A client's answers come sooner for what the client was answered before, and nobody else's do, until it is forgotten.
#[test]
fn what_a_client_was_told_is_followed_for_that_client_alone() {
    let mut engine = load(&tiny(Think::Never), &config(64, 4));
    let mut id = 0;
    let mut passes = |engine: &mut Engine, client: &str| {
        id += 1;
        // words at random, the same ones each time: nothing that repeats itself
        let mut request = request(client, "the rain in the plain", 40);
        request.sampler.temperature = 1.5;
        request.sampler.seed = 7;
        engine.submit(id, request).unwrap();
        let (mut said, mut passes) = (String::new(), 0);
        loop {
            let worked = engine.step(&mut |_, event| {
                if let Event::Text { content, .. } = event {
                    said.push_str(&content);
                }
            });
            match worked {
                Worked::Nothing => break,
                Worked::Pass(_) => {
                    engine.took(1.0);
                    passes += 1;
                }
                _ => {}
            }
        }
        (said, passes)
    };
    // what a step costs is known to both
    passes(&mut engine, "a");
    let first = passes(&mut engine, "c");
    let second = passes(&mut engine, "c");
    let other = passes(&mut engine, "d");
    engine.forget("c", &mut |_, _| {}).unwrap();
    let forgotten = passes(&mut engine, "c");
    assert!(
        second.1 * 3 < first.1 * 2,
        "{} then {} passes",
        first.1,
        second.1
    );
    assert_eq!(other, first);
    assert_eq!(forgotten, first);
    assert_eq!(second.0, first.0);
}

/// Where a wider step costs far more than its tokens one by one, hardly any is tried.
#[test]
fn they_stop_where_they_do_not_pay() {
    let requests = requests(&request("c", "", 1).sampler);
    let file = opened(&tiny(Think::Prompt).writer());
    let (plain, without) = answers(&file, false, &requests, |_| 1.0);
    let (drafted, with) = answers(&file, true, &requests, |columns| {
        if columns > 1 { 1000.0 } else { 1.0 }
    });
    assert!(plain == drafted);
    assert!(
        with * 100 > without * 90,
        "{with} passes, {without} without drafts"
    );
}

/// A cancel is seen before the next token, those of a draft included.
#[test]
fn an_end_is_seen_between_the_tokens_of_a_draft() {
    let mut engine = load(&tiny(Think::Never), &config(64, 4));
    engine.submit(1, request("c", COPIED, 90)).unwrap();
    // the prompt takes two runs, and the second gives the first token
    let (mut tokens, mut drafted) = (0, false);
    while !drafted {
        match engine.step(&mut |_, _| {}) {
            Worked::Nothing | Worked::GpuLost => panic!("no draft came true"),
            Worked::Little => drafted = true,
            Worked::Pass(columns) => {
                tokens += u32::from(columns != 64);
                engine.took(1.0);
            }
        }
    }
    tokens += 1;
    assert!(engine.end(1, Finish::Cancelled));
    let mut ended = None;
    engine.step(&mut |_, event| {
        if let Event::Finished(outcome) = event {
            ended = Some((outcome.finish, outcome.completion_tokens));
        }
    });
    assert_eq!(ended, Some((Finish::Cancelled, tokens)));
}

/// The index of the first request's tokens is no index of the second's, and may reach further than its text.
#[test]
fn an_id_may_be_used_again() {
    let mut engine = load(&tiny(Think::Never), &config(64, 4));
    let short = request("c", "oil 42 a b", 20);
    let expected = answer(&mut engine, 1, short.clone());
    answer(&mut engine, 2, request("c", COPIED, 60));
    assert_eq!(answer(&mut engine, 2, short).0, expected.0);
}

/// Of several streams none is served more than another.
#[test]
fn streams_together_get_a_token_a_step() {
    let mut engine = load(&tiny(Think::Never), &config(64, 4));
    let mut heard = Heard::default();
    for id in 0..2 {
        engine.submit(id, request("c", COPIED, 30)).unwrap();
    }
    let mut together = 0;
    loop {
        let mut tokens = [0, 0];
        let worked = engine.step(&mut |id, event| {
            tokens[id as usize] += usize::from(matches!(event, Event::Text { .. }));
            heard.take(id, event);
        });
        together += usize::from(tokens == [1, 1]);
        assert!(tokens[0].min(tokens[1]) <= 1);
        if worked == Worked::Nothing {
            break;
        }
    }
    assert!(together > 10);
}
