//! What is done to the process as a whole, for the command line: `/reload`, `/stop`, `/log-level`, `/watermarks`,
//! `/environment`. RabbitMQ's tools do the same without HTTP.

use super::access::Role;
use super::answer::{Answer, Failure};
use super::describe::{Field, Kind, may, must};
use super::listing::list;
use super::request::Request;
use super::route::Route;
pub use crate::config::Effective;
use crate::config::{Config, Sources};
use crate::telemetry;
use serde::Serialize;
use serde_json::{Map, Value as Json, json};
use std::sync::Arc;

/// What came of reading settings again, a sentence each.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Reloaded {
    pub reloaded: Vec<String>,
    /// What stays as it was, and why.
    pub mistakes: Vec<String>,
}

/// The process, as far as it can be told something.
pub trait Control: Send + Sync {
    /// Reads settings again.
    fn reload(&self) -> Reloaded;
    /// Begins the graceful end, as SIGTERM does.
    fn stop(&self);
    /// All settings.
    fn settings(&self) -> Vec<Effective>;
}

const LEVEL: &[Field] = &[must("level", Kind::Text)];
const WATERMARK: &[Field] = &[may("relative", Kind::Any), may("absolute", Kind::Any)];

type Shared = Arc<dyn Control>;

pub fn routes(control: &Shared) -> Vec<Route> {
    let [of_reload, of_stop, of_settings] = [(); 3].map(|()| Arc::clone(control));
    vec![
        Route::new("/reload", Role::Administrator)
            .post(move |_| reload(Arc::clone(&of_reload)))
            .says("Reads settings and certificates again")
            .takes(&[]),
        Route::new("/stop", Role::Administrator)
            .post(move |request| stop(Arc::clone(&of_stop), request))
            .says("Stops the broker")
            .takes(&[]),
        Route::new("/log-level", Role::Administrator)
            .put(level)
            .says("Sets how much is logged, until the next start")
            .takes(LEVEL),
        Route::new("/environment", Role::Administrator)
            .get(move |request| environment(Arc::clone(&of_settings), request))
            .says("Every setting, its value, and where it was said")
            .lists(),
        Route::new("/watermarks/{what}", Role::Administrator)
            .put(watermark)
            .says("Sets when memory or disk count as short, until the next start")
            .takes(WATERMARK),
    ]
}

async fn reload(control: Shared) -> Result<Answer, Failure> {
    // Files are read: no work for a task.
    let reloaded = tokio::task::spawn_blocking(move || control.reload()).await;
    let reloaded = reloaded.map_err(|_| Failure::internal("reading settings again panicked"))?;
    Ok(Answer::Json(json!(reloaded)))
}

async fn stop(control: Shared, request: Request) -> Result<Answer, Failure> {
    tracing::info!("user '{}' asks the broker to stop", request.by());
    control.stop();
    Ok(Answer::Done)
}

async fn level(mut request: Request) -> Result<Answer, Failure> {
    let ([level], _) = request.fields(["level"]).await?;
    let level = level.as_str().ok_or_else(|| Failure::bad_request("level should be a string"))?;
    // RabbitMQ's names for two of them.
    let level = match level {
        "critical" => "error",
        "none" => "off",
        level => level,
    };
    let config = with_setting("log.level", level)?;
    telemetry::change_level(&config.log).map_err(Failure::bad_request)?;
    tracing::info!("user '{}' has set the log level to {level}", request.by());
    Ok(Answer::Done)
}

async fn environment(control: Shared, request: Request) -> Result<Answer, Failure> {
    let shown = |setting: Effective| {
        let mut shown = Map::new();
        shown.insert("name".to_owned(), setting.key.into());
        shown.insert("value".to_owned(), setting.value.map_or_else(|| "…".into(), Json::from));
        let place = setting.place.map_or_else(|| "default".to_owned(), |place| place.to_string());
        shown.insert("said_in".to_owned(), place.into());
        shown
    };
    list(&request.query, &["name"], control.settings().into_iter().map(shown).collect())
}

/// `{"relative": 0.4}`, a share of memory, or `{"absolute": "2GB"}`.
async fn watermark(mut request: Request) -> Result<Answer, Failure> {
    let fields = request.json().await?;
    let text = |key: &str| match fields.get(key) {
        Some(Json::String(text)) => Some(text.clone()),
        Some(number @ Json::Number(_)) => Some(number.to_string()),
        _ => None,
    };
    let (kind, value) = match (text("relative"), text("absolute")) {
        (Some(share), None) => ("relative", share),
        (None, Some(amount)) => ("absolute", amount),
        _ => return Err(Failure::bad_request("say either 'relative' or 'absolute'")),
    };
    let alarms = &request.broker.alarms;
    match request.name("what") {
        "memory" => {
            let config = with_setting(&format!("vm_memory_high_watermark.{kind}"), &value)?;
            alarms.set_memory_watermark(config.memory_watermark);
        }
        "disk" => {
            let config = with_setting(&format!("disk_free_limit.{kind}"), &value)?;
            config.disk_free_limit.into_iter().for_each(|mark| alarms.set_disk_free_limit(mark));
        }
        _ => return Err(Failure::no_object()),
    }
    tracing::info!("user '{}' has set the mark for {}", request.by(), request.name("what"));
    Ok(Answer::Done)
}

/// What a value of a setting means, in the words of the settings if it means nothing.
fn with_setting(key: &str, value: &str) -> Result<Config, Failure> {
    let sources = Sources { flags: vec![(key.to_owned(), vec![value.to_owned()])], ..Sources::default() };
    Config::load(&sources).map(|(config, _)| config).map_err(|remarks| {
        let mistakes: Vec<_> = remarks.mistakes.iter().map(|mistake| mistake.what.as_str()).collect();
        Failure::bad_request(mistakes.join("; "))
    })
}
