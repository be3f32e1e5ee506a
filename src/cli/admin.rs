//! `rabbitmqadmin`, in the syntax of its first version (`declare queue name=q`) and of its second (`queues declare --name
//! q`), as scripts and test libraries call it. Both say what is to be done, what to, and fields with values; they are read
//! into one [`Order`].

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Map, Value as Json, json};

use super::api::{Api, Body, Target, segment};
use super::ctl::output::{Output, Rows, at, plain, pretty, say};
use super::ctl::verb::exit;
use super::ctl::{definitions, version};

/// What goes wrong: the text and the code to end with.
type Failure = (u8, String);
/// The first version ends so whatever happens.
const FAILED: u8 = 1;

/// What is to be done.
#[derive(Debug, Default, PartialEq)]
struct Order {
    /// `declare`, `list`, …
    action: String,
    /// `queue`, `exchange`, … in the singular.
    object: String,
    /// By names with underscores.
    fields: BTreeMap<String, String>,
    /// What is neither: columns, files.
    rest: Vec<String>,
}

/// How the tool is to go about it.
#[derive(Debug, Default)]
struct Manner {
    target: Target,
    vhost: Option<String>,
    host: Option<String>,
    port: Option<String>,
    prefix: Option<String>,
    is_tls: bool,
    is_quiet: bool,
    format: String,
    sort: Option<String>,
    is_reversed: bool,
    timeout_s: Option<u64>,
}

const ACTIONS: [&str; 12] = [
    "list",
    "show",
    "declare",
    "delete",
    "close",
    "purge",
    "publish",
    "get",
    "import",
    "export",
    "health_check",
    "version",
];

/// Names of things, in the plural and in the singular.
const OBJECTS: [(&str, &str); 23] = [
    ("queues", "queue"),
    ("exchanges", "exchange"),
    ("bindings", "binding"),
    ("connections", "connection"),
    ("channels", "channel"),
    ("consumers", "consumer"),
    ("users", "user"),
    ("vhosts", "vhost"),
    ("permissions", "permission"),
    ("topic_permissions", "topic_permission"),
    ("policies", "policy"),
    ("operator_policies", "operator_policy"),
    ("parameters", "parameter"),
    ("global_parameters", "global_parameter"),
    ("vhost_limits", "vhost_limit"),
    ("user_limits", "user_limit"),
    ("nodes", "node"),
    ("feature_flags", "feature_flag"),
    ("deprecated_features", "deprecated_feature"),
    ("messages", "message"),
    ("definitions", "definition"),
    ("overview", "overview"),
    ("health_checks", "health_check"),
];

/// Flags that take no value.
const SWITCHES: [&str; 14] = [
    "quiet",
    "idempotently",
    "non-interactive",
    "ssl",
    "tls",
    "use-tls",
    "stdin",
    "stdout",
    "sort-reverse",
    "ssl-insecure",
    "insecure",
    "bash-completion",
    "approximate",
    "generate-completions",
];

const USAGE: &str = "Usage
  rabbitmqadmin [options] list|show|declare|delete|close|purge|publish|get|import|export …

  list queues|exchanges|bindings|connections|channels|consumers|users|vhosts|permissions|policies|parameters|nodes [column …]
  show overview
  declare queue name=… [durable=true auto_delete=false arguments={…} queue_type=quorum]
  declare exchange name=… type=…        declare binding source=… destination=… [routing_key=…]
  declare vhost|user|permission|policy|operator_policy|parameter|vhost_limit|user_limit …
  delete queue|exchange|binding|vhost|user|permission|policy|… …
  publish routing_key=… [exchange=… payload=… properties={…}]        get queue=… [count=1 ackmode=ack_requeue_true]
  purge queue name=…        close connection name=…        export FILE        import FILE

The same in the second version's syntax: queues declare --name … --type quorum, list queues, definitions export --file …

Options: -H HOST -P PORT -V VHOST -u USER -p PASSWORD -c CONFIG -N SECTION -s (TLS) -q (quiet)
         -f table|tsv|long|kvp|raw_json|pretty_json|bash -S COLUMN -R (reverse) --base-uri URL --path-prefix PATH --timeout SECONDS";

pub fn run(arguments: &[String]) -> ExitCode {
    match attempt(arguments) {
        Ok(text) => {
            if !text.is_empty() {
                say(&format!("{}\n", text.trim_end_matches('\n')));
            }
            ExitCode::SUCCESS
        }
        Err((code, text)) => {
            eprintln!("{}", text.trim_end());
            ExitCode::from(code)
        }
    }
}

fn attempt(arguments: &[String]) -> Result<String, Failure> {
    if matches!(arguments.first().map(String::as_str), None | Some("--help" | "-h" | "help")) {
        return match arguments.is_empty() {
            true => Err((FAILED, USAGE.to_owned())),
            false => Ok(USAGE.to_owned()),
        };
    }
    if arguments.iter().any(|word| word == "--version") {
        return Ok(format!("rabbitmqadmin {}", version()));
    }
    let (order, manner) = read(arguments)?;
    let admin = Admin::new(manner)?;
    admin.carry_out(&order)
}

/// Sorts the words out: what is to be done, and how to go about it.
fn read(arguments: &[String]) -> Result<(Order, Manner), Failure> {
    let mut order = Order::default();
    let mut manner = Manner { format: "table".to_owned(), ..Manner::default() };
    manner.target.api_section = "default".to_owned();
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let (name, said) = match word.strip_prefix("--").map(|flag| flag.split_once('=').unwrap_or((flag, ""))) {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned()).filter(|_| word.contains('='))),
            None if word.len() >= 2 && word.starts_with('-') && !word.contains('=') => {
                let name = short(&word[1..2]).ok_or_else(|| misuse(&format!("no such option: {word}")))?;
                (name.to_owned(), word.get(2..).filter(|rest| !rest.is_empty()).map(str::to_owned))
            }
            None => {
                order.take(word);
                continue;
            }
        };
        let value = match (SWITCHES.contains(&name.as_str()), said) {
            (true, _) => "true".to_owned(),
            (false, Some(value)) => value,
            (false, None) => words.next().cloned().ok_or_else(|| misuse(&format!("--{name} needs a value")))?,
        };
        // Before anything is to be done, and everywhere in the first version, a flag is about how.
        if !manner.take(&name, &value, order.action.is_empty()) {
            order.fields.insert(name.replace('-', "_"), value);
        }
    }
    if order.action.is_empty() {
        return Err(misuse("what is to be done?"));
    }
    Ok((order, manner))
}

fn short(letter: &str) -> Option<&'static str> {
    Some(match letter {
        "H" => "host",
        "P" => "port",
        "V" => "vhost",
        "u" => "username",
        "p" => "password",
        "U" => "base-uri",
        "q" => "quiet",
        "s" => "ssl",
        "k" => "ssl-insecure",
        "f" => "format",
        "S" => "sort",
        "R" => "sort-reverse",
        "d" => "depth",
        "c" => "config",
        "N" => "node",
        "r" | "t" => "timeout",
        _ => return None,
    })
}

fn misuse(why: &str) -> Failure {
    (FAILED, format!("{USAGE}\n\nrabbitmqadmin: {why}"))
}

impl Manner {
    /// Takes a flag that is about how; `false` if it is about what is to be done.
    fn take(&mut self, name: &str, value: &str, comes_first: bool) -> bool {
        let value = value.to_owned();
        match name {
            "host" | "hostname" => self.host = Some(value),
            "port" => self.port = Some(value),
            "path-prefix" => self.prefix = Some(value),
            "base-uri" => self.target.url = Some(value),
            "vhost" => self.vhost = Some(value),
            "username" if comes_first => self.target.user = Some(value),
            "password" if comes_first => self.target.password = Some(value),
            "config" => self.target.api_config = Some(value.into()),
            "node" if comes_first => self.target.api_section = value,
            "ssl-ca-cert-file" | "tls-ca-cert-file" => self.target.cacert = Some(value.into()),
            "ssl" | "tls" | "use-tls" => self.is_tls = true,
            "quiet" => self.is_quiet = true,
            "format" => self.format = value,
            "sort" => self.sort = Some(value),
            "sort-reverse" => self.is_reversed = true,
            "timeout" | "request-timeout" => self.timeout_s = value.parse().ok(),
            "depth" | "non-interactive" | "table-style" | "ssl-insecure" | "insecure" | "bash-completion" => {}
            _ => return false,
        }
        true
    }
}

impl Order {
    fn take(&mut self, word: &str) {
        let object = OBJECTS.iter().find(|(many, one)| word == *many || word == *one).map(|(_, one)| *one);
        match word.split_once('=') {
            Some((key, value)) => drop(self.fields.insert(key.replace('-', "_"), value.to_owned())),
            None if self.action.is_empty() && ACTIONS.contains(&word) => word.clone_into(&mut self.action),
            None if self.object.is_empty() && self.rest.is_empty() && object.is_some() => {
                self.object = object.unwrap_or_default().to_owned();
            }
            None => self.rest.push(word.to_owned()),
        }
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.fields.get(key).map(String::as_str)
    }

    fn need(&self, key: &str) -> Result<&str, Failure> {
        self.get(key).ok_or_else(|| misuse(&format!("mandatory argument \"{key}\" required")))
    }

    fn truth(&self, key: &str, otherwise: bool) -> Result<bool, Failure> {
        match self.get(key).map(str::to_lowercase).as_deref() {
            None => Ok(otherwise),
            Some("true") => Ok(true),
            Some("false") => Ok(false),
            Some(word) => Err(misuse(&format!("{key} is true or false, not '{word}'"))),
        }
    }

    /// A field that is JSON; `otherwise` if it is not there.
    fn json(&self, key: &str, otherwise: Json) -> Result<Json, Failure> {
        let Some(text) = self.get(key) else { return Ok(otherwise) };
        serde_json::from_str(text).map_err(|_| (FAILED, format!("*** Could not parse JSON:\n  {text}")))
    }
}

struct Admin {
    api: Api,
    manner: Manner,
}

impl Admin {
    fn new(mut manner: Manner) -> Result<Self, Failure> {
        if manner.host.is_some() || manner.port.is_some() || manner.is_tls || manner.prefix.is_some() {
            let (scheme, usual) = if manner.is_tls { ("https", "15671") } else { ("http", "15672") };
            let (host, port) = (manner.host.as_deref().unwrap_or("localhost"), manner.port.as_deref().unwrap_or(usual));
            let prefix = manner.prefix.as_deref().unwrap_or_default().trim_end_matches('/').trim_end_matches("/api");
            manner.target.url = Some(format!("{scheme}://{host}:{port}{prefix}"));
        }
        let variable = |names: [&str; 2]| names.iter().find_map(|name| std::env::var(name).ok());
        let target = &mut manner.target;
        target.url = target.url.take().or_else(|| variable(["RABBITMQADMIN_BASE_URI", "LEVERET_URL"]));
        target.user = target.user.take().or_else(|| variable(["RABBITMQADMIN_USERNAME", "LEVERET_USER"]));
        target.password = target.password.take().or_else(|| variable(["RABBITMQADMIN_PASSWORD", "LEVERET_PASSWORD"]));
        let api = target.resolve().map_err(|why| (FAILED, format!("*** {why}")))?;
        let api = match manner.timeout_s {
            Some(seconds) => api.with_patience(Duration::from_secs(seconds)),
            None => api,
        };
        Ok(Self { api, manner })
    }

    /// The virtual host: of the order, of the command line, or the usual one.
    fn vhost<'a>(&'a self, order: &'a Order) -> &'a str {
        order.get("vhost").or(self.manner.vhost.as_deref()).unwrap_or("/")
    }

    fn call(&self, method: &str, path: &str, body: Option<&Json>) -> Result<Json, Failure> {
        let body = body.map_or(Body::None, Body::Json);
        self.api.call(method, path, body).map_err(|failure| match failure.status() {
            Some(401 | 403) => (FAILED, format!("*** Access refused: /api{path}\n{failure}")),
            Some(404) => (FAILED, format!("*** Not found: /api{path}")),
            Some(_) => (FAILED, format!("*** {failure}")),
            None => (FAILED, format!("*** Could not connect: {failure}")),
        })
    }

    fn said(&self, text: &str) -> Result<String, Failure> {
        Ok(if self.manner.is_quiet { String::new() } else { text.to_owned() })
    }

    fn carry_out(&self, order: &Order) -> Result<String, Failure> {
        match (order.action.as_str(), order.object.as_str()) {
            ("list", "") => Err(misuse("list what?")),
            ("list", object) => self.list(object, order),
            ("show", "overview") => self.overview(order),
            ("declare", object) => self.declare(object, order),
            ("delete", object) => self.delete(object, order),
            ("purge", _) => {
                let name = order.need("name").or_else(|_| order.need("queue"))?;
                let path = format!("/queues/{}/{}/contents", segment(self.vhost(order)), segment(name));
                self.call("DELETE", &path, None)?;
                self.said("queue purged")
            }
            ("close", _) => {
                self.call("DELETE", &format!("/connections/{}", segment(order.need("name")?)), None)?;
                self.said("connection closed")
            }
            ("publish", _) => self.publish(order),
            ("get", _) => self.get(order),
            ("export", _) => self.export(order),
            ("import", _) => self.import(order),
            ("health_check", _) => self.check(order),
            ("version", _) => Ok(version().to_owned()),
            (action, object) => Err(misuse(&format!("can't {action} {object}"))),
        }
    }

    fn list(&self, object: &str, order: &Order) -> Result<String, Failure> {
        let (path, is_of_vhost, columns) = listable(object).ok_or_else(|| misuse(&format!("can't list {object}s")))?;
        let vhost = order.get("vhost").or(self.manner.vhost.as_deref());
        let mut path = match vhost.filter(|_| is_of_vhost) {
            Some(vhost) => format!("{path}/{}", segment(vhost)),
            None => path.to_owned(),
        };
        if let Some(sort) = &self.manner.sort {
            path += &format!("?sort={}&sort_reverse={}", segment(sort), self.manner.is_reversed);
        }
        let items = self.call("GET", &path, None)?;
        let wanted: Vec<&str> = order.rest.iter().flat_map(|word| word.split(',')).collect();
        let columns: Vec<String> = match (wanted.is_empty(), columns.is_empty()) {
            (false, _) => wanted.iter().map(|column| (*column).to_owned()).collect(),
            (true, false) => columns.iter().map(|column| (*column).to_owned()).collect(),
            (true, true) => fields_of(&items),
        };
        Ok(self.written(&items, &columns))
    }

    /// A list in the format that is asked for.
    fn written(&self, items: &Json, columns: &[String]) -> String {
        let rows = Rows::of(items, columns.iter().map(|column| (column.as_str(), column.as_str())));
        let lines = |separator: &str| -> String {
            let line = |row: &Vec<Json>| row.iter().map(plain).collect::<Vec<_>>().join(separator);
            rows.rows.iter().map(line).collect::<Vec<_>>().join("\n")
        };
        match self.manner.format.as_str() {
            "raw_json" => items.to_string(),
            "pretty_json" => format!("{items:#}"),
            "tsv" => format!("{}\n{}", columns.join("\t"), lines("\t")),
            "bash" => rows.rows.iter().filter_map(|row| row.first()).map(plain).collect::<Vec<_>>().join(" "),
            "kvp" => {
                let pairs = |row: &Vec<Json>| {
                    let pairs = columns.iter().zip(row).map(|(name, value)| format!("{name}=\"{}\"", plain(value)));
                    pairs.collect::<Vec<_>>().join(" ")
                };
                rows.rows.iter().map(pairs).collect::<Vec<_>>().join("\n")
            }
            "long" => {
                let width = columns.iter().map(String::len).max().unwrap_or_default();
                let item = |row: &Vec<Json>| {
                    let lines =
                        columns.iter().zip(row).map(|(name, value)| format!("{name:>width$}: {}", plain(value)));
                    lines.collect::<Vec<_>>().join("\n")
                };
                let rule = "-".repeat(80);
                format!(
                    "\n{rule}\n\n{}",
                    rows.rows.iter().map(item).collect::<Vec<_>>().join(&format!("\n\n{rule}\n\n"))
                )
            }
            _ if rows.rows.is_empty() => "No items".to_owned(),
            _ => {
                use std::io::IsTerminal;
                if std::io::stdout().is_terminal() { pretty(&rows, true) } else { ascii(&rows) }
            }
        }
    }

    fn overview(&self, order: &Order) -> Result<String, Failure> {
        let overview = self.call("GET", "/overview", None)?;
        let usual = ["rabbitmq_version", "cluster_name", "queue_totals.messages", "object_totals.queues"];
        let columns: Vec<String> = match order.rest.is_empty() {
            true => usual.map(str::to_owned).to_vec(),
            false => order.rest.clone(),
        };
        Ok(self.written(&json!([overview]), &columns))
    }

    fn declare(&self, object: &str, order: &Order) -> Result<String, Failure> {
        let vhost = segment(self.vhost(order));
        let named = |what: &str| Ok::<_, Failure>(format!("/{what}/{vhost}/{}", segment(order.need("name")?)));
        let (path, fields) = match object {
            "queue" => {
                let mut arguments = order.json("arguments", json!({}))?;
                if let Some(kind) = order.get("queue_type").or(order.get("type")) {
                    arguments["x-queue-type"] = kind.into();
                }
                let (durable, auto_delete) = (order.truth("durable", true)?, order.truth("auto_delete", false)?);
                (named("queues")?, json!({"durable": durable, "auto_delete": auto_delete, "arguments": arguments}))
            }
            "exchange" => (
                named("exchanges")?,
                json!({
                    "type": order.get("type").unwrap_or("direct"),
                    "durable": order.truth("durable", true)?,
                    "auto_delete": order.truth("auto_delete", false)?,
                    "internal": order.truth("internal", false)?,
                    "arguments": order.json("arguments", json!({}))?,
                }),
            ),
            "binding" => {
                let kind = if order.get("destination_type") == Some("exchange") { "e" } else { "q" };
                let (source, destination) = (segment(order.need("source")?), segment(order.need("destination")?));
                let path = format!("/bindings/{vhost}/e/{source}/{kind}/{destination}");
                let key = order.get("routing_key").unwrap_or_default();
                let fields = json!({"routing_key": key, "arguments": order.json("arguments", json!({}))?});
                self.call("POST", &path, Some(&fields))?;
                return self.said("binding declared");
            }
            "vhost" => {
                let mut fields = self.rest_of(order, &["name"]);
                for key in ["tracing", "protected_from_deletion"] {
                    if order.get(key).is_some() {
                        fields.insert(key.to_owned(), order.truth(key, false)?.into());
                    }
                }
                (format!("/vhosts/{}", segment(order.need("name")?)), Json::Object(fields))
            }
            "user" => {
                let mut fields = self.rest_of(order, &["name"]);
                fields.entry("tags").or_insert_with(|| "".into());
                (format!("/users/{}", segment(order.need("name")?)), Json::Object(fields))
            }
            "permission" => {
                let [configure, write, read] = ["configure", "write", "read"].map(|key| order.need(key));
                let fields = json!({"configure": configure?, "write": write?, "read": read?});
                (format!("/permissions/{vhost}/{}", segment(order.need("user")?)), fields)
            }
            "topic_permission" => {
                let [exchange, write, read] = ["exchange", "write", "read"].map(|key| order.need(key));
                let fields = json!({"exchange": exchange?, "write": write?, "read": read?});
                (format!("/topic-permissions/{vhost}/{}", segment(order.need("user")?)), fields)
            }
            "policy" | "operator_policy" => {
                let priority = order.json("priority", json!(0))?;
                let fields = json!({
                    "pattern": order.need("pattern")?,
                    "definition": order.json("definition", Json::Null)?,
                    "priority": priority,
                    "apply-to": order.get("apply_to").unwrap_or("all"),
                });
                (named(if object == "policy" { "policies" } else { "operator-policies" })?, fields)
            }
            "parameter" => {
                let path = format!(
                    "/parameters/{}/{vhost}/{}",
                    segment(order.need("component")?),
                    segment(order.need("name")?)
                );
                (path, json!({"value": order.json("value", Json::Null)?}))
            }
            "global_parameter" => {
                let path = format!("/global-parameters/{}", segment(order.need("name")?));
                (path, json!({"value": order.json("value", Json::Null)?}))
            }
            "vhost_limit" => (named("vhost-limits")?, json!({"value": order.json("value", Json::Null)?})),
            "user_limit" => {
                let path = format!("/user-limits/{}/{}", segment(order.need("user")?), segment(order.need("name")?));
                (path, json!({"value": order.json("value", Json::Null)?}))
            }
            object => return Err(misuse(&format!("can't declare {object}"))),
        };
        self.call("PUT", &path, Some(&fields))?;
        self.said(&format!("{object} declared"))
    }

    /// The fields as they are, but for some.
    fn rest_of(&self, order: &Order, without: &[&str]) -> Map<String, Json> {
        let rest = order.fields.iter().filter(|(key, _)| !without.contains(&key.as_str()));
        rest.map(|(key, value)| (key.clone(), value.as_str().into())).collect()
    }

    fn delete(&self, object: &str, order: &Order) -> Result<String, Failure> {
        let vhost = segment(self.vhost(order));
        let part = |key: &str| order.need(key).map(segment);
        let path = match object {
            "queue" => format!("/queues/{vhost}/{}", part("name")?),
            "exchange" => format!("/exchanges/{vhost}/{}", part("name")?),
            "binding" => {
                let kind = if order.get("destination_type") == Some("exchange") { "e" } else { "q" };
                let key = order.get("properties_key").or(order.get("routing_key")).filter(|key| !key.is_empty());
                let (source, destination) = (part("source")?, part("destination")?);
                format!("/bindings/{vhost}/e/{source}/{kind}/{destination}/{}", key.map_or("~".to_owned(), segment))
            }
            "vhost" => format!("/vhosts/{}", part("name")?),
            "user" => format!("/users/{}", part("name")?),
            "connection" => format!("/connections/{}", part("name")?),
            "permission" => format!("/permissions/{vhost}/{}", part("user")?),
            "topic_permission" => format!("/topic-permissions/{vhost}/{}", part("user")?),
            "policy" => format!("/policies/{vhost}/{}", part("name")?),
            "operator_policy" => format!("/operator-policies/{vhost}/{}", part("name")?),
            "parameter" => format!("/parameters/{}/{vhost}/{}", part("component")?, part("name")?),
            "global_parameter" => format!("/global-parameters/{}", part("name")?),
            "vhost_limit" => format!("/vhost-limits/{vhost}/{}", part("name")?),
            "user_limit" => format!("/user-limits/{}/{}", part("user")?, part("name")?),
            object => return Err(misuse(&format!("can't delete {object}"))),
        };
        match self.call("DELETE", &path, None) {
            Err((_, text)) if text.starts_with("*** Not found") && order.get("idempotently").is_some() => {}
            answer => drop(answer?),
        }
        self.said(&format!("{object} deleted"))
    }

    fn publish(&self, order: &Order) -> Result<String, Failure> {
        let exchange = order.get("exchange").filter(|name| !name.is_empty()).unwrap_or("amq.default");
        let payload = match order.get("payload") {
            Some(payload) => payload.to_owned(),
            None => {
                let mut text = String::new();
                let read = std::io::Read::read_to_string(&mut std::io::stdin(), &mut text);
                read.map_err(|error| (FAILED, format!("*** standard input can't be read: {error}")))?;
                text
            }
        };
        let fields = json!({
            "routing_key": order.need("routing_key")?,
            "properties": order.json("properties", json!({}))?,
            "payload": payload,
            "payload_encoding": order.get("payload_encoding").unwrap_or("string"),
        });
        let path = format!("/exchanges/{}/{}/publish", segment(self.vhost(order)), segment(exchange));
        let routed = self.call("POST", &path, Some(&fields))?["routed"] == true;
        self.said(if routed { "Message published" } else { "Message published but NOT routed" })
    }

    fn get(&self, order: &Order) -> Result<String, Failure> {
        let count: u32 = order.get("count").unwrap_or("1").parse().map_err(|_| misuse("count is a number"))?;
        let ackmode = order.get("ackmode").or(order.get("ack_mode")).unwrap_or("ack_requeue_true");
        let fields = json!({"count": count, "ackmode": ackmode, "encoding": order.get("encoding").unwrap_or("auto")});
        let path = format!("/queues/{}/{}/get", segment(self.vhost(order)), segment(order.need("queue")?));
        let messages = self.call("POST", &path, Some(&fields))?;
        if let (Some(file), Some(message)) = (order.get("payload_file"), messages.get(0)) {
            let payload = at(message, "payload");
            std::fs::write(file, payload.as_str().unwrap_or_default())
                .map_err(|error| (FAILED, format!("*** {file} can't be written: {error}")))?;
            return self.said(&format!("Wrote payload to {file}"));
        }
        let columns =
            ["routing_key", "exchange", "message_count", "payload", "payload_bytes", "payload_encoding", "redelivered"];
        Ok(self.written(&messages, &columns.map(str::to_owned)))
    }

    fn file<'a>(&self, order: &'a Order) -> Result<&'a str, Failure> {
        match (order.get("file"), order.rest.first()) {
            (Some(file), _) => Ok(file),
            (None, Some(file)) => Ok(file),
            (None, None) if order.get("stdin").or(order.get("stdout")).is_some() => Ok("-"),
            (None, None) => Err(misuse("which file?")),
        }
    }

    fn export(&self, order: &Order) -> Result<String, Failure> {
        let (file, vhost) = (self.file(order)?, order.get("vhost").or(self.manner.vhost.as_deref()));
        let is_toml = Path::new(file).extension().is_some_and(|extension| extension == "toml");
        match definitions::export(&self.api, vhost, file, is_toml) {
            Ok(Output::Text(text)) => Ok(text),
            Ok(_) => self.said(&format!("Exported definitions for {} to \"{file}\"", self.api.url())),
            Err(failure) => Err((FAILED, failure.text)),
        }
    }

    fn import(&self, order: &Order) -> Result<String, Failure> {
        let (file, vhost) = (self.file(order)?, order.get("vhost").or(self.manner.vhost.as_deref()));
        let is_toml = Path::new(file).extension().is_some_and(|extension| extension == "toml");
        match definitions::import(&self.api, vhost, file, is_toml) {
            Ok(_) => self.said(&format!("Uploaded definitions from \"{file}\" to {}.", self.api.url())),
            Err(failure) => Err((FAILED, failure.text)),
        }
    }

    /// As the second version asks: `health_check local_alarms`, `health_check port_listener --port 5672`.
    fn check(&self, order: &Order) -> Result<String, Failure> {
        let what = order.rest.first().ok_or_else(|| misuse("check what?"))?.replace('_', "-");
        let path = match (what.as_str(), order.get("port"), order.get("protocol")) {
            ("port-listener", Some(port), _) => format!("{what}/{}", segment(port)),
            ("protocol-listener", _, Some(protocol)) => format!("{what}/{}", segment(protocol)),
            _ => what.clone(),
        };
        match self.api.get(&format!("/health/checks/{path}")) {
            Ok(_) => self.said("health check passed"),
            Err(failure) => Err((exit::UNAVAILABLE, format!("health check failed: {failure}"))),
        }
    }
}

/// Where a list is, whether it can be of one virtual host, and the columns that are shown if nobody says; none: all.
fn listable(object: &str) -> Option<(&'static str, bool, &'static [&'static str])> {
    Some(match object {
        "queue" => ("/queues", true, &["name", "messages"]),
        "exchange" => ("/exchanges", true, &["name", "type"]),
        "binding" => ("/bindings", true, &["source", "destination", "routing_key"]),
        "connection" => ("/connections", false, &["name", "user", "channels"]),
        "channel" => ("/channels", false, &["name", "user"]),
        "consumer" => ("/consumers", true, &["queue.name", "channel_details.name", "consumer_tag"]),
        "user" => ("/users", false, &[]),
        "vhost" => ("/vhosts", false, &["name", "messages"]),
        "permission" => ("/permissions", false, &[]),
        "topic_permission" => ("/topic-permissions", false, &[]),
        "policy" => ("/policies", true, &[]),
        "operator_policy" => ("/operator-policies", true, &[]),
        "parameter" => ("/parameters", false, &[]),
        "global_parameter" => ("/global-parameters", false, &[]),
        "vhost_limit" => ("/vhost-limits", false, &[]),
        "user_limit" => ("/user-limits", false, &[]),
        "node" => ("/nodes", false, &["name", "type", "mem_used"]),
        "feature_flag" => ("/feature-flags", false, &["name", "state"]),
        "deprecated_feature" => ("/deprecated-features", false, &["name", "deprecation_phase"]),
        _ => return None,
    })
}

/// All fields of all items, in the order in which they come.
fn fields_of(items: &Json) -> Vec<String> {
    let mut fields: Vec<String> = Vec::new();
    for name in items.as_array().into_iter().flatten().filter_map(Json::as_object).flat_map(Map::keys) {
        if !fields.contains(name) {
            fields.push(name.clone());
        }
    }
    fields
}

/// A table of plain letters, as the first version draws it.
fn ascii(rows: &Rows) -> String {
    let texts: Vec<Vec<String>> = rows.rows.iter().map(|row| row.iter().map(plain).collect()).collect();
    let width = |at: usize| {
        let cells = texts.iter().map(|row| row[at].chars().count());
        cells.chain([rows.columns[at].chars().count()]).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..rows.columns.len()).map(width).collect();
    let rule: String = widths.iter().map(|width| format!("+{}", "-".repeat(width + 2))).collect::<String>() + "+\n";
    let header: String = rows.columns.iter().zip(&widths).map(|(name, width)| format!("| {name:^width$} ")).collect();
    let mut table = format!("{rule}{header}|\n{rule}");
    for row in &texts {
        let cells: String = row.iter().zip(&widths).map(|(text, width)| format!("| {text:<width$} ")).collect();
        table += &format!("{cells}|\n");
    }
    table + &rule
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(words: &str) -> Order {
        let words: Vec<_> = words.split(' ').map(str::to_owned).collect();
        read(&words).map_err(|(_, text)| text).unwrap().0
    }

    #[test]
    fn both_versions_syntax_says_the_same() {
        let one = order("declare queue name=q durable=true auto_delete=false");
        assert_eq!(one, order("declare queue --name q --durable true --auto-delete=false"));
        assert_eq!(one, order("-q -u u -ppw queues declare --name q --durable true --auto-delete false"));
        assert_eq!((one.action.as_str(), one.object.as_str(), one.get("name")), ("declare", "queue", Some("q")));
        assert_eq!(order("list queues name messages").rest, ["name", "messages"]);
        assert_eq!(order("publish message --routing-key k --payload a=b").get("payload"), Some("a=b"));
        let (one, two) = (order("get queue=q count=2"), order("get messages --queue q --count 2"));
        assert_eq!((one.action, one.fields), (two.action, two.fields));
        assert_eq!(order("definitions export --file d.json").get("file"), Some("d.json"));
        // A user's password is a field, who asks is not.
        let user = order("-u admin users declare --name u --password pw");
        assert_eq!((user.get("password"), user.get("username")), (Some("pw"), None));
    }

    #[test]
    fn what_is_missing_is_said() {
        let read = |words: &str| read(&words.split(' ').map(str::to_owned).collect::<Vec<_>>()).map(drop);
        assert!(read("-q").unwrap_err().1.contains("what is to be done?"));
        assert!(read("-z list queues").unwrap_err().1.contains("no such option: -z"));
        assert!(order("declare queue").need("name").unwrap_err().1.contains("mandatory argument \"name\" required"));
    }

    #[test]
    fn tables_are_drawn_as_the_first_version_draws_them() {
        let rows = Rows::of(&json!([{"name": "queue", "messages": 5}]), [("name", "name"), ("messages", "messages")]);
        let table = "+-------+----------+\n| name  | messages |\n+-------+----------+\n| queue | 5        |\n+-------+----------+\n";
        assert_eq!(ascii(&rows), table);
    }
}
