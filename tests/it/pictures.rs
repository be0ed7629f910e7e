//! README's pictures: drawn again from a real run, they say the same.

use crate::support::Sandbox;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

#[test]
fn they_show_what_lockrun_prints_today() {
    let sandbox = Sandbox::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let drawn = sandbox.make_dir("drawn", 0o755);
    let args = [&sandbox.path("bin/lockrun"), &drawn];
    sandbox.command(root.join("docs/pictures"), &args).run().assert_code(0).assert_silent();
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    let user = sandbox.command("id", &["-un"]).run().stdout.trim().to_owned();
    for picture in ["waiting.svg", "list.svg"] {
        assert!(readme.contains(&format!("](docs/{picture})")), "README shows {picture}");
        let texts = |directory: &Path| texts_of(&fs::read_to_string(directory.join(picture)).unwrap(), &user);
        let (committed, now) = (texts(&root.join("docs")), texts(&drawn));
        assert!(committed.len() > 3, "{picture}: {committed:#?}");
        assert_eq!(committed, now, "{picture} is not what lockrun prints; run 'make pictures'");
    }
}

/// All that is ever to be seen, without what differs from run to run: numbers,
/// times, users, and where a text is cut.
fn texts_of(picture: &str, user: &str) -> BTreeSet<String> {
    let spans = picture.split("</tspan>").filter(|part| part.contains("<tspan"));
    spans.filter_map(|span| span.rsplit_once('>')).map(|(_, text)| masked(text, user)).collect()
}

fn masked(text: &str, user: &str) -> String {
    if text.ends_with('…') {
        return "…".into();
    }
    let word = |word: &str| match word.trim_end_matches(',') {
        number if number.starts_with(|c: char| c.is_ascii_digit()) => "N".to_owned(),
        name if name == user || name == "root" => "USER".into(),
        other => other.into(),
    };
    // The first moment of a wait has no number yet.
    text.split(' ').map(word).collect::<Vec<_>>().join(" ").replace("waiting for N", "waiting")
}
