//! Plans without a file against plans with one, and the page of models.

use super::*;
use crate::config::Draft;
use crate::machine::memory_limit;
use crate::models::catalogue::{self, Entry};
use crate::models::plan;
use glowplug_firmware_config::board;
use glowplug_firmware_config::limits::PAGE_TOKENS;
use glowplug_firmware_config::plan::shapes::{Q15, SMOL};
use glowplug_model::engine::shape as shape_of;
use glowplug_model::gguf::Gguf;
use glowplug_model::network::dims::Dims;
use glowplug_tests::check_page;
use std::fmt::Write;
use std::fs::File;
use std::path::{Path, PathBuf};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/models.md");
const BEGIN: &str = "<!-- made of daemon/catalogue.toml -->\n";
const END: &str = "<!-- end -->\n";

#[test]
fn a_file_without_bytes_says_how_it_is_quantised() {
    for entry in catalogue::entries().unwrap() {
        if let (None, Some(sizes)) = (entry.bytes, &entry.sizes) {
            assert!(
                sizes.quant.is_some() && sizes.arch().is_some(),
                "{}",
                entry.file
            );
        }
    }
}

fn sizes(name: &str) -> (Entry, Sizes) {
    let entry = catalogue::find(name).unwrap().unwrap();
    let sizes = entry.sizes.clone().unwrap();
    (entry, sizes)
}

/// Of this file all bytes are known: 5,950,528 before the tensors, and 1,111,370,240 of them.
#[test]
fn a_file_that_is_known_has_the_bytes_that_are_computed() {
    let (entry, sizes) = sizes("qwen2.5-coder-1.5b");
    assert_eq!(sizes.weights(), 1_111_370_240);
    let header = sizes.header(Q15.token_bytes);
    // 0.02 % of the file
    assert!(header.abs_diff(5_950_528) < 200_000, "{header}");
    let known = sizes.shape(entry.bytes);
    assert_eq!(
        known,
        Shape {
            f16_key_layers: 8,
            ..Q15
        }
    );
    let (entry, sizes) = self::sizes("smol");
    let known = sizes.shape(entry.bytes);
    assert_eq!(
        known,
        Shape {
            f16_key_layers: 10,
            ..SMOL
        }
    );
}

/// Writes the header of a file of exactly these sizes, and holes for its tensors.
fn sparse(sizes: &Sizes, path: &Path) {
    use glowplug_model::gguf::GgmlType;
    let shape = sizes.shape(None);
    let mut header = Vec::new();
    let mut keys = 0_u64;
    let text = |out: &mut Vec<u8>, text: &str| {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    };
    let arch = &sizes.arch;
    let mut key = |name: &str, kind: u32, value: &[u8]| {
        text(&mut header, name);
        header.extend(kind.to_le_bytes());
        header.extend(value);
        keys += 1;
    };
    let mut value = Vec::new();
    text(&mut value, arch);
    key("general.architecture", 8, &value);
    for (name, number) in [
        ("block_count", sizes.layers),
        ("embedding_length", sizes.embed),
        ("attention.head_count", sizes.heads),
        ("attention.head_count_kv", sizes.kv_heads),
        ("attention.key_length", sizes.head_dim),
        ("attention.value_length", sizes.head_dim),
        ("feed_forward_length", sizes.ff),
        ("context_length", sizes.context),
    ] {
        key(&format!("{arch}.{name}"), 4, &(number as u32).to_le_bytes());
    }
    if let Some(delta) = sizes.delta {
        for (name, number) in [
            ("full_attention_interval", delta.attends_every),
            ("ssm.conv_kernel", 4),
            ("ssm.inner_size", delta.value_heads * delta.state),
            ("ssm.state_size", delta.state),
            ("ssm.time_step_rank", delta.value_heads),
            ("ssm.group_count", delta.key_heads),
            ("rope.dimension_count", 64),
        ] {
            key(&format!("{arch}.{name}"), 4, &(number as u32).to_le_bytes());
        }
    }
    for (name, number) in [
        ("attention.layer_norm_rms_epsilon", 1e-6_f32),
        ("rope.freq_base", 1e6),
    ] {
        key(&format!("{arch}.{name}"), 6, &number.to_le_bytes());
    }
    let strings = |count: usize, bytes: u64| {
        let mut value = 8_u32.to_le_bytes().to_vec();
        value.extend((count as u64).to_le_bytes());
        let each = (bytes / count as u64) as usize;
        for at in 0..count {
            let more = usize::from((at as u64) < bytes % count as u64);
            text(&mut value, &"a".repeat(each + more));
        }
        value
    };
    key(
        "tokenizer.ggml.tokens",
        9,
        &strings(sizes.vocab, shape.token_bytes),
    );
    key(
        "tokenizer.ggml.merges",
        9,
        &strings(sizes.merges, sizes.merges as u64),
    );
    let (q, kv) = (
        sizes.heads * sizes.head_dim,
        sizes.kv_heads * sizes.head_dim,
    );
    let (plain, fine) = (GgmlType::Q4_K, GgmlType::Q6_K);
    let float = GgmlType::F32;
    let arch = sizes.arch().unwrap();
    let mut tensors = vec![
        (
            "token_embd.weight".to_owned(),
            vec![sizes.embed, sizes.vocab],
            fine,
        ),
        ("output_norm.weight".to_owned(), vec![sizes.embed], float),
    ];
    if sizes.head {
        tensors[0].2 = plain;
        tensors.push((
            "output.weight".to_owned(),
            vec![sizes.embed, sizes.vocab],
            fine,
        ));
    }
    for layer in 0..sizes.layers {
        let mixed = if sizes.is_fine(layer) { fine } else { plain };
        let mut push = |part: &str, dims: &[usize], ty| {
            tensors.push((format!("blk.{layer}.{part}"), dims.to_vec(), ty));
        };
        push("attn_norm.weight", &[sizes.embed], float);
        push("ffn_gate.weight", &[sizes.embed, sizes.ff], plain);
        push("ffn_up.weight", &[sizes.embed, sizes.ff], plain);
        push("ffn_down.weight", &[sizes.ff, sizes.embed], mixed);
        let (norm, queries) = match sizes.delta {
            Some(_) => ("post_attention_norm.weight", 2 * q),
            None => ("ffn_norm.weight", q),
        };
        push(norm, &[sizes.embed], float);
        if let Some(delta) = sizes.delta.filter(|delta| !delta.attends(layer)) {
            let (heads, channels) = (delta.value_heads, delta.channels());
            push("attn_qkv.weight", &[sizes.embed, channels], GgmlType::Q5_K);
            push(
                "attn_gate.weight",
                &[sizes.embed, heads * delta.state],
                plain,
            );
            push("ssm_alpha.weight", &[sizes.embed, heads], plain);
            push("ssm_beta.weight", &[sizes.embed, heads], plain);
            push("ssm_out.weight", &[heads * delta.state, sizes.embed], plain);
            push("ssm_conv1d.weight", &[4, channels], float);
            push("ssm_a", &[heads], float);
            push("ssm_dt.bias", &[heads], float);
            push("ssm_norm.weight", &[delta.state], float);
            continue;
        }
        push("attn_q.weight", &[sizes.embed, queries], plain);
        push("attn_k.weight", &[sizes.embed, kv], plain);
        push("attn_v.weight", &[sizes.embed, kv], mixed);
        push("attn_output.weight", &[q, sizes.embed], plain);
        if arch.qkv_bias() {
            push("attn_q.bias", &[q], float);
            push("attn_k.bias", &[kv], float);
            push("attn_v.bias", &[kv], float);
        }
        if arch.qk_norm() != HeadNorm::Absent {
            push("attn_q_norm.weight", &[sizes.head_dim], float);
            push("attn_k_norm.weight", &[sizes.head_dim], float);
        }
    }
    let mut infos = Vec::new();
    let mut offset = 0_u64;
    for (name, dims, ty) in &tensors {
        text(&mut infos, name);
        infos.extend((dims.len() as u32).to_le_bytes());
        dims.iter()
            .for_each(|dim| infos.extend((*dim as u64).to_le_bytes()));
        let id: u32 = match ty {
            GgmlType::F32 => 0,
            GgmlType::Q4_K => 12,
            GgmlType::Q5_K => 13,
            _ => 14,
        };
        infos.extend(id.to_le_bytes());
        infos.extend(offset.to_le_bytes());
        let values: usize = dims.iter().product();
        let bytes = values / ty.block_len() * ty.block_bytes();
        assert!(bytes.is_multiple_of(32), "{name}");
        offset += bytes as u64;
    }
    assert_eq!(offset, sizes.weights());
    let mut file = b"GGUF".to_vec();
    file.extend(3_u32.to_le_bytes());
    file.extend((tensors.len() as u64).to_le_bytes());
    file.extend(keys.to_le_bytes());
    file.extend(header);
    file.extend(infos);
    std::fs::write(path, &file).unwrap();
    assert!(
        (file.len() as u64) < shape.file_bytes - offset,
        "the header"
    );
    let file = File::options().write(true).open(path).unwrap();
    file.set_len(shape.file_bytes).unwrap();
}

/// The plan of the catalogue is that of a file of the same sizes.
#[test]
fn a_plan_without_the_file_is_the_plan_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    for name in [
        "qwen3-0.6b",
        "qwen3-1.7b",
        "llama-3.2-1b",
        "smollm3-3b",
        "qwen3.5-0.8b",
        "qwen3.5-2b",
    ] {
        let (_, sizes) = sizes(name);
        sparse(&sizes, &path);
        let gguf = Gguf::open(&path).unwrap();
        let dims = Dims::from_gguf(&gguf).unwrap();
        assert_eq!(sizes.shape(None), shape_of(&gguf, &dims), "{name}");
        let draft = Draft::from_toml("board = 'raspberry-pi-5-8g'").unwrap();
        let config = draft.finish("host", PathBuf::new()).unwrap();
        let limit = memory_limit::there(config.board.as_ref().unwrap(), None);
        let with = plan::plan(&path, &gguf, 0, &config, &limit).unwrap();
        let shape = sizes.shape(None);
        let without = plan::before_pull(&path, &shape, sizes.context, &config, &limit).unwrap();
        assert_eq!(with.memory, without.memory, "{name}");
        assert_eq!(
            (with.context, with.kv),
            (without.context, without.kv),
            "{name}"
        );
    }
}

/// What a board plans for a model: all of it in GB, and how many conversations of the whole context have room at once.
fn cell(entry: &Entry, board: &str) -> String {
    let Some(sizes) = &entry.sizes else {
        return "?".to_owned();
    };
    let shape = sizes.shape(entry.bytes);
    let board = board::find(board).unwrap();
    let draft = Draft::from_toml(&format!(
        "board = '{}'\nmodel.context = {}",
        board.name, board.model.context
    ));
    let config = draft.unwrap().finish("host", PathBuf::new()).unwrap();
    let limit = memory_limit::there(&board, None);
    match plan::before_pull(Path::new("none"), &shape, sizes.context, &config, &limit) {
        Ok(plan) => {
            let slots = match plan.memory.state_slots {
                0 => usize::MAX,
                slots => slots,
            };
            let whole = slots.min(plan.memory.pages * PAGE_TOKENS / plan.context);
            format!("{:.1} GB, {whole}", plan.memory.total() as f64 / 1e9)
        }
        Err(_) => "no".to_owned(),
    }
}

fn table() -> String {
    let boards: Vec<&str> = board::FILES.iter().map(|(name, _)| *name).collect();
    let mut table = String::from("\n| name | model | licence | file |");
    boards
        .iter()
        .for_each(|name| write!(table, " {name} |").unwrap());
    let _ = write!(table, "\n|{}", "---|".repeat(4 + boards.len()));
    for entry in catalogue::entries().unwrap() {
        let bytes = entry
            .sizes
            .as_ref()
            .map(|sizes| sizes.shape(entry.bytes).file_bytes);
        let bytes = bytes.map_or("?".into(), |bytes| format!("{} MB", bytes / 1_000_000));
        let about = if entry.bytes.is_none() && bytes != "?" {
            "about "
        } else {
            ""
        };
        let _ = write!(
            table,
            "\n| `{}` | {} | {} | {about}{bytes} |",
            entry.names[0], entry.title, entry.licence
        );
        boards
            .iter()
            .for_each(|name| write!(table, " {} |", cell(&entry, name)).unwrap());
    }
    table + "\n\n"
}

/// `GLOWPLUG_WRITE_PAGES=1 cargo test --release --workspace --lib models::catalogue` writes the page anew.
#[test]
fn the_page_lists_every_model() {
    check_page(PAGE, Some([BEGIN, END]), &table());
}
