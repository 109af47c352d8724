//! The input of a layer that drafts: the host's against its default body.

use super::{Oracle, Random, Raw, TYPES, ceiling, close, on, read, runtime};
use crate::ops::{Backend, DraftInput, Flex, QuantOps, reference};

const EMBED: usize = 256;

fn weights<B: Backend>(norms: &[Vec<f32>; 3], join: &Raw) -> DraftInput<B> {
    let [embed_norm, output_norm, hidden_norm] =
        norms.each_ref().map(|norm| on::<B>(norm, &[EMBED]));
    DraftInput {
        embed_norm,
        output_norm,
        hidden_norm,
        join: join.on(),
    }
}

#[test]
fn embeddings_and_hidden_states_are_joined() {
    let mut random = Random(53);
    for ty in TYPES {
        for tokens in [1, 5] {
            let join = Raw::new(&mut random, ty, EMBED, 2 * EMBED);
            let norms = [(); 3].map(|()| random.floats(EMBED));
            let [embedded, before] = [(); 2].map(|()| random.floats(tokens * EMBED));
            let mut rt = runtime(1, 2);
            let shape = [tokens, EMBED];
            let host = Flex::draft_input(
                on::<Flex>(&embedded, &shape),
                on::<Flex>(&before, &shape),
                weights::<Flex>(&norms, &join),
                1e-6,
                &mut rt,
            );
            let oracle = reference::draft_input::<Oracle>(
                on::<Oracle>(&embedded, &shape),
                on::<Oracle>(&before, &shape),
                weights::<Oracle>(&norms, &join),
                1e-6,
                &rt,
            );
            let what = format!("{ty}, {tokens} tokens");
            close(
                &read::<Flex>(host),
                &read::<Oracle>(oracle),
                ceiling(ty),
                &what,
            );
        }
    }
}
