//! What a full stop means: the end of a sentence, or of an abbreviation, an initial or an ordinal number.

/// What a full stop is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dot {
    Ends,
    GoesOn,
    /// The next word tells, and is not whole yet.
    Unknown,
}

/// A word behind a stop is taken as whole at so many bytes.
const WORD_MAX: usize = 48;

/// Abbreviations that no sentence ends with, since what they are short for needs a word behind it.
#[rustfmt::skip]
const NEVER_LAST: &[&str] = &[
    // English
    "dr", "mr", "mrs", "mx", "prof", "mt", "gen", "col", "sgt", "capt", "lt", "rev", "hon", "gov", "sen", "rep", "pres", "vs", "cf",
    "approx", "ca", "viz", "al", "e.g", "i.e",
    // German
    "hr", "fr", "frl", "nr", "bzw", "vgl", "sog", "zzgl", "inkl", "exkl", "bspw", "evtl", "ggf", "dipl", "ing", "jur", "geb", "gest",
    "allg", "insb",
    // French, Spanish, Portuguese, Italian
    "mm", "mme", "mlle", "mgr", "av", "env", "sra", "sr", "srta", "dra", "núm", "pág", "págs", "avda", "ee", "dott", "sig", "sigg",
    "avv", "pag", "egr",
    // Russian, Hindi
    "ул", "им", "проф", "акад", "напр", "стр", "рис", "табл", "просп", "пл", "обл", "डॉ", "पं", "प्रो", "श्री", "कु",
];

/// Abbreviations before a number; without one the stop ends a sentence.
#[rustfmt::skip]
const BEFORE_NUMBER: &[&str] = &[
    "no", "nos", "art", "fig", "abb", "abs", "kap", "ch", "chap", "pp", "vol", "sec", "eq", "tab", "bd", "ziff", "rn", "cap", "n", "max", "min",
];

/// Abbreviations that a sentence may end with: it has ended where a word follows that many begin with.
#[rustfmt::skip]
const PERHAPS_LAST: &[&str] = &[
    "inc", "ltd", "co", "corp", "jr", "bros", "st", "ms", "u.s", "u.k", "u.n", "e.u", "a.m", "p.m", "d.c", "ph.d", "b.c", "a.d", "std",
    "sek", "mio", "mrd", "ud", "uds", "uu", "cía", "г", "см", "млн", "млрд", "тыс",
];

/// Words that often begin a sentence, and are hardly ever the second part of a name.
#[rustfmt::skip]
const FIRST_WORDS: &[&str] = &[
    // English
    "the", "a", "an", "he", "she", "it", "they", "we", "i", "you", "this", "that", "these", "those", "there", "then", "but", "and",
    "so", "if", "when", "however", "in", "on", "at", "for", "as", "my", "your", "his", "her", "its", "our", "their", "what", "who",
    "why", "how", "yes", "no", "please", "now", "also", "after", "before", "its", "it's", "i'm", "let", "next", "is", "are", "do",
    // German
    "der", "die", "das", "ein", "eine", "er", "sie", "es", "wir", "ich", "du", "ihr", "ist", "und", "aber", "dann", "danach", "wenn",
    "als", "doch", "auch", "dies", "diese", "dieser", "dieses", "im", "am", "auf", "mit", "für", "bitte", "ja", "nein", "jetzt",
    "was", "wer", "wie", "warum", "man", "heute", "morgen", "gestern", "sonst", "außerdem", "daher", "deshalb", "bald", "nun",
    // French
    "le", "la", "les", "un", "une", "il", "elle", "on", "nous", "je", "vous", "ils", "elles", "ce", "cette", "c'est", "et", "mais",
    "puis", "donc", "ensuite", "oui", "non", "en", "dans", "pour",
    // Spanish, Portuguese, Italian
    "el", "los", "las", "una", "ella", "él", "yo", "nosotros", "y", "pero", "entonces", "luego", "sí", "después", "hoy", "ahora",
    "o", "os", "as", "um", "uma", "ele", "ela", "mas", "depois", "lo", "gli", "i", "lui", "lei", "noi", "ma", "poi", "e", "è",
    // Russian
    "он", "она", "оно", "они", "мы", "я", "вы", "это", "но", "и", "потом", "в", "на", "затем", "сейчас", "теперь",
];

/// Words before an ordinal number that is written with a stop, as German has it.
#[rustfmt::skip]
const BEFORE_ORDINAL: &[&str] = &[
    "am", "im", "der", "die", "das", "dem", "den", "des", "vom", "zum", "zur", "beim", "seit", "ab", "bis", "jeder", "jede", "jedes",
    "jeden", "ein", "eine", "einem", "einen", "einer", "sein", "seine", "ihr", "ihre", "mein", "meine", "und", "dieser", "diesen",
];

/// What ordinal numbers stand before: months, and what is counted.
#[rustfmt::skip]
const AFTER_ORDINAL: &[&str] = &[
    "januar", "jänner", "februar", "märz", "april", "mai", "juni", "juli", "august", "september", "oktober", "november", "dezember",
    "jan", "feb", "mär", "apr", "jun", "jul", "aug", "sep", "sept", "okt", "nov", "dez",
    "jahrhundert", "jahrhunderts", "weltkrieg", "stock", "etage", "klasse", "platz", "kapitel", "geburtstag", "bundesliga", "liga",
    "mal", "tag", "woche", "monat", "runde", "auflage", "obergeschoss", "gang", "schritt",
    "januari", "februari", "maj", "oktober", "desember", "mars",
];

/// What the stop behind `left` is, if `next` follows it behind a blank and does not begin with a small letter. `inside`: the
/// beginning of `left`'s sentence is not there any more. `last`: `next` is all that follows.
pub(super) fn after_dot(left: &str, next: &str, inside: bool, last: bool) -> Dot {
    let mut words = left.rsplit(between).filter(|word| !word.is_empty());
    let (Some(word), before) = (words.next(), words.next()) else {
        return Dot::Ends;
    };
    if !left.ends_with(word) || word.ends_with('.') {
        // behind a bracket, or an ellipsis
        return Dot::Ends;
    }
    let number = next.starts_with(char::is_numeric);
    let short = word.to_lowercase();
    if word.bytes().all(|b| b.is_ascii_digit()) {
        let alone = before.is_none() && !inside;
        return if alone {
            Dot::GoesOn
        } else {
            ordinal(word, before, next, last)
        };
    }
    let mut chars = word.chars();
    let letter = chars
        .next()
        .filter(|c| c.is_alphabetic() && chars.next().is_none());
    let compound = before.is_some_and(|before| {
        before.ends_with('.') && before.trim_end_matches('.').chars().count() <= 2
    });
    let unit = letter.is_some() && before.is_some_and(|before| before.ends_with(char::is_numeric));
    let so_on = compound && matches!(short.as_str(), "д" | "п");
    if unit || so_on || PERHAPS_LAST.contains(&short.as_str()) {
        return if number {
            Dot::GoesOn
        } else {
            by_first_word(next, last)
        };
    }
    let example =
        compound && matches!(short.as_str(), "ex" | "ej") || short == "es" && before == Some("ad");
    if example || word == "M" || NEVER_LAST.contains(&short.as_str()) {
        return Dot::GoesOn;
    }
    if BEFORE_NUMBER.contains(&short.as_str()) {
        return if number { Dot::GoesOn } else { Dot::Ends };
    }
    if let Some(letter) = letter {
        // initials, and abbreviations of several words
        return if compound || !letter.is_uppercase() || number {
            Dot::GoesOn
        } else {
            by_first_word(next, last)
        };
    }
    if word.contains('.') {
        let initials = word
            .split('.')
            .all(|part| (1..=2).contains(&part.chars().count()));
        let letters = word.chars().all(|c| c.is_alphabetic() || c == '.');
        return if initials && letters {
            Dot::GoesOn
        } else {
            Dot::Ends
        };
    }
    if word.bytes().all(|b| b"IVXLC".contains(&b)) && is_one_of(before, BEFORE_ORDINAL) {
        return ordinal(word, before, next, last);
    }
    Dot::Ends
}

fn between(c: char) -> bool {
    c.is_whitespace()
        || matches!(
            c,
            '(' | '['
                | '{'
                | '"'
                | '„'
                | '“'
                | '‚'
                | '‘'
                | '«'
                | '»'
                | '—'
                | '–'
                | '/'
                | '，'
                | '。'
        )
}

fn is_one_of(word: Option<&str>, words: &[&str]) -> bool {
    word.is_some_and(|word| words.contains(&word.to_lowercase().as_str()))
}

/// The word that a text begins with, if it is known to be whole.
fn first_word(text: &str, last: bool) -> Option<String> {
    let inside = |c: char| c.is_alphabetic() || matches!(c, '\'' | '’');
    match text.find(|c| !inside(c)) {
        Some(end) => Some(text[..end].to_lowercase()),
        None if last || text.len() > WORD_MAX => Some(text.to_lowercase()),
        None => None,
    }
}

fn by_first_word(next: &str, last: bool) -> Dot {
    match first_word(next, last) {
        None => Dot::Unknown,
        Some(word) if FIRST_WORDS.contains(&word.as_str()) => Dot::Ends,
        Some(_) => Dot::GoesOn,
    }
}

/// A number with a stop, which may be an ordinal or a part of a date.
fn ordinal(word: &str, before: Option<&str>, next: &str, last: bool) -> Dot {
    if next.starts_with(|c: char| c.is_ascii_digit()) {
        let digits = next.bytes().take_while(u8::is_ascii_digit).count();
        if digits == next.len() && !last {
            return Dot::Unknown;
        }
        let month = digits <= 2 && next[digits..].starts_with('.');
        let dotted = |before: &str| {
            before
                .strip_suffix('.')
                .is_some_and(|day| day.parse::<u8>().is_ok())
        };
        let year = digits == 4 && before.is_some_and(dotted);
        return if word.len() <= 2 && (month || year) {
            Dot::GoesOn
        } else {
            Dot::Ends
        };
    }
    let Some(following) = first_word(next, last) else {
        return Dot::Unknown;
    };
    if word.len() > 3 {
        return Dot::Ends;
    }
    if AFTER_ORDINAL.contains(&following.as_str()) {
        return Dot::GoesOn;
    }
    let first = FIRST_WORDS.contains(&following.as_str());
    if !first && is_one_of(before, BEFORE_ORDINAL) {
        Dot::GoesOn
    } else {
        Dot::Ends
    }
}
