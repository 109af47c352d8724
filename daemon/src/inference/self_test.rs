//! The self-test of a model that was loaded, before anybody is told that it answers: one token for a question of our
//! own, all the way from text to logits and back.

use glowplug_model::engine::{Engine, Event, Finish, Refusal, Request, RequestId};
use glowplug_model::text::{Message, SamplerParams};

/// The id of the question. Those of clients are counted from 1.
const ID: RequestId = 0;
/// The question takes one step, and its end another.
const STEPS_MAX: usize = 8;

/// Why a loaded model cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum SelfTestError {
    #[error("the model does not take a question: {0}")]
    Refused(#[from] Refusal),
    #[error("the model does not answer: {0}")]
    Silent(&'static str),
}

/// Asks the model one short question; fails if no token comes back.
pub(super) fn answers(engine: &mut Engine) -> Result<(), SelfTestError> {
    engine.submit(ID, question(engine.model().sampler.clone()))?;
    let mut finish = None;
    for _ in 0..STEPS_MAX {
        engine.step(&mut |_, event| {
            if let Event::Finished(outcome) = event {
                finish = Some(outcome.finish);
            }
        });
        match finish {
            Some(Finish::Stop | Finish::Length) => return Ok(()),
            Some(_) => return Err(SelfTestError::Silent("its numbers are not finite")),
            None => {}
        }
    }
    Err(SelfTestError::Silent("no token came"))
}

fn question(sampler: SamplerParams) -> Request {
    Request {
        raw: true,
        sampler,
        ..Request::new("self-test", vec![Message::user("Hello")], 1)
    }
}
