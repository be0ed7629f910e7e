//! Tables for people, as wide as their terminal.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Blanks between two columns.
const GAP: usize = 2;

/// From the terminal's palette.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    Plain,
    Green,
    Yellow,
}

/// The terminal that the table is shown on.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// In columns; `None`: unlimited.
    pub width: Option<usize>,
    pub coloured: bool,
}

/// One column, and how it yields when the table is too wide.
pub struct Column {
    title: &'static str,
    right: bool,
    /// Smallest width, and order in which columns shrink.
    shrinks: Option<(usize, u32)>,
    /// Order in which columns are dropped, highest first.
    goes: Option<u32>,
}

impl Column {
    /// A column of fixed width.
    pub fn new(title: &'static str) -> Self {
        Self { title, right: false, shrinks: None, goes: None }
    }

    /// For numbers.
    pub fn right(self) -> Self {
        Self { right: true, ..self }
    }

    /// Lets the column shrink down to `width`, lowest `order` first.
    pub fn shrinks_to(self, width: usize, order: u32) -> Self {
        Self { shrinks: Some((width, order)), ..self }
    }

    /// Lets the column be dropped, highest `order` first.
    pub fn may_go(self, order: u32) -> Self {
        Self { goes: Some(order), ..self }
    }
}

/// Rows of printable texts. The second column is coloured.
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<(Vec<String>, Colour)>,
}

impl Table {
    pub fn new(columns: Vec<Column>) -> Self {
        Self { columns, rows: Vec::new() }
    }

    pub fn row(&mut self, texts: Vec<String>, colour: Colour) {
        self.rows.push((texts, colour));
    }

    /// Leaves out optional columns without content.
    pub fn render(&self, look: Look) -> String {
        let mut widths = self.natural_widths();
        if let Some(width) = look.width {
            self.fit(&mut widths, width);
        }
        let titles: Vec<String> = self.columns.iter().map(|column| column.title.to_owned()).collect();
        let mut text = self.line(&titles, &widths, |_, text| match look.coloured {
            true => format!("\x1b[1m{text}\x1b[0m"),
            false => text,
        });
        for (texts, colour) in &self.rows {
            text += &self.line(texts, &widths, |column, text| match (colour, column) {
                (Colour::Green, 1) if look.coloured => format!("\x1b[32m{text}\x1b[0m"),
                (Colour::Yellow, 1) if look.coloured => format!("\x1b[33m{text}\x1b[0m"),
                _ => text,
            });
        }
        text
    }

    /// Width of the longest text of each column; `None`: hidden.
    fn natural_widths(&self) -> Vec<Option<usize>> {
        let width = |(position, column): (usize, &Column)| {
            let widest = self.rows.iter().map(|(texts, _)| texts[position].width()).max().unwrap_or(0);
            (widest > 0 || column.goes.is_none()).then(|| widest.max(column.title.width()))
        };
        let mut widths: Vec<_> = self.columns.iter().enumerate().map(width).collect();
        // Otherwise an empty last column would leave its title.
        if let Some(last) = widths.last_mut()
            && self.rows.iter().all(|(texts, _)| texts.last().is_none_or(String::is_empty))
        {
            *last = None;
        }
        widths
    }

    fn fit(&self, widths: &mut [Option<usize>], room: usize) {
        let narrowest =
            |position: usize, width: usize| self.columns[position].shrinks.map_or(width, |(least, _)| width.min(least));
        loop {
            let least: Vec<_> =
                widths.iter().enumerate().map(|(i, width)| width.map(|width| narrowest(i, width))).collect();
            let shown = |position: &usize| widths[*position].is_some();
            let next = (0..widths.len()).filter(shown).max_by_key(|&position| self.columns[position].goes);
            match next.filter(|&position| self.columns[position].goes.is_some() && total(&least) > room) {
                Some(position) => widths[position] = None,
                None => break,
            }
        }
        let mut order: Vec<usize> = (0..widths.len()).filter(|&i| self.columns[i].shrinks.is_some()).collect();
        order.sort_by_key(|&position| self.columns[position].shrinks.map(|(_, order)| order));
        for position in order {
            let excess = total(widths).saturating_sub(room);
            if let Some(width) = widths[position] {
                widths[position] = Some(width.saturating_sub(excess).max(narrowest(position, width)));
            }
        }
    }

    fn line(&self, texts: &[String], widths: &[Option<usize>], paint: impl Fn(usize, String) -> String) -> String {
        let mut line = String::new();
        let mut blanks = 0;
        for (position, text) in texts.iter().enumerate() {
            let Some(width) = widths[position] else { continue };
            let text = cut(text, width);
            let rest = width - text.width().min(width);
            let (before, after) = if self.columns[position].right { (rest, 0) } else { (0, rest) };
            blanks += before;
            if !text.is_empty() {
                line.extend(std::iter::repeat_n(' ', blanks));
                line += &paint(position, text);
                blanks = 0;
            }
            blanks += after + GAP;
        }
        line + "\n"
    }
}

fn total(widths: &[Option<usize>]) -> usize {
    let shown = widths.iter().flatten();
    (shown.clone().sum::<usize>() + GAP * shown.count()).saturating_sub(GAP)
}

/// Cuts a text to `width` columns, with an ellipsis.
pub fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut room = width.saturating_sub(1);
    let fits = |c: &char| {
        let needed = c.width().unwrap_or(0);
        let fits = needed <= room;
        room = room.saturating_sub(needed);
        fits
    };
    text.chars().take_while(fits).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(vec![
            Column::new("A").shrinks_to(3, 1),
            Column::new("STATE"),
            Column::new("N").right().may_go(1),
            Column::new("TEXT").shrinks_to(4, 0).may_go(2),
            Column::new("LAST"),
        ]);
        table.row(["one", "x", "1", "some long text", ""].map(String::from).into(), Colour::Green);
        table.row(["another", "y", "123", "", ""].map(String::from).into(), Colour::Plain);
        table
    }

    fn rendered(width: usize) -> String {
        table().render(Look { width: Some(width), coloured: false })
    }

    #[test]
    fn without_a_limit_everything_is_shown_and_nothing_that_is_empty() {
        let text = table().render(Look { width: None, coloured: false });
        assert_eq!(
            text,
            "A        STATE    N  TEXT\n\
             one      x        1  some long text\n\
             another  y      123\n"
        );
    }

    #[test]
    fn what_is_too_long_is_cut_in_order() {
        assert_eq!(rendered(30).lines().nth(1), Some("one      x        1  some lon…"));
        assert_eq!(rendered(21), "A    STATE    N  TEXT\none  x        1  som…\nan…  y      123\n");
    }

    #[test]
    fn what_does_not_fit_at_all_goes() {
        assert_eq!(rendered(15), "A    STATE    N\none  x        1\nan…  y      123\n");
        assert_eq!(rendered(10), "A    STATE\none  x\nan…  y\n");
    }

    #[test]
    fn only_the_state_has_a_colour() {
        let text = table().render(Look { width: None, coloured: true });
        assert!(text.contains("one      \x1b[32mx\x1b[0m        1"), "{text}");
    }

    #[test]
    fn wide_characters_count_twice() {
        assert_eq!(cut("漢字漢字", 5), "漢字…");
        assert_eq!(cut("漢字漢字", 4), "漢…");
    }
}
