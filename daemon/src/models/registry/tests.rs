#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::config::Draft;
use std::fs;

fn config(state: &Path, text: &str) -> Config {
    let draft = Draft::from_toml(text).unwrap();
    let mut config = draft.finish("n", state.to_owned()).unwrap();
    config.model.remembered = true;
    config
}

fn registry(state: &Path, configured: &Path) -> Registry {
    Registry::open(&config(state, ""), configured.to_owned()).unwrap()
}

fn weights(path: &Path) -> Weights {
    Weights::new(Opened::open(path).unwrap(), "ab".into())
}

fn answered(registry: &mut Registry, path: &Path, chosen: bool) {
    let note = registry.answered(&weights(path), None, chosen);
    note.write().unwrap();
}

/// A folder with its state, and these models in it.
fn world<const N: usize>(names: [&str; N]) -> (tempfile::TempDir, PathBuf, [PathBuf; N]) {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let paths = names.map(|name| folder.path().join(name));
    for path in &paths {
        fs::write(path, "model").unwrap();
    }
    (folder, state, paths)
}

#[test]
fn after_three_starts_without_an_answer_the_last_good_one_is_back() {
    let (_folder, state, [old, new, newer]) = world(["old", "new", "newer"]);
    assert_eq!(registry(&state, &old).first(), (old.clone(), false));
    answered(&mut registry(&state, &old), &old, false);
    for _ in 0..STARTS_MAX {
        let mut registry = registry(&state, &new);
        assert_eq!(registry.first(), (new.clone(), false));
        assert!(registry.has_way_back());
    }
    for _ in 0..4 {
        let mut registry = registry(&state, &new);
        assert_eq!(registry.first(), (old.clone(), true));
        answered(&mut registry, &old, false);
        // it may be loaded again
        answered(&mut registry, &old, false);
    }
    // who says what to serve is listened to again
    assert_eq!(registry(&state, &newer).first(), (newer, false));
    // without one to go back to, the one there is
    fs::remove_file(&old).unwrap();
    for _ in 0..=STARTS_MAX {
        let mut registry = registry(&state, &new);
        assert_eq!(registry.first(), (new.clone(), false));
        assert!(!registry.has_way_back());
    }
}

/// The chosen model answered, and is gone: what the owner configured is there.
#[test]
fn the_configured_model_is_a_way_back_too() {
    let (_folder, state, [a, b]) = world(["a", "b"]);
    let mut first = registry(&state, &a);
    first.first();
    answered(&mut first, &a, false);
    answered(&mut first, &b, true);
    fs::remove_file(&b).unwrap();
    for _ in 0..STARTS_MAX {
        let mut registry = registry(&state, &a);
        assert_eq!(registry.first(), (b.clone(), false));
        assert!(registry.has_way_back());
    }
    for _ in 0..3 {
        let mut registry = registry(&state, &a);
        assert_eq!(registry.first(), (a.clone(), true));
        answered(&mut registry, &a, false);
    }
}

/// All that there is is tried in turn, for ever: whatever comes back first is served.
#[test]
fn when_every_way_back_fails_the_first_model_has_its_turns_again() {
    let (_folder, state, [good, configured, chosen]) = world(["good", "configured", "chosen"]);
    let mut before = registry(&state, &configured);
    before.first();
    answered(&mut before, &chosen, true);
    // it answered after the one that was chosen, which failed
    let mut own = before.own_record();
    own.good = Some(good.clone());
    before.written(own);
    let mut tried = Vec::new();
    for _ in 0..10 {
        tried.push(registry(&state, &configured).first().0);
    }
    let round = [&chosen, &chosen, &chosen, &good, &configured];
    let expected: Vec<PathBuf> = [round, round].concat().into_iter().cloned().collect();
    assert_eq!(tried, expected);
}

#[test]
fn a_stop_in_time_is_no_failed_start_and_an_answer_ends_the_count() {
    let (_folder, state, [old, new]) = world(["old", "new"]);
    answered(&mut registry(&state, &old), &old, false);
    for _ in 0..9 {
        let mut registry = registry(&state, &new);
        assert_eq!(registry.first(), (new.clone(), false));
        registry.interrupted();
    }
    for _ in 0..9 {
        let mut registry = registry(&state, &new);
        assert_eq!(registry.first(), (new.clone(), false));
        answered(&mut registry, &new, false);
    }
}

#[test]
fn what_was_chosen_stays_until_the_configuration_names_another() {
    let (_folder, state, [a, b, c]) = world(["a", "b", "c"]);
    let mut first = registry(&state, &a);
    first.first();
    answered(&mut first, &a, false);
    answered(&mut first, &b, true);
    first.inhibit().write().unwrap();
    let mut second = registry(&state, &a);
    assert!(second.inhibited());
    assert_eq!(second.first(), (b.clone(), false));
    // one that asks for this model alone gets it
    let mut config = config(&state, "");
    config.model.remembered = false;
    let mut alone = Registry::open(&config, a.clone()).unwrap();
    assert_eq!(alone.first(), (a.clone(), false));
    assert_eq!(registry(&state, &c).first(), (c, false));
    assert_eq!(registry(&state, &a).first(), (a, false));
}

/// Two daemons of one user, and a demonstration beside them: each knows its own, and none writes back what it read.
#[test]
fn nobody_undoes_what_another_program_of_the_user_remembers() {
    let (_folder, state, [a, b, c]) = world(["a", "b", "c"]);
    let of = |node: &str, configured: &Path| {
        let config = config(&state, &format!("node = '{node}'"));
        Registry::open(&config, configured.to_owned()).unwrap()
    };
    let mut demo = config(&state, "node = 'one'");
    demo.model.remembered = false;
    let mut demo = Registry::open(&demo, c.clone()).unwrap();
    let (mut one, mut two) = (of("one", &a), of("two", &b));
    one.first();
    two.first();
    answered(&mut one, &c, true);
    answered(&mut two, &b, false);
    one.inhibit().write().unwrap();
    answered(&mut demo, &c, false);
    demo.interrupted();
    two.first();
    let mut again = of("one", &a);
    assert!(again.inhibited());
    assert_eq!(again.first(), (c, false));
    assert!(!of("two", &b).inhibited());
    // allowed when it is written, and not before
    let note = again.allow();
    assert!(again.inhibited() && of("one", &a).inhibited());
    note.write().unwrap();
    again.allowed();
    assert!(!again.inhibited() && !of("one", &a).inhibited());
}

#[test]
fn what_cannot_be_written_is_said() {
    let (_folder, state, [a]) = world(["a"]);
    // a file where the folder would be
    fs::write(&state, "").unwrap();
    let mut registry = registry(&state, &a);
    assert_eq!(registry.first(), (a.clone(), false));
    assert!(registry.inhibit().write().is_err());
    // it holds until the daemon ends
    assert!(registry.inhibited());
    assert!(registry.allow().write().is_err());
    assert!(
        registry
            .answered(&weights(&a), None, false)
            .write()
            .is_err()
    );
}

#[test]
fn an_image_counts_when_a_model_has_answered() {
    let (_folder, state, [a]) = world(["a"]);
    let mut config = config(&state, "");
    config.counter = Some(7);
    let mut registry = Registry::open(&config, a.clone()).unwrap();
    registry.first();
    assert_eq!(counter::read(&state).unwrap(), 0);
    answered(&mut registry, &a, false);
    assert_eq!(counter::read(&state).unwrap(), 7);
}

#[test]
fn what_may_pass_does_not_stay() {
    let io = || io::Error::from(io::ErrorKind::NotFound);
    let full = |from| {
        let limit = Limit { bytes: 1, from };
        let error = DoesNotFit {
            line: "weights",
            bytes: 2,
            need: 2,
            missing: 1,
            limit,
        };
        UnfitModel::Plan(PlanError::DoesNotFit(error))
    };
    let cut = || GgufError::Truncated {
        what: "a tensor".to_owned(),
    };
    for (unfit, stays) in [
        (UnfitModel::Io(io()), false),
        (UnfitModel::Gguf(GgufError::Io(io())), false),
        (
            UnfitModel::Plan(PlanError::Gguf(GgufError::Io(io()))),
            false,
        ),
        (UnfitModel::Untrusted(Untrusted::Io(io())), false),
        // a copy that is under way
        (UnfitModel::Gguf(cut()), false),
        (UnfitModel::Untrusted(Untrusted::Gguf(cut())), false),
        (full(LimitSource::Available), false),
        (full(LimitSource::Config), true),
        (full(LimitSource::Board), true),
        (UnfitModel::Gguf(GgufError::Version(9)), true),
        (UnfitModel::Untrusted(Untrusted::Unsigned), true),
        (UnfitModel::Exposed, true),
    ] {
        assert_eq!(unfit.stays(), stays, "{unfit}");
    }
}
