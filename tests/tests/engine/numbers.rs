//! A prompt whose numbers are none, beside and before those of others.

use super::world::{Heard, answer, config, new_id, request};
use glowplug_model::engine::{Engine, Finish};
use glowplug_model::gguf::{GgmlType, Gguf};
use glowplug_model::network::dims::Arch;
use glowplug_model::quant::{Isa, Kernels};
use glowplug_tests::{Think, Tiny, Types};

/// Who says `Z` has numbers that are none: its row of the embedding is not read for anything else.
fn model() -> Gguf {
    const Z: usize = 90;
    let tiny = Tiny {
        think: Think::Never,
        tied_head: false,
        types: Types {
            token_embd: GgmlType::F32,
            ..Types::all(GgmlType::Q8_0)
        },
        ..Tiny::new(Arch::Llama)
    };
    let mut writer = tiny.writer();
    let row = 4 * tiny.embed as usize;
    writer.tensor("token_embd.weight").data[Z * row..][..row].fill(0xff);
    Gguf::from_bytes(writer.build().into()).unwrap()
}

#[test]
fn who_has_none_fails_alone_at_every_level() {
    let gguf = model();
    for isa in Isa::ALL {
        if Kernels::detect(Some(isa)).is_err() {
            continue;
        }
        let mut config = config(32, 4);
        config.isa = Some(isa);
        let mut engine = Engine::load(&gguf, &config).unwrap();
        let story = || request("bob", "the rain", 120);
        let (alone, _) = answer(&mut engine, new_id(), story());
        for steps in [0, 1, 3, 20] {
            let (good, bad) = (new_id(), new_id());
            let mut heard = Heard::default();
            engine.submit(good, story()).unwrap();
            for _ in 0..steps {
                engine.step(&mut |id, event| heard.take(id, event));
            }
            engine
                .submit(bad, request("mallory", "the rain Z", 50))
                .unwrap();
            heard.idle(&mut engine);
            assert_eq!(heard.finish(bad), Finish::Failed, "{isa}");
            assert_eq!(heard.text.get(&bad), None, "{isa}");
            assert_eq!(heard.text[&good], alone, "{isa}, after {steps} steps");
        }
    }
}
