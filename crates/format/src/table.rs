//! Aligned columns, as Docker's lists have them.

use crate::printable;

/// Rows of cells; every column is as wide as its widest cell, but at least this.
const MIN_WIDTH: usize = 10;
/// Spaces between columns.
const PADDING: usize = 3;

/// A table that is being filled.
#[derive(Clone, Debug, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table.
    #[must_use]
    pub fn new() -> Table {
        Table::default()
    }

    /// Adds a row; control characters in it are shown, not obeyed.
    pub fn push(&mut self, row: impl IntoIterator<Item = String>) {
        let cells = row.into_iter();
        let cells = cells.map(|cell| printable(&cell).into_owned());
        self.rows.push(cells.collect());
    }

    /// The table as text; every row ends with a line end, none with spaces that pad nothing.
    #[must_use]
    pub fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                // As Go's tabwriter: the last cell of a row does not make its column wider.
                let cells = self.rows.iter().filter(|row| row.len() > column + 1);
                let widest = cells.map(|row| width(&row[column])).max().unwrap_or(0);
                (widest + PADDING).max(MIN_WIDTH)
            })
            .collect();
        let mut output = String::new();
        for row in &self.rows {
            for (column, cell) in row.iter().enumerate() {
                output.push_str(cell);
                if column + 1 < row.len() {
                    let missing = widths[column].saturating_sub(width(cell));
                    output.extend(std::iter::repeat_n(' ', missing));
                }
            }
            output.push('\n');
        }
        output
    }
}

fn width(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::Table;

    #[test]
    fn columns_are_aligned_and_the_last_is_not_padded() {
        let mut table = Table::new();
        for row in [["ID", "IMAGE", "NAMES"], ["1", "debian:bookworm", "web"]] {
            table.push(row.map(str::to_owned));
        }
        assert_eq!(
            table.render(),
            "ID        IMAGE             NAMES\n1         debian:bookworm   web\n"
        );
        assert_eq!(Table::new().render(), "");
    }
}
