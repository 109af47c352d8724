//! A tiny model that has learned one answer by heart.
//!
//! Its layers add nothing, so what comes next depends on the last token alone: the row of a token in the LM head is the embedding
//! of the token before it. Random rows of 256 values are nearly at right angles, so that token is far ahead of all others.

use crate::vocabulary::Vocabulary;
use crate::{GgufWriter, Think, Tiny, Types};
use glowplug_model::gguf::GgmlType;
use glowplug_model::network::dims::Arch;

/// What every prompt ends with: a newline, or the last byte of R1's tag of the assistant.
const BEFORE: [&str; 2] = ["\n", ">"];

impl Tiny {
    /// A model that says these tokens in their order, each of which comes once, and ends its turn. Where the first is `<think>`
    /// and may not come, it goes on with what follows `</think>`.
    pub fn saying<T: Into<String>>(think: Think, script: impl IntoIterator<Item = T>) -> Self {
        Self {
            layers: 1,
            think,
            types: Types::all(GgmlType::F32),
            tied_head: false,
            context: 4096,
            script: script.into_iter().map(Into::into).collect(),
            ..Self::new(Arch::Qwen2)
        }
    }
}

/// The parts of the template of R1's distillates that matter here.
const R1: &str = "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}\
    {{ '<｜User｜>' + m['content'] }}{% endif %}{% if m['role'] == 'assistant' %}\
    {% set content = m['content'] %}{% if '</think>' in content %}\
    {% set content = content.split('</think>')[-1] %}{% endif %}\
    {{ '<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>' }}{% endif %}{% endfor %}\
    {% if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %}";

/// The template of R1's distillates, which opens a thought at the end of a prompt or leaves that to the model.
pub fn r1_template(opened: bool) -> String {
    let ends = "'<｜Assistant｜>' }}{% endif %}";
    let opens = "'<｜Assistant｜><think>\n' }}{% endif %}";
    R1.replace(ends, if opened { opens } else { ends })
}

/// Scripts with what is to be the answer, for prompts that open a thought and for those that do not. `secret` is in thoughts alone.
pub const THOUGHTS: &[(bool, &[&str], &str)] = &[
    (true, &["secret", " plan", "</think>", "\n\nHello"], "Hello"),
    (true, &["\n\n", "secret", "</think>", "Hello"], "Hello"),
    (true, &["<think>", "secret", "</think>", "Hello"], "Hello"),
    (true, &["</think>", "\n\nHello"], "Hello"),
    (true, &["sec", "ret</th", "ink>", "\n\n", "Hello"], "Hello"),
    (
        true,
        &["secret <", "b> </thin", "g> ", "</think>", "Hello"],
        "Hello",
    ),
    (
        true,
        &["secret", "\n</think>\n", "</think>", "Hello"],
        "Hello",
    ),
    (
        false,
        &["<think>", "\n\n", "secret", "</think>", "Hello"],
        "Hello",
    ),
    (
        false,
        &["<th", "ink>", "secret", "</", "think>", "Hello"],
        "Hello",
    ),
    (
        false,
        &[" ", "<think>", "secret", "</think>", "Hello"],
        "Hello",
    ),
    (false, &["</think>", "Hello"], "Hello"),
    (
        false,
        &[
            "Hello", " there", ".\n", "<think>", "secret", "</think>", "And", " bye",
        ],
        "Hello there.\nAnd bye",
    ),
    (false, &["Hello"], "Hello"),
];

/// Writes the script into the weights.
pub(crate) fn teach(w: &mut GgufWriter, vocabulary: &Vocabulary, script: &[String]) {
    for name in [
        "blk.0.attn_output.weight",
        "blk.0.ffn_down.weight",
        "output.weight",
    ] {
        w.tensor(name).data.fill(0);
    }
    let embeddings = w.tensor("token_embd.weight");
    let row = 4 * embeddings.dims[0] as usize;
    let embeddings = embeddings.data.clone();
    let mut follows = |before: &str, next: u32, weight: f32| {
        let from = &embeddings[vocabulary.id_of(before) as usize * row..][..row];
        let to = &mut w.tensor("output.weight").data[next as usize * row..][..row];
        for (to, from) in to.chunks_exact_mut(4).zip(from.chunks_exact(4)) {
            let value = |bytes: &[u8]| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            let sum = value(to) + weight * value(from);
            to.copy_from_slice(&sum.to_le_bytes());
        }
    };
    for before in BEFORE {
        follows(before, vocabulary.id_of(&script[0]), 1.0);
        let answer = script.iter().position(|token| token == "</think>");
        if let Some(answer) = answer.and_then(|end| script.get(end + 1)) {
            follows(before, vocabulary.id_of(answer), 0.5);
        }
    }
    for pair in script.windows(2) {
        assert_ne!(pair[0], pair[1], "a token comes once");
        follows(&pair[0], vocabulary.id_of(&pair[1]), 1.0);
    }
    let end = vocabulary.id("<|im_end|>");
    follows(&script[script.len() - 1], end, 1.0);
}
