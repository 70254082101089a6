//! Tables for people: columns two spaces apart, never wrapped, never cut.
//!
//! Pure text; nothing here knows what it shows.

/// Rows below a header. Every row is as long as the header, shorter ones are filled up.
#[derive(Clone, Debug)]
pub struct Table {
    header: Vec<String>,
    right: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns. A name that starts with '>' makes its column stand to the right.
    pub fn new(columns: &[&str]) -> Self {
        Self {
            header: columns
                .iter()
                .map(|c| c.strip_prefix('>').unwrap_or(c).to_owned())
                .collect(),
            right: columns.iter().map(|c| c.starts_with('>')).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows
            .push(cells.into_iter().take(self.header.len()).collect());
    }

    /// True without rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The whole as text, without a newline at its end.
    pub fn render(&self) -> String {
        let all: Vec<&Vec<String>> = std::iter::once(&self.header).chain(&self.rows).collect();
        let width = |column: usize| {
            let cells = all.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.header.len()).map(width).collect();
        let line = |row: &&Vec<String>| {
            let mut text = String::new();
            for (column, (width, right)) in widths.iter().zip(&self.right).enumerate() {
                let cell = row.get(column).map_or("", String::as_str);
                let gap = " ".repeat(width.saturating_sub(cell.chars().count()));
                if column > 0 {
                    text.push_str("  ");
                }
                let (before, after) = if *right {
                    (gap.as_str(), "")
                } else {
                    ("", gap.as_str())
                };
                text.push_str(before);
                text.push_str(cell);
                text.push_str(after);
            }
            text.trim_end().to_owned()
        };
        all.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

/// A cell for something that may be absent or empty.
pub fn or_dash(text: impl Into<String>) -> String {
    let text = text.into();
    if text.is_empty() {
        "-".to_owned()
    } else {
        text
    }
}

/// An age for people: `340 ms`, `12 s`, `4 min`, `3 h`, `9 d`.
pub fn age(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..120_000 => format!("{} s", ms / 1_000),
        120_000..7_200_000 => format!("{} min", ms / 60_000),
        7_200_000..172_800_000 => format!("{} h", ms / 3_600_000),
        _ => format!("{} d", ms / 86_400_000),
    }
}

/// Time that is left, rounded up to what [`age`] shows, so that a fresh quarter of an hour reads as one.
pub fn left(ms: u64) -> String {
    let unit = match ms {
        0..1_000 => 1,
        1_000..119_000 => 1_000,
        119_000..7_140_000 => 60_000,
        _ => 3_600_000,
    };
    age(ms.div_ceil(unit) * unit)
}

/// A number with thousands separated.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["NAME", ">SIZE", "NOTE"]);
        table.row(["a".to_owned(), "1,000".to_owned(), "x".to_owned()]);
        table.row(["longer".to_owned(), "7".to_owned(), String::new()]);
        assert_eq!(
            table.render(),
            "NAME     SIZE  NOTE\na       1,000  x\nlonger      7"
        );
    }

    #[test]
    fn numbers_and_ages_read_well() {
        assert_eq!(
            (count(0), count(999), count(48_211)),
            ("0".into(), "999".into(), "48,211".into())
        );
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(
            (left(899_990), left(3_600_000), left(10_500)),
            ("15 min".into(), "60 min".into(), "11 s".into())
        );
        assert_eq!(
            (age(340), age(12_000), age(240_000)),
            ("340 ms".into(), "12 s".into(), "4 min".into())
        );
    }
}
