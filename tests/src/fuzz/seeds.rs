//! The targets' first inputs that are no text; those that are lie in `tests/fuzz/seeds`.

use crate::Tiny;
use crate::formats::{self, FORMATS, grids};
use glowplug_firmware_config::image::{SLOT, write};
use glowplug_firmware_config::settings::Settings;
use glowplug_model::gguf::{Gguf, pack};
use glowplug_model::kv::snapshot::{self, Snapshot};
use glowplug_model::network::dims::Arch;
use glowplug_model::seal::Keys;
use std::error::Error;
use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

/// Writes them below `folder`, a folder for each target.
///
/// # Errors
/// The folder takes no files.
pub fn write_all(folder: &Path) -> Result<(), Box<dyn Error>> {
    let target = |name| -> Result<PathBuf, std::io::Error> {
        let target = folder.join(name);
        fs::create_dir_all(&target)?;
        Ok(target)
    };
    models(&target("gguf")?, &target("packed")?, &target("text")?)?;
    sessions(&target("session")?)?;
    let mut slot = [0; SLOT];
    write(&Settings::default(), 7, None, &mut slot)?;
    fs::write(target("image")?.join("default"), slot)?;
    let reply = target("reply")?;
    for (name, frame) in [
        (
            "chunk",
            r#"{"object":"chat.completion.chunk","id":"1","node":"n","model":"m","seq":0,"choices":[{"index":0,"delta":{"content":"a\u00e9\n"},"finish_reason":null}]}"#,
        ),
        (
            "error",
            r#"{"id":"1","node":"n","model":"m","seq":1,"error":{"code":"overloaded","message":"later","retry_after_ms":5}}"#,
        ),
        (
            "final",
            r#"{"object":"chat.completion","id":"1","node":"n","model":"m","seq":1,"choices":[{"index":0,"message":{"role":"assistant","content":"ok"},"finish_reason":"stop"}],"usage":{"total_tokens":3}}"#,
        ),
    ] {
        fs::write(reply.join(name), frame)?;
    }
    Ok(())
}

/// Model files of every kind, each packed as well, and vocabularies with their templates alone.
fn models(plain: &Path, packed: &Path, text: &Path) -> Result<(), Box<dyn Error>> {
    let tiny = Arch::ALL.map(Tiny::smallest);
    let traits = Tiny {
        rope_freqs: true,
        rope_dims: Some(8),
        head_dim: 32,
        tied_head: false,
        ..tiny[2].clone()
    };
    let sentence = Tiny {
        sentence: true,
        ..tiny[2].clone()
    };
    let on_grids = Tiny {
        layers: 1,
        ff: 256,
        ..grids::mixed()
    };
    let formats = FORMATS.map(|ty| Tiny {
        layers: 1,
        ff: 256,
        ..formats::file(ty)
    });
    let named = tiny.iter().map(|tiny| (tiny.arch.name(), tiny));
    let formats = FORMATS.iter().map(|ty| ty.name()).zip(&formats);
    for (name, tiny) in named.chain(formats).chain([
        ("traits", &traits),
        ("sentence", &sentence),
        ("grids", &on_grids),
    ]) {
        fs::write(plain.join(name), tiny.bytes())?;
        let mut out = Cursor::new(Vec::new());
        let gguf = Gguf::from_bytes(tiny.bytes().into())?;
        pack::write(&gguf, "a seed", None, &mut out)?;
        fs::write(packed.join(name), out.into_inner())?;
        let mut vocabulary = tiny.writer();
        vocabulary.tensors.clear();
        fs::write(text.join(name), vocabulary.build())?;
    }
    Ok(())
}

/// Files of no page, of one and of two, with what the target of sessions takes for its own.
fn sessions(folder: &Path) -> Result<(), Box<dyn Error>> {
    let page = [5; 20];
    let keys = Keys::parse(&"5".repeat(64))?;
    for tokens in [0, 1, 33] {
        let tokens: Vec<u32> = (0..tokens).collect();
        let written = Snapshot {
            fingerprint: [7; 32],
            page_bytes: page.len(),
            tokens: &tokens,
            note: b"{}",
            state: &[],
        };
        for (name, keys) in [("plain", None), ("sealed", Some(&keys))] {
            let pages = std::iter::repeat_n(Ok(page), tokens.len().div_ceil(32));
            let name = format!("{name}-{}", tokens.len());
            snapshot::write(folder, &name, &written, keys, pages)?;
        }
    }
    Ok(())
}
