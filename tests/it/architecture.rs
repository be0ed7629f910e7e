//! Who may use whom in `src/`: imports only go down. The table is the one of
//! CONTRIBUTING.md.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A module, and which others it may use: only such as come later.
const ALLOWED: [(&str, &[&str]); 20] = [
    ("main", &["lib"]),
    ("lib", &["cli", "command"]),
    (
        "command",
        &[
            "child", "cli", "duration", "escape", "exit", "holder", "lock", "message", "name", "process", "record",
            "sys", "table", "token", "users", "waiting",
        ],
    ),
    ("waiting", &["child", "duration", "lock", "message", "table"]),
    ("table", &[]),
    ("cli", &["duration", "escape", "exit", "lock", "message"]),
    ("holder", &["lock", "message", "record", "sys", "token"]),
    ("child", &["lock", "message", "process", "sys"]),
    ("message", &["duration", "escape", "lock", "process", "sys"]),
    ("lock", &["duration", "name", "net", "process", "record", "sys", "token", "users"]),
    ("process", &["users"]),
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

/// The linker says nothing of a pattern that finds nothing.
#[test]
fn what_is_linked_side_by_side_is_there() {
    let order = fs::read_to_string(src().join("../.cargo/order.ld")).unwrap();
    let patterns = order.lines().filter_map(|line| line.trim().strip_prefix("*(.text.*"));
    let paths: Vec<_> = patterns.filter_map(path_in_symbol).collect();
    assert!(paths.len() > 20, "{paths:?}");
    let sections = Command::new("readelf").args(["--wide", "--sections"]).arg(env!("CARGO_BIN_EXE_lockrun")).output();
    let sections = String::from_utf8(sections.expect("readelf").stdout).unwrap();
    let usual = sections.lines().find(|line| line.contains(" .text.usual ")).expect("a section of its own");
    let size = usual.split_whitespace().skip_while(|word| *word != "PROGBITS").nth(3).unwrap();
    assert!(usize::from_str_radix(size, 16).unwrap() > 100_000, "{usual}");
    for path in paths {
        let (file, items) = resolve(&path);
        let text = fs::read_to_string(&file).unwrap();
        let words: BTreeSet<_> = text.split(|c: char| !(c.is_alphanumeric() || c == '_')).collect();
        let missing: Vec<_> = items.iter().filter(|item| !words.contains(item.as_str())).collect();
        assert!(missing.is_empty(), "{path:?}: no {missing:?} in {}", file.display());
    }
}

/// What a pattern of mangled symbols names in this crate: of `7lockrun4name4stem*`,
/// name and stem; of `lockrun..name*4stem*` the same.
fn path_in_symbol(pattern: &str) -> Option<Vec<String>> {
    let mut path = Vec::new();
    let mut rest = match pattern.split_once("lockrun..") {
        Some((_, modules)) => {
            let (modules, items) = modules.split_once('*')?;
            path.extend(modules.split("..").map(str::to_owned));
            items
        }
        None => pattern.split_once("7lockrun")?.1,
    };
    while let Some(digits) = rest.find(|c: char| !c.is_ascii_digit()).filter(|digits| *digits > 0) {
        let (length, name) = rest.split_at(digits);
        let (name, after) = name.split_at(length.parse().unwrap());
        path.push(name.to_owned());
        rest = after;
    }
    Some(path)
}

/// The file of a path, and what of the path is in the file.
fn resolve(path: &[String]) -> (PathBuf, &[String]) {
    let mut directory = src();
    for (place, name) in path.iter().enumerate() {
        let file = directory.join(name).with_extension("rs");
        directory.push(name);
        if file.exists() {
            return (file, &path[place + 1..]);
        }
        if !directory.is_dir() {
            let module = directory.with_file_name(if place == 0 { "lib.rs" } else { "mod.rs" });
            return (module, &path[place..]);
        }
    }
    (directory.join("mod.rs"), &[])
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
