use super::*;
use std::fs;
use std::net::Ipv4Addr;

/// A hash of `correct horse`.
const HASH: &str = "$argon2id$v=19$m=16,t=1,p=1$MDEyMzQ1Njc4OWFiY2RlZg$klgEAbyJTdj963Jx07PEsZuI7ww9GF9BR1zf+VqqPc8";
const OTHER: &str = "$argon2id$v=19$m=32,t=3,p=4$MDEyMzQ1Njc4OWFiY2RlZg$4/EQ3sta+o6yVS1tyrDLS7XP6pbWd5NRrpi6YRL4SPw";

struct World {
    folder: tempfile::TempDir,
    logins: Arc<Logins>,
}

fn from(last: u8) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, last).into()
}

impl World {
    fn new(users: &str) -> Self {
        Self::with(users, Duration::ZERO)
    }

    fn with(users: &str, pause: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        fs::write(&path, users).unwrap();
        let logins = Arc::new(Logins::open(&path, pause).unwrap());
        Self { folder, logins }
    }

    fn put(&self, users: &str) {
        let new = self.folder.path().join("new");
        fs::write(&new, users).unwrap();
        fs::rename(&new, self.folder.path().join("users")).unwrap();
    }

    async fn right(&self, name: &str, password: &str) -> bool {
        let login = self.logins.check(name, password.as_bytes(), from(1)).await;
        matches!(login, Login::Right(member) if member.name == name)
    }
}

#[tokio::test]
async fn who_has_the_password_of_its_own_name_comes_in() {
    let world = World::new(&format!("a:{HASH}\nb:{HASH}"));
    for _ in 0..2 {
        assert!(world.right("a", "correct horse").await);
    }
    // no name is let in by what is known of another, nor by the hash that is tried for it
    assert!(!world.right("a", "correct horsf").await);
    assert!(!world.right("c", "correct horse").await);
    assert!(world.right("b", "correct horse").await);
    assert!(lock(&world.logins.waiting).is_empty());
    let none = World::new("");
    assert!(!none.right("a", "").await);
}

#[tokio::test]
async fn wrong_passwords_cost_their_own_address_and_those_who_came_before_nothing() {
    let world = World::with(&format!("a:{HASH}\nb:{HASH}"), Duration::from_secs(3600));
    assert!(world.right("a", "correct horse").await);
    let mut guesses = Vec::new();
    for n in 0..WAITING_OF_ONE + 5 {
        let logins = Arc::clone(&world.logins);
        let guess = async move { logins.check("a", &n.to_be_bytes(), from(9)).await };
        guesses.push(tokio::spawn(guess));
    }
    // those for whom there is no place are told so
    while guesses.iter().filter(|guess| guess.is_finished()).count() < 5 {
        tokio::task::yield_now().await;
    }
    // at once: it has been here, and comes back from whatever address
    let known = world.logins.check("a", b"correct horse", from(9)).await;
    assert!(matches!(known, Login::Right(_)));
    // another address waits for one password and not for its pause
    let new = world.logins.check("b", b"correct horse", from(2)).await;
    assert!(matches!(new, Login::Right(_)));
    // the others of that address wait for the pause, and nobody computes
    assert_eq!(world.logins.turn.available_permits(), 1);
    assert_eq!(lock(&world.logins.waiting)[&from(9)].count, WAITING_OF_ONE);
    for guess in guesses {
        if guess.is_finished() {
            assert!(matches!(guess.await.unwrap(), Login::Busy));
        } else {
            guess.abort();
            assert!(guess.await.is_err());
        }
    }
    assert!(lock(&world.logins.waiting).is_empty());
}

#[tokio::test]
async fn those_who_wait_are_bounded_in_all() {
    let world = World::new("");
    let mut places = Vec::new();
    for n in 0..WAITING_MAX {
        places.push(
            world
                .logins
                .place(from((n / WAITING_OF_ONE) as u8))
                .unwrap(),
        );
    }
    assert!(world.logins.place(from(200)).is_none());
    places.pop();
    assert!(world.logins.place(from(200)).is_some());
}

#[test]
fn a_network_of_ipv6_has_one_turn() {
    let of = |text: &str| origin(text.parse().unwrap());
    assert_eq!(of("2001:db8::1:2:3:4"), of("2001:db8::9"));
    assert_ne!(of("2001:db8:0:1::1"), of("2001:db8:0:2::1"));
    assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
    assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
}

#[tokio::test]
async fn who_is_taken_out_or_gets_another_password_is_told_and_nobody_else() {
    let world = World::new(&format!("a:{HASH}\nb:{HASH}\nc:{HASH}"));
    let mut members = Vec::new();
    for name in ["a", "b", "c"] {
        let login = world.logins.check(name, b"correct horse", from(1)).await;
        let Login::Right(member) = login else {
            panic!("{name}")
        };
        members.push(member);
    }
    world.put("half of a line");
    assert!(world.logins.look().is_empty());
    world.put(&format!("c:{HASH}\nb:{OTHER}"));
    assert_eq!(world.logins.look(), ["a"]);
    assert!(world.logins.look().is_empty());
    for (member, gone) in members.iter().zip([true, false, false]) {
        assert_eq!(world.logins.is_gone(member), gone, "{}", member.name);
    }
    for expelled in &members[..2] {
        world.logins.expelled(expelled).await;
    }
    tokio::select! {
        biased;
        () = world.logins.expelled(&members[2]) => panic!("c stays"),
        () = tokio::task::yield_now() => {}
    }
    assert!(!world.right("a", "correct horse").await);
    assert!(world.right("b", "correct horse").await, "by its new hash");
}
