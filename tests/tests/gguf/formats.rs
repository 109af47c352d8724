//! What networks in the formats of `glowplug_tests::formats` make of a text, against what llama.cpp makes of it; packed as well.

use super::architectures::log_probabilities;
use glowplug_model::gguf::{Gguf, Layout, TensorInfo, pack};
use glowplug_tests::formats::{FORMATS, file};
use serde_json::Value;
use std::io::Cursor;

/// The root mean square of what logarithms of probabilities differ by. Both programs round activations to eight bits, llama.cpp in
/// one plane and with scales in half precision: that makes 0.06 to 0.07 where 32 values have a scale, and 0.09 to 0.12 where 256
/// have. The logarithms themselves lie from -3 to -15.
#[test]
fn every_format_says_what_llama_cpp_says() {
    let known = include_str!("../../vectors/formats/log_probabilities.json");
    let known: Value = serde_json::from_str(known).unwrap();
    assert_eq!(known.as_object().unwrap().len(), FORMATS.len());
    for ty in FORMATS {
        let gguf = Gguf::from_bytes(file(ty).bytes().into()).unwrap();
        let own = log_probabilities(&gguf);
        let known = known[ty.name()].as_array().unwrap();
        assert_eq!(own.len(), known.len(), "{ty}");
        let (mut squares, mut values) = (0f64, 0f64);
        for (own, known) in own.iter().zip(known) {
            let known = known.as_array().unwrap();
            assert_eq!(own.len(), known.len(), "{ty}");
            for (own, known) in own.iter().zip(known) {
                squares += (own - known.as_f64().unwrap()).powi(2);
                values += 1.0;
            }
        }
        let off = (squares / values).sqrt();
        println!("{ty}: off by {off:.4}");
        assert!(off < 0.2, "{ty}: off by {off}");

        let mut packed = Cursor::new(Vec::new());
        pack::write(&gguf, "a test", None, &mut packed).unwrap();
        let packed = Gguf::from_bytes(packed.into_inner().into()).unwrap();
        let groups = |t: &&TensorInfo| t.layout == Layout::Interleaved16;
        let interleaved = packed.tensors().iter().filter(groups).count();
        // seven matrices of two layers, and the embedding
        let all = if Layout::groups(ty, 16) { 15 } else { 0 };
        assert_eq!(interleaved, all, "{ty}");
        assert_eq!(log_probabilities(&packed), own, "{ty}");
    }
}
