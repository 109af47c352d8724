//! The rules by which vocabularies split text into words, by the names that `tokenizer.ggml.pre` gives them.
//!
//! The expressions are facts of the models: each is that of a model's own `tokenizer.json`, and the names are those that
//! llama.cpp's converter writes. They are closed: no expression comes from a file. Published expressions end in
//! `\s+(?!\S)|\s+`; the look-ahead is done by hand ([`super::split`]), so that all of them are plain regular expressions, which
//! never backtrack.

/// What one step does to the stretches that the steps before it have left.
pub(super) enum Step {
    /// Each match is cut out, and what lies between matches stays in one.
    Apart(&'static str),
    /// Word follows word. Of white space before a word the last character is left to that word, unless it is a newline and
    /// `newlines` is true.
    Words { words: &'static str, newlines: bool },
}

/// A rule, and what else follows from its name.
pub(super) struct Published {
    pub(super) names: &'static [&'static str],
    pub(super) steps: &'static [Step],
    /// whether a word that is itself a token is that token, whatever the merges say
    pub(super) whole_words: bool,
    /// whether a prompt starts with the beginning-of-text token if the file does not say
    pub(super) bos: bool,
}

/// English contractions in either case.
macro_rules! contraction {
    () => {
        r"'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])"
    };
}

/// A word that has small letters at its end, and one that has none, perhaps with a contraction behind it.
macro_rules! cased {
    ($($behind:tt)+) => {
        concat!(
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
            $($behind)+,
            r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
            $($behind)+
        )
    };
}

/// Words of the rules in which a newline ends white space.
macro_rules! lines {
    ($($words:tt)+) => {
        Step::Words { words: concat!(r"\A(?:", $($words)+, r"|\s*[\r\n]+|\s+)"), newlines: true }
    };
}

/// A run of digits, three at most, or a digit by itself.
const DIGITS: Step = Step::Apart(r"\p{N}{1,3}");
const DIGIT: Step = Step::Apart(r"\p{N}");
const NEWLINE: Step = Step::Apart(r"[\r\n]");
const GPT2: Step = Step::Words {
    words: r"\A(?:'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+)",
    newlines: false,
};
const QWEN2: Step = lines!(
    contraction!(),
    r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
);
const QWEN35: Step = lines!(
    contraction!(),
    r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
);
const SEED: Step = lines!(
    contraction!(),
    r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+"
);
const LLAMA3: Step = lines!(
    contraction!(),
    r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
);
const MINICPM5: Step = lines!(
    contraction!(),
    r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*"
);
const GPT4O: Step = lines!(
    cased!(concat!("(?:", contraction!(), ")?")),
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*"
);
const TEKKEN: Step = lines!(cased!(""), r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*");
const DEEPSEEK_V3: Step =
    lines!(r"[!-/:-@\[-`{-~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*");
/// Chinese, Hiragana and Katakana.
const JAPANESE: Step = Step::Apart(r"[\u{4E00}-\u{9FA5}\u{3040}-\u{30FF}]+");
/// Chinese, Korean, and all scripts between U+0800 and U+4E00.
const ASIAN: Step = Step::Apart(r"[\u{800}-\u{9FA5}\u{AC00}-\u{D7FF}]+");
/// Letters that have a case, as DeepSeek LLM counts them up, and the punctuation that it does.
const DEEPSEEK_LETTERS: Step = Step::Apart(concat!(
    r"\s?[A-Za-z\u{B5}\u{C0}-\u{D6}\u{D8}-\u{F6}\u{F8}-\u{1BA}\u{1BC}-\u{1BF}\u{1C4}-\u{293}\u{295}-\u{2AF}",
    r"\u{370}-\u{373}\u{376}\u{377}\u{37B}-\u{37D}\u{37F}\u{386}\u{388}-\u{38A}\u{38C}\u{38E}-\u{3A1}\u{3A3}-\u{3F5}",
    r"\u{3F7}-\u{481}\u{48A}-\u{52F}\u{531}-\u{556}\u{10A0}-\u{10C5}\u{13A0}-\u{13F5}\u{13F8}-\u{13FD}",
    r"\u{1C90}-\u{1CBA}\u{1CBD}-\u{1CBF}\u{1D00}-\u{1D2B}\u{1D6B}-\u{1D77}\u{1D79}-\u{1D9A}\u{1E00}-\u{1F15}",
    r"\u{1F18}-\u{1F1D}\u{1F20}-\u{1F45}\u{1F48}-\u{1F4D}\u{1F50}-\u{1F57}\u{1F59}\u{1F5B}\u{1F5D}\u{1F5F}-\u{1F7D}",
    r"\u{1F80}-\u{1FB4}\u{1FB6}-\u{1FBC}\u{1FBE}\u{1FC2}-\u{1FC4}\u{1FC6}-\u{1FCC}\u{1FD0}-\u{1FD3}\u{1FD6}-\u{1FDB}",
    r"\u{1FE0}-\u{1FEC}\u{1FF2}-\u{1FF4}\u{1FF6}-\u{1FFC}\u{2102}\u{2107}\u{210A}-\u{2113}\u{2115}\u{2119}-\u{211D}",
    r"\u{2124}\u{2126}\u{2128}\u{212A}-\u{212D}\u{212F}-\u{2134}\u{2139}\u{213C}-\u{213F}\u{2145}-\u{2149}\u{214E}",
    r"\u{2183}\u{2184}\u{2C00}-\u{2C7B}\u{2C7E}-\u{2CE4}\u{2CEB}-\u{2CEE}\u{2CF2}\u{2CF3}\u{A640}-\u{A66D}",
    r"\u{A680}-\u{A69B}\u{A722}-\u{A76F}\u{A771}-\u{A787}\u{A78B}-\u{A78E}\u{AB70}-\u{ABBF}\u{FB00}-\u{FB06}",
    r"\u{FB13}-\u{FB17}\u{FF21}-\u{FF3A}\u{FF41}-\u{FF5A}\u{10400}-\u{1044F}\u{104B0}-\u{104D3}\u{104D8}-\u{104FB}",
    r"\u{10C80}-\u{10CB2}\u{10CC0}-\u{10CF2}\u{118A0}-\u{118DF}\u{1E900}-\u{1E943}]+",
));
const DEEPSEEK_MARKS: Step = Step::Apart(
    r"\s?[!-/:-~\u{FF01}-\u{FF0F}\u{FF1A}-\u{FF5E}\u{2018}-\u{201F}\u{3000}-\u{3002}]+",
);

/// A rule whose name says nothing more.
const fn plain(names: &'static [&'static str], steps: &'static [Step]) -> Published {
    Published {
        names,
        steps,
        whole_words: false,
        bos: false,
    }
}

/// All rules that are known.
pub(super) static PUBLISHED: [Published; 15] = [
    plain(
        &[
            "qwen2",
            "deepseek-r1-qwen",
            "bailingmoe",
            "bailingmoe2",
            "hunyuan",
            "kormo",
            "llada-moe",
            "megrez",
            "solar-open",
            "stablelm2",
        ],
        &[QWEN2],
    ),
    plain(&["qwen35"], &[QWEN35]),
    Published {
        names: &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "lfm2",
            "midm-2.0",
            "pixtral",
        ],
        steps: &[LLAMA3],
        whole_words: true,
        bos: true,
    },
    plain(&["smaug-bpe", "dbrx", "chatglm-bpe"], &[LLAMA3]),
    Published {
        whole_words: true,
        ..plain(&["glm4"], &[LLAMA3])
    },
    plain(&["llama4", "gpt-4o", "kanana2"], &[GPT4O]),
    Published {
        names: &["tekken"],
        steps: &[TEKKEN],
        whole_words: true,
        bos: true,
    },
    plain(
        &[
            "gpt-2",
            "a.x-4.0",
            "exaone4",
            "gigachat",
            "granite-docling",
            "jais",
            "mellum",
            "mpt",
            "olmo",
            "phi-2",
            "trillion",
        ],
        &[GPT2],
    ),
    plain(
        &[
            "smollm",
            "codeshell",
            "command-r",
            "exaone",
            "mellum2",
            "minerva-7b",
            "refact",
            "starcoder",
        ],
        &[DIGIT, GPT2],
    ),
    plain(
        &["deepseek-llm"],
        &[
            NEWLINE,
            DEEPSEEK_LETTERS,
            DEEPSEEK_MARKS,
            Step::Apart(r"\s+$"),
            ASIAN,
            Step::Apart(r"\p{N}+"),
        ],
    ),
    plain(
        &["deepseek-coder"],
        &[
            NEWLINE,
            Step::Apart(r"\s?\p{L}+"),
            Step::Apart(r"\s?\p{P}+"),
            ASIAN,
            DIGIT,
        ],
    ),
    plain(
        &["deepseek-v3", "hunyuan-dense", "joyai-llm"],
        &[DIGITS, JAPANESE, DEEPSEEK_V3],
    ),
    plain(&["seed-coder"], &[SEED]),
    Published {
        whole_words: true,
        ..plain(&["minicpm5"], &[DIGITS, MINICPM5])
    },
    plain(
        &["falcon"],
        &[
            Step::Apart(r"[\p{P}$+<=>^~|`]+"),
            GPT2,
            Step::Apart("[0-9][0-9][0-9]"),
        ],
    ),
];
