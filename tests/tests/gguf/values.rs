//! What the reader gives of a good file: values by type, and tensors as views.

use glowplug_model::gguf::{Gguf, Value};
use glowplug_tests::{GgufWriter, Kv};

#[test]
fn a_value_is_given_as_what_it_is_and_as_nothing_else() {
    let mut w = GgufWriter::default();
    w.set("u8", Kv::Raw(0, vec![200]));
    w.set("i8", Kv::Raw(1, vec![0xff]));
    w.set("u16", Kv::Raw(2, vec![1, 2]));
    w.set("i16", Kv::Raw(3, vec![0xfe, 0xff]));
    w.set("u32", Kv::U32(u32::MAX));
    w.set("i32", Kv::I32(7));
    w.set("u64", Kv::U64(1 << 32));
    w.set("i64", Kv::Raw(11, 5i64.to_le_bytes().to_vec()));
    w.set("f32", Kv::F32(0.5));
    w.set("f64", Kv::Raw(12, 1e300f64.to_le_bytes().to_vec()));
    w.set("bool", Kv::Bool(true));
    w.set("str", "text");
    w.set(
        "strs",
        Kv::Strs(vec!["a".into(), String::new(), "b".into()]),
    );
    w.set("i32s", Kv::I32s(vec![-1, 2]));
    w.set("u8s", Kv::array(0, 2, &[1, 255]));
    w.set("u64s", Kv::array(10, 1, &(1u64 << 31).to_le_bytes()));
    w.set("f32s", Kv::F32s(vec![1.5]));
    w.set(
        "nested",
        Kv::array(9, 1, &[7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    );
    let file = Gguf::from_bytes(w.build().into()).unwrap();

    assert_eq!(
        ["u8", "i32", "i64"].map(|k| file.u32(k).unwrap()),
        [200, 7, 5]
    );
    assert_eq!(file.u32("u32").unwrap(), u32::MAX);
    assert_eq!(file.u32("u16").unwrap(), 513);
    assert_eq!(file.f32("f32").unwrap(), 0.5);
    assert!(file.bool("bool").unwrap());
    assert_eq!(file.str("str").unwrap(), "text");
    assert_eq!(file.strings("strs").unwrap(), ["a", "", "b"]);
    assert_eq!(file.i32s("i32s").unwrap(), [-1, 2]);
    assert_eq!(file.i32s("u8s").unwrap(), [1, 255]);
    assert_eq!(file.array("nested").unwrap().len(), 1);

    let values: Vec<_> = file.metadata().collect();
    assert_eq!(values.len(), 18);
    assert_eq!(values[3], ("i16", Value::Int(-2)));
    assert_eq!(values[9], ("f64", Value::F64(1e300)));

    for (got, want) in [
        (
            file.u32("i8").map(drop),
            "metadata key `i8` does not fit u32",
        ),
        (
            file.u32("u64").map(drop),
            "metadata key `u64` does not fit u32",
        ),
        (file.u32("none").map(drop), "metadata key `none` is missing"),
        (
            file.u32("f32").map(drop),
            "metadata key `f32` is of type f32, expected an integer",
        ),
        (
            file.f32("f64").map(drop),
            "metadata key `f64` does not fit f32",
        ),
        (
            file.f32("u32").map(drop),
            "metadata key `u32` is of type u32, expected a float",
        ),
        (
            file.bool("u8").map(drop),
            "metadata key `u8` is of type u8, expected a bool",
        ),
        (
            file.str("strs").map(drop),
            "metadata key `strs` is of type array, expected a string",
        ),
        (
            file.array("str").map(drop),
            "metadata key `str` is of type string, expected an array",
        ),
        (
            file.strings("i32s").map(drop),
            "metadata key `i32s` is of type array of i32, expected an array of strings",
        ),
        (
            file.i32s("u64s").map(drop),
            "metadata key `u64s` is of type array of u64, expected an array of integers that fit i32",
        ),
        (
            file.i32s("f32s").map(drop),
            "metadata key `f32s` is of type array of f32, expected an array of integers that fit i32",
        ),
    ] {
        assert_eq!(got.unwrap_err().to_string(), want);
    }
}

#[test]
fn a_tensor_is_a_view_of_the_file() {
    let mut w = GgufWriter::default();
    w.add("a", &[3], 0, vec![1; 12]);
    w.add("b", &[32, 2], 8, vec![2; 68]);
    let bytes = w.build();
    let file = Gguf::from_bytes(bytes.clone().into()).unwrap();
    let (a, b) = (file.tensor("a").unwrap(), file.tensor("b").unwrap());
    assert_eq!(file.tensors(), [a.clone(), b.clone()]);
    assert_eq!((a.offset % 32, b.offset, b.bytes), (0, a.offset + 32, 68));
    assert_eq!(
        (&file.data(a)[..], &file.data(b)[..]),
        (&[1; 12][..], &[2; 68][..])
    );
    assert_eq!(file.file_bytes(), bytes.len() as u64);
    assert!(file.tensor("c").is_none());
}
