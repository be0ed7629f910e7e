//! The examples in README.md and in the manual.
//!
//! An example is a fenced block of Markdown, or what stands between `.EX` and
//! `.EE` in a page. A comment right before it says what it needs and what comes
//! of it; in Markdown
//!
//! ```text
//! <!-- example
//! stubs: backup.sh
//! code: 75
//! -->
//! ```
//!
//! and in roff `.\" stubs: backup.sh`, a line each. The head of `examples.rs`
//! says what the keys mean.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// An example, and where it stands.
#[derive(Clone)]
pub struct Example {
    /// File and line.
    pub place: String,
    pub language: String,
    pub text: String,
    keys: Keys,
}

type Keys = BTreeMap<String, Vec<String>>;

const KNOWN_KEYS: [&str; 11] =
    ["language", "file", "hosts", "stubs", "setup", "run", "code", "stdout", "stderr", "needs", "recipe"];

impl Example {
    /// All examples of a file of this repository, in order.
    #[track_caller]
    pub fn all_in(file: &str) -> Vec<Self> {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
        let examples = if file.ends_with(".md") { markdown(file, &text) } else { roff(file, &text) };
        assert!(!examples.is_empty(), "{file} has no examples");
        examples
    }

    /// All values of this key.
    pub fn all(&self, key: &str) -> &[String] {
        self.keys.get(key).map_or(&[], Vec::as_slice)
    }

    /// The first value of this key.
    pub fn one(&self, key: &str) -> Option<&str> {
        self.all(key).first().map(String::as_str)
    }

    /// The rest of each line that begins with this.
    pub fn behind(&self, start: &str) -> Vec<&str> {
        self.text.lines().filter_map(|line| line.trim_start().strip_prefix(start)).collect()
    }
}

fn markdown(file: &str, text: &str) -> Vec<Example> {
    let mut examples = Vec::new();
    let mut keys = Keys::new();
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let place = format!("{file}:{}", number + 1);
        if line == "<!-- example" {
            let comment = lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "-->");
            keys = read_keys(&place, comment);
        } else if let Some(language) = line.strip_prefix("```") {
            let block = lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```");
            let text = block.map(|line| format!("{line}\n")).collect();
            examples.push(Example { place, language: language.to_owned(), text, keys: std::mem::take(&mut keys) });
        } else if !line.is_empty() {
            assert!(keys.is_empty(), "{place}: no example follows the comment");
        }
    }
    examples
}

fn roff(file: &str, page: &str) -> Vec<Example> {
    let mut examples = Vec::new();
    let mut comment = Vec::new();
    let mut lines = page.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        if let Some(key) = line.strip_prefix(".\\\" ") {
            comment.push(key);
        } else if line == ".EX" {
            let place = format!("{file}:{}", number + 1);
            let keys = read_keys(&place, comment.drain(..));
            let block = lines.by_ref().map(|(_, line)| line).take_while(|line| *line != ".EE");
            let text = block.map(|line| format!("{}\n", as_shown(line))).collect();
            let language = keys.get("language").map_or("sh", |language| &language[0]).to_owned();
            examples.push(Example { place, language, text, keys });
        } else {
            comment.clear();
        }
    }
    examples
}

/// A line of roff as a reader sees it.
fn as_shown(line: &str) -> String {
    let codes = [("\\-", "-"), ("\\(aq", "'"), ("\\(dq", "\""), ("\\&", ""), ("\\e", "\\")];
    codes.iter().fold(line.to_owned(), |line, (code, shown)| line.replace(code, shown))
}

fn read_keys<'a>(place: &str, lines: impl Iterator<Item = &'a str>) -> Keys {
    let mut keys = Keys::new();
    for line in lines {
        let (key, value) = line.split_once(": ").unwrap_or_else(|| panic!("{place}: no key and value: {line}"));
        assert!(KNOWN_KEYS.contains(&key), "{place}: unknown key: {line}");
        keys.entry(key.to_owned()).or_default().push(value.to_owned());
    }
    keys
}
