//! Figures: samples of one measure, and their quantiles.

use std::fmt;

/// Samples of one measure, of one seed or of several.
#[derive(Debug, Clone, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// Adds one; infinity is "never within the time that was given".
    pub fn add(&mut self, value: f64) {
        let at = self
            .0
            .partition_point(|known| known.total_cmp(&value).is_lt());
        self.0.insert(at, value);
    }

    /// Adds those of another seed.
    pub fn extend(&mut self, other: &Samples) {
        other.0.iter().for_each(|value| self.add(*value));
    }

    /// The smallest value that this share of the samples does not exceed; not a number if there
    /// are no samples.
    pub fn quantile(&self, share: f64) -> f64 {
        let rank = (share * self.0.len() as f64).ceil() as usize;
        let at = rank.clamp(1, self.0.len().max(1)) - 1;
        self.0.get(at).copied().unwrap_or(f64::NAN)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Samples {
        let mut samples = Samples::default();
        values.into_iter().for_each(|value| samples.add(value));
        samples
    }
}

impl fmt::Display for Samples {
    /// p50, p99 and the maximum, in columns.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for share in [0.5, 0.99, 1.0] {
            let value = self.quantile(share);
            let digits = if value >= 100.0 { 0 } else { 3 };
            write!(f, "{value:>9.digits$}")?;
        }
        Ok(())
    }
}

/// One measure of one scenario.
#[derive(Debug, Clone)]
pub struct Row {
    /// The measure and its unit.
    pub measure: &'static str,
    /// The figures.
    pub samples: Samples,
}

impl Row {
    /// A row of these samples.
    pub fn new(measure: &'static str, samples: impl IntoIterator<Item = f64>) -> Row {
        Row {
            measure,
            samples: samples.into_iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_samples() {
        let samples: Samples = (1..=200).rev().map(f64::from).collect();
        assert_eq!(samples.quantile(0.5), 100.0);
        assert_eq!(samples.quantile(0.99), 198.0);
        assert_eq!(samples.quantile(1.0), 200.0);
        assert!(Samples::default().quantile(0.5).is_nan());
        let never: Samples = [1.0, f64::INFINITY].into_iter().collect();
        assert_eq!(never.to_string(), "    1.000      inf      inf");
    }
}
