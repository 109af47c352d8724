#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::files::fault::{self, Fault};
use glowplug_firmware_config::kv::KvFormat;
use std::fs;
use std::os::unix::fs::PermissionsExt;

struct World {
    folder: tempfile::TempDir,
    gguf: Gguf,
    layout: KvLayout,
    pages: Pages,
    kv: KvCache,
}

fn key(name: &str) -> SessionKey {
    SessionKey {
        client: "a".into(),
        name: name.into(),
    }
}

fn said(content: &str) -> Session {
    let message = Message::new(Role::User, content);
    Session::restored(vec![message], 1)
}

/// Replaces a file of keys, each the same digit all over.
fn put_keys(file: &Path, of: &[char]) {
    let lines = of.iter().map(|digit| digit.to_string().repeat(64) + "\n");
    let new = file.with_extension("new");
    fs::write(&new, lines.collect::<String>()).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(&new, file).unwrap();
}

impl World {
    fn new() -> Self {
        let layout = KvLayout::new(1, 1, 32, [KvFormat::F16].into(), KvFormat::Q8_0).unwrap();
        let empty = [&b"GGUF\x03\0\0\0"[..], &[0; 16]].concat();
        Self {
            folder: tempfile::tempdir().unwrap(),
            gguf: Gguf::from_bytes(empty.into()).unwrap(),
            pages: Pages::new(2).unwrap(),
            kv: KvCache::new(layout.clone(), 2, 1).unwrap(),
            layout,
        }
    }

    /// With a file of keys of these digits, the newest first.
    fn start_with(&self, keys: &[char]) -> Snapshots {
        let file = self.folder.path().join("keys");
        put_keys(&file, keys);
        let keys = Some(Arc::new(KeyFile::open(&file).unwrap()));
        let folder = self.folder.path().join("sessions");
        Snapshots::new(&folder, &self.gguf, &self.layout, 2, keys, None)
    }

    fn start(&self) -> Snapshots {
        Snapshots::new(self.folder.path(), &self.gguf, &self.layout, 2, None, None)
    }

    fn save(
        &mut self,
        snapshots: &mut Snapshots,
        name: &str,
        content: &str,
    ) -> Result<(), Unsaved> {
        snapshots.save(&key(name), &mut said(content), &self.pages, &self.kv)
    }

    /// Everything that a daemon does with files in its life.
    fn live(&mut self) -> Result<(), Unsaved> {
        let mut snapshots = self.start();
        self.save(&mut snapshots, "s", "new")?;
        self.save(&mut snapshots, "t", "new")?;
        snapshots.known(&key("s"))?;
        snapshots.remove(&key("t"))?;
        snapshots.at(10);
        snapshots.expire(1_000, &[]);
        self.save(&mut snapshots, "u", "new")?;
        snapshots.expire(0, &[key("s")]);
        Ok(())
    }

    fn content(&self, name: &str) -> Option<String> {
        let session = self.start().known(&key(name)).unwrap()?;
        Some(session.messages[0].content.clone())
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).unwrap();
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name();
        entries
            .map(|e| name(e).to_str().unwrap().to_owned())
            .collect()
    }
}

#[test]
fn at_any_operation_a_fault_is_an_error_and_a_kill_leaves_what_was_or_what_is() {
    let faults = [libc::EIO, libc::ENOSPC, libc::EROFS, libc::EINTR];
    let faults = faults.map(Fault::Errno).into_iter();
    for fault in faults.chain([Fault::Short, Fault::Kill]) {
        for nth in 0.. {
            let mut world = World::new();
            let mut snapshots = world.start();
            world.save(&mut snapshots, "s", "old").unwrap();
            let (_, happened) = fault::at(nth, fault, || world.live());
            let content = world.content("s").unwrap();
            assert!(content == "old" || content == "new", "{fault:?} at {nth}");
            for name in ["t", "u"] {
                assert!(world.content(name).is_none_or(|content| content == "new"));
            }
            // half of a file is swept by the start
            assert!(world.names().iter().all(|name| !name.starts_with(PART)));
            // and all is as ever when the disk is
            world.live().unwrap();
            assert_eq!(world.names().len(), 1, "{fault:?} at {nth}");
            if !happened {
                assert!(nth > 25, "{nth} operations");
                break;
            }
        }
    }
}

#[test]
fn calls_and_results_are_read_back_and_so_is_a_file_of_before_there_were_any() {
    let mut world = World::new();
    let mut snapshots = world.start();
    let calls = Message {
        tool_calls: vec![ToolCall {
            id: "call_1".into(),
            name: "light".into(),
            arguments: r#"{"on": "<\u00e9\n"}"#.into(),
        }],
        ..Message::new(Role::Assistant, "so")
    };
    let result = Message {
        tool_call_id: Some("call_1".into()),
        ..Message::new(Role::Tool, "done")
    };
    let messages = vec![Message::user("on"), calls, result];
    let mut session = Session::restored(messages.clone(), 1);
    let text = session.text();
    assert!(text > 3 * size_of::<Message>() + size_of::<ToolCall>());
    snapshots
        .save(&key("s"), &mut session, &world.pages, &world.kv)
        .unwrap();
    let known = world.start().known(&key("s")).unwrap().unwrap();
    assert_eq!((&known.messages, known.text()), (&messages, text));

    // the header of a file without pages is all of it; its version stands behind the magic number
    world.save(&mut snapshots, "old", "before").unwrap();
    let path = world.folder.path().join(super::name("a", "old"));
    let mut file = fs::read(&path).unwrap();
    let said = String::from_utf8_lossy(&file);
    assert!(!said.contains("tool") && file[8..12] == 2u32.to_le_bytes());
    let end = file.len() - 4;
    file[8..12].copy_from_slice(&1u32.to_le_bytes());
    let crc = crc32fast::hash(&file[..end]).to_le_bytes();
    file[end..].copy_from_slice(&crc);
    fs::write(&path, file).unwrap();
    assert_eq!(world.content("old").as_deref(), Some("before"));
}

#[test]
fn a_disk_that_fails_is_said_once_and_so_is_that_it_works_again() {
    let mut world = World::new();
    let mut snapshots = world.start();
    for _ in 0..3 {
        let full = Fault::Errno(libc::ENOSPC);
        let (saved, _) = fault::at(3, full, || world.save(&mut snapshots, "s", "new"));
        assert!(matches!(saved, Some(Err(Unsaved::File(_)))), "{saved:?}");
    }
    assert!(matches!(snapshots.notices()[..], [Notice::Failing(_)]));
    for _ in 0..3 {
        world.save(&mut snapshots, "s", "new").unwrap();
    }
    assert_eq!(snapshots.notices(), [Notice::Mended]);
    // nothing was wrong: what is not there needs no removing
    snapshots.remove(&key("none")).unwrap();
    assert_eq!(snapshots.notices(), []);
}

#[test]
fn notices_that_nobody_reads_are_bounded() {
    let mut world = World::new();
    let mut snapshots = world.start();
    for i in 0..2 * NOTICES_MAX {
        let name = i.to_string();
        world.save(&mut snapshots, &name, "new").unwrap();
        let path = world.folder.path().join(super::name("a", &name));
        fs::write(path, b"something else").unwrap();
        assert!(snapshots.known(&key(&name)).unwrap().is_none());
    }
    assert_eq!(snapshots.notices().len(), NOTICES_MAX);
    assert_eq!(
        snapshots.remove_client("a", &[key("3")]).unwrap(),
        2 * NOTICES_MAX - 1
    );
    assert_eq!(world.names().len(), 0);
}

#[test]
fn keys_are_rotated_without_loss_and_a_session_without_its_key_is_neither_read_nor_replaced() {
    let mut world = World::new();
    let keys = world.folder.path().join("keys");
    let mut snapshots = world.start_with(&['1']);
    let path = |name| {
        world
            .folder
            .path()
            .join("sessions")
            .join(super::name("a", name))
    };
    let (s, t) = (path("s"), path("t"));
    for name in ["s", "t"] {
        world.save(&mut snapshots, name, "canary").unwrap();
    }
    let file = fs::read(&s).unwrap();
    assert_eq!(file[8..12], 3u32.to_le_bytes());
    assert!(!file.windows(6).any(|some| some == b"canary"));
    // read as it was, it is not to be written again
    let known = |snapshots: &mut Snapshots, name| {
        let session = snapshots.known(&key(name)).unwrap().unwrap();
        assert_eq!(session.messages[0].content, "canary");
        session.stale_file
    };
    assert!(!known(&mut snapshots, "s"));
    put_keys(&keys, &['2', '1']);
    assert!(known(&mut snapshots, "s"));
    assert_eq!(snapshots.notices(), [Notice::Keys(2)]);
    world.save(&mut snapshots, "s", "canary").unwrap();
    assert!(!known(&mut snapshots, "s") && known(&mut snapshots, "t"));
    // the old key is taken out too soon: one session is refused, by its name, and all is as it was
    put_keys(&keys, &['2']);
    assert!(!known(&mut snapshots, "s"));
    let before = fs::read(&t).unwrap();
    for _ in 0..3 {
        let why = snapshots.known(&key("t")).unwrap_err();
        assert!(matches!(why, SnapshotError::OtherKey(_)), "{why}");
    }
    let notices = snapshots.notices();
    let told =
        |notice: &Notice| matches!(notice, Notice::Closed { session, .. } if **session == *"t");
    assert!(
        matches!(&notices[..], [Notice::Keys(1), closed] if told(closed)),
        "{notices:?}"
    );
    assert_eq!(fs::read(&t).unwrap(), before);
    // a file of keys that is half written changes nothing, and with the key back all is well
    fs::write(&keys, "22").unwrap();
    assert!(!known(&mut snapshots, "s"));
    assert!(matches!(&snapshots.notices()[..], [Notice::KeysKept(why)] if why.contains("line 1")));
    put_keys(&keys, &['2', '1']);
    assert!(known(&mut snapshots, "t"));
    // who keeps no keys any more reads none of them
    let mut without = Snapshots {
        keys: None,
        ..world.start_with(&['2'])
    };
    for name in ["s", "t"] {
        let why = without.known(&key(name)).unwrap_err();
        assert!(matches!(why, SnapshotError::NoKey), "{why}");
    }
    assert!(
        without.remove(&key("t")).unwrap() && !t.exists(),
        "its client may drop it"
    );
}

#[test]
fn with_keys_a_file_of_before_goes_on_and_a_damaged_one_is_refused_and_stays() {
    let mut world = World::new();
    let mut snapshots = Snapshots {
        keys: None,
        ..world.start_with(&['1'])
    };
    world.save(&mut snapshots, "s", "canary").unwrap();
    let mut snapshots = world.start_with(&['1']);
    let mut session = snapshots.known(&key("s")).unwrap().unwrap();
    assert!(session.stale_file && session.saved);
    snapshots
        .save(&key("s"), &mut session, &world.pages, &world.kv)
        .unwrap();
    assert!(!session.stale_file);
    let path = world
        .folder
        .path()
        .join("sessions")
        .join(super::name("a", "s"));
    let good = fs::read(&path).unwrap();
    assert!(!good.windows(6).any(|some| some == b"canary"));
    let mut said = BTreeSet::new();
    for len in [0, 11, 70, good.len() - 1] {
        fs::write(&path, &good[..len]).unwrap();
        said.insert(snapshots.known(&key("s")).unwrap_err().to_string());
        assert_eq!(fs::read(&path).unwrap().len(), len);
    }
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 4;
        fs::write(&path, bad).unwrap();
        said.insert(snapshots.known(&key("s")).unwrap_err().to_string());
    }
    for word in [
        "cut off",
        "was altered",
        "does not hold",
        "no snapshot",
        "has version 7",
    ] {
        assert!(
            said.iter().any(|why| why.contains(word)),
            "{word}: {said:?}"
        );
    }
    fs::write(&path, good).unwrap();
    assert!(snapshots.known(&key("s")).unwrap().is_some());
}
