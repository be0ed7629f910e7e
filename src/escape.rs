//! Text from files, names and command lines, made safe to print.

/// Escapes everything that could move the cursor, ring the bell, or hide or
/// reorder text on a terminal: control characters, direction marks and bytes
/// that are not UTF-8 become `\n`, `\x1b`, `\u{202e}`, `\xff`.
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

/// Bidirectional controls, line separators and zero-width characters, which make
/// a text look like a different one.
fn reorders(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{61c}')
}

#[cfg(test)]
mod tests {
    use super::*;

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
    }
}
