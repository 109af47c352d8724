//! Guessed tokens: the same answers, in fewer steps.

use super::world::{Heard, config, load, request, tiny, turn};
use glowplug_model::engine::{EngineConfig, Event, Request};
use glowplug_model::text::SamplerParams;
use glowplug_tests::Think;

const COPIED: &str = "oil 42 a b oil 42 a b oil 42 a b oil 42 a b oil 42 a b oil 42 ";

/// All that is said to these requests, one after the other, and in how many steps.
fn answers(drafts: bool, requests: &[Request], seconds: impl Fn(usize) -> f64) -> (String, usize) {
    let with = EngineConfig {
        drafts,
        ..config(64, 4)
    };
    let mut engine = load(&tiny(Think::Prompt), &with);
    let (mut said, mut steps) = (String::new(), 0);
    for (id, request) in requests.iter().enumerate() {
        engine.submit(id as u64, request.clone()).unwrap();
        loop {
            let mut tokens = 0;
            let mut sink = |_: u64, event: Event| {
                tokens += usize::from(matches!(event, Event::Text { .. }));
                // the end of a request and its logprobs too
                said.push_str(&format!("{event:?}\n"));
            };
            if !engine.step(&mut sink) {
                break;
            }
            engine.took(seconds(tokens));
            steps += 1;
        }
    }
    (said, steps)
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
    for sampler in [greedy, warm, bent] {
        let requests = requests(&sampler);
        let (plain, without) = answers(false, &requests, |_| 1.0);
        let (drafted, with) = answers(true, &requests, |_| 1.0);
        assert!(plain == drafted, "{sampler:?}");
        assert!(
            with < without,
            "{sampler:?}: {with} steps, {without} without drafts"
        );
    }
}

/// Where a wider step costs far more than its tokens one by one, hardly any is tried.
#[test]
fn they_stop_where_they_do_not_pay() {
    let requests = requests(&request("c", "", 1).sampler);
    let (plain, without) = answers(false, &requests, |_| 1.0);
    let (drafted, with) = answers(
        true,
        &requests,
        |tokens| if tokens > 1 { 1000.0 } else { 1.0 },
    );
    assert!(plain == drafted);
    assert!(
        with * 100 > without * 90,
        "{with} steps, {without} without drafts"
    );
}

/// Among several streams nobody is served more than another.
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
        if !worked {
            break;
        }
    }
    assert!(together > 10);
}
