//! The page that Prometheus reads, in the text format of OpenMetrics 1.0. `prometheus-client` knows the format; the values are ours,
//! because its own families take a lock for each count.

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::Registry,
};

use super::{
    Metrics,
    table::{
        COUNTERS, CounterName, Description, GAUGES, GaugeName, HISTOGRAMS, HistogramName,
        MetricKind,
    },
};

/// The media type of the page.
pub const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// One gauge as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct GaugeValue {
    name: GaugeName,
    labels: Vec<String>,
    value: f64,
}

impl GaugeValue {
    /// A gauge without labels.
    #[must_use]
    pub fn new(name: GaugeName, value: f64) -> Self {
        Self::with(name, &[], value)
    }

    /// A gauge with these values of its labels.
    #[must_use]
    pub fn with(name: GaugeName, labels: &[&str], value: f64) -> Self {
        debug_assert_eq!(GAUGES[name.0].labels.len(), labels.len());
        Self {
            name,
            labels: labels.iter().map(|one| (*one).to_owned()).collect(),
            value,
        }
    }
}

/// Everything that is shown: the counters and durations of a process, and a way to read its gauges.
pub struct MetricsPage {
    registry: Registry,
}

impl MetricsPage {
    /// `gauges` is called for each page.
    #[must_use]
    pub fn new(
        metrics: Arc<Metrics>,
        gauges: impl Fn() -> Vec<GaugeValue> + Send + Sync + 'static,
    ) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Counted(metrics)));
        registry.register_collector(Box::new(Measured(Box::new(gauges))));
        Self { registry }
    }

    /// The page, as of now.
    #[must_use]
    pub fn render(&self) -> String {
        let mut page = String::new();
        // A String takes whatever is written to it.
        let _ = text::encode(&mut page, &self.registry);
        page
    }
}

type Labels<'a> = Vec<(&'a str, &'a str)>;

fn introduce<'a>(
    encoder: &'a mut DescriptorEncoder<'_>,
    row: &'a Description,
) -> Result<MetricEncoder<'a>, fmt::Error> {
    let (name, kind) = match row.kind {
        // The encoder writes `_total` itself.
        MetricKind::Counter => (
            row.name.strip_suffix("_total").unwrap_or(row.name),
            MetricType::Counter,
        ),
        MetricKind::Gauge => (row.name, MetricType::Gauge),
        MetricKind::Histogram => (row.name, MetricType::Histogram),
    };
    encoder.encode_descriptor(name, row.help, None, kind)
}

/// Hands the encoder of one series to `write`.
fn series(
    encoder: &mut MetricEncoder<'_>,
    row: &Description,
    values: &[&str],
    write: impl FnOnce(&mut MetricEncoder<'_>) -> fmt::Result,
) -> fmt::Result {
    if values.is_empty() {
        return write(encoder);
    }
    let labels: Labels<'_> = row
        .labels
        .iter()
        .copied()
        .zip(values.iter().copied())
        .collect();
    write(&mut encoder.encode_family(&labels)?)
}

/// Counters and histograms.
#[derive(Debug)]
struct Counted(Arc<Metrics>);

impl Collector for Counted {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for (index, row) in COUNTERS.iter().enumerate() {
            let mut encoder = introduce(&mut encoder, row)?;
            for (labels, count) in self.0.counters(CounterName(index)) {
                series(&mut encoder, row, &labels, |one| {
                    one.encode_counter::<NoLabelSet, u64, f64>(&count, None)
                })?;
            }
        }
        for (index, row) in HISTOGRAMS.iter().enumerate() {
            let mut encoder = introduce(&mut encoder, row)?;
            for one in self.0.histograms.of(HistogramName(index)) {
                series(&mut encoder, row, one.labels, |encoder| {
                    encoder.encode_histogram::<NoLabelSet>(one.sum, one.count, &one.classes, None)
                })?;
            }
        }
        Ok(())
    }
}

/// Gauges.
struct Measured(Box<dyn Fn() -> Vec<GaugeValue> + Send + Sync>);

impl fmt::Debug for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Measured")
    }
}

impl Collector for Measured {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let values = (self.0)();
        for (index, row) in GAUGES.iter().enumerate() {
            let mut encoder = introduce(&mut encoder, row)?;
            for one in values.iter().filter(|one| one.name == GaugeName(index)) {
                let labels: Vec<&str> = one.labels.iter().map(String::as_str).collect();
                series(&mut encoder, row, &labels, |encoder| {
                    // A whole number is shown as one.
                    let whole = one.value as i64;
                    match whole as f64 == one.value {
                        true => encoder.encode_gauge(&whole),
                        false => encoder.encode_gauge(&one.value),
                    }
                })?;
            }
        }
        Ok(())
    }
}
