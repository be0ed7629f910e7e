//! Who may use whom in `src/`: imports only go down, no two files import each
//! other, and an engine is named in one place. The table is the one of
//! CONTRIBUTING.md.

use std::collections::{BTreeMap, BTreeSet};
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
    ("waiting", &["child", "duration", "escape", "lock", "message", "table"]),
    ("table", &[]),
    ("cli", &["duration", "escape", "lock", "name", "token"]),
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

#[test]
fn no_two_files_import_each_other() {
    let modules: Modules = sources().into_iter().map(|file| (path_of(&file), file)).collect();
    let listed = listed(&modules);
    let imports: BTreeMap<_, _> =
        modules.iter().map(|(path, file)| (path, imported(path, file, &modules, &listed))).collect();
    assert!(imports.values().map(BTreeSet::len).sum::<usize>() > 100);
    for (path, used) in &imports {
        let mutual = used.iter().find(|other| imports[other].contains(*path));
        assert!(mutual.is_none(), "{path:?} and {mutual:?} import each other");
    }
}

/// A new engine is a new arm there and nothing else.
#[test]
fn an_engine_is_named_where_it_is_chosen() {
    let outside = |file: &PathBuf| !file.starts_with(src().join("lock"));
    for (engine, place) in [("lock::file", "mod.rs"), ("lock::server", "server.rs")] {
        let naming: Vec<_> = sources().into_iter().filter(outside).filter(|file| code(file).contains(engine)).collect();
        assert_eq!(naming, [src().join("command/engine").join(place)]);
    }
}

#[test]
fn no_file_is_longer_than_a_stranger_reads_at_once() {
    for file in all_files() {
        let text = fs::read_to_string(&file).unwrap();
        let lines = text.split("#[cfg(test)]\nmod tests").next().unwrap().lines().count();
        assert!(lines <= 400, "{}: {lines} lines without its tests", file.display());
    }
}

/// And the attribute by which the C runtime finds `main`.
#[test]
fn unsafe_stands_in_sys_only() {
    for file in all_files() {
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

/// `src/lock/file/mod.rs` is `lock::file`.
fn path_of(file: &Path) -> Vec<String> {
    let inside = file.strip_prefix(src()).unwrap().with_extension("");
    let mut path: Vec<_> = inside.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    if path.last().is_some_and(|last| ["mod", "lib"].contains(&last.as_str())) {
        path.pop();
    }
    path
}

/// Every module's file.
type Modules = BTreeMap<Vec<String>, PathBuf>;

/// A `mod.rs` lists what its folder has (`pub use`): which file each name
/// comes from.
fn listed(modules: &Modules) -> BTreeMap<Vec<String>, Vec<String>> {
    let mut listed = BTreeMap::new();
    for (module, file) in modules.iter().filter(|(_, file)| file.ends_with("mod.rs")) {
        for path in statements(&code(file)).filter(|(is_list, _)| *is_list).flat_map(|(_, paths)| paths) {
            let source = [module, &path[..path.len() - 1]].concat();
            let name = [module, &path[path.len() - 1..]].concat();
            listed.extend(modules.contains_key(&source).then_some((name, source)));
        }
    }
    listed
}

/// The modules that a file imports from.
fn imported(
    module: &[String],
    file: &Path,
    modules: &Modules,
    listed: &BTreeMap<Vec<String>, Vec<String>>,
) -> BTreeSet<Vec<String>> {
    let code = code(file);
    let imports = statements(&code).filter(|(is_list, _)| !(*is_list && file.ends_with("mod.rs")));
    let full_paths = imports.flat_map(|(_, paths)| paths).map(|path| {
        let mut words = path.iter().map(String::as_str).peekable();
        let mut full = match words.peek() {
            Some(&"crate") => Vec::new(),
            Some(&"super") => module[..module.len().saturating_sub(1)].to_vec(),
            _ => module.to_vec(),
        };
        words.next_if(|word| ["crate", "super", "self"].contains(word));
        while words.next_if_eq(&"super").is_some() {
            full.pop();
        }
        full.extend(words.map(str::to_owned));
        full
    });
    let targets = full_paths.filter_map(|path| {
        let mut beginnings = (1..=path.len()).rev().map(|length| path[..length].to_vec());
        beginnings.find_map(|path| listed.get(&path).cloned().or_else(|| modules.contains_key(&path).then_some(path)))
    });
    targets.filter(|target| target != module).collect()
}

/// The `use` statements: whether it is a `pub use`, and its paths.
fn statements(code: &str) -> impl Iterator<Item = (bool, Vec<Vec<String>>)> {
    code.split(';').filter_map(|text| {
        let (before, tree) = text.rsplit_once("use ")?;
        Some((before.trim_end().ends_with("pub"), paths_in(tree)))
    })
}

/// `a::{b, c::d}` as `a::b` and `a::c::d`.
fn paths_in(tree: &str) -> Vec<Vec<String>> {
    let (prefix, list) = match tree.split_once('{') {
        Some((prefix, list)) => (prefix, list.trim_end().strip_suffix('}').unwrap_or(list)),
        None => return vec![tree.split("::").map(|word| word.trim().to_owned()).collect()],
    };
    let prefix: Vec<_> =
        prefix.split("::").map(|word| word.trim().to_owned()).filter(|word| !word.is_empty()).collect();
    let (mut items, mut depth) = (vec![String::new()], 0);
    for c in list.chars() {
        depth += i32::from(c == '{') - i32::from(c == '}');
        if c == ',' && depth == 0 {
            items.push(String::new());
        } else {
            items.last_mut().unwrap().push(c);
        }
    }
    let items = items.iter().filter(|item| !item.trim().is_empty());
    items.flat_map(|item| paths_in(item)).map(|path| [prefix.clone(), path].concat()).collect()
}

fn says_unsafe(line: &str) -> bool {
    let mut words = line.split(|c: char| !(c.is_alphanumeric() || c == '_'));
    words.any(|word| word == "unsafe")
}

/// std panics where getrandom(2) (it seeds hash maps), closedir(3) or nanosleep(2) fail.
#[test]
fn nothing_is_used_that_panics_when_a_system_call_fails() {
    for file in sources() {
        let code = code(&file);
        for word in ["HashMap", "HashSet", "read_dir", "thread::sleep", "thread::spawn"] {
            assert!(!code.contains(word), "{} in {}", word, file.display());
        }
    }
}

/// A file without its comments and its tests.
fn code(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap();
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    text.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

/// The files of the program.
fn sources() -> Vec<PathBuf> {
    let files = all_files();
    let for_tests = files_for_tests(&files);
    let is_for_tests = |file: &PathBuf| for_tests.iter().any(|module| file.starts_with(module));
    files.iter().filter(|file| !is_for_tests(file)).cloned().collect()
}

/// Modules that only tests have, as folders and files.
fn files_for_tests(files: &[PathBuf]) -> Vec<PathBuf> {
    let declared = files.iter().flat_map(|file| {
        let text = fs::read_to_string(file).unwrap();
        let names = text.split("#[cfg(test)]\nmod ").skip(1).filter_map(|rest| rest.split([';', ' ']).next());
        let parent = file.parent().unwrap();
        names.flat_map(|name| [parent.join(name), parent.join(name).with_extension("rs")]).collect::<Vec<_>>()
    });
    declared.collect()
}

fn all_files() -> Vec<PathBuf> {
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
