//! For the tests of what reads files, answers and /proc: texts as others may have left
//! them.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

/// What parsers stumble over.
const STUMBLING_BLOCKS: [&str; 24] = [
    "",
    "\0",
    "\n",
    " ",
    "\"",
    "\\",
    "\\u0000",
    "{",
    "}",
    "[",
    "]",
    "[[[[[[[[",
    ":",
    ",",
    "-",
    "-1",
    "0",
    "1e999",
    "4294967296",
    "9223372036854775807",
    "-9223372036854775808",
    "18446744073709551615",
    "null",
    "\u{202e}",
];

#[derive(Clone, Debug)]
enum Change {
    Insert(Vec<u8>),
    Remove(usize),
    Repeat(usize),
    /// Replaces a number, of which most of these texts have several.
    Number(String),
    End,
}

/// A line of the corpus after up to four changes, or bytes of no kind.
pub fn text(corpus: &'static str) -> impl Strategy<Value = Vec<u8>> {
    let lines: Vec<_> = corpus.lines().collect();
    let changed =
        (proptest::sample::select(lines), vec((any::<Index>(), change()), 0..=4)).prop_map(|(line, changes)| {
            changes.iter().fold(line.as_bytes().to_vec(), |text, (place, change)| apply(text, place, change))
        });
    prop_oneof![9 => changed, 1 => vec(any::<u8>(), 0..64)]
}

fn change() -> impl Strategy<Value = Change> {
    let number = prop_oneof![
        any::<i64>().prop_map(|number| number.to_string()),
        (0..200_u32).prop_map(|number| number.to_string()),
        proptest::sample::select(&STUMBLING_BLOCKS[15..]).prop_map(str::to_owned),
    ];
    prop_oneof![
        1 => vec(any::<u8>(), 1..4).prop_map(Change::Insert),
        1 => proptest::sample::select(&STUMBLING_BLOCKS[..]).prop_map(|block| Change::Insert(block.into())),
        1 => (1..20_usize).prop_map(Change::Remove),
        1 => (1..200_usize).prop_map(Change::Repeat),
        4 => number.prop_map(Change::Number),
        1 => Just(Change::End),
    ]
}

fn apply(mut text: Vec<u8>, place: &Index, change: &Change) -> Vec<u8> {
    let at = place.index(text.len() + 1);
    let within = |length: usize| at..(at + length).min(text.len());
    match change {
        Change::Insert(bytes) => drop(text.splice(at..at, bytes.iter().copied())),
        Change::Remove(length) => drop(text.drain(within(*length))),
        Change::Repeat(length) => {
            let part = text[within(*length)].to_vec();
            text.splice(at..at, part);
        }
        Change::Number(number) => {
            let start = text[at..].iter().position(u8::is_ascii_digit).map_or(at, |digit| at + digit);
            let length = text[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            text.splice(start..start + length, number.bytes());
        }
        Change::End => text.truncate(at),
    }
    text
}
