//! Tiny models that run. They are real in every part but the weights, which are random and for one seed the same on every machine.

mod encode;

use crate::script;
use crate::vocabulary::Vocabulary;
use crate::{GgufWriter, Kv, SplitMix};
use glowplug_model::gguf::GgmlType;
use glowplug_model::network::dims::{Arch, HeadNorm};
use std::io;
use std::path::Path;

/// The storage type of each role's matrices, in every layer. A delta net has the types of attention: that of `attn_q` for queries,
/// keys and values, `attn_k` for gates, `attn_v` for the others, and `attn_output` for its output.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs, reason = "the tensors' own names")]
pub struct Types {
    pub token_embd: GgmlType,
    /// not written if the head is tied
    pub output: GgmlType,
    pub attn_q: GgmlType,
    pub attn_k: GgmlType,
    pub attn_v: GgmlType,
    pub attn_output: GgmlType,
    pub ffn_gate: GgmlType,
    pub ffn_up: GgmlType,
    pub ffn_down: GgmlType,
}

impl Types {
    /// The same type for all matrices.
    pub const fn all(ty: GgmlType) -> Self {
        Self {
            token_embd: ty,
            output: ty,
            attn_q: ty,
            attn_k: ty,
            attn_v: ty,
            attn_output: ty,
            ffn_gate: ty,
            ffn_up: ty,
            ffn_down: ty,
        }
    }
}

/// Who opens a thought of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Think {
    /// nobody does: neither vocabulary nor template names `<think>`
    Never,
    /// the model does, if it happens to: the vocabulary has the tags
    Model,
    /// the template does, at the end of every prompt
    Prompt,
}

/// A tiny model before it is written. Start from [`Tiny::new`], which has the values of a small model of its architecture, and
/// change what matters to the test.
#[derive(Debug, Clone)]
pub struct Tiny {
    /// what is in the file follows from it where no other field says it
    pub arch: Arch,
    /// weights of the same seed, role and size are the same whatever else is changed
    pub seed: u64,
    pub layers: u32,
    /// 256 by default, so that every storage type fits
    pub embed: u32,
    pub heads: u32,
    pub kv_heads: u32,
    /// not written to the file where it is `embed / heads`
    pub head_dim: u32,
    pub ff: u32,
    pub context: u32,
    pub rope_base: f32,
    /// `None`: as many as a head has, not written to the file
    pub rope_dims: Option<u32>,
    pub types: Types,
    /// without `output.weight`, the embedding is the LM head
    pub tied_head: bool,
    /// qwen2 has biases on Q, K and V
    pub qkv_bias: bool,
    /// qwen3 and some others have norms on Q and K
    pub qk_norm: bool,
    /// writes llama 3.1's table of frequencies
    pub rope_freqs: bool,
    /// qwen35: of so many layers the last one attends, and the others are delta nets
    pub attends_every: u32,
    /// qwen35: heads of keys in a delta net
    pub key_heads: u32,
    /// qwen35: heads of values in a delta net
    pub value_heads: u32,
    /// qwen35: values of a head in a delta net
    pub state: u32,
    /// qwen35: whether a layer that drafts is behind the others
    pub draft_layer: bool,
    /// `tokenizer.ggml.pre`: smollm for llama, qwen2 for all others
    pub pre: &'static str,
    /// the same vocabulary as SentencePiece writes it
    pub sentence: bool,
    pub think: Think,
    /// the fewest tokens of the vocabulary, which numbered ones fill up
    pub vocab: usize,
    /// what it says, token by token, whatever it is asked; see [`Tiny::saying`]
    pub script: Vec<String>,
}

impl Tiny {
    /// A model of 2 layers with the traits of its architecture.
    pub fn new(arch: Arch) -> Self {
        Self {
            arch,
            seed: 1,
            layers: 2,
            embed: 256,
            heads: 4,
            kv_heads: 2,
            head_dim: 64,
            ff: 512,
            context: 512,
            rope_base: 10_000.0,
            rope_dims: None,
            types: Types::all(GgmlType::F32),
            tied_head: true,
            qkv_bias: arch.qkv_bias(),
            qk_norm: arch.qk_norm() != HeadNorm::Absent,
            rope_freqs: false,
            attends_every: 2,
            key_heads: 2,
            value_heads: 4,
            state: 64,
            draft_layer: false,
            pre: match arch {
                Arch::Llama => "smollm",
                _ => "qwen2",
            },
            sentence: false,
            think: Think::Model,
            vocab: 0,
            script: Vec::new(),
        }
    }

    /// The smallest model that still has every part, for tests that open a file ten thousand times.
    pub fn smallest(arch: Arch) -> Self {
        Self {
            layers: if arch == Arch::Qwen35 { 2 } else { 1 },
            embed: 32,
            heads: 2,
            kv_heads: 1,
            head_dim: 16,
            ff: 32,
            key_heads: 1,
            value_heads: 2,
            state: 32,
            types: Types::all(GgmlType::Q4_0),
            ..Self::new(arch)
        }
    }

    /// The bytes of the file.
    pub fn bytes(&self) -> Vec<u8> {
        self.writer().build()
    }

    /// Writes the file.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        std::fs::write(path, self.bytes())
    }

    /// The file as keys and tensors, which can be changed before it is built.
    ///
    /// # Panics
    /// If a row is not a whole number of blocks of its type.
    pub fn writer(&self) -> GgufWriter {
        let mut w = GgufWriter::default();
        let mut vocabulary = Vocabulary::new(self.think != Think::Never);
        vocabulary.add(&self.script);
        vocabulary.fill(self.vocab);
        self.metadata(&mut w, vocabulary.tokens.len() as u32);
        self.tokenizer(&mut w, &vocabulary);
        if self.sentence {
            sentence(&mut w, &vocabulary);
        }
        self.tensors(&mut w, vocabulary.tokens.len() as u64);
        if !self.script.is_empty() {
            script::teach(&mut w, &vocabulary, &self.script);
        }
        w
    }

    fn metadata(&self, w: &mut GgufWriter, vocab: u32) {
        let arch = self.arch.name();
        w.set("general.architecture", arch);
        w.set("general.name", "Tiny");
        for (key, value) in [
            ("block_count", self.layers + u32::from(self.draft_layer)),
            ("context_length", self.context),
            ("embedding_length", self.embed),
            ("feed_forward_length", self.ff),
            ("attention.head_count", self.heads),
            ("attention.head_count_kv", self.kv_heads),
            ("vocab_size", vocab),
        ] {
            w.set(&format!("{arch}.{key}"), Kv::U32(value));
        }
        if self.head_dim * self.heads != self.embed {
            w.set(
                &format!("{arch}.attention.key_length"),
                Kv::U32(self.head_dim),
            );
            w.set(
                &format!("{arch}.attention.value_length"),
                Kv::U32(self.head_dim),
            );
        }
        if self.arch == Arch::Qwen35 {
            for (key, value) in [
                ("full_attention_interval", self.attends_every),
                ("ssm.group_count", self.key_heads),
                ("ssm.time_step_rank", self.value_heads),
                ("ssm.state_size", self.state),
                ("ssm.inner_size", self.value_heads * self.state),
                ("ssm.conv_kernel", 4),
                ("nextn_predict_layers", u32::from(self.draft_layer)),
            ] {
                w.set(&format!("{arch}.{key}"), Kv::U32(value));
            }
        }
        if let Some(dims) = self.rope_dims {
            w.set(&format!("{arch}.rope.dimension_count"), Kv::U32(dims));
        }
        w.set(&format!("{arch}.rope.freq_base"), Kv::F32(self.rope_base));
        w.set(
            &format!("{arch}.attention.layer_norm_rms_epsilon"),
            Kv::F32(1e-6),
        );
    }

    fn tokenizer(&self, w: &mut GgufWriter, vocabulary: &Vocabulary) {
        w.set("tokenizer.ggml.model", "gpt2");
        w.set("tokenizer.ggml.pre", self.pre);
        w.set("tokenizer.ggml.tokens", Kv::Strs(vocabulary.tokens.clone()));
        w.set(
            "tokenizer.ggml.token_type",
            Kv::I32s(vocabulary.types.clone()),
        );
        w.set("tokenizer.ggml.merges", Kv::Strs(vocabulary.merges.clone()));
        w.set(
            "tokenizer.ggml.bos_token_id",
            Kv::U32(vocabulary.id("<|endoftext|>")),
        );
        w.set(
            "tokenizer.ggml.eos_token_id",
            Kv::U32(vocabulary.id("<|im_end|>")),
        );
        w.set("tokenizer.ggml.add_bos_token", Kv::Bool(false));
        let think = match self.think {
            Think::Never | Think::Model => "",
            Think::Prompt => "<think>\\n",
        };
        let template = format!(
            "{{% for message in messages %}}{{{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] \
             + '<|im_end|>\\n' }}}}{{% endfor %}}{{% if add_generation_prompt %}}\
             {{{{ '<|im_start|>assistant\\n{think}' }}}}{{% endif %}}"
        );
        w.set("tokenizer.chat_template", Kv::Str(template));
    }

    fn tensors(&self, w: &mut GgufWriter, vocab: u64) {
        let embed = u64::from(self.embed);
        let t = &self.types;
        self.matrix(w, "token_embd.weight", [embed, vocab], t.token_embd);
        for layer in 0..self.layers + u32::from(self.draft_layer) {
            let name = |part: &str| format!("blk.{layer}.{part}");
            self.vector(w, &name(self.arch.norm_names()[0]), embed, 1.0);
            let attends = layer == self.layers || (layer + 1).is_multiple_of(self.attends_every);
            if self.arch == Arch::Qwen35 && !attends {
                self.delta(w, &name);
            } else {
                self.attention(w, &name);
            }
            self.mlp(w, &name);
            if layer == self.layers {
                let own = [2 * embed, embed];
                self.matrix(w, &name("nextn.eh_proj.weight"), own, t.ffn_down);
                for norm in ["enorm", "hnorm", "shared_head_norm"] {
                    self.vector(w, &name(&format!("nextn.{norm}.weight")), embed, 1.0);
                }
            }
        }
        self.vector(w, "output_norm.weight", embed, 1.0);
        if self.rope_freqs {
            let pairs = u64::from(self.rope_dims.unwrap_or(self.head_dim)) / 2;
            self.vector(w, "rope_freqs.weight", pairs, 4.0);
        }
        if !self.tied_head {
            self.matrix(w, "output.weight", [embed, vocab], t.output);
        }
    }

    fn attention(&self, w: &mut GgufWriter, name: &dyn Fn(&str) -> String) {
        let (embed, head) = (u64::from(self.embed), u64::from(self.head_dim));
        let (q, kv) = (
            head * u64::from(self.heads),
            head * u64::from(self.kv_heads),
        );
        let q_rows = q * if self.arch.gated() { 2 } else { 1 };
        let t = &self.types;
        self.matrix(w, &name("attn_q.weight"), [embed, q_rows], t.attn_q);
        self.matrix(w, &name("attn_k.weight"), [embed, kv], t.attn_k);
        self.matrix(w, &name("attn_v.weight"), [embed, kv], t.attn_v);
        if self.qkv_bias {
            self.vector(w, &name("attn_q.bias"), q_rows, 0.0);
            self.vector(w, &name("attn_k.bias"), kv, 0.0);
            self.vector(w, &name("attn_v.bias"), kv, 0.0);
        }
        if self.qk_norm {
            self.vector(w, &name("attn_q_norm.weight"), head, 1.0);
            self.vector(w, &name("attn_k_norm.weight"), head, 1.0);
        }
        self.matrix(w, &name("attn_output.weight"), [q, embed], t.attn_output);
    }

    fn delta(&self, w: &mut GgufWriter, name: &dyn Fn(&str) -> String) {
        let (embed, state) = (u64::from(self.embed), u64::from(self.state));
        let (key_heads, heads) = (u64::from(self.key_heads), u64::from(self.value_heads));
        let (channels, values) = ((2 * key_heads + heads) * state, heads * state);
        let t = &self.types;
        self.matrix(w, &name("attn_qkv.weight"), [embed, channels], t.attn_q);
        self.matrix(w, &name("attn_gate.weight"), [embed, values], t.attn_k);
        self.matrix(w, &name("ssm_alpha.weight"), [embed, heads], t.attn_v);
        self.matrix(w, &name("ssm_beta.weight"), [embed, heads], t.attn_v);
        let taps = [4, channels];
        self.matrix(w, &name("ssm_conv1d.weight"), taps, GgmlType::F32);
        // slow enough that the first token still counts at the last
        self.vector(w, &name("ssm_a"), heads, -0.25);
        self.vector(w, &name("ssm_dt.bias"), heads, -1.0);
        self.vector(w, &name("ssm_norm.weight"), state, 1.0);
        self.matrix(w, &name("ssm_out.weight"), [values, embed], t.attn_output);
    }

    fn mlp(&self, w: &mut GgufWriter, name: &dyn Fn(&str) -> String) {
        let (embed, ff) = (u64::from(self.embed), u64::from(self.ff));
        let t = &self.types;
        self.vector(w, &name(self.arch.norm_names()[1]), embed, 1.0);
        self.matrix(w, &name("ffn_gate.weight"), [embed, ff], t.ffn_gate);
        self.matrix(w, &name("ffn_up.weight"), [embed, ff], t.ffn_up);
        self.matrix(w, &name("ffn_down.weight"), [ff, embed], t.ffn_down);
    }

    /// Adds weights that keep the size of what they are multiplied with.
    fn matrix(&self, w: &mut GgufWriter, name: &str, dims: [u64; 2], ty: GgmlType) {
        assert!(
            dims[0].is_multiple_of(ty.block_len() as u64),
            "{name}: rows of {} in {ty}",
            dims[0]
        );
        // gives logits from about -3 to 3, so that the choice is neither even nor almost certain
        let gain = if matches!(name, "token_embd.weight" | "output.weight") {
            3.0
        } else {
            1.0
        };
        let values = (dims[0] * dims[1]) as usize;
        let std = gain / (dims[0] as f32).sqrt();
        let data = encode::random(ty, values, std, &mut SplitMix::new(self.seed, name));
        w.add(name, &dims, ty.id(), data);
    }

    /// Adds F32 values around a middle.
    fn vector(&self, w: &mut GgufWriter, name: &str, len: u64, middle: f32) {
        let mut rng = SplitMix::new(self.seed, name);
        let data = (0..len)
            .flat_map(|_| (middle + 0.2 * rng.signed()).to_le_bytes())
            .collect();
        w.add(name, &[len], GgmlType::F32.id(), data);
    }
}

/// Writes a vocabulary as SentencePiece does: the 256 bytes as tokens of bytes, and the pieces with scores instead of merges.
fn sentence(w: &mut GgufWriter, vocabulary: &Vocabulary) {
    let (tokens, types) = vocabulary.sentence();
    w.set("tokenizer.ggml.model", "llama");
    w.set(
        "tokenizer.ggml.scores",
        Kv::F32s((0..tokens.len()).map(|id| -(id as f32)).collect()),
    );
    w.set("tokenizer.ggml.tokens", Kv::Strs(tokens));
    w.set("tokenizer.ggml.token_type", Kv::I32s(types));
    w.set("tokenizer.ggml.merges", Kv::Strs(Vec::new()));
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use glowplug_model::gguf::Gguf;
    use glowplug_model::network::dims::{Dims, Pairing, Scaling};
    use glowplug_model::text::{ChatTemplate, Message, Role, Tokenizer};

    fn dims(tiny: &Tiny) -> Dims {
        Dims::from_gguf(&Gguf::from_bytes(tiny.bytes().into()).unwrap()).unwrap()
    }

    #[test]
    fn every_type_can_be_a_model() {
        for ty in GgmlType::ALL {
            let tiny = Tiny {
                types: Types::all(ty),
                tied_head: false,
                ..Tiny::new(Arch::Qwen2)
            };
            let file = Gguf::from_bytes(tiny.bytes().into()).unwrap();
            assert!(!Dims::from_gguf(&file).unwrap().tied_head);
            assert_eq!(file.tensor("blk.1.ffn_down.weight").unwrap().ty, ty);
            assert_eq!(file.tensor("output.weight").unwrap().ty, ty);
        }
    }

    #[test]
    fn every_choice_is_read_as_it_was_written() {
        let llama = dims(&Tiny {
            rope_freqs: true,
            rope_dims: Some(32),
            qkv_bias: true,
            ..Tiny::new(Arch::Llama)
        });
        assert_eq!((llama.rope.scaling, llama.rope.dims), (Scaling::Freqs, 32));
        assert_eq!((llama.rope.pairing, llama.qkv_bias), (Pairing::Norm, true));
        let qwen3 = dims(&Tiny {
            head_dim: 32,
            layers: 3,
            ..Tiny::new(Arch::Qwen3)
        });
        assert_eq!((qwen3.head_dim, qwen3.layers), (32, 3));
        assert_eq!(qwen3.qk_norm, HeadNorm::BeforeRotation);
        assert_eq!((qwen3.rope.pairing, qwen3.qkv_bias), (Pairing::Neox, false));
        for arch in Arch::ALL {
            assert_eq!(dims(&Tiny::smallest(arch)).arch, arch);
        }
    }

    #[test]
    fn its_text_is_read_and_written() {
        let user = [Message::new(Role::User, "the rain")];
        for (pre, think, thinks, open) in [
            ("qwen2", Think::Never, false, false),
            ("smollm", Think::Model, true, false),
            ("llama-bpe", Think::Prompt, true, true),
        ] {
            let tiny = Tiny {
                pre,
                think,
                ..Tiny::smallest(Arch::Llama)
            };
            let file = Gguf::from_bytes(tiny.bytes().into()).unwrap();
            let tokenizer = Tokenizer::from_gguf(&file).unwrap();
            let template = ChatTemplate::from_gguf(&file).unwrap();
            let prompt = template.prompt(&tokenizer, &user, &[], true).unwrap();
            assert_eq!(
                prompt.tokens[0],
                tokenizer.encode("<|im_start|>", true).unwrap()[0]
            );
            assert_eq!(
                (template.thinks(), prompt.thinking_open),
                (thinks, open),
                "{pre}"
            );
            let the = tokenizer.encode("the the", false).unwrap();
            assert_eq!(
                the.len(),
                3,
                "t, he, and one token for the second word: {the:?}"
            );
            let bytes: Vec<u8> = the
                .iter()
                .flat_map(|&id| tokenizer.token_bytes(id))
                .collect();
            assert_eq!(bytes, b"the the");
        }
    }

    #[test]
    fn a_seed_gives_the_same_bytes_and_another_seed_others() {
        let tiny = Tiny::smallest(Arch::Qwen3);
        assert_eq!(tiny.bytes(), tiny.bytes());
        assert_ne!(
            tiny.bytes(),
            Tiny {
                seed: 2,
                ..tiny.clone()
            }
            .bytes()
        );
    }
}
