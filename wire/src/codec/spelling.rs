//! Spellings of JSON that protobuf's canonical mapping allows and the generated decoder does not
//! take: `null` for a member that has its default value, and `5.0` or `5e0` for a whole number.
//!
//! Only what was not understood is spelled anew and read once more, so that nobody else pays.
//! It is no validation: the caller knows that it is JSON. Known limit: a number in quotes is digits
//! only, since nothing here says which text stands for a number.

/// Digits of the longest whole number that a field holds.
const MAX_DIGITS: usize = 20;

/// One object or array that is not closed yet.
struct Open {
    is_object: bool,
    /// Members or elements that were written.
    written: usize,
    /// Where the present one begins in what is written, with the comma before it.
    begins: usize,
    /// Its name is read, its value comes.
    at_value: bool,
}

/// The same JSON with members that are `null` left out, and whole numbers as digits.
/// `text` must be JSON. What a few bytes could blow up (`1e999`) stays as it is, so that a
/// number grows to [`MAX_DIGITS`] at most.
pub(super) fn plain(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut open: Vec<Open> = Vec::new();
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        match byte {
            b'{' | b'[' => {
                begin(&mut out, &mut open);
                out.push(byte);
                open.push(Open {
                    is_object: byte == b'{',
                    written: 0,
                    begins: out.len(),
                    at_value: false,
                });
                at += 1;
            }
            b'}' | b']' => {
                out.push(byte);
                open.pop();
                end(&mut open);
                at += 1;
            }
            b',' => {
                // Written with what follows it, if that is not left out.
                at += 1;
            }
            b':' => {
                out.push(byte);
                if let Some(last) = open.last_mut() {
                    last.at_value = true;
                }
                at += 1;
            }
            b' ' | b'\t' | b'\n' | b'\r' => at += 1,
            b'"' => {
                let to = end_of_string(text, at);
                begin(&mut out, &mut open);
                out.extend_from_slice(&text[at..to]);
                let is_name = open
                    .last()
                    .is_some_and(|last| last.is_object && !last.at_value);
                if !is_name {
                    end(&mut open);
                }
                at = to;
            }
            _ => {
                let to = end_of_word(text, at);
                let word = &text[at..to];
                match open.last_mut() {
                    Some(last) if word == b"null" && last.is_object && last.at_value => {
                        out.truncate(last.begins);
                        last.at_value = false;
                    }
                    _ => {
                        begin(&mut out, &mut open);
                        match whole(word) {
                            Some(digits) => out.extend_from_slice(&digits),
                            None => out.extend_from_slice(word),
                        }
                        end(&mut open);
                    }
                }
                at = to;
            }
        }
    }
    out
}

/// A name or an element begins: behind a comma, if it is not the first.
fn begin(out: &mut Vec<u8>, open: &mut [Open]) {
    if let Some(last) = open.last_mut()
        && !last.at_value
    {
        last.begins = out.len();
        if last.written > 0 {
            out.push(b',');
        }
    }
}

/// A value is whole.
fn end(open: &mut [Open]) {
    if let Some(last) = open.last_mut() {
        last.written += 1;
        last.at_value = false;
    }
}

fn end_of_string(text: &[u8], from: usize) -> usize {
    let mut at = from + 1;
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    text.len()
}

fn end_of_word(text: &[u8], from: usize) -> usize {
    let is_end = |byte: &u8| {
        matches!(byte, b'{' | b'}' | b'[' | b']' | b',' | b':' | b'"') || byte.is_ascii_whitespace()
    };
    let len = text[from..].iter().position(is_end);
    // One byte at least, so that what is no JSON ends too.
    from + len.unwrap_or(text.len() - from).max(1)
}

/// The digits of a number with a fraction or an exponent, if it is a whole one.
fn whole(word: &[u8]) -> Option<Vec<u8>> {
    let word = std::str::from_utf8(word).ok()?;
    let (sign, word) = match word.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", word),
    };
    let (mantissa, exponent) = match word.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (word, 0),
    };
    let (integer, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let plain = exponent == 0 && fraction.is_empty() && !word.contains(['.', 'e', 'E']);
    let are_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if plain || integer.is_empty() || !are_digits(integer) || !are_digits(fraction) {
        return None;
    }
    let mut digits = format!("{integer}{fraction}");
    let point = i64::try_from(integer.len()).ok()? + i64::from(exponent);
    let point = usize::try_from(point.max(0)).ok()?;
    if point >= digits.len() {
        let zeros = point - digits.len();
        if zeros > MAX_DIGITS {
            return digits
                .bytes()
                .all(|digit| digit == b'0')
                .then(|| b"0".to_vec());
        }
        digits.extend(std::iter::repeat_n('0', zeros));
    }
    let (whole, rest) = digits.split_at(point);
    if rest.bytes().any(|digit| digit != b'0') {
        return None;
    }
    let whole = whole.trim_start_matches('0');
    Some(match whole {
        "" => b"0".to_vec(),
        _ if whole.len() > MAX_DIGITS => return None,
        _ => format!("{sign}{whole}").into_bytes(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spelled(text: &str) -> String {
        String::from_utf8(plain(text.as_bytes())).unwrap()
    }

    #[test]
    fn whole_numbers_are_written_as_digits_and_others_stay() {
        for (text, digits) in [
            ("5.0", "5"),
            ("5e0", "5"),
            ("5E+0", "5"),
            ("0.5e1", "5"),
            ("50e-1", "5"),
            ("1.20e2", "120"),
            ("-3.0", "-3"),
            ("-0.0", "0"),
            ("0e999999999", "0"),
            ("1844674407370955161.50e1", "18446744073709551615"),
            ("7", "7"),
            ("5.5", "5.5"),
            ("5e-1", "5e-1"),
            ("0.01e1", "0.01e1"),
            ("1e-20", "1e-20"),
            ("1e30", "1e30"),
            ("1e99999999999", "1e99999999999"),
            (".5", ".5"),
            ("e", "e"),
            ("true", "true"),
        ] {
            assert_eq!(spelled(text), digits, "{text}");
        }
    }

    #[test]
    fn members_that_are_null_are_left_out_wherever_they_stand() {
        for (text, plain) in [
            (r#"{"a":null}"#, "{}"),
            (r#"{"a":null,"b":1}"#, r#"{"b":1}"#),
            (r#"{ "a" : 1 , "b" : null }"#, r#"{"a":1}"#),
            (
                r#"{"a":1,"b":null,"c":{"d":null},"e":[{"f":null}]}"#,
                r#"{"a":1,"c":{},"e":[{}]}"#,
            ),
            (
                r#"{"a":"null","b":[null,1.0,"5.0"]}"#,
                r#"{"a":"null","b":[null,1,"5.0"]}"#,
            ),
            (r#"{"a\"":null,"b":"x,\"y\""}"#, r#"{"b":"x,\"y\""}"#),
            (r#"{"null":{"null":null},"x":[]}"#, r#"{"null":{},"x":[]}"#),
        ] {
            assert_eq!(spelled(text), plain, "{text}");
        }
    }

    #[test]
    fn also_what_is_no_json_comes_to_an_end() {
        for text in [
            "",
            "}",
            "]]",
            "{\"",
            "{\"\\",
            "null",
            ":",
            ",,",
            "{null:null",
            "\u{1}\u{2}",
            "{]}[",
        ] {
            plain(text.as_bytes());
        }
    }
}
