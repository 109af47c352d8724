use super::*;
use proptest::prelude::*;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// A line of a file of keys.
fn line(n: u8) -> String {
    format!("{n:02x}").repeat(32)
}

fn keys(of: &[u8]) -> Keys {
    let lines: Vec<String> = of.iter().map(|n| line(*n)).collect();
    Keys::parse(&lines.join("\n")).unwrap()
}

#[test]
fn what_is_wrong_with_keys_is_said_with_its_line_and_without_the_key() {
    let (a, b) = (line(0xab), line(0xac));
    let many: Vec<String> = (0..=KEYS_MAX as u8).map(line).collect();
    let plus = a.replacen("ab", "+b", 1);
    for (text, error) in [
        (String::new(), KeysError::None),
        ("# none\n\n".to_owned(), KeysError::None),
        (format!("{a}\n{}", &b[1..]), KeysError::Shape(2)),
        (format!("{a}{b}"), KeysError::Shape(1)),
        (format!("\n{plus}"), KeysError::Shape(2)),
        (format!("{a} {b}"), KeysError::Shape(1)),
        (format!("# old\n{a}\n{b}\n{a}"), KeysError::Twice(4)),
        (many.join("\n"), KeysError::Many(KEYS_MAX + 1)),
    ] {
        assert_eq!(Keys::parse(&text).unwrap_err(), error, "{text}");
        assert!(!error.to_string().contains("abab"), "{error}");
    }
    let most = Keys::parse(&many[..KEYS_MAX].join("\n")).unwrap();
    assert_eq!(most.count(), KEYS_MAX);
    // the case of digits says nothing
    let same = Keys::parse(&format!("  {}  \n", a.to_uppercase())).unwrap();
    assert_eq!(same, keys(&[0xab]));
    assert!(!format!("{same:?}").contains("ab"), "{same:?}");
}

#[test]
fn a_file_is_opened_by_the_key_that_it_was_sealed_with_and_by_no_other() {
    let (lock, key) = keys(&[2]).lock().unwrap();
    let mut part = b"canary".to_vec();
    let tag = key.seal(0, b"beside", &mut part).unwrap();
    assert_ne!(part, b"canary");
    for (of, newest) in [(&[2][..], true), (&[3, 2], false), (&[2, 1], true)] {
        let (key, is_newest) = keys(of).behind(&lock).unwrap();
        let mut opened = part.clone();
        key.open(0, b"beside", &mut opened, tag).unwrap();
        assert_eq!((&opened[..], is_newest), (&b"canary"[..], newest));
        for (number, beside) in [(1, &b"beside"[..]), (0, b"besidf"), (0, b"")] {
            let mut opened = part.clone();
            assert_eq!(key.open(number, beside, &mut opened, tag), Err(Altered));
        }
    }
    assert!(keys(&[1, 3]).behind(&lock).is_none());
    assert!(!key_name(&lock).contains("0202"));
    // two files of one key have nothing in common
    let (other, other_key) = keys(&[2]).lock().unwrap();
    assert_ne!(lock[ID_BYTES..], other[ID_BYTES..]);
    let mut opened = part.clone();
    assert!(other_key.open(0, b"beside", &mut opened, tag).is_err());
}

proptest! {
    #[test]
    fn any_altered_bit_is_found(
        number: u64,
        mut part in proptest::collection::vec(any::<u8>(), 0..200),
        at: prop::sample::Index,
        bit in 0..8u8,
    ) {
        let (_, key) = keys(&[9]).lock().unwrap();
        let mut tag = key.seal(number, &[], &mut part).unwrap();
        let at = at.index(part.len() + TAG_BYTES);
        match part.get_mut(at) {
            Some(byte) => *byte ^= 1u8 << bit,
            None => tag[at - part.len()] ^= 1u8 << bit,
        }
        prop_assert_eq!(key.open(number, &[], &mut part, tag), Err(Altered));
    }

    #[test]
    fn any_text_is_keys_or_an_error(text: String) {
        if let Ok(keys) = Keys::parse(&text) {
            prop_assert!((1..=KEYS_MAX).contains(&keys.count()));
        }
    }
}

fn put(path: &Path, text: &str) {
    // as an owner rotates keys: a new file takes the old one's place
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(&new, path).unwrap();
}

#[test]
fn keys_are_read_again_when_their_file_changes_and_a_bad_one_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    put(&path, &line(1));
    let file = KeyFile::open(&path).unwrap();
    let now = || {
        let (now, news) = file.keys();
        (
            now.as_ref().clone(),
            news.map(|news| news.map_err(|error| error.to_string())),
        )
    };
    assert_eq!(now(), (keys(&[1]), None));
    put(&path, &format!("{}\n{}", line(2), line(1)));
    assert_eq!(now(), (keys(&[2, 1]), Some(Ok(()))));
    assert_eq!(now(), (keys(&[2, 1]), None));
    put(&path, "half of a k");
    let (held, news) = now();
    let why = news.unwrap().unwrap_err();
    assert!(
        why.contains("keys") && why.contains("line 1") && why.contains("64"),
        "{why}"
    );
    // said once, and the keys before go on
    assert_eq!((held, now()), (keys(&[2, 1]), (keys(&[2, 1]), None)));
    fs::remove_file(&path).unwrap();
    assert!(matches!(now(), (held, Some(Err(_))) if held == keys(&[2, 1])));
    put(&path, &line(3));
    assert_eq!(now(), (keys(&[3]), Some(Ok(()))));
}

#[test]
fn what_is_wrong_with_a_file_of_keys_is_a_sentence_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    let why = |path: &Path| KeyFile::open(path).unwrap_err().to_string();
    let mut said = vec![(why(&path), "cannot read"), (why(folder.path()), "no file")];
    put(&path, &"#".repeat(9 << 10));
    said.push((why(&path), "more than 8192 bytes"));
    put(&path, &line(1));
    for (mode, taken) in [
        (0o644, false),
        (0o604, false),
        (0o660, false),
        (0o640, true),
        (0o400, true),
    ] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(KeyFile::open(&path).is_ok(), taken, "{mode:o}");
        if !taken {
            said.push((why(&path), "chmod 600"));
        }
    }
    for (why, word) in said {
        let named =
            why.contains("`sessions.key_file`") && why.contains(&*folder.path().to_string_lossy());
        assert!(named && why.contains(word), "{why}");
    }
}
