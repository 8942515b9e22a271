//! What a replay prints: a table, and a plot of the delivery times over the run.

use std::{path::Path, time::Duration};

use anyhow::anyhow;
use plotters::prelude::{
    BLACK, BLUE, ChartBuilder, Color as _, GREEN, IntoDrawingArea as _, IntoLogRange as _,
    LineSeries, PathElement, RED, SVGBackend, WHITE,
};

use super::{faults::Killed, stage::Delivery};

/// Shares of the deliveries, by time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Percentiles {
    /// Half are faster, ms.
    pub p50_ms: f64,
    /// 99 of 100 are faster, ms.
    pub p99_ms: f64,
    /// The slowest, ms.
    pub max_ms: f64,
}

impl Percentiles {
    /// Of these deliveries; `None` without any.
    #[must_use]
    pub fn of(deliveries: &[Delivery]) -> Option<Self> {
        let mut times: Vec<u32> = deliveries.iter().map(|delivery| delivery.took_us).collect();
        times.sort_unstable();
        let max = *times.last()?;
        let at = |share: usize| f64::from(times[(times.len() - 1) * share / 100]) / 1_000.0;
        Some(Self {
            p50_ms: at(50),
            p99_ms: at(99),
            max_ms: f64::from(max) / 1_000.0,
        })
    }
}

/// The rows of the table.
#[derive(Clone, Debug, Default)]
pub struct Table {
    rows: Vec<(String, String)>,
}

impl Table {
    /// Adds a row.
    pub fn row(&mut self, name: &str, value: impl std::fmt::Display) {
        self.rows.push((name.to_owned(), value.to_string()));
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let width = self
            .rows
            .iter()
            .map(|(name, _)| name.chars().count())
            .max()
            .unwrap_or(0);
        for (name, value) in &self.rows {
            writeln!(f, "  {name:width$}  {value}")?;
        }
        Ok(())
    }
}

/// Draws p50, p99 and the slowest of every second, and the kills.
///
/// # Errors
/// If the file cannot be written.
pub fn plot(path: &Path, deliveries: &[Delivery], kills: &[Killed]) -> anyhow::Result<()> {
    let last_s = deliveries
        .last()
        .map_or(1, |delivery| delivery.at_ms / 1_000 + 1);
    let seconds: Vec<(f64, Percentiles)> = deliveries
        .chunk_by(|a, b| a.at_ms / 1_000 == b.at_ms / 1_000)
        .filter_map(|second| {
            let at = f64::from(second.first()?.at_ms / 1_000);
            Some((at, Percentiles::of(second)?))
        })
        .collect();
    let slowest = seconds.iter().map(|(_, of)| of.max_ms).fold(10.0, f64::max);
    let failed = |error| anyhow!("the plot cannot be drawn: {error}");
    let area = SVGBackend::new(path, (1_000, 420)).into_drawing_area();
    area.fill(&WHITE)
        .map_err(|error| failed(error.to_string()))?;
    let mut chart = ChartBuilder::on(&area)
        .caption("delivery, ms, by second of the run", ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(32)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..f64::from(last_s), (0.1..slowest * 1.2).log_scale())
        .map_err(|error| failed(error.to_string()))?;
    chart
        .configure_mesh()
        .x_desc("s")
        .y_desc("ms")
        .draw()
        .map_err(|error| failed(error.to_string()))?;
    let lines = [
        (
            "p50",
            GREEN,
            seconds
                .iter()
                .map(|(at, of)| (*at, of.p50_ms.max(0.1)))
                .collect::<Vec<_>>(),
        ),
        (
            "p99",
            BLUE,
            seconds
                .iter()
                .map(|(at, of)| (*at, of.p99_ms.max(0.1)))
                .collect(),
        ),
        (
            "max",
            RED,
            seconds
                .iter()
                .map(|(at, of)| (*at, of.max_ms.max(0.1)))
                .collect(),
        ),
    ];
    for (name, color, points) in lines {
        chart
            .draw_series(LineSeries::new(points, &color))
            .map_err(|error| failed(error.to_string()))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color));
    }
    for kill in kills {
        let at = kill.at.as_secs_f64();
        chart
            .draw_series(LineSeries::new(
                [(at, 0.1), (at, slowest * 1.2)],
                BLACK.mix(0.4),
            ))
            .map_err(|error| failed(error.to_string()))?;
    }
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.8))
        .draw()
        .map_err(|error| failed(error.to_string()))?;
    area.present().map_err(|error| failed(error.to_string()))
}

/// A duration for the table.
#[must_use]
pub fn seconds(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_sorted_times() {
        let deliveries: Vec<Delivery> = (0..100)
            .rev()
            .map(|n| Delivery {
                at_ms: n,
                took_us: (n + 1) * 1_000,
            })
            .collect();
        let of = Percentiles::of(&deliveries).unwrap();
        assert_eq!((of.p50_ms, of.p99_ms, of.max_ms), (50.0, 99.0, 100.0));
        assert_eq!(Percentiles::of(&[]), None);
    }

    #[test]
    fn a_plot_is_drawn_with_its_kills() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plot.svg");
        let deliveries: Vec<Delivery> = (0..5_000)
            .map(|n| Delivery {
                at_ms: n,
                took_us: 300 + n,
            })
            .collect();
        let second = Duration::from_secs(1);
        let kill = Killed {
            at: second,
            ready: second,
            recovered: second,
        };
        plot(&path, &deliveries, &[kill]).unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        assert!(
            svg.contains("<svg") && svg.matches("<polyline").count() >= 4,
            "{svg}"
        );
        plot(&path, &[], &[]).unwrap();
    }
}
