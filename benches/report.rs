//! Markdown: sections, tables and the goals that they are held against.

use std::fmt;

use crate::samples::Samples;

/// One measurement: what was done, what came out, and how that compares with
/// what was hoped for.
pub struct Section {
    pub title: &'static str,
    /// What was measured and how, for somebody who reads only this section.
    pub method: String,
    pub tables: Vec<Table>,
    /// What has to be said beside the tables, e.g. what could not be measured.
    pub remarks: Vec<String>,
    pub goals: Goals,
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "## {}\n\n{}", self.title, self.method)?;
        for table in self.tables.iter().filter(|table| !table.rows.is_empty()) {
            write!(f, "\n{table}")?;
        }
        for remark in &self.remarks {
            writeln!(f, "\n{remark}")?;
        }
        if !self.goals.0.is_empty() {
            write!(f, "\n{}", self.goals.table())?;
        }
        Ok(())
    }
}

/// A Markdown table; the first column holds words, the others figures.
pub struct Table {
    columns: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(columns: &[&'static str]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rule = vec!["---:"; self.columns.len() - 1].join("|");
        writeln!(f, "| {} |\n|---|{rule}|", self.columns.join(" | "))?;
        for row in &self.rows {
            writeln!(f, "| {} |", row.join(" | "))?;
        }
        Ok(())
    }
}

/// Figures with an upper bound.
#[derive(Default)]
pub struct Goals(Vec<Goal>);

struct Goal {
    what: String,
    /// None: it or what it is compared with could not be measured.
    reached: Option<f64>,
    at_most: f64,
}

impl Goals {
    /// `reached` as a bare figure.
    pub fn figure(&mut self, what: impl Into<String>, reached: Option<f64>, at_most: f64) {
        self.0.push(Goal { what: what.into(), reached, at_most });
    }

    /// The median of `ours` as a share of the median of `theirs`.
    pub fn ratio(&mut self, what: impl Into<String>, ours: Option<&Samples>, theirs: Option<&Samples>, at_most: f64) {
        self.figure(what, share(ours, theirs), at_most);
    }

    pub fn extend(&mut self, others: Goals) {
        self.0.extend(others.0);
    }

    fn table(&self) -> Table {
        let mut table = Table::new(&["goal", "at most", "reached", ""]);
        for goal in &self.0 {
            table.row([
                goal.what.clone(),
                format!("{:.2}", goal.at_most),
                goal.reached.map_or_else(|| "-".into(), two_places),
                match goal.met() {
                    Some(true) => "met".into(),
                    Some(false) => "**missed**".into(),
                    None => "not measured".into(),
                },
            ]);
        }
        table
    }

    /// How many are met, and which are not.
    pub fn verdict(&self) -> String {
        let met = self.0.iter().filter(|goal| goal.met() == Some(true));
        let mut verdict = format!("{} of {} goals met.\n", met.count(), self.0.len());
        for (word, state) in [("missed", Some(false)), ("not measured", None)] {
            let of_state = self.0.iter().filter(|goal| goal.met() == state);
            for (index, goal) in of_state.enumerate() {
                let gap = if index == 0 { "\n" } else { "" };
                verdict += &format!("{gap}- {word}: {}\n", goal.what);
            }
        }
        verdict
    }
}

impl Goal {
    fn met(&self) -> Option<bool> {
        // As it is shown.
        self.reached.map(|reached| (100.0 * reached).round() <= (100.0 * self.at_most).round())
    }
}

/// The median of `ours` as a share of the median of `theirs`, if both exist.
pub fn share(ours: Option<&Samples>, theirs: Option<&Samples>) -> Option<f64> {
    Some(ours?.median() / theirs?.median()).filter(|share| !share.is_nan())
}

/// `share` for a table's cell.
pub fn share_cell(ours: Option<&Samples>, theirs: Option<&Samples>) -> String {
    share(ours, theirs).map_or_else(|| "-".into(), two_places)
}

pub fn two_places(value: f64) -> String {
    if value.is_infinite() { "∞".into() } else { format!("{value:.2}") }
}

/// Median and middle half with `places` decimals, as two cells.
pub fn spread(samples: &Samples, places: usize) -> [String; 2] {
    let (lower, upper) = samples.middle_half();
    [format!("{:.places$}", samples.median()), format!("{lower:.places$} - {upper:.places$}")]
}
