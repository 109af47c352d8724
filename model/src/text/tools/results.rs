//! Which results must follow which calls. A model is only shown conversations in which every call has its result.

use crate::text::{Message, Role};

/// The result of a call that nobody answered before the conversation went on.
pub const NOT_ANSWERED: &str = "not answered";

/// A message that stands where it must not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("messages[{index}]: {why}")]
pub struct Misplaced {
    /// Which of the new messages it is.
    pub index: usize,
    /// What is wrong, with the id of the call.
    pub why: String,
}

impl Misplaced {
    fn new(index: usize, why: String) -> Self {
        Self { index, why }
    }
}

/// Checks that the results in `messages` answer the calls before them, each once and before anybody else speaks. `before` is
/// what was said before them. If `fills`, a message of another than a tool where results are due records [`NOT_ANSWERED`] for
/// each of them.
///
/// # Errors
/// [`Misplaced`] names the message where a result is missing, or that is a result of nothing.
pub fn settle_results(
    before: &[Message],
    messages: &mut Vec<Message>,
    fills: bool,
) -> Result<(), Misplaced> {
    let mut due = due(before);
    let mut settled: Vec<Message> = Vec::with_capacity(messages.len());
    for (index, message) in std::mem::take(messages).into_iter().enumerate() {
        if let Some(id) = &message.tool_call_id {
            let Some(at) = due.iter().position(|call| call == id) else {
                let why = format!("no call `{id}` waits for a result here");
                return Err(Misplaced::new(index, why));
            };
            due.remove(at);
        } else if let Some(id) = due.first()
            && !fills
        {
            let why = format!("the result of the call `{id}` must come before it");
            return Err(Misplaced::new(index, why));
        }
        if message.role != Role::Tool {
            settled.extend(due.drain(..).map(|id| Message {
                tool_call_id: Some(id),
                ..Message::new(Role::Tool, NOT_ANSWERED)
            }));
            let calls = message.tool_calls.iter().map(|call| call.id.clone());
            due = calls.collect();
        }
        settled.push(message);
    }
    if let Some(id) = due.first() {
        let why = format!("the result of the call `{id}` is missing");
        return Err(Misplaced::new(settled.len().saturating_sub(1), why));
    }
    *messages = settled;
    Ok(())
}

/// The calls of a conversation that have no result yet.
fn due(before: &[Message]) -> Vec<String> {
    let Some(at) = before.iter().rposition(|m| m.role != Role::Tool) else {
        return Vec::new();
    };
    let (last, results) = (&before[at], &before[at + 1..]);
    let answered = |id: &String| results.iter().any(|m| m.tool_call_id.as_ref() == Some(id));
    let calls = last.tool_calls.iter().map(|call| call.id.clone());
    calls.filter(|id| !answered(id)).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::text::ToolCall;

    fn calls(ids: &[&str]) -> Message {
        let call = |id: &&str| ToolCall {
            id: (*id).to_owned(),
            name: "f".to_owned(),
            arguments: "{}".to_owned(),
        };
        Message {
            tool_calls: ids.iter().map(call).collect(),
            ..Message::new(Role::Assistant, "")
        }
    }

    fn result(id: &str) -> Message {
        Message {
            tool_call_id: Some(id.to_owned()),
            ..Message::new(Role::Tool, "42")
        }
    }

    /// The messages as they were settled, by role and call.
    fn settled(before: &[Message], new: &[Message], fills: bool) -> Result<String, Misplaced> {
        let mut messages = new.to_vec();
        settle_results(before, &mut messages, fills)?;
        let names = messages.iter().map(|m| match &m.tool_call_id {
            Some(id) if m.content == NOT_ANSWERED => format!("-{id}"),
            Some(id) => id.clone(),
            None => m.role.as_str()[..1].to_owned(),
        });
        Ok(names.collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn every_call_has_one_result_before_anybody_else_speaks() {
        let user = || Message::user("hi");
        let [a, b] = ["1", "2"].map(result);
        for (before, new, fills, ends) in [
            (
                vec![],
                vec![user(), calls(&["1", "2"]), b.clone(), a.clone(), user()],
                false,
                Ok("u a 2 1 u"),
            ),
            (
                vec![],
                vec![user(), calls(&["1"]), a.clone()],
                false,
                Ok("u a 1"),
            ),
            // the same id again is another call
            (
                vec![],
                vec![calls(&["1"]), a.clone(), calls(&["1"]), a.clone()],
                false,
                Ok("a 1 a 1"),
            ),
            (vec![user(), calls(&["1"])], vec![a.clone()], true, Ok("1")),
            (
                vec![user(), calls(&["1", "2"]), a.clone()],
                vec![b.clone(), user()],
                true,
                Ok("2 u"),
            ),
            // nobody answered
            (
                vec![user(), calls(&["1", "2"])],
                vec![user()],
                true,
                Ok("-1 -2 u"),
            ),
            (
                vec![user(), calls(&["1", "2"])],
                vec![b.clone(), user()],
                true,
                Ok("2 -1 u"),
            ),
            (
                vec![],
                vec![calls(&["1", "2"]), b.clone(), user()],
                false,
                Err(2),
            ),
            // what answers nothing
            (vec![], vec![a.clone()], true, Err(0)),
            (vec![], vec![user(), calls(&["2"]), a.clone()], true, Err(2)),
            (
                vec![user(), calls(&["1"]), a.clone()],
                vec![a.clone()],
                true,
                Err(0),
            ),
            (
                vec![user(), calls(&["1"]), a.clone(), user()],
                vec![a.clone()],
                true,
                Err(0),
            ),
            // nothing is left for the model to say
            (vec![], vec![user(), calls(&["1"])], true, Err(1)),
            (
                vec![user(), calls(&["1", "2"])],
                vec![a.clone()],
                true,
                Err(0),
            ),
        ] {
            let got = settled(&before, &new, fills);
            assert_eq!(
                got.as_deref().map_err(|e| e.index),
                ends,
                "{before:?} {new:?}"
            );
        }
    }
}
