//! Session files on disks that fail, and in processes that are killed. What was said is as it was before or after the write,
//! what was forgotten stays forgotten, and answers go on.

mod keys;

use super::world::{Heard, answer, config, load, new_id, tiny, turn};
use glowplug_model::engine::{Engine, EngineConfig, Notice, SessionFault, SessionVerb, Worked};
use glowplug_tests::Think;
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

const LONG: &str = "the rain in the plain falls mainly on the train. ";

fn saved(folder: &Path) -> EngineConfig {
    EngineConfig {
        sessions: Some(folder.to_owned()),
        ..config(64, 2)
    }
}

fn names(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    names.sort();
    names
}

/// The name that a session's file has while it is written.
fn part(file: &Path) -> PathBuf {
    let name = file.file_name().unwrap().to_str().unwrap();
    file.with_file_name(format!("~{name}"))
}

/// Saves a turn of a session and gives its file.
fn first_turn(engine: &mut Engine, folder: &Path) -> PathBuf {
    answer(engine, new_id(), turn("a", "s", LONG, 8));
    engine.session("a", "s", SessionVerb::Save).unwrap();
    names(folder).pop().unwrap()
}

fn turns(engine: &mut Engine) -> usize {
    let state = engine.session("a", "s", SessionVerb::Save);
    state.map_or(0, |state| state.turns)
}

#[test]
fn a_full_disk_refuses_a_save_and_nothing_else_until_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("sessions");
    let tiny = tiny(Think::Never);
    let mut engine = load(&tiny, &saved(&dir));
    assert_eq!(
        fs::metadata(&dir).unwrap().permissions().mode() & 0o777,
        0o700
    );
    let file = first_turn(&mut engine, &dir);
    let old = fs::read(&file).unwrap();
    for _ in 2..5 {
        answer(&mut engine, new_id(), turn("a", "s", "and now?", 4));
        // a device on which no byte has room
        symlink("/dev/full", part(&file)).unwrap();
        let full = engine.session("a", "s", SessionVerb::Save);
        assert_eq!(full, Err(SessionFault::Full));
        assert_eq!(
            (names(&dir), fs::read(&file).unwrap()),
            (vec![file.clone()], old.clone())
        );
    }
    let said = engine.notices();
    assert!(matches!(&said[..], [Notice::Failing(_)]), "{said:?}");
    assert_eq!(
        engine.session("a", "s", SessionVerb::Save).unwrap().turns,
        4
    );
    assert_eq!(engine.notices(), [Notice::Mended]);
    assert_eq!(turns(&mut load(&tiny, &saved(&dir))), 4);
}

#[test]
fn a_folder_that_cannot_be_made_is_one_notice_and_costs_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("a file").join("sessions");
    fs::write(dir.parent().unwrap(), b"").unwrap();
    let tiny = tiny(Think::Never);
    let mut engine = load(&tiny, &saved(&dir));
    for sweep in 0..3 {
        answer(&mut engine, new_id(), turn("a", "s", "hi", 4));
        let failed = engine.session("a", "s", SessionVerb::Save);
        assert!(matches!(failed, Err(SessionFault::Failed(_))), "{failed:?}");
        engine.expire(sweep * 60, 1_000_000);
    }
    assert!(engine.session("a", "none", SessionVerb::Drop).is_err());
    answer(&mut engine, new_id(), turn("a", "t", "hi", 4));
    engine.session("a", "t", SessionVerb::Drop).unwrap();
    assert_eq!(engine.forget("b", &mut |_, _| {}), Ok(0));
    assert_eq!(engine.save_all(), 1);
    let said = engine.notices();
    assert!(matches!(&said[..], [Notice::Failing(_)]), "{said:?}");
    // once the obstacle is gone, the next sweep finds the folder and what is in it
    let other = folder.path().join("other");
    first_turn(&mut load(&tiny, &saved(&other)), &other);
    fs::remove_file(dir.parent().unwrap()).unwrap();
    fs::create_dir_all(&dir).unwrap();
    for file in names(&other) {
        fs::rename(&file, dir.join(file.file_name().unwrap())).unwrap();
    }
    engine.expire(180, 1_000_000);
    assert_eq!(engine.save_all(), 0);
    assert_eq!(engine.notices(), [Notice::Mended]);
    assert_eq!(turns(&mut load(&tiny, &saved(&dir))), 3);
}

#[test]
fn what_is_forgotten_leaves_no_part_and_what_cannot_be_removed_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let tiny = tiny(Think::Never);
    let mut engine = load(&tiny, &saved(folder.path()));
    let file = first_turn(&mut engine, folder.path());
    for verb in [SessionVerb::Drop, SessionVerb::Reset] {
        first_turn(&mut engine, folder.path());
        fs::write(part(&file), b"the canary").unwrap();
        engine.session("a", "s", verb).unwrap();
        assert_eq!(names(folder.path()), [] as [PathBuf; 0]);
    }
    first_turn(&mut engine, folder.path());
    fs::write(part(&file), b"the canary").unwrap();
    assert_eq!(engine.forget("a", &mut |_, _| {}), Ok(1));
    assert_eq!(names(folder.path()), [] as [PathBuf; 0]);
    // a start removes what is left of it
    fs::write(part(&file), b"the canary").unwrap();
    let mut engine = load(&tiny, &saved(folder.path()));
    assert_eq!(names(folder.path()), [] as [PathBuf; 0]);

    first_turn(&mut engine, folder.path());
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    for verb in [SessionVerb::Drop, SessionVerb::Reset] {
        let failed = engine.session("a", "s", verb);
        assert!(matches!(failed, Err(SessionFault::Failed(_))), "{failed:?}");
        assert_eq!(engine.counts().sessions, 1);
    }
    let failed = engine.forget("a", &mut |_, _| {});
    assert!(matches!(failed, Err(SessionFault::Failed(_))), "{failed:?}");
    fs::remove_dir(&file).unwrap();
    assert_eq!(engine.forget("a", &mut |_, _| {}), Ok(0));
}

/// A session that was read from its file and has no pages in memory loses none by being saved.
#[test]
fn saving_what_is_only_in_the_file_keeps_its_pages() {
    let folder = tempfile::tempdir().unwrap();
    let tiny = tiny(Think::Never);
    let file = first_turn(&mut load(&tiny, &saved(folder.path())), folder.path());
    let before = fs::read(&file).unwrap();
    let mut engine = load(&tiny, &saved(folder.path()));
    let long = "the rain in the plain ".repeat(80);
    engine
        .submit(new_id(), turn("a", "s", &long, 4))
        .unwrap_err();
    assert_eq!(engine.counts().sessions, 1);
    assert!(engine.session("a", "s", SessionVerb::Save).unwrap().saved);
    assert_eq!(fs::read(&file).unwrap(), before);
}

#[test]
fn files_expire_by_their_own_age_and_a_refused_turn_costs_none() {
    let folder = tempfile::tempdir().unwrap();
    let tiny = tiny(Think::Never);
    let file = first_turn(&mut load(&tiny, &saved(folder.path())), folder.path());
    let aged = |seconds| {
        let at = SystemTime::now() - Duration::from_secs(seconds);
        let file = File::options().write(true).open(&file).unwrap();
        file.set_modified(at).unwrap();
        load(&tiny, &saved(folder.path()))
    };
    let mut engine = aged(500);
    // much later by the engine's clock it is older by just that time
    engine.expire(300, 900);
    assert!(file.exists());
    let long = "the rain in the plain ".repeat(80);
    engine
        .submit(new_id(), turn("a", "s", &long, 4))
        .unwrap_err();
    assert_eq!(engine.counts().sessions, 1);
    // a turn counts as a use, whether it is refused or not
    engine.expire(1199, 900);
    assert!(file.exists() && engine.counts().sessions == 1);
    engine.expire(1200, 900);
    assert!(!file.exists() && engine.counts().sessions == 0);

    first_turn(&mut load(&tiny, &saved(folder.path())), folder.path());
    let mut engine = aged(1000);
    engine.expire(0, 900);
    assert!(!file.exists());
    assert_eq!(turns(&mut engine), 0);
}

/// The last answer of a thinking model is computed again in idle time: what is forgotten meanwhile does not come back.
#[test]
fn a_session_that_is_reset_while_it_is_tidied_stays_empty() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny(Think::Prompt);
    let (mut tidied, mut steps) = (0, 0);
    for at in 0.. {
        let mut engine = load(&model, &saved(folder.path()));
        let mut heard = Heard::default();
        engine
            .submit(1, turn("a", "s", &LONG.repeat(4), 20))
            .unwrap();
        while !heard.ended.contains_key(&1) {
            engine.step(&mut |id, event| heard.take(id, event));
        }
        // does some of the idle work
        let idle = (0..at).all(|_| engine.step(&mut |_, _| {}) != Worked::Nothing || engine.tidy());
        steps = at;
        let counts = engine.counts();
        tidied += counts.running + counts.queued;
        for verb in [SessionVerb::Reset, SessionVerb::Drop] {
            engine.session("a", "s", verb).unwrap();
            Heard::default().idle(&mut engine);
            assert_eq!(engine.counts().pages_used, 0, "{verb:?} after {at} steps");
            if verb == SessionVerb::Reset {
                let state = engine.session("a", "s", SessionVerb::Save).unwrap();
                assert_eq!((state.tokens, state.turns), (0, 0));
            }
        }
        assert_eq!(names(folder.path()), [] as [PathBuf; 0]);
        if !idle {
            break;
        }
    }
    assert!(tidied > 0 && steps > 2, "{tidied} of {steps}");
}

/// The same holds where the prompt of the idle work is being prepared at that time.
#[test]
fn idle_work_that_is_prepared_for_a_session_of_before_is_not_accepted() {
    for verb in [SessionVerb::Reset, SessionVerb::Drop] {
        let mut engine = load(&tiny(Think::Prompt), &config(64, 2));
        let mut heard = Heard::default();
        engine.submit(1, turn("a", "s", LONG, 20)).unwrap();
        while !heard.ended.contains_key(&1) {
            engine.step(&mut |id, event| heard.take(id, event));
        }
        let job = engine.chore().unwrap();
        engine.session("a", "s", verb).unwrap();
        let prepared = engine.prompts().prepare(job);
        engine.accept(prepared).unwrap();
        Heard::default().idle(&mut engine);
        assert_eq!(engine.counts().pages_used, 0);
    }
}

/// The part of [`killed_at_a_byte_of_the_file_the_old_one_is_there_or_the_new_one`] that runs in a process of its own.
#[test]
#[ignore = "it is killed"]
fn save_and_be_killed() {
    let folder = PathBuf::from(std::env::var_os("GLOWPLUG_TEST_FOLDER").unwrap());
    let mut engine = load(&tiny(Think::Never), &saved(&folder));
    answer(&mut engine, new_id(), turn("a", "s", "and now?", 8));
    engine.session("a", "s", SessionVerb::Save).unwrap();
}

/// The kernel sends SIGXFSZ to a process that writes beyond its limit, so it dies in the middle of a write, at this byte.
#[test]
fn killed_at_a_byte_of_the_file_the_old_one_is_there_or_the_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny(Think::Never);
    let file = first_turn(&mut load(&model, &saved(folder.path())), folder.path());
    let old = fs::read(&file).unwrap();
    let run = |limit: u64| {
        let mut command = Command::new("prlimit");
        command
            .args([&format!("--fsize={limit}"), "--core=0"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "files::save_and_be_killed", "--ignored"])
            .env("GLOWPLUG_TEST_FOLDER", folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.status().unwrap()
    };
    assert!(run(1 << 30).success());
    let new = fs::read(&file).unwrap();
    assert_ne!(new, old);
    let (len, points) = (new.len() as u64, 48);
    for point in 0..=points {
        fs::write(&file, &old).unwrap();
        let limit = len * point / points;
        let status = run(limit);
        if limit < len {
            assert_eq!(status.signal(), Some(25), "{limit}: {status}");
            assert_eq!(fs::read(&file).unwrap(), old);
            assert_eq!(fs::metadata(part(&file)).unwrap().len(), limit);
        } else {
            assert!(status.success() && fs::read(&file).unwrap() == new);
        }
        // the next start knows the old file and has removed the part
        let expected = if limit < len { 1 } else { 2 };
        assert_eq!(turns(&mut load(&model, &saved(folder.path()))), expected);
        assert_eq!(names(folder.path()), std::slice::from_ref(&file));
    }
}
