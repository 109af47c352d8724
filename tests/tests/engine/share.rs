//! A client learns nothing of another's prompts, neither from the numbers that it is told nor from how much is computed for it,
//! which is what takes time.

use super::world::{Heard, config, load, request, tiny, turn};
use glowplug_model::engine::{Engine, EngineConfig, Request, SessionVerb, Share, Worked};
use glowplug_model::text::{Message, Role};
use glowplug_tests::{SplitMix, Think};

const TRIES: u64 = 10_000;

/// A raw prompt whose answer ends with its first token.
fn raw(client: &str, said: &str) -> Request {
    Request {
        raw: true,
        ..request(client, said, 1)
    }
}

/// The number of cached tokens that the client is told, and the columns that the network computed.
fn ask(engine: &mut Engine, id: u64, request: Request) -> (u32, usize) {
    let (mut heard, mut columns) = (Heard::default(), 0);
    engine.submit(id, request).unwrap();
    loop {
        match engine.step(&mut |id, event| heard.take(id, event)) {
            Worked::Nothing => break,
            Worked::Little => {}
            Worked::GpuLost => panic!("the GPU is lost"),
            Worked::Pass(n) => columns += n,
        }
    }
    (heard.ended[&id].cached_tokens, columns)
}

fn engine(share: Share) -> Engine {
    let config = EngineConfig {
        share,
        drafts: false,
        ..config(64, 2)
    };
    load(&tiny(Think::Never), &config)
}

/// Two engines differ only in what the victim said, in a session and outside of one. The guesser cannot tell them apart,
/// however close its guess.
#[test]
fn ten_thousand_guesses_tell_nothing() {
    let secrets = ["PIN 4711 ".repeat(9), "QED 0815 ".repeat(9)];
    let mut engines = [engine(Share::Client), engine(Share::Client)];
    let mut random = SplitMix::new(5, "share");
    let mut near = 0;
    for id in 0..TRIES {
        if id % 500 == 0 {
            for (engine, secret) in engines.iter_mut().zip(&secrets) {
                let session = format!("{}", id % 1000);
                let said = Request {
                    raw: true,
                    ..turn("victim", &session, secret, 1)
                };
                ask(engine, 2 * TRIES + id, said);
                ask(engine, 3 * TRIES + id, raw("victim", secret));
            }
        }
        let secret = &secrets[random.below(2)];
        let known = random.below(secret.len() + 1);
        let guess = format!("{}{}", &secret[..known], random.below(10));
        near = near.max(known);
        let told = engines
            .each_mut()
            .map(|engine| ask(engine, id, raw("guesser", &guess)));
        assert_eq!(told[0], told[1], "{guess}");
    }
    assert_eq!(near, secrets[0].len());
    // the victim itself finds the pages of what it said
    for (engine, secret) in engines.iter_mut().zip(&secrets) {
        let (cached, columns) = ask(engine, 5 * TRIES, raw("victim", secret));
        assert!(cached > 32 && columns == 1);
    }
}

/// A text of the configuration, which is longer than two pages, and what a client says after it.
fn preset(client: &str, said: &str) -> Request {
    Request {
        system: Some("You are the voice of the house. ".repeat(9).into()),
        ..request(client, said, 1)
    }
}

/// What the configuration says is computed once for all; the number of cached tokens is the same whether it was or not.
#[test]
fn the_text_of_a_preset_is_everybodys_and_the_number_tells_nothing() {
    let (mut alone, mut after) = (engine(Share::Client), engine(Share::Client));
    let (given, all) = ask(&mut after, 1, preset("a", "the rain"));
    assert!(given >= 64 && given % 32 == 0, "{given}");
    assert!(all > given as usize, "nothing was there yet");
    let fresh = ask(&mut alone, 1, preset("b", "in the plain"));
    let (told, columns) = ask(&mut after, 2, preset("b", "in the plain"));
    assert_eq!(told, fresh.0);
    assert_eq!(
        columns + given as usize,
        fresh.1,
        "full pages of the text were there"
    );
    // what the other client said is found by itself alone
    let (told, columns) = ask(&mut after, 3, preset("b", "the rain"));
    assert_eq!(told, ask(&mut alone, 2, preset("b", "the rain")).0);
    assert!(columns > 1);
    let (told, columns) = ask(&mut after, 4, preset("a", "the rain"));
    assert!(told > given && columns == 1, "{told} {columns}");
    // who says the same without the preset gets nothing
    let text = preset("c", "").system.unwrap();
    let mut same = request("c", "the rain", 1);
    let system = Message::new(Role::System, text.to_string());
    same.messages.insert(0, system);
    assert_eq!(ask(&mut after, 5, same).0, 0);
    // forgetting a client leaves what is everybody's
    after.forget("a", &mut |_, _| {}).unwrap();
    let (_, columns) = ask(&mut after, 6, preset("a", "the rain"));
    assert!(columns > 1 && columns < all, "{columns}");
}

/// A client's system message is the end of the preset's, a session keeps neither the preset nor its text, and its file's pages are
/// nobody else's.
#[test]
fn a_session_with_a_preset_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let config = EngineConfig {
        sessions: Some(folder.path().to_owned()),
        drafts: false,
        ..config(64, 2)
    };
    let turn = |client: &str, said: &str| Request {
        session: Some("s".into()),
        ..preset(client, said)
    };
    let mut engine = load(&tiny(Think::Never), &config);
    let first = ask(&mut engine, 1, turn("a", "the rain"));
    let second = ask(&mut engine, 2, turn("a", "in the plain"));
    assert!(second.0 > first.0 && second.1 < 64, "{first:?} {second:?}");
    let saved = engine.session("a", "s", SessionVerb::Save).unwrap();
    assert!(saved.saved && saved.pages > 2);
    drop(engine);
    let mut engine = load(&tiny(Think::Never), &config);
    let third = ask(&mut engine, 1, turn("a", "falls"));
    assert!(
        third.0 > second.0 && third.1 < 64,
        "{third:?}: its file was read"
    );
    let (_, columns) = ask(&mut engine, 2, preset("b", "the rain"));
    assert!(
        columns > first.0 as usize,
        "{columns}: of a file nothing is everybody's"
    );
    let fourth = ask(&mut engine, 3, turn("a", "again"));
    assert!(fourth.0 > 0, "{fourth:?}");
}

/// Where the configuration shares pages, what was computed for one client is there for all.
#[test]
fn what_is_shared_by_all_is_computed_once() {
    let said = "the rain in the plain ".repeat(8);
    for (share, found) in [(Share::Client, false), (Share::All, true)] {
        let mut engine = engine(share);
        let (cached, columns) = ask(&mut engine, 1, raw("a", &said));
        assert_eq!(cached, 0);
        let own = ask(&mut engine, 2, raw("a", &said));
        assert_eq!(own, (columns as u32 - 1, 1));
        let other = ask(&mut engine, 3, raw("b", &said));
        assert_eq!(other, if found { own } else { (0, columns) });
        // forgetting a client drops its own pages, and all pages where nobody knows whose they are
        engine.forget("a", &mut |_, _| {}).unwrap();
        let left = ask(&mut engine, 4, raw("b", &said));
        assert_eq!(left, if found { (0, columns) } else { own });
    }
}
