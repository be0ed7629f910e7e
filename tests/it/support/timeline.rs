//! Who was under the lock when.

use super::Sandbox;
use std::path::PathBuf;

/// A file to which commands append a line when they enter and when they leave.
pub struct Timeline(PathBuf);

impl Timeline {
    pub fn new(sandbox: &Sandbox) -> Self {
        Self(sandbox.write("work/timeline", ""))
    }

    /// Shell text that enters as `id`, does `body` and leaves.
    pub fn visit(&self, id: &str, body: &str) -> String {
        let file = self.0.display();
        format!("echo enter {id} >>{file}; {body}; echo leave {id} >>{file}")
    }

    /// The ids in the order in which they entered.
    pub fn entered(&self) -> Vec<String> {
        let events = self.events().into_iter();
        let enters = events.filter(|(what, _)| what == "enter");
        enters.map(|(_, id)| id).collect()
    }

    #[track_caller]
    pub fn assert_entered(&self, ids: &[&str]) {
        assert_eq!(self.entered(), ids, "{:?}", self.events());
    }

    /// Asserts that each left before the next entered.
    #[track_caller]
    pub fn assert_one_at_a_time(&self) {
        let events = self.events();
        for pair in events.chunks(2) {
            let [(first, one), (second, other)] = pair else {
                panic!("one never left: {events:?}");
            };
            let whole = first == "enter" && second == "leave" && one == other;
            assert!(whole, "two at once around {pair:?} in {events:?}");
        }
    }

    fn events(&self) -> Vec<(String, String)> {
        let text = std::fs::read_to_string(&self.0).unwrap();
        let event = |line: &str| {
            let (what, id) = line.split_once(' ').unwrap();
            (what.to_owned(), id.to_owned())
        };
        text.lines().map(event).collect()
    }
}
