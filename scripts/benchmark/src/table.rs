//! The table that is printed.

/// Figures, a row each.
pub(crate) struct Table {
    rows: Vec<[String; 5]>,
}

impl Table {
    pub(crate) fn new() -> Table {
        let head = ["", "median", "min – max", "yardstick", "goal"];
        Table {
            rows: vec![head.map(str::to_owned)],
        }
    }

    /// Adds a figure: its rounds, what it is held against, and what it is to reach.
    pub(crate) fn add(
        &mut self,
        what: &str,
        unit: &str,
        rounds: &[f64],
        yardstick: Option<String>,
        goal: &str,
    ) {
        let (lowest, highest) = spread(rounds);
        self.rows.push([
            what.to_owned(),
            format!("{} {unit}", short(median(rounds))),
            format!("{} – {}", short(lowest), short(highest)),
            yardstick.unwrap_or_default(),
            goal.to_owned(),
        ]);
    }

    /// Adds the rows of another table.
    pub(crate) fn append(&mut self, other: Table) {
        self.rows.extend(other.rows.into_iter().skip(1));
    }

    pub(crate) fn print(&self) {
        let width = |column: usize| {
            self.rows
                .iter()
                .map(|row| row[column].chars().count())
                .max()
        };
        let widths: Vec<usize> = (0..5).map(|column| width(column).unwrap_or(0)).collect();
        for row in &self.rows {
            let cells: Vec<String> = row
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:<width$}"))
                .collect();
            println!("{}", cells.join("  ").trim_end());
        }
    }
}

pub(crate) fn median(rounds: &[f64]) -> f64 {
    let mut sorted = rounds.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn spread(rounds: &[f64]) -> (f64, f64) {
    rounds
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), &round| {
            (low.min(round), high.max(round))
        })
}

/// Three significant digits.
pub(crate) fn short(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}
