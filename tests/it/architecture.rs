//! Who may use whom in `src/`: imports only go down. The table is the one of
//! CONTRIBUTING.md.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A module, and which others it may use: only such as come later.
const ALLOWED: [(&str, &[&str]); 21] = [
    ("main", &["lib"]),
    ("lib", &["cli", "command", "exit", "lock", "message", "sys"]),
    (
        "command",
        &[
            "advice", "child", "cli", "duration", "escape", "exit", "keeper", "lock", "message", "name", "process",
            "record", "sys", "table", "token", "users", "waiting",
        ],
    ),
    ("waiting", &["child", "duration", "lock", "message", "table"]),
    ("table", &[]),
    ("cli", &["duration", "escape", "lock"]),
    ("keeper", &["lock", "message", "record", "sys", "token"]),
    ("child", &["lock", "message", "process", "sys"]),
    ("message", &["advice", "duration", "escape", "lock", "process", "sys"]),
    ("lock", &["advice", "duration", "name", "net", "process", "record", "sys", "token", "users"]),
    ("advice", &[]),
    ("process", &["sys", "users"]),
    ("net", &["sys"]),
    ("name", &[]),
    ("record", &[]),
    ("token", &[]),
    ("duration", &[]),
    ("escape", &[]),
    ("users", &[]),
    ("exit", &["sys"]),
    ("sys", &[]),
];

#[test]
fn the_table_has_no_arrow_up() {
    for (place, (module, allowed)) in ALLOWED.iter().enumerate() {
        for used in *allowed {
            let below = ALLOWED.iter().skip(place + 1).any(|(name, _)| name == used);
            assert!(below, "{module} stands below {used}");
        }
    }
}

#[test]
fn imports_only_go_down() {
    for file in sources() {
        let module = module_of(&file);
        for used in used_by(&code(&file)) {
            let allowed = ALLOWED.iter().find(|(name, _)| *name == module).map(|(_, allowed)| allowed);
            let allowed = allowed.unwrap_or_else(|| panic!("{module} is not in the table"));
            let fine = used == module || allowed.contains(&used.as_str());
            assert!(fine, "{}: {module} may not use {used}", file.display());
        }
    }
}

#[test]
fn the_table_says_no_more_than_there_is() {
    let there: BTreeSet<_> = sources().iter().map(|file| module_of(file)).collect();
    let named: BTreeSet<_> = ALLOWED.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(there, named);
}

/// And the attribute by which the C runtime finds `main`.
#[test]
fn unsafe_stands_in_sys_only() {
    for file in sources() {
        let module = module_of(&file);
        let words: Vec<_> = code(&file).lines().map(str::to_owned).filter(|line| says_unsafe(line)).collect();
        match module.as_str() {
            "sys" => {}
            "main" => assert_eq!(words, ["#[unsafe(no_mangle)]"]),
            _ => assert!(words.is_empty(), "{}: {words:?}", file.display()),
        }
    }
}

/// The first folder or file below `src/`.
fn module_of(file: &Path) -> String {
    let inside = file.strip_prefix(src()).unwrap();
    let first = inside.components().next().unwrap();
    Path::new(first.as_os_str()).file_stem().unwrap().to_str().unwrap().to_owned()
}

/// Modules behind `crate::`, also several in braces.
fn used_by(code: &str) -> BTreeSet<String> {
    let name = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let paths = code.split("crate::").skip(1);
    let used = paths.flat_map(|path| match path.strip_prefix('{') {
        Some(list) => list.split('}').next().unwrap().split(',').map(|item| name(item.trim())).collect(),
        None => vec![name(path)],
    });
    used.filter(|name| !name.is_empty()).collect()
}

fn says_unsafe(line: &str) -> bool {
    let mut words = line.split(|c: char| !(c.is_alphanumeric() || c == '_'));
    words.any(|word| word == "unsafe")
}

/// A file without its comments and its tests.
fn code(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap();
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    text.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

fn sources() -> Vec<PathBuf> {
    fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => collect(&path, files),
                false => files.push(path),
            }
        }
    }
    let mut files = Vec::new();
    collect(&src(), &mut files);
    files
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}
