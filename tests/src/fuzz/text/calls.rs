//! Any text as an answer with calls in it, in each form: how it is cut does not matter, nothing is lost where nothing is called, and
//! what is called has an object for its arguments.

use glowplug_model::text::{CallSplitter, Convention, Piece, Tool, json_object};
use std::sync::{Arc, LazyLock};

static TOOLS: LazyLock<Arc<[Tool]>> = LazyLock::new(|| {
    let schema = r##"{"properties":{"on":{"type":"boolean"},"text":{"$ref":"#/$defs/t"},"n":{"anyOf":[{"type":"number"},{"type":"null"}]}},
        "$defs":{"t":{"type":["string","null"]}}}"##;
    let tool = |name| Tool::new(name, None, schema).expect("a tool");
    [tool("light"), tool("time")].into()
});

/// What came out, with texts put together, and whether anything was called.
fn split<'t>(convention: Convention, parts: impl Iterator<Item = &'t str>) -> (String, bool) {
    let mut splitter = CallSplitter::new(convention, TOOLS.clone(), 16);
    let (mut out, mut called) = (String::new(), false);
    let mut emit = |piece: Piece<'_>| match piece {
        Piece::Content(text) => {
            assert!(!text.is_empty());
            out.push_str(text);
        }
        Piece::Call { name, arguments } => {
            assert_eq!(json_object(arguments).as_deref(), Ok(arguments));
            out += &format!("\u{0}{name}{arguments}");
            called = true;
        }
    };
    for part in parts {
        splitter.push(part, &mut emit);
    }
    splitter.finish(&mut emit);
    (out, called)
}

pub(in crate::fuzz) fn run(bytes: &[u8]) {
    let Some((kind, text)) = bytes.split_first() else {
        return;
    };
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    let conventions = [
        Convention::Hermes,
        Convention::DeepSeek,
        Convention::Llama,
        Convention::Tagged,
        Convention::Mistral,
    ];
    let convention = conventions[usize::from(*kind) % conventions.len()];
    let whole = split(convention, std::iter::once(text));
    let width = usize::from(*kind) / conventions.len() + 1;
    let mut rest = text;
    let parts = std::iter::from_fn(|| {
        let end = rest
            .char_indices()
            .nth(width)
            .map_or(rest.len(), |(at, _)| at);
        let (part, behind) = rest.split_at(end);
        rest = behind;
        (!part.is_empty()).then_some(part)
    });
    assert_eq!(split(convention, parts), whole);
    if !whole.1 {
        assert_eq!(whole.0, text);
    }
}
