//! Chunks that are sentences, as time goes on.

use super::*;

fn speaking(a: &mut Admission, t: Instant, kind: Kind) -> RequestId {
    let mut out = Vec::new();
    let arrival = Arrival {
        spoken: true,
        ..arrival("c", None, kind)
    };
    a.request(t, ROOM, arrival, &mut out);
    submitted(&out)[0]
}

fn said(out: &mut Vec<Action>) -> Vec<String> {
    let content = |frame: Value| {
        let choice = &frame["choices"][0];
        let text = choice["delta"]["content"].as_str();
        text.or(choice["message"]["content"].as_str())
            .map(str::to_owned)
    };
    frames(out).into_iter().filter_map(content).collect()
}

#[test]
fn a_sentence_goes_out_as_soon_as_it_has_ended() {
    let (mut a, mut out, t) = (machine_of(4, 2), Vec::new(), Instant::now());
    let id = speaking(&mut a, t, Kind::Chat);
    a.update(t, ROOM, text(id, "It is **3", t), &mut out);
    a.update(t, ROOM, text(id, ".", t), &mut out);
    a.update(t, ROOM, text(id, "5** degrees. ", t), &mut out);
    assert!(out.is_empty());
    a.update(t, ROOM, text(id, "Two. Three! F", t), &mut out);
    assert_eq!(said(&mut out), ["It is 3.5 degrees. ", "Two. ", "Three! "]);
    assert_eq!(a.next_tick(), None, "there is no clause to send ahead");
    a.update(t, ROOM, ended(id, Finish::Stop, t), &mut out);
    assert_eq!(said(&mut out), ["F", "It is 3.5 degrees. Two. Three! F"]);
}

#[test]
fn a_clause_goes_out_after_25_chunks_of_time() {
    let (mut a, mut out, t) = (machine_of(4, 2), Vec::new(), Instant::now());
    let id = speaking(&mut a, t, Kind::Chat);
    let due = t + Duration::from_millis(25 * 40);
    a.update(
        t,
        ROOM,
        text(id, "When the rain comes, and it ", t),
        &mut out,
    );
    assert_eq!(a.next_tick(), Some(due));
    a.tick(due - Duration::from_millis(1), ROOM, &mut out);
    assert!(out.is_empty());
    a.tick(due, ROOM, &mut out);
    assert_eq!(said(&mut out), ["When the rain comes, "]);
    assert_eq!(a.next_tick(), None);
    a.update(due, ROOM, text(id, "will, stay in. Or", due), &mut out);
    assert_eq!(said(&mut out), ["and it will, stay in. "]);
    a.update(due, ROOM, ended(id, Finish::Cancelled, due), &mut out);
    assert_eq!(
        said(&mut out),
        ["Or", "When the rain comes, and it will, stay in. Or"]
    );
}

#[test]
fn sentences_wait_where_there_is_no_room_and_the_last_frame_has_all() {
    let (mut a, mut out, t) = (machine_of(4, 2), Vec::new(), Instant::now());
    let id = speaking(&mut a, t, Kind::Chat);
    a.update(t, 1, text(id, "One. Two. Three. F", t), &mut out);
    assert_eq!(said(&mut out), ["One. "]);
    let again = a.next_tick().unwrap();
    assert!(again > t);
    a.tick(again, 1, &mut out);
    assert_eq!(said(&mut out), ["Two. "]);
    a.update(again, 0, ended(id, Finish::Stop, again), &mut out);
    assert_eq!(said(&mut out), ["One. Two. Three. F"]);
}

#[test]
fn a_thought_does_not_wait_for_sentences() {
    let (mut a, mut out, t) = (machine_of(4, 2), Vec::new(), Instant::now());
    let id = speaking(&mut a, t, Kind::Chat);
    let mut update = text(id, "", t);
    update.text.reasoning = "Hm. A".to_owned();
    a.update(t, ROOM, update, &mut out);
    let frame = frames(&mut out).pop().unwrap();
    assert_eq!(
        frame["choices"][0]["delta"],
        serde_json::json!({"role": "assistant", "reasoning_content": "Hm. A"})
    );
}

#[test]
fn plain_text_has_no_marks() {
    let (mut a, mut out, t) = (machine_of(4, 2), Vec::new(), Instant::now());
    let id = speaking(&mut a, t, Kind::Ask);
    a.update(t, ROOM, text(id, "# Lamp\n\n- **on*", t), &mut out);
    a.update(t, ROOM, text(id, "*\n- `off", t), &mut out);
    assert!(out.is_empty());
    a.update(t, ROOM, ended(id, Finish::Stop, t), &mut out);
    assert_eq!(
        frames(&mut out),
        [Value::String("Lamp\n\non\noff".to_owned())]
    );
}
