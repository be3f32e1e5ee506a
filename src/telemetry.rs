//! Logs, on standard output: where RabbitMQ's image writes them, and where tools wait for lines of them.

use std::fmt;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value as Json};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::TryInitError;

use crate::config::{Log, LogFormat};

/// Puts another filter in the place of the one that logs.
type Refilter = Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>;
static REFILTER: OnceLock<Refilter> = OnceLock::new();

/// Starts to log, for the rest of the process. The error says that something else logs already.
pub fn start_logging(log: &Log) -> Result<(), TryInitError> {
    use tracing_subscriber::util::SubscriberInitExt;
    let subscriber = tracing_subscriber::fmt()
        .event_format(log.format)
        .with_writer(std::io::stdout)
        .with_env_filter(filter(log))
        .with_filter_reloading();
    let handle = subscriber.reload_handle();
    let refilter: Refilter = Box::new(move |filter| handle.reload(filter).map_err(|error| error.to_string()));
    subscriber.finish().try_init()?;
    // Nobody else has started to log.
    let _ = REFILTER.set(refilter);
    Ok(())
}

/// Logs from now on what these settings say; how a line looks stays. The error says that nothing is logged.
pub fn change_level(log: &Log) -> Result<(), String> {
    let refilter = REFILTER.get().ok_or("nothing is logged")?;
    refilter(filter(log))
}

fn filter(log: &Log) -> EnvFilter {
    // What `config` makes is well formed; from anything else, what is not is left out.
    EnvFilter::builder().with_regex(false).parse_lossy(&log.filter)
}

impl<S, N> FormatEvent<S, N> for LogFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut said = Said::default();
        event.record(&mut said);
        match self {
            Self::Plain => plain(writer, SystemTime::now(), *event.metadata().level(), said),
            Self::Json => json(writer, SystemTime::now(), *event.metadata().level(), event.metadata().target(), said),
        }
    }
}

/// `2026-11-23 15:55:28.019764+00:00 [info] text field=value`. Always one line, whatever names a client has chosen.
fn plain(mut writer: impl fmt::Write, time: SystemTime, level: Level, said: Said) -> fmt::Result {
    let mut text = said.message;
    for (name, value) in said.fields {
        text.push_str(&match value {
            Json::String(value) => format!(" {name}={value}"),
            value => format!(" {name}={value}"),
        });
    }
    write!(writer, "{} [{}] ", timestamp(time), level_name(level))?;
    for letter in text.chars() {
        if letter.is_control() {
            write!(writer, "{}", letter.escape_default())?;
        } else {
            writer.write_char(letter)?;
        }
    }
    writeln!(writer)
}

/// `{"time":…,"level":…,"msg":…,"target":…}` and the event's own fields: RabbitMQ's names.
fn json(mut writer: impl fmt::Write, time: SystemTime, level: Level, target: &str, said: Said) -> fmt::Result {
    let mut object = Map::new();
    object.insert("time".to_owned(), timestamp(time).into());
    object.insert("level".to_owned(), level_name(level).into());
    object.insert("msg".to_owned(), said.message.into());
    object.insert("target".to_owned(), target.into());
    for (name, value) in said.fields {
        object.insert(name.to_owned(), value);
    }
    writeln!(writer, "{}", Json::Object(object))
}

/// What an event says.
#[derive(Default)]
struct Said {
    message: String,
    fields: Vec<(&'static str, Json)>,
}

impl Said {
    fn put(&mut self, field: &Field, value: Json) {
        match (field.name(), value) {
            ("message", Json::String(text)) => self.message = text,
            (name, value) => self.fields.push((name, value)),
        }
    }
}

impl Visit for Said {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        Level::INFO => "info",
        _ => "debug",
    }
}

/// UTC, to the microsecond.
fn timestamp(time: SystemTime) -> String {
    // A clock before 1970 is wrong in any case.
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let (days, second_of_day) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = crate::clock::date(days);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}.{:06}+00:00",
        second_of_day / 3600,
        second_of_day / 60 % 60,
        second_of_day % 60,
        since.subsec_micros()
    )
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    fn at(seconds: u64, micros: u32) -> SystemTime {
        UNIX_EPOCH + Duration::new(seconds, micros * 1000)
    }

    #[test]
    fn times_are_utc_to_the_microsecond() {
        let cases = [
            (0, 0, "1970-01-01 00:00:00.000000+00:00"),
            (951_868_799, 999_999, "2000-02-29 23:59:59.999999+00:00"),
            (1_735_646_400, 1, "2024-12-31 12:00:00.000001+00:00"),
            (1_795_449_328, 19_764, "2026-11-23 15:55:28.019764+00:00"),
            (4_107_542_400, 0, "2100-03-01 00:00:00.000000+00:00"),
        ];
        for (seconds, micros, text) in cases {
            assert_eq!(timestamp(at(seconds, micros)), text);
        }
    }

    #[test]
    fn a_plain_line_is_one_line_whatever_it_says() {
        let mut out = String::new();
        let fields = vec![("queue", Json::from("a\nb")), ("count", Json::from(3))];
        let said = Said { message: "it is\r\u{1b}[31m so".to_owned(), fields };
        plain(&mut out, at(0, 0), Level::WARN, said).unwrap();
        assert_eq!(out, "1970-01-01 00:00:00.000000+00:00 [warning] it is\\r\\u{1b}[31m so queue=a\\nb count=3\n");
    }

    /// What the events of `events` look like, with their times taken out.
    fn logged(log: &Log, events: fn()) -> String {
        #[derive(Clone, Default)]
        struct Sink(Arc<Mutex<Vec<u8>>>);
        impl std::io::Write for Sink {
            fn write(&mut self, octets: &[u8]) -> std::io::Result<usize> {
                self.0.lock().unwrap().extend_from_slice(octets);
                Ok(octets.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let sink = Sink::default();
        let writer = sink.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(filter(log))
            .event_format(log.format)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, events);
        let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        regex::Regex::new(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}\+00:00")
            .unwrap()
            .replace_all(&text, "TIME")
            .into_owned()
    }

    fn events() {
        let name = "q";
        tracing::info!("plain {name}");
        tracing::error!(target: "leveret::connection", count = 3, peer = %"1.2.3.4", on = true, "with fields");
        tracing::debug!(target: "leveret::connection", "fine print");
        tracing::debug!("unseen");
    }

    #[test]
    fn lines_look_like_rabbitmqs_and_the_filter_counts() {
        let log = Log { filter: "info,leveret::connection=debug".to_owned(), format: LogFormat::Plain };
        assert_eq!(
            logged(&log, events),
            "TIME [info] plain q\nTIME [error] with fields count=3 peer=1.2.3.4 on=true\nTIME [debug] fine print\n"
        );
        assert_eq!(logged(&Log { filter: "off".to_owned(), ..log }, events), "");
    }

    #[test]
    fn json_lines_have_an_events_fields() {
        let log = Log { filter: "error".to_owned(), format: LogFormat::Json };
        let line = logged(&log, events);
        assert_eq!(
            serde_json::from_str::<Json>(&line).unwrap(),
            serde_json::json!({
                "time": "TIME", "level": "error", "msg": "with fields", "target": "leveret::connection",
                "count": 3, "peer": "1.2.3.4", "on": true
            })
        );
    }
}
