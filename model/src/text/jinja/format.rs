//! Python's three ways of formatting: `%`, `str.format`, and `strftime`. Widths are charged before they are filled.

use super::meter::{Meter, Result, error, fail};
use super::value::{Sequence, Value};
use super::write::{Writer, float_text, text_of};
use std::iter::Peekable;
use std::str::Chars;

/// Most digits behind a point; no float has more.
const PRECISION: usize = 1000;

/// Work of the digits before the point of a float, of which there are hundreds at most.
const DIGITS: usize = 512;

/// How one value is written.
#[derive(Debug, Clone)]
struct Spec {
    fill: char,
    align: Option<char>,
    sign: char,
    alternate: bool,
    width: usize,
    /// what stands between groups of three digits
    group: Option<char>,
    precision: Option<usize>,
    kind: Option<char>,
}

impl Spec {
    const PLAIN: Self = Self {
        fill: ' ',
        align: None,
        sign: '-',
        alternate: false,
        width: 0,
        group: None,
        precision: None,
        kind: None,
    };
}

/// What `format % arguments` is in Python.
pub(super) fn percent(format: &str, arguments: &Value, meter: &mut Meter) -> Result<String> {
    meter.charge(format.len())?;
    let single = [arguments.clone()];
    let given = match arguments {
        Value::List(list) if list.sequence == Sequence::Tuple => &list.items[..],
        _ => &single,
    };
    let (mut given, mut any_named) = (given.iter(), matches!(arguments, Value::Map(_)));
    let mut out = String::new();
    let mut rest = format.chars().peekable();
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut spec = Spec::PLAIN;
        let mut named = None;
        if rest.next_if_eq(&'(').is_some() {
            let name: String = rest.by_ref().take_while(|c| *c != ')').collect();
            let value = match arguments {
                Value::Map(map) => map.get_str(&name).cloned(),
                _ => None,
            };
            any_named = true;
            let missing = || error(format!("`%` has no value `{name:.40}`"));
            named = Some(value.ok_or_else(missing)?);
        }
        while let Some(flag) = rest.next_if(|c| "-+ #0".contains(*c)) {
            match flag {
                '-' => spec.align = Some('<'),
                '0' if spec.align.is_none() => (spec.fill, spec.align) = ('0', Some('=')),
                '0' => {}
                '#' => spec.alternate = true,
                sign => spec.sign = sign,
            }
        }
        let mut next = || {
            given
                .next()
                .cloned()
                .ok_or_else(|| error("`%` has too few values"))
        };
        if rest.next_if_eq(&'*').is_some() {
            let width = next()?.as_int().unwrap_or(0);
            spec.align = if width < 0 { Some('<') } else { spec.align };
            spec.width = usize::try_from(width.unsigned_abs()).unwrap_or(usize::MAX);
        } else {
            spec.width = number(&mut rest).unwrap_or(0);
        }
        if rest.next_if_eq(&'.').is_some() {
            spec.precision = Some(number(&mut rest).unwrap_or(0));
        }
        while rest.next_if(|c| "hlL".contains(*c)).is_some() {}
        let kind = rest.next().ok_or_else(|| error("`%` ends in a format"))?;
        if kind == '%' {
            out.push('%');
            continue;
        }
        let value = match named {
            Some(value) => value,
            None => next()?,
        };
        let written = match kind {
            's' | 'r' => {
                let mut text = String::new();
                let mut writer = Writer {
                    out: &mut text,
                    meter,
                };
                if kind == 's' {
                    writer.text(&value)?;
                } else {
                    writer.repr(&value)?;
                }
                spec.fill = ' ';
                spec.align = spec.align.filter(|align| *align != '=').or(Some('>'));
                Value::Text(text.into())
            }
            'c' if value.as_int().is_none() => value,
            'd' | 'i' | 'u' | 'x' | 'X' | 'o' | 'c' => match value {
                Value::Float(float) if kind < 'o' || kind == 'u' => Value::Int(float as i128),
                other => other,
            },
            'f' | 'F' | 'e' | 'E' | 'g' | 'G' => value,
            _ => return fail(format!("`%{kind}` is no format")),
        };
        spec.kind = Some(match kind {
            'i' | 'u' => 'd',
            'r' => 's',
            'c' if matches!(written, Value::Text(_)) => 's',
            kind => kind,
        });
        let text = formatted(&written, &spec, meter)?;
        out.push_str(&text);
    }
    if given.next().is_some() && !any_named {
        return fail("`%` has more values than formats");
    }
    Ok(out)
}

fn number(rest: &mut Peekable<Chars>) -> Option<usize> {
    let mut number = None;
    while let Some(digit) = rest.peek().and_then(|c| c.to_digit(10)) {
        rest.next();
        let tens = number.unwrap_or(0usize).saturating_mul(10);
        number = Some(tens.saturating_add(digit as usize));
    }
    number
}

/// What `format.format(*positional, **named)` is in Python.
pub(super) fn braces(
    format: &str,
    positional: &[Value],
    named: &[(std::sync::Arc<str>, Value)],
    meter: &mut Meter,
) -> Result<String> {
    let mut out = String::new();
    let mut automatic = 0;
    meter.charge(2 * format.len())?;
    let mut rest = format.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '{' | '}' if rest.next_if_eq(&c).is_some() => out.push(c),
            '}' => return fail("`}` without `{` in a format"),
            '{' => {
                let mut field = String::new();
                loop {
                    match rest.next() {
                        Some('}') => break,
                        Some('{') => return fail("`{` within `{` in a format is not supported"),
                        Some(c) => field.push(c),
                        None => return fail("`{` without `}` in a format"),
                    }
                }
                let (field, spec) = field.split_once(':').unwrap_or((&field, ""));
                let (name, conversion) = field.split_once('!').unwrap_or((field, ""));
                let at = match name {
                    "" => {
                        automatic += 1;
                        Some(automatic - 1)
                    }
                    name => name.parse().ok(),
                };
                let value = match at {
                    Some(at) => positional.get(at),
                    None => {
                        meter.charge(named.len())?;
                        let mut named = named.iter();
                        named
                            .find(|(known, _)| **known == *name)
                            .map(|(_, value)| value)
                    }
                };
                let value =
                    value.ok_or_else(|| error(format!("`format` has no value `{name:.40}`")))?;
                let spec = spec_of(spec)?;
                let text = match conversion {
                    "" => formatted(value, &spec, meter)?,
                    "s" => formatted(&Value::Text(text_of(value, meter)?.into()), &spec, meter)?,
                    "r" => {
                        let mut text = String::new();
                        let out = &mut text;
                        Writer { out, meter }.repr(value)?;
                        formatted(&Value::Text(text.into()), &spec, meter)?
                    }
                    _ => return fail("a format has `!r` or `!s`"),
                };
                out.push_str(&text);
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

/// Reads what stands behind the colon of a replaced field.
fn spec_of(text: &str) -> Result<Spec> {
    let mut spec = Spec::PLAIN;
    let mut rest = text.chars().peekable();
    let is_align = |c: char| "<>^=".contains(c);
    let mut ahead = text.chars();
    match (ahead.next(), ahead.next()) {
        (Some(fill), Some(align)) if is_align(align) => {
            (spec.fill, spec.align) = (fill, Some(align));
            rest = ahead.as_str().chars().peekable();
        }
        _ => spec.align = rest.next_if(|c| is_align(*c)),
    }
    spec.sign = rest.next_if(|c| "+- ".contains(*c)).unwrap_or('-');
    spec.alternate = rest.next_if_eq(&'#').is_some();
    if rest.next_if_eq(&'0').is_some() && spec.align.is_none() {
        (spec.fill, spec.align) = ('0', Some('='));
    }
    spec.width = number(&mut rest).unwrap_or(0);
    spec.group = rest.next_if(|c| ",_".contains(*c));
    if rest.next_if_eq(&'.').is_some() {
        spec.precision = Some(number(&mut rest).unwrap_or(0));
    }
    spec.kind = rest.next();
    match rest.next() {
        None => Ok(spec),
        Some(_) => fail("a format that Python does not know"),
    }
}

/// A value by its format, charged.
fn formatted(value: &Value, spec: &Spec, meter: &mut Meter) -> Result<String> {
    meter.charge(32)?;
    let precision = spec.precision.unwrap_or(6);
    let wrong = || {
        error(format!(
            "a {} cannot be written as `{}`",
            value.kind(),
            spec.kind.unwrap_or('s')
        ))
    };
    let int = || value.as_int().ok_or_else(wrong);
    let is_text = match spec.kind {
        Some('s') => true,
        // a bool is a number where it has a width
        None if spec.width > 0 => value.as_float().is_none(),
        None => !matches!(value, Value::Int(_) | Value::Float(_)),
        Some(_) => false,
    };
    if is_text {
        let text = text_of(value, meter)?;
        let text = match spec.precision {
            Some(most) => text.chars().take(most).collect(),
            None => text,
        };
        return padded("", &text, spec, '<', meter);
    }
    if precision > PRECISION {
        return fail(format!("a number with more than {PRECISION} digits"));
    }
    // finding out all digits takes longer than writing them
    if let Value::Float(_) = value {
        meter.charge(DIGITS + 4 * precision)?;
    }
    let upper = matches!(spec.kind, Some('X' | 'E' | 'G' | 'F'));
    let (negative, mut digits) = match (spec.kind, value) {
        (Some('c'), _) => {
            let c = u32::try_from(int()?).ok().and_then(char::from_u32);
            return padded("", &c.ok_or_else(wrong)?.to_string(), spec, '<', meter);
        }
        (Some(kind @ ('d' | 'n' | 'x' | 'X' | 'o' | 'b')), _) => {
            let (int, alternate) = (int()?, spec.alternate);
            let size = int.unsigned_abs();
            let digits = match kind {
                'x' | 'X' if alternate => format!("{size:#x}"),
                'x' | 'X' => format!("{size:x}"),
                'o' if alternate => format!("{size:#o}"),
                'o' => format!("{size:o}"),
                'b' if alternate => format!("{size:#b}"),
                'b' => format!("{size:b}"),
                _ => size.to_string(),
            };
            (int < 0, digits)
        }
        (None, value) if value.as_int().is_some() => {
            let int = int()?;
            (int < 0, int.unsigned_abs().to_string())
        }
        (kind, value) => {
            let float = value.as_float().ok_or_else(wrong)?;
            let size = float.abs();
            let digits = match kind {
                _ if size.is_infinite() => "inf".to_owned(),
                _ if size.is_nan() => "nan".to_owned(),
                Some('f' | 'F') => format!("{size:.precision$}"),
                Some('%') => format!("{:.precision$}%", size * 100.0),
                Some('e' | 'E') => scientific(size, precision),
                Some('g' | 'G') => general(size, precision.max(1)),
                None if spec.precision.is_some() => general(size, precision.max(1)),
                None => float_text(size),
                Some(_) => return Err(wrong()),
            };
            (float.is_sign_negative() && !float.is_nan(), digits)
        }
    };
    if upper {
        digits = digits.to_uppercase();
    }
    if let Some(group) = spec.group {
        digits = grouped(&digits, group);
    }
    let sign = match (negative, spec.sign) {
        (true, _) => "-",
        (false, '+') => "+",
        (false, ' ') => " ",
        _ => "",
    };
    padded(sign, &digits, spec, '>', meter)
}

/// A float with an exponent, of which Python writes the sign and two digits at least.
fn scientific(float: f64, precision: usize) -> String {
    let plain = format!("{float:.precision$e}");
    let (digits, exponent) = plain.split_once('e').unwrap_or((&plain, "0"));
    match exponent.strip_prefix('-') {
        Some(exponent) => format!("{digits}e-{exponent:0>2}"),
        None => format!("{digits}e+{exponent:0>2}"),
    }
}

/// A float with so many digits that say something, with an exponent where it is large or small.
fn general(float: f64, digits: usize) -> String {
    let with_exponent = scientific(float, digits - 1);
    let (mantissa, exponent) = with_exponent
        .split_once('e')
        .unwrap_or((&with_exponent, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let cut = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if exponent < -4 || exponent >= digits as i32 {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{}e{sign}{:02}", cut(mantissa), exponent.abs());
    }
    let behind = (digits as i32 - 1 - exponent).max(0) as usize;
    cut(&format!("{float:.behind$}"))
}

fn grouped(digits: &str, group: char) -> String {
    let end = digits
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(digits.len());
    let mut out = String::new();
    for (i, c) in digits[..end].chars().enumerate() {
        if i > 0 && (end - i).is_multiple_of(3) {
            out.push(group);
        }
        out.push(c);
    }
    out + &digits[end..]
}

fn padded(sign: &str, text: &str, spec: &Spec, align: char, meter: &mut Meter) -> Result<String> {
    let missing = spec.width.saturating_sub(text.chars().count() + sign.len());
    meter.charge(missing.saturating_mul(spec.fill.len_utf8()) + text.len())?;
    let fill = |count: usize| spec.fill.to_string().repeat(count);
    Ok(match spec.align.unwrap_or(align) {
        '<' => format!("{sign}{text}{}", fill(missing)),
        '^' => format!(
            "{}{sign}{text}{}",
            fill(missing / 2),
            fill(missing - missing / 2)
        ),
        '=' => format!("{sign}{}{text}", fill(missing)),
        _ => format!("{}{sign}{text}", fill(missing)),
    })
}

const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];
#[rustfmt::skip]
const MONTHS: [&str; 12] = [
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
];

/// The time so many seconds after the beginning of 1970, in UTC, as `strftime` writes it.
pub(super) fn strftime(format: &str, seconds: u64, meter: &mut Meter) -> Result<String> {
    let (days, of_day) = ((seconds / 86_400) as i64, seconds % 86_400);
    // Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days
    let z = days + 719_468;
    let (era, of_era) = (z / 146_097, z % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year + era * 400 + i64::from(month <= 2);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let before = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    let of_year = before[month as usize - 1] + day + i64::from(leap && month > 2);
    let weekday = (days + 4) % 7;
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    let twelve = (hour + 11) % 12 + 1;
    let (day_name, month_name) = (DAYS[weekday as usize], MONTHS[month as usize - 1]);
    let mut out = String::new();
    let mut rest = format.chars().peekable();
    while let Some(c) = rest.next() {
        if c != '%' {
            meter.charge(16)?;
            out.push(c);
            continue;
        }
        // up to seven numbers are written
        meter.charge(192)?;
        let short = rest.next_if_eq(&'-').is_some();
        let code = rest.next().unwrap_or('%');
        let written = match code {
            'Y' => year.to_string(),
            'y' => format!("{:02}", year % 100),
            'm' => format!("{month:02}"),
            'd' => format!("{day:02}"),
            'e' => format!("{day:2}"),
            'j' => format!("{of_year:03}"),
            'H' => format!("{hour:02}"),
            'I' => format!("{twelve:02}"),
            'M' => format!("{minute:02}"),
            'S' => format!("{second:02}"),
            'f' => "000000".to_owned(),
            'p' => if hour < 12 { "AM" } else { "PM" }.to_owned(),
            'A' => day_name.to_owned(),
            'a' => day_name[..3].to_owned(),
            'B' => month_name.to_owned(),
            'b' | 'h' => month_name[..3].to_owned(),
            'w' => weekday.to_string(),
            'u' => (if weekday == 0 { 7 } else { weekday }).to_string(),
            'F' => format!("{year}-{month:02}-{day:02}"),
            'D' | 'x' => format!("{month:02}/{day:02}/{:02}", year % 100),
            'T' | 'X' => format!("{hour:02}:{minute:02}:{second:02}"),
            'R' => format!("{hour:02}:{minute:02}"),
            'c' => format!(
                "{} {} {day:2} {hour:02}:{minute:02}:{second:02} {year}",
                &day_name[..3],
                &month_name[..3]
            ),
            's' => seconds.to_string(),
            'z' | 'Z' => String::new(),
            'n' => "\n".to_owned(),
            't' => "\t".to_owned(),
            '%' => "%".to_owned(),
            _ => return fail(format!("`strftime_now` does not know `%{code}`")),
        };
        match short {
            true => {
                let cut = written.trim_start_matches(['0', ' ']);
                out.push_str(if cut.is_empty() { "0" } else { cut });
            }
            false => out.push_str(&written),
        }
    }
    Ok(out)
}
