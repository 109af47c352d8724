//! Several requests at once, a slow server, a panic.

use std::collections::BTreeMap;

use super::inbox::Done;
use super::messages::End;
use super::*;
use crate::wire::session::Call;
use glowplug_model::engine::{
    Event, Finish, Outcome, Request, RequestId, SessionFault, SessionVerb,
};
use glowplug_model::text::SamplerParams;

fn outcome(finish: Finish) -> Outcome {
    Outcome {
        finish,
        prompt_tokens: 1,
        cached_tokens: 0,
        completion_tokens: 2,
        reasoning_tokens: 0,
        forgotten_messages: 0,
    }
}

/// One whose prompts nobody prepares.
fn quiet(beat: Option<Duration>) -> Inbox {
    Inbox::new(beat, std_mpsc::sync_channel(AHEAD).0)
}

fn text(content: &str) -> Event {
    Event::Text {
        content: content.to_owned(),
        reasoning: String::new(),
        logprobs: None,
    }
}

#[test]
fn a_slow_server_gets_text_put_together_and_loses_nothing() {
    let (told, mut reports) = mpsc::channel(1);
    let mut inbox = quiet(None);
    let now = Instant::now();
    inbox.event(
        1,
        Event::Started {
            prompt_tokens: 1,
            cached_tokens: 0,
        },
        now,
    );
    inbox.flush(&told);
    for i in 0..100 {
        inbox.event(1, text(&i.to_string()), now);
        inbox.flush(&told);
    }
    inbox.event(1, Event::Finished(outcome(Finish::Stop)), now);
    inbox.flush(&told);
    assert_eq!(inbox.pending.len(), 1);
    let Ok(Report::Update(first, _)) = reports.try_recv() else {
        panic!()
    };
    assert!(first.end.is_none() && first.times.started.is_some());
    inbox.flush(&told);
    let Ok(Report::Update(second, load)) = reports.try_recv() else {
        panic!()
    };
    assert_eq!(
        second.text.content,
        (0..100).map(|i| i.to_string()).collect::<String>()
    );
    assert_eq!(second.end.unwrap().0, End::Finished(outcome(Finish::Stop)));
    assert_eq!(load.tokens, 100);
    assert!(inbox.pending.is_empty() && inbox.running.is_empty());
}

pub(super) fn request(client: &str, session: Option<&str>) -> Box<Request> {
    let sampler = SamplerParams {
        temperature: 0.0,
        ..SamplerParams::default()
    };
    Box::new(Request {
        session: session.map(Into::into),
        sampler,
        ..Request::new(client, vec![], 1)
    })
}

fn reset(id: RequestId, session: &str) -> Command {
    let call = Call {
        client: "c".into(),
        session: session.into(),
        verb: SessionVerb::Reset,
    };
    Command::Session(id, call)
}

#[test]
fn a_session_keeps_its_order_and_the_others_go_on() {
    let mut inbox = quiet(None);
    let table = [
        (reset(1, "a"), true),
        (Command::Submit(2, request("c", Some("a"))), true),
        (Command::Submit(3, request("c", Some("b"))), false),
        (Command::Submit(4, request("d", Some("a"))), false),
        (Command::Submit(5, request("c", None)), false),
        (Command::End(2, Finish::Cancelled), true),
        (Command::End(3, Finish::Cancelled), false),
        (reset(6, "b"), true),
        (Command::Submit(7, request("c", Some("a"))), true),
        (Command::EndThinking(7), true),
        (Command::Forget(8, "d".into()), true),
        (Command::Submit(9, request("d", None)), true),
        (Command::Submit(10, request("e", None)), false),
    ];
    for (command, waits) in table {
        assert_eq!(inbox.must_wait(&command), waits, "{command:?}");
        if waits {
            inbox.held.push_back(command);
        }
    }
    let mut ids = || -> Vec<RequestId> {
        let id = |command| match command {
            Command::Submit(id, _)
            | Command::Prepared(id, _)
            | Command::End(id, _)
            | Command::EndThinking(id)
            | Command::Session(id, _)
            | Command::Release(id)
            | Command::Forget(id, _) => id,
        };
        inbox.release().into_iter().map(id).collect()
    };
    // one verb a step, each with what came after it
    assert_eq!(ids(), [1, 2, 2]);
    assert_eq!(ids(), [6, 7, 7]);
    assert_eq!(ids(), [8, 9]);
    assert!(ids().is_empty());
}

#[test]
fn verbs_are_answered_and_numbers_told_once() {
    let (told, mut reports) = mpsc::channel(8);
    let mut inbox = quiet(None);
    inbox
        .done
        .push_back(Done::Session(3, Err(SessionFault::NotFound)));
    inbox.load.counts.pages_used = 2;
    inbox.flush(&told);
    let Ok(Report::Session(3, Err(SessionFault::NotFound), load)) = reports.try_recv() else {
        panic!()
    };
    assert_eq!(load.counts.pages_used, 2);
    assert!(reports.try_recv().is_err(), "the answer had the numbers");
    inbox.load.counts.pages_used = 1;
    inbox.flush(&told);
    inbox.flush(&told);
    let Ok(Report::Load(load)) = reports.try_recv() else {
        panic!()
    };
    assert_eq!(load.counts.pages_used, 1);
    assert!(reports.try_recv().is_err());
}

#[test]
fn a_panic_fails_what_was_running_and_keeps_its_text() {
    let mut inbox = quiet(None);
    let now = Instant::now();
    inbox.event(
        7,
        Event::Started {
            prompt_tokens: 1,
            cached_tokens: 0,
        },
        now,
    );
    inbox.event(7, text("so far"), now);
    for _ in 0..2 {
        inbox.event(
            9,
            Event::Started {
                prompt_tokens: 1,
                cached_tokens: 0,
            },
            now,
        );
    }
    assert_eq!(inbox.running, [7, 9]);
    inbox.update(8).times.prefilled = Some(now);
    inbox.fail_running(Finish::Failed);
    let update = inbox.pending.remove(&7).unwrap();
    assert_eq!(update.text.content, "so far");
    assert!(matches!(
        update.end,
        Some((
            End::Finished(Outcome {
                finish: Finish::Failed,
                ..
            }),
            _
        ))
    ));
    assert!(inbox.pending.remove(&9).unwrap().end.is_some());
    assert!(inbox.pending.remove(&8).unwrap().end.is_none());
    assert!(inbox.running.is_empty());
}

#[test]
fn a_thread_that_must_be_heard_of_says_so_when_it_has_nothing_to_say() {
    let (told, mut reports) = mpsc::channel(8);
    let mut inbox = quiet(Some(Duration::from_secs(3600)));
    inbox.flush(&told);
    assert!(matches!(reports.try_recv(), Ok(Report::Load(_))));
    // it was heard just now
    inbox.flush(&told);
    assert!(reports.try_recv().is_err());
    inbox.beat = Some(Duration::ZERO);
    assert!(inbox.report().is_some());
    let mut silent = quiet(None);
    assert!(silent.report().is_none());
}

mod bombs;
mod flood;
mod hang;
