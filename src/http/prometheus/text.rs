//! Prometheus's text format, version 0.0.4, as RabbitMQ writes it: `# TYPE` before `# HELP`, counters with the names that they
//! are found by. A library would force its registry on numbers that are kept elsewhere, and writes OpenMetrics, which
//! RabbitMQ's users don't expect.

use std::fmt::Write as _;

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
    Untyped,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Untyped => "untyped",
        }
    }
}

/// Labels with their values, in order.
pub type Labels<'a> = [(&'a str, &'a str)];

/// The metrics of one answer.
#[derive(Debug, Default)]
pub struct Text(String);

impl Text {
    /// Begins a metric: its samples follow.
    pub fn begin(&mut self, name: &str, kind: Kind, help: &str) {
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        let _ = writeln!(self.0, "# TYPE {name} {}\n# HELP {name} {help}", kind.name());
    }

    pub fn sample(&mut self, name: &str, labels: &Labels<'_>, value: f64) {
        self.0.push_str(name);
        self.labels(labels, None);
        self.value(value);
    }

    /// A metric of one number.
    pub fn one(&mut self, name: &str, kind: Kind, help: &str, value: f64) {
        self.begin(name, kind, help);
        self.sample(name, &[], value);
    }

    /// The samples of a histogram: how many there are up to each limit, and beyond the last; and their sum.
    pub fn histogram(&mut self, name: &str, labels: &Labels<'_>, limits: &[f64], buckets: &[u64], sum: f64) {
        let mut count = 0;
        for (at, bucket) in buckets.iter().enumerate() {
            count += bucket;
            let limit = limits.get(at).map_or("+Inf".to_owned(), f64::to_string);
            let _ = write!(self.0, "{name}_bucket");
            self.labels(labels, Some(&limit));
            self.value(count as f64);
        }
        for (suffix, value) in [("count", count as f64), ("sum", sum)] {
            let _ = write!(self.0, "{name}_{suffix}");
            self.labels(labels, None);
            self.value(value);
        }
    }

    fn labels(&mut self, labels: &Labels<'_>, limit: Option<&str>) {
        let limit = limit.map(|limit| ("le", limit));
        let mut before = '{';
        for (name, value) in labels.iter().copied().chain(limit) {
            let _ = write!(self.0, "{before}{name}=\"");
            before = ',';
            for letter in value.chars() {
                match letter {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    letter => self.0.push(letter),
                }
            }
            self.0.push('"');
        }
        if before == ',' {
            self.0.push('}');
        }
    }

    fn value(&mut self, value: f64) {
        let _ = match value {
            value if value.is_nan() => writeln!(self.0, " NaN"),
            value => writeln!(self.0, " {value}"),
        };
    }

    pub fn finish(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_written_as_prometheus_reads_them() {
        let mut text = Text::default();
        text.one("rabbitmq_queues", Kind::Gauge, "Queues available", 3.0);
        text.begin("x_total", Kind::Counter, "A \\ and\na line");
        text.sample("x_total", &[("vhost", "/"), ("queue", "a\"b\\c\nd")], 12_345_678_901.0);
        text.sample("x_total", &[("vhost", "/")], 0.25);
        text.sample("x_total", &[], f64::NAN);
        let expected = "\
# TYPE rabbitmq_queues gauge
# HELP rabbitmq_queues Queues available
rabbitmq_queues 3
# TYPE x_total counter
# HELP x_total A \\\\ and\\na line
x_total{vhost=\"/\",queue=\"a\\\"b\\\\c\\nd\"} 12345678901
x_total{vhost=\"/\"} 0.25
x_total NaN
";
        assert_eq!(text.finish(), expected);
    }

    #[test]
    fn a_histogram_counts_up_to_each_limit() {
        let mut text = Text::default();
        text.histogram("s", &[("protocol", "amqp091")], &[0.5, 1.0], &[1, 0, 2], 7.5);
        let expected = "\
s_bucket{protocol=\"amqp091\",le=\"0.5\"} 1
s_bucket{protocol=\"amqp091\",le=\"1\"} 1
s_bucket{protocol=\"amqp091\",le=\"+Inf\"} 3
s_count{protocol=\"amqp091\"} 3
s_sum{protocol=\"amqp091\"} 7.5
";
        assert_eq!(text.finish(), expected);
    }
}
