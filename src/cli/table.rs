//! Columns as wide as they need to be.

use super::render::Style;

#[derive(Clone, Copy)]
pub(super) struct Column {
    heading: &'static str,
    right: bool,
}

impl Column {
    pub(super) const fn left(heading: &'static str) -> Column {
        Column { heading, right: false }
    }

    pub(super) const fn right(heading: &'static str) -> Column {
        Column { heading, right: true }
    }
}

pub(super) struct Table<const N: usize> {
    columns: [Column; N],
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    pub(super) fn new(columns: [Column; N]) -> Table<N> {
        Table { columns, rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells);
    }

    /// Indented under a heading of the caller's; `paint` colours a cell, which does not change its width.
    pub(super) fn render(&self, paint: impl Fn(&str) -> String) -> String {
        let widths = self.widths();
        let headings = self.headings();
        let lines = std::iter::once(&headings).chain(&self.rows);
        lines.map(|cells| format!("  {}", self.line(cells, &widths, &paint))).collect()
    }

    /// Its own line of headings is the section's heading.
    pub(super) fn render_headed(&self, style: Style) -> String {
        let widths = self.widths();
        let mut text = style.heading(self.line(&self.headings(), &widths, &str::to_string).trim_end());
        text.push('\n');
        text.extend(self.rows.iter().map(|cells| self.line(cells, &widths, &str::to_string)));
        text
    }

    fn headings(&self) -> [String; N] {
        self.columns.map(|column| column.heading.to_string())
    }

    fn widths(&self) -> [usize; N] {
        std::array::from_fn(|index| {
            let cells = self.rows.iter().map(|row| row[index].chars().count());
            cells.chain([self.columns[index].heading.chars().count()]).max().unwrap_or(0)
        })
    }

    fn line(&self, cells: &[String; N], widths: &[usize; N], paint: &impl Fn(&str) -> String) -> String {
        let mut line = String::new();
        for ((cell, column), width) in cells.iter().zip(&self.columns).zip(widths) {
            let padding = " ".repeat(width - cell.chars().count());
            let (before, after) = if column.right { (padding.as_str(), "") } else { ("", padding.as_str()) };
            line += &format!("{before}{}{after}  ", paint(cell));
        }
        line.truncate(line.trim_end().len());
        line.push('\n');
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_does_not_shift_columns() {
        let mut table = Table::new([Column::left("Name"), Column::right("Count"), Column::left("Link")]);
        table.row(["a".into(), "7".into(), "down".into()]);
        table.row(["longer".into(), "123456".into(), "up".into()]);
        let text = table.render(|cell| if cell == "7" { "<7>".into() } else { cell.into() });
        assert_eq!(text, "  Name     Count  Link\n  a            <7>  down\n  longer  123456  up\n");
        assert_eq!(
            table.render_headed(Style::default()),
            "Name     Count  Link\na            7  down\nlonger  123456  up\n"
        );
    }
}
