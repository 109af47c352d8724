use super::*;
use proptest::prelude::*;
use std::fmt::Write;

/// Of `correct horse` and the salt `0123456789abcdef`, made by the program `argon2` of Debian 12.
const SMALL: &str = "$argon2id$v=19$m=16,t=1,p=1$MDEyMzQ1Njc4OWFiY2RlZg$klgEAbyJTdj963Jx07PEsZuI7ww9GF9BR1zf+VqqPc8";
const BROAD: &str = "$argon2id$v=19$m=32,t=3,p=4$MDEyMzQ1Njc4OWFiY2RlZg$4/EQ3sta+o6yVS1tyrDLS7XP6pbWd5NRrpi6YRL4SPw";
const USUAL: &str = "$argon2id$v=19$m=16384,t=2,p=1$MDEyMzQ1Njc4OWFiY2RlZg$TI5VrKKOcOuweL6xsfJEmQMqapSRSiUxYkk/FYA+Zaw";
const OTHER_KIND: &str =
    "$argon2i$v=19$m=16,t=1,p=1$MDEyMzQ1Njc4OWFiY2RlZg$t2f+FzDPMrfh2J7T4EtburiqNgbcuMrhJAj25VvEb0U";

fn wrong(text: &str) -> (usize, Wrong) {
    Roster::parse(text).err().unwrap()
}

#[test]
fn a_password_is_right_by_hashes_that_another_program_made() {
    let text = format!("# of the house\nkitchen:{SMALL}\n\n hall  {BROAD} \npanel\t{USUAL}");
    let roster = Roster::parse(&text).unwrap();
    for name in ["kitchen", "hall", "panel"] {
        let hash = roster.get(name).unwrap();
        assert!(hash.is_of(b"correct horse").unwrap(), "{name}");
        assert!(!hash.is_of(b"correct horsf").unwrap(), "{name}");
        assert!(!hash.is_of(b"").unwrap());
    }
    assert!(roster.get("Kitchen").is_none());
    assert!(roster.costliest() == roster.get("panel"));
    let fewer = Roster::parse(&format!("hall:{BROAD}")).unwrap();
    assert_eq!(
        roster.without(&fewer).collect::<Vec<_>>(),
        ["kitchen", "panel"]
    );
    assert_eq!(fewer.without(&roster).count(), 0);
}

#[test]
fn what_is_wrong_with_a_line_is_said_with_its_number_and_its_limit() {
    let with = |from: &str, to: &str| format!("a:{}", SMALL.replace(from, to));
    let long = "a".repeat(65);
    for (line, what) in [
        ("kitchen".to_owned(), Wrong::Shape),
        ("kitchen:secret".to_owned(), Wrong::Shape),
        (format!("a:{SMALL} more"), Wrong::Shape),
        (format!("{long}:{SMALL}"), Wrong::Name),
        (format!("a/b:{SMALL}"), Wrong::Name),
        (format!("+ {SMALL}"), Wrong::Name),
        (format!("local:{SMALL}"), Wrong::Own),
        (format!("glowplug:{SMALL}"), Wrong::Own),
        (format!("x:{BROAD}"), Wrong::Twice),
        (format!("a:{OTHER_KIND}"), Wrong::Kind),
        (with("v=19", "v=16"), Wrong::Kind),
        (with("v=19$", ""), Wrong::Kind),
        (
            "a:$argon2id$v=19$m=16,t=1,p=1$MDEyMzQ1Njc4OWFiY2RlZg".to_owned(),
            Wrong::Output,
        ),
        (
            with(
                "klgEAbyJTdj963Jx07PEsZuI7ww9GF9BR1zf+VqqPc8",
                "klgEAbyJTdj963Jx",
            ),
            Wrong::Output,
        ),
        (with("MDEyMzQ1Njc4OWFiY2RlZg", "MDEyMzQ"), Wrong::Salt),
        (with("t=1", "t=0"), Wrong::Parameters),
        (with("m=16", "m=4"), Wrong::Parameters),
        (with("m=16", "q=16"), Wrong::Parameters),
        (with("m=16", "m=19457"), Wrong::Memory(19457)),
        (
            with("m=16,t=1", "m=19456,t=5"),
            Wrong::Work {
                passes: 5,
                memory: 19456,
            },
        ),
        (
            with("m=16,t=1", "m=16,t=4294967295"),
            Wrong::Work {
                passes: u32::MAX,
                memory: 16,
            },
        ),
        (with("m=16,t=1,p=1", "m=64,t=1,p=5"), Wrong::Parallel(5)),
    ] {
        assert_eq!(wrong(&format!("x:{SMALL}\n{line}")), (2, what), "{line}");
        let said = what.to_string();
        assert!(!said.contains("klgE"), "{said}");
    }
    assert!(Wrong::Memory(65536).to_string().contains("19456"));
    // what OWASP names is taken, and what the program makes without being told
    for params in [
        "m=19456,t=2",
        "m=12288,t=3",
        "m=9216,t=4",
        "m=7168,t=5",
        "m=4096,t=3",
    ] {
        assert!(Roster::parse(&with("m=16,t=1", params)).is_ok(), "{params}");
    }
    let mut many = String::new();
    for n in 0..=USERS_MAX {
        writeln!(many, "{n}:{SMALL}").unwrap();
    }
    assert_eq!(wrong(&many), (USERS_MAX + 1, Wrong::Many));
    let most: Vec<&str> = many.lines().take(USERS_MAX).collect();
    assert!(Roster::parse(&most.join("\n")).is_ok());
    assert!(many.len() < FILE_MAX, "a full file fits");
}

proptest! {
    #[test]
    fn any_text_is_users_or_a_line_that_it_has(text in "([a-z:]{0,9}|\\$argon2id\\$v=19\\$m=[0-9]{1,10},t=[0-9]{1,10},p=[0-9]{1,10}\\$[A-Za-z0-9+/]{0,30}\\$[A-Za-z0-9+/]{0,99}|\n|\\PC{0,5}){0,8}") {
        match Roster::parse(&text) {
            Ok(roster) => prop_assert!(roster.0.values().all(|hash| hash.params.m_cost() <= MEMORY_MAX)),
            Err((line, _)) => prop_assert!((1..=text.lines().count()).contains(&line)),
        }
    }
}

fn put(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(&new, path).unwrap();
}

#[test]
fn a_file_is_read_again_when_it_changes_and_a_bad_one_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("users");
    let why = |path: &Path| UsersFile::open(path).err().unwrap().to_string();
    for said in [why(&path), why(folder.path())] {
        assert!(
            said.contains("`broker.users_file`") && said.contains("cannot read"),
            "{said}"
        );
    }
    put(&path, &"#\n".repeat(FILE_MAX));
    assert!(why(&path).contains("65536 bytes"), "{}", why(&path));
    put(&path, &format!("a:{SMALL}\nb:{SMALL}\nc:x"));
    assert!(
        why(&path).contains("users`") && why(&path).contains("line 3"),
        "{}",
        why(&path)
    );
    put(&path, &format!("a:{SMALL}"));
    let (mut file, roster) = UsersFile::open(&path).unwrap();
    assert!(roster.get("a").is_some() && file.changed().is_none());
    put(&path, "nonsense");
    assert!(file.changed().is_none() && file.changed().is_none());
    put(&path, &format!("b:{SMALL}"));
    assert!(file.changed().unwrap().get("b").is_some());
    // nobody is somebody too
    put(&path, "");
    assert!(file.changed().unwrap() == Roster::default());
}
