//! What PostgreSQL returned, as text.

/// One row: its columns as text.
pub type Columns = Vec<Option<String>>;
/// What one statement returned.
pub type Rows = Vec<Columns>;

/// What the statements of a message returned, those that return rows.
#[derive(Debug, Default)]
pub struct Answer(Vec<Rows>);

impl Answer {
    /// A statement's rows follow.
    pub fn begin(&mut self) {
        self.0.push(Rows::new());
    }

    /// A row of this statement.
    pub fn add(&mut self, columns: Columns) {
        if let Some(rows) = self.0.last_mut() {
            rows.push(columns);
        }
    }

    /// The rows of the last statements.
    pub fn last(mut self, statements: usize) -> Vec<Rows> {
        self.0.split_off(self.0.len().saturating_sub(statements))
    }

    /// The first statement's rows, which are taken away.
    pub fn take_first(&mut self) -> Rows {
        match self.0.is_empty() {
            true => Rows::new(),
            false => self.0.remove(0),
        }
    }
}

/// A number in the first column of the first row.
pub fn first_number(rows: Option<&Rows>) -> Option<u64> {
    number(rows?.first()?, 0)
}

/// A column as a number.
pub fn number<T: std::str::FromStr>(columns: &Columns, column: usize) -> Option<T> {
    text(columns, column)?.parse().ok()
}

/// A column as text.
pub fn text(columns: &Columns, column: usize) -> Option<&str> {
    columns.get(column)?.as_deref()
}
