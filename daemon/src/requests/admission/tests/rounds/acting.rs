//! Requests with tools of the daemon's in any order of events: each has one last frame, and nothing acts unrecorded or twice.

use super::*;

#[derive(Debug, Clone)]
enum Happens {
    Ask { id: u8, session: bool },
    Says { calls: Vec<u8>, finish: u8 },
    Refused,
    Recorded(bool),
    Answered(u8),
    Cancel(u8),
    Wait(u16),
    EndAll,
    Room(bool),
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        4 => (0..6_u8, any::<bool>()).prop_map(|(id, session)| Happens::Ask { id, session }),
        6 => (prop::collection::vec(0..3_u8, 0..3), 0..4_u8).prop_map(|(calls, finish)| Happens::Says { calls, finish }),
        1 => Just(Happens::Refused),
        6 => prop::bool::weighted(0.8).prop_map(Happens::Recorded),
        6 => (0..3_u8).prop_map(Happens::Answered),
        1 => (0..6_u8).prop_map(Happens::Cancel),
        2 => (0..400_u16).prop_map(Happens::Wait),
        1 => Just(Happens::EndAll),
        1 => any::<bool>().prop_map(Happens::Room),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn each_has_one_last_frame(all in prop::collection::vec(happens(), 1..80)) {
        let mut w = world();
        // what the engine has, what waits to be recorded, calls in flight, requests on the disk
        let (mut engine, mut recording) = (Vec::new(), Vec::new());
        let (mut flying, mut made) = (Vec::<(RequestId, String)>::new(), HashSet::new());
        let mut on_disk = HashSet::new();
        let mut frames: HashMap<String, (u64, bool)> = HashMap::new();
        let (mut asked, mut calls, mut room) = (HashSet::new(), 0_u64, ROOM);
        for what in all {
            match what {
                Happens::Ask { id, session } => {
                    let mut arrival = asking(&format!("i{id}"), session.then_some("s"));
                    arrival.deadline = (id % 2 == 0).then_some(Duration::from_secs(1));
                    asked.insert(format!("i{id}"));
                    w.ask(arrival);
                }
                Happens::Says { calls: kinds, finish } => if let Some(number) = engine.pop() {
                    let called: Vec<ToolCall> = kinds.iter().map(|kind| {
                        calls += 1;
                        call(&calls.to_string(), ["lamp", "door", "mine"][usize::from(*kind)], "on")
                    }).collect();
                    let finish = [Finish::Stop, Finish::Stop, Finish::Length, Finish::Cancelled][usize::from(finish)];
                    w.says(number, "Hm.", &called, finish);
                },
                Happens::Refused => if let Some(number) = engine.pop() {
                    let mut refused = text(number, "", w.now);
                    refused.end = Some((End::Refused(Refusal::ContextLength { tokens: 9, limit: 8 }), w.now));
                    w.a.update(w.now, room, refused, &mut w.out);
                },
                Happens::Recorded(written) => if let Some(number) = recording.pop() {
                    if written { on_disk.insert(number); }
                    w.a.recorded(w.now, number, written, &mut w.out);
                },
                Happens::Answered(at) => if usize::from(at) < flying.len() {
                    let (number, call) = flying.remove(usize::from(at));
                    w.a.tool_ended(w.now, number, &call, "ok", Duration::ZERO, room, &mut w.out);
                },
                Happens::Cancel(id) => w.a.cancel(w.now, "c", &Cancel::Id(format!("i{id}")), &mut w.out),
                Happens::Wait(ms) => {
                    w.now += Duration::from_millis(ms.into());
                    w.a.tick(w.now, room, &mut w.out);
                    prop_assert!(w.a.next_tick().is_none_or(|at| at > w.now), "no busy loop");
                }
                Happens::EndAll => w.a.end_all(w.now, Finish::Interrupted, &mut w.out),
                Happens::Room(there) => room = if there { ROOM } else { 0 },
            }
            let mut answered = Vec::new();
            for action in w.out.drain(..) {
                match action {
                    Action::Engine(Command::Submit(number, _)) => {
                        prop_assert!(!engine.contains(&number), "the engine has it already");
                        engine.push(number);
                    }
                    Action::Engine(Command::Release(number)) => {
                        prop_assert!(!engine.contains(&number), "the engine has it");
                    }
                    Action::Engine(Command::End(number, why)) => {
                        prop_assert!(engine.contains(&number), "the engine does not know it");
                        answered.push((number, why));
                    }
                    Action::Tools(ToolAction::Record(number, _)) => {
                        prop_assert!(!on_disk.contains(&number), "recorded once");
                        recording.push(number);
                    }
                    Action::Tools(ToolAction::Call { request, call, .. }) => {
                        prop_assert!(on_disk.contains(&request), "acts unrecorded");
                        prop_assert!(made.insert(call.clone()), "called twice");
                        flying.push((request, call));
                    }
                    Action::Tools(ToolAction::Forget(number)) => {
                        flying.retain(|(of, _)| *of != number);
                    }
                    Action::Tools(ToolAction::Ended { .. } | ToolAction::Audit { .. }) => {}
                    Action::Publish { frame, lane, .. } => {
                        let frame: Value = serde_json::from_slice(&frame).unwrap();
                        let id = frame["id"].as_str().unwrap().to_owned();
                        let entry = frames.entry(id).or_default();
                        if lane == Lane::Refusal { continue; }
                        prop_assert!(!entry.1, "after the last frame: {}", frame);
                        prop_assert_eq!(frame["seq"].as_u64(), Some(entry.0));
                        entry.0 += 1;
                        entry.1 = lane == Lane::Last;
                    }
                    other => panic!("{other:?}"),
                }
            }
            // the engine ends what it is told to end
            for (number, why) in answered {
                engine.retain(|of| *of != number);
                w.says(number, "", &[], why);
            }
            for action in w.out.drain(..) {
                if let Action::Publish { frame, lane, .. } = action {
                    let frame: Value = serde_json::from_slice(&frame).unwrap();
                    let entry = frames.entry(frame["id"].as_str().unwrap().to_owned()).or_default();
                    prop_assert_eq!(frame["seq"].as_u64(), Some(entry.0));
                    entry.0 += 1;
                    entry.1 = lane == Lane::Last;
                }
            }
            prop_assert!(w.a.engine_works() != engine.is_empty());
            let open = frames.values().filter(|(n, last)| *n > 0 && !last).count();
            prop_assert!(w.a.outstanding() >= open);
        }
        w.a.abandon(w.now, Finish::Interrupted, &mut w.out);
        prop_assert_eq!(w.a.outstanding(), 0);
    }
}
