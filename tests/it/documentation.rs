//! `man/` and `completions/` are generated from the command line and `man/parts/`,
//! `completions/parts/`. `make docs` (`UPDATE=1` in the environment of these tests)
//! writes them.

use clap::builder::{PossibleValuesParser, Resettable};
use clap::{Arg, Command, ValueHint};
use clap_complete::Shell;
use clap_mangen::Man;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// In the footer of the pages: when they were last read against the program.
const DATE: &str = "2026-11-22";

/// Options of cargo that a text names.
const CARGOS: [&str; 5] = ["--git", "--locked", "--path", "--print", "--target"];

/// And of other tools.
const OTHERS: [&str; 2] = ["--id", "--strip-components"];

#[test]
fn manual_pages_match_the_command_line() {
    for command in commands() {
        let file = format!("{}.1", name_of(&command));
        let part = read(&format!("man/parts/{file}"));
        assert_committed(&format!("man/{file}"), &page(&command, &part));
    }
}

/// All of it is written by hand.
#[test]
fn the_page_on_stores_matches_its_part() {
    let part = read("man/parts/lockrun-store.7");
    assert_committed("man/lockrun-store.7", &format!("'\\\" t\n{}{part}", head("lockrun-store", 7, "man/parts")));
}

/// As apropos(1) shows them: one line each, with all that it says.
#[test]
fn every_page_has_a_name_that_can_be_found() {
    for file in files_in("man") {
        let page = read(&format!("man/{file}"));
        let (_, rest) = page.split_once(".SH NAME\n").unwrap_or_else(|| panic!("{file} has no name"));
        let (line, next) = rest.split_once('\n').unwrap();
        let (name, _) = file.rsplit_once('.').unwrap();
        let (shown, about) = line.split_once(" \\- ").unwrap_or_else(|| panic!("{file}: {line}"));
        assert_eq!(shown.replace("\\-", "-"), name);
        assert!(!about.is_empty() && next.starts_with(".SH "), "{file}: the name is one line");
    }
}

#[test]
fn no_manual_page_is_left_over() {
    let named = |command: &Command| format!("{}.1", name_of(command));
    let mut expected: BTreeSet<_> = commands().iter().map(named).collect();
    expected.insert("lockrun-store.7".into());
    for directory in ["man", "man/parts"] {
        assert_eq!(files_in(directory), expected, "{directory}");
    }
}

#[test]
fn completions_match_the_command_line() {
    for (shell, file) in [(Shell::Bash, "lockrun.bash"), (Shell::Zsh, "_lockrun"), (Shell::Fish, "lockrun.fish")] {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut tree_to_complete(), "lockrun", &mut script);
        let script = String::from_utf8(script).unwrap();
        let part = read(&format!("completions/parts/{file}"));
        assert_committed(&format!("completions/{file}"), &completed(shell, &script, &part));
    }
}

/// Also those that only scripts written for flock(1) use.
#[test]
fn every_option_is_in_the_manual() {
    for command in commands() {
        let page = plain(&read(&format!("man/{}.1", name_of(&command))));
        for option in spellings(&command) {
            assert!(mentioned(&page).contains(&option), "{option} is not in the page of {}", name_of(&command));
        }
    }
}

/// Short ones are held by the examples, which run.
#[test]
fn every_long_option_that_a_text_names_exists() {
    let all: BTreeSet<_> = commands().iter().flat_map(spellings).collect();
    let pages = files_in("man").into_iter().map(|file| format!("man/{file}"));
    for file in pages.chain(["README.md", "docs/recipes.md", "docs/coming-from.md"].map(str::to_owned)) {
        for option in mentioned(&plain(&read(&file))).iter().filter(|option| option.starts_with("--")) {
            assert!(
                all.contains(option) || [&CARGOS[..], &OTHERS].concat().contains(&option.as_str()),
                "{file}: there is no {option}"
            );
        }
    }
}

/// Each test, test module and make target that the page on testing names.
#[test]
fn what_the_page_on_testing_names_exists() {
    let page = read("docs/testing.md");
    let makefile = read("Makefile");
    let mut names = 0;
    for word in page.split('`').skip(1).step_by(2) {
        if let Some(target) = word.strip_prefix("make ").and_then(|words| words.split(' ').next()) {
            assert!(makefile.contains(&format!("\n{target}:")), "there is no target {target}");
        }
        let Some((module, test)) = word.rsplit_once("::").filter(|_| !word.contains([' ', '/']) && word != "::") else {
            continue;
        };
        names += 1;
        let file = if module.contains("::") {
            format!("src/{}", module.replace("::", "/"))
        } else {
            format!("tests/it/{module}")
        };
        let source = read(&format!("{file}.rs"));
        assert!(test.is_empty() || source.contains(&format!("fn {test}(")), "{module} has no test {test}");
    }
    assert!(names > 50, "{names}");
}

/// `lockrun` and its subcommands.
fn commands() -> Vec<Command> {
    let mut tree = lockrun::cli::tree().disable_help_subcommand(true);
    tree.build();
    let subcommands: Vec<_> = tree.get_subcommands().filter(|command| !command.is_hide_set()).cloned().collect();
    [vec![tree], subcommands].concat()
}

/// `lockrun`, `lockrun-acquire`.
fn name_of(command: &Command) -> &str {
    command.get_display_name().unwrap_or(command.get_name())
}

/// A page: its part, with what stands between `@` filled in.
fn page(command: &Command, part: &str) -> String {
    let name = name_of(command);
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let mut page = head(name, 1, "src/cli/mod.rs and man/parts");
    for line in part.lines() {
        match line {
            "@NAME@" => page += &format!(".SH NAME\n{} \\- {}\n", escaped(name), escaped(&about)),
            "@SYNOPSIS@" => page += &synopsis(command),
            "@OPTIONS@" => page += &options(command),
            "@SUBCOMMANDS@" => page += &subcommands(command),
            _ => page += &format!("{line}\n"),
        }
    }
    page
}

fn head(name: &str, section: u32, sources: &str) -> String {
    let (title, version) = (name.to_uppercase(), env!("CARGO_PKG_VERSION"));
    format!(
        ".\\\" Made by 'make docs' from {sources}/{name}.{section}: edit those.\n\
         .TH {title} {section} {DATE} \"lockrun {version}\"\n"
    )
}

/// What `--help` says behind `Usage:`.
fn synopsis(command: &Command) -> String {
    let usage = command.clone().render_usage().to_string();
    let lines = usage.trim_start_matches("Usage:").lines();
    let mut text = String::from(".SH SYNOPSIS\n");
    for (number, line) in lines.enumerate() {
        let words: Vec<_> = line.split_whitespace().map(usage_word).collect();
        text += if number == 0 { "" } else { ".br\n" };
        text += &format!("{}\n", words.join(" "));
    }
    text
}

/// What is typed as it stands is bold, what is replaced is italic, and what
/// only shows that something may be left out or repeated is neither.
fn usage_word(word: &str) -> String {
    let font = |part: &str| match part.chars().next() {
        Some(c) if "[].".contains(c) => part.to_owned(),
        Some(c) if c.is_ascii_uppercase() => format!("\\fI{}\\fR", escaped(part)),
        _ => format!("\\fB{}\\fR", escaped(part)),
    };
    let kind = |c: char| (("[].".contains(c)), c.is_ascii_uppercase());
    let word: Vec<char> = word.chars().filter(|c| !"<>".contains(*c)).collect();
    word.chunk_by(|one, next| kind(*one) == kind(*next)).map(|part| font(&part.iter().collect::<String>())).collect()
}

/// clap_mangen's sections of options as parts of one, without what mandoc's
/// lint and a reader stumble over: blank lines, `<>` around what is italic
/// anyway, a preamble in the middle of the page.
fn options(command: &Command) -> String {
    let mut raw = Vec::new();
    Man::new(command.clone()).render_options_section(&mut raw).unwrap();
    let raw = String::from_utf8(raw).unwrap();
    let (_preamble, sections) = raw.split_at(raw.find(".SH").unwrap());
    let sections = [("\\*(Aq", "\\(aq"), ("\\fI<", "\\fI"), (">\\fR", "\\fR"), (".br\n\n.br\n", ".sp\n")]
        .iter()
        .fold(sections.to_owned(), |text, (from, to)| text.replace(from, to));
    let mut text = String::from(".SH OPTIONS\n");
    for line in sections.lines() {
        match line {
            "" => text += ".sp\n",
            ".SH OPTIONS" => {}
            _ => text += &format!("{}\n", sentence_case(line).trim_end()),
        }
    }
    text
}

/// `.SH "LOCK OPTIONS"` becomes `.SS Lock options`; other lines stay.
fn sentence_case(line: &str) -> String {
    let Some(heading) = line.strip_prefix(".SH ") else { return line.to_owned() };
    let (first, rest) = heading.trim_matches('"').split_at(1);
    format!(".SS {first}{}", rest.to_lowercase())
}

fn subcommands(command: &Command) -> String {
    let about = |command: &Command| command.get_about().map(ToString::to_string).unwrap_or_default();
    let entry =
        |command: &Command| format!(".TP\n.BR {} (1)\n{}\n", escaped(name_of(command)), escaped(&about(command)));
    format!(".SH SUBCOMMANDS\n{}", command.get_subcommands().map(entry).collect::<String>())
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq")
}

/// Roff without fonts and escapes.
fn plain(page: &str) -> String {
    let lines = page.lines().filter(|line| !line.starts_with(".\\\""));
    let text = lines.collect::<Vec<_>>().join("\n");
    ["\\fB", "\\fI", "\\fR", "\\&"].iter().fold(text, |text, code| text.replace(code, "")).replace("\\-", "-")
}

/// Every `-x` and `--word` that a text names.
fn mentioned(text: &str) -> BTreeSet<String> {
    let ends = |c: char| !(c.is_ascii_alphanumeric() || c == '-');
    let words = text.split(ends).filter(|word| word.starts_with('-'));
    let words = words.filter(|word| word.trim_start_matches('-').starts_with(|c: char| c.is_ascii_alphabetic()));
    words.filter(|word| word.starts_with("--") || word.len() == 2).map(str::to_owned).collect()
}

/// Every way to write an option, hidden ones too.
fn spellings(command: &Command) -> BTreeSet<String> {
    let of = |arg: &Arg| {
        let longs = arg.get_long().into_iter().chain(arg.get_all_aliases().unwrap_or_default());
        let shorts = arg.get_short().into_iter().chain(arg.get_all_short_aliases().unwrap_or_default());
        let longs = longs.map(|long| format!("--{long}"));
        longs.chain(shorts.map(|short| format!("-{short}"))).collect::<Vec<_>>()
    };
    command.get_arguments().filter(|arg| !arg.is_positional()).flat_map(of).collect()
}

/// The tree without what is hidden, and with what kind of word follows an
/// option; with `run`, `help` and `version`, which clap does not know. COMMAND is left to
/// the hand-written parts.
fn tree_to_complete() -> Command {
    let tree = hinted(lockrun::cli::tree());
    let args: Vec<_> = tree.get_arguments().cloned().collect();
    let run = Command::new("run").about("Run a command under a lock").args(args);
    let names = tree.get_subcommands().map(|command| &*command.get_name().to_owned().leak());
    let names: Vec<&'static str> = names.chain(["run"]).collect();
    let topic = Arg::new("topic").value_parser(PossibleValuesParser::new(names));
    let help = Command::new("help").about("Show the help of a command").arg(topic).disable_help_flag(true);
    let version = Command::new("version").about("Print the version").disable_help_flag(true);
    tree.subcommands([run, help, version]).version("")
}

fn hinted(command: Command) -> Command {
    let hint = |arg: &Arg| {
        let hint = match arg.get_id().as_str() {
            "dir" => ValueHint::DirPath,
            "file" | "report" | "env_file" => ValueHint::AnyPath,
            "shell" => ValueHint::CommandString,
            _ => ValueHint::Other,
        };
        let values: &[&str] = match arg.get_id().as_str() {
            "timeout" => &["0", "10s", "1m", "10m", "1h", "forever"],
            "store" => &["file:", "etcd://", "etcds://", "postgres://", "redis://", "rediss://"],
            _ => &[],
        };
        let arg = match values {
            [] => arg.clone(),
            _ => arg.clone().value_parser(PossibleValuesParser::new(values.iter().copied())),
        };
        // They may name what is left out.
        let arg = arg.overrides_with(Resettable::Reset).conflicts_with(Resettable::Reset);
        if arg.get_action().takes_values() { arg.value_hint(hint) } else { arg }
    };
    let visible = |arg: &&Arg| !arg.is_hide_set();
    let args = command.get_arguments().filter(visible).map(hint);
    let subcommands = command.get_subcommands().filter(|command| !command.is_hide_set()).cloned().map(hinted);
    let about = command.get_about().cloned().unwrap_or_default();
    let name: &'static str = command.get_name().to_owned().leak();
    Command::new(name).about(about).args(args).subcommands(subcommands).disable_help_subcommand(true)
}

/// clap_complete's script and the hand-written part: names of locks, and
/// COMMAND as the shell itself would complete it.
fn completed(shell: Shell, script: &str, part: &str) -> String {
    let note = "# Made by 'make docs' from src/cli and completions/parts: edit those.\n";
    match shell {
        // The part's function is called first, and calls clap_complete's.
        Shell::Bash => {
            let registration = script.rfind("\nif [[").expect("clap_complete registers its function at the end");
            format!("# shellcheck shell=bash disable=SC2034,SC2207\n{note}\n{}{part}", script[..registration].trim())
        }
        // The script calls its function at the end, when all others are there.
        Shell::Zsh => {
            let (first, rest) = script.split_once("\n\n").expect("#compdef stands alone");
            let rest = replaced(rest, ":NAME:'", ":NAME:_lockrun_names'");
            let rest = replaced(&rest, "A lock'\\''s name:'", "A lock'\\''s name:_lockrun_names'");
            let start = "_lockrun() {\n";
            let in_command = "    if (( ${words[(i)--]} < CURRENT )); then _lockrun_command; return; fi\n";
            // _arguments forgets them before it asks for names.
            let all_words = "    local -a line_words=(\"${(@)words}\")\n";
            let rest = replaced(&rest, start, &format!("{start}{in_command}{all_words}"));
            format!("{first}\n{note}\n{part}{rest}")
        }
        _ => {
            // An option that still waits for its value is no other command's.
            let script = replaced(script, "    or return\n", "    or return 0\n");
            let script = replaced(&script, " -l name ", " -l name -a '(__fish_lockrun_names)' ");
            // clap_complete leaves out the values of words without an option.
            let topics = tree_to_complete().get_subcommands().map(Command::get_name).collect::<Vec<_>>().join(" ");
            let help = format!("complete -c lockrun -n '__fish_lockrun_using_subcommand help' -f -a '{topics}'\n");
            format!("{note}\n{script}{part}{help}")
        }
    }
}

fn replaced(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "clap_complete writes something else than {from}");
    text.replace(from, to)
}

/// The committed file is `expected`, or becomes so with `UPDATE`.
#[track_caller]
fn assert_committed(file: &str, expected: &str) {
    let path = root().join(file);
    if std::env::var_os("UPDATE").is_some() {
        fs::write(path, expected).unwrap();
        return;
    }
    let committed = fs::read_to_string(path).unwrap_or_default();
    assert!(committed == expected, "{file} is not what the command line makes of it; run 'make docs'");
}

fn files_in(directory: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(root().join(directory)).unwrap().map(|entry| entry.unwrap());
    let files = entries.filter(|entry| entry.file_type().unwrap().is_file());
    files.map(|entry| entry.file_name().into_string().unwrap()).collect()
}

#[track_caller]
fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}
