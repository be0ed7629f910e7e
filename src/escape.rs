//! Text from files, names and command lines, made safe to print.

/// Escapes all that could move the cursor, ring the bell, or hide or reorder text:
/// control characters, direction marks and bytes that are not UTF-8 become `\n`,
/// `\x1b`, `\u{202e}`, `\xff`.
pub fn printable(text: &[u8]) -> String {
    let mut shown = String::with_capacity(text.len());
    for chunk in text.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\n' | '\r' | '\t' => shown.extend(c.escape_default()),
                c if c.is_control() && c.is_ascii() => shown.push_str(&format!("\\x{:02x}", u32::from(c))),
                c if c.is_control() || reorders(c) => shown.extend(c.escape_unicode()),
                c => shown.push(c),
            }
        }
        for byte in chunk.invalid() {
            shown.push_str(&format!("\\x{byte:02x}"));
        }
    }
    shown
}

/// Cuts a text to `most` characters, with an ellipsis.
pub fn shorten(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

/// Cuts the middle out of a text, down to `most` characters.
pub fn shorten_middle(text: &str, most: usize) -> String {
    let length = text.chars().count();
    if length <= most {
        return text.to_owned();
    }
    let kept = most.saturating_sub(1);
    let end = kept / 2;
    let beginning = text.chars().take(kept - end);
    beginning.chain(['…']).chain(text.chars().skip(length - end)).collect()
}

/// JSON without characters that a terminal would obey or that reorder text. They occur
/// only in its strings, where `\u202e` means the same.
pub fn printable_json(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_control() || reorders(c) {
            // All of them are in the basic plane.
            shown.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Bidirectional controls, line separators and zero-width characters.
fn reorders(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{61c}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_that_a_terminal_obeys_gets_through() {
        assert_eq!(printable(b"plain \xc3\xbc"), "plain ü");
        assert_eq!(printable(b"\x1b[31mred\x07\n"), "\\x1b[31mred\\x07\\n");
        assert_eq!(printable("a\u{202e}b\u{9b}".as_bytes()), "a\\u{202e}b\\u{9b}");
        assert_eq!(printable(b"\xff\xc3"), "\\xff\\xc3");
    }

    #[test]
    fn long_text_is_cut_with_a_mark() {
        assert_eq!(shorten("abc", 3), "abc");
        assert_eq!(shorten("abcd", 3), "ab…");
        assert_eq!(shorten_middle("abc", 3), "abc");
        assert_eq!(shorten_middle("abcdef", 5), "ab…ef");
        assert_eq!(shorten_middle("abcdef", 4), "ab…f");
    }

    #[test]
    fn json_means_the_same_and_nothing_in_it_reorders_text() {
        let text = "a\u{202e}b\u{9b}\u{7f}\n\"\\ü";
        let json = serde_json::to_string(text).unwrap();
        let printed = printable_json(&json);
        assert_eq!(printed, r#""a\u202eb\u009b\u007f\n\"\\ü""#);
        assert_eq!(serde_json::from_str::<String>(&printed).unwrap(), text);
    }

    proptest! {
        #[test]
        fn hostile_text_is_printed_without_control(text in crate::hostile::text(include_str!("../tests/corpus/records"))) {
            let obeyed = |text: &str| text.chars().any(|c| c.is_control() || reorders(c));
            prop_assert!(!obeyed(&printable(&text)));
            prop_assert!(!obeyed(&printable_json(&String::from_utf8_lossy(&text))));
        }
    }
}
